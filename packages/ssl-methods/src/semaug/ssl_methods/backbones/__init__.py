"""Backbones: each maps images, float32 (B, 3, S, S), or rows of a table, (B, D), to features (B, feature_dim).

A backbone that keeps places apart has a method ``spatial_maps(images)``: float32 (B, C, h, w), its last maps before
they are pooled, cell (i, j) standing for rows i/h to (i + 1)/h and columns j/w to (j + 1)/w of the image.
Self-localisation and class-activation maps read it; a backbone without places (of rows of a table) leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.backbones.mlp import MLP
from semaug.ssl_methods.backbones.mobilenet import mobilenetv2
from semaug.ssl_methods.backbones.resnet import resnet18, resnet34, resnet50, resnet101
from semaug.ssl_methods.backbones.small_cnn import SmallCNN
from semaug.ssl_methods.backbones.timm_model import PREFIX as TIMM_PREFIX
from semaug.ssl_methods.backbones.timm_model import TimmBackbone
from semaug.ssl_methods.backbones.vit import VisionTransformer, vit_s4, vit_s8, vit_s16


@dataclass(frozen=True, slots=True)
class BackboneKind:
    """How a backbone is built: ``build(first, **options)``, where ``first`` is what ``reads`` says.

    ``images``: whether to build the small-image stem; ``sized images``: the input size in pixels; ``rows``: the number
    of columns. ``options`` are the names it takes, None for any.
    """

    build: Callable[..., nn.Module]
    reads: Literal["images", "sized images", "rows"] = "images"
    options: tuple[str, ...] | None = ()


_STEM = ("stem_padding", "stem_relu")
_PATCHES = ("heads", "positions", "drop_path")

BACKBONES: dict[str, BackboneKind] = {
    "small-cnn": BackboneKind(SmallCNN),
    "resnet18": BackboneKind(resnet18, options=_STEM),
    "resnet34": BackboneKind(resnet34, options=_STEM),
    "resnet50": BackboneKind(resnet50, options=_STEM),
    "resnet101": BackboneKind(resnet101, options=_STEM),
    "mobilenetv2": BackboneKind(mobilenetv2),
    "vit-s16": BackboneKind(vit_s16, "sized images", _PATCHES),
    "vit-s8": BackboneKind(vit_s8, "sized images", _PATCHES),
    "vit-s4": BackboneKind(vit_s4, "sized images", _PATCHES),
    "mlp": BackboneKind(MLP, "rows", ("widths", "norm_after")),
}
"""Backbones by id; beside them ``timm:NAME`` is any model of timm."""

SMALL_IMAGE = 64
"""Inputs up to this many pixels a side take the small-image stem unless told otherwise (spec 0.5)."""


def backbone_kind(name: str) -> BackboneKind:
    """The kind of a backbone by its id or ``timm:NAME``; raises ``InvalidOption`` for an unknown id."""
    if name.startswith(TIMM_PREFIX):
        return BackboneKind(partial(TimmBackbone, name.removeprefix(TIMM_PREFIX)), "sized images", None)
    if name not in BACKBONES:
        raise InvalidOption(f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}, timm:NAME")
    return BACKBONES[name]


def read_options(texts: Iterable[str]) -> dict[str, Any]:
    """Options written ``name=value``: a number, true or false, numbers with commas, or text; raises ``InvalidOption``.

    >>> read_options(["heads=12", "positions=sincos", "widths=500,80", "stem_relu=false"])
    {'heads': 12, 'positions': 'sincos', 'widths': (500, 80), 'stem_relu': False}
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InvalidOption(f"cannot read the backbone option {text!r}; write name=value")
        options[name] = tuple(map(_plain, value.split(","))) if "," in value else _plain(value)
    return options


def _plain(text: str) -> bool | int | float | str:
    for read in (lambda t: {"true": True, "false": False}[t], int, float):
        try:
            return read(text)
        except (KeyError, ValueError):
            continue
    return text


def build_backbone(
    name: str,
    *,
    small_stem: bool = False,
    input_size: int | None = None,
    input_features: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a backbone with random weights; its attribute ``feature_dim`` is the width of its features.

    Of ``small_stem``, ``input_size`` and ``input_features`` it takes the one its kind needs. Raises ``InvalidOption``.
    """
    kind, given = backbone_kind(name), dict(options or {})
    for option in given:
        if kind.options is not None and option not in kind.options:
            known = ", ".join(kind.options) or "none"
            raise InvalidOption(f"backbone {name!r} has no option {option!r}; it has {known}")
    first = {"images": small_stem, "sized images": input_size, "rows": input_features}[kind.reads]
    if first is None:
        raise InvalidOption(f"backbone {name!r} reads {kind.reads} and was given no size; say input_size or features")
    return kind.build(first, **given)


__all__ = [
    "BACKBONES",
    "MLP",
    "SMALL_IMAGE",
    "TIMM_PREFIX",
    "BackboneKind",
    "SmallCNN",
    "VisionTransformer",
    "backbone_kind",
    "build_backbone",
    "mobilenetv2",
    "read_options",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
]
