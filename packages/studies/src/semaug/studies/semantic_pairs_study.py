"""Semantic pairs against augmented pairs: the settings of the paper's tables and figures, trained like for like.

A *cell* is one setting (method, length, pairs a class, transforms); an *arm* is what the pairs are. All arms of a cell
share seeds, first weights and the number of steps. ``SP`` and ``AP`` are the paper's; the controls tell what its
comparison leaves open: ``AP-all-images`` sees as many images as SP does, ``random-same-class`` uses the labels without
curation, ``SupCon`` is a loss made for labels.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.studies.assemble import TrainingPlan
from semaug.studies.comparison import Compared, compare
from semaug.studies.jobs import TrainAndScore
from semaug.studies.runner import Outcome, run_jobs

if TYPE_CHECKING:
    from semaug.eval.statistics import PairedDifference
    from semaug.pairs_dataset.pair_table import PairTable

FORMS = {"SP": "semantic", "AP": "augmented", "AP-all-images": "all-images", "random-same-class": "random-same-class"}
"""Arm -> the form of its set of pairs."""
SUPCON, OTHER = "SupCon", "other"
LIGHT = ("tiny", "smoke")
"""Scales of small networks and few steps."""
CONTROLS = ("AP-all-images", "random-same-class", SUPCON)
PAPER_PAIRS = 29_359
PAPER_EPOCHS = 200
LINEAR, KNN, FINETUNED = "linear/top1", "knn/backbone/top1", "finetune/top1"
DEFAULT_BATCH = 256


@dataclass(frozen=True, slots=True)
class PairCell:
    """One setting in which arms are compared; ``paper`` are the printed accuracies in per cent, by arm."""

    name: str
    method: str = "simclr"
    recipe: str = "semantic-pairs"
    epochs: int = PAPER_EPOCHS
    per_class: int = 157
    transforms: str = "full"
    paper: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class PairItem:
    """A table or figure of the paper: its cells, its arms, and how the paper scores them."""

    name: str
    title: str
    test: str
    cells: tuple[PairCell, ...]
    evaluation: str = "linear"
    arms: tuple[str, ...] = ("SP", "AP")
    rotation: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class PairScale:
    """How large a study is; what is None is the recipe's. ``steps`` stand for the paper's 200 epochs, None for those
    epochs themselves; ``per_class`` caps the pairs a class."""

    name: str
    text: str
    seeds: tuple[int, ...]
    size: int
    batch_size: int
    backbone: str | None = None
    steps: int | None = None
    per_class: int | None = None
    optimizer: str | None = None
    lr: float | None = None


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).parent.joinpath("presets", "semantic-pairs.toml").read_text("utf-8"))


def pair_items() -> dict[str, PairItem]:
    """The tables and figures by name.

    >>> list(pair_items()), pair_items()["T5"].cells[0].per_class
    (['T1', 'T2', 'T3', 'T4', 'T5', 'Fig4', 'Fig5'], 50)
    """
    return {name: _item(name, table) for name, table in _tables()["items"].items()}


def pair_scales() -> dict[str, PairScale]:
    """The scales by name.

    >>> {name: scale.backbone for name, scale in pair_scales().items()}
    {'tiny': 'small-cnn', 'smoke': 'small-cnn', 'small': 'resnet18', 'paper': None}
    """
    return {
        name: PairScale(name, **{**table, "seeds": tuple(table["seeds"])})
        for name, table in _tables()["scales"].items()
    }


def _item(name: str, table: Mapping[str, Any]) -> PairItem:
    given = dict(table)
    cells = tuple(PairCell(**cell) for cell in given.pop("cells"))
    for key in ("arms", "rotation"):
        if key in given:
            given[key] = tuple(given[key])
    return PairItem(name, cells=cells, **given)


def chosen(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """The item or scale of a name; raises ``InvalidOption`` naming those there are."""
    if name not in known:
        raise InvalidOption(f"no {kind} is called {name!r}; choose one of {', '.join(known)}")
    return known[name]


@dataclass(frozen=True, slots=True)
class PairStudy:
    """A study: which item at which scale, on which pairs and images.

    ``images`` are those the pairs are of, ``train`` and ``test`` the labelled sets that score an encoder; ``other`` is
    the set that T2 compares with. ``only`` names the cells to run (none: all). ``controls`` adds the arms ``CONTROLS``
    to SP and AP.
    """

    item: PairItem
    scale: PairScale
    images: str
    train: str
    test: str
    other: str | None = None
    controls: bool = True
    only: tuple[str, ...] = ()
    device: str = "cpu"

    def cells(self) -> tuple[PairCell, ...]:
        """The cells to run; raises ``InvalidOption`` for a name the item does not have."""
        known = {cell.name: cell for cell in self.item.cells}
        return tuple(chosen("setting", name, known) for name in self.only) or self.item.cells

    def arms(self, cell: PairCell) -> tuple[str, ...]:
        """The arms of a cell; SupCon stands in for the method, so it is compared where that is SimCLR."""
        if not self.controls or self.item.arms != ("SP", "AP"):
            return self.item.arms
        return (*self.item.arms, *(c for c in CONTROLS if c != SUPCON or cell.method == "simclr"))

    def per_class(self, cell: PairCell) -> int:
        """Pairs a class, within what the scale allows: the cells of one item keep their proportions.

        At least two, since the images of a single pair cannot be paired anew for the control.
        """
        most = max(c.per_class for c in self.item.cells)
        cap = min(self.scale.per_class or most, most)
        return max(2, round(cell.per_class * cap / most))


@dataclass(frozen=True, slots=True)
class ScorePairs(TrainAndScore):
    """Also fine-tune for ``finetune_epochs`` (None: the recipe's), where ``finetune`` says so."""

    finetune: bool = False
    finetune_epochs: int | None = None

    def describe(self) -> dict[str, Any]:
        """As the base, with what is done besides."""
        extra = {"finetune": self.finetune_epochs} if self.finetune else {}
        return {**TrainAndScore.describe(self), **extra}

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Train, score, fine-tune; returns the measures."""
        rows = TrainAndScore.run(self, on_progress)
        if not self.finetune:
            return rows
        from semaug.studies.evaluation import measures
        from semaug.studies.protocols.training import finetune_settings, run_finetune

        settings = finetune_settings(self.out, epochs=self.finetune_epochs)
        done = run_finetune(
            self.out, self.train, self.test, settings, seed=self.plan.seed, out=self.out / "eval" / "finetune",
            device=self.device,
        )  # fmt: skip
        return {**rows, **measures(done.result)}


def study_jobs(study: PairStudy, pairs: PairTable, out: Path) -> dict[str, dict[str, list[ScorePairs]]]:
    """The jobs by cell and arm, one a seed; their sets of pairs are written below ``out``.

    Cells that differ in nothing but the set the paper scores them by have the same jobs. Raises ``InvalidOption`` for
    an item that needs a set which is not given, and what ``make_twin`` raises.
    """
    if OTHER in study.item.arms and study.other is None:
        raise InvalidOption(f"{study.item.name} compares with another set of images; give --other, say Tiny-ImageNet")
    grouped: dict[str, dict[str, list[ScorePairs]]] = {}
    for cell in study.cells():
        subset = pairs.subset(study.per_class(cell))
        grouped[cell.name] = {arm: _arm_jobs(study, cell, arm, subset, out) for arm in study.arms(cell)}
    return grouped


def _arm_jobs(study: PairStudy, cell: PairCell, arm: str, subset: PairTable, out: Path) -> list[ScorePairs]:
    jobs, setting = [], _setting(cell, study.per_class(cell))
    for seed in study.scale.seeds:
        plan = _plan(study, cell, arm, subset, out, seed)
        folder = out / "runs" / setting / arm.lower() / str(seed)
        jobs.append(
            ScorePairs(
                f"{setting} {arm} seed {seed}", folder, plan, study.train, study.test, study.device,
                finetune=study.item.evaluation == "finetune",
                finetune_epochs=None if study.scale.name == "paper" else 2,
            )
        )  # fmt: skip
    return jobs


def _plan(study: PairStudy, cell: PairCell, arm: str, subset: PairTable, out: Path, seed: int) -> TrainingPlan:
    scale, options = study.scale, {"transforms": cell.transforms} | _rotation(study.item)
    batch = _batch(scale, len(subset))
    steps = _steps(scale, cell, len(subset), batch)
    method, recipe = (SUPCON.lower(), "paper") if arm == SUPCON else (cell.method, _recipe(scale, cell))
    common: dict[str, Any] = {
        "method": method, "recipe": recipe, "size": scale.size, "steps": steps, "batch_size": batch,
        "backbone": scale.backbone, "optimizer": scale.optimizer, "lr": scale.lr, "seed": seed,
        "hyperparameters": {} if scale.name == "paper" else _tables()["small_hyperparameters"].get(method, {}),
    }  # fmt: skip
    if arm == OTHER:
        assert study.other is not None
        return TrainingPlan(study.other, pairs="standard", pair_options=options, **common)
    options["semantic"] = str(_pairs_of(arm, subset, out).resolve())
    return TrainingPlan(study.images, pairs="semantic", pair_options=options, **common)


def _recipe(scale: PairScale, cell: PairCell) -> str | None:
    """The cell's recipe; at the scales of a few steps one with a head that small machines can hold."""
    light = _tables()["light_recipes"].get(cell.method) if scale.name in LIGHT else None
    return light or cell.recipe


def _rotation(item: PairItem) -> dict[str, Any]:
    return {} if item.rotation is None else {"rotation": item.rotation}


def _batch(scale: PairScale, pairs: int) -> int:
    return max(2, min(scale.batch_size, pairs))


def _steps(scale: PairScale, cell: PairCell, pairs: int, batch: int) -> int:
    """The paper's epochs over SP, or the scale's steps in proportion; every arm takes as many."""
    if scale.steps is None:
        return cell.epochs * max(1, pairs // batch)
    return max(1, round(scale.steps * cell.epochs / PAPER_EPOCHS))


def _pairs_of(arm: str, subset: PairTable, out: Path) -> Path:
    """The set of pairs of an arm, written once."""
    from semaug.pairs_dataset.pair_sets import make_twin
    from semaug.pairs_dataset.pair_table import write_pairs

    form: Any = FORMS["AP-all-images" if arm == SUPCON else arm]
    table = replace(subset, form="semantic") if form == "semantic" else make_twin(subset, form)
    path = out / "pairs" / f"{form}-{len(subset)}.zarr"
    write_pairs(table, path, inputs={"pairs": subset.digest})
    return path


def _setting(cell: PairCell, per_class: int) -> str:
    """What a cell trains, as the name of a folder: cells that the paper scores by several sets share it."""
    return f"{cell.method}-{cell.epochs}-{per_class}-{cell.transforms}"


@dataclass(frozen=True, slots=True)
class CellResult:
    """What came out of a cell: the scores of every arm, and SP (first arm) minus each other arm."""

    cell: PairCell
    metric: str
    scores: Mapping[str, Compared]
    gains: Mapping[str, PairedDifference]


@dataclass(frozen=True, slots=True)
class PairStudyResult:
    """The cells, largest gain of the first arm over the second first, and the jobs that failed."""

    cells: tuple[CellResult, ...]
    failed: tuple[str, ...]
    report: Path | None = None


def run_pair_study(
    study: PairStudy, pairs: PairTable, out: Path, *, workers: int = 1, on_progress: OnProgress = ignore_progress
) -> PairStudyResult:
    """Train and score what is not done yet, compare, and write ``report.html`` and ``results.json`` to ``out``."""
    from semaug.studies.semantic_pairs_report import write_pair_report

    grouped = study_jobs(study, pairs, out)
    jobs = {job.name: job for arms in grouped.values() for rows in arms.values() for job in rows}
    done = run_jobs(list(jobs.values()), workers=workers, on_progress=on_progress)
    outcomes = dict(zip(jobs, done, strict=True))
    found = {
        name: {arm: [outcomes[job.name] for job in rows] for arm, rows in arms.items()}
        for name, arms in grouped.items()
    }
    result = summarise_cells(study, found)
    return replace(result, report=write_pair_report(out, study, pairs, result))


def summarise_cells(study: PairStudy, found: Mapping[str, Mapping[str, Sequence[Outcome]]]) -> PairStudyResult:
    """Scores and paired gains of every cell, ranked by the gain of the first arm over the second."""
    failed = [f"{o.name}: {o.error}" for arms in found.values() for rows in arms.values() for o in rows if o.error]
    metric = FINETUNED if study.item.evaluation == "finetune" else LINEAR
    cells = []
    for cell in study.cells():
        scores = {arm: compare(rows, _metrics(rows, metric)) for arm, rows in found[cell.name].items()}
        done = {arm: score for arm, score in scores.items() if score.values.get(metric) and score.n}
        first = study.item.arms[0]
        gains = {
            arm: done[first].against(score, metric)
            for arm, score in done.items()
            if arm != first and first in done and done[first].pairs(score, metric)
        }
        cells.append(CellResult(cell, metric, done, gains))
    second = study.item.arms[1]
    cells.sort(key=lambda c: -c.gains[second].mean if second in c.gains else float("inf"))
    return PairStudyResult(tuple(cells), tuple(failed))


def _metrics(rows: Sequence[Outcome], metric: str) -> tuple[str, ...]:
    known = [o.result for o in rows if o.result]
    return tuple(m for m in (metric, KNN) if all(m in result for result in known))


def not_comparable(study: PairStudy, pairs: PairTable) -> list[str]:
    """Why the printed numbers are another experiment's; empty where nothing is known to differ."""
    reasons = []
    if study.scale.name != "paper":
        scale = study.scale
        reasons.append(
            f"scale {scale.name}: {scale.backbone} at {scale.size} pixels, {scale.steps} steps for 200 epochs"
        )
    if len(pairs) != PAPER_PAIRS:
        reasons.append(
            f"{len(pairs):,} pairs of {len(pairs.by_class)} classes, the paper's set has {PAPER_PAIRS:,} of 187"
        )
    if study.item.evaluation == "detect":
        reasons.append("the paper scores by detection, this report by a linear probe")
    reasons.append(f"the pairs and the test set are the user's, the paper's were its own and {study.item.test}")
    return reasons


def config_of(study: PairStudy) -> dict[str, Any]:
    """The study as plain JSON values."""
    return asdict(study)
