"""The page of one run's evaluation: tables of measures, the overview of protocols, curves, provenance, pictures."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.files import writing
from semaug.studies.evaluation import content_of, headline
from semaug.studies.protocols.figures import PICTURES, Pictures, draw_pictures

if TYPE_CHECKING:
    from semaug.eval.figures.curves import Curve
    from semaug.eval.report import Block, Provenance, Section, Table
    from semaug.studies.protocols.subject import Subject
    from semaug.studies.run_report import Outcome, Protocol


def measures_tables(rows: Mapping[str, Any], protocol: Protocol) -> list[Table]:
    """The measures as a person reads them: first what has no space of its own, then backbone beside projector."""
    shown = headline(rows)
    spaced = {name: parts for name in shown if (parts := _parts(name, shown)) is not None}
    raw = {name: row for name, row in shown.items() if name not in spaced and _raw(name)}
    plain = {name: row for name, row in shown.items() if name not in spaced and name not in raw}
    title = f"{protocol.title}: what was measured"
    tables = [_plain_table(title, plain, protocol)] if plain else []
    tables += [_space_table(shown, spaced, protocol)] if spaced else []
    beside = replace(protocol, unit="", scale=1.0, digits=3)
    return tables + ([_plain_table(f"{protocol.title}: counts and settings", raw, beside)] if raw else [])


_RAW_WORDS = ("labelled", "learning_rate", "train_loss")


def _raw(name: str) -> bool:
    """Whether a metric is a count, a rate or a loss, also where its protocol's measures are shares."""
    return name.rsplit("/", 1)[-1].startswith(_RAW_WORDS)


_SPACES = ("backbone", "projector")
_ENDINGS = ("_std", "_interval_low", "_interval_high")
"""What is measured beside a metric: its spread, and the ends of its interval."""


def _parts(name: str, shown: Mapping[str, Any]) -> tuple[str, str] | None:
    """Space and rest of a metric that is measured in both spaces; None for others."""
    parts = _base(name).split("/")
    if len(parts) < 3 or parts[1] not in _SPACES:
        return None
    both = all("/".join((parts[0], space, *parts[2:])) in shown for space in _SPACES)
    return (parts[1], "/".join((parts[0], *parts[2:]))) if both else None  # a spread goes with its metric


def _space_table(shown: Mapping[str, Any], spaced: Mapping[str, tuple[str, str]], protocol: Protocol) -> Table:
    """One line a metric: the values in both spaces, with their standard deviations, and n."""
    from semaug.eval.report import Column, Table
    from semaug.eval.statistics import Summary

    lines: dict[str, dict[str, Any]] = {}
    for name, (space, rest) in spaced.items():
        if _base(name) in shown and _base(name) != name:
            continue
        row, sd = shown[name], shown.get(name + _ENDINGS[0], {}).get("value")
        cell = _cell(name, row, protocol)
        lines.setdefault(rest, {"n": row["n"]})[space] = cell if sd is None else Summary(row["value"], sd, row["n"])
    number = {"digits": protocol.digits, "scale": protocol.scale, "unit": protocol.unit}
    columns = (Column("metric"), *(Column(s, **number) for s in _SPACES), Column("n", digits=0))  # type: ignore[arg-type]
    cells = tuple((label_of(rest), *(line[s] for s in _SPACES), line["n"]) for rest, line in lines.items())
    spread = any(isinstance(line[s], Summary) for line in lines.values() for s in _SPACES)
    note = "After ±: the standard deviation over seeds or draws." if spread else ""
    return Table(f"{protocol.title}, in backbone and in projector space", columns, cells, note)


def _plain_table(title: str, shown: Mapping[str, Any], protocol: Protocol) -> Table:
    """One line a metric: its value, the spread and interval that were measured with it, and n; columns without any
    value are left out."""
    from semaug.eval.report import Column, Table

    lines = []
    for name, row in shown.items():
        if _base(name) in shown and _base(name) != name:
            continue
        spread = (shown.get(name + end, {}).get("value") for end in _ENDINGS)
        lines.append((label_of(name), _cell(name, row, protocol), *spread, row["n"]))
    number = {"digits": protocol.digits, "scale": protocol.scale}
    columns = [Column("metric"), Column("value", unit=protocol.unit, **number)]  # type: ignore[arg-type]
    columns += [Column(name, **number) for name in ("std", "low", "high")]  # type: ignore[arg-type]
    columns.append(Column("n", digits=0))
    kept = [i for i in range(len(columns)) if i not in (2, 3, 4) or any(line[i] is not None for line in lines)]
    return Table(
        title,
        tuple(columns[i] for i in kept),
        tuple(tuple(line[i] for i in kept) for line in lines),
        "Between low and high lies the 95% interval." if 3 in kept else "",
    )


def _cell(metric: str, row: Mapping[str, Any], protocol: Protocol) -> Any:
    """The value of a metric, or why there is none; counts of thousands, or of images, are written as whole numbers."""
    from semaug.eval.report import Missing

    value = row["value"]
    if value is None:
        return Missing(row["reason"])
    counted = protocol.scale == 1 and float(value).is_integer() and (abs(value) >= 1000 or metric.endswith("labelled"))
    return int(value) if counted else value


def _base(name: str) -> str:
    """The metric that a spread or an end of an interval belongs to."""
    return next((name.removesuffix(end) for end in _ENDINGS if name.endswith(end)), name)


def label_of(metric: str) -> str:
    """A metric's name as words, without its protocol.

    >>> label_of("knn/backbone/selected_top1")
    'backbone, selected top-1'
    """
    parts = metric.split("/")
    words = ", ".join(_WORDS.get(part, part.replace("_", " ")) for part in parts[1:] or parts)
    return words.replace("top1", "top-1").replace("top5", "top-5")


_WORDS = {
    "nmi": "NMI",
    "ari": "ARI",
    "labelled": "labelled images",
    "twonn": "TwoNN dimension",
    "mle": "MLE dimension",
    "mle_inverse_mean": "MLE dimension, inverse mean",
    "betti0_auc": "area under Betti curve 0",
    "betti1_auc": "area under Betti curve 1",
    "infonce_bound": "InfoNCE bound, nats",
    "infonce_ceiling": "InfoNCE ceiling, nats",
    "infonce_temperature": "InfoNCE temperature",
    "forward_seconds": "forward, seconds for 1,000 images",
    "forward_seconds_quartile_low": "forward, lower quartile",
    "forward_seconds_quartile_high": "forward, upper quartile",
    "read_seconds": "reading, seconds for 1,000 images",
    "memory_mb": "memory, MB",
}


def headline_of(rows: Mapping[str, Any]) -> tuple[str, float] | None:
    """The metric of a protocol that a person reads first: a top-1 accuracy, else an accuracy, else its first value."""
    known = {name: row["value"] for name, row in rows.items() if row["value"] is not None}
    order = sorted(known, key=lambda name: (not name.endswith("top1"), not name.endswith("accuracy")))
    return (order[0], known[order[0]]) if order else None


def overview(outcomes: Sequence[Outcome]) -> Section:
    from semaug.eval.report import Column, Section, Table

    rows = tuple((o.title, o.state, o.seconds) for o in outcomes)
    columns = (Column("protocol"), Column("state"), Column("time", unit="s"))
    note = "A reused protocol was run before on the same encoder, images and settings; its time is that run's."
    reused = any(o.state == "reused" for o in outcomes)
    return Section("Protocols", (Table("What was run, and how long it took", columns, rows, note if reused else ""),))


def left_out(outcomes: Sequence[Outcome]) -> list[Section]:
    from semaug.eval.report import Column, Section, Table

    rows = tuple((o.title, o.reason) for o in outcomes if o.state == "left out")
    table = Table("Protocols that do not fit what is at hand", (Column("protocol"), Column("why")), rows)
    return [Section("Left out", (table,))] if rows else []


_HIGHLIGHTS = {
    "linear/top1": "linear",
    "knn/backbone/top1": "kNN",
    "svm/top1": "SVM",
    "kmeans/backbone/inductive/accuracy": "k-means",
}
"""Metrics for the top of the page, where they were measured."""


def verdict_on(outcomes: Sequence[Outcome]) -> str:
    rows = {name: row for o in outcomes for name, row in o.rows.items()}
    found = rows.get("linear/top1") or rows.get("knn/backbone/top1")
    name = "Linear" if "linear/top1" in rows else "kNN"
    counts = {state: sum(o.state == state for o in outcomes) for state in ("left out", "failed")}
    more = "".join(f" {count} {state}." for state, count in counts.items() if count)
    done = len(outcomes) - sum(counts.values())
    text = f"{done} of {len(outcomes)} protocols ran.{more}"
    if found is None or found["value"] is None:
        return text
    return f"{name} accuracy **{found['value']:.1%}** on {found['n']:,} test images. {text}"


def highlights_of(outcomes: Sequence[Outcome]) -> tuple[Any, ...]:
    from semaug.eval.report import Highlight

    rows = {name: row for o in outcomes for name, row in o.rows.items()}
    found = [(title, rows[name]) for name, title in _HIGHLIGHTS.items() if rows.get(name, {}).get("value") is not None]
    return tuple(Highlight(title, f"{row['value']:.1%}", f"n = {row['n']:,}") for title, row in found)


def curves_of(name: str, runs: list[Path], column: str) -> Curve | None:
    """One series of ``metrics.csv`` over several runs of one variant, on the steps that all of them have."""
    from semaug.eval.figures.curves import Curve
    from semaug.ssl_methods.metrics import read_rows

    tables = [{int(r["step"]): float(r[column]) for r in read_rows(run / "metrics.csv") if column in r} for run in runs]
    steps = sorted(set.intersection(*(set(t) for t in tables))) if tables else []
    return Curve(name, steps, [[t[s] for s in steps] for t in tables]) if steps else None


def curves_section(run: Path) -> list[Section]:
    from semaug.eval.figures.curves import learning_curves
    from semaug.eval.report import Figure, Section

    blocks: list[Block] = []
    for column, label in (("loss", "training loss"), ("knn", "kNN accuracy")):
        curve = curves_of(run.name, [run], column) if (run / "metrics.csv").exists() else None
        if curve is not None:
            image = learning_curves([curve], label)
            blocks.append(Figure(image, f"The {label} while training.", f"{label} over steps"))
    return [Section("Learning curves", tuple(blocks))] if blocks else []


def provenance(subject: Subject, verb: str) -> Provenance:
    """Where a run's numbers come from; ``verb`` of ``semaug eval`` gives them again."""
    from semaug.eval.report import Provenance

    card, sources = subject.card, subject.sources_given()
    facts = {
        "hardware": hardware(),
        **{f"{role} images": spec for role, spec in sources.items()},
        "run": f"{card.method}, {card.backbone}, {card.steps:,} steps, seed {card.seed}",
        "seed of the evaluation": str(subject.seed),
    }
    prints = {f"{role} images": content_of(spec, subject.run).get("source", "") for role, spec in sources.items()}
    return Provenance(
        (subject.command(verb),), facts, card.versions,
        {**card.inputs, "weights": card.weights_digest, **prints}, card.config,
    )  # fmt: skip


def hardware() -> str:
    """The machine in a few words."""
    import os

    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{gpu}"


def write_pictures(
    subject: Subject, folder: Path, names: Iterable[str] | None = None
) -> tuple[Pictures, Path, list[Path]]:
    """Draw the pictures called ``names`` (all by default) into ``folder``: their files and ``index.html``.

    The sections of an earlier call are replaced. Returns the pictures, the page, and the files.
    """
    from semaug.eval.report import Column, Report, Section, Table, store_section, write_report

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_pictures(subject, names)
    files: list[Path] = []
    for name in PICTURES:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name, section in pictures.sections.items():
        files += store_section(section, folder / name)
    sections = list(pictures.sections.values())
    if pictures.missing:
        rows = tuple((PICTURES[name][0], reason) for name, reason in pictures.missing.items())
        columns = (Column("picture"), Column("why"))
        sections.append(Section("Left out", (Table("Pictures that lack what they need", columns, rows),)))
    title, count = f"Pictures of {subject.run.resolve().name}", len(pictures.sections)
    verdict = f"{count} of {count + len(pictures.missing)} pictures; each is a file beside this page."
    page = folder / "index.html"
    write_report(page, Report(title, verdict, tuple(sections), provenance(subject, "figures")))
    return pictures, page, files
