"""``semaug diffaug`` through the command line: train, augment, embed and ablate, on a table and on images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from semaug.artifacts.augment_table import AugmentTable
from semaug.artifacts.errors import ArtifactMismatch, InvalidOption, SemaugError
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
        "--prediction", "noise",
        "--generator-widths", "8,8",
    )  # fmt: skip
    assert trained["steps"] == 3
    assert load_card(run).input_size == 16
    assert json.loads((run / "generator.json").read_text())["options"]["prediction"] == "noise"
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


def refused(words: str, *arguments: object) -> None:
    error = call(*arguments).exception
    assert isinstance(error, SemaugError), (arguments, error)
    assert words in str(error)


def test_runs_and_data_that_do_not_go_together_are_named(cells: Path, tmp_path: Path) -> None:
    run, images, other = tmp_path / "run", tmp_path / "images", tmp_path / "other"
    done("train", cells, "--out", run, *LITTLE, *ROWS)
    scenes = "scenes:train?items=6"
    done("train", scenes, "--size", "16", "--out", images, "--steps", "1", "--batch-size", "2", "--alpha", "0")
    words = ["pretrain", "simclr", cells, "--backbone", "mlp", "--steps", "1", "--batch-size", "8", "--out", other]
    assert CliRunner().invoke(root, list(map(str, words))).exit_code == 0
    listed = tmp_path / "rows.csv"
    listed.write_text("a,b\n" + "\n".join(f"{i},{-i}" for i in range(9)))
    for verb in ("augment", "embed"):
        out = tmp_path / "out.csv"
        refused(
            f"{other} is a run of simclr; give the folder of a `semaug diffaug train`", verb, cells, other, "--out", out
        )
        refused(f"{scenes} holds images and {run} was trained on a table", verb, scenes, run, "--out", out)
        refused(f"{listed} holds a table and {images} was trained on images", verb, listed, images, "--out", out)
        refused("leave steps out", verb, f"{cells}?steps=varying", run, "--out", out)
        refused("give the folder of a finished", verb, cells, tmp_path, "--out", out)
        assert not out.exists()


def test_a_scheme_before_the_file_leads_to_it(cells: Path, tmp_path: Path) -> None:
    import anndata

    done("train", cells, "--out", tmp_path / "run", *LITTLE, *ROWS, "--no-generate")
    done("embed", f"table:{cells}", tmp_path / "run", "--out", tmp_path / "z.h5ad")
    assert anndata.read_h5ad(tmp_path / "z.h5ad").obsm["X_diffaug"].shape == (30, 2)


def test_images_that_cannot_be_read_are_named_and_left_out(tmp_path: Path) -> None:
    from PIL import Image

    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for name in "abcd":
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    little = (
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--timesteps",
        "10",
        "--sampler-steps",
        "2",
        "--generator-widths",
        "8",
    )
    run = tmp_path / "run"
    done("train", folder, "--out", run, *little)
    (folder / "bad.png").write_bytes(b"none")
    refused(
        "bad.png: not an image in a known format; remove it, or train on a pack",
        "train",
        folder,
        "--out",
        tmp_path / "x",
        *little,
    )
    for verb, out in (("augment", tmp_path / "a.zarr"), ("embed", tmp_path / "z.csv")):
        result = call(verb, folder, run, "--out", out)
        assert result.exit_code == 3, (result.output, result.exception)
        assert "bad.png: not an image in a known format" in result.stderr
    assert AugmentTable.open(tmp_path / "a.zarr").origins == ("a.png", "b.png", "c.png", "d.png")
    assert len((tmp_path / "z.csv").read_text().splitlines()) == 5


def test_what_a_table_lacks_is_told(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(24, 3)).round(3)
    flat = tmp_path / "flat.csv"
    flat.write_text("a,b,c,kind\n" + "\n".join(f"{a},{b},7,{'pq'[i % 2]}" for i, (a, b, _) in enumerate(rows.tolist())))
    told = call("train", f"{flat}?label=kind", "--out", tmp_path / "run", *LITTLE, *ROWS)
    assert told.exit_code == 0, (told.output, told.exception)
    assert "1 columns are constant: 'c'; step varying drops them" in told.stderr
    refused(
        "5 neighbours among 4 rows; give at most 3",
        "train",
        f"{flat}?label=kind&share=0.17&split=train",
        "--out",
        tmp_path / "few",
        *LITTLE,
        *ROWS,
    )
    bad_rate = ("train", f"{flat}?label=kind", "--out", tmp_path / "x", "--generator-lr", "nan")
    refused("generator_lr nan must be positive numbers", *bad_rate)
    few = ("--only", "pca", "--seeds", "1", "--folds", "2")
    told = call("ablate", f"{flat}?label=kind&steps=varying,standardise", "--out", tmp_path / "study", *few)
    assert told.exit_code == 0, (told.output, told.exception)
    assert "steps varying,standardise of" in told.stderr
    assert "held-out ones among them; give them by --fit" in told.stderr
    refused(
        "unknown step 'standardize'; did you mean 'standardise'",
        "ablate",
        f"{flat}?label=kind",
        "--out",
        tmp_path / "x",
        *few,
        "--fit",
        "standardize",
    )
    refused(
        "13 folds, and the largest class has 12 rows",
        "ablate",
        f"{flat}?label=kind",
        "--out",
        tmp_path / "x",
        *few[:-1],
        "13",
    )
    broken = call("ablate", f"{flat}?label=kind", "--out", tmp_path / "broken", *few, "--fit", "standardise")
    assert broken.exit_code == 1
    assert "drop them with the step varying before it" in broken.stdout
