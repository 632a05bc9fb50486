"""The diffusion of DiffAug: the forward process, the denoising loss (Eq. 5) and the schedule both are made of.

Time steps are counted from 0, as diffusers does: ``t`` here is the paper's t + 1, so that 0 is the least noisy one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts.errors import InvalidOption

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``denoiser(x_t, t, condition)``: the noise in ``x_t`` (B, ...), of its shape; ``t`` int64 (B,), condition (B, c)."""


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """beta of every time step, each in (0, 1), and ``alpha_bar``: float64 (T,), the product of 1 - beta up to each.

    Raises ``InvalidOption``.

    >>> schedule = NoiseSchedule((0.1, 0.5))
    >>> schedule.steps, schedule.alpha_bar.round(3).tolist()
    (2, [0.9, 0.45])
    """

    betas: tuple[float, ...]
    alpha_bar: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.betas or not 0 < min(self.betas) <= max(self.betas) < 1:
            ends = f"from {min(self.betas)} to {max(self.betas)}" if self.betas else "none"
            raise InvalidOption(f"the {len(self.betas)} betas are {ends}, every one must be above 0 and below 1")
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        object.__setattr__(self, "alpha_bar", np.cumprod(1 - np.asarray(self.betas, np.float64)))

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 1e-4, stop: float = 2e-2) -> NoiseSchedule:
        """``steps`` betas in equal distances from ``start`` to ``stop``; the defaults are DDPM's and the paper's."""
        if steps < 1:
            raise InvalidOption(f"a schedule of {steps} steps has no noise; give at least 1 (the paper has 1000)")
        return cls(tuple(np.linspace(start, stop, steps).tolist()))

    @property
    def steps(self) -> int:
        """T, the number of time steps; they are 0 to T - 1."""
        return len(self.betas)

    def signal(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(alpha_bar) of the steps ``t`` (B,), in dtype and on device of ``like`` (B, ...), shaped to fit it."""
        return _tables(self, like.device, like.dtype)[0][t].view(-1, *[1] * (like.ndim - 1))

    def spread(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar) of the steps ``t``, as ``signal`` gives sqrt(alpha_bar)."""
        return _tables(self, like.device, like.dtype)[1][t].view(-1, *[1] * (like.ndim - 1))


@lru_cache(maxsize=16)
def _tables(schedule: NoiseSchedule, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(mode=False):
        alpha_bar = torch.from_numpy(schedule.alpha_bar)
        return alpha_bar.sqrt().to(device, dtype), (1 - alpha_bar).sqrt().to(device, dtype)


def noised(clean: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, the argument of g in Eq. 5.

    ``clean`` and ``noise``: (B, ...), of one dtype; ``t``: int64 (B,) from 0 to T - 1.

    >>> x, n = torch.ones(1, 2), torch.zeros(1, 2)
    >>> noised(x, n, torch.tensor([0]), NoiseSchedule((0.19,)))
    tensor([[0.9000, 0.9000]])
    """
    _require_fit(clean, noise, t)
    return schedule.signal(t, clean) * clean + schedule.spread(t, clean) * noise


def recovered(noisy: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """x_0 (B, ...) of ``noisy`` = x_t and the noise in it: ``noised`` solved for ``clean``."""
    _require_fit(noisy, noise, t)
    return (noisy - schedule.spread(t, noisy) * noise) / schedule.signal(t, noisy)


def denoising_loss(
    generator: Denoiser, clean: Tensor, noise: Tensor, t: Tensor, condition: Tensor | None, schedule: NoiseSchedule
) -> Tensor:
    """Eq. 5 with its noise restored: the mean over samples and dimensions of (noise - g(x_t, t, sg(condition)))^2.

    ``clean`` and ``noise``: float (B, ...), ``noise`` drawn from N(0, 1); ``t``: int64 (B,), uniform on 0 to T - 1;
    ``condition``: (B, c) or None. No gradient reaches ``condition``. Returns a scalar in float32 or wider.
    """
    noisy = noised(clean, noise, t, schedule)
    estimate = generator(noisy, t, None if condition is None else condition.detach())
    wide = torch.promote_types(estimate.dtype, torch.float32)
    return (noise.to(wide) - estimate.to(wide)).square().mean()


def _require_fit(clean: Tensor, noise: Tensor, t: Tensor) -> None:
    if clean.shape != noise.shape or t.shape != clean.shape[:1] or t.dtype != torch.int64:
        raise InvalidOption(
            f"samples are {tuple(clean.shape)}, noise {tuple(noise.shape)}, t {tuple(t.shape)} of {t.dtype}; "
            "give noise as large as the samples and one int64 step a sample"
        )
