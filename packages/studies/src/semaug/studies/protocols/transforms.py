"""The fixed changes of an image that `semaug eval invariance` measures, in three families.

The same for every encoder and every run, whatever it was trained with. Images are float32 (b, 3, s, s) in [0, 1]; each
change draws from uniform numbers (b, NUMBERS) that depend on seed, change, draw and image alone. Geometric changes
sample once, bilinearly, and mirror what lies outside; colours are the ones training uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from semaug.eval.geometry.invariance import NUMBERS, Transform
from semaug.pairs_dataset import photometrics as fields
from semaug.pairs_dataset.device_views import colour

ROTATION = 30.0  # degrees either way
SHEAR = 15.0
SHIFT = 0.125  # of the side, either way
ZOOM = 1.5
CROP_AREA = (0.5, 1.0)
CROP_ASPECT = 4 / 3
STRENGTH = 0.4  # brightness, contrast, saturation: 0.6 to 1.4
HUE = 0.1  # turns either way
SIGMA = (0.01, 0.02)  # of the side

_GEOMETRY, _COLOUR = slice(0, 6), 6  # where a change's numbers begin


def _between(number: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * number


def _sample(images: Tensor, matrix: Tensor) -> Tensor:
    """Read ``images`` at the places that ``matrix`` (b, 2, 3) maps the output's to, both in [-1, 1]."""
    grid = functional.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _matrix(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b, x], 1), torch.stack([c, d, y], 1)], 1)


def _flip(images: Tensor, numbers: Tensor) -> Tensor:
    return images.flip(3)


def _rotate(images: Tensor, numbers: Tensor) -> Tensor:
    angle = _between(numbers[:, 0], -ROTATION, ROTATION) * math.pi / 180
    zero = torch.zeros_like(angle)
    return _sample(images, _matrix(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero))


def _translate(images: Tensor, numbers: Tensor) -> Tensor:
    x, y = (2 * _between(numbers[:, i], -SHIFT, SHIFT) for i in (0, 1))
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _sample(images, _matrix(one, zero, x, zero, one, y))


def _zoom(images: Tensor, numbers: Tensor) -> Tensor:
    part = 1 / _between(numbers[:, 0], 1, ZOOM)
    zero = torch.zeros_like(part)
    return _sample(images, _matrix(part, zero, zero, zero, part, zero))


def _shear(images: Tensor, numbers: Tensor) -> Tensor:
    slope = torch.tan(_between(numbers[:, 0], -SHEAR, SHEAR) * math.pi / 180)
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _sample(images, _matrix(one, slope, zero, zero, one, zero))


def _crop(images: Tensor, numbers: Tensor) -> Tensor:
    area = _between(numbers[:, 0], *CROP_AREA)
    root = torch.exp(0.5 * _between(numbers[:, 1], -math.log(CROP_ASPECT), math.log(CROP_ASPECT)))
    width, height = (area.sqrt() * root).clamp(max=1), (area.sqrt() / root).clamp(max=1)
    x, y = (1 - width) * (2 * numbers[:, 2] - 1), (1 - height) * (2 * numbers[:, 3] - 1)
    zero = torch.zeros_like(x)
    return _sample(images, _matrix(width, zero, x, zero, height, y))


def _unchanged(count: int) -> Tensor:
    """Parameters that change no colour: float64 (count, PARAMETER_FIELDS)."""
    drawn = torch.zeros(count, fields.PARAMETER_FIELDS, dtype=torch.float64)
    drawn[:, fields.P_BRIGHTNESS : fields.P_HUE] = 1
    drawn[:, fields.P_ORDER : fields.P_ORDER + 4] = torch.arange(4.0, dtype=torch.float64)
    drawn[:, fields.P_RADIUS] = float(1 << 20)
    drawn[:, fields.P_THRESHOLD] = fields.NEVER
    return drawn


def _jitter(**strengths: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Brightness, contrast, saturation and hue, in this order, those that are named."""
    places = {"brightness": fields.P_BRIGHTNESS, "contrast": fields.P_CONTRAST, "saturation": fields.P_SATURATION}

    def change(images: Tensor, numbers: Tensor) -> Tensor:
        drawn, own = _unchanged(len(images)), numbers.cpu()[:, _COLOUR:]
        drawn[:, fields.P_JITTER] = 1
        for place, (name, field) in enumerate(places.items()):
            strength = strengths.get(name, 0.0)
            drawn[:, field] = _between(own[:, place], 1 - strength, 1 + strength)
        drawn[:, fields.P_HUE] = _between(own[:, 3], -1, 1) * strengths.get("hue", 0.0)
        return colour(images.contiguous(), drawn)

    return change


def _gray(images: Tensor, numbers: Tensor) -> Tensor:
    drawn = _unchanged(len(images))
    drawn[:, fields.P_GRAY] = 1
    return colour(images.contiguous(), drawn)


def _blur(images: Tensor, numbers: Tensor) -> Tensor:
    drawn = _unchanged(len(images))
    drawn[:, fields.P_SIGMA] = images.shape[-1] * _between(numbers.cpu()[:, _COLOUR + 4], *SIGMA)
    return colour(images.contiguous(), drawn)


def _chain(*changes: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def change(images: Tensor, numbers: Tensor) -> Tensor:
        for each in changes:
            images = each(images, numbers)
        return images

    return change


_all_colours = _jitter(brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH, hue=HUE)

_CHANGES: Mapping[str, Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "geometric": {
        "flip": _flip,
        "rotate": _rotate,
        "translate": _translate,
        "zoom": _zoom,
        "shear": _shear,
        "crop": _crop,
    },
    "colour": {
        "brightness": _jitter(brightness=STRENGTH),
        "contrast": _jitter(contrast=STRENGTH),
        "saturation": _jitter(saturation=STRENGTH),
        "hue": _jitter(hue=HUE),
        "gray": _gray,
        "blur": _blur,
    },
    "mixed": {
        "crop_jitter": _chain(_crop, _all_colours),
        "rotate_jitter": _chain(_rotate, _all_colours),
        "crop_flip_jitter_blur": _chain(_crop, _flip, _all_colours, _blur),
    },
}
_FIXED = frozenset({"flip", "gray"})

TRANSFORMS = tuple(
    Transform(name, family, change, random=name not in _FIXED)
    for family, changes in _CHANGES.items()
    for name, change in changes.items()
)
"""Every change, by family."""

assert _COLOUR + 5 <= NUMBERS
