"""Drawing guidance and crops on images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from semaug.artifacts.masks import decode_mask
from semaug.artifacts.schemas import Guidance

BOX_COLOUR = (255, 214, 10)
MASK_COLOUR = (10, 200, 120)
VIEW_COLOURS = ((235, 64, 52), (64, 150, 255))
"""Boxes, masks, and the crops of view 1 and view 2."""


def draw_guidance(
    image: NDArray[np.uint8], guidance: Guidance | None, crops: Sequence[Sequence[int]] = (), *, side: int = 256
) -> Image.Image:
    """The image, its longer side scaled to ``side`` pixels, with boxes, masks and crops (top, left, height, width)."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    if guidance is not None and guidance.scale != "object":
        shown = _tinted(shown, guidance)
    pen = ImageDraw.Draw(shown)
    for box in guidance.boxes if guidance is not None else ():
        sx, sy = size[0] / guidance.width, size[1] / guidance.height  # type: ignore[union-attr]
        _rectangle(pen, [box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy], BOX_COLOUR, size)
    for view, (top, left, h, w) in enumerate(crops):
        corners = [left * scale, top * scale, (left + w) * scale, (top + h) * scale]
        _rectangle(pen, corners, VIEW_COLOURS[view % 2], size)
    return shown


def _rectangle(
    pen: ImageDraw.ImageDraw, corners: Sequence[float], colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    x0, y0 = max(0.0, min(corners[0], size[0] - 2)), max(0.0, min(corners[1], size[1] - 2))
    x1, y1 = max(x0 + 1, min(corners[2], size[0]) - 1), max(y0 + 1, min(corners[3], size[1]) - 1)
    pen.rectangle([x0, y0, x1, y1], outline=(0, 0, 0), width=3)
    pen.rectangle([x0, y0, x1, y1], outline=colour, width=2)


def _tinted(shown: Image.Image, guidance: Guidance) -> Image.Image:
    if not guidance.masks:
        return shown
    union = np.logical_or.reduce([decode_mask(m) for m in guidance.masks])
    mask = Image.fromarray((union * 110).astype(np.uint8)).resize(shown.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", shown.size, MASK_COLOUR), shown, mask)
