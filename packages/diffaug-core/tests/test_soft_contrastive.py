"""Kernels and the soft contrastive loss against scipy and hand-computed values."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from semaug.diffaug_core import KERNELS, Similarity, paper_kernel, soft_contrastive_loss, soft_targets


@pytest.mark.parametrize("nu", [0.01, 1.0, 5.0, 100.0])
def test_paper_kernel_is_the_t_density(nu):
    d = torch.linspace(0, 6, 50, dtype=torch.float64)
    np.testing.assert_allclose(paper_kernel(d, nu).numpy(), stats.t.pdf(d.numpy(), nu), rtol=1e-10)


def test_paper_kernel_becomes_the_normal_density():
    d = torch.linspace(0, 3, 20, dtype=torch.float64)
    np.testing.assert_allclose(paper_kernel(d, 1e6).numpy(), stats.norm.pdf(d.numpy()), rtol=1e-4)


def test_paper_kernel_integrates_to_one():
    total, _ = integrate.quad(lambda x: float(paper_kernel(torch.tensor(x, dtype=torch.float64), 5.0)), -np.inf, np.inf)
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("name", "nu", "peak"), [("paper", 100, 0.39795), ("official", 100, 0.9950), ("peak1", 3, 1)])
def test_peaks(name, nu, peak):
    assert float(KERNELS[name](torch.zeros((), dtype=torch.float64), nu)) == pytest.approx(peak, abs=2e-3)


@pytest.mark.parametrize("name", KERNELS)
def test_loss_of_two_rows_by_hand(name):
    similarity = Similarity(KERNELS[name], nu_y=2.0, nu_z=0.5, beta=0.3)
    y = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    positive = torch.tensor([[False, True], [True, False]])

    def kernel(d, nu):
        density = math.gamma((nu + 1) / 2) / (math.sqrt(nu * math.pi) * math.gamma(nu / 2))
        shape = (1 + d * d / nu) ** (-(nu + 1) / 2)
        return {"paper": density * shape, "official": 2 * math.pi * (density * shape) ** 2, "peak1": shape}[name]

    p, q = math.exp(0.3) * kernel(5, 2.0), kernel(2, 0.5)
    expected = -(p * math.log(q + 1e-5) + (1 - p) * math.log(1 - q + 1e-5))
    assert float(soft_contrastive_loss(y, z, positive, similarity)) == pytest.approx(expected, abs=1e-12)


def test_targets_are_clamped_and_the_share_is_reported():
    y = torch.zeros(3, 2, dtype=torch.float64)
    target, share = soft_targets(y, torch.ones(3, 3, dtype=torch.bool), Similarity(beta=1.0))
    assert float(target.max()) == 1
    assert float(share) == 1


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    z = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    positive = torch.eye(4, dtype=torch.bool).roll(2, 0)
    similarity = Similarity(paper_kernel, nu_y=3.0, nu_z=1.0, beta=0.5)
    assert torch.autograd.gradcheck(lambda a, b: soft_contrastive_loss(a, b, positive, similarity), (y, z))


def test_equal_rows_have_finite_gradients():
    z = torch.zeros(3, 2, requires_grad=True)
    soft_contrastive_loss(z, z, torch.ones(3, 3, dtype=torch.bool), Similarity()).backward()
    assert torch.isfinite(z.grad).all()


def test_bad_settings_name_both_values():
    with pytest.raises(ValueError, match=r"beta is 1\.5"):
        Similarity(beta=1.5)
    with pytest.raises(ValueError, match="latent has 3 rows, embedding 2"):
        soft_contrastive_loss(torch.zeros(3, 1), torch.zeros(2, 1), torch.ones(3, 3, dtype=torch.bool), Similarity())
