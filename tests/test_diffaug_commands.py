"""``semaug diffaug`` through the command line: train, augment, embed and ablate, on a table and on images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from semaug.artifacts.augment_table import AugmentTable
from semaug.artifacts.errors import ArtifactMismatch, InvalidOption
from semaug.cli.main import root
from semaug.ssl_methods.cards import load_card

LITTLE = ("--epochs", "2", "--sampler-steps", "2", "--timesteps", "20")
ROWS = ("--encoder-widths", "8,4", "--generator-widths", "8")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(root, ["diffaug", *map(str, arguments)], catch_exceptions=True)


def done(*arguments: object) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AnnData file of 30 cells of 2 kinds, with 5 genes."""
    import anndata
    import pandas

    rng = np.random.default_rng(0)
    kinds = np.array(["b", "t"])[np.arange(30) % 2]
    rows = (rng.normal(size=(30, 5)) + 3 * (kinds == "t")[:, None]).astype(np.float32)
    obs = pandas.DataFrame({"kind": pandas.Categorical(kinds)}, index=[f"cell{i}" for i in range(30)])
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    anndata.AnnData(rows, obs=obs).write_h5ad(path)
    return path


def test_from_cells_to_positives_and_an_embedding(cells: Path, tmp_path: Path) -> None:
    import anndata

    run, out = tmp_path / "run", tmp_path / "embedded.h5ad"
    trained = done("train", cells, "--out", run, *LITTLE, *ROWS, "--condition", "z", "--kernel", "paper")
    assert trained["steps"] == 2
    assert {"loss", "saturated", "generator_loss", "encoder", "generator"} <= set(trained)
    method = load_card(run).config["method"]
    assert (method["condition"], method["kernel"], method["encoder"]["widths"]) == ("z", "paper", [8, 4])
    assert done("train", cells, "--out", run, *LITTLE, *ROWS, "--condition", "z", "--kernel", "paper") == trained
    made = done("augment", cells, run, "--k", "3", "--out", tmp_path / "a.zarr")
    assert made["positives"] == 90
    assert "positive" in made["nearest"]
    assert AugmentTable.open(tmp_path / "a.zarr").k == 3
    said = done("embed", cells, run, "--latent", "--out", out)
    assert (said["rows"], said["columns"], said["rows_without"]) == (30, 2, 0)
    kept = anndata.read_h5ad(out)
    assert kept.obsm["X_diffaug"].shape == (30, 2)
    assert kept.obsm["X_diffaug_latent"].shape == (30, 4)
    done("embed", cells, run, "--out", tmp_path / "z.npy")
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), kept.obsm["X_diffaug"])
    assert isinstance(call("embed", cells, run, "--out", tmp_path / "z.npy").exception, ArtifactMismatch)


def test_other_columns_and_settings_are_refused(cells: Path, tmp_path: Path) -> None:
    done("train", cells, "--out", tmp_path / "run", *LITTLE, *ROWS)
    other = tmp_path / "other.csv"
    other.write_text("a,b\n" + "\n".join(f"{i},{-i}" for i in range(9)))
    for verb in ("augment", "embed"):
        out = tmp_path / f"{verb}.npy"
        error = call(verb, other, tmp_path / "run", "--out", out).exception
        assert isinstance(error, InvalidOption)
        assert "2 columns and the encoder reads 5" in str(error)
        assert not out.exists()
    again = call("train", cells, "--out", tmp_path / "run", *LITTLE, *ROWS, "--alpha", "0.5").exception
    assert isinstance(again, ArtifactMismatch)
    assert call("train", cells, "--out", tmp_path / "x", "--encoder-widths", "8,none").exit_code == 2
    wrong = call("train", cells, "--out", tmp_path / "x", *LITTLE, "--size", "32").exception
    assert isinstance(wrong, InvalidOption)
    assert "size 32 is for images" in str(wrong)


def test_images_go_the_same_way(tmp_path: Path) -> None:
    images = "scenes:train?items=12"
    run = tmp_path / "run"
    trained = done(
        "train", images, "--size", "16", "--out", run, "--steps", "3", "--batch-size", "4", "--sampler-steps", "2",
        "--generator-widths", "8,8",
    )  # fmt: skip
    assert trained["steps"] == 3
    assert load_card(run).input_size == 16
    assert done("augment", images, run, "--out", tmp_path / "a.zarr")["positives"] == 12
    done("embed", images, run, "--out", tmp_path / "z.csv")
    lines = (tmp_path / "z.csv").read_text().splitlines()
    assert lines[0] == "key,X_diffaug_1,X_diffaug_2"
    assert len(lines) == 13


def test_ablations_become_a_table(cells: Path, tmp_path: Path) -> None:
    arguments = (
        "ablate", f"{cells}?label=kind", "--out", tmp_path / "study", "--only", "A3,B2,pca,ivis", "--alphas", "0.5",
        "--seeds", "1", "--folds", "2", "--fit", "standardise", *LITTLE, *ROWS,
    )  # fmt: skip
    result = call(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("method     SVM, inductive")
    assert [line.split()[0] for line in lines[1:]] == ["A3", "B2", "pca", "ivis", "alpha-0.5"]
    assert "not run: pip install ivis" in lines[4]
    found = {row["method"]: row["measures"] for row in done(*arguments)["methods"]}
    assert found["A3"]["svm/inductive"]["n"] == 2
    assert (tmp_path / "study" / "results.csv").exists()
    assert "saturated" in found["B2"]
    assert call("ablate", cells, "--out", tmp_path / "x", "--only", "Q7").exit_code == 1
    assert call("ablate", cells, "--out", tmp_path / "x", "--alphas", "a,b").exit_code == 2


def test_a_configuration_file_gives_options(cells: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[diffaug.train]\nepochs = 2\nsampler_steps = 2\ntimesteps = 20\nbeta = 0.5\n")
    result = CliRunner().invoke(
        root, ["--config", str(config), "diffaug", "train", str(cells), "--out", str(tmp_path / "run"), *ROWS]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert load_card(tmp_path / "run").config["method"]["beta"] == 0.5
