"""What an image's pixels say about its quality: one fused pass for Laplacian variance and entropy (SDI, spec S1.1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from semaug.quality_policy.errors import InvalidImage

_int32, _int64, _uint16, _uint32, _uint64 = np.int32, np.int64, np.uint16, np.uint32, np.uint64
_PAD = _uint64(4)
"""Cells before the first pixel of a row buffer: one for the border, and 8 bytes in all keep pixels on a word."""
_BLOCK = _uint64(256)
"""Words (of two pixels) whose squares, at most 2044 squared each, still sum within int32."""
_BIAS = 1024
"""Added to each Laplacian, so that the two lanes of a word never borrow from each other."""
_0, _1, _2, _3, _4, _8 = _uint64(0), _uint64(1), _uint64(2), _uint64(3), _uint64(4), _uint64(8)
_BYTE, _LANE = _uint64(255), _uint64(16)
_ONE = _uint32(1)
_AHEAD = _uint64(2)
"""Rows to ask memory for in advance."""
_STRIDE = 272
"""Cells from one histogram to the next: not a divisor of 4,096 bytes, at which distance a load waits for a store."""


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Size in pixels, population variance of the Laplacian on the 0-255 scale, and entropy in bits."""

    height: int
    width: int
    laplacian_variance: float
    entropy: float


@dataclass(frozen=True, slots=True)
class PixelSums:
    """The exact integers behind the statistics: sums over the Laplacian, and the 256-bin grey histogram (int64)."""

    height: int
    width: int
    laplacian_sum: int
    laplacian_square_sum: int
    histogram: NDArray[np.int64]


@intrinsic
def _prefetch(typing_context: Any, values: Any, index: Any) -> Any:
    """Ask for the cache line of ``values[index]``; the address is not read, so it may lie beyond the end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        i8, i32 = ir.IntType(8), ir.IntType(32)
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), i8.as_pointer())
        hint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [i8.as_pointer(), i32, i32, i32]), "llvm.prefetch.p0"
        )
        builder.call(hint, [place, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(values, index), generate


@njit(nogil=True, cache=True)
def _prefetch_row(pixels: NDArray[np.uint8], start: np.uint64, n: np.uint64) -> None:
    """Ask for n bytes of a row to come, so that memory works while the rows at hand are counted."""
    for line in range(n // _uint64(64) + _1):
        _prefetch(pixels, start + line * _uint64(64))  # type: ignore[call-arg]


# Rows are named by the offset of their first cell in one flat buffer, and indices are unsigned: slices would cost more
# than a row's arithmetic, and signed indices carry a test for negative ones that keeps loops from vectorising.


@njit(nogil=True, cache=True)
def _gray_row(
    pixels: NDArray[np.uint8], start: np.uint64, cells: NDArray[np.uint16], row: np.uint64, n: np.uint64
) -> None:
    """BT.601 grey of one row of interleaved RGB bytes: (4899 R + 9617 G + 1868 B + 8192) >> 14, in 16-bit lanes.

    Each weight is split into 128 * high + low, since floor((128 h + l) / 2**14) = floor((h + floor(l / 128)) / 128).
    """
    to = row + _PAD
    for x in range(n):
        at = start + _3 * x
        r, g, b = _uint16(pixels[at]), _uint16(pixels[at + _1]), _uint16(pixels[at + _2])
        high = _uint16(_uint16(_uint16(38 * r) + _uint16(75 * g)) + _uint16(_uint16(14 * b) + _uint16(64)))
        low = _uint16(_uint16(_uint16(35 * r) + _uint16(17 * g)) + _uint16(76 * b))
        cells[to + x] = _uint16(_uint16(high + _uint16(low >> _uint16(7))) >> _uint16(7))


@njit(nogil=True, cache=True)
def _pad_row(cells: NDArray[np.uint16], row: np.uint64, n: np.uint64) -> None:
    """Reflect-101 border; a row of one pixel repeats it."""
    other = _1 if n > _1 else _0
    first, last = row + _PAD, row + _PAD + n - _1
    cells[first - _1] = cells[first + other]
    cells[last + _1] = cells[last - other]


@njit(nogil=True, cache=True)
def _count_row(
    words: NDArray[np.uint64], cells: NDArray[np.uint16], row: np.uint64, n: np.uint64, counts: NDArray
) -> None:
    """Count a row, eight pixels a step; eight tables, so that equal neighbours do not wait for each other."""
    start, whole = (row + _PAD) // _4, n // _8
    for i in range(whole):
        word = words[start + _2 * i]
        counts[word & _BYTE] += _ONE
        counts[((word >> _LANE) & _BYTE) + _uint64(1 * _STRIDE)] += _ONE
        counts[((word >> _uint64(32)) & _BYTE) + _uint64(2 * _STRIDE)] += _ONE
        counts[(word >> _uint64(48)) + _uint64(3 * _STRIDE)] += _ONE
        word = words[start + _2 * i + _1]
        counts[(word & _BYTE) + _uint64(4 * _STRIDE)] += _ONE
        counts[((word >> _LANE) & _BYTE) + _uint64(5 * _STRIDE)] += _ONE
        counts[((word >> _uint64(32)) & _BYTE) + _uint64(6 * _STRIDE)] += _ONE
        counts[(word >> _uint64(48)) + _uint64(7 * _STRIDE)] += _ONE
    for x in range(_8 * whole, n):
        counts[_uint64(cells[row + _PAD + x])] += _ONE


@njit(nogil=True, cache=True)
def _word_squares(words: NDArray[np.int32], up: np.uint64, mid: np.uint64, down: np.uint64, n: np.uint64) -> np.int32:
    """Sum of (Laplacian + ``_BIAS``) squared over at most ``_BLOCK`` words of two 16-bit pixels."""
    total = _int32(0)
    for i in range(n):
        here = words[mid + i]
        left = _int32(_int32(words[mid - _1 + i] + here) >> _int32(16))  # sideways sums: of the low lane
        right = _int32(_int32(here + words[mid + _1 + i]) << _int32(16))  # and of the high lane
        cross = _int32(_int32(words[up + i] + words[down + i]) + _int32(left + right))
        lanes = _int32(_int32(cross + _int32(_BIAS * 65537)) - _int32(here << _int32(2)))
        low, high = _int32(lanes & _int32(2047)), _int32(_int32(lanes >> _int32(16)) & _int32(2047))
        total = _int32(total + _int32(_int32(low * low) + _int32(high * high)))
    return total


@njit(nogil=True, cache=True)
def _row_squares(
    words: NDArray[np.int32], cells: NDArray[np.uint16], up: np.uint64, mid: np.uint64, down: np.uint64, n: np.uint64
) -> np.int64:
    """Sum of (Laplacian + ``_BIAS``) squared over one row of n pixels."""
    total, done, pairs = _int64(0), _0, n // _2
    while done < pairs:
        size = min(_BLOCK, pairs - done)
        at = _PAD // _2 + done
        total += _word_squares(words, up // _2 + at, mid // _2 + at, down // _2 + at, size)
        done += size
    if n % _2:
        x = _PAD + n - _1
        beside = _int64(cells[mid + x - _1]) + _int64(cells[mid + x + _1])
        value = _int64(cells[up + x]) + _int64(cells[down + x]) + beside - 4 * _int64(cells[mid + x]) + _BIAS
        total += value * value
    return total


@njit(nogil=True, cache=True)
def _scan(pixels: NDArray[np.uint8], height: int, width: int) -> tuple[np.int64, np.int64, NDArray[np.uint32]]:
    """One pass over flat RGB bytes: Laplacian sum, Laplacian square sum, eight histograms, ``_STRIDE`` apart.

    Three row buffers roll through the image, so grey is computed once and stays in the nearest cache.
    """
    n = _uint64(width)
    span = (_PAD + n + _4) // _4 * _4
    cells = np.zeros(3 * span, np.uint16)
    words, pairs = cells.view(np.uint64), cells.view(np.int32)
    counts = np.zeros(8 * _STRIDE, np.uint32)
    total, squares = _int64(0), _int64(0)
    for y in range(_uint64(height)):
        row, above, mid = (y % _3) * span, ((y + _2) % _3) * span, ((y + _1) % _3) * span
        _gray_row(pixels, _3 * n * y, cells, row, n)
        _prefetch_row(pixels, _3 * n * (y + _AHEAD), _3 * n)
        _pad_row(cells, row, n)
        _count_row(words, cells, row, n, counts)
        total += _row_ends(cells, row, n)
        if y == _1:
            squares += _row_squares(pairs, cells, row, above, row, n)
            total += _row_difference(cells, row, above, n)
        elif y > _1:
            squares += _row_squares(pairs, cells, mid, above, row, n)
    last = (_uint64(height - 1) % _3) * span
    before = (_uint64(height - 2) % _3) * span if height > 1 else last
    squares += _row_squares(pairs, cells, before, last, before, n)
    total += _row_difference(cells, before, last, n)
    return total, squares - 2 * _BIAS * total - _BIAS * _BIAS * _int64(height) * _int64(width), counts


# With the reflected border, second differences along a line telescope to the slopes at its two ends, so the sum of the
# Laplacian needs the outermost rows and columns only.


@njit(nogil=True, cache=True)
def _row_ends(cells: NDArray[np.uint16], row: np.uint64, n: np.uint64) -> np.int64:
    """Sum of the second differences along one row."""
    if n == _1:
        return _int64(0)
    first, last = row + _PAD, row + _PAD + n - _1
    slopes = _int64(cells[first + _1]) - _int64(cells[first]) + _int64(cells[last - _1])
    return slopes - _int64(cells[last])


@njit(nogil=True, cache=True)
def _row_difference(cells: NDArray[np.uint16], inner: np.uint64, outer: np.uint64, n: np.uint64) -> np.int64:
    """Sum of the inner row minus the outer row: one end of the second differences down the columns."""
    total = _int64(0)
    for x in range(_PAD, _PAD + n):
        total += _int64(cells[inner + x]) - _int64(cells[outer + x])
    return total


def pixel_sums(image: NDArray[np.uint8]) -> PixelSums:
    """Exact integer sums over the grey image, g = (4899 R + 9617 G + 1868 B + 8192) >> 14.

    ``image``: uint8, shape (height, width, 3), RGB. The Laplacian is [[0,1,0],[1,-4,1],[0,1,0]] with a reflect-101
    border (a side of one pixel repeats its edge). Raises ``InvalidImage`` for any other dtype or shape.

    >>> pixel_sums(np.full((4, 5, 3), 9, np.uint8)).laplacian_square_sum
    0
    """
    height, width = _checked(image)
    total, squares, counts = _scan(np.ascontiguousarray(image).reshape(-1), height, width)
    return PixelSums(
        height, width, int(total), int(squares), counts.reshape(8, _STRIDE)[:, :256].sum(axis=0, dtype=np.int64)
    )


def _checked(image: NDArray[np.uint8]) -> tuple[int, int]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InvalidImage(f"an image is {what}, expected uint8 (height, width, 3) RGB; convert it first")
    if 0 in image.shape:
        raise InvalidImage(f"an image has shape {image.shape}, expected at least 1x1 pixel; leave it out")
    return image.shape[0], image.shape[1]


def image_statistics(image: NDArray[np.uint8]) -> ImageStatistics:
    """Laplacian variance and grey-level entropy of one image (spec S1.1).

    ``image``: uint8, shape (height, width, 3), RGB. Raises ``InvalidImage`` for any other dtype or shape.

    >>> image_statistics(np.full((4, 5, 3), 9, np.uint8))
    ImageStatistics(height=4, width=5, laplacian_variance=0.0, entropy=0.0)
    """
    height, width = _checked(image)
    total, squares, counts = _scan(np.ascontiguousarray(image).reshape(-1), height, width)
    count = height * width
    # exact up to one rounding: n * sum of squares - sum squared, in Python's unbounded integers
    variance = (count * int(squares) - int(total) ** 2) / (count * count)
    return ImageStatistics(height, width, variance, float(_entropy(counts, count)))


@njit(nogil=True, cache=True)
def _entropy(counts: NDArray[np.uint32], total: int) -> float:
    """Entropy in bits of the eight histograms together: log2 n - sum(c log2 c) / n."""
    bits = 0.0
    for value in range(256):
        count = 0
        for table in range(8):
            count += counts[_STRIDE * table + value]
        if count == total:
            return 0.0
        if count > 0:
            bits += count * np.log2(count)
    return np.log2(total) - bits / total


def histogram_entropy(histogram: NDArray[np.int64]) -> float:
    """Shannon entropy in bits of counts (any shape, at least one positive).

    >>> histogram_entropy(np.array([3, 3, 0]))
    1.0
    """
    counts = histogram[histogram > 0].astype(np.float64)
    share = counts / counts.sum()
    return abs(float(-(share * np.log2(share)).sum()))


def batch_statistics(images: Sequence[NDArray[np.uint8]], threads: int = 0) -> list[ImageStatistics]:
    """Statistics of many images, over a thread pool: the pass holds no interpreter lock.

    ``threads``: 0 takes one a core. There is no OpenMP region here, so a process may fork afterwards.
    Raises ``InvalidImage``.
    """
    count = min(threads or os.cpu_count() or 1, len(images))
    if count <= 1:
        return [image_statistics(image) for image in images]
    with ThreadPoolExecutor(count, thread_name_prefix="semaug-score") as pool:
        return list(pool.map(image_statistics, images))
