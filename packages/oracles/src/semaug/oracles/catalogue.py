"""The door to oracles: built in, installed as a plug-in, or the user's own ``module:attribute``.

A spec is a picklable description, ``name?option=value&option=value``; the oracle is built from it where it is needed,
once in each worker.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import parse_qsl

from pydantic import TypeAdapter, ValidationError

from semaug.artifacts.devices import worker_device
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.files import hash_file
from semaug.artifacts.verify import ENCODER_WEIGHTS
from semaug.oracles.errors import OracleError
from semaug.oracles.objectness import WEIGHTS_DIGEST
from semaug.oracles.protocols import AnyDetector, AnySegmenter

Role = Literal["detector", "segmenter"]

BUILT_IN: Mapping[Role, Mapping[str, str]] = {
    "detector": {
        "saliency": "semaug.oracles.saliency:SaliencyDetector",
        "objectness": "semaug.oracles.objectness:ObjectnessDetector",
        "center": "semaug.oracles.saliency:CentreDetector",
        "yolo": "semaug.oracles.yolo:open_yolo",
        "annotations": "semaug.oracles.annotations:AnnotationDetector",
        "self": "semaug.oracles.self_localisation:open_self",
    },
    "segmenter": {
        "grabcut": "semaug.oracles.grabcut:GrabCutSegmenter",
        "objectness": "semaug.oracles.objectness:ObjectnessSegmenter",
        "sam": "semaug.oracles.sam:open_sam",
        "sam-hf": "semaug.oracles.samhf:open_sam_hf",
        "annotations": "semaug.oracles.annotations:AnnotationSegmenter",
    },
}
"""role -> id -> module:attribute of a class or factory."""
ENTRY_POINTS: Mapping[Role, str] = {"detector": "semaug.detectors", "segmenter": "semaug.segmenters"}
"""role -> the entry-point group that other distributions register oracles in."""
_METHODS: Mapping[Role, tuple[str, str]] = {
    "detector": ("detect", "detect_keyed"),
    "segmenter": ("segment", "segment_keyed"),
}
_NOT_CONTENT = {"device", "threads"}
"""Options that say how an oracle runs, not what it finds."""


@dataclass(frozen=True, slots=True)
class OracleSpec:
    """Which oracle, and its options as text.

    >>> OracleSpec.parse("saliency?side=128", ["max_boxes=3"]).options
    (('max_boxes', '3'), ('side', '128'))
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, extra: Iterable[str] = ()) -> OracleSpec:
        """Read ``name?option=value&...`` and further ``option=value`` texts; raises ``InvalidOption``."""
        name, _, query = text.partition("?")
        try:
            options = dict(parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True))
        except ValueError as error:
            raise InvalidOption(f"cannot read {query!r} in {text!r}; write option=value&option=value") from error
        for item in extra:
            option, sign, value = item.partition("=")
            if not sign or not option:
                raise InvalidOption(f"cannot read the oracle option {item!r}; write option=value")
            options[option] = value
        return cls(name, tuple(sorted(options.items())))

    def require_installed(self, where: str) -> OracleSpec:
        """The spec itself; raises ``InvalidOption`` for a module or a file, whose code only the user may ask to run.

        ``where`` names what the spec was read from.
        """
        if ":" in self.name:
            raise InvalidOption(
                f"{where} names the oracle {self.name!r}, and code is not run because a file says so; "
                "give it on the command line"
            )
        return self

    def given(self, **defaults: str) -> OracleSpec:
        """The spec with defaults for options it does not name."""
        return OracleSpec(self.name, tuple(sorted({**defaults, **dict(self.options)}.items())))

    def placed(self) -> OracleSpec:
        """The spec with the one of its devices that this worker computes on."""
        options = {k: worker_device(v) if k == "device" else v for k, v in self.options}
        return OracleSpec(self.name, tuple(options.items()))

    def identity(self) -> dict[str, Any]:
        """What decides the oracle's results: files and folders stand as hashes of their content, not as paths."""
        options = {k: _content(v) for k, v in self.options if k not in _NOT_CONTENT}
        head, colon, attribute = self.name.rpartition(":")
        if colon and head.endswith(".py") and Path(head).is_file():
            return {"name": f"{Path(head).name}:{attribute}", "code": hash_file(Path(head)), "options": options}
        found: dict[str, Any] = {"name": self.name, "options": options}
        if self.name == "objectness" and "weights" not in options:
            found["weights"] = WEIGHTS_DIGEST
        return found

    def __str__(self) -> str:
        query = "&".join(f"{k}={v}" for k, v in self.options)
        return f"{self.name}?{query}" if query else self.name


def open_detector(spec: OracleSpec) -> AnyDetector:
    """Build the detector of a spec.

    Raises ``InvalidOption`` for an unknown name or option, ``MissingDependency`` and ``MissingWeights`` for what a
    model needs, ``OracleError`` for a plug-in without ``detect``.
    """
    return typing.cast(AnyDetector, _open("detector", spec))


def open_segmenter(spec: OracleSpec) -> AnySegmenter:
    """Build the segmenter of a spec; raises what ``open_detector`` raises."""
    return typing.cast(AnySegmenter, _open("segmenter", spec))


TRAINED_ON: Mapping[str, str] = {
    "saliency": "nothing", "grabcut": "nothing", "center": "nothing",
    "objectness": "ImageNet photographs, labelled by FastestDet",
    "annotations": "people's boxes of these images",
}  # fmt: skip
"""What is known of the training of built-in oracles; of files of weights nothing is."""


def trained_on(role: Role, spec: OracleSpec) -> str:
    """What an oracle was trained on: what is known of a built-in one, else what its attribute ``trained_on`` says.

    Empty where nobody says it. Raises ``InvalidOption`` for an oracle that is not there.

    >>> trained_on("detector", OracleSpec("objectness"))
    'ImageNet photographs, labelled by FastestDet'
    """
    if spec.name in BUILT_IN[role]:
        own = {"weights", "model"} & dict(spec.options).keys()
        return "" if own else TRAINED_ON.get(spec.name, "")
    return str(getattr(_find(role, spec.name), "trained_on", ""))


def accepts(role: Role, spec: OracleSpec, option: str) -> bool:
    """Whether the oracle of a spec has this option (``device``, for one)."""
    target = _find(role, spec.name)
    return callable(target) and option in inspect.signature(target).parameters


def _open(role: Role, spec: OracleSpec) -> object:
    target = _find(role, spec.name)
    if inspect.isclass(target) or not _has_method(role, target):
        oracle = _build(role, spec, target)
    elif spec.options:
        raise InvalidOption(f"{spec.name} is an instance and takes no options, {spec} gives some; leave them out")
    else:
        oracle = target
    if not _has_method(role, oracle):
        raise OracleError(
            f"{spec.name} gives a {type(oracle).__name__} without {_METHODS[role][0]}(); see the protocol"
        )
    return oracle


def _has_method(role: Role, target: object) -> bool:
    return any(callable(getattr(target, name, None)) for name in _METHODS[role])


def _find(role: Role, name: str) -> Any:
    if name in BUILT_IN[role]:
        return _attribute(role, BUILT_IN[role][name])
    if ":" in name:
        return _attribute(role, name)
    plugins = {point.name: point for point in entry_points(group=ENTRY_POINTS[role])}
    if name in plugins:
        return plugins[name].load()
    known = sorted({*BUILT_IN[role], *plugins})
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}, or give module:attribute"
    raise InvalidOption(f"unknown {role} {name!r}; {hint}")


def _attribute(role: Role, name: str) -> Any:
    head, _, attribute = name.rpartition(":")
    module = _load_file(Path(head)) if head.endswith(".py") else _import(role, head)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise InvalidOption(f"{head} has no attribute {attribute!r}; name the {role}'s class or factory") from error


def _import(role: Role, name: str) -> ModuleType:
    """Import a module, one in the working directory included."""
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise InvalidOption(
            f"{role} module {name!r} is not installed nor in {here}; give its path as file.py:attribute"
        ) from error
    finally:
        if added:
            sys.path.remove(here)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidOption(f"{path} does not exist; give the plug-in's file as path/to/file.py:attribute")
    name = f"semaug_plugin_{hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _build(role: Role, spec: OracleSpec, target: Callable[..., object]) -> object:
    if not callable(target):
        raise OracleError(f"{spec.name} is a {type(target).__name__}, not a {role}; name its class or factory")
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    values = {}
    for option, text in spec.options:
        if option not in parameters and not open_ended:
            raise InvalidOption(f"{spec.name} has no option {option!r}; it has {', '.join(parameters) or 'none'}")
        values[option] = _convert(spec, option, text, hints.get(option, str))
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in values and p.kind < 2]
    if missing:
        raise InvalidOption(f"{spec.name} needs the option {missing[0]!r}; give {spec.name}?{missing[0]}=...")
    return target(**values)


def _convert(spec: OracleSpec, option: str, text: str, kind: Any) -> object:
    try:
        return TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise InvalidOption(f"{spec.name}: option {option}={text!r} cannot be used: {reason}") from error


def _content(value: str) -> str:
    path = Path(value)
    if path.is_file():
        return f"blake2b:{hash_file(path)}"
    if not value or not path.is_dir():
        return value
    if (path / ENCODER_WEIGHTS).is_file():  # a run: what lies beside its weights comes and goes
        return f"blake2b:{hash_file(path / ENCODER_WEIGHTS)}"
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\x1f{hash_file(file)}\n".encode())
    return f"blake2b:{digest.hexdigest()}"
