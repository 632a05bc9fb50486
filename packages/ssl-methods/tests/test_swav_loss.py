"""SwAV's loss and codes against the paper's equations, closed forms, other processes and lightly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.losses import sinkhorn, swav_loss
from semaug.ssl_methods.testing import rank_difference


def codes_reference(scores, epsilon, iterations):
    """Appendix A.1: Q = exp(scores^T / epsilon), its rows then its columns normalised to 1/K and 1/B, in float64."""
    q = np.exp(scores.T.astype(np.float64) / epsilon)
    q /= q.sum()
    k, b = q.shape
    for _ in range(iterations):
        for row in range(k):
            q[row] /= q[row].sum() * k
        for column in range(b):
            q[:, column] /= q[:, column].sum() * b
    return (q * b).T


def reference(scores, temperature, epsilon, iterations, earlier=None):
    """Eq. 1 and 2 over all crops, term by term."""
    total, terms = 0.0, 0
    for i in (0, 1):
        rows = scores[i] if earlier is None else np.concatenate([scores[i], earlier[i]])
        codes = codes_reference(rows, epsilon, iterations)
        for v, view in enumerate(scores):
            if v == i:
                continue
            terms += 1
            for n in range(len(view)):
                e = np.exp(view[n] / temperature)
                p = e / e.sum()
                total -= sum(codes[n, k] * math.log(p[k]) for k in range(len(p))) / len(view)
    return total / terms


def scores(views=4, n=6, k=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.rand(n, k, generator=generator, dtype=dtype) - 1 for _ in range(views)]


@pytest.mark.parametrize("views", [2, 3, 6])
@pytest.mark.parametrize(("temperature", "epsilon", "iterations"), [(0.1, 0.05, 3), (0.3, 0.2, 1)])
def test_equals_the_paper_equation(views, temperature, epsilon, iterations):
    given = scores(views)
    found = swav_loss(given, temperature, epsilon=epsilon, iterations=iterations).item()
    expected = reference([s.numpy() for s in given], temperature, epsilon, iterations)
    assert found == pytest.approx(expected, abs=1e-12)


def test_earlier_scores_share_in_the_assignment_and_cost_nothing():
    given, earlier = scores(3), scores(2, n=9, seed=1)
    expected = reference([s.numpy() for s in given], 0.1, 0.05, 3, [e.numpy() for e in earlier])
    assert swav_loss(given, earlier=earlier).item() == pytest.approx(expected, abs=1e-12)
    assert abs(expected - swav_loss(given).item()) > 1e-3


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_codes_equal_the_appendix(iterations):
    given = scores(1, n=12, k=7)[0]
    found = sinkhorn(given, 0.05, iterations)
    np.testing.assert_allclose(found.numpy(), codes_reference(given.numpy(), 0.05, iterations), atol=1e-12)
    assert torch.allclose(found.sum(1), torch.ones(12, dtype=torch.float64))


def test_many_iterations_share_the_rows_alike_among_prototypes():
    found = sinkhorn(scores(1, n=12, k=4)[0], 0.5, 200)
    assert torch.allclose(found.sum(0), torch.full((4,), 3.0, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("k", [3, 50])
def test_identical_scores_cost_log_of_the_prototypes(k):
    alike = [torch.full((4, k), 0.7, dtype=torch.float64)] * 3
    assert swav_loss(alike).item() == pytest.approx(math.log(k), abs=1e-12)


def test_orthogonal_embeddings_each_get_their_own_prototype():
    n, temperature = 5, 0.1
    apart = [torch.eye(n, dtype=torch.float64)] * 2
    other = math.exp(-1 / 0.05)
    code = 1 / (1 + (n - 1) * other)
    log_p = [x / temperature - math.log(math.exp(1 / temperature) + n - 1) for x in (1, 0)]
    expected = -(code * log_p[0] + (1 - code) * log_p[1])
    assert swav_loss(apart, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_gradient_equals_finite_differences_of_fixed_codes():
    """Codes are constants to the gradient, so the local views, which give none, can be checked by themselves."""
    given = scores(4, 4, 3)
    local = [s.clone().requires_grad_() for s in given[2:]]
    assert torch.autograd.gradcheck(lambda *x: swav_loss([*given[:2], *x]), local)


def test_no_gradient_passes_through_the_codes():
    given = [s.requires_grad_() for s in scores(2)]
    (found,) = torch.autograd.grad(swav_loss(given), given[0])
    code = sinkhorn(given[1])
    expected = ((given[0] / 0.1).softmax(1) - code) / 0.1 / (2 * len(code))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert not code.requires_grad


def test_stays_finite_where_exp_overflows():
    wide = [40 * s for s in scores(3, dtype=torch.float32)]
    assert torch.isfinite(swav_loss(wide, epsilon=1e-3))
    assert torch.isfinite(sinkhorn(wide[0], 1e-3)).all()


def test_is_float32_inside_autocast():
    given = scores(3, 8, 16, dtype=torch.float32)
    expected = swav_loss(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = swav_loss(given)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("queued", [False, True])
def test_equals_lightly(queued):
    peer = pytest.importorskip("lightly.loss").SwaVLoss()
    given, earlier = scores(5, 16, 12, dtype=torch.float32), scores(2, 20, 12, seed=3, dtype=torch.float32)
    found = swav_loss(given, earlier=earlier if queued else None)
    expected = peer(given[:2], given[2:], earlier if queued else None)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)  # the same scale: mean over pairs and rows


def _with_queue(*tensors):
    return swav_loss(tensors[:4], earlier=tensors[4:])


def _without_queue(*tensors):
    return swav_loss(tensors)


@pytest.mark.parametrize("queued", [False, True])
def test_two_ranks_equal_one_process_in_loss_and_gradient(queued):
    tensors = [*scores(4, 8), *(scores(2, 6, seed=1) if queued else [])]
    assert rank_difference(_with_queue if queued else _without_queue, *tensors) < 1e-13


def _alone(*tensors):
    return swav_loss(tensors, gathering="none")


def test_ranks_that_gather_nothing_assign_their_own_rows_alone():
    assert rank_difference(_alone, *scores(2, 8)) > 1e-4


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (scores(1), {}, "two views"),
        ([torch.ones(2, 3), torch.ones(3, 3)], {}, "shapes"),
        (scores(2), {"temperature": 0.0}, "temperature 0.0"),
        (scores(2), {"epsilon": 0.0}, "epsilon 0.0 and 3 iterations"),
        (scores(2), {"iterations": 0}, "0 iterations"),
    ],
)
def test_refuses_what_has_no_meaning(given, options, message):
    with pytest.raises(InvalidOption, match=message):
        swav_loss(given, **options)
