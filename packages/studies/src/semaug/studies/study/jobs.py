"""The jobs of a study: train and score one variant with one seed; whatever goes wrong in one stays with it."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from semaug.artifacts.errors import SemaugError
from semaug.artifacts.files import write_atomic
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import inputs_of, open_source
from semaug.studies.assemble import TrainingPlan, train
from semaug.studies.runner import RESULT, Job
from semaug.studies.study.data import DataSet

ERROR = "error.txt"
SECONDS = "training/seconds"
"""The metric of every trained run: seconds of training, by the median speed of its log."""
MEMORY = "training/memory_mb"
"""Beside it: MB of the process (or on the GPU) while it trained, at their height; None where that is not known."""
_ARTIFACTS = ("semantic", "synthetic", "similarity", "materialized", "augment", "generated")
"""Pair options that name artifacts."""


class DeviceJob(Job, Protocol):
    """A job that says where it runs."""

    def on(self, device: str) -> DeviceJob:
        """The same job on a device."""
        ...


@dataclass(frozen=True, slots=True)
class TrainAndEvaluate:
    """Pretrain by ``plan`` into ``out``, then every evaluation, in order, on the frozen run.

    ``evaluations`` are (name, options); ``data`` are the study's sets, which some of them read.
    """

    name: str
    out: Path
    plan: TrainingPlan
    train: str
    test: str
    evaluations: tuple[tuple[str, Mapping[str, Any]], ...]
    data: Mapping[str, DataSet] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def steps(self) -> int:
        return self.plan.steps

    def on(self, device: str) -> TrainAndEvaluate:
        return replace(self, device=device)

    def describe(self) -> dict[str, Any]:
        """The plan, the evaluations, and the content (not only the places) of what it trains and is scored on."""
        from semaug.studies.study.evaluations import EVALUATIONS

        places = {"images": self.plan.images, "train": self.train, "test": self.test}
        content = {role: inputs_of(open_source(spec)) for role, spec in places.items()}
        options = self.plan.pair_options
        made = {name: Artifact.open(options[name]).digest for name in _ARTIFACTS if options.get(name) is not None}
        guidance = Artifact.open(self.plan.guidance, "guidance").digest if self.plan.guidance else None
        read = sorted({role for name, given in self.evaluations for role in EVALUATIONS[name].roles(given)})
        others = {role: [self.data[role].train, self.data[role].test] for role in read}
        plan = self.plan.describe()
        return {
            "plan": plan, "content": content, "guidance": guidance, "artifacts": made, "others": others,
            "evaluations": [[name, dict(given)] for name, given in self.evaluations],
        }  # fmt: skip

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Train (or go on) and score; returns the measures."""
        from semaug.ssl_methods.pretrain import Hardware
        from semaug.studies.evaluation import ran_on, write_results
        from semaug.studies.protocols.costs import memory_height, watched
        from semaug.studies.protocols.subject import Subject
        from semaug.studies.study.evaluations import Scoring, score

        with watched(self.device):
            card = train(self.plan, self.out, hardware=Hardware(self.device), on_progress=on_progress)
            height = memory_height(self.device)
        subject = Subject(self.out, self.train, self.test, device=self.device, seed=self.plan.seed, keep=False)
        rows: dict[str, Any] = {
            SECONDS: {"value": training_seconds(self.out, card.steps, self._batch()), "n": 1},
            MEMORY: {"value": None if height is None else height / 1e6, "n": 1},
        }
        for name, options in self.evaluations:
            rows |= score(name, Scoring(subject, options, self.data, ignore_progress))
        where = ran_on(
            self.out, {"train": self.train, "test": self.test}, settings={"seed": self.plan.seed}, device=self.device
        )
        write_results(self.out / "eval", "measures", rows, ran_on=where)
        return rows

    def _batch(self) -> int:
        from semaug.ssl_methods.presets import training_recipe

        return self.plan.batch_size or training_recipe(self.plan.method, self.plan.recipe).batch_size


def training_seconds(run: Path, steps: int, batch: int) -> float:
    """Seconds of a run's training: its steps at the median speed of its log, so that a stop does not count."""
    from semaug.ssl_methods.metrics import read_rows

    speeds = [float(row["images_per_second"]) for row in read_rows(run / "metrics.csv") if "images_per_second" in row]
    return steps * batch / statistics.median(speeds)


class JobFailed(SemaugError, RuntimeError):
    """A job that ended in an error; the others go on."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A job that keeps whatever goes wrong to itself, and writes it down; each worker takes a device of its own."""

    job: Any
    devices: tuple[str, ...] = ("cpu",)

    @property
    def name(self) -> str:
        return str(self.job.name)

    @property
    def out(self) -> Path:
        return Path(self.job.out)

    @property
    def steps(self) -> int:
        return int(self.job.steps)

    def describe(self) -> dict[str, Any]:
        """As the job; one that cannot say what it is of has no result to reuse."""
        try:
            return dict(self.job.describe())
        except SemaugError as error:
            return {"cannot be described": str(error)}

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """The job's result; raises ``JobFailed`` for any error. What an earlier try left of its error is forgotten."""
        (self.out / ERROR).unlink(missing_ok=True)
        try:
            job = self.job.on(worker_device(self.devices)) if hasattr(self.job, "on") else self.job
            return dict(job.run(on_progress))
        except SemaugError as error:
            if error.exit_code != SemaugError.exit_code:  # asked to stop, which is no failure
                raise
            raise self._failed(error) from error
        except Exception as error:  # one variant's trouble is no reason to lose the others
            raise self._failed(error) from error

    def keep_error(self, text: str) -> None:
        """Write down why there is no result, unless the job did."""
        if not (self.out / ERROR).is_file():
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomic(self.out / ERROR, text.encode())

    def _failed(self, error: Exception) -> JobFailed:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(self.out / ERROR, text.encode())
        return JobFailed(text)


def worker_device(devices: tuple[str, ...]) -> str:
    """The device of this process: pool workers take them in turn."""
    number = re.search(r"-(\d+)$", multiprocessing.current_process().name)
    if number is None or multiprocessing.parent_process() is None:
        return devices[0]
    return devices[(int(number[1]) - 1) % len(devices)]


@dataclass(frozen=True, slots=True)
class CannotRun:
    """A job that never could start, and why."""

    name: str
    out: Path
    steps: int
    reason: str

    def describe(self) -> dict[str, Any]:
        return {"cannot run": self.reason}

    def run(self, on_progress: OnProgress) -> dict[str, Any]:
        """Raise the reason."""
        (self.out / RESULT).unlink(missing_ok=True)
        raise JobFailed(self.reason)


def forget(job: Job) -> None:
    """Remove what a job has written, so that it is run anew."""
    shutil.rmtree(job.out, ignore_errors=True)
