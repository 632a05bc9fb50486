"""Augmentation presets as data (spec 0.7, values of the papers' solo-learn recipes)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption

TRANSFORMS = ("flip", "jitter", "gray", "blur", "solarise", "rotation", "crop")
_FULL_SUPPORT = 1 << 20


@dataclass(frozen=True, slots=True)
class Recipe:
    """What happens to one view.

    ``scale`` is the crop's share of the image (``crop`` False: nothing is cut off, the view is all of it); ``jitter``
    the strengths of brightness, contrast, saturation and hue, applied in random order with probability ``jitter_p``;
    ``sigma`` the range of the Gaussian's deviation in pixels of the view. ``blur_kernel`` cuts the Gaussian to that odd
    number of taps (SimCLR: a tenth of the view); 0 leaves it whole, as the solo-learn recipes do. ``threshold`` is the
    value from which solarisation inverts. A rotation turns the view about its centre, before its colours change, by up
    to ``degrees`` either way; what comes in from outside is black.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    crop: bool = True
    flip_p: float = 0.5
    jitter_p: float = 0.8
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    gray_p: float = 0.2
    blur_p: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 0
    solarise_p: float = 0.0
    threshold: float = 0.5
    rotation_p: float = 0.0
    degrees: float = 15.0

    def __post_init__(self) -> None:
        for name in ("flip_p", "jitter_p", "gray_p", "blur_p", "solarise_p", "rotation_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOption(f"{name} is {getattr(self, name)}; give a probability from 0 to 1")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise InvalidOption(f"jitter is {self.jitter}; strengths are 0 or more, hue at most 0.5")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise InvalidOption(f"sigma is {self.sigma}; give 0 < low <= high")
        if self.blur_kernel and (self.blur_kernel < 3 or self.blur_kernel % 2 == 0):
            raise InvalidOption(f"blur_kernel is {self.blur_kernel}; give an odd number from 3, or 0 for all taps")
        if not 0 <= self.degrees <= 180:
            raise InvalidOption(f"degrees is {self.degrees}; give 0 to 180")

    def vector(self) -> NDArray[np.float64]:
        """The recipe as ``photometrics.draw_parameters`` reads it."""
        radius = self.blur_kernel // 2 if self.blur_kernel else _FULL_SUPPORT
        return np.array(
            [
                *(self.flip_p, self.jitter_p, *self.jitter, self.gray_p),
                *(self.blur_p, *self.sigma, radius, self.solarise_p, self.threshold, self.rotation_p, self.degrees),
            ],
            np.float64,
        )

    def without(self, *transforms: str) -> Recipe:
        """The recipe with some of ``TRANSFORMS`` left out; no other transform's draws change.

        Without the crop, the view is the whole image, or the whole box that guides it.

        >>> Recipe().without("gray", "blur").gray_p
        0.0
        """
        off: dict[str, Any] = {}
        for name in transforms:
            if name not in TRANSFORMS:
                raise InvalidOption(f"no transform is called {name!r}; choose among {', '.join(TRANSFORMS)}")
            off |= {"crop": False} if name == "crop" else {f"{name}_p": 0.0}
        return replace(self, **off)


_SYMMETRIC = Recipe()
_CIFAR = Recipe(jitter=(0.4, 0.4, 0.2, 0.1), blur_p=0.0)
_IMAGENET = Recipe(jitter=(0.4, 0.4, 0.2, 0.1))
_ADAINF = Recipe(scale=(0.2, 1.0), jitter_p=0.4, jitter=(0.4, 0.4, 0.4, 0.1))

PRESETS: Mapping[str, tuple[Recipe, Recipe]] = {
    "symmetric": (_SYMMETRIC, _SYMMETRIC),
    "symmetric_weak": (replace(_SYMMETRIC, jitter=(0.4, 0.4, 0.4, 0.1)),) * 2,
    "asymmetric_cifar": (_CIFAR, replace(_CIFAR, solarise_p=0.2)),
    "asymmetric_imagenet": (replace(_IMAGENET, blur_p=1.0), replace(_IMAGENET, blur_p=0.1, solarise_p=0.2)),
    "vicreg_cifar": (replace(_CIFAR, scale=(0.2, 1.0), solarise_p=0.1),) * 2,
    "byol": (replace(_IMAGENET, blur_p=1.0), replace(_IMAGENET, blur_p=0.1, solarise_p=0.2)),
    "adainf_symmetric": (_ADAINF, _ADAINF),
    "adainf_asymmetric": (
        replace(_ADAINF, jitter=(0.4, 0.4, 0.2, 0.1), blur_p=0.0),
        replace(_ADAINF, jitter=(0.4, 0.4, 0.2, 0.1), blur_p=0.0, solarise_p=0.2),
    ),
    "diffaug": (replace(_SYMMETRIC, jitter=(0.4, 0.4, 0.2, 0.2), blur_p=0.0, solarise_p=0.2),) * 2,
    "crop_flip": (Recipe().without("jitter", "gray", "blur"),) * 2,
    "identity": (Recipe().without(*TRANSFORMS),) * 2,
}
"""The recipes of the two views, by name. `byol` is the published two-view recipe, which the ImageNet-100 preset is;
`diffaug` is DiffAug's hand-made augmentation of images, and `crop_flip` is what masked reconstruction takes."""


_COLOURS = ("jitter", "gray", "blur", "solarise")
REMOVALS: Mapping[str, tuple[str, ...]] = {
    "full": (),
    "no_gray": ("gray",),
    "no_jitter": ("jitter",),
    "no_blur": ("blur",),
    "no_flip": ("flip",),
    "no_rotation": ("rotation",),
    "crop_only": ("flip", "rotation", *_COLOURS),
    "identity": TRANSFORMS,
}
"""Which transforms are taken out of a recipe, by name (Semantic Pairs, Figure 5); the others draw the same numbers."""


def removal(name: str) -> tuple[str, ...]:
    """The transforms that ``name`` takes out; raises ``InvalidOption`` naming those there are."""
    if name not in REMOVALS:
        raise InvalidOption(f"no set of transforms is called {name!r}; choose one of {', '.join(REMOVALS)}")
    return REMOVALS[name]


def preset(name: str) -> tuple[Recipe, Recipe]:
    """The two recipes of a preset; raises ``InvalidOption`` naming those there are."""
    if name not in PRESETS:
        raise InvalidOption(f"no preset is called {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values, without a rotation that never happens."""
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(recipe).items()}
    if recipe.rotation_p == 0:  # runs made before there was one go on
        del plain["rotation_p"], plain["degrees"]
    return plain
