"""Tables on the command line: pretraining, every probe of their features, and the way back into AnnData."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from semaug.cli.commands.evaluate import group as eval_group
from semaug.cli.commands.pretrain import group as pretrain_group
from semaug.cli.console import explain

anndata = pytest.importorskip("anndata")
WIDTH = 12


def call(group, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; errors are explained as ``main`` does."""
    result = CliRunner().invoke(group, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return explain(result.exception), result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    import pandas

    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("cells") / "cells.h5ad"
    kinds = rng.integers(0, 3, 90)
    counts = rng.poisson(2 + 6 * (np.arange(WIDTH) % 3 == kinds[:, None])).astype(np.float32)
    anndata.AnnData(
        X=counts, obs=pandas.DataFrame({"kind": pandas.Categorical.from_codes(kinds, ["a", "b", "c"])},
        index=[f"cell{i}" for i in range(90)]), var=pandas.DataFrame(index=[f"g{i}" for i in range(WIDTH)]),
    ).write_h5ad(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def run(cells: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    code, text, error = call(
        pretrain_group, "simclr", f"{cells}?steps=counts,log1p&split=train", "--backbone", "mlp",
        "--backbone-option", "widths=32,16", "--neighbours", 3, "--steps", 10, "--batch-size", 24, "--out", out,
        "--json",
    )  # fmt: skip
    assert code == 0, error
    assert json.loads(text)["method"] == "simclr"
    return out


def spec(cells: Path, split: str) -> str:
    return f"{cells}?label=kind&steps=counts,log1p&split={split}"


@pytest.mark.parametrize(("verb", "metric"), [
    ("linear", "linear/top1"),
    ("knn", "knn/backbone/top1/k=1/T=0.07"),
    ("kmeans", "kmeans/backbone/inductive/accuracy"),
    ("svm", "svm/folds/top1"),
])  # fmt: skip
def test_probes_of_a_table(cells: Path, run: Path, verb: str, metric: str) -> None:
    words = (verb, run, "--train", spec(cells, "train"), "--test", spec(cells, "test"), "--json")
    code, text, error = call(eval_group, *words)
    assert code == 0, error
    found = json.loads(text)
    assert metric in found, sorted(found)
    assert found[metric]["value"] > 0.5
    kept = json.loads((run / "eval" / f"{verb}.json").read_text())
    assert len(kept["ran_on"]["sources"]["test"]["source"]) == 32


def test_features_go_back_into_the_file(cells: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "with.h5ad"
    words = ("embed", run, "--images", spec(cells, "test"), "--format", "anndata", "--out", out, "--json")
    code, text, error = call(eval_group, *words)
    assert code == 0, error
    assert json.loads(text)["images"] == 18
    adata = anndata.read_h5ad(out)
    there = np.isfinite(adata.obsm["X_simclr"]).all(axis=1)
    assert (adata.obsm["X_simclr"].shape, there.sum()) == ((90, 16), 18)
    assert np.array_equal(there, np.isfinite(adata.obsm["X_simclr_projection"]).all(axis=1))
    code, _, error = call(eval_group, *words)
    assert (code, "is there already" in error) == (1, True)
    code, _, error = call(eval_group, "embed", run, "--images", spec(cells, "test"), "--out", tmp_path / "f.zarr")
    assert code == 0, error


def test_what_is_refused(cells: Path, run: Path, tmp_path: Path) -> None:
    raw = f"{cells}?label=kind&split=test"
    code, _, error = call(eval_group, "knn", run, "--train", raw, "--test", raw)
    assert (code, "trained on through counts:10000,log1p; give steps=" in error) == (1, True)
    words = ("--steps", 2, "--out", tmp_path / "run")
    code, _, error = call(pretrain_group, "simclr", cells, *words)
    assert (code, "is a table and the encoder reads images" in error) == (1, True)
    code, _, error = call(pretrain_group, "simclr", cells, "--backbone", "mlp", "--preset", "symmetric", *words)
    assert (code, "--preset: for views of images" in error) == (1, True)
    code, _, error = call(pretrain_group, "mae", cells, "--backbone", "mlp", *words)
    assert code == 1
    assert "\n" not in error
    assert not (tmp_path / "run").exists()
