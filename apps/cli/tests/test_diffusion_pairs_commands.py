"""Pairs `diffusion` as a user meets them: pretraining on an artifact of positives, and a sheet of their views."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.augment_table import augment_columns
from semaug.artifacts.schemas import Manifest, augment_row
from semaug.artifacts.sources import open_source
from semaug.artifacts.store import ArtifactWriter
from semaug.cli import main as entry
from semaug.cli.commands import pretrain
from semaug.pairs_dataset import PAIR_SOURCES, PRESETS
from semaug.pairs_dataset.sources.diffusion import USAGES

IMAGES = "scenes:train?items=10"
TINY = ("--size", "16", "--steps", "2", "--batch-size", "4", "--backbone", "small-cnn", "--json")
K = 2


@pytest.fixture(scope="module")
def positives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of noise for each scene, as `semaug diffaug augment` keeps them."""
    path, source = tmp_path_factory.mktemp("positives") / "augment.zarr", open_source(IMAGES)
    manifest = Manifest(
        kind="augment", items=len(source) * K, shard_size=100, inputs={"source": source.fingerprint},
        config={"k": K, "form": "images", "shape": [3, 16, 16], "class_names": list(source.class_names)},
    )  # fmt: skip
    rows = [augment_row(0, source.key(i), number) for i in range(len(source)) for number in range(K)]
    pixels = np.random.default_rng(0).integers(0, 256, (len(rows), 16, 16, 3), dtype=np.uint8)
    with ArtifactWriter.open(path, manifest) as writer:
        writer.write(0, augment_columns(rows, pixels, [source.label(i // K) for i in range(len(rows))]))
        writer.finish()
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of ``semaug WORDS``."""
    monkeypatch.setattr("sys.argv", ["semaug", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return int(ended.value.code or 0)


def test_positives_train_an_encoder_in_every_use(positives, tmp_path, monkeypatch, capsys) -> None:
    def trained(name: str, *words: object) -> str:
        capsys.readouterr()
        assert run(monkeypatch, "pretrain", "simclr", IMAGES, "--out", tmp_path / name, *TINY, *words) == 0
        return json.loads(capsys.readouterr().out)["weights"]

    diffusion = ("--pairs", "diffusion", "--augment", positives)
    plain = trained("plain")
    assert trained("zero", *diffusion, "--alpha", "0") == plain  # to the bit
    uses = [("--positives", use) for use in ("drawn", "enlarged", "mixed")]
    others = {trained(str(n), *diffusion, *words) for n, words in enumerate([*uses, ("--raw-positives",)])}
    assert len(others | {plain}) == 5
    assert trained("adainf", "--pairs", "adainf", "--generated", positives) not in others


def test_a_sheet_shows_positives_beside_standard_views(positives, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "sheet.png"
    words = ("views", "show", IMAGES, "--size", "16", "--items", "3", "--cell", "48", "--out", out, "--json")
    assert run(monkeypatch, *words, "--augment", positives) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == ["standard", "diffusion"]
    with Image.open(out) as sheet:
        assert sheet.width > 6 * 48
    assert run(monkeypatch, *words, "--pairs", "standard", "--augment", positives) == 2
    assert "are for --pairs diffusion" in capsys.readouterr().err
    assert run(monkeypatch, *words, "--pairs", "diffusion") == 1
    assert "make them with `semaug diffaug augment`" in capsys.readouterr().err


def test_positives_of_other_images_are_refused_in_one_line(positives, tmp_path, monkeypatch, capsys) -> None:
    words = ("pretrain", "simclr", "scenes:train?items=11", "--out", tmp_path / "run", *TINY)
    assert run(monkeypatch, *words, "--pairs", "diffusion", "--augment", positives) == 1
    assert "were generated of data" in capsys.readouterr().err
    assert run(monkeypatch, *words, "--augment", positives) == 1
    assert "give --pairs diffusion" in capsys.readouterr().err


def test_the_command_line_knows_the_pairs_presets_and_uses_there_are() -> None:
    assert set(pretrain.PAIRS) == set(PAIR_SOURCES)
    assert set(pretrain.PRESETS) == set(PRESETS)
    assert set(pretrain.POSITIVES) == set(USAGES)
