"""What a study prepares before it trains: stand-in images, and one artifact of each kind for all variants and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import SemaugError
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.shards import Workers
from semaug.artifacts.sources import ScenesSource, open_source
from semaug.studies.study import makers
from semaug.studies.study.catalogue import references, settings_of
from semaug.studies.study.data import DataSet
from semaug.studies.study.plan import Study
from semaug.studies.study.schema import ArtifactSpec, Preset
from semaug.studies.study.splitting import with_test_images
from semaug.studies.study.stand_ins import annotated, packed


@dataclass(frozen=True, slots=True)
class Prepared:
    """An artifact that is there: its path, all artifacts it was made through, the seconds they took (of one worker,
    without loading models), and its digest. ``error`` says in one line why it is not there."""

    name: str
    data: str
    path: Path | None
    parts: tuple[Path, ...] = ()
    seconds: float = 0.0
    error: str = ""
    digest: str = ""

    def record(self) -> dict[str, Any]:
        """Plain values for the study's record."""
        return {
            "name": self.name, "data": self.data, "path": None if self.path is None else str(self.path),
            "parts": [str(p) for p in self.parts], "seconds": self.seconds, "error": self.error, "digest": self.digest,
        }  # fmt: skip

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Prepared:
        """Back from its record."""
        path = None if record["path"] is None else Path(record["path"])
        return cls(**{**record, "path": path, "parts": tuple(Path(p) for p in record["parts"])})


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything that jobs read: data by role, and artifacts by (name, data role)."""

    data: Mapping[str, DataSet]
    artifacts: Mapping[tuple[str, str], Prepared] = field(default_factory=dict)

    def resolved(self, options: Mapping[str, Any], data: str) -> dict[str, Any]:
        """Options with ``@name`` as paths; raises ``NotPrepared`` where one could not be made."""
        return {name: self._path(value, data) for name, value in options.items()}

    def _path(self, value: Any, data: str) -> Any:
        if isinstance(value, list):
            return [self._path(one, data) for one in value]
        if not (isinstance(value, str) and value.startswith("@")):
            return value
        found = self.artifacts[value[1:], data]
        if found.path is None:
            raise NotPrepared(f"the artifact {found.name!r} could not be made: {found.error}")
        return str(found.path)

    def seconds(self, names: Sequence[str], data: str) -> float:
        """What making these artifacts took, each part once."""
        parts = {part for name in names for part in self.artifacts[name, data].parts}
        return sum(artifact_seconds(part) for part in parts)


class NotPrepared(SemaugError, RuntimeError):
    """A variant whose artifact could not be made."""


def prepare(
    study: Study, *, workers: Workers = 1, device: str = "cpu", on_progress: OnProgress = ignore_progress
) -> Ready:
    """Pack stand-in images and make every artifact that a chosen variant needs, or go on; what is finished is reused.

    An artifact that cannot be made is recorded with its reason, and only the variants that use it fail.
    """
    folder = (study.out / "artifacts").resolve()
    data = {
        name: annotated(found, folder, on_progress)
        if study.preset.data[name].boxes
        else packed(with_test_images(found, folder, workers, on_progress), folder, workers, on_progress)
        for name, found in study.data.items()
    }
    ready = Ready(data, artifacts := {})
    for place, names in needed(study.preset, study.only).items():
        for name in names:
            artifacts[name, place] = _made(study, ready, name, place, folder / place, workers, device, on_progress)
    return ready


def needed(preset: Preset, only: Sequence[str] = ()) -> dict[str, list[str]]:
    """The artifacts of each data role, in the order in which they are made."""
    places = dict.fromkeys(setting.data or "main" for setting in settings_of(preset).values())
    if not places and preset.artifacts:
        places = dict.fromkeys(["main"])
    return {place: artifact_order(preset, only) for place in places}


def artifact_order(preset: Preset, only: Sequence[str] = (), *, measured: bool = True) -> list[str]:
    """The artifacts that the chosen variants use, those that others read first.

    Where ``measured``, the kind uses its own too, and, where all variants are chosen, measurements theirs.
    """
    variants = [v for name, v in preset.variants.items() if not only or name in only]
    wanted = [r for v in variants for r in references({**v.options, "guidance": v.guidance})]
    more = (preset.options, *(() if only else preset.measurements.values())) if measured else ()
    wanted += [r for options in more for r in references(options)]
    order: list[str] = []
    for name in wanted:
        _visit(preset, name, order)
    return order


def _visit(preset: Preset, name: str, order: list[str]) -> None:
    if name in order:
        return
    for other in references(preset.artifacts[name].options):
        _visit(preset, other, order)
    order.append(name)


def _made(
    study: Study, ready: Ready, name: str, place: str, folder: Path, workers: Workers, device: str,
    on_progress: OnProgress,
) -> Prepared:  # fmt: skip
    spec, given = study.preset.artifacts[name], study.made_already(name, place)
    try:
        if given is not None:
            return _given(name, place, Path(given))
        making = makers.Making(
            images=ready.data[place].train, scenes=_scenes_of(study.data[place]), folder=folder, name=name,
            options=_options(study, ready, spec, place), weights=study.weights, device=device, workers=workers,
            on_progress=on_progress,
        )  # fmt: skip
        path, parts = makers.MAKERS[spec.kind].make(making)
        below = [part for r in references(spec.options) for part in ready.artifacts[r, place].parts]
        parts = tuple(dict.fromkeys((*below, *parts)))
        seconds = sum(artifact_seconds(part) for part in parts)
        return Prepared(name, place, path, parts, seconds, digest=Artifact.open(path).digest)
    except SemaugError as error:
        if error.exit_code != SemaugError.exit_code:  # asked to stop
            raise
        return Prepared(name, place, None, error=" ".join(str(error).split()))


def _given(name: str, place: str, path: Path) -> Prepared:
    """An artifact that somebody made before; what it took is told by itself alone."""
    made, path = Artifact.open(path), path.resolve()
    return Prepared(name, place, path, (path,), artifact_seconds(path), digest=made.digest)


def _options(study: Study, ready: Ready, spec: ArtifactSpec, place: str) -> dict[str, Any]:
    """The scale's options for all artifacts of the kind under the artifact's own."""
    return {**study.scale.artifacts.get(spec.kind, {}), **ready.resolved(spec.options, place)}


def _scenes_of(found: DataSet) -> ScenesSource | None:
    source = open_source(found.train) if found.train.startswith("scenes:") else None
    return source if isinstance(source, ScenesSource) else None


def artifact_seconds(path: Path) -> float:
    """What writing an artifact took: seconds of one worker, those spent loading models left out."""
    return sum(marker.costs.seconds for marker in Artifact.open(path).markers)
