"""Models on this machine: which part each can play, told by its file name or its configuration. Nothing is loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semaug.studies.doctor.findings import Finding
from semaug.studies.doctor.surroundings import Surroundings

DEPTH, MOST = 3, 4000
"""How deep folders are looked into, and how many files and folders at most: a look must stay quick."""
FILES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("yolo", re.compile(r"yolo.*\.(pt|onnx|safetensors)", re.IGNORECASE)),
    ("panoptic", re.compile(r".*(yoso|panoptic).*\.(onnx|pt)", re.IGNORECASE)),
    ("sam", re.compile(r"(mobile_?)?sam_.*\.(pth|pt|safetensors)", re.IGNORECASE)),
    ("backbone", re.compile(r"(resnet|mobilenet_?v2|vit)\w*[.-].*(pth|pth\.tar|safetensors)", re.IGNORECASE)),
)
"""role -> names of single files."""
MODEL_TYPES = {
    "blip-2": "captioner", "mask2former": "panoptic", "oneformer": "panoptic", "eomt": "panoptic",
    "sam": "sam-hf", "clip": "similarity", "siglip": "similarity",
}  # fmt: skip
"""``model_type`` of a transformers configuration -> role; a causal language model is a rewriter."""
_LEAST = 1024
"""Bytes below which a file holds no weights: an empty one, or what Git LFS leaves in the place of one."""
_HOLLOW = "holds no weights (empty, or a pointer of Git LFS); get the file itself"
PICKLES = {".bin", ".pt", ".pth", ".ckpt"}


@dataclass(frozen=True, slots=True)
class Model:
    """One model: the part it can play, what a command is given to use it, and why it cannot be used, if so."""

    role: str
    name: str
    place: str
    problem: str = ""


def find_models(around: Surroundings) -> list[Model]:
    """Models in the given folders, the working directory, its ``models`` and ``weights``, and the libraries' caches."""
    found = [m for folder in looked_into(around) for m in _in_folder(folder)]
    found += _hub_models(around.hub_cache)
    found += [m for m in _in_folder(around.torch_checkpoints, depth=0) if m.role in ("backbone", "sam")]
    return list(dict.fromkeys(found))


def looked_into(around: Surroundings) -> list[Path]:
    """The folders that are looked into beside the caches, each once."""
    places = [*around.weights, around.cwd / "models", around.cwd / "weights"]
    return list(dict.fromkeys(p.expanduser().absolute() for p in places))


def _in_folder(folder: Path, depth: int = DEPTH) -> Iterator[Model]:
    seen = 0
    for place, folders, files in os.walk(folder):
        here = Path(place)
        seen += len(folders) + len(files)
        model = _folder_model(here, str(here), here.name)
        if model is not None:
            yield model
        if model is not None or seen > MOST or len(here.relative_to(folder).parts) >= depth:
            folders.clear()
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if model is None:
            yield from _file_models(here, sorted(files))


def _file_models(folder: Path, names: Sequence[str]) -> Iterator[Model]:
    for name in names:
        role = next((role for role, pattern in FILES if pattern.fullmatch(name)), None)
        if role is not None:
            yield Model(role, name, str(folder / name), "" if _holds_weights(folder / name) else _HOLLOW)


def _hub_models(cache: Path) -> Iterator[Model]:
    """The models of Hugging Face's cache: ``models--owner--name/snapshots/REVISION``."""
    for folder in sorted(cache.glob("models--*")) if cache.is_dir() else ():
        name = folder.name.removeprefix("models--").replace("--", "/")
        main = folder / "refs" / "main"
        revisions = [folder / "snapshots" / main.read_text().strip()] if main.is_file() else []
        revisions += sorted((folder / "snapshots").glob("*"))
        model = next(filter(None, (_folder_model(r, name, name) for r in revisions if r.is_dir())), None)
        if model is not None:
            yield model


def _folder_model(folder: Path, place: str, name: str) -> Model | None:
    """The model that a folder as ``save_pretrained`` writes it holds, None for another folder."""
    if (folder / "model_index.json").is_file():
        return Model("generator", name, place, _weights_problem(folder, "*/"))
    config = _read(folder / "config.json")
    role = _role(config)
    return Model(role, name, place, _weights_problem(folder, "")) if role else None


def _role(config: dict[str, Any]) -> str | None:
    if "ControlNet" in str(config.get("_class_name", "")):
        return "controlnet"
    known = MODEL_TYPES.get(str(config.get("model_type", "")))
    causal = any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ())
    return known or ("rewriter" if causal else None)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _weights_problem(folder: Path, below: str) -> str:
    found = list(folder.glob(f"{below}*.safetensors"))
    if found:
        return "" if all(map(_holds_weights, found)) else _HOLLOW
    pickled = any(p.suffix in PICKLES for p in folder.glob(f"{below}*"))
    return "pickled weights only, which are never loaded; get the safetensors" if pickled else "no weights beside it"


def _holds_weights(file: Path) -> bool:
    try:
        return file.stat().st_size >= _LEAST
    except OSError:  # a link that leads nowhere
        return False


def examine_weights(around: Surroundings, models: Sequence[Model]) -> list[Finding]:
    """Where weights are looked for, and what was found."""
    places = {
        "looked into": [str(p) + _absent(p) for p in looked_into(around)],
        "Hugging Face cache": [f"{around.hub_cache}{_absent(around.hub_cache)}; HF_HUB_CACHE or HF_HOME moves it"],
        "torch cache": [f"{around.torch_checkpoints}{_absent(around.torch_checkpoints)}; TORCH_HOME moves it"],
    }
    found = [
        Finding(m.role, "off" if m.problem else "ok", m.place + (f": {m.problem}" if m.problem else "")) for m in models
    ]
    if not found:
        nothing = "none found; the offline oracles, `semaug quickstart` and training need none"
        found = [Finding("models", "ok", nothing, "semaug doctor --weights FOLDER looks elsewhere")]
    return [*(Finding(name, "ok", "\n".join(lines)) for name, lines in places.items()), *found]


def _absent(path: Path) -> str:
    return "" if path.is_dir() else " (not there)"
