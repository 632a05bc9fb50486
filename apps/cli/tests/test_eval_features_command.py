"""``semaug eval embed`` and how the probes come by features: kept below the run, given as an artifact, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from semaug.artifacts.testing import write_difficult_folder
from semaug.artifacts.verify import verify
from semaug.cli.commands.evaluate import group
from semaug.cli.console import explain

TRAIN, TEST = "scenes:train?items=60", "scenes:test?items=30"


def evaluate(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; errors are explained as ``main`` does."""
    result = CliRunner().invoke(group, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return explain(result.exception), result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def encoder(folder: Path, seed: int = 0, size: int = 32) -> Path:
    from semaug.ssl_methods import build_encoder
    from semaug.ssl_methods.cards import save_encoder

    save_encoder(folder, build_encoder("small-cnn", input_size=size, seed=seed), method="simclr", seed=seed, steps=0)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return encoder(tmp_path / "run")


def kept(run: Path) -> list[Path]:
    return sorted((run / "eval" / "features").glob("*.zarr"))


def knn(run: Path, *words: object) -> dict:
    code, text, error = evaluate("knn", run, *words, "--json")
    assert code == 0, error
    return {name: row for name, row in json.loads(text).items() if name.startswith("knn/")}


def test_probes_agree_however_they_come_by_features(run: Path, tmp_path: Path) -> None:
    fresh = knn(run, "--train", TRAIN, "--test", TEST, "--no-cache")
    assert kept(run) == []
    assert knn(run, "--train", TRAIN, "--test", TEST) == fresh
    digests = {path.name: verify(path).digest for path in kept(run)}
    assert len(digests) == 2
    assert knn(run, "--train", TRAIN, "--test", TEST) == fresh
    assert {path.name: verify(path).digest for path in kept(run)} == digests
    code, _, error = evaluate("embed", run, "--images", TRAIN, "--out", tmp_path / "train.zarr")
    assert code == 0, error
    assert verify(tmp_path / "train.zarr").digest in digests.values()
    assert knn(run, "--train", tmp_path / "train.zarr", "--test", TEST) == fresh
    ran_on = json.loads((run / "eval" / "knn.json").read_text())["ran_on"]["sources"]
    assert set(ran_on["train"]) == set(ran_on["test"]) == {"spec", "source", "labels"}


def test_kept_features_are_read_and_not_computed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = knn(run, "--train", TRAIN, "--test", TEST)
    monkeypatch.setattr("semaug.ssl_methods.load_encoder", lambda *_: pytest.fail("the encoder was loaded"))
    assert knn(run, "--train", TRAIN, "--test", TEST) == fresh


def test_damaged_kept_features_are_made_again(run: Path) -> None:
    fresh = knn(run, "--train", TRAIN, "--test", TEST)
    for path in kept(run):
        (path / "shards/000000/feature/c/0/0").write_bytes(b"")
    assert knn(run, "--train", TRAIN, "--test", TEST) == fresh


def test_a_run_that_changed_embeds_anew_and_forgets(run: Path) -> None:
    knn(run, "--train", TRAIN, "--test", TEST)
    old = set(kept(run))
    encoder(run, seed=1)
    knn(run, "--train", TRAIN, "--test", TEST)
    assert len(kept(run)) == 2
    assert not old & set(kept(run))


def test_features_of_another_encoder_are_one_line(run: Path, tmp_path: Path) -> None:
    other = encoder(tmp_path / "other", seed=1)
    evaluate("embed", other, "--images", TRAIN, "--out", tmp_path / "train.zarr")
    code, _, error = evaluate("knn", run, "--train", tmp_path / "train.zarr", "--test", TEST)
    assert code == 1
    assert "holds features of the encoder" in error
    assert "\n" not in error


def test_other_artifacts_are_not_taken_for_features(run: Path, tmp_path: Path) -> None:
    from semaug.artifacts.index import index_source
    from semaug.artifacts.sources import open_source

    index_source(open_source(TRAIN), tmp_path / "index.zarr")
    direct = knn(run, "--train", TRAIN, "--test", TEST)
    assert knn(run, "--train", tmp_path / "index.zarr", "--test", TEST) == direct


def test_exclude_self_on_features(run: Path, tmp_path: Path) -> None:
    evaluate("embed", run, "--images", TRAIN, "--out", tmp_path / "train.zarr")
    honest = knn(run, "--train", tmp_path / "train.zarr", "--test", TRAIN, "--exclude-self")
    leaky = knn(run, "--train", tmp_path / "train.zarr", "--test", TRAIN)
    assert honest["knn/backbone/top1/k=1/T=0.07"]["value"] < leaky["knn/backbone/top1/k=1/T=0.07"]["value"] == 1
    code, _, error = evaluate("knn", run, "--train", tmp_path / "train.zarr", "--test", TEST, "--exclude-self")
    assert (code, "are different images" in error) == (2, True)


@pytest.mark.parametrize("layout", ["npy", "parquet"])
@pytest.mark.parametrize("flag", [(), ("--no-cache",)], ids=["kept", "not kept"])
def test_other_formats(run: Path, tmp_path: Path, layout: str, flag: tuple[str, ...]) -> None:
    words = ("embed", run, "--images", TRAIN, "--format", layout, "--out", tmp_path / "out", *flag, "--json")
    code, text, error = evaluate(*words)
    assert code == 0, error
    found = json.loads(text)
    assert (found["images"], found["feature_dim"], found["input_size"]) == (60, 128, 32)
    assert len(kept(run)) == (0 if flag else 1)
    assert not list(tmp_path.glob(".out*"))
    if layout == "npy":
        assert np.load(tmp_path / "out" / "features.npy").shape == (60, 128)
    assert evaluate(*words)[0] == 0
    other = evaluate("embed", run, "--images", TEST, "--format", layout, "--out", tmp_path / "out", *flag)
    assert other[0] == 1
    assert "holds features with digest" in other[2]


def test_skipped_and_enlarged_images_are_told(run: Path, tmp_path: Path) -> None:
    zoo = write_difficult_folder(tmp_path / "zoo")
    code, text, messages = evaluate("embed", run, "--images", zoo, "--out", tmp_path / "f.zarr", "--json")
    assert code == 3
    assert json.loads(text)["skipped"] == 4
    assert "skipped.csv" in messages
    assert "were enlarged" in messages
    code, _, messages = evaluate("linear", encoder(tmp_path / "large", size=128), "--train", TRAIN, "--test", TEST)
    assert code == 0
    assert "smaller than the encoder's 128 pixels and were enlarged" in messages


def test_an_encoder_of_tables_has_no_features_of_images(tmp_path: Path) -> None:
    from semaug.ssl_methods import build_encoder
    from semaug.ssl_methods.cards import save_encoder

    table = build_encoder("mlp", input_features=4)
    save_encoder(tmp_path / "run", table, method="dlme", seed=0, steps=0)
    code, _, error = evaluate("embed", tmp_path / "run", "--images", TRAIN, "--out", tmp_path / "f.zarr")
    assert code == 1
    assert "encoder of tables" in error
