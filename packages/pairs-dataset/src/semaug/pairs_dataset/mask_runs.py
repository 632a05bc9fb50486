# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions carry no annotations: numba infers their types; docstrings say what they take.
"""Masks as runs: how much of a mask a crop keeps, straight from COCO's run-length code.

Runs are int32 (R, 2): start and end (exclusive) of each stretch of set pixels, counted down the columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from semaug.artifacts.schemas import Rle

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True}


def mask_runs(mask: Rle) -> NDArray[np.int32]:
    """The runs of a mask: int32, shape (R, 2), starts and ends in column-major order."""
    lengths = _decode_counts(np.frombuffer(mask.counts, np.uint8))
    edges = np.cumsum(lengths)
    ends = edges[1::2]
    return np.stack([edges[0::2][: len(ends)], ends], axis=1).astype(np.int32)


@njit(**_OPTIONS)
def _decode_counts(code):
    """Run lengths (off, on, off, ...): each is a signed number in five-bit digits, least first, offset by 48 (bit 5
    of a digit says that more follow), and from the fourth on the difference to the length two before."""
    lengths = np.empty(code.size, np.int64)
    count = 0
    value, shift = 0, 0
    for byte in code:
        digit = np.int64(byte) - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        lengths[count] = value + (lengths[count - 2] if count > 2 else 0)
        count += 1
        value, shift = 0, 0
    return lengths[:count]


@njit(**_OPTIONS)
def area_within(runs, height, x0, y0, x1, y1):
    """Set pixels with x0 <= x < x1 and y0 <= y < y1, in a mask of ``height`` rows."""
    total = 0
    for i in range(runs.shape[0]):
        start, end = np.int64(runs[i, 0]), np.int64(runs[i, 1])
        for x in range(max(start // height, x0), min((end - 1) // height + 1, x1)):
            low = max(start - x * height, y0)
            high = min(end - x * height, y1)
            total += max(high - low, 0)
    return total


@njit(**_OPTIONS)
def tight_box(runs, height, x0, y0, x1, y1):
    """x0, y0, x1, y1 (exclusive) of the mask within a box; all zero when nothing of it lies there."""
    left, top, right, bottom = x1, y1, x0, y0
    for i in range(runs.shape[0]):
        start, end = np.int64(runs[i, 0]), np.int64(runs[i, 1])
        for x in range(max(start // height, x0), min((end - 1) // height + 1, x1)):
            low = max(start - x * height, y0)
            high = min(end - x * height, min(y1, height))
            if low < high:
                left, right = min(left, x), max(right, x + 1)
                top, bottom = min(top, low), max(bottom, high)
    if left >= right or top >= bottom:
        return 0, 0, 0, 0
    return left, top, right, bottom
