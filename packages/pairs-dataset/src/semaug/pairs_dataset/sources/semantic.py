"""Semantic pairs: the views of an item are of two images of one class (Semantic Pairs, spec S3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import ImageSource
from semaug.pairs_dataset.crops import CropRule
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.pair_table import PairTable
from semaug.pairs_dataset.sources.base import PairSource, Plan, Raw, ViewSettings

IMAGES = 2


class SemanticPairs(PairSource):
    """View 1 is of image a, view 2 of image b, one draw each; local views alternate between the two.

    ``first`` and ``second`` are pair sources over the images a and b with the same views and seed, ``names`` the ids of
    the pairs, which key all draws: where b is a, the views are bit-equal to those of an augmented pair of that id.
    The index of an item is that of image a.
    """

    def __init__(
        self,
        first: PairSource,
        second: PairSource,
        names: Sequence[str],
        views: ViewSettings,
        *,
        seed: int,
        rule: CropRule,
    ) -> None:
        if not len(first.images) == len(second.images) == len(names):
            counts = f"{len(first.images)} images a, {len(second.images)} images b and {len(names)} names"
            raise InvalidOption(f"{counts}; give one of each a pair")
        super().__init__(first.source, first.images, views, seed=seed, rule=rule)
        self.partners, self.names = second.images, names
        self._parts = (first, second)
        for part in self._parts:
            part.names = names
        self.mask_mode = getattr(first, "mask_mode", "crop_only")
        self.pair_digest = ""

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of this epoch from now on, in every worker."""
        super().set_epoch(epoch)
        for part in self._parts:
            part.set_epoch(epoch)

    def inputs(self) -> dict[str, str]:
        """Fingerprints of the images, the pairs and the guidance."""
        return super().inputs() | ({"pairs": self.pair_digest} if self.pair_digest else {})

    def plan(self, item: int, height: int, width: int) -> Plan:
        """Where the views of ``item`` would be cut if both images had ``height`` x ``width`` pixels."""
        item = self._checked(item)
        plans = [part.plan(item, height, width) for part in self._parts]
        crops, chosen = plans[0].crops.copy(), plans[0].chosen.copy()
        crops[1::IMAGES], chosen[1::IMAGES] = plans[1].crops[1::IMAGES], plans[1].chosen[1::IMAGES]
        return Plan(crops, chosen)

    def raw(self, item: int) -> Raw:
        """As of one image: what the views need of a and of b, side by side."""
        raws = [part.raw(self._checked(item)) for part in self._parts]
        parts, crops = [], raws[0][2].copy()
        left = 0
        for which, (_, image, found, _, _) in enumerate(raws):
            own = found[which::IMAGES]
            top, start = own[:, :2].min(axis=0)
            bottom, end = (own[:, :2] + own[:, 2:]).max(axis=0)
            parts.append(image[top:bottom, start:end])
            crops[which::IMAGES] = own - [top, start - left, 0, 0]
            left += end - start
        return raws[0][0], side_by_side(parts), crops, raws[0][3], raws[0][4]

    def _write(self, item: int, out: Sequence[NDArray[np.float32]]) -> int:
        if self.images[item] == self.partners[item]:  # an augmented pair: its image is read once
            return self._parts[0]._write(item, out)
        for which, part in enumerate(self._parts):
            part.write_views(item, range(which, len(self._rules), IMAGES), out)
        return int(self.images[item])


def pair_images(
    table: PairTable, source: ImageSource, images: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Where the images a and b of the pairs are in ``source``, and the pairs' ids; only pairs within ``images``.

    Raises ``ArtifactError`` for pairs of other images, ``InvalidOption`` for keys that ``source`` does not have and for
    pairs that a curator turned down, ``NoPairs`` when none is left.
    """
    table.require_source(source.fingerprint)
    if refused := sum(row.verdict in ("reject", "skip") for row in table.rows):
        raise InvalidOption(
            f"{refused} of {len(table)} pairs were rejected or skipped; keep the accepted ones by `semaug pairs build`"
        )
    place = {source.key(i): i for i in range(len(source))}
    if unknown := [key for key in table.images if key not in place]:
        raise InvalidOption(
            f"{len(unknown)} images of the pairs, {unknown[0]!r} first, are not among the {len(source)} of "
            f"{source.spec}; give the images that the pairs were made of"
        )
    kept = set(images.tolist())
    rows = [(place[r.image_a], place[r.image_b], r.pair_id) for r in table.rows]
    rows = [row for row in rows if row[0] in kept and row[1] in kept]
    if not rows:
        raise NoPairs(f"none of {len(table)} pairs is left; check the pairs and their guidance")
    first, second, names = zip(*rows, strict=True)
    return np.array(first, np.int64), np.array(second, np.int64), list(names)


def side_by_side(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images uint8 (H, W, 3) in one row, black below those that are less high."""
    sheet = np.zeros((max(len(i) for i in images), sum(i.shape[1] for i in images), 3), np.uint8)
    left = 0
    for image in images:
        sheet[: len(image), left : left + image.shape[1]] = image
        left += image.shape[1]
    return sheet
