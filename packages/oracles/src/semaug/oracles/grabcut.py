"""Masks without weights: GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004) seeded by a box or by saliency."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.oracles.protocols import Boxes, Image, Mask
from semaug.oracles.saliency import otsu_mask, saliency_map
from semaug.oracles.selection import rank_masks

_SEED = 20041
_MIN_SAMPLES = 16
"""Pixels of object and of background below which five Gaussians cannot be fitted to each."""


class GrabCutSegmenter:
    """Masks by GrabCut; the same image and box give the same mask, whatever was segmented before.

    >>> image = np.zeros((60, 60, 3), np.uint8)
    >>> image[20:40, 20:40] = 220
    >>> box = np.array([[15, 15, 45, 45]], np.float32)
    >>> int(GrabCutSegmenter().segment([image], [box])[0][0].sum())
    400
    """

    def __init__(self, side: int = 128, iterations: int = 2, margin: float = 0.25, max_masks: int = 3) -> None:
        """``side``: longest side worked at, pixels; ``margin``: background taken around a box, share of its sides."""
        if side < 16 or iterations < 1 or margin <= 0 or max_masks < 1:
            raise InvalidOption(
                f"grabcut with side={side}, iterations={iterations}, margin={margin}, max_masks={max_masks}: "
                "give side >= 16, iterations >= 1, margin > 0 and max_masks >= 1"
            )
        self._side, self._iterations, self._margin, self._max_masks = side, iterations, margin, max_masks

    def segment(self, images: Sequence[Image], boxes: Sequence[Boxes] | None) -> list[list[Mask]]:
        """One mask a box, or, without boxes, the salient regions between 1% and 90% of the image, largest first."""
        if boxes is None:
            return [self._salient(image) for image in images]
        return [[self._in_box(image, box) for box in rows] for image, rows in zip(images, boxes, strict=True)]

    def _in_box(self, image: Image, box: NDArray[np.float32]) -> Mask:
        height, width = image.shape[:2]
        x1, y1, x2, y2 = _widen(box, self._margin, height, width)
        mask = np.zeros((height, width), bool)
        if x2 - x1 < 2 or y2 - y1 < 2:
            return mask
        region = image[y1:y2, x1:x2]
        small = _shrink(region, self._side)
        scale = np.array([small.shape[1] / (x2 - x1), small.shape[0] / (y2 - y1)])
        start = np.floor((box[:2] - (x1, y1)) * scale).astype(int).clip(0)
        end = np.ceil((box[2:] - (x1, y1)) * scale).astype(int)
        trimap = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
        trimap[start[1] : end[1], start[0] : end[0]] = cv2.GC_PR_FGD
        mask[y1:y2, x1:x2] = _enlarge(self._cut(small, trimap), y2 - y1, x2 - x1)
        return mask

    def _salient(self, image: Image) -> list[Mask]:
        saliency = saliency_map(image, self._side)
        small = _shrink(image, self._side)
        trimap = np.where(otsu_mask(saliency), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        found = self._cut(small, trimap)
        count, labels = cv2.connectedComponents(found.astype(np.uint8), None, 8)
        parts = rank_masks([labels == i for i in range(1, count)])[: self._max_masks]
        return [_enlarge(part, *image.shape[:2]) for part in parts]

    def _cut(self, image: Image, trimap: NDArray[np.uint8]) -> Mask:
        if not (trimap == cv2.GC_BGD).any():
            trimap[[0, -1]], trimap[:, [0, -1]] = cv2.GC_BGD, cv2.GC_BGD  # the frame stands for the background
        object_seed = int(((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)).sum())
        if min(object_seed, trimap.size - object_seed) < _MIN_SAMPLES:
            return np.zeros(trimap.shape, bool)
        cv2.setRNGSeed(_SEED)  # the colour models start from k-means, which draws from OpenCV's global stream
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        bgr = np.ascontiguousarray(image[..., ::-1])
        cv2.grabCut(bgr, trimap, (0, 0, 1, 1), background, foreground, self._iterations, cv2.GC_INIT_WITH_MASK)
        return np.asarray((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD))


def _widen(box: NDArray[np.float32], margin: float, height: int, width: int) -> tuple[int, int, int, int]:
    by = margin * (box[2:] - box[:2]) + 2
    start = np.floor(box[:2] - by).clip(0).astype(int)
    end = np.minimum(np.ceil(box[2:] + by), (width, height)).astype(int)
    return int(start[0]), int(start[1]), int(end[0]), int(end[1])


def _shrink(image: Image, side: int) -> Image:
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _enlarge(mask: Mask, height: int, width: int) -> Mask:
    if mask.shape == (height, width):
        return mask
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft > 0.5)
