"""Altering what lies outside a mask (spec S1.4, ``mask_mode``): the default leaves every pixel as it is."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

MaskMode = Literal["crop_only", "bg_blur", "bg_fill"]
BLUR_SHARE = 0.03
"""Standard deviation of the background's blur, as a share of the image's longer side."""


def soften_background(
    image: NDArray[np.uint8], runs: NDArray[np.int32], mask_size: tuple[int, int], *, fill: bool
) -> NDArray[np.uint8]:
    """A copy whose pixels outside the mask are blurred, or filled with the background's mean colour.

    ``image`` uint8 (H, W, 3); ``runs`` int32 (R, 2) of a mask of ``mask_size`` (height, width), which is scaled to the
    image; without runs the image is returned as it is.
    """
    if len(runs) == 0:
        return image
    keep = _mask(runs, mask_size, image.shape[0], image.shape[1])
    background = image[~keep]
    if len(background) == 0:
        return image
    if fill:
        softened = np.broadcast_to(background.mean(axis=0).round().astype(np.uint8), image.shape)
    else:
        blur = ImageFilter.GaussianBlur(BLUR_SHARE * max(image.shape[:2]))
        softened = np.asarray(Image.fromarray(image).filter(blur))
    return np.where(keep[:, :, None], image, softened)


def _mask(runs: NDArray[np.int32], mask_size: tuple[int, int], height: int, width: int) -> NDArray[np.bool_]:
    flat = np.zeros(mask_size[0] * mask_size[1] + 1, np.int8)
    np.add.at(flat, runs[:, 0], 1)
    np.add.at(flat, runs[:, 1], -1)
    mask = np.cumsum(flat[:-1], dtype=np.int8).astype(bool).reshape(mask_size[1], mask_size[0]).T
    rows = ((np.arange(height) + 0.5) * mask_size[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * mask_size[1] / width).astype(np.int64)
    return mask[rows[:, None], columns[None, :]]
