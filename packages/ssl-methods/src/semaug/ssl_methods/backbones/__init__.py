"""Backbones: each maps images, float32 (B, 3, S, S), to features (B, feature_dim).

A backbone that keeps places apart has a method ``spatial_maps(images)``: float32 (B, C, h, w), its last maps before
they are pooled, cell (i, j) standing for rows i/h to (i + 1)/h and columns j/w to (j + 1)/w of the image.
Self-localisation and class-activation maps read it; a backbone without places (of rows of a table) leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.backbones.resnet import resnet18, resnet50
from semaug.ssl_methods.backbones.small_cnn import SmallCNN

BACKBONES: dict[str, Callable[[bool], nn.Module]] = {
    "small-cnn": SmallCNN,
    "resnet18": resnet18,
    "resnet50": resnet50,
}
"""Builders by id; the argument says whether to build the small-image stem."""

SMALL_IMAGE = 64
"""Inputs up to this many pixels a side take the small-image stem unless told otherwise (spec 0.5)."""


def build_backbone(name: str, *, small_stem: bool) -> nn.Module:
    """Build a backbone with random weights; its attribute ``feature_dim`` is the width of its features.

    Raises ``InvalidOption`` for an unknown name.
    """
    if name not in BACKBONES:
        raise InvalidOption(f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name](small_stem)


__all__ = ["BACKBONES", "SMALL_IMAGE", "SmallCNN", "build_backbone", "resnet18", "resnet50"]
