"""Generative inflation (AdaInf): real images several times an epoch, and images that a generator made (spec S1.7)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import ImageSource
from semaug.artifacts.sources.base import Source, inputs_of
from semaug.pairs_dataset.crops import CropRule
from semaug.pairs_dataset.sources.base import PairSource, ViewSettings

GENERATED = "generated/"


class JoinedImages(Source):
    """Real images, then generated ones: these have no labels here, and keys of their own (``generated/...``)."""

    def __init__(self, real: ImageSource, generated: ImageSource) -> None:
        self.real, self.generated = real, generated
        self.spec = f"{real.spec} and {generated.spec}"
        self.class_names = tuple(real.class_names)

    def __len__(self) -> int:
        return len(self.real) + len(self.generated)

    def key(self, index: int) -> str:
        own = index - len(self.real)
        return self.real.key(index) if own < 0 else GENERATED + self.generated.key(own)

    def read(self, index: int) -> NDArray[np.uint8]:
        own = index - len(self.real)
        return self.real.read(index) if own < 0 else self.generated.read(own)

    def label(self, index: int) -> int | None:
        return self.real.label(index) if index < len(self.real) else None


class InflatedByGeneration(PairSource):
    """Every real image ``copies`` times, every generated one once; both views of an item are of one image.

    Copies draw different views, copy 0 those of ``StandardPairs``. The first ``copies`` * N items are real; the index
    of a generated image is N + its place, and its label is None.
    """

    def __init__(
        self,
        source: ImageSource,
        images: NDArray[np.int64],
        generated: ImageSource,
        views: ViewSettings,
        *,
        seed: int,
        rule: CropRule,
        copies: int = 10,
    ) -> None:
        if copies < 1:
            raise InvalidOption(f"real_copies is {copies}; give 1 or more")
        made = len(source) + np.arange(len(generated), dtype=np.int64)
        joined = JoinedImages(source, generated)
        super().__init__(joined, np.concatenate([images, made]), views, seed=seed, rule=rule)
        self.real, self.generated, self.copies = source, generated, copies
        self._real_items = copies * len(images)
        self._real_images = len(images)

    def __len__(self) -> int:
        return self._real_items + len(self.generated)

    def inputs(self) -> dict[str, str]:
        """Fingerprints of the real and of the generated images."""
        real = inputs_of(self.real) | ({"guidance": self.guidance_digest} if self.guidance_digest else {})
        return real | {"generated": self.generated.fingerprint}

    def _item(self, item: int) -> tuple[int, int]:
        if item < self._real_items:
            return item % self._real_images, item // self._real_images
        return self._real_images + item - self._real_items, 0
