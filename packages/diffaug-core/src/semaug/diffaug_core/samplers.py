"""Drawing samples from a trained denoiser: ancestral (DDPM), DDIM, and diffusers' multistep solver.

Every draw of noise comes from the caller, so that it can be addressed by counters. diffusers' own DDPM scheduler draws
its noise itself, and its DDIM steps back by T // steps even where the next time step is elsewhere; both are therefore
written out here and held equal to diffusers where diffusers is exact.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.diffusion import Denoiser, NoiseSchedule

StepNoise = Callable[[int], Tensor]
"""The noise of one time step (0 to T - 1), as large as the samples; asked for at the steps that add any."""


class Sampler(Protocol):
    """Turns noise into samples by a denoiser."""

    def sample(
        self,
        generator: Denoiser,
        condition: Tensor | None,
        noise: Tensor,
        step_noise: StepNoise,
        schedule: NoiseSchedule,
    ) -> Tensor:
        """Samples x_0 of the shape and dtype of ``noise`` (B, ...), drawn from N(0, 1), given ``condition`` (B, c).

        Takes no gradient. Raises ``InvalidOption`` for more steps than the schedule has.
        """
        ...


def time_steps(total: int, steps: int | None) -> list[int]:
    """``steps`` of the time steps 0 to ``total`` - 1, the noisiest first, in equal distances; None takes all.

    The last one of all is always among them: sampling starts from pure noise. Raises ``InvalidOption``.

    >>> time_steps(1000, 4), time_steps(3, None)
    ([999, 749, 499, 249], [2, 1, 0])
    """
    count = total if steps is None else steps
    if not 1 <= count <= total:
        raise InvalidOption(f"{count} sampling steps do not fit a schedule of {total}; give 1 to {total}")
    return [int(t) - 1 for t in np.round(np.arange(count, 0, -1) * (total / count))]


@dataclass(frozen=True, slots=True)
class Step:
    """One step back, from time step ``t`` to the next of the list: alpha_bar at ``t`` and there (1 at the end)."""

    t: int
    now: float
    before: float

    @property
    def last(self) -> bool:
        """Whether it ends at clean samples; no noise is added then."""
        return self.before == 1

    @property
    def beta(self) -> float:
        """The noise that the forward process adds between the two: 1 - now / before."""
        return 1 - self.now / self.before

    @property
    def posterior_variance(self) -> float:
        """The variance of q(x_before | x_now, x_0)."""
        return self.beta * (1 - self.before) / (1 - self.now)


def steps_back(schedule: NoiseSchedule, steps: int | None) -> list[Step]:
    """The steps from pure noise to clean samples."""
    times = time_steps(schedule.steps, steps)
    products = [float(schedule.alpha_bar[t]) for t in times]
    return [Step(*each) for each in zip(times, products, [*products[1:], 1.0], strict=True)]


@dataclass(frozen=True, slots=True)
class AncestralSampler:
    """DDPM: x_before = (x - beta / sqrt(1 - now) g) / sqrt(1 - beta) + sigma n, and no noise in the last step.

    sigma^2 is beta with ``variance="large"`` (the official code's) or that of the posterior. ``steps`` None takes all
    of the schedule's. ``clip`` bounds every estimate of x_0 to [-clip, clip]: for images, never for rows.
    """

    steps: int | None = None
    variance: Literal["large", "posterior"] = "large"
    clip: float | None = None

    def __post_init__(self) -> None:
        _check(self.steps, self.clip)
        if self.variance not in ("large", "posterior"):
            raise InvalidOption(f"variance {self.variance!r} is not known; choose large or posterior")

    @torch.no_grad()
    def sample(
        self,
        generator: Denoiser,
        condition: Tensor | None,
        noise: Tensor,
        step_noise: StepNoise,
        schedule: NoiseSchedule,
    ) -> Tensor:
        """See ``Sampler.sample``."""
        x = noise
        for step in steps_back(schedule, self.steps):
            clean = _clean(x, _estimate(generator, x, step, condition), step, self.clip)
            of_clean = step.beta * step.before**0.5 / (1 - step.now)
            of_x = (1 - step.before) * (1 - step.beta) ** 0.5 / (1 - step.now)
            x = of_clean * clean + of_x * x
            if not step.last:
                variance = step.beta if self.variance == "large" else step.posterior_variance
                x = x + variance**0.5 * _like(step_noise(step.t), x)
        return x


@dataclass(frozen=True, slots=True)
class ImplicitSampler:
    """DDIM (Song et al. 2021, Eq. 12): deterministic given the first noise at ``eta`` 0, the DDPM posterior at 1.

    ``steps`` and ``clip`` as ``AncestralSampler`` has them.
    """

    steps: int | None = 50
    eta: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        _check(self.steps, self.clip)
        if not 0 <= self.eta <= 1:
            raise InvalidOption(f"eta is {self.eta}, expected 0 (deterministic) to 1 (as DDPM)")

    @torch.no_grad()
    def sample(
        self,
        generator: Denoiser,
        condition: Tensor | None,
        noise: Tensor,
        step_noise: StepNoise,
        schedule: NoiseSchedule,
    ) -> Tensor:
        """See ``Sampler.sample``."""
        x = noise
        for step in steps_back(schedule, self.steps):
            estimate = _estimate(generator, x, step, condition)
            clean = _clean(x, estimate, step, self.clip)
            estimate = _noise_of(x, estimate, clean, step, self.clip)
            variance = self.eta**2 * step.posterior_variance
            x = step.before**0.5 * clean + max(0.0, 1 - step.before - variance) ** 0.5 * estimate
            if variance > 0:
                x = x + variance**0.5 * _like(step_noise(step.t), x)
        return x


@dataclass(frozen=True, slots=True)
class SolverSampler:
    """DPM-Solver++ of second order (Lu et al. 2022) as diffusers has it: deterministic given the first noise, and
    nearer to its limit than DDIM in as many steps. ``steps`` and ``clip`` as ``AncestralSampler`` has them.
    """

    steps: int | None = 50
    clip: float | None = None

    def __post_init__(self) -> None:
        _check(self.steps, self.clip)

    @torch.no_grad()
    def sample(
        self,
        generator: Denoiser,
        condition: Tensor | None,
        noise: Tensor,
        step_noise: StepNoise,
        schedule: NoiseSchedule,
    ) -> Tensor:
        """See ``Sampler.sample``; imports diffusers."""
        solver, x = _solver(schedule, self.steps), noise
        for step in steps_back(schedule, self.steps):
            estimate = _estimate(generator, x, step, condition)
            clean = _clean(x, estimate, step, self.clip)
            x = solver.step(_noise_of(x, estimate, clean, step, self.clip), step.t, x).prev_sample
        return x


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddpm": AncestralSampler,
    "ddim": ImplicitSampler,
    "dpm-solver": SolverSampler,
}
"""Samplers by id: ``ddpm(steps, variance, clip)``, ``ddim(steps, eta, clip)`` and ``dpm-solver(steps, clip)``."""


def build_sampler(name: str, **options: object) -> Sampler:
    """A sampler by its id and its options; raises ``InvalidOption`` for one that is not known.

    >>> build_sampler("ddim", steps=20)
    ImplicitSampler(steps=20, eta=0.0, clip=None)
    """
    if name not in SAMPLERS:
        raise InvalidOption(f"sampler {name!r} is not known; choose one of {', '.join(SAMPLERS)}")
    known = list(inspect.signature(SAMPLERS[name]).parameters)
    for option in options:
        if option not in known:
            raise InvalidOption(f"sampler {name!r} has no option {option!r}; it has {', '.join(known)}")
    return SAMPLERS[name](**options)


def _solver(schedule: NoiseSchedule, steps: int | None) -> Any:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    solver = DPMSolverMultistepScheduler(num_train_timesteps=schedule.steps, trained_betas=list(schedule.betas))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, of how diffusers turns tensors into arrays
        solver.set_timesteps(timesteps=time_steps(schedule.steps, steps))
    return solver


def _estimate(generator: Denoiser, x: Tensor, step: Step, condition: Tensor | None) -> Tensor:
    return generator(x, torch.full((len(x),), step.t, dtype=torch.int64, device=x.device), condition).to(x.dtype)


def _clean(x: Tensor, estimate: Tensor, step: Step, clip: float | None) -> Tensor:
    clean = (x - (1 - step.now) ** 0.5 * estimate) / step.now**0.5
    return clean if clip is None else clean.clamp(-clip, clip)


def _noise_of(x: Tensor, estimate: Tensor, clean: Tensor, step: Step, clip: float | None) -> Tensor:
    """The noise that goes with ``clean``: the estimate itself unless clipping has moved ``clean``."""
    return estimate if clip is None else (x - step.now**0.5 * clean) / (1 - step.now) ** 0.5


def _like(noise: Tensor, x: Tensor) -> Tensor:
    if noise.shape != x.shape:
        raise InvalidOption(
            f"the noise of a step is {tuple(noise.shape)}, the samples {tuple(x.shape)}; make them equal"
        )
    return noise.to(x.device, x.dtype)


def _check(steps: int | None, clip: float | None) -> None:
    if steps is not None and steps < 1:
        raise InvalidOption(f"{steps} sampling steps make no samples; give at least 1")
    if clip is not None and not clip > 0:
        raise InvalidOption(f"clip {clip} leaves no range; give a positive bound, or none for rows of a table")
