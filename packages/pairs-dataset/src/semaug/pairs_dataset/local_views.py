"""Multi-crop: small local views beside the two global ones (Caron et al. 2020, SwAV, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from semaug.artifacts.errors import InvalidOption
from semaug.pairs_dataset.crops import CropRule
from semaug.pairs_dataset.presets import Recipe

SCALE = (0.05, 0.4)
"""DINO's share of the image; SwAV takes 0.05 to 0.14."""
_SHARE_OF_SIDE = 96 / 224
_LEAST_SIZE = 8
_MOST_BLUR = 0.5


@dataclass(frozen=True, slots=True)
class LocalViews:
    """``count`` views of ``size`` pixels a side, cut from ``scale`` of the image's area.

    ``guided``: with the pair source's probability such a view is cut inside the object's box, of which ``scale`` then
    is the share; otherwise local views are standard ones in every form of pairs.
    """

    count: int
    size: int
    scale: tuple[float, float]
    recipe: Recipe
    guided: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidOption(f"local_views is {self.count}; give 1 or more, or leave it out")
        if self.size < 2:
            raise InvalidOption(f"local_size is {self.size}; give 2 pixels or more")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InvalidOption(
                f"local_scale is {self.scale[0]} to {self.scale[1]}; give two shares with 0 < low <= high <= 1"
            )

    def rule(self, rule: CropRule) -> CropRule:
        """How a local view is cut where global views are cut by ``rule``: always `inside`, since it is smaller."""
        return replace(rule, mode="inside", scale=self.scale, box_scale=self.scale, whole=not self.recipe.crop)


def local_views(
    count: int, recipes: tuple[Recipe, Recipe], size: int, *, local_size: int | None = None,
    scale: tuple[float, float] | None = None, guided: bool = False,
) -> LocalViews | None:  # fmt: skip
    """Local views that suit global ones of ``recipes`` and ``size``; None for a ``count`` of 0.

    ``local_size`` None takes 96 pixels for 224, and as much in proportion (at least 8). Colours are those of the first
    recipe, blurred at most half the time and never solarised: DINO's local recipe where the global ones are BYOL's.
    Raises ``InvalidOption``.
    """
    if count == 0:
        if local_size is not None or scale is not None or guided:
            raise InvalidOption("local_views is 0 and its size, scale or guidance was given; give --local-views too")
        return None
    side = max(_LEAST_SIZE, round(_SHARE_OF_SIDE * size)) if local_size is None else local_size
    recipe = replace(recipes[0], blur_p=min(recipes[0].blur_p, _MOST_BLUR), solarise_p=0.0)
    return LocalViews(count, side, scale or SCALE, recipe, guided)
