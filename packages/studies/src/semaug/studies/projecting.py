"""DiffAug, its ablations and other projections of one table, fitted and scored alike (P4, Tables 2, 4 and 5)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption, SemaugError
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.tables import Table, open_table, require_classes
from semaug.diffaug_core.ablations import ABLATIONS, Ablation, alpha_sweep
from semaug.diffaug_core.projections import PROJECTIONS
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.studies.diffaug import Course, DataOptions
from semaug.studies.runner import Outcome, run_jobs

if TYPE_CHECKING:
    from semaug.eval.features import Features
    from semaug.eval.memorisation import Memorisation
    from semaug.eval.projection_scores import FoldRows, FoldScore

FULL = "A3"
"""The ablation that changes nothing: DiffAug itself."""
SETTINGS = ("inductive", "transductive")
ALL_ROWS, KEPT = "all", "embedding.npz"
"""The folder of a fit on all rows, and the file in which its embedding is kept."""
CURVES = ("loss", "saturated", "generator_loss")
"""What is kept of a run's curves: their last values."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How every method is fitted and scored.

    ``fit`` are steps of ``open_table`` (``standardise,pca:50,..``) that every fold fits on its own training rows;
    ``generated`` rows are compared with the training rows. ``settings`` are `inductive`, `transductive` or both.
    ``keep`` keeps the transductive embedding of the first seed and method, for a picture.
    """

    folds: int = 10
    fit: str = ""
    settings: tuple[str, ...] = SETTINGS
    diffaug: DiffAugSettings = field(default_factory=DiffAugSettings)
    course: Course = field(default_factory=lambda: Course(epochs=100))
    data: DataOptions = field(default_factory=DataOptions)
    generated: int = 256
    keep: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.settings) - set(SETTINGS)):
            raise InvalidOption(f"setting {unknown[0]!r} is not known; choose {' or '.join(SETTINGS)}")


def method_names(only: Sequence[str] = (), alphas: Sequence[float] = ()) -> tuple[str, ...]:
    """The methods of a comparison: ``only``, else all of A1 to B5; and ``alpha-A`` for each of ``alphas``.

    Raises ``InvalidOption`` for a name that is neither an ablation nor a projection.

    >>> method_names(["A3", "pca"], [0.5])
    ('A3', 'pca', 'alpha-0.5')
    """
    known = (*ABLATIONS, *PROJECTIONS)
    if unknown := [name for name in only if name not in known]:
        raise InvalidOption(f"no method is called {unknown[0]!r}; choose from {', '.join(known)}")
    if wrong := [a for a in alphas if not 0 <= a <= 1]:
        raise InvalidOption(f"alpha {wrong[0]:g} is no probability; give 0 to 1")
    lettered = [name for name in ABLATIONS if not name.startswith("alpha-")]
    return tuple(dict.fromkeys([*(only or ([] if alphas else lettered)), *alpha_sweep(alphas)]))


def ablation_of(method: str) -> Ablation:
    """The ablation of a name, any ``alpha-A`` among them."""
    return ABLATIONS.get(method) or alpha_sweep([float(method.removeprefix("alpha-"))])[method]


@dataclass(frozen=True, slots=True)
class Fit:
    """One fit of one method: on a fold's training rows, or on all rows where ``fold`` is None; then its scores.

    ``table`` is the fingerprint of what ``spec`` names. The run of a network is removed once it is scored.
    """

    spec: str
    table: str
    method: str
    seed: int
    fold: int | None
    protocol: Protocol
    out: Path
    device: str = "cpu"

    @property
    def name(self) -> str:
        return f"{self.method} seed {self.seed} {'all rows' if self.fold is None else f'fold {self.fold}'}"

    @property
    def steps(self) -> int:
        return 1

    def describe(self) -> dict[str, Any]:
        """Everything that decides the scores."""
        p = self.protocol
        own: dict[str, Any] = {}
        if self.method not in PROJECTIONS:
            settings = ablation_of(self.method).apply(p.diffaug).record()
            own = {"settings": settings, "course": asdict(p.course), "data": asdict(p.data), "generated": p.generated}
        return {
            "table": self.table, "method": self.method, "seed": self.seed, "fold": self.fold,
            "protocol": {"folds": p.folds, "fit": p.fit, "keep": p.keep}, "own": own,
        }  # fmt: skip

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Fit and score: ``{"scores": [..], "measures": {..}, "seconds": ..}``.

        Raises ``ComparisonFailed`` for whatever a library raises.
        """
        try:
            found = self._run()
        except SemaugError:
            raise
        except Exception as error:  # one method's trouble is no reason to lose the others
            raise ComparisonFailed(f"{type(error).__name__}: {error}") from error
        on_progress(Progress("project", 1, 1, "steps"))
        return found

    def _run(self) -> dict[str, Any]:
        from semaug.eval.projection_scores import fold_rows

        table = labelled_table(self.spec)
        folds = fold_rows(table.labels, self.protocol.folds, self.seed)
        rows = np.arange(len(table)) if self.fold is None else folds[self.fold].fit
        fitted_table = fit_steps_on(table, rows, self.protocol.fit)
        start = time.perf_counter()
        placed = self._place(fitted_table, rows)
        seconds = time.perf_counter() - start
        features = _features(fitted_table, placed.embedding)
        scores = self._score(features, folds)
        self.out.mkdir(parents=True, exist_ok=True)
        if self.protocol.keep and self.fold is None:
            np.savez(self.out / KEPT, embedding=placed.embedding, labels=table.labels, names=table.class_names)
        return {"scores": [_plain(s) for s in scores], "measures": placed.measures, "seconds": seconds}

    def _score(self, features: Features, folds: list[FoldRows]) -> list[FoldScore]:
        from semaug.eval.projection_scores import score_inductive, score_transductive

        if self.fold is None:
            return score_transductive(features, folds, seed=self.seed)
        fold = folds[self.fold]
        return [score_inductive(features.take(fold.fit), features.take(fold.held), fold, seed=self.seed)]

    def _place(self, table: Table, rows: NDArray[np.int64]) -> Placed:
        if self.method in PROJECTIONS:
            return place_by_projection(self.method, table, rows, self.seed)
        settings = ablation_of(self.method).apply(self.protocol.diffaug)
        run = self.out / "run"
        place = partial(place_by_diffaug, table, rows, run, settings, self.protocol, seed=self.seed, device=self.device)
        try:
            placed = place()
        except ArtifactMismatch:  # left by a comparison of other settings that was stopped here
            shutil.rmtree(run, ignore_errors=True)
            placed = place()
        shutil.rmtree(run, ignore_errors=True)
        return placed


@dataclass(frozen=True, slots=True)
class Placed:
    """Two dimensions of every row of a table, float32 (n, 2), and what else was measured of the fit."""

    embedding: NDArray[np.float32]
    measures: dict[str, Any] = field(default_factory=dict)


def place_by_projection(method: str, table: Table, rows: NDArray[np.int64], seed: int) -> Placed:
    """Fit a baseline on ``rows`` and place all; raises ``InvalidOption`` where it cannot place others."""
    from semaug.diffaug_core.projections import fit_projection

    fitted = fit_projection(method, table.rows(rows), seed)
    others = np.setdiff1d(np.arange(len(table)), rows)
    embedding = np.empty((len(table), fitted.embedding.shape[1]), np.float32)
    embedding[rows] = fitted.embedding
    if len(others):
        if fitted.transform is None:
            raise InvalidOption(f"{method} cannot place rows that it was not fitted on; score it transductively")
        embedding[others] = fitted.transform(table.rows(others))
    return Placed(embedding)


def place_by_diffaug(
    table: Table,
    rows: NDArray[np.int64],
    run: Path,
    settings: DiffAugSettings,
    protocol: Protocol,
    *,
    seed: int,
    device: str = "cpu",
) -> Placed:
    """Train on ``rows`` in the folder ``run``, and place all; also the share of P that the clamp saturates and, with a
    generator, how near generated rows are to the training rows."""
    from semaug.diffaug_core.neighbours import NeighbourSettings
    from semaug.diffaug_core.table_samples import TableSamples
    from semaug.studies.assemble import embed_run
    from semaug.studies.diffaug import describe_run, train_run

    near = NeighbourSettings(protocol.data.neighbours, protocol.data.components or None)
    samples = TableSamples(table.take(rows), near)
    card = train_run(samples, run, settings, protocol.course, seed=seed, device=device)
    found = embed_run(run, table, device=device)
    assert found.projections is not None
    said = describe_run(run, card)
    measures: dict[str, Any] = {name: said[name] for name in CURVES if name in said}
    others = np.setdiff1d(np.arange(len(table)), rows)
    if settings.generate and len(others) and protocol.generated:
        nearest = _memorised(samples, run, table.rows(others), protocol.generated, seed, device)
        measures |= {m.metric: m.value for m in nearest}
    return Placed(found.projections, measures)


def _memorised(samples: Any, run: Path, held: NDArray[np.float32], count: int, seed: int, device: str) -> Memorisation:
    """Generated rows of at most ``count`` training rows, evenly spread, against the training rows."""
    from semaug.artifacts.augment_table import GeneratedRows
    from semaug.diffaug_core.augment import augment
    from semaug.diffaug_core.table_samples import TableSamples
    from semaug.eval.memorisation import measure_memorisation

    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(np.int64))
    some = TableSamples(samples.table.take(chosen), samples.neighbours)
    augment(some, run, run / "generated.zarr", seed=seed, device=device)
    made = GeneratedRows.open(run / "generated.zarr")
    everything = samples.table.rows(np.arange(len(samples)))
    return measure_memorisation(everything, held, made.take(np.arange(len(made))))


def labelled_table(spec: str) -> Table:
    """The rows of a table that have a class; raises ``SourceError`` where fewer than two classes are left, and
    ``InvalidOption`` for images."""
    if is_images(spec):
        raise InvalidOption(
            f"{spec} holds images, and this compares projections of a table; give a table, or compare on images by "
            "`semaug study run diffaug-table-3` (methods) and `diffaug-table-4` (ablations)"
        )
    table = open_table(spec)
    require_classes(spec, table.labels, "scoring")
    return table if (table.labels >= 0).all() else table.take(np.flatnonzero(table.labels >= 0))


def is_images(spec: str) -> bool:
    """Whether a spec names images: one that opens as such, and is no table."""
    from semaug.artifacts.sources import open_source
    from semaug.artifacts.tables import is_table

    if is_table(spec) or Path(spec.partition("?")[0]).suffix.lower() in (".csv", ".parquet", ".npy", ".h5ad"):
        return False
    try:
        open_source(spec)
    except SemaugError:
        return False
    return True


def fit_steps_on(table: Table, rows: NDArray[np.int64], steps: str) -> Table:
    """The table after ``steps`` fitted on ``rows`` alone; its fingerprint is of what comes out.

    Raises ``InvalidOption`` for steps that are not known, ``SourceError`` for those that the rows do not allow.
    """
    from semaug.artifacts.tables.steps import apply_steps, fit_steps, parse_steps

    if not steps:
        return table
    training = table.rows(rows)
    fitted = fit_steps(table.spec, parse_steps(table.spec, steps), table.feature_names, lambda: iter([training]))
    values = apply_steps(table.rows(np.arange(len(table))), fitted)
    told = (*table.steps, *(f"{step.text} (fitted on {len(rows)} rows)" for step in fitted))
    return replace(table, features=values, feature_names=fitted[-1].names, steps=told)


def _features(table: Table, embedding: NDArray[np.float32]) -> Features:
    from semaug.eval.features import Features

    return Features(embedding, None, table.labels, table.keys, table.class_names)


def _plain(score: FoldScore) -> dict[str, Any]:
    return {**asdict(score), "values": dict(score.values)}


@dataclass(frozen=True, slots=True)
class Compared:
    """All fits of one method and seed as one resumable job; its result is measures of the seed.

    A fit that fails leaves its measures out and says why; the others are scored.
    """

    spec: str
    method: str
    seed: int
    protocol: Protocol
    out: Path
    device: str = "cpu"

    @property
    def name(self) -> str:
        return f"{self.method} seed {self.seed}"

    @property
    def steps(self) -> int:
        return len(self.fits(""))

    def on(self, device: str) -> Compared:
        return replace(self, device=device)

    def describe(self) -> dict[str, Any]:
        """What its fits are decided by."""
        return {"fits": [fit.describe() for fit in self.fits(labelled_table(self.spec).fingerprint)]}

    def fits(self, table: str) -> list[Fit]:
        """One on all rows, and one a fold, as far as the settings ask and the method can; ``table`` as in ``Fit``."""
        inductive = self.method not in PROJECTIONS or PROJECTIONS[self.method].inductive
        folds: list[int | None] = [None] if "transductive" in self.protocol.settings else []
        folds += range(self.protocol.folds) if "inductive" in self.protocol.settings and inductive else []
        make = partial(Fit, self.spec, table, self.method, self.seed, protocol=self.protocol, device=self.device)
        return [make(fold=f, out=self.out / (ALL_ROWS if f is None else f"fold-{f}")) for f in folds]

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Measures as ``{name: {"value", "n", "reason"}}``; raises ``ComparisonFailed`` where no fit ended well."""
        outcomes = run_jobs(self.fits(labelled_table(self.spec).fingerprint), stage="project", on_progress=on_progress)
        done = [o.result for o in outcomes if o.result]
        errors = [f"{o.name}: {o.error}" for o in outcomes if o.error]
        if not done:
            raise ComparisonFailed(errors[0] if errors else f"{self.method} has no setting to be scored in")
        return measures_of(done) | {
            "failed_fits": {"value": len(errors), "n": len(outcomes), "reason": "".join(errors[:1])}
        }


class ComparisonFailed(SemaugError, RuntimeError):
    """A method none of whose fits ended well."""


def measures_of(fits: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The scores of several fits summarised, with the means of what else was measured."""
    from semaug.eval.projection_scores import summarise_folds

    rows = {
        m.metric: {"value": m.value, "n": m.n, "reason": m.reason} for s in summarise_folds(scores_of(fits)) for m in s
    }
    names = dict.fromkeys(name for fit in fits for name in fit["measures"])
    for name in names:
        values = [fit["measures"][name] for fit in fits if fit["measures"].get(name) is not None]
        rows[name] = {
            "value": float(np.mean(values)) if values else None,
            "n": len(values),
            "reason": "" if values else "not defined",
        }
    rows["seconds_a_fit"] = {"value": float(np.mean([fit["seconds"] for fit in fits])), "n": len(fits), "reason": ""}
    return rows


def scores_of(fits: Sequence[Mapping[str, Any]]) -> list[FoldScore]:
    """The scores that fits have written."""
    from semaug.eval.projection_scores import FoldScore

    return [FoldScore(**score) for fit in fits for score in fit["scores"]]


@dataclass(frozen=True, slots=True)
class Row:
    """One method of a comparison: its measures over all seeds, or why it was not run; ``failed`` counts fits."""

    method: str
    title: str
    measures: Mapping[str, Mapping[str, Any]]
    reason: str = ""
    failed: int = 0


def compare_methods(
    spec: str,
    out: Path,
    methods: Sequence[str],
    protocol: Protocol,
    *,
    seeds: Sequence[int] = range(5),
    device: str = "cpu",
    workers: int = 1,
    on_progress: OnProgress = ignore_progress,
) -> list[Row]:
    """Fit and score every method with every seed, and summarise each over seeds and folds.

    What is finished below ``out`` is not run again. Methods whose packages are absent, or whose fits fail, are rows
    with a reason. Raises ``SourceError``, ``InvalidOption`` and ``EvaluationError`` for a table that cannot be scored
    at all.
    """
    digest = _require_fits(labelled_table(spec), protocol).fingerprint
    able = [m for m in methods if m not in PROJECTIONS or not PROJECTIONS[m].missing]
    jobs = [Compared(spec, m, s, protocol, out / m / f"seed-{s}", device) for m in able for s in seeds]
    fits = [fit for job in jobs for fit in job.fits(digest)]
    outcomes = run_jobs(fits, workers=workers, stage="project", on_progress=on_progress)
    grouped: dict[str, list[Outcome]] = {m: [] for m in able}
    for fit, outcome in zip(fits, outcomes, strict=True):
        grouped[fit.method].append(outcome)
    return [_row(method, grouped.get(method, [])) for method in methods]


def _require_fits(table: Table, protocol: Protocol) -> Table:
    """``table``, which can be cut into folds and prepared as ``protocol`` says."""
    from semaug.artifacts.tables.steps import parse_steps
    from semaug.eval.projection_scores import fold_rows

    parse_steps(table.spec, protocol.fit)
    fold_rows(table.labels, protocol.folds)
    return table


def notes_of(spec: str, protocol: Protocol) -> tuple[str, ...]:
    """What a reader of scores must know: the table's notes, small classes, and steps that saw held-out rows."""
    from semaug.artifacts.tables.steps import FITTED
    from semaug.eval.projection_scores import small_classes

    table = labelled_table(spec)
    found = [*table.notes, *small_classes(table.labels, table.class_names, protocol.folds)]
    seen = [step for step in table.steps if step.partition(":")[0] in FITTED]
    if seen and "inductive" in protocol.settings and not any(text in spec for text in ("split=test", "fit=")):
        found.append(
            f"the steps {','.join(seen)} of {spec} were fitted on all rows, held-out ones among them; give them by "
            "--fit, which every fold fits on its own training rows"
        )
    return tuple(found)


def _row(method: str, outcomes: Sequence[Outcome]) -> Row:
    title = PROJECTIONS[method].title if method in PROJECTIONS else ablation_of(method).text
    done = [o.result for o in outcomes if o.result]
    failed = [f"{o.name}: {o.error}" for o in outcomes if o.error]
    if not done:
        missing = PROJECTIONS[method].missing if method in PROJECTIONS else ""
        return Row(method, title, {}, missing or (failed[0] if failed else "no setting to be scored in"), len(failed))
    reason = f"{len(failed)} of {len(outcomes)} fits failed, the first: {failed[0]}" if failed else ""
    return Row(method, title, measures_of(done), reason, len(failed))


def write_rows(rows: Sequence[Row], out: Path) -> None:
    """``results.json`` and ``results.csv`` in the folder ``out``."""
    import csv
    from io import StringIO

    from semaug.artifacts.files import write_atomic

    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "results.json", json.dumps([asdict(r) for r in rows], indent=1).encode())
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(["method", "measure", "value", "n", "reason"])
    for row in rows:
        if not row.measures:
            writer.writerow([row.method, "", "", "", row.reason])
        for name, m in row.measures.items():
            writer.writerow([row.method, name, m["value"], m["n"], m["reason"] if m["value"] is None else ""])
    write_atomic(out / "results.csv", text.getvalue().encode())


Show = Callable[[float], str]
COLUMNS: tuple[tuple[str, str, Show], ...] = (
    ("SVM, inductive", "svm/inductive", lambda v: f"{100 * v:.1f}"),
    ("k-means, inductive", "kmeans/inductive", lambda v: f"{100 * v:.1f}"),
    ("SVM, transductive", "svm/transductive", lambda v: f"{100 * v:.1f}"),
    ("k-means, transductive", "kmeans/transductive", lambda v: f"{100 * v:.1f}"),
    ("RBF, inductive", "svm-rbf/inductive", lambda v: f"{100 * v:.1f}"),
    ("clamped P", "saturated", lambda v: f"{100 * v:.2f}%"),
    ("generated / held-out distance", "nearest_training/ratio", lambda v: f"{v:.2f}"),
    ("s a fit", "seconds_a_fit", lambda v: f"{v:.1f}"),
)
"""Of the table that is shown: heading, measure, how a value is written; a spread follows where there is one."""


def table_of(rows: Sequence[Row]) -> list[list[str]]:
    """The rows as text, headings first; scores in per cent with their spread over folds and seeds."""
    found = [["method", *(heading for heading, _, _ in COLUMNS)]]
    for row in rows:
        if not row.measures:
            found.append([row.method, row.reason, *([""] * (len(COLUMNS) - 1))])
            continue
        found.append([row.method, *(_cell(row.measures, name, show) for _, name, show in COLUMNS)])
    return found


def _cell(measures: Mapping[str, Mapping[str, Any]], name: str, show: Show) -> str:
    value = measures.get(name, {}).get("value")
    if value is None:
        return "-"
    spread = measures.get(f"{name}_std", {}).get("value")
    return show(value) + (f" ± {show(spread)}" if spread is not None else "")
