"""Studies as they run: what is trained against what, what fails alone, what is reused, and what the report says."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption
from semaug.artifacts.progress import Progress
from semaug.artifacts.reader import Artifact
from semaug.eval.detection.door import open_detection_set
from semaug.studies.runner import RESULT, Outcome
from semaug.studies.study import jobs as jobs_module
from semaug.studies.study.catalogue import open_preset, study_names
from semaug.studies.study.jobs import Guarded, JobFailed, training_seconds, worker_device
from semaug.studies.study.kind_training import cost_ratio
from semaug.studies.study.plan import RECORD, Study, read_record, write_record
from semaug.studies.study.report import verdict, write_study_report
from semaug.studies.study.results import not_comparable, read_results
from semaug.studies.study.running import plan_study, run_study
from semaug.studies.study.stand_ins import write_annotated

METRIC = "linear/top1"
NOT_INSTALLED = "not run: pip install"
UNDEFINED = ("gap_recovery/", "memory/")
"""What a few steps and images may leave without a value: V6 not above V0, and memory below a page."""


def forged(out: Path, values: Mapping[str, list[float | None]], name: str = "sasi-table-12", **changes: Any) -> Study:
    """A study's folder with made-up results, one list of values a variant; None is a job that failed."""
    study = plan_study(name, "smoke", out, seeds=len(next(iter(values.values()))))
    study = replace(study, preset=study.preset.model_copy(update=changes)) if changes else study
    rows = []
    for variant, of in values.items():
        for seed, value in enumerate(of):
            folder = out / "runs" / "all" / variant / str(seed)
            folder.mkdir(parents=True)
            if value is None:
                (folder / jobs_module.ERROR).write_text("RuntimeError: no memory")
            else:
                measured = {METRIC: {"value": value, "n": 40}, "training/seconds": {"value": 2.0, "n": 1}}
                (folder / RESULT).write_text(json.dumps({"job": "-", "result": measured}))
            rows.append(
                {"setting": "all", "variant": variant, "seed": seed, "name": f"{variant} {seed}", "steps": 20,
                 "out": str(folder.relative_to(out))}
            )  # fmt: skip
    longer = [{"setting": "all", "variant": "a", "control": "e", "ratio": 6.0, "factor": 4.0}]
    write_record(study, {"jobs": rows, "artifacts": [], "longer": longer if "e x4.00" in values else []})
    return study


def rows_of(out: Path) -> list[dict[str, str]]:
    """The rows of ``results.csv``."""
    return list(csv.DictReader((out / "results.csv").read_text().splitlines()))


VALUES: dict[str, list[float | None]] = {
    "e": [0.50, 0.52, 0.54, 0.53], "a": [0.55, 0.58, 0.585, 0.60], "b": [0.51, 0.53, 0.53, 0.55],
    "c": [0.40, 0.44, None, 0.42], "e x4.00": [0.56, 0.57, 0.60, 0.58],
}  # fmt: skip


def test_gains_are_students_paired_differences_with_holms_p(tmp_path: Path) -> None:
    forged(tmp_path, VALUES)
    results, _ = read_results(tmp_path)
    gains = {gain.variant: gain for gain in results.gains}
    assert set(gains) == {"a", "b", "c"}
    assert {gain.control for gain in gains.values()} == {"e"}
    e = np.array([0.50, 0.52, 0.54, 0.53])
    raw = {
        "a": stats.ttest_rel([0.55, 0.58, 0.585, 0.60], e).pvalue,
        "b": stats.ttest_rel([0.51, 0.53, 0.53, 0.55], e).pvalue,
        "c": stats.ttest_rel([0.40, 0.44, 0.42], e[[0, 1, 3]]).pvalue,  # the seed that failed has no pair
    }
    order = sorted(raw, key=lambda name: raw[name])
    adjusted, running = {}, 0.0
    for rank, name in enumerate(order):
        running = max(running, min(1.0, raw[name] * (len(order) - rank)))
        adjusted[name] = running
    for name, gain in gains.items():
        assert gain.p_value == pytest.approx(adjusted[name], rel=1e-9)
    assert gains["c"].at_steps.n == 3
    interval = stats.t.interval(0.95, 3, *(f(np.array([0.05, 0.06, 0.045, 0.07])) for f in (np.mean, stats.sem)))
    assert (gains["a"].at_steps.low, gains["a"].at_steps.high) == pytest.approx(interval)
    assert gains["a"].at_cost is not None
    assert gains["a"].at_cost.mean == pytest.approx(np.mean([-0.01, 0.01, -0.015, 0.02]))
    assert gains["a"].paper == pytest.approx(78.4 - 73.1)


def test_a_report_says_numbers_differences_reasons_and_failures(tmp_path: Path) -> None:
    forged(tmp_path, VALUES)
    done = write_study_report(tmp_path)
    assert "a: +5.6 points" in done.verdict
    assert "at equal total cost (4 times the steps)" in done.verdict
    assert done.failed == ("all c seed 2: RuntimeError: no memory",)
    page = done.report.read_text()
    for part in ("Not comparable with the paper", "random weights", "stand in for ImageNet-100", "What failed"):
        assert part in page
    assert "favours the variant" in page  # the cost ratio was 6 and the control trained 4 times as long
    rows = {(r["variant"], r["metric"]): r for r in rows_of(tmp_path)}
    assert len(rows) == 16  # every printed cell, also those of variants without runs
    a = rows["a", METRIC]
    assert (a["paper_value"], a["n"], a["comparable"]) == ("78.4", "4", "no")
    assert float(a["ours"]) == pytest.approx(100 * np.mean([0.55, 0.58, 0.585, 0.60]))
    assert float(a["difference"]) == pytest.approx(float(a["ours"]) - 78.4)
    assert float(a["gain"]) == pytest.approx(5.625)
    assert rows["h", METRIC]["note"] == "this variant was left out"
    assert r"all & a & linear/top1 & 78.4 & 57.88 $\pm$" in (tmp_path / "results.tex").read_text()
    tables = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert {"Beside the paper", "Gains over the best control", "Every variant"} <= {s["title"] for s in tables}


def test_misprints_are_noted_beside_the_number(tmp_path: Path) -> None:
    study = plan_study("semantic-pairs-table-1", "tiny", tmp_path)
    cells = study.preset.cells.model_copy(update={"column": "improvement_printed"})  # type: ignore[union-attr]
    preset = study.preset.model_copy(update={"cells": cells})
    write_record(replace(study, preset=preset), {"jobs": [], "artifacts": [], "longer": []})
    write_study_report(tmp_path)
    assert "86.56-82.41=4.15" in (tmp_path / "report.html").read_text()


def test_no_finished_control_is_no_verdict(tmp_path: Path) -> None:
    forged(tmp_path, {"e": [None], "a": [0.5]})
    results, _ = read_results(tmp_path)
    assert verdict(results).startswith("No verdict")
    assert not results.gains


def test_reasons_name_data_weights_and_scale(tmp_path: Path) -> None:
    given = {"main.train": "scenes:train?items=8", "main.test": "scenes:test?items=8"}
    study = plan_study("sasi-table-12", "paper", tmp_path, data=given, weights={"captioner": "b", "generator": "g"})
    told = not_comparable(study)
    assert any("may not be ImageNet-100" in line for line in told)
    assert any("models given" in line for line in told)
    assert not any("scale" in line for line in told)
    with pytest.raises(InvalidOption, match="lacks ImageNet-100: give --data"):
        run_study(plan_study("sasi-table-12", "paper", tmp_path, weights={"captioner": "b"}))


@dataclass(frozen=True)
class Fails:
    name: str
    out: Path
    steps: int = 1

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, on_progress: Any) -> dict[str, Any]:
        raise ZeroDivisionError("a loss of 0/0")


def test_an_unexpected_error_is_written_down_and_forgotten_once_it_is_done(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="ZeroDivisionError: a loss of 0/0"):
        Guarded(Fails("x", tmp_path)).run(lambda event: None)
    assert (tmp_path / jobs_module.ERROR).read_text() == "ZeroDivisionError: a loss of 0/0"


def test_a_worker_keeps_to_its_device() -> None:
    assert worker_device(("cuda:0", "cuda:1")) == "cuda:0"  # the main process


def test_training_time_is_the_steps_at_the_median_speed(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,images_per_second\n10,50\n20,200\n30,400\n")
    assert training_seconds(tmp_path, 30, 20) == pytest.approx(30 * 20 / 200)


def test_the_papers_cost_counts_training_and_every_artifact(tmp_path: Path) -> None:
    study = plan_study("sasi-table-12", "tiny", tmp_path)
    assert cost_ratio(study, None, {}, "all", "a", "e") == pytest.approx(2.43)  # type: ignore[arg-type]
    assert cost_ratio(study, None, {}, "all", "d", "e") == pytest.approx(1.5 + 1.43)  # type: ignore[arg-type]


def test_the_measured_cost_is_of_training_and_of_each_artifact_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semaug.studies.study import prepare

    study = plan_study("sasi-table-12", "tiny", tmp_path)
    scale = study.scale.model_copy(update={"longer": "measured"})
    preset = study.preset.model_copy(update={"scales": {**study.preset.scales, "tiny": scale}})
    made = prepare.Prepared("sasi", "main", tmp_path / "s", (tmp_path / "c", tmp_path / "s"), 30.0)
    ready = prepare.Ready(study.data, {("sasi", "main"): made})
    monkeypatch.setattr(prepare, "artifact_seconds", lambda path: {"c": 10.0, "s": 20.0}[path.name])
    found = {
        ("all", name): [Outcome("", {"training/seconds": {"value": value, "n": 1}})]
        for name, value in (("e", 20.0), ("a", 22.0))
    }
    assert cost_ratio(replace(study, preset=preset), ready, found, "all", "a", "e") == pytest.approx(52 / 20)


def test_scenes_with_boxes_are_read_as_a_detection_set(tmp_path: Path) -> None:
    from semaug.artifacts.sources import ScenesSource

    source = ScenesSource("test", 4)
    found = open_detection_set(write_annotated(source, tmp_path / "boxes"))
    assert len(found) == 4
    assert found.class_names == source.class_names
    for i, image in enumerate(found.images):
        np.testing.assert_allclose(image.objects.boxes, source.guidance(i).boxes)
        assert image.objects.labels.tolist() == [source.label(i)]


# --- whole runs -------------------------------------------------------------------------------------------------


def run(name: str, out: Path, only: tuple[str, ...] = (), **changes: Any) -> tuple[Study, Any]:
    """A study at scale tiny, with less where ``changes`` says so."""
    study = plan_study(name, "tiny", out, only=only)
    scale = study.scale.model_copy(update={"steps": 2, "train_items": 24, "test_items": 24} | changes)
    scales = {**study.preset.scales, "tiny": scale}
    study = replace(study, preset=study.preset.model_copy(update={"scales": scales}))
    return study, run_study(study)


def weights_of(out: Path) -> dict[str, str]:
    """The digest of every run's encoder."""
    return {
        str(path.parent.relative_to(out)): json.loads(path.read_text())["weights_digest"]
        for path in sorted(out.glob("runs/*/*/*/encoder.json"))
    }


def test_uses_of_synthetic_images_run_resume_and_stay_paired(tmp_path: Path) -> None:
    out = tmp_path / "study"
    study, done = run("sasi-table-12", out, ("e", "a"))
    assert done.failed == ()
    trained = weights_of(out)
    assert set(trained) == {"runs/all/e/0", "runs/all/a/0", "runs/all/e-x2.43/0"}
    record = read_record(out)
    assert record is not None
    assert [(row["variant"], row["steps"]) for row in record["jobs"]] == [("e", 2), ("a", 2), ("e x2.43", 5)]
    results = (out / "results.csv").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("encoder.safetensors")}
    events: list[Progress] = []
    run_study(study, on_progress=events.append)  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in out.rglob("encoder.safetensors")} == stamps
    assert (out / "results.csv").read_bytes() == results
    assert max((e for e in events if e.stage == "train"), key=lambda e: e.done).done == 4
    (out / "runs/all/a/0" / RESULT).unlink()  # as if it had been stopped before
    run_study(study)
    assert (out / "results.csv").read_bytes() == results
    assert weights_of(out) == trained
    moved = out.rename(tmp_path / "moved")  # a folder can be moved, and reported from anywhere
    write_study_report(moved)
    assert (moved / "results.csv").read_bytes() == results
    moved.rename(out)
    run_study(replace(study, only=("e",)))  # fewer variants leave the others in the report
    assert (out / "results.csv").read_bytes() == results
    changed = replace(study, preset=study.preset.model_copy(update={"primary": "knn/backbone/top1"}))
    with pytest.raises(ArtifactMismatch, match=r"preset\.primary is"):
        run_study(changed)


def test_a_variant_that_fails_leaves_the_others(tmp_path: Path) -> None:
    study = plan_study("sasi-table-12", "tiny", tmp_path, only=["e", "a", "b"])
    variants = dict(study.preset.variants)
    variants["b"] = variants["b"].model_copy(update={"options": {"synthetic": "@broken", "mode": "b"}})
    broken = study.preset.artifacts["sasi"].model_copy(update={"options": {"n_vp": 1}})  # nothing to vary
    preset = study.preset.model_copy(
        update={"variants": variants, "artifacts": {**study.preset.artifacts, "broken": broken}}
    )
    done = run_study(replace(study, preset=preset))
    assert [line.split(":")[0] for line in done.failed] == ["artifact broken of main", "all b seed 0"]
    assert "nothing to vary" in done.failed[1]
    results, _ = read_results(tmp_path)
    assert {gain.variant for gain in results.gains} == {"a"}
    assert "nothing to vary" in (tmp_path / "report.html").read_text()


def test_costs_stand_beside_the_papers_hours(tmp_path: Path) -> None:
    _, done = run("sasi-table-13", tmp_path)
    assert done.failed == ()
    rows = {r["metric"]: float(r["ours"]) for r in rows_of(tmp_path)}
    parts = ("training", "caption", "generate")
    assert sum(rows[f"costs/{part}_hours"] for part in parts) == pytest.approx(rows["costs/total_hours"])
    assert all(value > 0 for value in rows.values())


def test_similarity_is_measured_without_training(tmp_path: Path) -> None:
    _, done = run("sasi-figure-9", tmp_path)
    assert done.failed == ()
    assert not (tmp_path / "runs").exists()
    record = json.loads((tmp_path / "measurements/similarity/record.json").read_text())
    cosines = Artifact.open(tmp_path / "artifacts/main/alike.zarr").column("cosine")
    assert record["rows"]["similarity/mean"]["value"] == pytest.approx(float(cosines.mean()), rel=1e-5)
    assert "normal fit" in done.report.read_text()


def test_semantic_pairs_run_with_their_controls(tmp_path: Path) -> None:
    _, done = run("semantic-pairs-table-5", tmp_path, train_items=100, longer="none")
    assert done.failed == ()
    results, _ = read_results(tmp_path)
    assert {(g.setting, g.variant) for g in results.gains} == {(f"{n} a class", "SP") for n in (50, 100, 157)}
    arms = {run.variant for run in results.runs}
    assert arms == {"SP", "AP", "AP-all-images", "random-same-class", "SupCon"}
    assert len(results.lines) == 6
    assert all(line.ours is not None for line in results.lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", study_names())
def test_every_study_runs_at_tiny(name: str, tmp_path: Path) -> None:
    done = run_study(plan_study(name, "tiny", tmp_path))
    assert [line for line in done.failed if NOT_INSTALLED not in line] == []
    assert done.report.is_file()
    results, _ = read_results(tmp_path)
    lacking = [line for line in results.lines if line.ours is None and not line.metric.startswith(UNDEFINED)]
    absent = {"Ivis"} if done.failed else set()
    assert {line.variant for line in lacking} <= absent
    assert len(open_preset(name).scales) == 4


@pytest.mark.slow
def test_two_workers_do_what_one_does(tmp_path: Path) -> None:
    for workers in (1, 2):
        study = plan_study("sasi-table-12", "tiny", tmp_path / str(workers), only=["e", "a", "f"])
        assert run_study(study, workers=workers).failed == ()
    assert weights_of(tmp_path / "1") == weights_of(tmp_path / "2")
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "2")


@pytest.mark.slow
def test_kills_leave_the_undisturbed_results(tmp_path: Path) -> None:
    words = ("study", "run", "sasi-table-12", "--scale", "tiny", "--only", "e", "--only", "a", "--only", "d")
    command = [sys.executable, "-c", "from semaug.cli.main import main; main()", *words]
    whole, out, killed = tmp_path / "whole", tmp_path / "study", 0
    subprocess.run([*command, "--out", whole], check=True, capture_output=True)
    places = [out / "artifacts/main/captions-describe.zarr/ledger", out / "runs/all/e/0/last.ckpt"]
    for place in [*places, out / "runs/all/a/0/encoder.json", out / "runs/all/d/0/result.json"]:
        process = subprocess.Popen([*command, "--out", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not place.exists():
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 3
    subprocess.run([*command, "--out", out], check=True, capture_output=True)
    assert weights_of(out) == weights_of(whole)
    assert rows_of(out) == rows_of(whole)
    assert (out / RECORD).is_file()
