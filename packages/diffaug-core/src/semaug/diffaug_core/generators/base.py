"""What every generator has: the shape of its samples, the width of its condition, and how it is rebuilt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption


class Generator(nn.Module):
    """A denoiser g(x_t, t, condition) with weights; ``options`` and the rest rebuild it by ``build_generator``."""

    kind: ClassVar[str]

    def __init__(self, shape: Sequence[int], condition_features: int | None, options: Mapping[str, Any]) -> None:
        super().__init__()
        if condition_features is not None and condition_features < 1:
            raise InvalidOption(f"a condition of {condition_features} features is none; leave it away")
        self.shape = tuple(int(n) for n in shape)
        self.condition_features = condition_features
        self.options = dict(options)

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The noise in ``noisy`` (B, *shape), float32, of its shape.

        ``t``: int64 (B,), from 0; ``condition``: (B, condition_features), or None, which adds nothing. Raises
        ``InvalidOption`` for samples or a condition of another shape.
        """
        raise NotImplementedError

    def require_fit(self, noisy: Tensor, condition: Tensor | None) -> None:
        """Raise ``InvalidOption`` unless the generator takes such samples and such a condition."""
        if tuple(noisy.shape[1:]) != self.shape:
            raise InvalidOption(
                f"samples are {tuple(noisy.shape[1:])}, the generator was built for {self.shape}; build one for them"
            )
        if condition is None:
            return
        wanted = (len(noisy), self.condition_features)
        if tuple(condition.shape) != wanted:
            raise InvalidOption(
                f"the condition is {tuple(condition.shape)}, the generator takes {wanted}; give one vector a sample"
            )


def time_features(t: Tensor, width: int) -> Tensor:
    """Cosines and sines of ``t`` (B,) at ``width`` / 2 frequencies from 1 down to 1e-4: float32 (B, width).

    The embedding of DDPM (Ho et al. 2020), after Vaswani et al. 2017.

    >>> time_features(torch.tensor([0]), 4)
    tensor([[1., 1., 0., 0.]])
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(1e4) / max(half - 1, 1)))
    angles = t[:, None].to(torch.float32) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
