"""``run_study``: prepare, train and score what is not done, measure, report. Stopped, the same call goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.local_place import held
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.shards import Workers
from semaug.studies.runner import Outcome, run_jobs
from semaug.studies.study.catalogue import open_preset, scale_of
from semaug.studies.study.completing import complete
from semaug.studies.study.data import resolve_data
from semaug.studies.study.jobs import Guarded
from semaug.studies.study.kinds import Kind, Longer, Planned, kind_of
from semaug.studies.study.makers import MAKERS
from semaug.studies.study.measurements import run_measurements
from semaug.studies.study.pictures import draw_study_pictures
from semaug.studies.study.plan import RECORD, Study, read_record, write_record
from semaug.studies.study.prepare import Ready, artifact_order, needed, prepare
from semaug.studies.study.schema import Preset
from semaug.studies.study.tuning import with_tuned
from semaug.studies.study.weights import resolve_weights


@dataclass(frozen=True, slots=True)
class StudyDone:
    """What a run left: the report, its verdict, and one line for every job or artifact that failed."""

    report: Path
    verdict: str
    failed: tuple[str, ...]


def plan_study(
    name: str,
    scale: str,
    out: Path,
    *,
    data: Mapping[str, str] | None = None,
    weights: Mapping[str, str] | None = None,
    data_root: Path | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
    made: Mapping[str, str] | None = None,
    guidance: Mapping[str, str] | None = None,
    method: str | None = None,
    notes: Mapping[str, str] | None = None,
) -> Study:
    """The study of a preset's name (or file) at a scale. ``data`` maps ``ROLE.train`` and ``ROLE.test`` to specs,
    ``weights`` a model's role to a folder or id, ``made`` an artifact's name to one that is there (``ROLE/NAME`` for a
    data role other than `main`); ``seeds`` is their number. Studies of kind `compare` also take ``guidance`` (name to
    path) and another ``method``. ``notes`` (artifact to text) say what models that made one were trained on.

    Raises ``InvalidOption`` for a name, role, scale or variant that is not there.
    """
    guidance, train = dict(guidance or {}), (data or {}).get("main.train", "")
    preset = complete(open_preset(name), train, dict(made or {}), guidance, method)
    made = {**(made or {}), **guidance}
    study = filled_study(with_tuned(preset, scale), scale, out, data, weights, data_root, tuple(only), made)
    return replace(study, seeds=tuple(range(seeds)) if seeds else (), notes=dict(notes or {}))


def filled_study(
    preset: Preset, scale: str, out: Path, data: Mapping[str, str] | None, weights: Mapping[str, str] | None,
    data_root: Path | None, only: tuple[str, ...] = (), made: Mapping[str, str] | None = None,
) -> Study:  # fmt: skip
    """A preset at a scale, its roles filled by what is given or found."""
    sized, made = scale_of(preset, scale), made or {}
    small = sized.train_items is not None
    found = resolve_weights(weight_roles(preset, only, tuple(made)), weights, out / "models" if small else None)
    return Study(preset, scale, out, resolve_data(preset, sized, data, data_root), found, (), only, made)


def weight_roles(preset: Preset, only: Sequence[str] = (), made: Sequence[str] = ()) -> tuple[str, ...]:
    """The models that the artifacts of a preset are made by, but for those that are ``made`` in every data role."""
    places = needed(preset, only)
    wanted = (
        preset.artifacts[name]
        for name in artifact_order(preset, only)
        if not all(f"{place}/{name}" in made or (place == "main" and name in made) for place in places)
    )
    return tuple(dict.fromkeys(role for a in wanted for role in MAKERS[a.kind].roles(a.options)))


def run_study(
    study: Study,
    *,
    workers: Workers = 1,
    makers: Workers = 1,
    devices: Sequence[str] = ("cpu",),
    on_progress: OnProgress = ignore_progress,
) -> StudyDone:
    """Run what is not done and write the report.

    ``workers`` processes take jobs (at least one a device), each keeping to one of ``devices``, and ``makers`` work on
    each artifact; both may be an engine, such as Ray's actors. Raises ``InvalidOption`` where data or weights are
    missing, naming all of them, ``ArtifactMismatch`` where ``out`` holds another study, and ``ArtifactLocked`` while
    another process runs it.
    """
    from semaug.studies.study.report import write_study_report

    if study.missing:
        raise InvalidOption(f"{study.preset.name} at scale {study.scale_name} lacks " + "; ".join(study.missing))
    crew = _Crew(max(workers, len(devices)) if isinstance(workers, int) else workers, tuple(devices), on_progress)
    new = not study.out.exists()
    with held(study.out):
        ready = _run(study, crew, makers, new)
        draw_study_pictures(study.out, ready, device=devices[0], on_progress=on_progress)
        return write_study_report(study.out)


def _run(study: Study, crew: _Crew, makers: Workers, new: bool) -> Ready:
    """Prepare, train and score, measure."""
    with _leaving_nothing_but_work(study.out, new):
        write_record(study, {part: _kept(study, part) for part in ("jobs", "artifacts", "longer")})
        ready = prepare(study, workers=makers, device=crew.devices[0], on_progress=crew.on_progress)
        kind = kind_of(study.preset)
        tuning = kind.tune(study, ready)
    crew.run(tuning, "tune")
    first = kind.plan(study, ready)
    _record(study, ready, first, ())
    found = grouped(first, crew.run(first, "train"))
    asked = _longer(study, ready, kind, found)
    second = kind.plan_longer(study, ready, asked)
    _record(study, ready, [*first, *second], asked)
    crew.run(second, "train at equal cost")
    run_measurements(study, ready)
    return ready


@contextmanager
def _leaving_nothing_but_work(out: Path, new: bool) -> Iterator[None]:
    """Where a study fails before it has made anything, its new folder goes again: a mended command may take it."""
    try:
        yield
    except Exception:
        if new and all(path.name in (RECORD, ".lock") for path in out.rglob("*") if path.is_file()):
            shutil.rmtree(out, ignore_errors=True)
        raise


@dataclass(frozen=True, slots=True)
class _Crew:
    workers: Workers
    devices: tuple[str, ...]
    on_progress: OnProgress

    def run(self, planned: Sequence[Planned], stage: str) -> list[Outcome]:
        """The outcomes in the order of ``planned``; a job that stands in several places runs once."""
        unique = {p.job.name: Guarded(p.job, self.devices) for p in planned}
        done = run_jobs(list(unique.values()), workers=self.workers, stage=stage, on_progress=self.on_progress)
        for job, outcome in zip(unique.values(), done, strict=True):
            if outcome.result is None:
                job.keep_error(outcome.error)
        by_name = dict(zip(unique, done, strict=True))
        return [by_name[p.job.name] for p in planned]


def grouped(planned: Sequence[Planned], outcomes: Sequence[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """Outcomes by setting and variant, in the order of the seeds."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for place, outcome in zip(planned, outcomes, strict=True):
        found.setdefault((place.setting, place.variant), []).append(outcome)
    return found


def _longer(study: Study, ready: Ready, kind: Kind, found: Mapping[tuple[str, str], Sequence[Outcome]]) -> list[Longer]:
    """What is to train longer: what an earlier call settled, since times differ, unless another control is best now."""
    kept = (Longer(**row) for row in _kept(study, "longer"))
    settled = {(a.setting, a.variant): a for a in kept if (a.setting, a.variant) in found}
    for asked in kind.longer(study, ready, found):
        place = (asked.setting, asked.variant)
        if place not in settled or settled[place].control != asked.control:
            settled[place] = asked
    return list(settled.values())


def _kept(study: Study, part: str) -> list[dict[str, Any]]:
    """What earlier calls wrote of the study's jobs, artifacts, or longer controls."""
    record = read_record(study.out)
    return list(record[part]) if record else []


def _record(study: Study, ready: Ready, planned: Sequence[Planned], longer: Sequence[Longer]) -> None:
    """Write down what is planned, beside what calls for other variants or seeds planned before."""
    jobs = [
        {"setting": p.setting, "variant": p.variant, "seed": p.seed, "name": p.job.name, "steps": p.job.steps,
         "out": str(p.job.out.relative_to(study.out))}
        for p in planned
    ]  # fmt: skip
    artifacts = [made.record() for made in ready.artifacts.values()]
    facts = {
        "jobs": _beside(_kept(study, "jobs"), jobs, ("out",)),
        "artifacts": _beside(_kept(study, "artifacts"), artifacts, ("name", "data")),
        "longer": _beside(_kept(study, "longer"), [asdict(a) for a in longer], ("setting", "variant")),
    }
    write_record(study, facts)


def _beside(kept: list[dict[str, Any]], new: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """New rows after (or in place of) those kept, told apart by ``keys``."""
    rows = {tuple(row[key] for key in keys): row for row in (*kept, *new)}
    return list(rows.values())
