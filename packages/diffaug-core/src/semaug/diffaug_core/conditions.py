"""What the generator is told of a sample: y or z of the encoder, its label (A1), or noise (A2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.samples import CleanSamples, Samples
from semaug.diffaug_core.settings import Condition
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.periods import evaluating

CHUNK = 512
"""Samples embedded or generated together: a constant, so that results do not depend on the batch size."""

Indices = NDArray[np.int64]
Encoded = tuple[Tensor, Tensor]
"""y (B, d) and z (B, e) of samples."""


class Conditions(Protocol):
    """The conditions of samples, float (B, ``width``), without gradients."""

    @property
    def width(self) -> int:
        """Of one condition."""
        ...

    def of(self, indices: Indices, step: int, encoded: Encoded | None = None) -> Tensor:
        """Those of samples ``indices`` at the generator's step ``step``; ``encoded`` where the step has it anyway."""
        ...

    def everyone(self, number: int) -> Tensor:
        """Those of all samples (N, width) for bank ``number``, from the encoder as it stands."""
        ...

    def hold(self, frozen: bool) -> None:
        """Whether the encoder stands still from now on, so that nothing need be computed twice."""
        ...


class EncodedConditions:
    """y, or z, of the clean samples, without gradient; the encoder is in evaluation mode where it is asked here."""

    def __init__(self, encoder: Encoder, clean: CleanSamples, kind: Condition) -> None:
        self.encoder, self.clean, self.kind = encoder, clean, kind
        self._held: Tensor | None = None

    @property
    def width(self) -> int:
        """See ``Conditions``."""
        return self.encoder.feature_dim if self.kind == "y" else int(self.encoder.projector_dim or 0)

    def of(self, indices: Indices, step: int, encoded: Encoded | None = None) -> Tensor:
        """See ``Conditions``."""
        if self._held is not None:
            return self._held[torch.from_numpy(indices).to(self._held.device)]
        return self._encode(indices) if encoded is None else encoded[self.kind == "z"].detach()

    def everyone(self, number: int) -> Tensor:
        """See ``Conditions``."""
        return torch.cat([self._encode(part) for part in chunks(len(self.clean.samples))])

    def hold(self, frozen: bool) -> None:
        """See ``Conditions``."""
        self._held = self.everyone(0) if frozen else None

    @torch.no_grad()
    def _encode(self, indices: Indices) -> Tensor:
        with evaluating(self.encoder):
            y = self.encoder(self.clean[indices])
            return y if self.kind == "y" else self.encoder.project(y)


class LabelConditions:
    """The label as one of C, to which the generator's first layer is an embedding (A1)."""

    def __init__(self, samples: Samples, like: CleanSamples) -> None:
        labels = [samples.label(i) for i in range(len(samples))]
        if None in labels:
            raise InvalidOption(
                f"condition 'label' needs the label of every sample and {samples.keys[labels.index(None)]!r} has none; "
                "name the column of labels, or condition on y"
            )
        self._all = functional.one_hot(torch.tensor(labels)).to(like.device, like.dtype)

    @property
    def width(self) -> int:
        """See ``Conditions``."""
        return int(self._all.shape[1])

    def of(self, indices: Indices, step: int, encoded: Encoded | None = None) -> Tensor:
        """See ``Conditions``."""
        return self._all[torch.from_numpy(indices).to(self._all.device)]

    def everyone(self, number: int) -> Tensor:
        """See ``Conditions``."""
        return self._all

    def hold(self, frozen: bool) -> None:
        """See ``Conditions``."""


class RandomConditions:
    """Fresh draws from N(0, 1), which say nothing of the sample (A2)."""

    def __init__(self, width: int, like: CleanSamples, seed: int) -> None:
        self._width, self._like, self.seed = width, like, seed

    @property
    def width(self) -> int:
        """See ``Conditions``."""
        return self._width

    def of(self, indices: Indices, step: int, encoded: Encoded | None = None) -> Tensor:
        """See ``Conditions``."""
        return self._draw("random condition", step, len(indices))

    def everyone(self, number: int) -> Tensor:
        """See ``Conditions``."""
        return self._draw("random condition of bank", number, len(self._like.samples))

    def hold(self, frozen: bool) -> None:
        """See ``Conditions``."""

    def _draw(self, purpose: str, number: int, rows: int) -> Tensor:
        return normal((rows, self._width), self.seed, purpose, number, like=self._like)


def build_conditions(kind: Condition, encoder: Encoder, clean: CleanSamples, seed: int) -> Conditions:
    """The conditions that ``kind`` names; raises ``InvalidOption`` for labels that are not there."""
    if kind == "label":
        return LabelConditions(clean.samples, clean)
    if kind == "random":
        return RandomConditions(encoder.feature_dim, clean, seed)
    return EncodedConditions(encoder, clean, kind)


def chunks(count: int) -> Iterator[Indices]:
    """The numbers 0 to ``count`` - 1, ``CHUNK`` at a time."""
    everyone = np.arange(count, dtype=np.int64)
    return (everyone[start : start + CHUNK] for start in range(0, count, CHUNK))


def stream(device: torch.device, seed: int, purpose: str, number: int, key: str = "") -> torch.Generator:
    """A generator of the draws that (seed, purpose, number, key) address."""
    return torch.Generator(device).manual_seed(draw_key(seed, purpose, number, key))


def normal(
    shape: tuple[int, ...], seed: int, purpose: str, number: int, key: str = "", *, like: CleanSamples
) -> Tensor:
    """Draws from N(0, 1) of ``shape``, on the device and in the dtype of ``like``."""
    source = stream(like.device, seed, purpose, number, key)
    return torch.randn(shape, generator=source, device=like.device, dtype=like.dtype)
