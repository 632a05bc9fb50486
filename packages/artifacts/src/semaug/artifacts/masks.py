"""Masks to COCO's compressed run-length code and back.

pycocotools does the coding. Decoding is done here: its ``decode`` raises a deprecation warning under NumPy 2, and a
silenced warning is not safe among threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from semaug.artifacts.decode import MAX_PIXELS
from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.schemas import Rle

_LONGEST = 8
"""Characters of a number after its first: 45 bits."""


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """Code a bool mask of shape (height, width)."""
    coded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle((int(mask.shape[0]), int(mask.shape[1])), coded["counts"])


def encode_runs(runs: Sequence[int], size: tuple[int, int]) -> Rle:
    """The code of COCO's uncompressed run lengths in a mask of ``size`` (height, width).

    Raises ``ValueError`` unless they are whole numbers that add up to it.
    """
    height, width = size
    whole = all(isinstance(run, int) and run >= 0 for run in runs)
    if not whole or height * width > MAX_PIXELS or sum(runs) != height * width:
        raise ValueError(f"the runs of a mask are no whole numbers that add up to {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    return encode_mask(np.repeat(values, runs).reshape(width, height).T)


def decode_mask(rle: Rle) -> NDArray[np.bool_]:
    """The bool mask of shape (height, width); raises ``ArtifactError`` when the code is not of that size.

    >>> bool(decode_mask(encode_mask(np.eye(3, dtype=bool)))[1, 1])
    True
    """
    height, width = rle.size
    runs = _checked_runs(rle)
    values = np.arange(len(runs)) % 2 == 1  # runs alternate, the first is of zeros, down the columns
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _checked_runs(rle: Rle) -> NDArray[np.int64]:
    """The run lengths, which are of the mask's size; nothing of that size is made before they are."""
    height, width = rle.size
    if min(height, width) < 0 or height * width > MAX_PIXELS:
        raise ArtifactError(f"a mask says it is {height} x {width}, at most {MAX_PIXELS:,} pixels are read")
    runs = _run_lengths(rle.counts)
    if len(runs) and (runs.min() < 0 or runs.max() > height * width):
        raise ArtifactError(f"a mask of {height} x {width} has a run of {runs.min()} or {runs.max()}; extract it again")
    if runs.sum() != height * width:
        raise ArtifactError(
            f"a mask of {height} x {width} has {runs.sum()} pixels in its run lengths; extract it again"
        )
    return runs


def _run_lengths(counts: bytes) -> NDArray[np.int64]:
    """COCO's text code: 5 bits a character, low first, bit 32 for "more", sign in the last; from the fourth number on
    each is the difference to the one two before."""
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    last = (codes & 32) == 0
    first = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    if not last[-1]:
        raise ArtifactError(f"the run lengths of a mask end within a number ({counts[-8:]!r}); extract it again")
    place = np.arange(len(codes)) - np.repeat(first, np.diff([*first, len(codes)]))
    if place.max() > _LONGEST or codes.min() < 0 or codes.max() > 63:
        raise ArtifactError(f"the run lengths of a mask are no COCO code ({counts[:16]!r}); extract it again")
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    negative = (codes[last] & 16) != 0
    numbers[negative] -= 1 << (5 * (place[last][negative] + 1))
    for start in (1, 2):
        numbers[start::2] = np.cumsum(numbers[start::2])
    return numbers


def mask_area(rle: Rle) -> int:
    """Pixels set in the mask; raises ``ArtifactError`` when the code is not of its size."""
    return int(_checked_runs(rle)[1::2].sum())


def mask_box(rle: Rle) -> NDArray[np.float32]:
    """The tight box of the mask: float32, shape (4,), xyxy pixels, exclusive end; zeros when it is empty.

    Raises ``ArtifactError`` when the code is not of its size.
    """
    if not _checked_runs(rle)[1::2].any():  # pycocotools divides by the height
        return np.zeros(4, np.float32)
    x, y, w, h = coco_mask.toBbox(_coco(rle))
    return np.array([x, y, x + w, y + h], np.float32)


def _coco(rle: Rle) -> dict[str, object]:
    return {"size": list(rle.size), "counts": rle.counts}
