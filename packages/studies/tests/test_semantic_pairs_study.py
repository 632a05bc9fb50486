"""The study of semantic pairs: what is trained against what, what is compared, and one whole run at its smallest."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.schemas import SemanticPair
from semaug.artifacts.schemas.pairs import pair_id_of
from semaug.artifacts.sources import ScenesSource, open_source
from semaug.pairs_dataset.pair_table import PairTable
from semaug.studies import semantic_pairs_study as study_module
from semaug.studies.runner import Outcome
from semaug.studies.semantic_pairs_report import verdict
from semaug.studies.semantic_pairs_study import (
    PairStudy,
    chosen,
    not_comparable,
    pair_items,
    pair_scales,
    run_pair_study,
    study_jobs,
    summarise_cells,
)

TRAIN, TEST = "scenes:train?items=40", "scenes:test?items=30"
SHARED = Path(os.environ.get("SEMAUG_TEST_DATA", Path(__file__).parents[4] / "shared"))


@pytest.fixture(scope="module")
def pairs() -> PairTable:
    """Both pairs of the four images of each of the ten classes."""
    return paired_scenes(40)


def paired_scenes(images: int) -> PairTable:
    """Every image once, with the next one of its class."""
    source = ScenesSource("train", images)
    keys: dict[str, list[str]] = {}
    for i in range(images):
        keys.setdefault(source.class_names[source.label(i)], []).append(source.key(i))
    rows = [
        SemanticPair(pair_id_of(a, b), name, a, b)
        for name, of_class in keys.items()
        for a, b in zip(of_class[::2], of_class[1::2], strict=True)
    ]
    return PairTable.of(rows, source=source.fingerprint)


def study(item="T1", scale="tiny", **changes) -> PairStudy:
    return PairStudy(pair_items()[item], pair_scales()[scale], TRAIN, TRAIN, TEST, **changes)


def test_every_arm_of_a_setting_takes_the_same_steps_seeds_and_weights(pairs, tmp_path) -> None:
    grouped = study_jobs(study(scale="smoke"), pairs, tmp_path)
    assert set(grouped) == {"200 epochs", "400 epochs", "800 epochs"}
    for name, arms in grouped.items():
        assert list(arms) == ["SP", "AP", "AP-all-images", "random-same-class", "SupCon"]
        plans = [[job.plan for job in jobs] for jobs in arms.values()]
        assert {p.steps for row in plans for p in row} == {200 * int(name.split()[0]) // 200}
        assert all([p.seed for p in row] == [0, 1, 2] for row in plans)
        assert {p.batch_size for row in plans for p in row} == {20}
        same = [replace(p, method="", recipe="", pair_options={}) for row in plans for p in row if p.seed == 1]
        assert all(p == same[0] for p in same)
    forms = {a: PairTable.open(jobs[0].plan.pair_options["semantic"]) for a, jobs in grouped["200 epochs"].items()}
    assert {arm: len(table) for arm, table in forms.items()} == {
        "SP": 20, "AP": 20, "AP-all-images": 40, "random-same-class": 20, "SupCon": 40
    }  # fmt: skip
    assert [row.pair_id for row in forms["AP"].rows] == [row.pair_id for row in forms["SP"].rows]
    assert all(row.image_a == row.image_b for row in forms["AP"].rows)
    assert set(forms["AP-all-images"].images) == set(forms["SP"].images)


def test_subsets_are_nested_and_keep_the_papers_proportions(tmp_path) -> None:
    pairs, small = paired_scenes(80), study("T5", controls=False)
    assert [small.per_class(cell) for cell in small.item.cells] == [2, 3, 4]
    full = study("T5", "smoke", controls=False)
    assert [full.per_class(cell) for cell in full.item.cells] == [50, 100, 157]
    grouped = study_jobs(small, pairs, tmp_path)
    ids = [
        {row.pair_id for row in PairTable.open(arms["SP"][0].plan.pair_options["semantic"]).rows}
        for arms in grouped.values()
    ]
    assert ids[0] < ids[1] < ids[2]


def test_settings_that_train_alike_share_their_runs(pairs, tmp_path) -> None:
    grouped = study_jobs(study("T4"), pairs, tmp_path)
    assert len({arms["SP"][0].out for arms in grouped.values()}) == 1
    assert all(job.finetune for arms in grouped.values() for jobs in arms.values() for job in jobs)
    assert grouped["STL-10"]["SP"][0].plan.hyperparameters == {"outputs": 256}
    dino = study_jobs(study("T4", "paper"), pairs, tmp_path)["STL-10"]["SP"][0].plan
    assert (dino.method, dino.recipe, dino.backbone, dino.steps, dino.hyperparameters) == (
        "dino", "paper", None, 300, {}
    )  # fmt: skip


def test_transforms_and_rotation_reach_the_pairs(pairs, tmp_path) -> None:
    grouped = study_jobs(study("Fig5"), pairs, tmp_path)
    options = {name: arms["SP"][0].plan.pair_options for name, arms in grouped.items()}
    assert {name: o["transforms"] for name, o in options.items()} == {name: name for name in grouped}
    assert all(o["rotation"] == (0.5, 15.0) for o in options.values())


def test_another_set_is_asked_for_and_compared_with(pairs, tmp_path) -> None:
    with pytest.raises(InvalidOption, match="give --other"):
        study_jobs(study("T2"), pairs, tmp_path)
    arms = study_jobs(study("T2", other="scenes:train?items=50"), pairs, tmp_path)["STL-10"]
    assert list(arms) == ["SP", "other"]
    assert (arms["other"][0].plan.images, arms["other"][0].plan.pairs) == ("scenes:train?items=50", "standard")


def outcome(value: float | None) -> Outcome:
    if value is None:
        return Outcome("run", None, "TrainingDiverged: no")
    return Outcome("run", {name: {"value": value} for name in (study_module.LINEAR, study_module.KNN)})


def test_gains_are_paired_and_ranked_and_failures_told() -> None:
    values = {"50 a class": (0.5, 0.4), "100 a class": (0.6, 0.3), "157 a class": (0.7, 0.65)}
    found = {
        name: {"SP": [outcome(sp + d) for d in (0, 0.01, 0.02)], "AP": [outcome(ap + d) for d in (0, 0.01, 0.03)]}
        for name, (sp, ap) in values.items()
    }
    found["157 a class"]["AP"][1] = outcome(None)
    result = summarise_cells(study("T5", controls=False), found)
    assert [cell.cell.name for cell in result.cells] == ["100 a class", "50 a class", "157 a class"]
    assert result.cells[0].gains["AP"].mean == pytest.approx((0.3 + 0.3 + 0.29) / 3)
    assert result.cells[2].gains["AP"].n == 2
    assert len(result.failed) == 1


def test_the_verdict_names_the_best_control_but_not_the_labelled_reference() -> None:
    values = {"SP": 0.5, "AP": 0.4, "AP-all-images": 0.44, "random-same-class": 0.48, "SupCon": 0.6}
    found = {"200 epochs": {arm: [outcome(v + d) for d in (0, 0.01)] for arm, v in values.items()}}
    plan = study(scale="smoke", only=("200 epochs",))
    told = verdict(plan, summarise_cells(plan, found))
    assert told.startswith(
        "200 epochs: **SP minus AP +10.0 points (+10.0 to +10.0, zero is left out; 2 paired seeds)**"
    )
    assert "Against the best control, random-same-class: +2.0 points" in told
    nothing = {"200 epochs": {arm: [outcome(None)] * 2 for arm in values}}
    assert verdict(plan, summarise_cells(plan, nothing)).startswith("No verdict")


def test_the_printed_numbers_are_the_papers() -> None:
    path = SHARED / "paper_tables.json"
    if not path.exists():
        pytest.skip("no paper_tables.json where SEMAUG_TEST_DATA says")
    rows = {(r["table"], r["row"], r["column"]): r["value"] for r in json.loads(path.read_text()) if r["paper"] == "P2"}
    items = pair_items()
    for cell in items["T1"].cells:
        key = cell.name.replace(" epochs", "ep")
        assert cell.paper == {arm: rows["T1", key, arm] for arm in ("SP", "AP")}
    for cell in items["T2"].cells:
        assert cell.paper == {"SP": rows["T2", "SP", cell.name], "other": rows["T2", "Tiny-ImageNet", cell.name]}
    for cell in items["T3"].cells:
        assert cell.paper == {arm: rows["T3", arm, cell.name] for arm in ("SP", "AP")}
    for cell in items["T4"].cells:
        assert cell.paper == {arm: rows["T4", f"DINO({arm})", cell.name] for arm in ("SP", "AP")}
    for cell in items["T5"].cells:
        assert cell.paper == {arm: rows["T5", cell.name.replace(" a ", "/"), arm] for arm in ("SP", "AP")}
    removed = {cell.name: cell.paper for cell in items["Fig5"].cells}
    drop = rows["Fig5", "SimCLR(AP) no grayscale", "drop"]
    assert removed["no_gray"]["AP"] == pytest.approx(rows["T1", "200ep", "AP"] - drop)
    assert removed["crop_only"]["AP"] == rows["Fig5", "SimCLR(AP) crop only", "accuracy"]


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(InvalidOption, match="T1, T2"):
        chosen("item", "T9", pair_items())
    with pytest.raises(InvalidOption, match="200 epochs"):
        study(only=("100 epochs",)).cells()


def test_a_whole_study_runs_resumes_and_says_that_it_is_not_the_papers(pairs, tmp_path) -> None:
    plan = study(only=("200 epochs",), controls=False)
    result = run_pair_study(plan, pairs, tmp_path)
    assert not result.failed
    (cell,) = result.cells
    assert set(cell.scores) == {"SP", "AP"}
    assert cell.gains["AP"].mean == pytest.approx(
        cell.scores["SP"].mean(cell.metric) - cell.scores["AP"].mean(cell.metric)
    )
    text = (tmp_path / "report.html").read_text()
    assert "Not comparable with the paper" in text
    assert "85.59" in text
    weights = {p: p.read_bytes() for p in tmp_path.glob("runs/**/encoder.safetensors")}
    assert len(weights) == 2
    inputs = [json.loads(p.with_name("encoder.json").read_text())["inputs"] for p in sorted(weights)]
    forms = [PairTable.open(tmp_path / "pairs" / f"{form}-20.zarr") for form in ("augmented", "semantic")]
    assert [i["pairs"] for i in inputs] == [form.digest for form in forms]
    again = run_pair_study(plan, pairs, tmp_path)
    assert again.cells[0].gains == cell.gains
    assert all(p.read_bytes() == data for p, data in weights.items())
    assert any("20 pairs" in reason for reason in not_comparable(plan, pairs))
    assert open_source(TRAIN).fingerprint in (tmp_path / "results.json").read_text()
