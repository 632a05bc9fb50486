"""Neighbour mixing: the graph against scikit-learn, mixtures against the equation, draws that depend on keys alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from semaug.artifacts.draws import draw_key, uniform
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.tables import Table, open_table
from semaug.diffaug_core import neighbours as module
from semaug.diffaug_core.neighbours import NeighbourMixing, NeighbourSettings, nearest_rows, row_hashes
from semaug.diffaug_core.samples import Samples
from semaug.diffaug_core.table_samples import TableSamples


def rows_of(count, width, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("block", [1 << 23, 500])
def test_neighbours_are_those_of_scikit_learn(monkeypatch, block):
    from sklearn.neighbors import NearestNeighbors

    monkeypatch.setattr(module, "_BLOCK_CELLS", block)
    rows = rows_of(300, 12) + 50  # far from the origin
    expected = NearestNeighbors(n_neighbors=8, algorithm="brute").fit(rows.astype(np.float64)).kneighbors()[1][:, :7]
    assert np.array_equal(nearest_rows(rows, NeighbourSettings(7, None)), expected)


def test_neighbours_among_principal_components():
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    rows = rows_of(200, 30) * np.linspace(4, 0.1, 30, dtype=np.float32)
    scores = PCA(4, svd_solver="full").fit_transform(rows.astype(np.float64))
    expected = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(scores).kneighbors()[1]
    assert np.array_equal(nearest_rows(rows, NeighbourSettings(5, 4)), expected)


def test_fewer_columns_than_components_are_taken_as_they_are():
    rows = rows_of(60, 8)
    assert np.array_equal(nearest_rows(rows, NeighbourSettings(5, 50)), nearest_rows(rows, NeighbourSettings(5, None)))


def test_a_row_that_occurs_twice_has_its_copy_as_neighbour():
    rows = rows_of(20, 5)
    rows[7] = rows[3]
    found = nearest_rows(rows, NeighbourSettings(2))
    assert (found[7, 0], found[3, 0]) == (3, 7)
    assert not (found == np.arange(20)[:, None]).any()


def test_not_more_neighbours_than_other_rows():
    assert nearest_rows(rows_of(4, 3), NeighbourSettings(3)).shape == (4, 3)
    with pytest.raises(InvalidOption, match="5 neighbours among 5 rows; give at most 4, or more rows"):
        nearest_rows(rows_of(5, 3))
    for settings in ({"count": 0}, {"components": 0}):
        with pytest.raises(InvalidOption, match="at least 1"):
            NeighbourSettings(**settings)


@pytest.mark.slow
def test_approximate_neighbours_of_many_rows(monkeypatch):
    pytest.importorskip("pynndescent")
    rows = rows_of(2000, 10)
    exact = nearest_rows(rows, NeighbourSettings(5, None))
    monkeypatch.setattr(module, "EXACT_ROWS", 100)
    found = nearest_rows(rows, NeighbourSettings(5, None))
    assert found.shape == exact.shape
    assert not (found == np.arange(2000)[:, None]).any()
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]) > 0.9


def test_mixtures_against_the_equation():
    rows, keys = rows_of(30, 6), [f"cell{i}" for i in range(30)]
    table = Table.of(rows, keys=keys)
    samples = TableSamples(table, NeighbourSettings(4, None))
    indices = np.array([3, 17, 3, 29])
    found = samples.hand(indices, seed=5, epoch=2, view=1).numpy()
    for row, index in zip(found, indices, strict=True):
        draw = int(row_hashes([keys[index]])[0]) ^ draw_key(5, "neighbour-mixing", 2, "", view=1)
        u, other = uniform(draw, 0), samples.mixing.neighbours[index, int(4 * uniform(draw, 1))]
        expected = rows[index].astype(np.float64) * u + rows[other].astype(np.float64) * (1 - u)
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_draws_depend_on_the_keys_and_not_on_order_or_batch():
    rows, keys = rows_of(40, 3), [f"cell{i}" for i in range(40)]
    samples = TableSamples(Table.of(rows, keys=keys), NeighbourSettings(3, None))
    together = samples.hand(np.arange(40), seed=0, epoch=1, view=0)
    alone = torch.cat([samples.hand(np.array([i]), seed=0, epoch=1, view=0) for i in range(40)])
    assert torch.equal(together, alone)
    order = np.random.default_rng(1).permutation(40)
    shuffled = TableSamples(Table.of(rows, keys=keys).take(order), NeighbourSettings(3, None))
    assert torch.equal(shuffled.hand(np.arange(40), seed=0, epoch=1, view=0), together[torch.from_numpy(order)])
    for change in ({"seed": 1}, {"epoch": 2}, {"view": 1}):
        other = samples.hand(np.arange(40), **({"seed": 0, "epoch": 1, "view": 0} | change))
        assert not np.isclose(other, together).any(axis=1).all()


def test_shares_are_uniform_and_neighbours_equally_likely_and_views_independent():
    mixing = NeighbourMixing(rows_of(1, 2), np.zeros((1, 5), np.int32), row_hashes(["only"]))
    draws = np.stack([
        np.concatenate([mixing.draws(np.array([0]), seed=0, epoch=e, view=v)[0] for v in range(2)]) for e in range(4000)
    ])  # fmt: skip
    assert stats.kstest(draws[:, 0], "uniform").pvalue > 0.001
    assert stats.chisquare(np.bincount((draws[:, 1] * 5).astype(int), minlength=5)).pvalue > 0.001
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.06


@given(st.integers(0, 2**31), st.integers(0, 50), st.integers(0, 3))
def test_a_mixture_lies_between_its_two_rows(seed, epoch, view):
    rows = rows_of(12, 4)
    mixing = NeighbourMixing(
        rows, nearest_rows(rows, NeighbourSettings(2, None)), row_hashes([str(i) for i in range(12)])
    )
    found = mixing.mix(np.arange(12), seed=seed, epoch=epoch, view=view)
    between = [
        any(
            np.all(found[i] >= np.minimum(rows[i], rows[j]) - 1e-5)
            and np.all(found[i] <= np.maximum(rows[i], rows[j]) + 1e-5)
            for j in mixing.neighbours[i]
        )
        for i in range(12)
    ]
    assert all(between)


def test_the_rows_themselves_are_left_as_they_are():
    rows = rows_of(20, 4)
    samples = TableSamples(Table.of(rows.copy()), NeighbourSettings(3))
    samples.hand(np.arange(20), seed=0, epoch=0, view=0)
    assert np.array_equal(samples.clean(np.arange(20)).numpy(), rows)


def test_neighbours_are_kept_in_a_folder_and_found_again(tmp_path, monkeypatch):
    table = Table.of(rows_of(25, 4))
    first = TableSamples(table, NeighbourSettings(3), cache=tmp_path / "kept").mixing.neighbours
    (file,) = (tmp_path / "kept").iterdir()
    monkeypatch.setattr(module, "nearest_rows", lambda *_: pytest.fail("found anew"))
    assert np.array_equal(TableSamples(table, NeighbourSettings(3), cache=tmp_path / "kept").mixing.neighbours, first)
    monkeypatch.undo()
    file.write_bytes(b"damaged")
    assert np.array_equal(TableSamples(table, NeighbourSettings(3), cache=tmp_path / "kept").mixing.neighbours, first)
    TableSamples(table, NeighbourSettings(2), cache=tmp_path / "kept").mixing  # noqa: B018
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_neighbours_are_found_within_the_training_rows_and_share_their_class():
    pytest.importorskip("scanpy")
    train = open_table("scanpy:pbmc68k_reduced?split=train")
    samples: Samples = TableSamples(train)
    assert (len(samples), samples.shape) == (560, (765,))
    found = samples.mixing.neighbours
    assert found.max() < 560
    assert (train.labels[found] == train.labels[:, None]).mean() > 0.6  # a class drawn at random: 0.19
