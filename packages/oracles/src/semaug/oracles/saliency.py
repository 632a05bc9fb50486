"""Salient boxes without weights: the offline default detector.

Minimum-barrier-distance saliency with border colours, after Zhang et al., "Minimum Barrier Salient Object Detection
at 80 FPS" (ICCV 2015): a pixel is salient when every path from it to the image border crosses a wide range of
colours (Eq. 2, Algorithm 1), and when its colour is unlike that of the borders (Section 4). Otsu's threshold and
connected components turn the map into boxes. The paper's post-processing (opening, centre prior) is left out: on
photographs of COCO it lowered the recall of boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.oracles.protocols import NO_BOXES, Boxes, Image

_FAR = 1 << 20


@njit(nogil=True, cache=True)
def barrier_distance(channel: NDArray[np.uint8], passes: int) -> NDArray[np.int32]:
    """FastMBD (Algorithm 1): raster scans that pass on each pixel's best path so far.

    ``channel`` is uint8, shape (height, width); the seeds are its border pixels. Returns the width of the grey range
    along the path found, int32 of the same shape: never below the exact minimum barrier distance.
    """
    height, width = channel.shape
    distance = np.full((height, width), _FAR, np.int32)
    upper, lower = channel.astype(np.int32), channel.astype(np.int32)
    distance[0, :] = 0
    distance[height - 1, :] = 0
    distance[:, 0] = 0
    distance[:, width - 1] = 0
    for scan in range(passes):
        step = 1 if scan % 2 == 0 else -1
        for i in range(1, height - 1):
            y = i if step == 1 else height - 1 - i
            for j in range(1, width - 1):
                x = j if step == 1 else width - 1 - j
                value = np.int32(channel[y, x])
                best = distance[y, x]
                for vertical in range(2):
                    ny, nx = (y - step, x) if vertical == 0 else (y, x - step)
                    if distance[ny, nx] == _FAR:
                        continue
                    high, low = max(upper[ny, nx], value), min(lower[ny, nx], value)
                    if high - low < best:
                        best = high - low
                        upper[y, x], lower[y, x] = high, low
                distance[y, x] = best
    return distance


def border_contrast(lab: NDArray[np.uint8], share: float = 0.1) -> NDArray[np.float32]:
    """How unlike the borders' colours each pixel is (Section 4, Eq. 9-10): float32 in [0, 1], shape (height, width).

    Each of the four borders, ``share`` of the short side wide, gives the Mahalanobis distance to its colours, scaled
    to a maximum of 1; the sum without the largest forgives one border that the object touches.
    """
    height, width = lab.shape[:2]
    depth = max(1, round(share * min(height, width)))
    pixels = lab.reshape(-1, 3).astype(np.float32)
    borders = lab[:depth], lab[-depth:], lab[:, :depth], lab[:, -depth:]
    maps = np.stack([_colour_distance(pixels, b.reshape(-1, 3).astype(np.float64)) for b in borders])
    cue = maps.sum(axis=0) - maps.max(axis=0)
    return _to_unit(cue).reshape(height, width)


def _colour_distance(pixels: NDArray[np.float32], border: NDArray[np.float64]) -> NDArray[np.float32]:
    centre = border.mean(axis=0)
    spread = np.cov(border, rowvar=False, bias=True) + np.eye(3)  # one grey level of noise keeps it invertible
    whiten = np.linalg.cholesky(np.linalg.inv(spread)).astype(np.float32)
    distance = np.sqrt((((pixels - centre.astype(np.float32)) @ whiten) ** 2).sum(axis=1))
    return distance / max(float(distance.max()), 1e-6)


def _to_unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        return np.zeros(values.shape, np.float32)
    return ((values - low) / (high - low)).astype(np.float32)


def saliency_map(image: Image, side: int = 200, passes: int = 3) -> NDArray[np.float32]:
    """Saliency of an image scaled to at most ``side`` pixels: float32 in [0, 1], shape of the scaled image.

    ``passes`` is the number of raster scans (the paper's K = 3).
    """
    lab = np.asarray(cv2.cvtColor(_shrink(image, side), cv2.COLOR_RGB2LAB), np.uint8)
    barrier = sum(barrier_distance(np.ascontiguousarray(lab[..., c]), passes) for c in range(3))
    return _to_unit(np.add(_to_unit(np.asarray(barrier)), border_contrast(lab)))


def _shrink(image: Image, side: int) -> Image:
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1.0:
        return np.ascontiguousarray(image)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def otsu_mask(saliency: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels above Otsu's threshold; none where the map is flat."""
    levels = np.round(saliency * 255).astype(np.uint8)
    if levels.min() == levels.max():
        return np.zeros(levels.shape, bool)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return levels > threshold


class SaliencyDetector:
    """Boxes of the salient regions, by their share of the image's saliency.

    >>> image = np.zeros((90, 120, 3), np.uint8)
    >>> image[30:60, 40:80] = 200
    >>> SaliencyDetector().detect([image])[0].tolist()
    [[40.0, 30.0, 80.0, 60.0]]
    """

    def __init__(self, side: int = 200, passes: int = 3, max_boxes: int = 5, min_area: float = 0.01) -> None:
        """``side``: longest side worked at, pixels; ``min_area``: share of the image that a region must have."""
        if side < 8 or passes < 1 or max_boxes < 1 or not 0 <= min_area < 1:
            raise InvalidOption(
                f"saliency with side={side}, passes={passes}, max_boxes={max_boxes}, min_area={min_area}: "
                "give side >= 8, passes >= 1, max_boxes >= 1 and 0 <= min_area < 1"
            )
        self._side, self._passes, self._max_boxes, self._min_area = side, passes, max_boxes, min_area
        barrier_distance(np.zeros((3, 3), np.uint8), 1)  # compiled here, so that costs leave it out

    def detect(self, images: Sequence[Image]) -> list[Boxes]:
        """Boxes of shape (n, 4), xyxy, pixels, for every image."""
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: Image) -> Boxes:
        saliency = saliency_map(image, self._side, self._passes)
        regions = otsu_mask(saliency).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(regions, connectivity=8)
        if count < 2:
            return NO_BOXES
        mass = np.bincount(np.asarray(labels).ravel(), weights=saliency.ravel(), minlength=count)[1:]
        stats = np.asarray(stats[1:], np.float32)
        kept = [i for i in np.argsort(-mass, kind="stable") if stats[i, 4] >= self._min_area * saliency.size]
        kept = kept[: self._max_boxes]
        corners = np.concatenate([stats[kept, :2], stats[kept, :2] + stats[kept, 2:4]], axis=1)
        scale = np.array(image.shape[1::-1], np.float32) / np.array(saliency.shape[::-1], np.float32)
        return (corners * np.tile(scale, 2)).astype(np.float32).reshape(-1, 4)


class CentreDetector:
    """One centred box with ``side`` of the image's sides: a control that looks at no pixel."""

    def __init__(self, side: float = 0.7) -> None:
        if not 0 < side <= 1:
            raise InvalidOption(f"a centre box with side={side}: give a share of the image's side in (0, 1]")
        self._side = side

    def detect(self, images: Sequence[Image]) -> list[Boxes]:
        """One box of shape (1, 4), xyxy, pixels, for every image."""
        margin, end = (1 - self._side) / 2, (1 + self._side) / 2
        shares = np.array([margin, margin, end, end], np.float32)
        return [(shares * np.tile(image.shape[1::-1], 2)).astype(np.float32)[None] for image in images]
