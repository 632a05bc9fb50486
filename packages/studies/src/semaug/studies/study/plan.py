"""A study as it is to be run: a preset at a scale, its roles filled, and where everything goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption
from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.outside import parse_json, reading
from semaug.studies.study.catalogue import scale_of
from semaug.studies.study.data import DataSet
from semaug.studies.study.data import remedy_of as data_remedy
from semaug.studies.study.schema import Preset, Scale
from semaug.studies.study.weights import Weights
from semaug.studies.study.weights import remedy_of as weights_remedy

RECORD = "study.json"


@dataclass(frozen=True, slots=True)
class Study:
    """A preset at one scale with its data and weights. ``only`` names the variants to run (none: all).

    ``made`` are artifacts that are there already: ``NAME`` (``ROLE/NAME`` for a data role other than `main`) to path.
    ``notes`` say what the models that made an artifact were trained on, where it does not say it itself.
    """

    preset: Preset
    scale_name: str
    out: Path
    data: Mapping[str, DataSet]
    weights: Mapping[str, Weights] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    only: tuple[str, ...] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.only) - set(self.preset.variants)):
            known = ", ".join(self.preset.variants)
            raise InvalidOption(f"{self.preset.name} has no variant {unknown[0]!r}; it has {known}")
        named = {name.rpartition("/")[2] for name in (*self.made, *self.notes)}
        if unknown := sorted(named - set(self.preset.artifacts)):
            known = ", ".join(self.preset.artifacts) or "none"
            raise InvalidOption(f"{self.preset.name} has no artifact {unknown[0]!r}; it has {known}")

    def made_already(self, name: str, place: str) -> str | None:
        """The path of an artifact that was given."""
        return self.made.get(f"{place}/{name}") or (self.made.get(name) if place == "main" else None)

    @property
    def scale(self) -> Scale:
        """The scale that it runs at."""
        return scale_of(self.preset, self.scale_name)

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        """The seeds of every variant."""
        return self.seeds or tuple(range(self.scale.seeds))

    @property
    def random_weights(self) -> bool:
        """Whether any model is a random stand-in."""
        return any(w.origin == "random" for w in self.weights.values())

    @property
    def missing(self) -> tuple[str, ...]:
        """What has to be given before this can run, one line each."""
        data = (data_remedy(d.name, self.preset.data[d.name]) for d in self.data.values() if d.origin == "missing")
        return (*data, *(weights_remedy(w.role) for w in self.weights.values() if w.origin == "missing"))

    def identity(self) -> dict[str, Any]:
        """What a rerun into the same folder must share."""
        preset = self.preset.model_dump(mode="json", exclude={"scales", "text", "title", "reasons"})
        scale = self.scale.model_dump(mode="json", exclude={"seeds", "text"})
        data = {name: asdict(found) for name, found in self.data.items()}
        weights = {name: _placeless(found) for name, found in self.weights.items()}
        return json.loads(  # type: ignore[no-any-return]
            json.dumps(
                {
                    "preset": preset,
                    "scale_name": self.scale_name,
                    "scale": scale,
                    "data": data,
                    "weights": weights,
                    "made": dict(self.made),
                }
            )
        )


def _placeless(weights: Weights) -> dict[str, Any]:
    """A model's role; a random stand-in is the same wherever it lies."""
    return asdict(weights) | ({"model": "random weights"} if weights.origin == "random" else {})


def write_record(study: Study, facts: Mapping[str, Any]) -> None:
    """Write down what the study is, with ``facts`` of its run; raises ``ArtifactMismatch`` where another one is."""
    kept = read_record(study.out)
    if kept is not None and (differs := _difference(kept["identity"], study.identity())):
        raise ArtifactMismatch(f"{study.out} holds another study: {differs}; give another --out")
    record = {
        "identity": study.identity(),
        "preset": study.preset.model_dump(mode="json"),
        "seeds": list(study.chosen_seeds),
        "only": list(study.only),
        "notes": {**(kept or {}).get("notes", {}), **study.notes},
        **facts,
    }
    with writing(study.out):
        study.out.mkdir(parents=True, exist_ok=True)
    write_atomic(study.out / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def read_record(out: Path) -> dict[str, Any] | None:
    """What ``write_record`` wrote; None where nothing is, or it is torn."""
    try:
        found = parse_json((out / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def study_of(out: Path) -> tuple[Study, dict[str, Any]]:
    """The study that a folder holds, and its record.

    Raises ``InvalidOption`` where there is none, ``ArtifactError`` for a damaged record.
    """
    record = read_record(out)
    if record is None:
        raise InvalidOption(f"{out} holds no study ({RECORD} is not there); give the --out of `semaug study run`")
    with reading(out / RECORD, "run the study again into another folder"):
        return _study_in(out, record)


def _study_in(out: Path, record: dict[str, Any]) -> tuple[Study, dict[str, Any]]:
    identity = record["identity"]
    preset = Preset.model_validate(record["preset"])
    data = {name: DataSet(**found) for name, found in identity["data"].items()}
    weights = {name: Weights(**found) for name, found in identity["weights"].items()}
    seeds, only, notes = tuple(record["seeds"]), tuple(record["only"]), record.get("notes", {})
    return Study(preset, identity["scale_name"], out, data, weights, seeds, only, identity["made"], notes), record


def _difference(kept: Any, new: Any, where: str = "") -> str:
    """The first place in which two nested values differ, with both."""
    if isinstance(kept, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*kept, *new)):
            if found := _difference(kept.get(key), new.get(key), f"{where}.{key}" if where else key):
                return found
        return ""
    return "" if kept == new else f"{where} is {_short(kept)} there and {_short(new)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
