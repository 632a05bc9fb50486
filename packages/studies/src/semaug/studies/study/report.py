"""The report of a study: one page, ``results.json``, ``results.csv`` and rows for LaTeX."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.files import write_atomic
from semaug.artifacts.store import package_versions
from semaug.studies.study.catalogue import WHOLE
from semaug.studies.study.completing import COMPARE, PATTERN
from semaug.studies.study.data import held_out_share
from semaug.studies.study.kinds import kind_of
from semaug.studies.study.paper import PAPERS, PaperCell
from semaug.studies.study.pictures import picture_sections
from semaug.studies.study.plan import Study
from semaug.studies.study.results import Gain, Line, Results, not_comparable, read_results
from semaug.studies.study.schema import Setting

if TYPE_CHECKING:
    from semaug.eval.report import Block, Cell, Column, Provenance, Section
    from semaug.eval.statistics import PairedDifference
    from semaug.studies.study.running import StudyDone

_PLAIN = Setting().model_dump(exclude={"epochs", "title", "cell"})
CSV, LATEX = "results.csv", "results.tex"


def write_study_report(out: Path) -> StudyDone:
    """Write ``report.html``, ``results.json``, ``results.csv`` and ``results.tex`` from what the folder holds now.

    Raises ``InvalidOption`` where it holds no study.
    """
    from semaug.eval.report import Report, write_report
    from semaug.studies.study.running import StudyDone

    results, ready = read_results(out)
    study = results.study
    sections = [*_failures(results), *_paper(results), *_gains(results), *_measures(results), *_curves(results)]
    sections += kind_of(study.preset).sections(study, ready)
    sections += picture_sections(out)
    sections += [*_costs(results), _about(study)]
    told = verdict(results)
    subtitle = f"{PAPERS[study.preset.paper]}, {study.preset.item}, scale {study.scale_name}"
    report = Report(study.preset.title, told, tuple(sections), _provenance(results), subtitle)
    page = write_report(out / "report.html", report)
    write_atomic(out / CSV, results_csv(results).encode())
    write_atomic(out / LATEX, results_latex(results).encode())
    return StudyDone(page, told, results.failed)


def verdict(results: Results) -> str:
    """The largest gain over the best control, at equal steps and at equal total cost, and how many are told from
    zero."""
    own, gains = kind_of(results.study.preset).verdict(results), results.gains
    if own is not None:
        return own
    if not gains:
        return _without_gains(results)
    best = max(gains, key=lambda gain: gain.at_steps.mean)
    where = f" with {best.setting}" if results.study.preset.settings else ""
    text = f"**{best.variant}{where}: {_said(best.at_steps)}** against the best control, {best.control}, at equal steps"
    text = text if len(gains) == 1 else f"The largest of {len(gains)} gains is of {text}"
    if best.longer is not None and best.longer.factor > 1 and best.at_cost is not None:
        text += f"; {_said(best.at_cost)} at equal total cost ({best.longer.factor:g} times the steps)"
    told = sum(gain.separated for gain in gains)
    plural = "comparison" if len(gains) == 1 else "comparisons"
    text += f". {told} of {len(gains)} {plural} at equal steps leave zero out after Holm's adjustment."
    return text + _failed(results)


def _without_gains(results: Results) -> str:
    if kind_of(results.study.preset).compares:
        return f"No verdict: no variant has finished beside a control.{_failed(results)}"
    ratio = results.measured.get("costs/ratio", {}).get("value")
    told = (
        "Measured, not compared." if ratio is None else f"Preparation and training take **{ratio:.2f} times** training."
    )
    return told + _failed(results)


def _failed(results: Results) -> str:
    count = len(results.failed)
    return f" {count} {'part' if count == 1 else 'parts'} failed." if count else ""


def _said(difference: PairedDifference) -> str:
    points = f"{_points(difference.mean)} points"
    if difference.low is None or difference.high is None:
        return f"{points} (one seed: no interval, no claim)"
    return f"{points} (95% interval {_points(difference.low)} to {_points(difference.high)})"


def _points(share: float) -> str:
    """A signed number of points.

    >>> _points(-1e-9), _points(0.012)
    ('+0.0', '+1.2')
    """
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _failures(results: Results) -> list[Section]:
    from semaug.eval.report import Paragraph, Section

    lines = tuple(Paragraph(line, "warning") for line in results.failed)
    return [Section("What failed", lines)] if lines else []


def _paper(results: Results) -> list[Section]:
    from semaug.eval.report import Column, Missing, Paragraph, Section

    if not results.lines:
        return []
    unit = results.lines[0].cell.unit
    columns = (
        Column("setting"), Column("variant"), Column("measure"), Column("paper", digits=2),
        Column("ours", digits=2), Column("n", digits=0), Column("ours - paper", digits=2, signed=True), Column("note"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for line in results.lines:
        ours: Cell = line.ours or Missing(line.reason)
        printed: Cell = line.cell.text if line.cell.value is None else line.cell.value
        n = line.ours.n if line.ours else None
        rows.append((line.setting, line.variant, line.metric, printed, ours, n, line.difference, line.cell.note))
    note = f"In {unit}. After ±: the standard deviation over seeds. Notes mark what is misprinted or contradicted."
    blocks: list[Block] = [_table("The printed numbers and ours", columns, rows, note)]
    if reasons := not_comparable(results.study):
        blocks.append(Paragraph("**Not comparable with the paper**: " + "; ".join(reasons) + ".", "note"))
    return [Section("Beside the paper", tuple(blocks))]


def _table(caption: str, columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]], note: str) -> Block:
    """A table without the columns `setting`, `note` and `paper` where they tell nothing."""
    from semaug.eval.report import Missing, Table

    empty: dict[str, set[Cell]] = {"setting": {WHOLE}, "note": {""}, "paper": {Missing("not printed")}}
    kept = [i for i, c in enumerate(columns) if not {row[i] for row in rows} <= empty.get(c.name, set())]
    shown = tuple(tuple(row[i] for i in kept) for row in rows)
    return Table(caption, tuple(columns[i] for i in kept), shown, note)


def _gains(results: Results) -> list[Section]:
    from semaug.eval.report import Column, Missing, Section

    if not results.gains:
        return []
    point = {"unit": "pt", "scale": 100, "signed": True}
    columns = (
        Column("setting"), Column("variant"), Column("best control"), Column("at equal steps", **point),  # type: ignore[arg-type]
        Column("p, Holm", digits=3), Column("cost", digits=2, unit="x"),
        Column("at equal total cost", **point), Column("paper", digits=2, unit="pt", signed=True),  # type: ignore[arg-type]
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for gain in results.gains:
        cost = gain.longer.ratio if gain.longer else 1.0
        equal: Cell = gain.at_cost or (Missing("its runs failed") if gain.longer else gain.at_steps)
        p: Cell = Missing("one seed") if gain.p_value is None else gain.p_value
        printed: Cell = Missing("not printed") if gain.paper is None else gain.paper
        rows.append((gain.setting, gain.variant, gain.control, gain.at_steps, p, cost, equal, printed))
    seeds = len(results.study.chosen_seeds)
    note = (
        f"{results.study.preset.primary}, {seeds} paired seeds: variants share first weights, order and colours. "
        "Brackets: 95% interval of the paired difference. Cost: training and making the artifacts, as a multiple of "
        "the control's training; at equal total cost the control trains for as much longer"
        f"{_capped(results)}."
    )
    table = _table("Each variant minus its best control", columns, rows, note)
    return [Section("Gains over the best control", (table, *_bars(results)))]


def _capped(results: Results) -> str:
    cut = [a for a in results.longer if 1 < a.factor < round(a.ratio, 2)]
    fixed = list(dict.fromkeys(a.control for a in results.longer if a.factor == 1))
    text = f", at most {cut[0].factor:g} times, which favours the variant" if cut else ""
    return f"{text}; {', '.join(fixed)} cannot, being fitted to the end" if fixed else text


def _bars(results: Results) -> Iterator[Block]:
    from semaug.eval.figures.bars import DifferenceRow, difference_bars
    from semaug.eval.report import Figure

    primary = results.study.preset.primary
    rows = []
    for gain in results.gains:
        own, other = (results.score(gain.setting, name, [primary]) for name in (gain.variant, gain.control))
        name = gain.variant if not results.study.preset.settings else f"{gain.setting}: {gain.variant}"
        rows.append(DifferenceRow(name, gain.at_steps, own.pairs(other, primary)))
    if rows and any(row.difference.low is not None for row in rows):
        image = difference_bars(rows, f"difference in {primary}, points")
        caption = "Gains over the best control at equal steps: mean, 95% interval, and the single seeds as dots."
        yield Figure(image, caption, "paired differences of each variant against its best control")


def _measures(results: Results) -> list[Section]:
    from semaug.eval.report import Column, Missing, Section

    metrics = headline_metrics(results)
    if not metrics or not results.runs:
        return []
    columns = (
        Column("setting"), Column("variant"), Column("steps", digits=0),
        *(Column(metric, unit="%", scale=100, best="max") for metric in metrics), Column("training", unit="s"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for setting, variant in dict.fromkeys((run.setting, run.variant) for run in results.runs):
        values: list[Cell] = [results.summary(setting, variant, m) or Missing("not measured") for m in metrics]
        steps = results.of(setting, variant)[0].steps
        rows.append((setting, variant, steps, *values, results.seconds(setting, variant)))
    note = "Mean and standard deviation over seeds. `x2.43` marks a control that trained for as much longer."
    return [Section("Every variant", (_table("What was measured", columns, rows, note),))]


def headline_metrics(results: Results) -> list[str]:
    """The metrics that a person reads: those that the paper prints, the primary one, and the probes' own."""
    cells = results.study.preset.cells
    wanted = [results.study.preset.primary, *(cells.measures.values() if cells else ())]
    wanted += ["linear/top1", "knn/backbone/top1"]
    known = {metric for run in results.runs for metric in (run.rows or {})}
    return [metric for metric in dict.fromkeys(wanted) if metric in known]


def _curves(results: Results) -> list[Section]:
    from semaug.eval.figures.curves import learning_curves
    from semaug.eval.report import Figure, Section
    from semaug.studies.run_page import curves_of

    blocks: list[Block] = []
    for setting in dict.fromkeys(run.setting for run in results.runs):
        folders: dict[str, list[Path]] = {}
        for run in results.runs:
            planned = run.variant in results.study.preset.variants  # longer controls would shrink the others
            if planned and run.setting == setting and (run.folder / "metrics.csv").is_file():
                folders.setdefault(run.variant, []).append(run.folder)
        curves = [c for name, paths in folders.items() if (c := curves_of(name, paths, "loss")) is not None]
        if curves:
            of = f" with {setting}" if results.study.preset.settings else ""
            caption = f"The training loss{of}: mean over the seeds, and their range."
            blocks.append(Figure(learning_curves(curves, "training loss"), caption, f"training loss over steps{of}"))
    return [Section("Learning curves", (*_over_steps(results), *blocks))] if blocks else []


def _over_steps(results: Results) -> Iterator[Block]:
    """Where settings differ in nothing but how long they train: the primary metric over the steps."""
    from semaug.eval.figures.curves import Curve, learning_curves
    from semaug.eval.report import Figure

    settings, primary = results.study.preset.settings, results.study.preset.primary
    if len(settings) < 2 or any(s.model_dump(exclude={"epochs", "title", "cell"}) != _PLAIN for s in settings.values()):
        return
    curves = []
    for variant in results.study.preset.variants:
        runs = [[run.value(primary) for run in results.of(setting, variant)] for setting in settings]
        seeds = [list(row) for row in zip(*runs, strict=True) if None not in row]
        if seeds:
            steps = [results.of(setting, variant)[0].steps for setting in settings]
            curves.append(Curve(variant, steps, seeds))
    if curves:
        caption = f"{primary} over the length of training: mean over the seeds, and their range."
        yield Figure(learning_curves(curves, primary), caption, f"{primary} over the number of steps of each variant")


def _costs(results: Results) -> list[Section]:
    from semaug.eval.report import Column, Section, Table

    made = [(a.name, a.data, a.seconds) for a in results.artifacts if a.path is not None]
    if not made:
        return []
    columns = (Column("artifact"), Column("data"), Column("seconds", digits=1))
    note = "Seconds of one worker for the artifact and all it is made of; loading models is left out."
    return [Section("What preparation took", (Table("Artifacts", columns, tuple(made), note),))]


def _about(study: Study) -> Section:
    from semaug.eval.report import Column, Paragraph, Section, Table

    roles: list[tuple[str, ...]] = [(f"data {d.name}", d.wants, d.origin, d.train or "-") for d in study.data.values()]
    roles += [(f"model {w.role}", w.role, w.origin, w.model) for w in study.weights.values()]
    columns = (Column("role"), Column("what is wanted"), Column("filled by"), Column("from"))
    blocks: list[Block] = [Paragraph(study.preset.text)]
    variants = [(n, v.title or v.pairs, "yes" if v.control else "") for n, v in study.preset.variants.items()]
    if variants:
        blocks.append(Table("Variants", (Column("variant"), Column("what it is"), Column("control")), tuple(variants)))
    if roles:
        blocks.append(Table("Data and models", columns, tuple(roles)))
    return Section("About this study", tuple(blocks))


def command_of(study: Study) -> str:
    """The command that runs it again."""
    words = ["semaug", "study", "run", study.preset.name, "--scale", study.scale_name, "--out", str(study.out)]
    for data in study.data.values():
        if data.origin == "given":
            words += ["--data", f"{data.name}.train={data.train}"]
            words += [] if held_out_share(data.test) else ["--data", f"{data.name}.test={data.test}"]
    for weights in study.weights.values():
        words += ["--weights", f"{weights.role}={weights.model}"] if weights.origin == "given" else []
    for name, path in study.made.items():
        guides = f"{PATTERN}{name}" in study.preset.variants
        words += ["--guidance" if guides else "--artifact", f"{name}={path}"]
    for name, text in study.notes.items():
        words += ["--guidance-note", f"{name}={text}"]
    words += ["--method", study.preset.method] if study.preset.kind == COMPARE else []
    words += [word for name in study.only for word in ("--only", name)]
    if study.seeds and len(study.seeds) != study.scale.seeds:
        words += ["--seeds", str(len(study.seeds))]
    return shlex.join(words)


def _provenance(results: Results) -> Provenance:
    from semaug.eval.report import Provenance
    from semaug.studies.run_page import hardware

    study = results.study
    facts = {"hardware": hardware(), "seeds": ", ".join(map(str, study.chosen_seeds)), "scale": study.scale.text}
    prints = {f"{a.name} of {a.data}": a.digest for a in results.artifacts if a.path is not None}
    inputs = next((run for run in results.runs if run.rows is not None), None)
    if inputs is not None and (inputs.folder / "encoder.json").is_file():
        from semaug.ssl_methods import load_card

        prints |= {f"{role} of the first run": text for role, text in load_card(inputs.folder).inputs.items()}
    return Provenance((command_of(study),), facts, package_versions(), prints, study.identity())


COLUMNS = (
    "study", "scale", "paper", "item", "setting", "variant", "metric", "unit", "paper_value", "ours", "sd", "n",
    "difference", "control", "gain", "gain_low", "gain_high", "gain_p_holm", "gain_at_equal_cost", "comparable", "note",
)  # fmt: skip


def results_csv(results: Results) -> str:
    """Every printed cell with our number and, in the primary metric, the gain over the best control, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    gains = {(g.setting, g.variant): g for g in results.gains}
    comparable = "no" if not_comparable(results.study) else "yes"
    for line in results.lines:
        gain = gains.get((line.setting, line.variant)) if line.metric == results.study.preset.primary else None
        writer.writerow(_csv_row(results.study, line, gain) | {"comparable": comparable})
    if results.study.preset.cells is None:
        writer.writerows(_unprinted(results, gains))
    return text.getvalue()


def _unprinted(results: Results, gains: Mapping[tuple[str, str], Gain]) -> Iterator[dict[str, Any]]:
    """A row for each variant and measure of a study that no paper prints, in per cent."""
    for setting, variant in dict.fromkeys((run.setting, run.variant) for run in results.runs):
        for metric in headline_metrics(results):
            ours = results.summary(setting, variant, metric, 100)
            line = Line(setting, variant, metric, PaperCell("", None, "%"), ours, "" if ours else "not measured")
            gain = gains.get((setting, variant)) if metric == results.study.preset.primary else None
            yield _csv_row(results.study, line, gain) | {"comparable": ""}


def _csv_row(study: Study, line: Line, gain: Gain | None) -> dict[str, Any]:
    ours = line.ours
    row: dict[str, Any] = {
        "study": study.preset.name, "scale": study.scale_name, "paper": study.preset.paper, "item": study.preset.item,
        "setting": line.setting, "variant": line.variant, "metric": line.metric, "unit": line.cell.unit,
        "paper_value": line.cell.text, "ours": ours.mean if ours else "", "sd": ours.sd if ours else "",
        "n": ours.n if ours else 0, "difference": line.difference, "note": line.cell.note or line.reason,
    }  # fmt: skip
    if gain is not None:
        scale = 100.0 if study.preset.cells is None else study.preset.cells.unit_scale
        points = {"gain": gain.at_steps.mean, "gain_low": gain.at_steps.low, "gain_high": gain.at_steps.high}
        points["gain_at_equal_cost"] = gain.at_cost.mean if gain.at_cost else None
        row |= {"control": gain.control, "gain_p_holm": gain.p_value}
        row |= {name: None if value is None else scale * value for name, value in points.items()}
    return row


def results_latex(results: Results) -> str:
    """Rows of a LaTeX table: setting, variant, measure, the paper's number, ours, and the difference."""
    rows = ["% setting & variant & measure & paper & ours & difference"]
    for line in results.lines:
        ours = "--" if line.ours is None else f"{line.ours.mean:.2f}"
        if line.ours is not None and line.ours.sd is not None:
            ours += rf" $\pm$ {line.ours.sd:.2f}"
        difference = "--" if line.difference is None else f"{line.difference:+.2f}"
        words = [line.setting, line.variant, line.metric, line.cell.text, ours, difference]
        rows.append(" & ".join(_escaped(w) if i < 4 else w for i, w in enumerate(words)) + r" \\")
    return "\n".join(rows) + "\n"


def _escaped(text: str) -> str:
    for sign in "%&_#":
        text = text.replace(sign, f"\\{sign}")
    return text
