from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.losses.dlme import (
    Similarity,
    positive_pairs,
    soft_contrastive_loss,
    soft_contrastive_terms,
    soft_targets,
)
from semaug.ssl_methods.losses.kernels import KERNELS, paper_kernel
from semaug.ssl_methods.testing import loss_and_gradient, rank_difference


def kernel_reference(name, d, nu):
    """Eq. 4; the official code's 2 pi S^2; Eq. 4 over its value at zero."""
    factor = math.gamma((nu + 1) / 2) / (math.sqrt(nu * math.pi) * math.gamma(nu / 2))
    shape = (1 + d * d / nu) ** (-(nu + 1) / 2)
    return {"paper": factor * shape, "official": 2 * math.pi * (factor * shape) ** 2, "peak1": shape}[name]


def reference(y, z, ids, name, nu_y, nu_z, beta):
    """Eqs. 1 to 3, pair by pair, with the mean of the official code; also the share of P over one."""
    n, total, over = len(y), 0.0, 0
    for c in range(n):
        for j in range(n):
            h = ids[c] == ids[j]
            p = (1 + h * (math.exp(beta) - 1)) * kernel_reference(name, math.dist(y[c], y[j]), nu_y)
            over += p > 1 and c != j
            q = kernel_reference(name, math.dist(z[c], z[j]), nu_z)
            p = min(p, 1.0)
            if c != j:
                total -= p * math.log(q + 1e-5) + (1 - p) * math.log(1 - q + 1e-5)
    return total / (n * (n - 1)), over / (n * (n - 1))


def drawn(n=6, widths=(5, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, w, generator=generator, dtype=torch.float64) for w in widths]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(KERNELS)),
    st.integers(2, 7),
    st.sampled_from([2, 40]),  # distances difference by difference, and by a product of matrices
    st.sampled_from([(100.0, 0.01), (3.0, 1.0), (1.0, 10.0)]),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_equals_the_papers_equations(name, n, width, nus, beta, seed):
    y, z = drawn(n, (width, 2), seed)
    y = 0.3 * y
    ids = torch.arange(n) % max(1, n // 2)
    similarity = Similarity(KERNELS[name], *nus, beta)
    loss, saturated = soft_contrastive_terms(y, z, positive_pairs(ids), similarity)
    expected, over = reference(y.tolist(), z.tolist(), ids.tolist(), name, *nus, beta)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert saturated.item() == pytest.approx(over, abs=1e-12)
    assert soft_contrastive_loss(y, z, positive_pairs(ids), similarity).item() == loss.item()


@pytest.mark.parametrize("name", KERNELS)
def test_equal_rows_cost_what_the_kernels_peak_leaves(name):
    """With all rows equal P is the clamped peak at nu_y and Q the peak at nu_z: under the paper's kernel at nu = 0.01
    Q never exceeds 0.0497, so that the loss cannot reach the entropy of P."""
    same = torch.ones(4, 3, dtype=torch.float64)
    p = min(1.0, math.e * kernel_reference(name, 0, 100.0))
    q = kernel_reference(name, 0, 0.01)
    expected = -p * math.log(q + 1e-5) - (1 - p) * math.log(1 - q + 1e-5)
    found, saturated = soft_contrastive_terms(
        same, same, torch.ones(4, 4, dtype=torch.bool), Similarity(KERNELS[name], beta=1.0)
    )
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert saturated.item() == 1.0
    if name != "peak1":
        assert expected > 3


def test_the_clamp_saturates_above_the_printed_beta():
    """At nu = 100 the paper's kernel peaks at 0.39795, so P exceeds one for beta over 0.9214 alone (spec E3)."""
    rows, everyone = torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, 3, dtype=torch.bool)
    shares = [soft_targets(rows, everyone, Similarity(paper_kernel, beta=b))[1].item() for b in (0.9213, 0.9215)]
    assert shares == [0.0, 1.0]


def test_without_positives_p_is_the_kernel():
    y, _ = drawn()
    target, _ = soft_targets(y, torch.zeros(6, 6, dtype=torch.bool), Similarity(paper_kernel, nu_y=3.0))
    torch.testing.assert_close(target, paper_kernel(torch.cdist(y, y), 3.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("width", [3, 40])
@pytest.mark.parametrize("name", KERNELS)
def test_gradients_equal_finite_differences(name, width):
    y, z = (t.requires_grad_() for t in drawn(5, (width, 2)))
    similarity = Similarity(KERNELS[name], nu_y=3.0 * width, nu_z=1.0, beta=0.5)
    positive = positive_pairs(torch.tensor([0, 1, 0, 1, 2]))
    assert torch.autograd.gradcheck(lambda a, b: soft_contrastive_loss(a, b, positive, similarity), (y, z))


def test_p_sends_a_gradient_to_y_unless_detached():
    y, z = drawn()
    positive = positive_pairs(torch.arange(6) % 3)
    for detach in (False, True):
        similarity = Similarity(paper_kernel, 3.0, 1.0, 0.5, detach_p=detach)
        loss = partial(soft_contrastive_loss, positive=positive, similarity=similarity)
        _, (from_p, from_q) = loss_and_gradient(lambda a, b, loss=loss: loss(a, b), y, z)
        assert bool(from_p.any()) is not detach
        assert bool(from_q.any())


def test_each_row_of_z_is_pulled_least_where_q_equals_p():
    """Eq. 2 is a cross-entropy: for a fixed P it is least at Q = P."""
    y = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    apart = torch.eye(2, dtype=torch.bool)
    similarity = Similarity(KERNELS["peak1"], nu_y=5.0, nu_z=5.0)
    costs = [soft_contrastive_loss(y, s * y, apart, similarity).item() for s in (0.9, 0.99, 1.0, 1.01, 1.1)]
    assert min(costs) == costs[2]


@pytest.mark.parametrize("width", [1, 3, 40])
def test_equal_rows_have_finite_gradients(width):
    rows = torch.ones(4, width, requires_grad=True)
    soft_contrastive_loss(rows, rows, positive_pairs(torch.arange(4) % 2), Similarity()).backward()
    assert torch.isfinite(rows.grad).all()


def test_wide_rows_are_measured_as_exactly_as_the_kernel_needs():
    """The product of matrices in float32 against float64, for rows far from the origin and nearly equal pairs."""
    rows = drawn(64, (128,))[0] + 20
    rows[32:] = rows[:32] + 1e-2 * rows[32:].sub(20)
    z = drawn(64, (2,))[0]
    positive = positive_pairs(torch.arange(64) % 32)
    exact = soft_contrastive_loss(rows, z, positive, Similarity()).item()
    assert soft_contrastive_loss(rows.float(), z.float(), positive, Similarity()).item() == pytest.approx(
        exact, rel=1e-4
    )


def on_ranks(y, z, ids, kernel, detach):
    similarity = Similarity(KERNELS[kernel], nu_y=3.0, nu_z=1.0, beta=0.7, detach_p=detach)
    return soft_contrastive_loss(y, z, positive_pairs(ids[:, 0].round().long()), similarity)


@pytest.mark.parametrize(("kernel", "detach", "width"), [("paper", False, 5), ("official", True, 40)])
def test_two_ranks_equal_one_process_in_loss_and_gradient(kernel, detach, width):
    y, z = drawn(8, (width, 2))
    # views of one sample lie on one rank, and on different ones
    ids = torch.tensor([0, 1, 0, 2, 1, 3, 3, 4], dtype=torch.float64)[:, None]
    assert rank_difference(partial(on_ranks, kernel=kernel, detach=detach), 0.3 * y, z, ids) < 1e-12


def test_is_float32_inside_autocast():
    y, z = (t.float() for t in drawn(8, (64, 2)))
    positive = positive_pairs(torch.arange(8) % 4)
    expected = soft_contrastive_loss(y, z, positive, Similarity())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = soft_contrastive_loss(y, z, positive, Similarity())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_bad_inputs_are_refused():
    with pytest.raises(InvalidOption, match=r"nu_y = 0\.0 and nu_z = 0\.01 must be positive"):
        Similarity(nu_y=0.0)
    with pytest.raises(InvalidOption, match=r"latent has 3 rows, embedding 3, positive is \(2, 3\); .*\(3, 3\)"):
        soft_contrastive_loss(torch.ones(3, 2), torch.ones(3, 2), torch.ones(2, 3, dtype=torch.bool), Similarity())
