"""Mask maps: what a panoptic model finds in an image, in the colours that ControlNet-seg expects.

Guidance holds no classes, so these maps come from a panoptic model of their own; ``open_panoptic`` opens one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis.ade20k import UNLABELLED, Classes, Colours, class_of, to_colours

Image = NDArray[np.uint8]

NOTHING = -1
"""The id of a pixel that belongs to no segment."""
EXPORTED = (".onnx", ".torchscript", ".ts", ".pt", ".pth")
"""File names' endings that are taken for exported models."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of an image: its id in the map, and its label in the words of the model."""

    id: int
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class PanopticMap:
    """Which segment every pixel belongs to: int32 ids (height, width), ``NOTHING`` for none, and the segments.

    Raises ``ValueError`` where the ids and the segments disagree.
    """

    ids: NDArray[np.int32]
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.dtype != np.int32:
            raise ValueError(f"ids are {self.ids.dtype} {self.ids.shape}, expected int32 (height, width)")
        named = [segment.id for segment in self.segments]
        if len(set(named)) != len(named) or min(named, default=0) < 0:
            raise ValueError(f"the segments have the ids {named}; give each its own, 0 or more")
        known = np.isin(self.ids, [*named, NOTHING])
        if not known.all():
            raise ValueError(
                f"the map holds the id {self.ids[~known][0]}, which no segment has; use {NOTHING} for none"
            )

    def classes(self, more: Mapping[str, str] | None = None) -> Classes:
        """ADE20K's class of every pixel, uint8 (height, width), ``UNLABELLED`` for none.

        ``more`` maps further labels to ADE20K's names. Raises ``InvalidOption`` for a label nobody knows.
        """
        table = np.full(max((segment.id for segment in self.segments), default=NOTHING) + 2, UNLABELLED, np.uint8)
        for segment in self.segments:
            table[segment.id + 1] = class_of(segment.label, more)
        return table[self.ids + 1]


def palette_image(found: PanopticMap, more: Mapping[str, str] | None = None) -> Colours:
    """The mask map: uint8 (height, width, 3) in ADE20K's colours, black where nothing was found."""
    return to_colours(found.classes(more))


class Panoptic(Protocol):
    """A panoptic model; the pipeline of semaug asks for nothing else."""

    def segment(self, images: Sequence[Image]) -> list[PanopticMap]:
        """One map an image, of its size."""

    def identity(self) -> dict[str, Any]:
        """What decides the maps: model, revision, digest, thresholds."""

    def close(self) -> None:
        """Let go of the model and its memory."""


def open_panoptic(
    model: str | os.PathLike[str],
    device: str = "cpu",
    dtype: str = "auto",
    batch_size: int = 4,
    labels: str | os.PathLike[str] | None = None,
    more_labels: Mapping[str, str] | None = None,
    side: int | None = None,
    threshold: float | None = None,
    mask_threshold: float = 0.5,
    overlap: float | None = None,
    revision: str | None = None,
) -> Panoptic:
    """Open a transformers model (Mask2Former, OneFormer, EoMT) by folder or hub id, or an exported file (YOSO).

    ``labels`` and ``side`` belong to exported files (``exported_panoptic.open_exported``), ``revision`` to hub ids.
    ``threshold``: least score of a segment; ``overlap``: least share of a mask that others leave visible; None for
    the model family's own. ``more_labels`` maps labels that are neither ADE20K's nor COCO's to ADE20K's names.

    Raises ``MissingWeights``, ``MissingDependency``, and ``InvalidOption`` for what is no panoptic model.
    """
    path = Path(os.fspath(model)).expanduser()
    if batch_size < 1:
        raise InvalidOption(f"the batch size is {batch_size}; give 1 or more")
    for name, value in (("threshold", threshold), ("mask_threshold", mask_threshold), ("overlap", overlap)):
        if value is not None and not 0 <= value <= 1:
            raise InvalidOption(f"{name} is {value}; give a share from 0 to 1")
    if path.is_file() or path.suffix.lower() in EXPORTED:
        from semaug.prompt_synthesis.exported_panoptic import open_exported

        return open_exported(path, labels, more_labels, side, device, batch_size, threshold, mask_threshold, overlap)
    if labels is not None or side is not None:
        raise InvalidOption(f"{model} brings its own labels and size; leave out labels and side")
    from semaug.prompt_synthesis.panoptic_models import open_transformers_panoptic

    return open_transformers_panoptic(
        model, more_labels, device, dtype, batch_size, threshold, mask_threshold, overlap, revision
    )
