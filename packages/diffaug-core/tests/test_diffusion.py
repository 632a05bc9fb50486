"""The forward process and its loss against numpy, Monte Carlo and closed forms in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core import NoiseSchedule, denoising_loss, noised, recovered

PAPER = NoiseSchedule.linear()


def test_alpha_bar_is_the_product_of_the_alphas():
    product, expected = 1.0, []
    for t in range(1000):
        product *= 1 - (1e-4 + (2e-2 - 1e-4) * t / 999)
        expected.append(product)
    np.testing.assert_allclose(PAPER.alpha_bar, expected, rtol=1e-12)
    assert PAPER.betas[0] == 1e-4
    assert PAPER.betas[-1] == 2e-2


def test_equal_schedules_are_equal_and_hash_alike():
    assert NoiseSchedule.linear(10) == NoiseSchedule.linear(10) != NoiseSchedule.linear(11)
    assert hash(NoiseSchedule.linear(10)) == hash(NoiseSchedule.linear(10))


@pytest.mark.parametrize("betas", [(), (0.0, 0.1), (0.5, 1.0), (float("nan"),)])
def test_a_beta_outside_zero_to_one_is_refused(betas):
    with pytest.raises(InvalidOption, match="above 0 and below 1"):
        NoiseSchedule(betas)
    with pytest.raises(InvalidOption, match="0 steps"):
        NoiseSchedule.linear(0)


@pytest.mark.parametrize("t", [0, 200, 999])
def test_noised_samples_have_the_moments_of_q(t):
    draws = torch.randn(200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    steps = torch.full((len(draws),), t)
    noisy = noised(torch.full_like(draws, 1.7), draws, steps, PAPER)
    mean, variance = 1.7 * PAPER.alpha_bar[t] ** 0.5, 1 - PAPER.alpha_bar[t]
    assert float(noisy.mean()) == pytest.approx(mean, abs=5 * (variance / len(draws)) ** 0.5)
    assert float(noisy.var()) == pytest.approx(variance, rel=5 * (2 / len(draws)) ** 0.5)


def test_step_by_step_the_forward_process_reaches_the_same_distribution():
    schedule = NoiseSchedule.linear(30, 1e-3, 0.3)
    x = torch.full((200_000,), 2.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    for beta in schedule.betas:
        x = (1 - beta) ** 0.5 * x + beta**0.5 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    assert float(x.mean()) == pytest.approx(2 * schedule.alpha_bar[-1] ** 0.5, abs=0.012)
    assert float(x.var()) == pytest.approx(1 - schedule.alpha_bar[-1], rel=0.016)


@given(t=st.integers(0, 999), clean=st.floats(-50, 50), noise=st.floats(-5, 5))
def test_the_true_noise_gives_the_clean_sample_back(t, clean, noise):
    x, n = (torch.full((1, 2, 2), v, dtype=torch.float64) for v in (clean, noise))
    steps = torch.tensor([t])
    np.testing.assert_allclose(recovered(noised(x, n, steps, PAPER), n, steps, PAPER), x, rtol=1e-10, atol=1e-10)


def test_the_loss_is_the_mean_square_over_samples_and_dimensions():
    rng = np.random.default_rng(0)
    clean, noise, condition = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 1))
    t = np.array([0, 3, 99, 500, 999])
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))[t][:, None]
    noisy = np.sqrt(alpha_bar) * clean + np.sqrt(1 - alpha_bar) * noise
    expected = np.mean((noise - (np.tanh(noisy) + condition + t[:, None] / 1000)) ** 2)
    loss = denoising_loss(
        lambda x, steps, c: torch.tanh(x) + c + steps[:, None].double() / 1000,
        *map(torch.from_numpy, (clean, noise, t, condition)),
        PAPER,
    )
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_the_condition_takes_no_gradient_and_the_generator_does():
    weight = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    encoder = torch.nn.Linear(4, 2).double()
    condition = encoder(torch.randn(6, 4, dtype=torch.float64))
    clean, noise = torch.randn(2, 6, 3, dtype=torch.float64)
    loss = denoising_loss(lambda x, t, c: x + c @ weight, clean, noise, torch.arange(6), condition, PAPER)
    loss.backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert float(weight.grad.abs().min()) > 0


def test_half_precision_estimates_are_compared_in_float32():
    clean, noise = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    loss = denoising_loss(lambda x, t, c: x.half(), clean, noise, torch.arange(8), None, PAPER)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(("noise", "t"), [((4, 3), (4,)), ((5, 3), (4,)), ((5, 3), (5, 1))])
def test_shapes_that_do_not_belong_together_are_named(noise, t):
    with pytest.raises(InvalidOption, match=r"samples are \(5, 3\), noise"):
        noised(torch.zeros(5, 3), torch.zeros(noise), torch.zeros(t, dtype=torch.int64), PAPER)
    with pytest.raises(InvalidOption, match="float32"):
        noised(torch.zeros(5, 3), torch.zeros(5, 3), torch.zeros(5), PAPER)


def test_the_exact_denoiser_of_a_gaussian_reaches_the_floor_of_the_loss():
    m, s, rows = 0.8, 0.5, 400_000
    generator = torch.Generator().manual_seed(1)
    clean = m + s * torch.randn(rows, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(rows, 1, dtype=torch.float64, generator=generator)
    t = torch.randint(1000, (rows,), generator=generator)

    def exact(x, steps, condition):
        a = torch.from_numpy(PAPER.alpha_bar)[steps][:, None]
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * s**2 + 1 - a)

    a = PAPER.alpha_bar
    floor = float(np.mean(a * s**2 / (a * s**2 + 1 - a)))
    assert float(denoising_loss(exact, clean, noise, t, None, PAPER)) == pytest.approx(floor, rel=0.02)
    worse = denoising_loss(lambda *each: 1.1 * exact(*each), clean, noise, t, None, PAPER)
    assert float(worse) > floor * 1.02
