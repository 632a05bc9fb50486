"""Pairs `diffusion`: a view of a real image against one that DiffAug generated of it (DiffAug, spec S4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.augment_table import AugmentTable
from semaug.artifacts.draws import draw_key, uniform
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import ImageSource
from semaug.artifacts.tables import TableSource
from semaug.pairs_dataset.crops import CropRule
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.presets import TRANSFORMS
from semaug.pairs_dataset.sources.base import PairSource, Plan, Raw, ViewSettings
from semaug.pairs_dataset.sources.semantic import side_by_side
from semaug.pairs_dataset.sources.standard import StandardPairs

Usage = Literal["drawn", "enlarged", "mixed"]
# The paper trains BYOL+ and SimSiam+ on a "dataset expanded x5" and says no more. Read here as `enlarged`: N x k items,
# each real image against each of its k positives, since DiffAug's positives are second views and not images of their
# own. N x (1 + k) items, the other reading, is `mixed`.
USAGES: Mapping[Usage, str] = {
    "drawn": "N items, each against one of its positives, drawn uniformly every epoch",
    "enlarged": "N x k items: every real image against each of its k positives",
    "mixed": "N x (1 + k) items: real images and positives as images of their own, two views of one image each",
}
"""How positives meet real images, by name."""
REAL = -1
"""Stands for the real item among the numbers of positives."""


@dataclass(frozen=True, slots=True)
class PositiveUse:
    """Which positive is an item's second view: one of ``k``, with probability ``alpha`` (else the real one).

    Raises ``InvalidOption`` for what does not fit.
    """

    k: int
    usage: Usage = "drawn"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.usage not in get_args(Usage):
            raise InvalidOption(f"no use of positives is called {self.usage!r}; choose one of {', '.join(USAGES)}")
        if not 0 <= self.alpha <= 1:
            raise InvalidOption(f"alpha is {self.alpha}; give a probability from 0 to 1")
        if self.usage == "mixed" and self.alpha != 1:
            raise InvalidOption(f"alpha is {self.alpha} and 'mixed' pairs no real view with a positive; leave it out")
        if self.k < 1:
            raise InvalidOption(f"{self.k} positives of each item; generate 1 or more")

    @property
    def copies(self) -> int:
        """How many items there are of each real one."""
        return {"drawn": 1, "enlarged": self.k, "mixed": 1 + self.k}[self.usage]

    def number(self, seed: int, epoch: int, key: str, copy: int) -> int:
        """The positive of item ``key`` in its ``copy``-th place: its number from 0, or ``REAL``."""
        if self.usage == "mixed":
            return copy - 1 if copy else REAL
        if uniform(draw_key(seed, "diffusion-coin", epoch, key, copy), 0) >= self.alpha:
            return REAL
        if self.usage == "enlarged":
            return copy
        return int(uniform(draw_key(seed, "diffusion-pick", epoch, key), 0) * self.k)


def plan_positives(
    source: ImageSource | TableSource, images: NDArray[np.int64], table: AugmentTable
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images (or rows) that have positives, and the place of each one's first in ``table``: int64 (n,) both.

    Raises ``ArtifactError`` for positives of other data, ``NoPairs`` when no image has any.
    """
    table.require_source(source.fingerprint)
    places = table.places()
    found = [(i, places[key]) for i in images.tolist() if (key := source.key(i)) in places]
    if not found:
        raise NoPairs(f"none of {len(images)} items has a positive; run `semaug diffaug augment` on all of them")
    kept, first = zip(*found, strict=True)
    return np.array(kept, np.int64), np.array(first, np.int64)


class DiffusionPairs(PairSource):
    """View 1 is of the real image, view 2 of a generated positive of it, or of the real image, as ``use`` says.

    Local views alternate between the two. All draws are keyed by the real image, so that a view of it is that of
    ``StandardPairs`` and that of ``DuplicatedPairs`` in a further copy: ``alpha`` 0 is plain training bit for bit.
    Unless ``augmented`` a positive is shown whole and unaltered. ``first`` int64 (n,) are the places of the images'
    first positives among ``generated``. The index of an item is the real image's.
    """

    def __init__(
        self,
        source: ImageSource,
        images: NDArray[np.int64],
        generated: ImageSource,
        first: NDArray[np.int64],
        use: PositiveUse,
        views: ViewSettings,
        *,
        seed: int,
        rule: CropRule,
        augmented: bool = True,
    ) -> None:
        if len(images) != len(first):
            raise InvalidOption(f"{len(images)} images and positives of {len(first)}; give one place an image")
        if use.usage == "mixed" and not augmented:
            raise InvalidOption(
                "the views of a 'mixed' positive would be alike; leave raw_positives out, or take 'drawn'"
            )
        super().__init__(source, images, views, seed=seed, rule=rule)
        self.generated, self.use, self.augmented, self.copies = generated, use, augmented, use.copies
        self.digests: dict[str, str] = {}
        places = (first[:, None] + np.arange(use.k)).reshape(-1)
        shown = views if augmented else _whole(views)
        self._made = StandardPairs(generated, places, shown, seed=seed, rule=rule)
        self._made.names = [source.key(i) for i in images.tolist() for _ in range(use.k)]
        self._made.copies = self.copies

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of this epoch from now on, in every worker."""
        super().set_epoch(epoch)
        self._made.set_epoch(epoch)

    def inputs(self) -> dict[str, str]:
        """Fingerprints of the real images and of the positives."""
        return super().inputs() | self.digests

    def number(self, item: int) -> int:
        """The positive that ``item`` shows in this epoch: its number from 0, or ``REAL``."""
        position, copy = self._item(self._checked(item))
        return self.use.number(self.seed, self.epoch, self._name(position), copy)

    def real_views(self, item: int) -> list[int]:
        """Which views of ``item`` are of the real image in this epoch."""
        return self._split(self.number(item))[0]

    def plan(self, item: int, height: int, width: int) -> Plan:
        """Where the views of ``item`` would be cut if its pictures had ``height`` x ``width`` pixels."""
        plan, number = super().plan(item, height, width), self.number(item)
        made = self._split(number)[1]
        if not made:
            return plan
        other = self._made.plan(self._place(item, number), height, width)
        crops, chosen = plan.crops.copy(), plan.chosen.copy()
        crops[made], chosen[made] = other.crops[made], other.chosen[made]
        return Plan(crops, chosen)

    def raw(self, item: int) -> Raw:
        """As of one image: what the views need of both pictures, side by side."""
        raw, number = super().raw(item), self.number(item)
        real, made = self._split(number)
        if not made:
            return raw
        other = self._made.raw(self._place(item, number))
        pictures, crops, recipes, left = [], raw[2].copy(), raw[4].copy(), 0
        for (_, image, found, _, own), views in ((raw, real), (other, made)):
            if not views:
                continue
            top, start = found[views, :2].min(axis=0)
            bottom, end = (found[views, :2] + found[views, 2:]).max(axis=0)
            pictures.append(image[top:bottom, start:end])
            crops[views], recipes[views] = found[views] - [top, start - left, 0, 0], own[views]
            left += end - start
        return raw[0], side_by_side(pictures), crops, raw[3], recipes

    def _split(self, number: int) -> tuple[list[int], list[int]]:
        """The views of the real image, and those of the positive ``number``."""
        views = list(range(len(self._rules)))
        if number == REAL:
            return views, []
        return ([], views) if self.use.usage == "mixed" else (views[::2], views[1::2])

    def _place(self, item: int, number: int) -> int:
        """The item among those of the positives alone: its number and copy, under the same name."""
        position, copy = self._item(item % len(self))
        return position * self.use.k + number + copy * len(self._made.images)

    def _write(self, item: int, out: Sequence[NDArray[np.float32]]) -> int:
        number = self.number(item)
        real, made = self._split(number)
        if not made:
            return super()._write(item, out)
        if real:
            self.write_views(item, real, out)
        self._made.write_views(self._place(item, number), made, out)
        return int(self.images[self._item(item)[0]])


def _whole(views: ViewSettings) -> ViewSettings:
    """The settings of views that show all of a picture, unaltered; small ones stay cut and coloured."""
    return replace(views, recipes=tuple(recipe.without(*TRANSFORMS) for recipe in views.recipes))
