# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions carry no annotations: numba infers their types; docstrings say what they take.
"""Where a view is cut: torchvision's RandomResizedCrop, and the same biased by an object's box or mask (spec S1.4).

Boxes are shares of the image (x0, y0, x1, y1 in [0, 1], float64), so that guidance made on the originals fits resized
copies; crops are top, left, height, width in pixels (int64). With the whole image as its box and no margin, `inside`
draws exactly the crops of RandomResizedCrop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.pairs_dataset.beta import symmetric_beta
from semaug.pairs_dataset.mask_runs import area_within
from semaug.pairs_dataset.random_numbers import (
    FIRST_TRY,
    GUIDE,
    INSIDE_TRY,
    OBJECT,
    PLACE_X,
    PLACE_Y,
    TRY_STRIDE,
    uniform,
)

CropMode = Literal["inside", "cover", "box_as_view"]
BoxSelect = Literal["random", "largest", "union", "all"]
CROP_MODES: tuple[CropMode, ...] = get_args(CropMode)
BOX_SELECTS: tuple[BoxSelect, ...] = get_args(BoxSelect)

TRIES = 10
_EDGE = 1e-6  # boxes are shares of the image: 30 / 500 * 500 must not become 31 rows
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True}
_MODE, _MARGIN, _TAU, _TAU_MASK, _SCALE, _BOX_SCALE, _LOG_RATIO, _RATIO, _SELECT, _PLACE, _SMALL, _WHOLE, _BETA = (
    0, 1, 2, 3, 4, 6, 8, 10, 12, 13, 14, 15, 16,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CropRule:
    """How crops are drawn.

    ``scale`` is a crop's share of the image, ``box_scale`` its share of the (expanded) box; ``margin`` widens the box
    by that share of its own side at each edge; ``tau`` is the share of the box (or mask) that `cover` keeps,
    ``tau_mask`` the share of the crop that a mask fills. ``select`` chooses among several objects: at `random` among
    those over ``small`` of the image (`all`: among all), the `largest`, or the `union` box of all.
    ``place_randomly`` moves the chosen box to a random place: the control that keeps the sizes and drops the meaning.
    ``whole`` cuts nothing: a view is the whole image, or the whole box where `inside` guides it. ``centre_beta`` draws
    a crop's place within its image or box from Beta(centre_beta, centre_beta), which shuns the centre below 1, instead
    of uniformly (Peng et al., CVPR 2022, who take 0.6).
    """

    mode: CropMode = "inside"
    scale: tuple[float, float] = (0.08, 1.0)
    box_scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    margin: float = 0.1
    tau: float = 0.5
    tau_mask: float = 0.3
    select: BoxSelect = "random"
    small: float = 0.01
    place_randomly: bool = False
    whole: bool = False
    centre_beta: float | None = None

    def __post_init__(self) -> None:
        _check_choice("crop", self.mode, CROP_MODES)
        _check_choice("box_select", self.select, BOX_SELECTS)
        for name, (low, high) in (("scale", self.scale), ("box_scale", self.box_scale)):
            if not 0 < low <= high <= 1:
                raise InvalidOption(f"{name} is {low} to {high}; give two shares with 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InvalidOption(f"ratio is {self.ratio[0]} to {self.ratio[1]}; give 0 < low <= high")
        for name, share in (("tau", self.tau), ("tau_mask", self.tau_mask)):
            if not 0 <= share <= 1:
                raise InvalidOption(f"{name} is {share}; give a share from 0 to 1")
        if self.margin < 0:
            raise InvalidOption(f"margin is {self.margin}; give 0 or more")
        if self.centre_beta is not None and not 0 < self.centre_beta <= 1:
            raise InvalidOption(f"centre_beta is {self.centre_beta}; give more than 0 and at most 1 (uniform)")

    def vector(self) -> NDArray[np.float64]:
        """The rule as the compiled samplers read it."""
        log_ratio = np.log(np.array(self.ratio, np.float32))  # float32, as torchvision takes it
        fields = [CROP_MODES.index(self.mode), self.margin, self.tau, self.tau_mask, *self.scale, *self.box_scale]
        choice = [BOX_SELECTS.index(self.select), self.place_randomly, self.small]
        return np.array([*fields, *log_ratio, *self.ratio, *choice, self.whole, self.centre_beta or 0.0], np.float64)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidOption(f"{name} is {value!r}; choose one of {', '.join(choices)}")


@njit(**_OPTIONS)
def _place(number, free, rule):
    """Where along ``free`` pixels of room a crop begins, 0 to ``free``."""
    if rule[_BETA] == 0.0:
        return int(number * (free + 1))
    return min(int(symmetric_beta(number, rule[_BETA]) * (free + 1)), free)


@njit(**_OPTIONS)
def _try_crop(key, slot, width, height, low, high, rule):
    """One try of RandomResizedCrop; a height of zero says that the shape did not fit."""
    if rule[_WHOLE] != 0.0:
        return 0, 0, height, width
    area = height * width * (low + (high - low) * uniform(key, slot))
    log_low, log_high = rule[_LOG_RATIO], rule[_LOG_RATIO + 1]
    aspect = math.exp(log_low + (log_high - log_low) * uniform(key, slot + 1))
    w, h = int(np.rint(math.sqrt(area * aspect))), int(np.rint(math.sqrt(area / aspect)))
    if not (0 < w <= width and 0 < h <= height):
        return 0, 0, 0, 0
    return _place(uniform(key, slot + 2), height - h, rule), _place(uniform(key, slot + 3), width - w, rule), h, w


@njit(**_OPTIONS)
def _central_crop(width, height, rule):
    low, high = rule[_RATIO], rule[_RATIO + 1]
    w, h = width, height
    if width / height < low:
        h = int(np.rint(width / low))
    elif width / height > high:
        w = int(np.rint(height * high))
    return (height - h) // 2, (width - w) // 2, h, w


@njit(**_OPTIONS)
def random_resized_crop(key, slot, width, height, low, high, rule):
    """torchvision's RandomResizedCrop: ten tries, then the central crop nearest to the allowed ratios."""
    for attempt in range(TRIES):
        top, left, h, w = _try_crop(key, slot + 4 * attempt, width, height, low, high, rule)
        if h > 0:
            return top, left, h, w
    return _central_crop(width, height, rule)


@njit(**_OPTIONS)
def expanded_box(box, margin, width, height):
    """x0, y0, x1, y1 in pixels of ``box`` widened by ``margin`` of its sides, clipped, at least two pixels a side."""
    dx, dy = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    x0 = int(max(math.floor((box[0] - dx) * width + _EDGE), 0))
    y0 = int(max(math.floor((box[1] - dy) * height + _EDGE), 0))
    x1 = int(min(math.ceil((box[2] + dx) * width - _EDGE), width))
    y1 = int(min(math.ceil((box[3] + dy) * height - _EDGE), height))
    x0, y0 = max(min(x0, width - 2), 0), max(min(y0, height - 2), 0)
    return x0, y0, min(max(x1, x0 + 2), width), min(max(y1, y0 + 2), height)


@njit(**_OPTIONS)
def _kept_share(crop, box, width, height):
    """The share of the box's area that lies in the crop."""
    top, left, h, w = crop
    dx = min(box[2] * width, left + w) - max(box[0] * width, left)
    dy = min(box[3] * height, top + h) - max(box[1] * height, top)
    return max(dx, 0.0) * max(dy, 0.0) / ((box[2] - box[0]) * width * (box[3] - box[1]) * height)


@njit(**_OPTIONS)
def mask_accepts(crop, runs, mask_height, mask_width, width, height, tau, tau_mask):
    """Whether the mask fills ``tau_mask`` of the crop, or the crop keeps ``tau`` of the mask (true without a mask)."""
    if runs.shape[0] == 0:
        return True
    top, left, h, w = crop
    x0, x1 = int(np.rint(left * mask_width / width)), int(np.rint((left + w) * mask_width / width))
    y0, y1 = int(np.rint(top * mask_height / height)), int(np.rint((top + h) * mask_height / height))
    inside = area_within(runs, mask_height, x0, y0, x1, y1)
    total = 0
    for i in range(runs.shape[0]):
        total += runs[i, 1] - runs[i, 0]
    return inside >= tau * total or inside >= tau_mask * max((x1 - x0) * (y1 - y0), 1)


@njit(**_OPTIONS)
def _inside(key, slot, box, runs, mask_size, width, height, rule):
    x0, y0, x1, y1 = expanded_box(box, rule[_MARGIN], width, height)
    low, high = rule[_BOX_SCALE], rule[_BOX_SCALE + 1]
    for attempt in range(TRIES):
        top, left, h, w = random_resized_crop(key, slot + TRY_STRIDE * attempt, x1 - x0, y1 - y0, low, high, rule)
        crop = (y0 + top, x0 + left, h, w)
        if mask_accepts(crop, runs, mask_size[0], mask_size[1], width, height, rule[_TAU], rule[_TAU_MASK]):
            return crop
    return y0, x0, y1 - y0, x1 - x0  # the whole box keeps the whole mask


@njit(**_OPTIONS)
def _cover(key, box, runs, mask_size, width, height, rule):
    for attempt in range(TRIES):
        crop = _try_crop(key, FIRST_TRY + 4 * attempt, width, height, rule[_SCALE], rule[_SCALE + 1], rule)
        kept = crop[2] > 0 and _kept_share(crop, box, width, height) >= rule[_TAU]
        if kept and mask_accepts(crop, runs, mask_size[0], mask_size[1], width, height, rule[_TAU], rule[_TAU_MASK]):
            return crop
    return _inside(key, INSIDE_TRY, box, runs, mask_size, width, height, rule)


@njit(**_OPTIONS)
def guided_crop(key, box, runs, mask_size, width, height, rule):
    """Top, left, height, width of one guided crop.

    ``key`` uint64; ``box`` float64 (4,) in shares of the image; ``runs`` int32 (R, 2) of its mask, R = 0 without one,
    in a mask of ``mask_size`` (height, width); ``rule`` from ``CropRule.vector``.
    """
    if rule[_MODE] == 1.0:
        return _cover(key, box, runs, mask_size, width, height, rule)
    if rule[_MODE] == 2.0:
        x0, y0, x1, y1 = expanded_box(box, 0.0, width, height)
        return y0, x0, y1 - y0, x1 - x0
    return _inside(key, FIRST_TRY, box, runs, mask_size, width, height, rule)


@njit(**_OPTIONS)
def _area(boxes, i):
    return (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])


@njit(**_OPTIONS)
def choose_object(number, boxes, select, small):
    """Index of the object that ``number`` in [0, 1) draws; -1 stands for the union of all."""
    if select == 2.0:
        return -1
    largest, count = 0, 0
    for i in range(boxes.shape[0]):
        if _area(boxes, i) > _area(boxes, largest):
            largest = i
        count += _area(boxes, i) >= small
    if select == 1.0:
        return largest
    if select == 3.0 or count == 0:
        return int(number * boxes.shape[0])
    wanted = int(number * count)
    for i in range(boxes.shape[0]):
        if _area(boxes, i) >= small:
            if wanted == 0:
                return i
            wanted -= 1
    return largest


@njit(**_OPTIONS)
def object_box(object_key, boxes, rule):
    """Number (-1: the union) and box float64 (4,) of the object that ``object_key`` draws, moved if the rule says."""
    chosen = choose_object(uniform(object_key, OBJECT), boxes, rule[_SELECT], rule[_SMALL])
    box = np.empty(4)
    if chosen >= 0:
        box[:] = boxes[chosen]
    else:
        box[0], box[1] = boxes[:, 0].min(), boxes[:, 1].min()
        box[2], box[3] = boxes[:, 2].max(), boxes[:, 3].max()
    if rule[_PLACE] != 0.0:
        dx = uniform(object_key, PLACE_X) * (1.0 - (box[2] - box[0])) - box[0]
        dy = uniform(object_key, PLACE_Y) * (1.0 - (box[3] - box[1])) - box[1]
        box[0], box[2], box[1], box[3] = box[0] + dx, box[2] + dx, box[1] + dy, box[3] + dy
    return chosen, box


@njit(**_OPTIONS)
def plan_crops(height, width, crop_keys, object_keys, shares, boxes, runs, run_first, mask_size, rules, crops, chosen):
    """Draw the crops of an image's views into ``crops`` int64 (V, 4), and the object of each into ``chosen`` (V,).

    The first V of ``crop_keys`` count; ``object_keys`` is one key a view, or one for all. ``shares`` (V,) is each
    view's probability of being guided; ``boxes`` float64 (n, 4), none for a standard image;
    ``runs`` and ``run_first`` int64 (n + 1,) hold the masks' runs; ``rules`` (V, fields) is one rule a view.
    ``chosen`` is -2 for a standard crop, -1 for the union of all objects.
    """
    for v in range(chosen.size):
        key, rule = crop_keys[v], rules[v]
        if boxes.shape[0] == 0 or uniform(key, GUIDE) >= shares[v]:
            low, high = rule[_SCALE], rule[_SCALE + 1]
            crop = random_resized_crop(key, FIRST_TRY, width, height, low, high, rule)
            chosen[v] = -2
        else:
            picked, box = object_box(object_keys[min(v, object_keys.size - 1)], boxes, rule)
            first, last = (run_first[picked], run_first[picked + 1]) if picked >= 0 else (0, 0)
            crop = guided_crop(key, box, runs[first:last], mask_size, width, height, rule)
            chosen[v] = picked
        crops[v, 0], crops[v, 1], crops[v, 2], crops[v, 3] = crop


@njit(**_OPTIONS)
def plan_item(height, width, keys, shares, position, first, boxes, runs, run_first, sizes, rules, crops, chosen):
    """``plan_crops`` of the image at ``position`` among many, whose objects are ``ObjectRows``; ``keys`` are its V crop
    keys and then its object keys. Slicing the rows in here costs less than in Python."""
    a, b = first[position], first[position + 1]
    plan_crops(
        height, width, keys, keys[chosen.size :], shares, boxes[a:b], runs, run_first[a : b + 1], sizes[position],
        rules, crops, chosen,
    )  # fmt: skip
