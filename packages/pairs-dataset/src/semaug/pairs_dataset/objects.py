"""The objects that guide a set's crops, as flat arrays: from guidance, or from a control that has no meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Guidance
from semaug.pairs_dataset.mask_runs import mask_runs, tight_box

_NO_RUNS = np.zeros((0, 2), np.int32)
_MIN_SIDE = 2.0
CENTRE_BOX = (0.25, 0.25, 0.75, 0.75)
"""The fixed box of the control `center`: half the image's sides (SimCCrop of ContrastiveCrop, CVPR 2022)."""


@dataclass(frozen=True, slots=True)
class ObjectRows:
    """Objects of N images.

    ``boxes`` float64 (M, 4) in shares of the image; image i owns rows ``first[i]`` to ``first[i + 1]``. ``runs`` int32
    (K, 2) are the objects' masks (``mask_runs``), object j owning ``run_first[j]`` to ``run_first[j + 1]``;
    ``sizes`` int64 (N, 2) is the height and width the masks were made at.
    """

    boxes: NDArray[np.float64]
    first: NDArray[np.int64]
    runs: NDArray[np.int32]
    run_first: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def row(self, image: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Boxes (n, 4), run offsets (n + 1,) and mask size (2,) of one image."""
        a, b = self.first[image], self.first[image + 1]
        return self.boxes[a:b], self.run_first[a : b + 1], self.sizes[image]

    def counts(self) -> NDArray[np.int64]:
        """Number of objects of each image."""
        return np.diff(self.first)


def object_rows(keys: Sequence[str], table: GuidanceTable | None) -> ObjectRows:
    """The objects of ``keys``; images without guidance, and those marked ``fallback``, have none."""
    rows = [table.get(k) if table is not None else None for k in keys]
    found = [_objects(g) if g is not None and not g.fallback else ([], []) for g in rows]
    sizes = np.array([(g.height, g.width) if g is not None else (1, 1) for g in rows], np.int64).reshape(-1, 2)
    return _flatten([boxes for boxes, _ in found], [runs for _, runs in found], sizes)


def centre_rows(count: int) -> ObjectRows:
    """One fixed centre box for every image: a control that knows only where photographers put things."""
    return _flatten([[CENTRE_BOX]] * count, [[_NO_RUNS]] * count, np.ones((count, 2), np.int64))


def shuffled_rows(rows: ObjectRows, seed: int) -> ObjectRows:
    """Every guided image gets the boxes of another guided image (none its own): a control with the right sizes.

    The assignment is one cycle through the guided images, drawn once from ``seed``. Masks are left out. Raises
    ``InvalidOption`` where a single image has boxes, which could only get its own.
    """
    counts = rows.counts()
    guided = np.flatnonzero(counts)
    if len(guided) == 1:
        raise InvalidOption(f"1 of {len(counts)} images has boxes and shuffling needs 2; use pairs `random_box`")
    cycle = generator(seed, "shuffled_box").permutation(guided)
    partner = np.arange(len(counts))
    partner[cycle] = np.roll(cycle, 1)
    boxes = [rows.row(int(j))[0].tolist() for j in partner]
    return _flatten(boxes, [[_NO_RUNS] * len(b) for b in boxes], rows.sizes)


def without_masks(rows: ObjectRows) -> ObjectRows:
    """The same boxes, no masks."""
    return ObjectRows(rows.boxes, rows.first, _NO_RUNS, np.zeros(len(rows.boxes) + 1, np.int64), rows.sizes)


def _flatten(
    boxes: Sequence[Sequence[Sequence[float]]], runs: Sequence[Sequence[NDArray[np.int32]]], sizes: NDArray[np.int64]
) -> ObjectRows:
    flat = [r for image in runs for r in image]
    return ObjectRows(
        np.array([b for image in boxes for b in image], np.float64).reshape(-1, 4),
        np.concatenate([[0], np.cumsum([len(b) for b in boxes], dtype=np.int64)]).astype(np.int64),
        np.concatenate([_NO_RUNS, *flat]),
        np.concatenate([[0], np.cumsum([len(r) for r in flat], dtype=np.int64)]).astype(np.int64),
        sizes,
    )


def _objects(guidance: Guidance) -> tuple[list[list[float]], list[NDArray[np.int32]]]:
    """Boxes (shares of the image) and mask runs, by the scale of the guidance (spec S1.3, S1.4)."""
    boxes = [b.tolist() for b in guidance.boxes]
    runs: list[NDArray[np.int32]] = [_NO_RUNS] * len(boxes)
    if guidance.scale == "pixel" and guidance.masks:
        runs = [mask_runs(m) for m in guidance.masks]
        whole = (0, 0, guidance.width, guidance.height)
        boxes = [list(tight_box(r, guidance.height, *whole)) for r in runs]
    elif guidance.scale == "hybrid":
        for i, mask in enumerate(guidance.masks[: len(boxes)]):
            boxes[i], runs[i] = _refine(guidance, boxes[i], mask_runs(mask))
    kept = [(s, r) for b, r in zip(boxes, runs, strict=True) if (s := _share(guidance, b)) is not None]
    return [b for b, _ in kept], [r for _, r in kept]


def _refine(guidance: Guidance, box: list[float], runs: NDArray[np.int32]) -> tuple[list[float], NDArray[np.int32]]:
    """The tight box of the mask within the box; the box alone where the mask misses it."""
    x0, y0, x1, y1 = (int(np.floor(box[0])), int(np.floor(box[1])), int(np.ceil(box[2])), int(np.ceil(box[3])))
    tight = tight_box(runs, guidance.height, max(x0, 0), max(y0, 0), min(x1, guidance.width), min(y1, guidance.height))
    if tight[2] - tight[0] < _MIN_SIDE or tight[3] - tight[1] < _MIN_SIDE:
        return box, _NO_RUNS
    return list(tight), runs


def _share(guidance: Guidance, box: Sequence[float]) -> list[float] | None:
    """The box clipped to the image, as shares of it; None when a side is under two pixels (a miss)."""
    w, h = guidance.width, guidance.height
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], w), min(box[3], h)
    if not (x1 - x0 >= _MIN_SIDE and y1 - y0 >= _MIN_SIDE):
        return None
    return [x0 / w, y0 / h, x1 / w, y1 / h]
