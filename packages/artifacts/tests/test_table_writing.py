"""Embeddings handed back: to AnnData files, where the rest of the file stays as it was, and to plain tables."""

import csv
import shutil

import numpy as np
import pytest

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption, OutputError, SourceError
from semaug.artifacts.files import hash_file
from semaug.artifacts.tables import open_table, table_file, write_embedding, write_embeddings
from semaug.artifacts.tables import writing as module

anndata = pytest.importorskip("anndata")
KEYS = [f"cell{i}" for i in range(12)]


@pytest.fixture
def cells(tmp_path):
    import pandas
    from scipy.sparse import csr_matrix

    counts = np.random.default_rng(0).poisson(1.0, (12, 5)).astype(np.float32)
    adata = anndata.AnnData(
        X=csr_matrix(counts), obs=pandas.DataFrame({"kind": pandas.Categorical(["a", "b"] * 6)}, index=KEYS),
        var=pandas.DataFrame(index=[f"g{i}" for i in range(5)]),
    )  # fmt: skip
    adata.layers["twice"], adata.obsm["X_pca"] = counts * 2, counts[:, :2]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def embedding(rows, width=2, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def test_an_embedding_stands_beside_what_the_file_held(cells, tmp_path):
    before, found = hash_file(cells), embedding(12)
    written = write_embedding(cells, tmp_path / "out.h5ad", "X_diffaug", found, KEYS)
    assert (written.rows, written.without) == (12, 0)
    assert hash_file(cells) == before
    old, new = anndata.read_h5ad(cells), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert np.array_equal(new.obsm["X_diffaug"], found)
    assert np.array_equal(new.obsm["X_pca"], old.obsm["X_pca"])
    assert (new.X != old.X).nnz == 0
    assert np.array_equal(new.layers["twice"], old.layers["twice"])
    assert new.obs.equals(old.obs)
    assert np.array_equal(open_table(f"{tmp_path}/out.h5ad?obsm=X_diffaug").features, found)


def test_rows_go_where_their_keys_are_and_others_are_nan(cells, tmp_path):
    chosen = [KEYS[i] for i in (7, 2, 11)]
    found = embedding(3)
    written = write_embedding(cells, tmp_path / "out.h5ad", "X_diffaug", found, chosen)
    assert (written.rows, written.without) == (3, 9)
    full = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_diffaug"]
    assert np.array_equal(full[[7, 2, 11]], found)
    assert np.isnan(np.delete(full, [7, 2, 11], axis=0)).all()


def test_into_the_file_itself_and_never_over_another_without_being_told(cells, tmp_path):
    write_embeddings(cells, cells, {"X_a": embedding(12), "X_b": embedding(12, 3)}, KEYS)
    assert set(anndata.read_h5ad(cells).obsm) == {"X_pca", "X_a", "X_b"}
    with pytest.raises(ArtifactMismatch, match=r"holds obsm\['X_a'\] already"):
        write_embedding(cells, cells, "X_a", embedding(12, seed=2), KEYS)
    write_embedding(cells, cells, "X_a", embedding(12, seed=2), KEYS, overwrite=True)
    assert np.array_equal(anndata.read_h5ad(cells).obsm["X_a"], embedding(12, seed=2))
    (tmp_path / "other.h5ad").write_bytes(b"something")
    with pytest.raises(ArtifactMismatch, match="is there already"):
        write_embedding(cells, tmp_path / "other.h5ad", "X_a", embedding(12), KEYS)
    assert (tmp_path / "other.h5ad").read_bytes() == b"something"


def test_a_write_that_fails_leaves_the_file_as_it_was(cells, monkeypatch):
    before = hash_file(cells)

    def full_disk(path, *, matrices):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_obsm", full_disk)
    with pytest.raises(OutputError, match="no space left"):
        write_embedding(cells, cells, "X_diffaug", embedding(12), KEYS)
    assert hash_file(cells) == before
    assert [p.name for p in cells.parent.iterdir()] == ["cells.h5ad"]


def test_files_of_old_versions(tmp_path):
    pytest.importorskip("scanpy")
    file = table_file("scanpy:pbmc68k_reduced")
    shutil.copy(file, tmp_path / "old.h5ad")
    table = open_table("scanpy:pbmc68k_reduced?split=test")
    write_embedding(tmp_path / "old.h5ad", tmp_path / "old.h5ad", "X_diffaug", table.features[:, :2], table.keys)
    again = open_table(f"{tmp_path}/old.h5ad?obsm=X_pca&label=bulk_labels")
    assert np.array_equal(again.features, open_table("scanpy:pbmc68k_reduced?obsm=X_pca").features)
    full = anndata.read_h5ad(tmp_path / "old.h5ad").obsm["X_diffaug"]
    assert np.isfinite(full).all(axis=1).sum() == 140


def test_plain_tables(tmp_path):
    found = embedding(3)
    write_embedding(None, tmp_path / "z.csv", "z", found, KEYS[:3])
    with open(tmp_path / "z.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["key", "z_1", "z_2"]
    assert [row[0] for row in rows] == KEYS[:3]
    assert np.array_equal(np.array([row[1:] for row in rows], np.float32), found)
    again = open_table(str(tmp_path / "z.csv"))
    assert (again.keys, np.array_equal(again.features, found)) == (tuple(KEYS[:3]), True)
    write_embedding(None, tmp_path / "z.npy", "z", found)
    assert np.array_equal(np.load(tmp_path / "z.npy"), found)
    with pytest.raises(ArtifactMismatch, match="is there already"):
        write_embedding(None, tmp_path / "z.npy", "z", found)


def test_embeddings_that_are_refused(cells, tmp_path):
    out = tmp_path / "out.h5ad"
    with pytest.raises(InvalidOption, match=r"shape \(3, 2\) for 12 rows"):
        write_embedding(cells, out, "X", embedding(3), KEYS)
    with pytest.raises(InvalidOption, match="has 12 rows and the embedding 3"):
        write_embedding(cells, out, "X", embedding(3))
    with pytest.raises(SourceError, match="no rows 'elsewhere'; give the AnnData file"):
        write_embedding(cells, out, "X", embedding(1), ["elsewhere"])
    with pytest.raises(SourceError, match="occur twice"):
        write_embedding(cells, out, "X", embedding(2), ["cell1", "cell1"])
    with pytest.raises(InvalidOption, match="to be an AnnData file and None is none"):
        write_embedding(None, out, "X", embedding(2), ["cell1", "cell2"])
    with pytest.raises(InvalidOption, match="of no known kind; write one of"):
        write_embedding(cells, tmp_path / "out.txt", "X", embedding(12), KEYS)
    assert not out.exists()
