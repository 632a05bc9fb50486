"""Colour and texture as vectors: what proposals compare where no encoder is at hand.

All histograms are square-rooted shares, so that the product of two is their Bhattacharyya coefficient, and every
descriptor has length one.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semaug.pairs_dataset.regions import Cut, Pixels

Vector = NDArray[np.float32]
_LEVELS = 4
_BAND_LEVELS = 3
_BANDS = 3
_ANGLES = 8
_STEPS = np.array([0.01, 0.03, 0.08, 0.2])
"""Edges of the bins of gradient magnitude, in units of the full range of luminance."""
_CELLS = 4


def object_statistics(part: Cut) -> Vector:
    """Colours of the object's pixels, and where in its crop edges run which way (4 x 4 cells, 8 orientations)."""
    colours = _root(_histogram(part.small[part.inside], _LEVELS))
    return _unit(np.concatenate([colours, _unit(_root(_cell_orientations(part.crop)))]))


def context_statistics(part: Cut) -> Vector:
    """Colours of the background, of its thirds from top to bottom, and its edges by strength and direction, at two
    scales; zero where there is no background."""
    if not part.outside.any():
        return np.zeros(_LEVELS**3 + _BANDS * _BAND_LEVELS**3 + 2 * len(_STEPS) * _ANGLES, np.float32)
    pixels = [_root(_histogram(part.small[part.outside], _LEVELS))]
    edges = np.linspace(0, len(part.small), _BANDS + 1).round().astype(int)
    bands = [_histogram(part.small[a:b][part.outside[a:b]], _BAND_LEVELS) for a, b in pairwise(edges.tolist())]
    pixels.append(_root(np.concatenate(bands) / _BANDS))
    return _unit(np.concatenate([*pixels, _unit(_texture(part))]))


def luminance(pixels: Pixels) -> NDArray[np.float32]:
    """Of uint8 (..., 3), in [0, 1]."""
    return np.asarray(pixels @ np.array([0.299, 0.587, 0.114], np.float32) / 255, np.float32)


def mean_luminance(part: Cut) -> tuple[float, float]:
    """Of the object and of the background (that of the object where there is none)."""
    light = luminance(part.small)
    inside = float(light[part.inside].mean()) if part.inside.any() else float(light.mean())
    return inside, float(light[part.outside].mean()) if part.outside.any() else inside


def difference_hash(small: Pixels) -> np.uint64:
    """64 bits: whether each of 8 x 9 coarse pixels is darker than the one right of it."""
    coarse = np.asarray(Image.fromarray(small).convert("L").resize((9, 8), Image.Resampling.BOX))
    bits = np.packbits((coarse[:, 1:] > coarse[:, :-1]).ravel())
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def _histogram(pixels: Pixels, levels: int) -> NDArray[np.float64]:
    """Shares of the ``levels``^3 colours among (n, 3) pixels; zeros for none."""
    bins = (pixels.astype(np.int64) * levels) >> 8
    code = (bins[:, 0] * levels + bins[:, 1]) * levels + bins[:, 2]
    return np.bincount(code, minlength=levels**3) / max(len(code), 1)


def _gradients(light: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Magnitude, and orientation (without sign) as the number of its bin."""
    padded = np.pad(light, 1, mode="edge")
    dx, dy = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    angle = np.arctan2(dy, dx) % np.pi
    return np.hypot(dx, dy), np.minimum((angle / np.pi * _ANGLES).astype(np.int64), _ANGLES - 1)


def _cell_orientations(crop: Pixels) -> NDArray[np.float64]:
    """Shares of gradient magnitude by cell and orientation."""
    strength, angle = _gradients(luminance(crop))
    rows = np.arange(len(crop)) * _CELLS // len(crop)
    cell = rows[:, None] * _CELLS + rows[None, :]
    total = np.bincount((cell * _ANGLES + angle).ravel(), strength.ravel(), minlength=_CELLS**2 * _ANGLES)
    return total / max(total.sum(), 1e-12)


def _texture(part: Cut) -> NDArray[np.float64]:
    """Roots of the shares of background pixels by gradient strength and orientation, at full and at half size."""
    found = []
    light, outside = luminance(part.small), part.outside
    for _ in range(2):
        strength, angle = _gradients(light)
        step = np.searchsorted(_STEPS, strength[outside], side="right")
        flat = step == 0  # no edge has no orientation
        code = np.where(flat, 0, (step - 1) * _ANGLES + angle[outside])
        counts = np.bincount(code, ~flat, minlength=len(_STEPS) * _ANGLES)
        found.append(np.sqrt(counts / max(outside.sum(), 1)))
        height, width = light.shape[0] // 2 * 2, light.shape[1] // 2 * 2
        if min(height, width) < 2:
            continue
        light = light[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        whole = outside[:height, :width].reshape(height // 2, 2, width // 2, 2).min(axis=(1, 3))
        outside = _inner(np.asarray(whole))
    return np.concatenate(found)


def _inner(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels whose four neighbours are in the region too: their gradients read nothing else."""
    padded = np.pad(region, 1, mode="edge")
    return region & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _root(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(shares)


def _unit(values: NDArray[np.float64]) -> Vector:
    length = float(np.linalg.norm(values))
    return np.asarray(values / length if length > 0 else values, np.float32)
