"""Jobs of DiffAug's studies: the method on images, and one pair of names for the scores of tables and of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.sources import inputs_of, open_source
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.studies.diffaug import Course, DataOptions
from semaug.studies.study.data import DataSet
from semaug.studies.study.jobs import SECONDS

LINEAR, KMEANS = "score/linear", "score/kmeans"
"""The paper's two measures, whatever is scored: of rows by held-out folds of their two dimensions (a linear machine),
of images by frozen features (a linear probe); both are shares of what the encoder has not seen."""
_SOURCES = {
    LINEAR: ("svm/inductive", "svm/transductive", "linear/top1"),
    KMEANS: ("kmeans/inductive", "kmeans/transductive", "kmeans/backbone/inductive/accuracy"),
}


@dataclass(frozen=True, slots=True)
class Named:
    """A job of that ``name`` with the two measures and the seconds (of a table: of one fit) added to its own, as all
    studies of DiffAug call them."""

    job: Any
    name: str

    @property
    def out(self) -> Path:
        return Path(self.job.out)

    @property
    def steps(self) -> int:
        return int(self.job.steps)

    @property
    def plan(self) -> Any:
        """The job's plan, for what reports read of it."""
        return self.job.plan

    def on(self, device: str) -> Named:
        return Named(self.job.on(device), self.name)

    def describe(self) -> dict[str, Any]:
        return dict(self.job.describe())

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """The job's measures and the two."""
        rows = dict(self.job.run(on_progress))
        for name, sources in _SOURCES.items():
            if found := next((rows[source] for source in sources if source in rows), None):
                rows[name] = found
        if SECONDS not in rows and (fit := rows.get("seconds_a_fit")):
            rows[SECONDS] = {"value": fit["value"], "n": fit["n"]}
        return rows


@dataclass(frozen=True, slots=True)
class TrainDiffAug:
    """Train DiffAug on images into ``out``, then every evaluation on the frozen encoder, as ``TrainAndEvaluate`` does
    for the methods of ``semaug pretrain``."""

    name: str
    out: Path
    settings: DiffAugSettings
    course: Course
    options: DataOptions
    seed: int
    train: str
    test: str
    evaluations: tuple[tuple[str, Mapping[str, Any]], ...]
    data: Mapping[str, DataSet] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def steps(self) -> int:
        return self.course.steps or 1

    def on(self, device: str) -> TrainDiffAug:
        return replace(self, device=device)

    def describe(self) -> dict[str, Any]:
        """Settings, course, evaluations, and the content of the images."""
        content = {role: inputs_of(open_source(spec)) for role, spec in (("train", self.train), ("test", self.test))}
        return {
            "settings": self.settings.record(), "course": asdict(self.course), "options": asdict(self.options),
            "seed": self.seed, "content": content,
            "evaluations": [[name, dict(given)] for name, given in self.evaluations],
        }  # fmt: skip

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Train (or go on) and score; returns the measures."""
        from semaug.studies.diffaug import describe_run, train_run
        from semaug.studies.evaluation import ran_on, write_results
        from semaug.studies.protocols.subject import Subject
        from semaug.studies.study.evaluations import Scoring, score

        samples = self.options.open(self.train)
        card = train_run(
            samples, self.out, self.settings, self.course, seed=self.seed, device=self.device, on_progress=on_progress
        )
        said = describe_run(self.out, card)
        rows: dict[str, Any] = {SECONDS: {"value": seconds_of(self.out), "n": 1}}
        rows |= {name: {"value": said[name], "n": 1} for name in ("saturated", "generator_loss") if name in said}
        subject = Subject(self.out, self.train, self.test, device=self.device, seed=self.seed, keep=False)
        for name, options in self.evaluations:
            rows |= score(name, Scoring(subject, options, self.data, ignore_progress))
        where = ran_on(
            self.out, {"train": self.train, "test": self.test}, settings={"seed": self.seed}, device=self.device
        )
        write_results(self.out / "eval", "measures", rows, ran_on=where)
        return rows


def seconds_of(run: Path) -> float:
    """Seconds of a run's steps by the speed of each stretch of its log; drawing generated views is in it."""
    from semaug.ssl_methods.metrics import read_rows

    rows = [row for row in read_rows(run / "metrics.csv") if row.get("samples_per_second")]
    batch = _batch(run)
    steps = [int(float(row["step"])) for row in rows]
    stretches = zip([0, *steps], steps, rows, strict=False)
    return sum((b - a) * batch / float(row["samples_per_second"]) for a, b, row in stretches)


def _batch(run: Path) -> int:
    from semaug.ssl_methods.cards import load_card

    return int(load_card(run).config["training"]["batch_size"])
