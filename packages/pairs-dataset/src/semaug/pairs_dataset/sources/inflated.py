"""Inflation: the originals and their materialised crops in one set of twice the volume (SDI's offline mode)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources import ImageSource
from semaug.pairs_dataset.crops import CropRule
from semaug.pairs_dataset.sources.base import PairSource, Plan, Raw, ViewSettings
from semaug.pairs_dataset.sources.standard import StandardPairs


class InflatedPairs(PairSource):
    """2N items with standard views: the first N are of the originals, the rest of their materialised crops.

    Item N + j shows image ``crop_images[j]`` of ``crops``, which was cut from image ``images[j]`` of ``source``; the
    index of both is ``images[j]``. A view of a crop is cut twice: once when it was materialised, once here.
    """

    copies = 2

    def __init__(
        self,
        source: ImageSource,
        images: NDArray[np.int64],
        crops: ImageSource,
        crop_images: NDArray[np.int64],
        views: ViewSettings,
        *,
        seed: int,
        rule: CropRule,
    ) -> None:
        if len(images) != len(crop_images):
            raise SourceError(f"{len(images)} originals and {len(crop_images)} crops; give one crop an original")
        super().__init__(source, images, views, seed=seed, rule=rule)
        self.crops = crops
        self._parts = (
            StandardPairs(source, images, views, seed=seed, rule=rule),
            StandardPairs(crops, crop_images, views, seed=seed, rule=rule),
        )

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of this epoch from now on, in every worker."""
        super().set_epoch(epoch)
        for part in self._parts:
            part.set_epoch(epoch)

    def inputs(self) -> dict[str, str]:
        """Fingerprints of the originals and of the materialised crops."""
        return super().inputs() | {"materialized": self.crops.fingerprint}

    def plan(self, item: int, height: int, width: int) -> Plan:
        """Where the views of ``item`` would be cut from its own image, the original or the crop."""
        position, part = self._item(self._checked(item))
        return self._parts[part].plan(position, height, width)

    def raw(self, item: int) -> Raw:
        """As of the original or the crop, with the original's number."""
        position, part = self._item(self._checked(item))
        return (int(self.images[position]), *self._parts[part].raw(position)[1:])

    def _write(self, item: int, out: Sequence[NDArray[np.float32]]) -> int:
        position, part = self._item(item)
        self._parts[part]._write(position, out)
        return int(self.images[position])
