"""One run's evaluation as a report: linear probe, kNN, learning curves and a t-SNE map."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.studies.evaluation import measures, ran_on, run_knn, run_linear, write_results

if TYPE_CHECKING:
    from semaug.eval.features import Features
    from semaug.eval.figures.curves import Curve
    from semaug.eval.probes.knn import KnnResult
    from semaug.eval.report import Block, Provenance, Section


def evaluate_and_report(
    run: Path,
    out: Path,
    train: Features,
    test: Features,
    *,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> tuple[dict[str, Any], Path]:
    """Run every protocol that fits, write ``linear.json``, ``knn.json`` and ``report.html`` to ``out``.

    Returns all measures and the page.
    """
    from semaug.eval.report import Report, write_report

    knn = run_knn(train, test, device=device, seed=seed)
    linear = run_linear(train, test, device=device, seed=seed, on_progress=on_progress)
    rows = {**measures(linear), **measures(knn)}
    where = ran_on(run, {}, settings={"seed": seed}, device=device)
    write_results(out, "linear", measures(linear), ran_on=where, warnings=linear.warnings)
    write_results(out, "knn", measures(knn), ran_on=where, warnings=knn.warnings)
    sections = [_scores(rows, (*linear.warnings, *knn.warnings)), *_curves_section(run), _knn_section(knn), _map(test)]
    verdict = f"Linear accuracy **{linear.top1:.1%}** on {linear.n:,} test images."
    report = Report(f"Evaluation of {run.name}", verdict, tuple(sections), provenance(run, train, test))
    page = out / "report.html"
    write_report(page, report)
    return rows, page


def _scores(rows: dict[str, Any], warnings: tuple[str, ...]) -> Section:
    from semaug.eval.report import Column, Missing, Paragraph, Section, Table
    from semaug.studies.evaluation import headline

    lines = []
    for name, row in headline(rows).items():
        value = Missing(row["reason"]) if row["value"] is None else row["value"]
        lines.append((name, value, row["n"]))
    columns = (Column("metric"), Column("value", unit="%", scale=100), Column("n", digits=0))
    table = Table(
        "Scores on the test images",
        columns,
        tuple(lines),
        "k and T, and the penalty, were chosen on a split of the training images.",
    )
    return Section("Scores", (table, *(Paragraph(w, "warning") for w in dict.fromkeys(warnings))))


def curves_of(name: str, runs: list[Path], column: str) -> Curve | None:
    """One series of ``metrics.csv`` over several runs of one variant, on the steps that all of them have."""
    from semaug.eval.figures.curves import Curve
    from semaug.ssl_methods.metrics import read_rows

    tables = [{int(r["step"]): float(r[column]) for r in read_rows(run / "metrics.csv") if column in r} for run in runs]
    steps = sorted(set.intersection(*(set(t) for t in tables))) if tables else []
    return Curve(name, steps, [[t[s] for s in steps] for t in tables]) if steps else None


def _curves_section(run: Path) -> list[Section]:
    from semaug.eval.figures.curves import learning_curves
    from semaug.eval.report import Figure, Section

    blocks: list[Block] = []
    for column, label in (("loss", "training loss"), ("knn", "kNN accuracy")):
        curve = curves_of(run.name, [run], column)
        if curve is not None:
            image = learning_curves([curve], label)
            blocks.append(Figure(image, f"The {label} while training.", f"{label} over steps"))
    return [Section("Learning curves", tuple(blocks))] if blocks else []


def _knn_section(knn: KnnResult) -> Section:
    from semaug.eval.figures.knn import knn_heatmap
    from semaug.eval.report import Figure, Section

    grids = [(g.space, g) for g in (knn.backbone, knn.projector) if g is not None]
    caption = "kNN accuracy over k and temperature."
    return Section("Nearest neighbours", (Figure(knn_heatmap(grids), caption, caption, wide=len(grids) > 1),))


def _map(test: Features) -> Section:
    from semaug.eval.errors import EvaluationError
    from semaug.eval.figures.embedding import embedding_map, tsne_map
    from semaug.eval.report import Figure, Paragraph, Section

    try:
        points, labels = tsne_map(test)
    except EvaluationError as error:
        return Section("t-SNE", (Paragraph(f"No map: {error}", "note"),))
    image = embedding_map([("test images", points, labels)], test.class_names)
    return Section("t-SNE", (Figure(image, "Backbone features of the test images.", "t-SNE map, one colour a class"),))


def provenance(run: Path, train: Features, test: Features) -> Provenance:
    """Where a run's numbers come from."""
    from semaug.eval.report import Provenance
    from semaug.ssl_methods import load_card

    card = load_card(run)
    facts = {
        "hardware": hardware(),
        "images": f"{len(train):,} training, {len(test):,} test",
        "run": f"{card.method}, {card.backbone}, {card.steps:,} steps, seed {card.seed}",
    }
    return Provenance(
        facts=facts,
        versions=card.versions,
        fingerprints={**card.inputs, "weights": card.weights_digest},
        config=card.config,
    )


def hardware() -> str:
    """The machine in a few words."""
    import os

    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{gpu}"
