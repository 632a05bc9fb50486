"""Masks to COCO's compressed run-length code and back (pycocotools does the coding)."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from semaug.artifacts.schemas import Rle


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """Code a bool mask of shape (height, width)."""
    coded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle((int(mask.shape[0]), int(mask.shape[1])), coded["counts"])


def decode_mask(rle: Rle) -> NDArray[np.bool_]:
    """The bool mask of shape (height, width).

    >>> bool(decode_mask(encode_mask(np.eye(3, dtype=bool)))[1, 1])
    True
    """
    return cast("NDArray[np.bool_]", coco_mask.decode(_coco(rle)).astype(bool))


def mask_area(rle: Rle) -> int:
    """Pixels set in the mask."""
    return int(coco_mask.area(_coco(rle)))


def mask_box(rle: Rle) -> NDArray[np.float32]:
    """The tight box of the mask: float32, shape (4,), xyxy pixels, exclusive end; zeros when it is empty."""
    x, y, w, h = coco_mask.toBbox(_coco(rle))
    return np.array([x, y, x + w, y + h], np.float32)


def _coco(rle: Rle) -> dict[str, object]:
    return {"size": list(rle.size), "counts": rle.counts}
