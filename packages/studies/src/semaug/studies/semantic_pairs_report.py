"""The report of a study of semantic pairs: gains ranked, controls, the paper's numbers beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.sources import open_source
from semaug.artifacts.store import package_versions
from semaug.studies.comparison import best_control
from semaug.studies.run_page import hardware
from semaug.studies.semantic_pairs_study import (
    CONTROLS,
    KNN,
    SUPCON,
    CellResult,
    PairStudy,
    PairStudyResult,
    config_of,
    not_comparable,
)

if TYPE_CHECKING:
    from semaug.eval.report import Block, Cell, Provenance, Section
    from semaug.eval.statistics import PairedDifference
    from semaug.pairs_dataset.pair_table import PairTable


def write_pair_report(out: Path, study: PairStudy, pairs: PairTable, result: PairStudyResult) -> Path:
    """Write ``report.html`` and ``results.json`` to ``out``; what failed is said in it."""
    from semaug.eval.report import Paragraph, Report, Section, write_report

    sections = [_gains(study, result)]
    if study.controls and any(len(cell.scores) > 2 for cell in result.cells):
        sections.append(_controls(study, result))
    reasons = not_comparable(study, pairs)
    sections.append(Section("Beside the paper", (_paper(study, result), Paragraph(_because(reasons), "note"))))
    if study.item.evaluation == "detect":
        sections.append(_detection(study, out))
    if result.failed:
        sections.insert(0, Section("What failed", tuple(Paragraph(line, "warning") for line in result.failed)))
    title = f"Semantic pairs, {study.item.name}: {study.item.title}"
    report = Report(
        title, verdict(study, result), tuple(sections), _provenance(study, pairs), f"scale {study.scale.name}"
    )
    return write_report(out / "report.html", report)


def verdict(study: PairStudy, result: PairStudyResult) -> str:
    """The largest gain over the second arm, and the same setting against its best control."""
    first, second = study.item.arms[:2]
    done = [cell for cell in result.cells if second in cell.gains]
    if not done:
        return "No verdict: no setting has finished in both arms."
    best = done[0]
    text = f"{best.cell.name}: **{first} minus {second} {_said(best.gains[second])}**."
    controls = [arm for arm in CONTROLS if arm != SUPCON and arm in best.gains]
    control = best_control(best.scores, controls, best.metric)
    if control in (None, second):
        return text
    return f"{text} Against the best control, {control}: {_said(best.gains[control])}."


def _said(gain: PairedDifference) -> str:
    points = f"{100 * gain.mean:+.1f} points"
    if gain.low is None or gain.high is None:
        return f"{points} (one seed: no interval, no claim)"
    words = "zero is left out" if gain.separated else "zero is within"
    return f"{points} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, {words}; {gain.n} paired seeds)"


def _gains(study: PairStudy, result: PairStudyResult) -> Section:
    from semaug.eval.report import Column, Missing, Section, Table

    first, second = study.item.arms[:2]
    metric = result.cells[0].metric
    columns = (
        Column("setting"),
        Column(first, unit="%", scale=100),
        Column(second, unit="%", scale=100),
        Column(f"{first} - {second}", unit="pt", scale=100, signed=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for cell in result.cells:
        scores = [_summary(cell, arm) for arm in (first, second)]
        rows.append((cell.cell.name, *scores, cell.gains.get(second, Missing("a run failed"))))
    note = (
        f"{metric}: mean and standard deviation over {len(study.scale.seeds)} seeds; seeds are paired. Brackets: 95% "
        "interval of the paired difference. Settings are ranked by the difference."
    )
    return Section("Gains, ranked", (Table(study.item.title, columns, tuple(rows), note),))


def _summary(cell: CellResult, arm: str) -> Cell:
    from semaug.eval.report import Missing

    return cell.scores[arm].summary(cell.metric) if arm in cell.scores else Missing("its runs failed")


def _controls(study: PairStudy, result: PairStudyResult) -> Section:
    from semaug.eval.report import Column, Missing, Paragraph, Section, Table

    first = study.item.arms[0]
    columns = (
        Column("setting"), Column("arm"), Column("accuracy", unit="%", scale=100), Column("kNN", unit="%", scale=100),
        Column(f"{first} minus it", unit="pt", scale=100, signed=True),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for cell in result.cells:
        for arm, score in cell.scores.items():
            knn: Cell = score.summary(KNN) if score.values.get(KNN) else Missing("not measured")
            rows.append((cell.cell.name, arm, score.summary(cell.metric), knn, cell.gains.get(arm)))
    text = (
        "All arms train for the same number of steps. `AP-all-images` pairs every image of the semantic pairs with "
        "itself, so it sees as many images; `random-same-class` pairs images of a class at random; `SupCon` is a loss "
        "made for labels, on the views of `AP-all-images`."
    )
    return Section("Controls", (Paragraph(text), Table("Every arm", columns, tuple(rows))))


def _paper(study: PairStudy, result: PairStudyResult) -> Block:
    from semaug.eval.report import Column, Missing, Table

    first, second = study.item.arms[:2]
    columns = (
        Column("setting"),
        *(Column(f"paper, {arm}", digits=2, unit="%") for arm in (first, second)),
        Column("paper, difference", digits=2, unit="pt", signed=True),
        Column("ours, difference", digits=2, unit="pt", scale=100, signed=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for cell in result.cells:
        printed: list[Cell] = [cell.cell.paper.get(arm, Missing("not printed")) for arm in (first, second)]
        both = first in cell.cell.paper and second in cell.cell.paper
        gap: Cell = cell.cell.paper[first] - cell.cell.paper[second] if both else Missing("not printed")
        rows.append((cell.cell.name, *printed, gap, cell.gains.get(second)))
    notes = [f"{cell.cell.name}: {cell.cell.note}" for cell in result.cells if cell.cell.note]
    return Table("The printed numbers", columns, tuple(rows), ". ".join(notes))


def _because(reasons: list[str]) -> str:
    return "**Not comparable with the paper**: " + "; ".join(reasons) + "."


def _detection(study: PairStudy, out: Path) -> Section:
    from semaug.eval.report import Code, Paragraph, Section

    runs = sorted(str(p.parent) for p in (out / "runs").glob("*/*/*/encoder.json"))
    lines = "\n".join(f"semaug eval detect {run} --train voc/trainval --test voc/test" for run in runs)
    text = "The paper scores these encoders by detection, which is another verb on the same runs:"
    return Section("Detection", (Paragraph(text), Code(lines)))


def _provenance(study: PairStudy, pairs: PairTable) -> Provenance:
    from semaug.eval.report import Provenance

    places = {"images": study.images, "train": study.train, "test": study.test}
    prints = {role: open_source(spec).fingerprint for role, spec in places.items()}
    facts: dict[str, Any] = {"hardware": hardware(), "seeds": ", ".join(map(str, study.scale.seeds))}
    facts["pairs"] = f"{len(pairs):,} of {len(pairs.by_class)} classes"
    command = f"semaug pairs compare PAIRS --images IMAGES --item {study.item.name} --scale {study.scale.name}"
    return Provenance((command,), facts, package_versions(), {**prints, "pairs": pairs.digest}, config_of(study))
