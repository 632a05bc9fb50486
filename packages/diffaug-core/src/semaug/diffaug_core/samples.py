"""What DiffAug trains on: samples, rows of a table or images, and their hand-made augmentations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts.errors import InvalidOption, UnreadableImage

PRELOAD = 2**30
"""Bytes of samples up to which ``CleanSamples`` keeps them all."""

_CHUNK = 1024


class Samples(Protocol):
    """A set of samples of one ``shape``: (D,) for rows of a table, (3, S, S) for images.

    ``keys`` name the samples, ``fingerprint`` their content. Diffusion expects values near unit scale.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """One for each sample, all different."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of keys and content."""
        ...

    def __len__(self) -> int: ...

    def clean(self, indices: NDArray[np.int64]) -> Tensor:
        """The samples themselves, float32 (B, *shape)."""
        ...

    def hand(self, indices: NDArray[np.int64], *, seed: int, epoch: int, view: int) -> Tensor:
        """Their hand-made augmentation, float32 (B, *shape): a pure function of its arguments."""
        ...

    def label(self, index: int) -> int | None:
        """The class of one sample; ablation A1 alone reads it."""
        ...


class CleanSamples:
    """The clean samples on ``device`` in ``dtype``, read once where they fit into ``PRELOAD`` bytes."""

    def __init__(self, samples: Samples, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.samples, self.device, self.dtype = samples, device, dtype
        size = len(samples) * int(np.prod(samples.shape)) * dtype.itemsize
        self._all = self._read_all() if size <= PRELOAD else None

    def __getitem__(self, indices: NDArray[np.int64]) -> Tensor:
        """Samples (B, *shape); raises ``InvalidOption`` where one is not finite, ``UnreadableImage`` naming it."""
        if self._all is not None:
            return self._all[torch.from_numpy(indices).to(self.device)]
        return self._read(indices)

    def _read(self, indices: NDArray[np.int64]) -> Tensor:
        try:
            found = self.samples.clean(indices)
        except UnreadableImage as error:
            raise self._named(indices, error) from error
        finite = torch.isfinite(found).flatten(1).all(dim=1)
        if not bool(finite.all()):
            key = self.samples.keys[int(indices[int((~finite).nonzero()[0])])]
            raise InvalidOption(f"sample {key!r} holds NaN or infinity; leave it out or fill it")
        return found.to(self.device, self.dtype)

    def _named(self, indices: NDArray[np.int64], error: UnreadableImage) -> UnreadableImage:
        """``error`` with the key of the sample that raises it, and the remedy."""
        for index in indices.tolist():
            try:
                self.samples.clean(np.array([index], np.int64))
            except UnreadableImage as found:
                return UnreadableImage(
                    f"{self.samples.keys[index]}: {found}; remove it, or train on a pack (`semaug data pack`), which "
                    "leaves unreadable images out"
                )
        return error

    def _read_all(self) -> Tensor:
        everything = np.arange(len(self.samples), dtype=np.int64)
        whole = torch.empty((len(everything), *self.samples.shape), device=self.device, dtype=self.dtype)
        for start in range(0, len(everything), _CHUNK):
            whole[start : start + _CHUNK] = self._read(everything[start : start + _CHUNK])
        return whole


def require_enough(samples: Samples, batch_size: int) -> None:
    """Raise ``InvalidOption`` unless there are samples for one batch of at least two."""
    if len(samples) < 2:
        raise InvalidOption(f"DiffAug contrasts samples and was given {len(samples)}; give at least 2")
    if not 2 <= batch_size <= len(samples):
        raise InvalidOption(
            f"a batch of {batch_size} from {len(samples)} samples cannot be drawn; give --batch-size 2 to "
            f"{len(samples)}"
        )
