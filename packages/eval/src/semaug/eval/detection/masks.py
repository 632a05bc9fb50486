"""Outlines to masks and back: targets of mask heads, and their answers at the size of the image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from semaug.artifacts.masks import decode_mask, encode_mask
from semaug.artifacts.schemas import Rle
from semaug.eval.detection.data import Outline

_PASTED_PIXELS = 32_000_000  # of masks held at once when answers are pasted: 128 MB in float32


def draw_outline(outline: Outline, size: tuple[int, int], drawn: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an outline in an image of ``size``, drawn at another: bool, shape ``drawn`` (height, width).

    Polygons are scaled, then filled by COCO's rule; a run-length mask is resized to the nearest pixel.
    """
    if isinstance(outline, Rle):
        mask = decode_mask(outline)
        if drawn == mask.shape:
            return mask
        resized = Image.fromarray(mask.astype(np.uint8)).resize(drawn[::-1], Image.Resampling.NEAREST)
        return np.asarray(resized) > 0
    return decode_mask(outline_code(outline, size, drawn))


def outline_code(outline: Outline, size: tuple[int, int], drawn: tuple[int, int] | None = None) -> Rle:
    """The run-length code of an outline, at ``drawn`` (height, width) or the image's own ``size``."""
    from pycocotools import mask as coco

    height, width = drawn or size
    if isinstance(outline, Rle):
        return outline if (height, width) == size else encode_mask(draw_outline(outline, size, (height, width)))
    scale = np.asarray([width / size[1], height / size[0]])
    code = coco.merge(coco.frPyObjects([(p * scale).ravel().tolist() for p in outline], height, width))
    return Rle((height, width), code["counts"])


def pasted_codes(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Rle, ...]:
    """Run-length codes of a mask head's answers, each stretched over its box and cut at one half.

    ``masks`` is float32 (n, 1, m, m) of probabilities, ``boxes`` float32 (n, 4) in pixels of an image of ``size``.
    """
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks, boxes, codes = masks.cpu(), boxes.cpu(), list[Rle]()
    chunk = max(1, _PASTED_PIXELS // max(1, size[0] * size[1]))
    for start in range(0, len(masks), chunk):
        part = slice(start, start + chunk)
        pasted = paste_masks_in_image(masks[part], boxes[part], size)
        codes += [encode_mask(np.asarray(m > 0.5)) for m in pasted[:, 0].numpy()]
    return tuple(codes)


def target_masks(outlines: tuple[Outline, ...], size: tuple[int, int], drawn: tuple[int, int], flip: bool) -> Tensor:
    """Masks of an image's objects as training takes them: uint8 (n, height, width), mirrored where ``flip``."""
    if not outlines:
        return torch.zeros((0, *drawn), dtype=torch.uint8)
    masks = np.stack([draw_outline(outline, size, drawn) for outline in outlines]).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(masks[:, :, ::-1]) if flip else masks)
