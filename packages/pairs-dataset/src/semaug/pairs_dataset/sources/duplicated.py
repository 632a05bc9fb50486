"""Raw Duplication: every image ``copies`` times an epoch (spec S1.7), the control for a doubled training set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import ImageSource
from semaug.pairs_dataset.crops import CropRule
from semaug.pairs_dataset.sources.base import PairSource, ViewSettings


class DuplicatedPairs(PairSource):
    """``copies`` * N items; the copies of an image draw different views, copy 0 those of ``StandardPairs``."""

    def __init__(
        self,
        source: ImageSource,
        images: NDArray[np.int64],
        views: ViewSettings,
        *,
        seed: int,
        rule: CropRule,
        copies: int = 2,
    ) -> None:
        if copies < 1:
            raise InvalidOption(f"copies is {copies}; give 1 or more")
        super().__init__(source, images, views, seed=seed, rule=rule)
        self.copies = copies
