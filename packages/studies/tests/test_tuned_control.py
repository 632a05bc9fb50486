"""The tuned control of SDI's studies, and controls of DiffAug's at equal total cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semaug.eval.report import Table
from semaug.studies.runner import Outcome
from semaug.studies.study import kind_diffaug
from semaug.studies.study.catalogue import open_preset, study_names
from semaug.studies.study.jobs import SECONDS
from semaug.studies.study.kinds import Longer
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import Ready
from semaug.studies.study.results import read_results
from semaug.studies.study.running import plan_study, run_study
from semaug.studies.study.tuning import TUNED, baseline_of, tuning_section, with_tuned

OWN = """
extends = "_sdi"
without = ["artifacts", "measurements", "reasons", "options"]
name = "own"
item = "own"
title = "own"
text = "own"
paper = "own"
[options]
scales = [[0.2, 1.0], [0.9, 1.0]]
tuned_at = ["tiny"]
[scales.tiny]
steps = 2
train_items = 40
test_items = 24
[settings.a]
[settings.b]
method = "byol"
[variants.standard]
control = true
[variants.wide]
options = { scale = [0.5, 1.0] }
"""


def test_sdis_studies_of_accuracy_have_a_tuned_control_where_they_are_large(tmp_path: Path) -> None:
    for name in (n for n in study_names() if n.startswith("sdi-")):
        preset = open_preset(name)
        assert with_tuned(preset, "tiny") == preset
        assert with_tuned(preset, "smoke") == preset
        has = TUNED in with_tuned(preset, "small").variants
        assert has == (preset.kind == "training" and preset.primary == "linear/top1")
        if has:
            base, tuned = preset.variants[baseline_of(preset) or ""], with_tuned(preset, "paper").variants[TUNED]
            assert (tuned.control, tuned.cell, tuned.options) == (True, "", base.options)
    assert TUNED in plan_study("sdi-table-2", "small", tmp_path).preset.variants


@pytest.mark.slow
def test_the_tuned_control_takes_the_best_scale_of_its_setting_and_nothing_else_does(tmp_path: Path) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "study"
    own.write_text(OWN)
    assert run_study(plan_study(str(own), "tiny", out)).failed == ()
    study = read_results(out)[0].study
    tables = [block for section in tuning_section(study) for block in section.blocks]
    assert isinstance(tables[0], Table)
    for setting, low, high, chosen in tables[0].rows:
        results = [json.loads((out / f"tuning/{setting}/{s}/result.json").read_text()) for s in ("0.2-1", "0.9-1")]
        values = [found["result"]["selection/linear"]["value"] for found in results]
        assert values == [low, high]
        best = (0.2, 1.0) if values[0] >= values[1] else (0.9, 1.0)
        assert chosen == f"{best[0]:g} to 1"
        scales = {name: _scale(out / "runs" / str(setting) / name / "0") for name in ("standard", TUNED, "wide")}
        assert scales[TUNED] == best
        assert scales["wide"] == (0.5, 1.0)
        assert scales["standard"] not in {(0.9, 1.0), (0.5, 1.0)}
    assert "How the tuned control was chosen" in (out / "report.html").read_text()


def _scale(run: Path) -> tuple[float, float]:
    low, high = json.loads((run / "encoder.json").read_text())["config"]["pairs"]["recipes"][0]["scale"]
    return low, high


def _found(study: Study, best: str) -> dict[tuple[str, str], list[Any]]:
    """Outcomes in which ``best`` is best and DiffAug takes ten times as long as anything else."""
    found = {}
    for setting in study.preset.settings:
        for name in study.preset.variants:
            score, seconds = 0.9 if name == best else 0.5, 20.0 if name == "DiffAug" else 2.0
            result = {"score/linear": {"value": score, "n": 1}, SECONDS: {"value": seconds, "n": 1}}
            found[setting, name] = [Outcome(name, result)]
    return found


def test_diffaugs_controls_train_longer_where_they_train_at_all(tmp_path: Path) -> None:
    study = plan_study("diffaug-table-2", "tiny", tmp_path)
    ready = Ready(study.data)
    trained = kind_diffaug.longer(study, ready, _found(study, "DMTEV"))
    assert {(a.setting, a.name, a.ratio) for a in trained} == {(s, "DMTEV x2.00", 10.0) for s in study.preset.settings}
    jobs = kind_diffaug.plan_longer(study, ready, trained)
    epochs = {job.job.job.protocol.course.epochs for job in jobs}
    (short,) = {p.job.job.protocol.course.epochs for p in kind_diffaug.plan(study, ready) if p.variant == "DMTEV"}
    assert epochs == {2 * short}
    assert {str(job.job.out.relative_to(tmp_path)) for job in jobs} == {
        f"runs/{setting.lower()}/dmtev-x2.00/0" for setting in study.preset.settings
    }
    fitted = kind_diffaug.longer(study, ready, _found(study, "PCA"))
    assert [a.factor for a in fitted] == [1.0] * 4  # a projection is fitted once
    assert kind_diffaug.plan_longer(study, ready, fitted) == []
    images = plan_study("diffaug-table-3", "tiny", tmp_path)
    asked = [Longer("CF10", "DiffAug", "SimCLR", 3.0, 2.0)]
    (job,) = kind_diffaug.plan_longer(images, Ready(images.data), asked)
    assert (job.variant, job.job.steps) == ("SimCLR x2.00", 2 * images.scale.steps)  # type: ignore[operator]
