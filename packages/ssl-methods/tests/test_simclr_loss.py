from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods import SimCLR, build_encoder, nt_xent
from semaug.ssl_methods.testing import rank_difference


def reference(z1, z2, temperature):
    """Eq. 1 of the paper, term by term, in float64."""
    z = np.concatenate([z1, z2]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n = len(z1)
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        below = sum(math.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(z[i] @ z[j] / temperature) / below)
    return total / (2 * n)


def views(n=6, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_equals_the_paper_equation(temperature):
    z1, z2 = views()
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(
        reference(z1.numpy(), z2.numpy(), temperature), abs=1e-12
    )


@pytest.mark.parametrize("n", [2, 7, 64])
def test_identical_embeddings_cost_log_of_the_candidates(n):
    z = torch.ones(n, 4, dtype=torch.float64)
    assert nt_xent(z, z, 0.01).item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)


def test_gradient_equals_finite_differences():
    z1, z2 = (z.requires_grad_() for z in views(4, 3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.2), (z1, z2))


def test_stays_finite_where_exp_overflows():
    z1, z2 = views(dtype=torch.float32)
    assert torch.isfinite(nt_xent(z1, z2, 1e-4))  # exp(1 / 1e-4) has no float32


def test_is_float32_inside_autocast():
    z1, z2 = views(8, 16, dtype=torch.float32)
    expected = nt_xent(z1, z2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nt_xent(z1, z2)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_lightly(temperature):
    peer = pytest.importorskip("lightly.loss").NTXentLoss(temperature=temperature)
    z1, z2 = views(16, 32, dtype=torch.float32)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(peer(z1, z2).item(), rel=1e-6)


def test_two_ranks_equal_one_process_in_loss_and_gradient():
    assert rank_difference(partial(nt_xent, temperature=0.3), *views(8, 5)) < 1e-12


@pytest.mark.parametrize(("a", "b", "temperature"), [((2, 3), (3, 3), 0.2), ((2, 3), (2, 3), 0.0)])
def test_refuses_what_has_no_meaning(a, b, temperature):
    with pytest.raises(InvalidOption, match=r"shapes|temperature"):
        nt_xent(torch.ones(a), torch.ones(b), temperature)


def test_gradient_reaches_every_parameter_of_the_encoder():
    method = SimCLR(build_encoder("small-cnn", input_size=16))
    generator = torch.Generator().manual_seed(0)
    method([torch.randn(6, 3, 16, 16, generator=generator) for _ in range(2)])["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters() if p.ndim > 1)


def test_simclr_takes_two_views():
    method = SimCLR(build_encoder("small-cnn", input_size=16))
    with pytest.raises(InvalidOption, match="2 views of an image, got 3"):
        method([torch.zeros(2, 3, 16, 16)] * 3)
