"""The papers' tables on fabricated files of their layout."""

import csv

import numpy as np
import pytest

from semaug.artifacts.errors import SourceError
from semaug.artifacts.tables import RECIPES, open_table


def write_anndata(path, matrix, label, values):
    anndata = pytest.importorskip("anndata")
    import pandas

    names = [f"c{i}" for i in range(len(matrix))]
    anndata.AnnData(
        X=matrix.astype(np.float32), obs=pandas.DataFrame({label: pandas.Categorical(values)}, index=names),
        var=pandas.DataFrame(index=[f"g{i}" for i in range(matrix.shape[1])]),
    ).write_h5ad(path)  # fmt: skip


def test_hcl_is_reduced_to_components_and_scaled_on_its_training_rows(tmp_path):
    rng = np.random.default_rng(0)
    classes = np.repeat(["0", "10", "2"], [700, 510, 40])
    matrix = rng.standard_normal((1250, 520)) + np.repeat([0.0, 2.0, 9.0], [700, 510, 40])[:, None]
    write_anndata(tmp_path / "HCL60kafter-elis-all.h5ad", matrix, "louvain", classes)
    table = open_table(f"hcl?root={tmp_path}&split=train")
    assert table.features.shape == (round(0.8 * 1210), 500)
    assert table.class_names == ("0", "10")  # 40 cells of class 2 are too few
    assert table.steps == ("pca:500", "range")
    np.testing.assert_allclose(table.features.min(axis=0), -1, atol=1e-5)
    np.testing.assert_allclose(table.features.max(axis=0), 1, atol=1e-5)
    test = open_table(f"hcl?root={tmp_path}&split=test")
    assert len(test) == 1210 - len(table)
    assert np.abs(test.features).max() > 1  # scaled by what the training rows span


def test_gast_is_divided_by_eight_and_small_classes_left_out(tmp_path):
    matrix = np.random.default_rng(0).poisson(3, (120, 30))
    write_anndata(tmp_path / "gast10kwithcelltype.h5ad", matrix, "celltype", ["gut"] * 60 + ["heart"] * 51 + ["x"] * 9)
    table = open_table(f"gast?root={tmp_path}")
    assert np.array_equal(table.features, matrix[:111].astype(np.float32) / 8)
    assert table.class_names == ("gut", "heart")
    assert "the paper has 1457 columns of gastrulation, 10,000 cells, this file gives 30" in table.notes


def test_sam_reads_samusik_and_not_activity(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 9, (20, 3))
    with open(tmp_path / "samusik_01.csv", "w", newline="") as file:
        rows = [[i, *row] for i, row in enumerate(values)]
        rows[2][2] = ""
        csv.writer(file).writerows([["Unnamed: 0", "CD3", "CD4", "CD8"], *rows])
    with open(tmp_path / "samusik01_labelnr.csv", "w", newline="") as file:
        csv.writer(file).writerows([["", "x"], *[[i, "" if i == 5 else i % 4] for i in range(20)]])
    (tmp_path / "feature_select").mkdir()
    (tmp_path / "feature_select" / "Activity_train.csv").write_text("tBody,Activity\n0.5,WALKING\n")
    table = open_table(f"sam?root={tmp_path}")
    expected = values.copy()
    expected[2, 1] = np.delete(values[:, 1], 2).min()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(table.features, expected, atol=1e-6)
    assert table.feature_names == ("CD3", "CD4", "CD8")
    assert (table.class_names, table.label(5), table.label(7)) == (("0", "1", "2", "3"), None, 3)


def test_mca_keeps_what_many_cells_express(tmp_path):
    (tmp_path / "mca_data").mkdir()
    rng = np.random.default_rng(0)
    matrix = np.zeros((3300, 4), np.float32)
    matrix[:3001, 0], matrix[:3000, 1], matrix[:, 3] = 4, 4, rng.poisson(3, 3300) + 1
    labels = np.repeat([3, 1, 7], [2000, 1201, 99])
    np.save(tmp_path / "mca_data" / "mca_data_dim_34947.npy", matrix)
    np.save(tmp_path / "mca_data" / "mca_label_dim_34947.npy", labels)
    table = open_table(f"mca?root={tmp_path}")
    assert table.feature_names == ("x0", "x3")  # nonzero in more than 3,000 cells of the whole file
    assert table.class_names == ("1", "3")
    assert np.array_equal(table.features, matrix[:3201][:, [0, 3]] / 8)
    lower = open_table(f"mca?root={tmp_path}&nonzero=10&min_class=50")
    assert (len(lower.feature_names), len(lower.class_names)) == (3, 3)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_missing_file_is_named_with_the_layout(tmp_path, name):
    with pytest.raises(SourceError, match=rf"{name}\?root=.* is missing; .* needs {RECIPES[name].file}.* below"):
        open_table(f"{name}?root={tmp_path}")
