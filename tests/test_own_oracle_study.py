"""The study of oracles without a download, at toy size: paired runs, resume, and tables by hand."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from semaug.artifacts.sources import ScenesSource, open_source
from semaug.studies.comparison import Compared

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return importlib.import_module("own_oracle_study")


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Class folders of tiny pictures: the scenes by another road."""
    for split in ("train", "test"):
        source = ScenesSource(split, 60)
        for i in range(len(source)):
            folder = tmp_path / "cifar" / split / source.class_names[source.label(i)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.read(i)).resize((32, 32)).save(folder / f"{i:03d}.png")
    return tmp_path / "cifar"


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["own_oracle_study.py", *map(str, words)])
    tool.main()


def test_variants_are_trained_once_and_compared_seed_by_seed(
    tool: ModuleType, cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = replace(tool.SETTINGS["cifar10"], batch_size=8, images={"train": 4, "test": 2}, seeds=2, steps=2)
    monkeypatch.setattr(tool, "SETTINGS", {"cifar10": tiny})
    words = ("--out", tmp_path / "study", "--cifar", cifar, "--variants", "random_box,saliency",
             "--controls-of", "saliency")  # fmt: skip
    run(tool, monkeypatch, *words)
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "study" / "results.json").read_text())["cifar10"]
    assert {v: len(m[tool.LINEAR]) for v, m in results["values"].items()} == {"random_box": 2, "saliency": 2}
    assert results[tool.KNN]["best_control"] == "random_box"
    assert results[tool.LINEAR]["differences"]["saliency"]["n"] == 2
    assert printed.count("| saliency | nothing |") == 1
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("result.json")}
    assert len(done) == 4
    run(tool, monkeypatch, *words)
    assert capsys.readouterr().out == printed
    assert {p: p.stat().st_mtime_ns for p in done} == done


def test_seeds_are_paired_and_only_the_crops_differ(tool: ModuleType, tmp_path: Path) -> None:
    prepared = tool.Prepared("train", "test", {"objectness": "o", "saliency": "s", "fastestdet": "f"}, {})
    study = tool.Study(tmp_path, None, None, tool.VARIANTS, tool.SETTINGS)
    for name, setting in tool.SETTINGS.items():
        plans = {v: tool.job_of(study, name, setting, prepared, v, 3).plan for v in tool.VARIANTS}
        same = [replace(p, pairs="", guidance=None, pair_options={}) for p in plans.values()]
        assert all(p == same[0] for p in same)
        assert plans["standard"].guidance is None
        assert plans["standard"].pair_options["scale"] == plans["self"].pair_options["scale"]
        assert {plans[v].guidance for v in ("random_box", "shuffled_box", "objectness")} == {"o"}
        guided = [plans[v].pair_options for v in plans if v != "standard"]
        assert all(options == guided[0] for options in guided)


def test_cifar_takes_the_first_images_of_each_class(tool: ModuleType, cifar: Path, tmp_path: Path) -> None:
    setting = replace(tool.SETTINGS["cifar10"], images={"train": 3, "test": 1})
    study = tool.Study(tmp_path / "study", cifar, None, tool.VARIANTS, {"cifar10": setting})
    (study.out / "cifar10").mkdir(parents=True)
    source = open_source(tool.source_spec(study, "cifar10", "train", setting))
    classes = sorted(p.name for p in (cifar / "train").iterdir())
    assert source.class_names == tuple(classes)
    expected = [f"{c}/{p.name}" for c in classes for p in sorted((cifar / "train" / c).iterdir())[:3]]
    assert [source.key(i) for i in range(len(source))] == expected


def scored(tool: ModuleType, **rows: list[float | None]) -> dict[str, Compared]:
    return {name: Compared({tool.LINEAR: values, tool.KNN: values[::-1]}) for name, values in rows.items()}


def test_tables_hold_differences_to_the_best_control(tool: ModuleType, tmp_path: Path) -> None:
    variants = {n: tool.VARIANTS[n] for n in ("standard", "random_box", "saliency", "objectness")}
    study = tool.Study(tmp_path, None, None, variants, tool.SETTINGS)
    scores = scored(
        tool, standard=[0.50, 0.52, 0.54], random_box=[0.40, 0.41, 0.42], saliency=[0.51, 0.53, 0.55],
        objectness=[0.60, None, 0.60],
    )  # fmt: skip
    result = tool.result_of(study, tool.SETTINGS["cifar10"], tool.Prepared("", "", {}, {"saliency": 1.0}), scores)
    linear = result[tool.LINEAR]
    assert linear["best_control"] == "standard"
    assert linear["differences"]["random_box"]["mean"] == pytest.approx(-0.11)
    assert linear["differences"]["saliency"]["mean"] == pytest.approx(0.01)
    assert linear["differences"]["objectness"]["n"] == 2
    assert linear["differences"]["objectness"]["low"] == pytest.approx(0.08 - 12.706 * 0.02, abs=1e-3)
    assert "p_holm" not in linear["differences"]["random_box"]
    table = tool.format_table(study, tool.SETTINGS["cifar10"], result)
    assert "| standard | - | 52.00 ± 2.00 | 52.00 ± 2.00 | best control | best control | - |" in table
    assert "| saliency | nothing | 53.00 ± 2.00 | 53.00 ± 2.00 | +1.00 [+1.00, +1.00] |" in table


def test_a_run_that_failed_is_told_and_does_not_stop_the_table(tool: ModuleType, tmp_path: Path) -> None:
    variants = {n: tool.VARIANTS[n] for n in ("standard", "saliency")}
    study = tool.Study(tmp_path, None, None, variants, tool.SETTINGS)
    scores = scored(tool, standard=[0.5], saliency=[None])
    result = tool.result_of(study, tool.SETTINGS["scenes"], tool.Prepared("", "", {}, {}), scores)
    assert "| saliency | nothing | failed | failed | - | - | - |" in tool.format_table(
        study, tool.SETTINGS["scenes"], result
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--variants", "standard,objctness"), "objctness"),
        (("--sets", "cifar"), "cifar"),
        (("--sets", "cifar10"), "--cifar"),
    ],
)
def test_unknown_names_are_refused(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        run(tool, monkeypatch, "--out", tmp_path, *words)
    assert said in f"{capsys.readouterr().err}{ended.value.code}"
