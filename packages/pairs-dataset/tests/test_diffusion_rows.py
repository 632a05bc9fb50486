"""Pairs `diffusion` of rows: what the second view is, how often, and what alpha 0 is bit-equal to."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader

from semaug.artifacts.augment_table import AugmentTable, augment_columns
from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.schemas import Manifest, augment_row
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.tables import Table
from semaug.pairs_dataset.sources.diffusion import REAL, PositiveUse
from semaug.pairs_dataset.sources.diffusion_rows import DiffusionRowPairs
from semaug.pairs_dataset.sources.rows import RowPairs, collate_rows

COUNT, K = 7, 3


class Noisy:
    """Rows and noise that depends on all arguments."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def hand(self, indices, *, seed, epoch, view):
        noise = [np.random.default_rng([seed % 2**32, epoch, view, i]).random(2) for i in indices.tolist()]
        return torch.from_numpy(self.table.rows(indices) + 0.1 * np.array(noise, np.float32))


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.of(np.stack([np.arange(COUNT), np.arange(COUNT)], 1) * 10.0)


def write_positives(path, table, skip=(), width=2, images=False) -> AugmentTable:
    """Positive j of row i is 10 i + j + 1 in every column."""
    kept = [i for i in range(len(table)) if i not in skip]
    manifest = Manifest(
        kind="augment", items=len(kept) * K, shard_size=2 * K, inputs={"source": table.fingerprint},
        config={"k": K, "form": "images" if images else "rows", "shape": [width], "class_names": []},
    )  # fmt: skip
    with ArtifactWriter.open(path, manifest) as writer:
        for shard in writer.pending():
            places = [divmod(p, K) for p in manifest.shard_range(shard)]
            rows = [augment_row(0, table.key(kept[i]), j) for i, j in places]
            shape = (len(rows), 8, 8, 3) if images else (len(rows), width)
            values = np.zeros(shape, np.uint8 if images else np.float32)
            for row, (i, j) in enumerate(places):
                values[row] = 10 * kept[i] + j + 1
            writer.write(shard, augment_columns(rows, values, [None] * len(rows)))
        writer.finish()
    return AugmentTable.open(path)


@pytest.fixture(scope="module")
def positives(table, tmp_path_factory) -> AugmentTable:
    return write_positives(tmp_path_factory.mktemp("rows") / "augment.zarr", table)


def build(table, positives, usage="drawn", alpha=1.0, seed=0):
    return DiffusionRowPairs(table, Noisy(table), positives, PositiveUse(K, usage, alpha), seed=seed)


def test_the_second_view_is_a_positive_of_the_same_row(table, positives) -> None:
    pairs, plain = build(table, positives), RowPairs(table, Noisy(table), seed=0)
    for epoch in (0, 4):
        pairs.set_epoch(epoch)
        plain.set_epoch(epoch)
        for item in range(COUNT):
            first, second, index = pairs[item]
            assert index == item
            assert torch.equal(first, plain[item][0])
            assert second.tolist() == [10 * item + pairs.number(item) + 1] * 2


def test_positives_are_drawn_uniformly_and_with_probability_alpha(table, positives) -> None:
    pairs, half, counts, made = build(table, positives), build(table, positives, alpha=0.4), Counter(), 0
    for epoch in range(300):
        pairs.set_epoch(epoch)
        half.set_epoch(epoch)
        for item in range(COUNT):
            counts[pairs.number(item)] += 1
            made += half.number(item) != REAL
            assert half.number(item) in (REAL, pairs.number(item))
    assert stats.chisquare([counts[j] for j in range(K)]).pvalue > 1e-3
    assert stats.binomtest(made, 300 * COUNT, 0.4).pvalue > 1e-3


def test_alpha_0_is_plain_training_bit_for_bit(table, positives) -> None:
    pairs, plain = build(table, positives, alpha=0.0, seed=2), RowPairs(table, Noisy(table), seed=2)
    many = build(table, positives, "enlarged", alpha=0.0, seed=2)
    assert (len(pairs), len(many)) == (COUNT, K * COUNT)
    for item in range(COUNT):
        assert all(torch.equal(a, b) for a, b in zip(pairs[item][:2], plain[item][:2], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(many[item][:2], plain[item][:2], strict=True))
        assert not torch.equal(many[item + COUNT][0], plain[item][0])


def test_the_enlarged_set_shows_every_positive_once_an_epoch(table, positives) -> None:
    pairs = build(table, positives, "enlarged")
    shown = Counter((pairs[i][2], int(pairs[i][1][0])) for i in range(len(pairs)))
    assert shown == Counter((i, 10 * i + j + 1) for i in range(COUNT) for j in range(K))


@pytest.mark.parametrize(("usage", "alpha"), [("drawn", 0.5), ("enlarged", 0.7)])
def test_batches_and_pickles_make_the_views_of_single_items(table, positives, usage, alpha) -> None:
    pairs = build(table, positives, usage, alpha)
    pairs.set_epoch(1)
    singles = [pairs[i] for i in range(len(pairs))]
    again = pickle.loads(pickle.dumps(pairs))
    assert all(torch.equal(again[i][v], singles[i][v]) for i in range(len(pairs)) for v in (0, 1))
    loader = DataLoader(pairs, batch_size=4, collate_fn=collate_rows)
    joined = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    for column in (0, 1):
        assert torch.equal(joined[column], torch.stack([s[column] for s in singles]))
    assert joined[2].tolist() == [s[2] for s in singles]


def test_rows_without_positives_are_left_out(table, tmp_path) -> None:
    pairs = build(table, write_positives(tmp_path / "some.zarr", table, skip=(0, 4)))
    assert [pairs[i][2] for i in range(len(pairs))] == [1, 2, 3, 5, 6]
    assert [int(pairs[i][1][0]) // 10 for i in range(len(pairs))] == [1, 2, 3, 5, 6]


def test_what_does_not_fit_is_refused_in_one_line(table, positives, tmp_path) -> None:
    with pytest.raises(InvalidOption, match="'mixed' need augmented views"):
        build(table, positives, "mixed")
    with pytest.raises(ArtifactError, match="were generated of data"):
        build(Table.of(np.ones((3, 2))), positives)
    with pytest.raises(InvalidOption, match="holds rows of 3 columns"):
        build(table, write_positives(tmp_path / "wide.zarr", table, width=3))
    with pytest.raises(ArtifactError, match="the positives are images and rows are needed"):
        build(table, write_positives(tmp_path / "images.zarr", table, images=True))


def test_a_run_records_the_positives(table, positives) -> None:
    pairs = build(table, positives, "enlarged", 0.5)
    assert pairs.inputs() == {"source": table.fingerprint, "augment": positives.digest}
    assert {k: pairs.config[k] for k in ("pairs", "positives", "alpha", "k")} == {
        "pairs": "diffusion", "positives": "enlarged", "alpha": 0.5, "k": K
    }  # fmt: skip
