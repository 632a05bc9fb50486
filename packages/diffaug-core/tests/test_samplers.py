"""Sampling against closed forms for Gaussian data, and against diffusers' schedulers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core import (
    SAMPLERS,
    AncestralSampler,
    ImplicitSampler,
    NoiseSchedule,
    SolverSampler,
    build_generator,
    build_sampler,
)
from semaug.diffaug_core.samplers import time_steps

SHORT = NoiseSchedule.linear(40, 1e-3, 0.3)
PAPER = NoiseSchedule.linear()


def bent(x, t, condition):
    """A denoiser without closed form: it depends on everything that it is given."""
    shift = 0 if condition is None else condition
    return torch.tanh(0.7 * x + t.view(-1, *[1] * (x.ndim - 1)) / 50 + shift)


def gaussian(schedule, m, s):
    """The exact denoiser of N(m, s^2 I)."""

    def exact(x, t, condition):
        a = torch.from_numpy(schedule.alpha_bar)[t].view(-1, *[1] * (x.ndim - 1))
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * s**2 + 1 - a)

    return exact


def counted(seed, shape):
    """The noise of a step as a function of the step alone."""
    return lambda t: torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1000 * seed + t))


def moments(sampler, schedule, m, s):
    """Exact mean and variance of what an affine denoiser makes of standard noise: its response to each unit draw."""
    draws = torch.eye(schedule.steps + 2, dtype=torch.float64)
    denoiser = gaussian(schedule, m, s)
    got = sampler.sample(denoiser, None, draws[:, :1], lambda t: draws[:, t + 1 : t + 2], schedule)
    mean = float(got[-1])
    return mean, float((got[:-1] - mean).square().sum())


@pytest.mark.parametrize(
    "sampler", [AncestralSampler(), AncestralSampler(variance="posterior"), ImplicitSampler(None)], ids=repr
)
def test_the_exact_denoiser_brings_gaussian_data_back_and_better_with_more_steps(sampler):
    m, s, errors = 3.0, 0.5, []
    for steps in (50, 200, 800):
        schedule = NoiseSchedule.linear(steps, 0.1 / steps, 20 / steps)
        mean, variance = moments(sampler, schedule, m, s)
        assert mean == pytest.approx(m, abs=0.02)
        errors.append(abs(variance - s**2))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02 * s**2


def test_the_moments_hold_for_draws():
    noise = torch.randn(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, variance = moments(AncestralSampler(), SHORT, -1.0, 0.3)
    got = AncestralSampler().sample(gaussian(SHORT, -1.0, 0.3), None, noise, counted(1, noise.shape), SHORT)
    assert float(got.mean()) == pytest.approx(mean, abs=5 * (variance / len(noise)) ** 0.5)
    assert float(got.var()) == pytest.approx(variance, rel=0.05)


def test_deterministic_samplers_approach_the_flow_of_a_gaussian():
    m, s = 1.5, 0.4
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    a = PAPER.alpha_bar[-1]
    limit = m + s * (noise - a**0.5 * m) / (a * s**2 + 1 - a) ** 0.5
    error = {}
    for sampler in (*map(ImplicitSampler, (20, 50, 100, None)), SolverSampler(50)):
        got = sampler.sample(gaussian(PAPER, m, s), None, noise, lambda t: pytest.fail("no noise"), PAPER)
        error[sampler] = float((got - limit).abs().max())
    assert error[ImplicitSampler(20)] > 3 * error[ImplicitSampler(100)] > 3 * error[ImplicitSampler(None)]
    assert error[SolverSampler(50)] < error[ImplicitSampler(50)] / 10


@pytest.mark.parametrize("sampler", [AncestralSampler(), AncestralSampler(10), ImplicitSampler(10, eta=1.0)], ids=repr)
def test_the_last_step_adds_no_noise(sampler):
    asked = []

    def step_noise(t):
        asked.append(t)
        return torch.zeros(2, 3, dtype=torch.float64)

    sampler.sample(bent, None, torch.ones(2, 3, dtype=torch.float64), step_noise, SHORT)
    assert asked == time_steps(40, sampler.steps)[:-1]


@given(total=st.integers(1, 1200), data=st.data())
def test_time_steps_fall_from_the_last_without_repeats(total, data):
    steps = data.draw(st.integers(1, total))
    found = time_steps(total, steps)
    assert len(found) == len(set(found)) == steps
    assert found == sorted(found, reverse=True)
    assert found[0] == total - 1
    assert found[-1] >= 0
    assert max(-np.diff([*found, -1])) - min(-np.diff([*found, -1])) <= 1


@pytest.mark.parametrize("steps", [None, 7])
def test_ddim_with_eta_one_is_ddpm_with_the_posterior_variance(steps):
    noise, condition = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ddpm = AncestralSampler(steps, "posterior").sample(bent, condition, noise, counted(4, (6, 3)), SHORT)
    ddim = ImplicitSampler(steps, eta=1.0).sample(bent, condition, noise, counted(4, (6, 3)), SHORT)
    torch.testing.assert_close(ddim, ddpm, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_noise_gives_equal_bits_and_other_noise_other_samples(name):
    generator = build_generator("mlp", (5,), 2).eval()
    noise, condition = torch.randn(4, 5), torch.randn(4, 2)
    sampler = build_sampler(name, steps=8)

    def draw(first):
        return sampler.sample(generator, condition, first, lambda t: counted(7, (4, 5))(t).float(), PAPER)

    assert torch.equal(draw(noise), draw(noise))
    assert not torch.allclose(draw(noise), draw(-noise))
    assert not draw(noise).requires_grad


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_gives_what_its_samples_give_alone(name):
    generator = build_generator("mlp", (5,), 2).double().eval()
    noise = torch.randn(3, 5, dtype=torch.float64)
    condition = torch.randn(3, 2, dtype=torch.float64)
    sampler, step_noise = build_sampler(name, steps=8), counted(9, (3, 5))
    together = sampler.sample(generator, condition, noise, step_noise, PAPER)
    for i in range(3):
        row = slice(i, i + 1)
        alone = sampler.sample(generator, condition[row], noise[row], lambda t, row=row: step_noise(t)[row], PAPER)
        torch.testing.assert_close(alone, together[row], rtol=1e-5, atol=1e-5)


def of_diffusers(kind, steps, **options):
    import diffusers

    chosen = {"num_train_timesteps": 40, "trained_betas": list(SHORT.betas), "timestep_spacing": "trailing"}
    scheduler = getattr(diffusers, kind)(**chosen, **{"clip_sample": False, **options})
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("steps", [40, 8])
@pytest.mark.parametrize(("ours", "theirs"), [("large", "fixed_large"), ("posterior", "fixed_small")])
def test_ddpm_is_that_of_diffusers(steps, ours, theirs, clip):
    bound = {} if clip is None else {"clip_sample": True, "clip_sample_range": clip}
    scheduler = of_diffusers("DDPMScheduler", steps, variance_type=theirs, **bound)
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, generator = noise, torch.Generator().manual_seed(11)
    for t in scheduler.timesteps:
        if t == scheduler.timesteps[-1]:
            scheduler.register_to_config(
                variance_type="fixed_small"
            )  # diffusers adds noise even at the end of a stride
        x = scheduler.step(bent(x, t.expand(3), None), t, x, generator=generator).prev_sample
    same = torch.Generator().manual_seed(11)
    ours_x = AncestralSampler(steps, ours, clip).sample(
        bent, None, noise, lambda t: torch.randn(3, 4, dtype=torch.float64, generator=same), SHORT
    )
    torch.testing.assert_close(ours_x, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("steps", [40, 8])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_that_of_diffusers(steps, eta, clip):
    bound = {} if clip is None else {"clip_sample": True, "clip_sample_range": clip}
    scheduler = of_diffusers("DDIMScheduler", steps, **bound)
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, draw = noise, counted(3, (3, 4))
    for t in scheduler.timesteps:
        estimate = bent(x, t.expand(3), None)
        x = scheduler.step(
            estimate, t, x, eta=eta, use_clipped_model_output=clip is not None, variance_noise=draw(int(t))
        ).prev_sample
    torch.testing.assert_close(
        ImplicitSampler(steps, eta, clip).sample(bent, None, noise, draw, SHORT), x, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_clip_bounds_images(name):
    noise = 3 * torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def far(x, t, condition):
        return -2 * torch.ones_like(x)

    free, bounded = (
        build_sampler(name, steps=6, clip=clip).sample(far, None, noise, counted(0, noise.shape), SHORT)
        for clip in (None, 0.25)
    )
    assert float(free.abs().max()) > 1
    assert float(bounded.abs().max()) <= 0.25 + 1e-6


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("euler", {}, "ddpm, ddim, dpm-solver"),
        ("ddpm", {"eta": 1.0}, "no option 'eta'; it has steps, variance, clip"),
        ("ddim", {"eta": 1.5}, "eta is 1.5"),
        ("ddim", {"steps": 0}, "0 sampling steps"),
        ("ddpm", {"variance": "small"}, "choose large or posterior"),
        ("dpm-solver", {"clip": -1.0}, "clip -1.0"),
    ],
)
def test_bad_options_name_the_remedy(name, options, message):
    with pytest.raises(InvalidOption, match=message):
        build_sampler(name, **options)


def test_steps_and_noise_that_do_not_fit_are_named():
    noise = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(InvalidOption, match="41 sampling steps do not fit a schedule of 40"):
        ImplicitSampler(41).sample(bent, None, noise, counted(0, (2, 3)), SHORT)
    with pytest.raises(InvalidOption, match=r"noise of a step is \(2, 4\)"):
        AncestralSampler().sample(bent, None, noise, counted(0, (2, 4)), SHORT)
