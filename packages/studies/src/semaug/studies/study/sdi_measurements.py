"""What SDI's studies measure beside their runs: minutes and memory of augmentation, routes, and gap recovery."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.reader import Artifact
from semaug.studies.study.catalogue import settings_of
from semaug.studies.study.prepare import artifact_order

if TYPE_CHECKING:
    from semaug.eval.report import Cell
    from semaug.studies.study.measurements import Measured, Measuring
    from semaug.studies.study.plan import Study

MINUTE, PER = 60.0, 1000
VIEWED, WATCHED = 200, 8
"""How many images views are timed on, and how many memory is watched on."""


def minutes(measuring: Measuring) -> Measured:
    """Minutes for 1,000 images of each variant (Table 1, Fig. 6): what is prepared, and two views of each image.

    Preparation is that of one worker without loading models; a generator's training is left out, as in the paper.
    With ``fast`` and ``slow``, names of variants, their ratio is ``minutes/speedup``.
    """
    from semaug.eval.report import Column, Table
    from semaug.studies.study.measurements import Measured, pairs_of_variant

    study, count = measuring.study, len(measuring.images)
    rows: dict[str, Any] = {}
    lines, totals = [], {}
    for variant in study.preset.variants:
        used = artifact_order(study.preset, (variant,), measured=False)
        made = measuring.ready.seconds(used, measuring.place) / count * PER / MINUTE
        viewed = view_seconds(pairs_of_variant(measuring, variant)) * PER / MINUTE
        totals[variant] = made + viewed
        lines.append((variant, made, viewed, made + viewed))
        parts = {"preparation": made, "views": viewed}
        rows |= {f"minutes/{variant}/{name}": {"value": value, "n": count} for name, value in parts.items()}
        rows[f"minutes/{variant}"] = {"value": made + viewed, "n": count}
    if "fast" in measuring.options:
        fast, slow = (totals[measuring.options[name]] for name in ("fast", "slow"))
        rows["minutes/speedup"] = {"value": slow / fast, "n": count}
    columns = (Column("variant"), *(Column(n, digits=3, unit="min") for n in ("preparation", "two views", "together")))
    note = "Of one worker on this machine, for 1,000 images. Loading models and training a generator are left out."
    return Measured(rows, (Table("What augmentation takes", columns, tuple(lines), note),))


def view_seconds(pairs: Any) -> float:
    """Seconds that both views of an item take on one thread, reading included; the first few are a warm-up."""
    items = np.linspace(0, len(pairs) - 1, min(VIEWED, len(pairs))).astype(int).tolist()
    for item in items[:5]:
        pairs[item]
    started = time.perf_counter()
    for item in items:
        pairs[item]
    return (time.perf_counter() - started) / len(items)


def memory(measuring: Measuring) -> Measured:
    """How much less memory boxes take than generation (Fig. 6): what a process holds at its height, model included,
    while it works on a few images, for a ``guidance`` and an ``augment`` artifact. On the CPU, a warm-up before."""
    from semaug.eval.report import Column, Table
    from semaug.studies.study.measurements import Measured

    images = measuring.images
    few = range(min(WATCHED, len(images)))
    held = {
        "guidance": _held(_guidance_work(measuring), few),
        "generation": _held(_generation_work(measuring), few),
    }
    known = {name: value for name, value in held.items() if value}
    rows: dict[str, Any] = {f"memory/{name}_mb": {"value": v and v / 1e6, "n": len(few)} for name, v in held.items()}
    ratio = known["generation"] / known["guidance"] if len(known) == len(held) else None
    rows["memory/reduction"] = {"value": ratio, "n": len(few)} | (
        {} if ratio is not None else {"reason": f"of {len(few)} small images nothing shows: {held} bytes"}
    )
    table = Table("Memory at its height", (Column("what"), Column("MB", digits=1)),
                  tuple((name, None if v is None else v / 1e6) for name, v in held.items()))  # fmt: skip
    return Measured(rows, (table,))


def _held(work: Any, indices: range) -> float | None:
    """Bytes that opening and running work holds at its height, after a first time that loads libraries."""
    from semaug.studies.protocols.costs import watched

    work.open().run(indices, lambda count: None)
    with watched("cpu") as height:
        work.open().run(indices, lambda count: None)
        return height()


def _guidance_work(measuring: Measuring) -> Any:
    """The detector's part of a guidance, on the same images."""
    from semaug.oracles.adaptive import FixedScale
    from semaug.oracles.catalogue import OracleSpec
    from semaug.oracles.extract import ExtractionWork

    manifest = Artifact.open(measuring.options["guidance"], "guidance").manifest
    detector = OracleSpec.parse(str(manifest.info["detector"])).require_installed(str(measuring.options["guidance"]))
    return ExtractionWork(
        measuring.images, detector, OracleSpec("grabcut"), FixedScale("object"), ("detector",), WATCHED, None
    )


def _generation_work(measuring: Measuring) -> Any:
    """The sampling of an augment artifact, by the run that made it."""
    from semaug.diffaug_core.augment import AugmentWork, TrainedRun
    from semaug.studies.diffaug import open_for

    run = Path(str(Artifact.open(measuring.options["generated"], "augment").manifest.info["run"]))
    trained = TrainedRun.open(run)
    samples = open_for(run, measuring.ready.data[measuring.place].train)
    return AugmentWork(samples, trained, trained.settings, 1, 0, WATCHED)


def course(measuring: Measuring) -> Measured:
    """How long each variant trains (Table 13): steps, images a step, and seconds, from the runs that are done."""
    from semaug.eval.report import Column, Table
    from semaug.ssl_methods import load_card
    from semaug.studies.study.jobs import SECONDS, training_seconds
    from semaug.studies.study.kind_training import run_folder
    from semaug.studies.study.measurements import Measured

    study, lines, rows = measuring.study, [], dict[str, Any]()
    setting = next(iter(settings_of(study.preset)))
    for variant in study.preset.variants:
        folders = [run_folder(study.out, setting, variant, seed) for seed in study.chosen_seeds]
        cards = [(folder, load_card(folder)) for folder in folders if (folder / "encoder.json").is_file()]
        if not cards:
            continue
        steps, batch = cards[0][1].steps, int(cards[0][1].config["training"]["batch_size"])
        seconds = float(np.mean([training_seconds(folder, card.steps, batch) for folder, card in cards]))
        lines.append((variant, steps, batch, seconds))
        found = {"steps": steps, "batch_size": batch, "seconds": seconds}
        rows |= {f"course/{variant}/{name}": {"value": value, "n": len(cards)} for name, value in found.items()}
    columns = (Column("variant"), Column("steps", digits=0), Column("batch size", digits=0), Column(SECONDS, unit="s"))
    return Measured(rows, (Table("How the variants were trained", columns, tuple(lines)),))


def routing(measuring: Measuring) -> Measured:
    """Where the named ``presets`` of weights and thresholds send the images of a ``quality`` artifact (Tables 10, 11).

    By the threshold rule (Eq. 18); ``changed`` is the share of images that take another scale than by the first.
    """
    from semaug.eval.report import Column, Table
    from semaug.quality_policy import QualityTable, Scoring, find_preset, make_policy, routing_histogram
    from semaug.studies.study.measurements import Measured

    table, rows = QualityTable.open(measuring.options["quality"]), dict[str, Any]()
    lines: list[tuple[Cell, ...]] = []
    first = None
    for variant, name in zip(measuring.study.preset.variants, measuring.options["presets"], strict=True):
        preset = find_preset(name)
        routes = table.rescored(Scoring(preset.weights)).routes(make_policy("threshold", thresholds=preset.thresholds))
        first = first or routes
        shares = {scale: count / len(routes) for scale, count in routing_histogram(routes).items()}
        changed = float(np.mean([a != b for a, b in zip(routes, first, strict=True)]))
        w, t = preset.weights, preset.thresholds
        values = {"alpha": w.resolution, "beta": w.clarity, "gamma": w.diversity, "t_low": t.t_low, "t_high": t.t_high}
        rows |= {f"routing/{variant}/{name}": {"value": v, "n": len(routes)}
                 for name, v in (values | shares | {"changed": changed}).items()}  # fmt: skip
        lines.append((variant, *values.values(), *shares.values(), changed))
    columns = (
        Column("configuration"), *(Column(name, digits=2) for name in ("alpha", "beta", "gamma", "t_low", "t_high")),
        *(Column(name, unit="%", scale=100) for name in ("object", "pixel", "hybrid", "another than by the first")),
    )  # fmt: skip
    return Measured(rows, (Table(f"Routes of {len(table):,} images", columns, tuple(lines)),))


def routes(measuring: Measuring) -> Measured:
    """What every guidance of the study holds: scales, misses, boxes, and seconds for 1,000 images."""
    from semaug.eval.report import Column, Table
    from semaug.oracles.extract import costs_per_1000, report_guidance
    from semaug.studies.study.measurements import Measured

    rows: dict[str, Any] = {}
    lines: list[tuple[Cell, ...]] = []
    for (name, place), made in measuring.ready.artifacts.items():
        if made.path is None or Artifact.open(made.path).manifest.kind != "guidance":
            continue
        found = report_guidance(made.path)
        shares = {scale: count / max(1, found.images) for scale, count in found.scales.items()}
        values = {**shares, "fallback": found.fallback_share, "boxes": found.boxes / max(1, found.images)}
        seconds = costs_per_1000(made.path)["seconds"]
        lines.append((name, place, *values.values(), seconds))
        rows |= {f"routes/{place}/{name}/{what}": {"value": v, "n": found.images} for what, v in values.items()}
    columns = (
        Column("guidance"), Column("data"),
        *(Column(name, unit="%", scale=100) for name in ("object", "pixel", "hybrid", "nothing found")),
        Column("boxes an image", digits=2), Column("for 1,000 images", unit="s"),
    )  # fmt: skip
    return Measured(rows, (Table("What the oracles found, and by which route", columns, tuple(lines)),))


def gap(measuring: Measuring) -> Measured:
    """How much of the way from ``floor`` (V0) to ``ceiling`` (V6) each variant goes (Table 12), over paired seeds."""
    from semaug.eval.report import Column, Missing, Table
    from semaug.studies.study.measurements import Measured

    study, ends = measuring.study, (measuring.options["floor"], measuring.options["ceiling"])
    if absent := sorted(set(ends) - set(study.preset.variants)):
        raise InvalidOption(f"gap recovery between {ends}: there is no variant {absent[0]!r}")
    scores = {variant: _scores(study, variant) for variant in study.preset.variants}
    rows: dict[str, Any] = {}
    lines: list[tuple[Cell, ...]] = []
    for variant in study.preset.variants:
        found = _recovered(scores[variant], scores[ends[0]], scores[ends[1]])
        rows[f"gap_recovery/{variant}"] = found
        share, low, high = (found.get(name) for name in ("value", "low", "high"))
        missing = Missing(found.get("reason", "one seed has no interval"))
        lines.append((variant, *(missing if v is None else v for v in (share, low, high))))
    columns = (Column("variant"), *(Column(name, unit="%", scale=100) for name in ("recovered", "from", "to")))
    note = f"0% is {ends[0]}, 100% is {ends[1]}; Fieller's 95% interval over the seeds. In {study.preset.primary}."
    return Measured(rows, (Table("How much of the gap is closed", columns, tuple(lines), note),))


def _recovered(own: Mapping[int, float], floor: Mapping[int, float], ceiling: Mapping[int, float]) -> dict[str, Any]:
    """Share, interval and n as plain values, or the reason why there is none; seeds that all three have count."""
    from semaug.eval.geometry.recovery import gap_recovery

    seeds = [seed for seed in own if seed in floor and seed in ceiling]
    if not seeds:
        return {"value": None, "n": 0, "reason": "no seed is done in the variant and in both ends"}
    named = {m.metric: m for m in gap_recovery(*([scores[seed] for seed in seeds] for scores in (own, floor, ceiling)))}
    share = named["gap_recovery"]
    row: dict[str, Any] = {"value": share.value, "n": share.n}
    for end in ("low", "high"):
        found = named.get(f"gap_recovery_interval_{end}")
        row |= {} if found is None or found.value is None else {end: found.value}
    return row | ({"reason": share.reason} if share.reason else {})


def _scores(study: Study, variant: str) -> dict[int, float]:
    """Seed -> primary metric of the runs that are done, in the study's first setting."""
    from semaug.studies.runner import RESULT
    from semaug.studies.study.kind_training import run_folder

    setting, found = next(iter(settings_of(study.preset))), dict[int, float]()
    for seed in study.chosen_seeds:
        path = run_folder(study.out, setting, variant, seed) / RESULT
        row = json.loads(path.read_text("utf-8"))["result"] if path.is_file() else {}
        value = row.get(study.preset.primary, {}).get("value")
        found |= {} if value is None else {seed: float(value)}
    return found
