"""An image cut into its object and its context, by guidance: what proposals compare separately."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from semaug.artifacts.masks import decode_mask, mask_area
from semaug.artifacts.schemas import Guidance
from semaug.pairs_dataset.mask_runs import mask_runs, tight_box
from semaug.pairs_dataset.objects import CENTRE_BOX

Pixels = NDArray[np.uint8]
CONTEXT_SIDE = 128
"""The longer side of the image in which object and background are told apart, in pixels."""
_GRAY = 127
_MIN_SIDE = 2.0


@dataclass(frozen=True, slots=True)
class Region:
    """Where the object is: ``box`` xyxy in shares of the image, ``mask`` bool at the guidance's size or None.

    ``found`` is False where guidance had nothing: the box is then the centre of the image.
    """

    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_] | None = None
    found: bool = True


def object_region(guidance: Guidance | None) -> Region:
    """The largest object of an image: its mask where there are masks, else its box."""
    if guidance is None or guidance.fallback:
        return Region(CENTRE_BOX, found=False)
    size = np.array([guidance.width, guidance.height] * 2, np.float64)
    if guidance.masks:
        largest = max(guidance.masks, key=mask_area)
        box = tight_box(mask_runs(largest), guidance.height, 0, 0, guidance.width, guidance.height)
        if _is_object(box):
            return Region(_shares(np.asarray(box, np.float64) / size), decode_mask(largest))
    boxes = [box for box in np.clip(guidance.boxes, 0, size) if _is_object(box)]
    if not boxes:
        return Region(CENTRE_BOX, found=False)
    largest_box = max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
    return Region(_shares(largest_box / size))


def _is_object(box: NDArray | tuple[float, ...]) -> bool:
    return bool(box[2] - box[0] >= _MIN_SIDE and box[3] - box[1] >= _MIN_SIDE)


def _shares(box: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1


@dataclass(frozen=True, slots=True)
class Cut:
    """One image, cut.

    ``small`` uint8 (h, w, 3) is the image at ``CONTEXT_SIDE``; ``inside`` and ``outside`` bool (h, w) are the object
    and the background, less a rim of two pixels between them. ``crop`` uint8 (S, S, 3) is the object alone, gray around
    its mask. ``share`` is the object's share of the image.
    """

    small: Pixels
    inside: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    crop: Pixels
    share: float

    def context(self, size: int) -> Pixels:
        """The image with the object painted over in the background's mean colour: uint8 (size, size, 3)."""
        painted = self.small.copy()
        behind = self.small[self.outside]
        painted[~self.outside] = behind.mean(axis=0) if len(behind) else _GRAY
        return np.asarray(Image.fromarray(painted).resize((size, size), Image.Resampling.BILINEAR))


def cut(image: Pixels, region: Region, size: int) -> Cut:
    """Cut ``image`` uint8 (H, W, 3) at ``region``; the object's crop gets ``size`` pixels a side."""
    picture = Image.fromarray(image)
    small = picture.copy()
    small.thumbnail((CONTEXT_SIDE, CONTEXT_SIDE), Image.Resampling.BILINEAR)
    stencil = _stencil(region, small.size)
    rim = stencil.filter(ImageFilter.MaxFilter(5))
    inside = np.asarray(stencil) > 0
    return Cut(np.asarray(small), inside, np.asarray(rim) == 0, _crop(picture, region, size), float(inside.mean()))


def _stencil(region: Region, size: tuple[int, int]) -> Image.Image:
    """255 on the object, at ``size`` (width, height)."""
    if region.mask is not None:
        found = Image.fromarray(region.mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        return found.point([255 * (level >= 128) for level in range(256)])
    x0, y0, x1, y1 = _pixels(region, *size)
    stencil = np.zeros((size[1], size[0]), np.uint8)
    stencil[y0:y1, x0:x1] = 255
    return Image.fromarray(stencil)


def _pixels(region: Region, width: int, height: int) -> tuple[int, int, int, int]:
    """The box in whole pixels, at least one a side."""
    x0, y0 = min(int(region.box[0] * width), width - 1), min(int(region.box[1] * height), height - 1)
    return x0, y0, max(round(region.box[2] * width), x0 + 1), max(round(region.box[3] * height), y0 + 1)


def _crop(picture: Image.Image, region: Region, size: int) -> Pixels:
    box = _pixels(region, *picture.size)
    crop = picture.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    if region.mask is None:
        return np.asarray(crop)
    mask = Image.fromarray(region.mask.astype(np.uint8) * 255)
    mask = mask.crop(_pixels(region, *mask.size)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(Image.composite(crop, Image.new("RGB", crop.size, (_GRAY,) * 3), mask))
