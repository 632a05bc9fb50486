"""An encoder that starts from weights of ours or of others. No pickle is run: tensors and plain values only.

A file is read, the backbone's weights are taken out of it (the layout: where they lie), given our names, and compared
with the encoder's: what is missing, unexpected or of another shape is refused, classifiers and heads are left out.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.artifacts.files import hash_file
from semaug.artifacts.outside import refuse_expanded
from semaug.artifacts.verify import ENCODER_CARD, ENCODER_WEIGHTS
from semaug.ssl_methods.backbones import TIMM_PREFIX, VisionTransformer
from semaug.ssl_methods.backbones.vit import resample, sincos_positions
from semaug.ssl_methods.cards import load_encoder
from semaug.ssl_methods.encoder import Encoder, Initialisation
from semaug.ssl_methods.errors import WeightsMismatch
from semaug.ssl_methods.names import rename, reverse, timm_names, torchvision_names

State = dict[str, Tensor]

HEADS = ("fc.", "head.", "heads.", "classifier.", "linear.", "mask_token", "last_layer.")
"""What the names of classifiers and heads start with, once the backbone's own prefix is gone."""

POSITIONS = "pos_embed"
COUNTER = "num_batches_tracked"
"""The end of a counter's name that torch before 0.4.1 did not save and no forward pass in evaluation reads."""


def initialise(encoder: Encoder, path: str | Path, *, format: str = "auto") -> Initialisation:
    """Put the weights at ``path`` into the backbone of ``encoder``, in place; projector and predictor start anew.

    What was done is returned, and kept as ``encoder.origin``, which ``pretrain`` records.

    ``path`` is the folder of an encoder of ours, or a file: safetensors, or what ``torch.save`` wrote. ``format`` is
    ``semaug``, one of ``FORMATS``, or ``auto`` to tell by the names. Raises ``InvalidOption`` for an unknown format or
    an encoder that computes something else with the same weights, ``MissingWeights``, and ``WeightsMismatch``.
    """
    path = Path(path)
    if format not in ("auto", "semaug", *FORMATS):
        raise InvalidOption(f"format {format!r} is not known; choose one of auto, semaug, {', '.join(FORMATS)}")
    if not path.exists():
        raise MissingWeights(f"{path} does not exist; give the folder of a run, or a .pth, .ckpt or .safetensors file")
    encoder.origin = _initialise(encoder, path, format)
    return encoder.origin


def _initialise(encoder: Encoder, path: Path, format: str) -> Initialisation:
    folder = path.parent if path.name == ENCODER_WEIGHTS and (path.parent / ENCODER_CARD).exists() else path
    if format == "semaug" or (format == "auto" and folder.is_dir()):
        return _from_ours(encoder, folder)
    checkpoint = read_checkpoint(path)
    found = _recognise(checkpoint, encoder.spec.backbone) if format == "auto" else format
    state = FORMATS[found](checkpoint, encoder, path)
    dropped, resized = _take(encoder, state, path)
    return Initialisation(str(path), found, hash_file(path), len(state) - len(dropped), dropped, resized)


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """The mapping in a safetensors or ``torch.save`` file: tensors and plain values, and ``argparse.Namespace``.

    Raises ``WeightsMismatch`` for a file that is neither, or that holds other objects.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsMismatch(f"{path} is not a safetensors file ({error}); download it again") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # DINO's checkpoints hold their arguments so
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        refuse_expanded(checkpoint)
    except Exception as error:
        raise WeightsMismatch(f"{path} {_why_unreadable(path, error)}") from error
    if not isinstance(checkpoint, Mapping):
        raise WeightsMismatch(f"{path} holds a {type(checkpoint).__name__}, not weights by name; save its state_dict()")
    return checkpoint


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        unsafe = re.findall(r"(?:GLOBAL|global) ([\w.]+)", str(error))
    if unsafe:
        return (
            f"is a pickle that runs {_some(sorted(unsafe))} and is not loaded; where you trust it, save its tensors: "
            "torch.save(torch.load(path, weights_only=False)['state_dict'], 'weights.pth')"
        )
    return f"cannot be read as weights ({type(error).__name__}); give a .safetensors file or what torch.save wrote"


def _from_ours(encoder: Encoder, folder: Path) -> Initialisation:
    origin, card = load_encoder(folder)
    for what in ("backbone", "small_stem", "options", "mean", "std"):
        theirs, ours = getattr(origin.spec, what), getattr(encoder.spec, what)
        if theirs != ours:
            raise WeightsMismatch(
                f"{folder} has {what.replace('_', ' ')} {theirs!r}, this encoder {ours!r}; build it as {folder} was"
            )
    state = origin.backbone.state_dict()
    _, resized = _take(encoder, state, folder)
    return Initialisation(str(folder), "semaug", card.weights_digest, len(state), resized=resized)


def _recognise(checkpoint: Mapping[str, Any], backbone: str) -> str:
    """The format by what the file holds; plain names are timm's or torchvision's."""
    if "teacher" in checkpoint:
        return "dino"
    names = [name.removeprefix("module.") for name in _tensors(checkpoint)]
    if any(name.startswith(("encoder_q.", "base_encoder.")) for name in names):
        return "moco"
    if any(re.match(r"(backbone\.)?(vit\.|\d+\.|layer\d\.\d+\.shortcut\.)", name) for name in names):
        return "lightly"
    if any(re.match(r"backbone\.|encoder\.(conv1|cls_token|features)", name) for name in names):
        return "solo"
    of_timm = backbone.startswith(TIMM_PREFIX) or {"conv_stem.weight", "cls_token"} & set(names)
    return "timm" if of_timm else "torchvision"


def _tensors(checkpoint: Mapping[str, Any]) -> State:
    """The state dict itself, or under the key where training scripts put it."""
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    return {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}


def _below(state: State, prefixes: tuple[str, ...], path: Path, origin: str) -> State:
    """The part of ``state`` below the first of ``prefixes`` that it has."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    for prefix in prefixes:
        part = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
        if part:
            return part
    raise WeightsMismatch(
        f"{path} has no weights under {' or '.join(prefixes)} as {origin}'s have, but "
        f"{_some(state or ['none'])}; leave --init-format away, or name another"
    )


def _from_torchvision(checkpoint: Mapping[str, Any], encoder: Encoder, path: Path) -> State:
    return _named_by("torchvision", torchvision_names(encoder.spec.backbone), checkpoint, encoder, path)


def _from_timm(checkpoint: Mapping[str, Any], encoder: Encoder, path: Path) -> State:
    return _named_by("timm", timm_names(encoder.spec.backbone), checkpoint, encoder, path)


def _named_by(origin: str, pairs: Any, checkpoint: Mapping[str, Any], encoder: Encoder, path: Path) -> State:
    if pairs is None:
        raise InvalidOption(
            f"{origin} has no {encoder.spec.backbone}, so {path} cannot be its; choose another backbone"
        )
    state = _below(_tensors(checkpoint), ("",), path, origin)
    if encoder.spec.backbone.startswith(TIMM_PREFIX):
        heads = {name: v for name, v in state.items() if name not in encoder.backbone.network.state_dict()}  # type: ignore[union-attr,operator]
        return {**{f"network.{name}": v for name, v in state.items() if name not in heads}, **heads}
    return rename(state, reverse(pairs))


def _from_moco(checkpoint: Mapping[str, Any], encoder: Encoder, path: Path) -> State:
    """The query encoder of the official MoCo v1 and v2 (``encoder_q``) or of MoCo v3 (``base_encoder``)."""
    _require_heads(encoder, 12, "MoCo v3")
    return _below(_tensors(checkpoint), ("encoder_q.", "base_encoder."), path, "MoCo")


def _from_dino(checkpoint: Mapping[str, Any], encoder: Encoder, path: Path) -> State:
    """The teacher of DINO's full checkpoint; its files of a backbone alone have timm's or torchvision's names."""
    _require_heads(encoder, 6, "DINO")
    teacher = checkpoint.get("teacher")
    if not isinstance(teacher, Mapping):
        raise WeightsMismatch(
            f"{path} has no 'teacher' as DINO's have, but {_some(list(checkpoint))}; leave the format away"
        )
    return _below(_tensors(teacher), ("backbone.",), path, "DINO")


def _from_solo(checkpoint: Mapping[str, Any], encoder: Encoder, path: Path) -> State:
    """The backbone of a solo-learn run, ``encoder.*`` in its older versions."""
    state = _below(_tensors(checkpoint), ("backbone.", "encoder."), path, "solo-learn")
    positions = state.get(POSITIONS)
    if positions is not None and _is_sincos(positions):
        _require_heads(encoder, 12, "solo-learn's MoCo v3")
    if tuple(getattr(state.get("conv1.weight"), "shape", ())) == (64, 3, 3, 3):
        _require_option(encoder, "stem_padding", 1, 2, "solo-learn's small-image stem pads by 2 pixels")
    return state


def _from_lightly(checkpoint: Mapping[str, Any], encoder: Encoder, path: Path) -> State:
    """The backbone of a lightly example or benchmark: a torchvision ResNet or lightly's own, whole or as a Sequential
    of its children, or a masked vision transformer of timm's.
    """
    state = _below(_tensors(checkpoint), ("backbone.", ""), path, "lightly")
    if any(name.startswith("vit.") for name in state):
        return {name.removeprefix("vit."): value for name, value in state.items()}
    if "0.weight" in state:
        own = "2.0.conv1.weight" in state
        if own:
            _require_option(
                encoder, "stem_relu", True, False, "lightly's ResNet as a Sequential has no ReLU in its stem"
            )
        first = 2 if own else 4
        stages = [(f"{first + i}.", f"layer{i + 1}.") for i in range(4)]
        state = rename(state, [("0.", "conv1."), ("1.", "bn1."), *stages])
    return {name.replace(".shortcut.", ".downsample."): value for name, value in state.items()}


FORMATS: dict[str, Callable[[Mapping[str, Any], Encoder, Path], State]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "lightly": _from_lightly,
    "solo": _from_solo,
    "moco": _from_moco,
    "dino": _from_dino,
}
"""Formats of others by id: each takes the backbone's weights out of a file, in our names. ``semaug`` is ours."""


def _is_sincos(positions: Tensor) -> bool:
    grid = round((positions.shape[1] - 1) ** 0.5)
    same = positions.shape[1] == 1 + grid**2
    return same and torch.allclose(positions.float(), sincos_positions(grid, positions.shape[2]), atol=1e-5)


def _require_heads(encoder: Encoder, heads: int, origin: str) -> None:
    """Heads leave no trace in the shapes: another number would give other features without a word."""
    backbone = encoder.backbone
    if isinstance(backbone, VisionTransformer) and backbone.heads != heads:
        raise InvalidOption(
            f"{origin}'s ViT-S has {heads} heads, this {encoder.spec.backbone} {backbone.heads}; build it with the "
            f"option heads={heads}"
        )


def _require_option(encoder: Encoder, option: str, default: Any, wanted: Any, why: str) -> None:
    found = dict(encoder.spec.options).get(option, default)
    if found != wanted:
        raise InvalidOption(
            f"{why}, this encoder has {option}={found}: the same weights would give other features; build it with the "
            f"option {option}={wanted}, or name another format"
        )


def _take(encoder: Encoder, state: State, path: Path) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    """Load ``state`` into the backbone; returns the names left out, and how many positions became how many."""
    backbone = encoder.backbone
    expected = backbone.state_dict()
    dropped = tuple(sorted(name for name in state if name not in expected and name.startswith(HEADS)))
    given = {name: value for name, value in state.items() if name not in dropped}
    resized = None
    if isinstance(backbone, VisionTransformer) and POSITIONS in given:
        before = given[POSITIONS].shape[1]
        given[POSITIONS] = _fit_positions(given[POSITIONS], backbone.grid)
        resized = None if given[POSITIONS].shape[1] == before else (before - 1, given[POSITIONS].shape[1] - 1)
    _compare(given, expected, encoder, path)
    backbone.load_state_dict({**expected, **given})
    return dropped, resized


def _fit_positions(positions: Tensor, grid: int) -> Tensor:
    count = positions.shape[1] - 1
    square = round(count**0.5) ** 2 == count
    return resample(positions, grid, grid) if square and count != grid**2 else positions


def _compare(given: State, expected: Mapping[str, Tensor], encoder: Encoder, path: Path) -> None:
    missing = [name for name in expected if name not in given and not name.endswith(COUNTER)]
    unknown = [name for name in given if name not in expected]
    shapes = [(name, tuple(t.shape), tuple(expected[name].shape)) for name, t in given.items() if name in expected]
    misfits = [f"{name} {there} against {here}" for name, there, here in shapes if there != here]
    complaints = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unknown), ("of another shape", misfits))
        if names
    ]
    if complaints:
        spec = encoder.spec
        stem = " with the small-image stem" if spec.small_stem else ""
        raise WeightsMismatch(
            f"{path} does not fit {spec.backbone}{stem}, weights {'; '.join(complaints)}; build the encoder as the "
            "weights' own was (backbone, stem, options)"
        )


def _some(names: Any, most: int = 4) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
