"""``semaug eval geometry`` and ``invariance`` on a run: what they print, write and refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from semaug.cli.commands.evaluate import group
from semaug.cli.console import explain

IMAGES = "scenes:test?items=60"


def evaluate(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; errors are explained as ``main`` does."""
    result = CliRunner().invoke(group, [str(w) for w in words])
    if isinstance(result.exception, Exception):
        return explain(result.exception), result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from semaug.ssl_methods import build_encoder, save_encoder

    folder = tmp_path_factory.mktemp("run")
    save_encoder(folder, build_encoder("small-cnn", input_size=32, seed=0), method="none", seed=0, steps=0)
    return folder


def test_geometry_writes_what_it_prints_and_what_it_ran_on(run: Path) -> None:
    code, text, error = evaluate("geometry", run, "--images", IMAGES, "--views", "40", "--json")
    assert code == 0, error
    printed, kept = json.loads(text), json.loads((run / "eval" / "geometry.json").read_text())
    assert {name: row for name, row in printed.items() if name != "results"} == kept["measures"]
    assert kept["measures"]["geometry/backbone/twonn"]["n"] == 60
    assert kept["measures"]["geometry/projector/alignment"]["n"] == 40
    assert set(kept["ran_on"]["sources"]) == {"images"}
    assert kept["ran_on"]["settings"]["views"] == 40
    again = evaluate("geometry", run, "--images", IMAGES, "--views", "40", "--json")[1]
    assert json.loads(again) == printed


def test_geometry_of_stored_features_leaves_views_out(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.zarr"
    assert evaluate("embed", run, "--images", IMAGES, "--out", out)[0] == 0
    code, text, error = evaluate("geometry", run, "--images", out, "--out", tmp_path / "eval")
    assert code == 0, error
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert re.search(r" [\d.]+ ± [\d.]+ \[[\d.]+, [\d.]+\]  \(n = 60\)$", lines["geometry/backbone/twonn"])
    assert "geometry/backbone/twonn_std" not in lines
    assert "geometry/backbone/alignment" in lines
    assert "a features artifact holds no images to make views of" in text
    code, _, error = evaluate("invariance", run, "--images", out)
    assert code == 1
    assert "give --images the images" in error


def test_invariance_writes_every_family(run: Path) -> None:
    code, text, error = evaluate("invariance", run, "--images", IMAGES, "--limit", "10", "--draws", "2", "--json")
    assert code == 0, error
    printed, kept = json.loads(text), json.loads((run / "eval" / "invariance.json").read_text())
    assert {name: row for name, row in printed.items() if name != "results"} == kept["measures"]
    for family in ("geometric", "colour", "mixed"):
        assert kept["measures"][f"invariance/backbone/{family}"]["n"] == 10
    assert kept["ran_on"]["settings"] == {"seed": 0, "limit": 10, "draws": 2}
