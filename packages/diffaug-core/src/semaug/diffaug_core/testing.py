"""Samples for tests: a Gaussian mixture whose components are known, with jitter for a hand-made augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts import draws


@dataclass(frozen=True, slots=True)
class MixtureSamples:
    """``count`` rows of ``features`` columns around ``components`` centres, standard deviation ``spread`` about each.

    Centres lie at distance ``radius`` from the origin. Sample i is of component i modulo ``components``.

    >>> samples = MixtureSamples(count=6, features=4, components=3)
    >>> samples.shape, [samples.label(i) for i in range(4)]
    ((4,), [0, 1, 2, 0])
    """

    count: int = 60
    features: int = 8
    components: int = 3
    spread: float = 0.1
    radius: float = 1.0
    jitter: float = 0.1
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return (self.features,)

    @property
    def keys(self) -> Sequence[str]:
        """row0, row1 and so on."""
        return [f"row{i}" for i in range(self.count)]

    @property
    def fingerprint(self) -> str:
        """What decides the rows."""
        return repr(self)

    def __len__(self) -> int:
        return self.count

    @property
    def centres(self) -> NDArray[np.float32]:
        """Of the components, (components, features)."""
        raw = draws.generator(self.seed, "centres").standard_normal((self.components, self.features))
        return (self.radius * raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)

    @property
    def rows(self) -> NDArray[np.float32]:
        """All samples, (count, features)."""
        noise = draws.generator(self.seed, "rows").standard_normal((self.count, self.features), dtype=np.float32)
        return self.centres[np.arange(self.count) % self.components] + np.float32(self.spread) * noise

    def clean(self, indices: NDArray[np.int64]) -> Tensor:
        """See ``Samples``."""
        return torch.from_numpy(self.rows[indices])

    def hand(self, indices: NDArray[np.int64], *, seed: int, epoch: int, view: int) -> Tensor:
        """See ``Samples``: the rows with noise added."""
        source = draws.generator(seed, "jitter", epoch, str(view))
        noise = source.standard_normal((self.count, self.features), dtype=np.float32)[indices]
        return torch.from_numpy(self.rows[indices] + np.float32(self.jitter) * noise)

    def label(self, index: int) -> int | None:
        """See ``Samples``."""
        return index % self.components
