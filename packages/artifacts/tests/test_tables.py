"""Tables: every format against the array it was written from, steps against numpy in float64, refusals."""

import csv
import gzip
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption, SourceError
from semaug.artifacts.sources import open_source
from semaug.artifacts.tables import (
    STEPS,
    Table,
    TableSource,
    is_table,
    open_table,
    principal_components,
    require_classes,
    require_same_features,
)
from semaug.artifacts.tables import pca as pca_module
from semaug.artifacts.tables import raw as raw_module

ROWS, COLUMNS = 40, 6
NAMES = [f"gene{i}" for i in range(COLUMNS)]
KEYS = [f"cell{i:02d}" for i in range(ROWS)]
KINDS = np.array(["T cell", "B cell", "NK", "T cell"] * 10, dtype=object)


@pytest.fixture
def counts():
    values = np.random.default_rng(0).poisson(2.0, (ROWS, COLUMNS)).astype(np.float32)
    values[:, 0] += np.arange(ROWS) % 5
    return values


def write_csv(path, header, rows, delimiter=","):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


@pytest.fixture
def cells(tmp_path, counts):
    rows = [[key, *row.tolist(), kind] for key, row, kind in zip(KEYS, counts, KINDS, strict=True)]
    return write_csv(tmp_path / "cells.csv", ["", *NAMES, "kind"], rows)


def write_h5ad(path, counts, **changes):
    anndata = pytest.importorskip("anndata")
    sparse = pytest.importorskip("scipy.sparse")
    import pandas

    adata = anndata.AnnData(
        X=sparse.csr_matrix(counts),
        obs=pandas.DataFrame({"kind": pandas.Categorical(KINDS), "depth": counts.sum(axis=1)}, index=KEYS),
        var=pandas.DataFrame(index=NAMES),
    )
    adata.layers["halved"] = sparse.csc_matrix(counts / 2)
    adata.obsm["X_pca"] = counts[:, :3] * 3
    adata.raw = adata
    adata.X = changes.get("X", adata.X)
    adata.write_h5ad(path)
    return path


def test_a_csv_of_cells(cells, counts):
    table = open_table(f"{cells}?label=kind")
    assert isinstance(table, TableSource)
    assert (table.keys, table.feature_names) == (tuple(KEYS), tuple(NAMES))
    assert np.array_equal(table.features, counts)
    assert table.class_names == ("B cell", "NK", "T cell")
    assert [table.class_names[v] for v in table.labels] == KINDS.tolist()
    assert (table.key(3), table.label(2)) == ("cell03", 1)
    assert np.array_equal(table.rows([5, 1]), counts[[5, 1]])


@pytest.mark.parametrize("name", ["cells.tsv", "cells.csv.gz", "cells.parquet", "cells.npy", "cells.h5ad"])
def test_the_same_rows_in_every_format(tmp_path, counts, name):
    path = tmp_path / name
    if name.endswith(".h5ad"):
        write_h5ad(path, counts)
    elif name.endswith(".npy"):
        np.save(path, counts.astype(np.float64))
        np.save(tmp_path / "cells_labels.npy", np.unique(KINDS.astype(str), return_inverse=True)[1])
    elif name.endswith(".parquet"):
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {"key": KEYS, **{n: counts[:, i] for i, n in enumerate(NAMES)}, "kind": KINDS.tolist()}
        parquet.write_table(arrow.table(columns), path, row_group_size=7)
    else:
        rows = [[key, *row.tolist(), kind] for key, row, kind in zip(KEYS, counts, KINDS, strict=True)]
        write_csv(path, ["key", *NAMES, "kind"], rows, "\t" if ".tsv" in name else ",")
    table = open_table(f"{path}" if name.endswith(".npy") else f"{path}?label=kind")
    assert np.array_equal(table.features, counts)
    assert table.labels.tolist() == np.unique(KINDS.astype(str), return_inverse=True)[1].tolist()
    if not name.endswith(".npy"):
        assert (table.keys, table.feature_names) == (tuple(KEYS), tuple(NAMES))
        assert table.class_names == ("B cell", "NK", "T cell")


def test_matrices_of_an_anndata_file(tmp_path, counts):
    path = write_h5ad(tmp_path / "cells.h5ad", counts, X=counts * 10)
    assert np.array_equal(open_table(str(path)).features, counts * 10)
    assert np.array_equal(open_table(f"{path}?layer=raw").features, counts)
    assert np.array_equal(open_table(f"{path}?layer=halved").features, counts / 2)
    scores = open_table(f"{path}?obsm=X_pca")
    assert np.array_equal(scores.features, counts[:, :3] * 3)
    assert scores.feature_names == ("X_pca_1", "X_pca_2", "X_pca_3")
    with pytest.raises(SourceError, match=r"no layers\['lognorm'\]; it has 'halved'"):
        open_table(f"{path}?layer=lognorm")
    with pytest.raises(SourceError, match="no column 'celltype' that describes rows; it has 'depth', 'kind'"):
        open_table(f"{path}?label=celltype")
    with pytest.raises(SourceError, match="'depth' holds fractions such as"):
        open_table(f"{write_h5ad(tmp_path / 'b.h5ad', counts + 0.25)}?label=depth")


def test_sparse_rows_are_read_block_by_block(tmp_path, counts, monkeypatch):
    path = write_h5ad(tmp_path / "cells.h5ad", counts)
    whole = open_table(f"{path}?steps=counts,log1p,pca:2&nonzero=3")
    seen = []
    from semaug.artifacts.tables import h5ad

    def watched(*args):
        seen.append(args[-1] - args[-2])
        return read_rows(*args)

    read_rows = h5ad.read_rows
    monkeypatch.setattr(h5ad, "read_rows", watched)
    monkeypatch.setattr(raw_module, "BLOCK_BYTES", 4 * COLUMNS * 7)
    again = open_table(f"{path}?steps=counts,log1p,pca:2&nonzero=3")
    assert max(seen) == 7
    np.testing.assert_allclose(again.features, whole.features, atol=1e-5)


def test_steps_against_numpy(cells, counts):
    wide = counts.astype(np.float64)
    logs = np.log1p(wide / wide.sum(axis=1, keepdims=True) * 10_000)
    spread = (logs - logs.mean(axis=0)) / logs.std(axis=0)
    left, values, right = np.linalg.svd(spread - spread.mean(axis=0), full_matrices=False)
    scores = left[:, :3] * values[:3] * np.sign(right[np.arange(3), np.abs(right[:3]).argmax(axis=1)])
    open_with = lambda steps: open_table(f"{cells}?obs=kind&steps={steps}")  # noqa: E731
    np.testing.assert_allclose(open_with("counts,log1p").features, logs, rtol=1e-5)
    np.testing.assert_allclose(open_with("counts,log1p,standardise").features, spread, atol=1e-5)
    table = open_with("counts,log1p,standardise,pca:3")
    np.testing.assert_allclose(table.features, scores, atol=1e-4)
    assert table.steps == ("counts:10000", "log1p", "standardise", "pca:3")
    assert table.feature_names == ("pc1", "pc2", "pc3")
    low, high = wide.min(axis=0), wide.max(axis=0)
    np.testing.assert_allclose(open_with("range").features, 2 * (wide - low) / (high - low) - 1, atol=1e-6)
    np.testing.assert_allclose(open_with("unit").features, (wide - wide.min()) / (wide.max() - wide.min()), atol=1e-6)
    np.testing.assert_allclose(open_with("divide").features, wide / 8)


def test_components_of_many_columns(monkeypatch):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((90, 5)) @ rng.standard_normal((5, 60)) * 4 + rng.standard_normal((90, 60)) * 0.01 + 3
    rows = rows.astype(np.float32)
    blocks = lambda: iter((rows[:40], rows[40:]))  # noqa: E731
    exact = principal_components(blocks, 4)
    monkeypatch.setattr(pca_module, "EXACT_COLUMNS", 10)
    drawn = principal_components(blocks, 4)
    np.testing.assert_allclose(drawn.axes, exact.axes, atol=1e-4)
    np.testing.assert_allclose(drawn.variance, exact.variance, rtol=1e-4)
    np.testing.assert_allclose(exact.apply(rows).var(axis=0, ddof=1), exact.variance, rtol=1e-4)
    with pytest.raises(InvalidOption, match="pca:61 of 90 rows and 60 columns; give a number of components from 1"):
        principal_components(blocks, 61)


def test_a_split_is_drawn_once_and_steps_are_fitted_on_its_training_rows(cells, counts):
    spec = f"{cells}?label=kind&steps=standardise&split="
    train, test = open_table(spec + "train"), open_table(spec + "test")
    assert (len(train), len(test)) == (32, 8)
    assert sorted(train.keys + test.keys) == sorted(KEYS)
    assert train.class_names == test.class_names
    rows = [KEYS.index(key) for key in train.keys]
    wide = counts.astype(np.float64)
    mean, spread = wide[rows].mean(axis=0), wide[rows].std(axis=0)
    np.testing.assert_allclose(train.features, (wide[rows] - mean) / spread, atol=1e-5)
    others = [KEYS.index(key) for key in test.keys]
    np.testing.assert_allclose(test.features, (wide[others] - mean) / spread, atol=1e-5)
    assert open_table(spec + "train").keys == train.keys
    assert open_table(spec + "train&seed=1").keys != train.keys


def test_steps_may_be_fitted_on_another_file(tmp_path, counts):
    for name, part in (("train", counts[:30]), ("test", counts[30:]), ("narrow", counts[:, :5])):
        write_csv(tmp_path / f"{name}.csv", NAMES[: part.shape[1]], part.tolist())
    test = open_table(f"{tmp_path}/test.csv?steps=standardise&fit={tmp_path}/train.csv")
    wide = counts.astype(np.float64)
    np.testing.assert_allclose(test.features, (wide[30:] - wide[:30].mean(axis=0)) / wide[:30].std(axis=0), atol=1e-5)
    with pytest.raises(SourceError, match=r"has 6 columns and .*narrow\.csv 5: it has 'gene5' besides"):
        open_table(f"{tmp_path}/test.csv?steps=standardise&fit={tmp_path}/narrow.csv")


def test_small_classes_and_rare_columns_are_left_out(cells, counts):
    table = open_table(f"{cells}?label=kind&min_class=15")
    assert table.class_names == ("T cell",)
    assert len(table) == 20
    assert set(table.labels) == {0}
    kept = open_table(f"{cells}?obs=kind&nonzero=36")
    assert kept.feature_names == tuple(np.array(NAMES)[(counts != 0).sum(axis=0) > 36])
    assert open_table(f"{cells}?obs=kind&features=gene4,gene1").feature_names == ("gene1", "gene4")
    with pytest.raises(SourceError, match="largest class has 20 rows and min_class=21"):
        open_table(f"{cells}?label=kind&min_class=21")
    with pytest.raises(SourceError, match="no column 'geneX'"):
        open_table(f"{cells}?obs=kind&features=geneX")


def test_constant_columns_are_named_and_dropped_on_request(tmp_path, counts):
    counts[:, 2] = 7
    write_csv(tmp_path / "flat.csv", NAMES, counts.tolist())
    table = open_table(str(tmp_path / "flat.csv"))
    assert table.notes == ("1 columns are constant: 'gene2'; step varying drops them",)
    assert len(table.feature_names) == COLUMNS
    with pytest.raises(SourceError, match=r"constant on the training rows \('gene2'\) and step standardise"):
        open_table(f"{tmp_path}/flat.csv?steps=standardise")
    dropped = open_table(f"{tmp_path}/flat.csv?steps=varying,standardise")
    assert "gene2" not in dropped.feature_names
    np.testing.assert_allclose(dropped.features.std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(("value", "steps", "message"), [
    ("nan", "", "row 'cell01' has nan in column 'gene2'.*steps=fill"),
    ("inf", "", "row 'cell01' has inf in column 'gene2'"),
    ("-1", "log1p", "column 'gene2' holds -1 and step log1p takes counts of 0 and more"),
    ("-1", "counts,log1p", "holds -1 and step counts"),
    ("", "", "row 'cell01' has nan"),
    ("many", "", r"cannot read .*many.*name columns of text in obs="),
])  # fmt: skip
def test_values_that_are_refused(tmp_path, counts, value, steps, message):
    rows = [[key, *row.tolist()] for key, row in zip(KEYS, counts, strict=True)]
    rows[1][3] = value
    path = write_csv(tmp_path / "bad.csv", ["key", *NAMES], rows)
    with pytest.raises(SourceError, match=message):
        open_table(f"{path}?steps={steps}" if steps else str(path))


def test_missing_values_are_filled_by_the_least_of_their_column(tmp_path, counts):
    rows = counts.tolist()
    rows[4][1] = rows[9][5] = ""
    table = open_table(f"{write_csv(tmp_path / 'holes.csv', NAMES, rows)}?steps=fill")
    expected = counts.copy()
    expected[4, 1] = np.delete(counts[:, 1], 4).min()
    expected[9, 5] = np.delete(counts[:, 5], 9).min()
    assert np.array_equal(table.features, expected)


@pytest.mark.parametrize(("header", "rows", "message"), [
    (["a", "b"], [["1", "x"]], r"1 columns hold text \('b'; 'x' for one\); name them in obs="),
    (["a", "a"], [[1, 2]], "1 column names occur twice"),
    (["key", "a"], [["c", 1], ["c", 2]], "1 row names occur twice .'c'.; rename them, say by `adata.obs_names"),
    (["a"], [], "holds no rows"),
    (["1", "2"], [[3, 4]], r"begins with numbers .*add a header"),
    (["a", "b"], [[1, 2, 3]], "row 1 has 3 cells and the header 2"),
])  # fmt: skip
def test_text_tables_that_are_refused(tmp_path, header, rows, message):
    with pytest.raises(SourceError, match=message):
        open_table(str(write_csv(tmp_path / "bad.csv", header, rows)))


def test_damage_far_down_in_a_text_table_is_named(tmp_path):
    lines = "\n".join(f"{i},t" for i in np.random.default_rng(0).integers(1 << 60, size=9000)).encode()
    (tmp_path / "latin.csv").write_bytes(b"a,kind\n" + lines + b"\n1,caf\xe9\n")
    whole = gzip.compress(b"a,kind\n" + lines)
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    for name, found in (("latin.csv", "can't decode byte 0xe9"), ("cut.csv.gz", "cannot read")):
        with pytest.raises(SourceError, match=found):
            open_table(f"{tmp_path / name}?label=kind")


def test_arrays_that_are_refused(tmp_path):
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "few.npy", np.zeros((3, 2)))
    np.save(tmp_path / "few_labels.npy", np.zeros(2))
    (tmp_path / "empty.npy").write_bytes(b"")
    for name, message in (
        ("cube", "a table is a matrix"), ("objects", "cannot read"), ("empty", "cannot read"),
        ("few", r"labels of shape \(2,\) for 3 rows"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match=message):
            open_table(str(tmp_path / f"{name}.npy"))


@pytest.mark.parametrize(("spec", "message"), [
    ("nowhere.h5ad", "is no file; give a table"),
    ("{cells}?labell=kind", "did you mean 'label'"),
    ("{cells}?obs=kind&layer=raw", "layer=raw is nothing that .csv"),
    ("{cells}?obs=kind&steps=lop1p", "unknown step 'lop1p'; did you mean 'log1p'"),
    ("{cells}?obs=kind&steps=log1p:3", "takes no number"),
    ("{cells}?obs=kind&steps=pca:0", "is not above 0"),
    ("{cells}?obs=kind&steps=pca:7", "pca:7 of 40 rows and 6 columns"),
    ("{cells}?obs=kind&split=val", "split 'val' is not known"),
    ("{cells}?obs=kind&split=train&share=2", "between 0 and 1"),
    ("{cells}?obs=kind&root=/", "root= is for the recipes"),
    ("{cells}?obs=kind&min_class=3", "needs classes"),
    ("scanpy:pbmc3k", "brings 'pbmc68k_reduced' alone"),
    ("sklearn:faces", "choose one of digits"),
])  # fmt: skip
def test_specs_that_are_refused(cells, spec, message):
    with pytest.raises((SourceError, InvalidOption), match=message):
        open_table(spec.format(cells=cells))


def test_real_cells_of_scanpy():
    pytest.importorskip("scanpy")
    table = open_table("scanpy:pbmc68k_reduced")
    assert table.features.shape == (700, 765)
    assert len(table.class_names) == 10
    assert np.bincount(table.labels).max() == 240
    logs = open_table("scanpy:pbmc68k_reduced?layer=raw&label=louvain")
    assert logs.keys == table.keys
    assert logs.features.min() == 0
    assert table.fingerprint != logs.fingerprint


def test_digits_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    table = open_table("sklearn:digits")
    assert np.array_equal(table.features, datasets.load_digits().data)
    assert np.array_equal(table.labels, datasets.load_digits().target)


def test_the_fingerprint_is_of_keys_and_rows(counts):
    table = Table.of(counts, keys=KEYS)
    order = np.random.default_rng(0).permutation(ROWS)
    assert table.take(order).fingerprint == table.fingerprint
    assert Table.of(counts, keys=KEYS, labels=[0] * ROWS).fingerprint == table.fingerprint
    changed = counts.copy()
    changed[3, 3] += 1
    assert Table.of(changed, keys=KEYS).fingerprint != table.fingerprint
    assert Table.of(counts, keys=[*KEYS[1:], "other"]).fingerprint != table.fingerprint
    assert pickle.loads(pickle.dumps(table)).fingerprint == table.fingerprint


def test_columns_of_two_tables():
    require_same_features(("a", "b"), ("a", "b"), "train", "test")
    with pytest.raises(SourceError, match="in another order"):
        require_same_features(("a", "b"), ("b", "a"), "train", "test")
    with pytest.raises(SourceError, match="test has 1 columns and train 2: it lacks 'b'"):
        require_same_features(("a", "b"), ("a",), "train", "test")


def test_classes_where_classes_are_needed(counts):
    with pytest.raises(SourceError, match="has no labels and the probe needs two"):
        require_classes("cells", Table.of(counts).labels, "the probe")
    with pytest.raises(SourceError, match="has one class only"):
        require_classes("cells", np.zeros(3, np.int64), "the probe")


def test_a_table_is_no_source_of_images():
    for spec in ("scanpy:pbmc68k_reduced?split=train", "hcl?root=/data"):
        with pytest.raises(SourceError, match="is a table of numbers, and images are needed here"):
            open_source(spec)


def test_which_specs_are_tables():
    for spec in ("cells.h5ad", "a.npy", "scanpy:pbmc68k_reduced", "hcl?root=/data", "table:a.csv", "x.tsv.gz?obs=a"):
        assert is_table(spec), spec
    for spec in ("photos", "list.csv", "list.parquet", "scenes:train", "torchvision:CIFAR10"):
        assert not is_table(spec), spec


@given(st.lists(st.sampled_from([n for n in STEPS if n not in ("pca", "counts", "log1p", "fill")]), max_size=4))
def test_any_order_of_steps_gives_finite_rows_of_the_named_columns(steps):
    from semaug.artifacts.tables.prepare import Preparation, prepare
    from semaug.artifacts.tables.raw import RawTable

    rows = np.random.default_rng(3).standard_normal((20, 4)).astype(np.float32)
    raw = RawTable("rows", KEYS[:20], NAMES[:4], lambda a, b: rows[a:b])
    table = prepare("rows", raw, Preparation(steps=",".join(steps)))
    assert table.features.shape == (20, len(table.feature_names))
    assert np.isfinite(table.features).all()
    assert len(table.steps) == len(steps)
