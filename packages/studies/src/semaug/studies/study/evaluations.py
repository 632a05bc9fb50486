"""How a trained run is scored: names in a preset -> the protocols of ``semaug eval``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.studies.study.data import DataSet

if TYPE_CHECKING:
    from semaug.studies.protocols.subject import Subject

Rows = dict[str, Any]
ON = "on"
"""The option of every evaluation that names the data roles it is done on, in place of the run's own images."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What an evaluation is given: the run with its images, its own options, and all data of the study."""

    subject: Subject
    options: Mapping[str, Any]
    data: Mapping[str, DataSet] = field(default_factory=dict)
    on_progress: OnProgress = ignore_progress

    @property
    def folder(self) -> Path:
        """Where results of the run are kept."""
        return self.subject.run / "eval"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One way of scoring a run: ``knows`` are its options, ``wants`` those that name data roles."""

    run: Callable[[Scoring], Any]
    knows: frozenset[str] = frozenset()
    wants: frozenset[str] = frozenset()

    def roles(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The data roles that it reads beside the run's own."""
        named = (options.get(name, ()) for name in sorted({*self.wants, ON}))
        return tuple(role for value in named for role in ([value] if isinstance(value, str) else value))


def score(name: str, scoring: Scoring) -> Rows:
    """The measures of one evaluation as plain values.

    With the option `on`, names of data roles, it is done on each of those, and its metrics begin with the role.
    """
    from semaug.studies.evaluation import measures

    options = {key: value for key, value in scoring.options.items() if key != ON}
    scoring, places = replace(scoring, options=options), scoring.options.get(ON)
    if places is None:
        return measures(EVALUATIONS[name].run(scoring))
    rows: Rows = {}
    for place in places:
        found = scoring.data[place]
        there = replace(scoring, subject=replace(scoring.subject, train=found.train, test=found.test))
        rows |= {f"{place}/{metric}": row for metric, row in measures(EVALUATIONS[name].run(there)).items()}
    return rows


def check_evaluation(name: str, options: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise ``InvalidOption`` for a name, an option or a data role that is not there."""
    if name not in EVALUATIONS:
        raise InvalidOption(f"no evaluation is called {name!r}; choose one of {', '.join(EVALUATIONS)}")
    known = EVALUATIONS[name]
    if unknown := sorted(set(options) - known.knows - known.wants - {ON}):
        raise InvalidOption(f"evaluation {name!r} has no option {unknown[0]!r}; it has {', '.join(known.knows) or '-'}")
    if absent := sorted(set(known.roles(options)) - set(data)):
        raise InvalidOption(f"evaluation {name!r} reads data {absent[0]!r}; there are {', '.join(data) or 'none'}")


def _linear(scoring: Scoring) -> Any:
    from semaug.studies.evaluation import run_linear

    subject = scoring.subject
    solver = scoring.options.get("solver", "lbfgs")
    return run_linear(*subject.features, solver=solver, device=subject.device, seed=subject.seed)


def _knn(scoring: Scoring) -> Any:
    return scoring.subject.knn


def _svm(scoring: Scoring) -> Any:
    from semaug.studies.protocols.probes import run_svm

    return run_svm(*scoring.subject.features, folds=scoring.options.get("folds"), seed=scoring.subject.seed)


def _kmeans(scoring: Scoring) -> Any:
    from semaug.studies.protocols.probes import run_kmeans

    repetitions = scoring.options.get("repetitions")
    return run_kmeans(*scoring.subject.features, repetitions=repetitions, seed=scoring.subject.seed)


def _fewshot(scoring: Scoring) -> Any:
    from semaug.studies.protocols.probes import run_fewshot

    subject, given = scoring.subject, scoring.options
    return run_fewshot(
        *subject.features, shots=given.get("shots", ()), episodes=given.get("episodes"), device=subject.device,
        seed=subject.seed,
    )  # fmt: skip


def _semi(scoring: Scoring) -> Any:
    from semaug.studies.protocols.probes import run_semi

    subject, given = scoring.subject, scoring.options
    return run_semi(
        *subject.features, shares=given.get("shares", ()), draws=given.get("draws"), device=subject.device,
        seed=subject.seed,
    )  # fmt: skip


def _transfer(scoring: Scoring) -> Any:
    from semaug.studies.protocols.transfer import TransferSet, run_transfer

    subject, names = scoring.subject, scoring.options["sets"]
    sets = [TransferSet(name, scoring.data[name].train, scoring.data[name].test) for name in names]
    return run_transfer(
        subject.run, sets, solver=scoring.options.get("solver", "lbfgs"), seed=subject.seed, device=subject.device,
        keep=False,
    )  # fmt: skip


def _finetune(scoring: Scoring) -> Any:
    from semaug.studies.protocols.training import finetune_settings, run_finetune

    subject, given = scoring.subject, scoring.options
    settings = finetune_settings(
        subject.run, given.get("recipe"), epochs=given.get("epochs"), batch_size=given.get("batch_size")
    )
    specs = subject.train, subject.test
    done = run_finetune(
        subject.run, *specs, settings, seed=subject.seed, out=scoring.folder / "finetune", device=subject.device
    )
    return done.result


def _boxes(masks: bool) -> Callable[[Scoring], Any]:
    def detect(scoring: Scoring) -> Any:
        from semaug.studies.protocols.detection import DetectionPlan, run_detection

        subject, given = scoring.subject, dict(scoring.options)
        found = scoring.data[given.pop("data")]
        plan = DetectionPlan(tuple(found.train.split()), tuple(found.test.split()), masks)
        changes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        plan = replace(plan, **changes)
        place = scoring.folder / ("segment" if masks else "detect")
        done = run_detection(subject.run, plan, place, seed=subject.seed, device=subject.device)
        assert done is not None  # one process
        return done.result

    return detect


def _geometry(scoring: Scoring) -> Any:
    from semaug.studies.protocols.geometry import run_geometry, two_views

    subject = scoring.subject
    how = {"seed": subject.seed, "device": subject.device}
    views = two_views(subject.run, subject.test, **how)  # type: ignore[arg-type]
    return run_geometry(subject.features[1], views, **how)  # type: ignore[arg-type]


def _invariance(scoring: Scoring) -> Any:
    from semaug.studies.protocols.geometry import run_invariance

    subject = scoring.subject
    return run_invariance(subject.run, subject.test, seed=subject.seed, device=subject.device)


def _distil(scoring: Scoring) -> Any:
    """The run as teacher of each of ``students``, name -> backbone; metrics begin with the student's name."""
    from semaug.studies.protocols.training import distillation_settings, run_distil

    subject, given = scoring.subject, scoring.options
    settings = distillation_settings(
        epochs=given.get("epochs", 30), batch_size=given.get("batch_size", 128), lr=given.get("lr", 1e-3)
    )
    for name, backbone in given["students"].items():
        done = run_distil(
            subject.run, subject.train, subject.train, subject.test, out=scoring.folder / "distil" / name,
            backbone=backbone, settings=settings, seed=subject.seed, device=subject.device, keep=False,
        )  # fmt: skip
        yield from (replace(m, metric=f"{name}/{m.metric}") for m in done.result)


def _costs(scoring: Scoring) -> Any:
    from semaug.studies.protocols.costs import costs_of

    subject = scoring.subject
    batch = scoring.options.get("batch_size", 64)
    return costs_of(subject.run, subject.test, batch_size=batch, device=subject.device, seed=subject.seed)


_DETECTOR = frozenset({
    "schedule", "steps", "batch_size", "lr", "sides", "architecture", "norm", "samples", "proposals", "repeats",
})  # fmt: skip
_DATA = frozenset({"data"})
EVALUATIONS: dict[str, Evaluation] = {
    "linear": Evaluation(_linear, frozenset({"solver"})),
    "knn": Evaluation(_knn),
    "svm": Evaluation(_svm, frozenset({"folds"})),
    "kmeans": Evaluation(_kmeans, frozenset({"repetitions"})),
    "fewshot": Evaluation(_fewshot, frozenset({"shots", "episodes"})),
    "semi": Evaluation(_semi, frozenset({"shares", "draws"})),
    "transfer": Evaluation(_transfer, frozenset({"solver"}), frozenset({"sets"})),
    "finetune": Evaluation(_finetune, frozenset({"recipe", "epochs", "batch_size"})),
    "detect": Evaluation(_boxes(masks=False), _DETECTOR, _DATA),
    "segment": Evaluation(_boxes(masks=True), _DETECTOR, _DATA),
    "distil": Evaluation(_distil, frozenset({"students", "epochs", "batch_size", "lr"})),
    "geometry": Evaluation(_geometry),
    "invariance": Evaluation(_invariance),
    "costs": Evaluation(_costs, frozenset({"batch_size"})),
}
"""Name -> evaluation. A run's retention and costs of preparation are measurements of the study, not of a run."""
