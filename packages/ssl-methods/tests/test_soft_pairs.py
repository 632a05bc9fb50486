"""The soft contrastive loss over blocks of pairs against the same loss by autograd over whole matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.ssl_methods.losses import soft_pairs
from semaug.ssl_methods.losses.dlme import Similarity, soft_contrastive_terms
from semaug.ssl_methods.losses.kernels import KERNELS
from semaug.ssl_methods.losses.soft_pairs import form_of


def both(y, z, positive, name, **options):
    """(loss, saturated, gradients) of the kernel in blocks, and of an unknown one that gives the same values."""
    found = []
    for kernel in (KERNELS[name], lambda d, nu: KERNELS[name](d, nu)):
        sides = [t.clone().requires_grad_() for t in (y, z)]
        loss, saturated = soft_contrastive_terms(*sides, positive, Similarity(kernel, **options))
        gradients = torch.autograd.grad(loss, sides, allow_unused=True)
        found.append((loss.detach(), saturated, [torch.zeros(()) if g is None else g for g in gradients]))
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(KERNELS)),
    st.integers(2, 40),
    st.sampled_from([(3, 2), (40, 2), (40, 40), (12, 33)]),
    st.sampled_from([(100.0, 0.01), (3.0, 1.0)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 7, 50, 1 << 15]),
    st.integers(0, 99),
)
def test_equals_autograd_over_whole_matrices(name, n, widths, nus, symmetric, detach, cached, seed):
    drawn = torch.Generator().manual_seed(seed)
    y, z = (torch.randn(n, w, generator=drawn, dtype=torch.float64) for w in widths)
    positive = torch.rand(n, n, generator=drawn) < 0.3
    positive = positive | positive.T if symmetric else positive
    limit, soft_pairs._CACHED = soft_pairs._CACHED, cached
    try:
        ours, wanted = both(0.2 * y, z, positive, name, nu_y=nus[0], nu_z=nus[1], beta=0.9, detach_p=detach)
    finally:
        soft_pairs._CACHED = limit
    torch.testing.assert_close(ours[0], wanted[0], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(ours[1], wanted[1])
    for found, expected in zip(ours[2], wanted[2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


def test_half_of_the_pairs_are_left_out_where_the_rest_tells_them(monkeypatch):
    measured = []
    plain = soft_pairs.squared_distances
    monkeypatch.setattr(soft_pairs, "squared_distances", lambda a, b: measured.append(len(a) * len(b)) or plain(a, b))
    monkeypatch.setattr(soft_pairs, "_CACHED", 1000)
    y, z = torch.randn(200, 3), torch.randn(200, 2)
    lopsided = torch.zeros(200, 200, dtype=torch.bool)
    lopsided[0, 1] = True
    for positive in (torch.eye(200, dtype=torch.bool), lopsided):
        soft_contrastive_terms(y, z, positive, Similarity())
    count = len(measured) - 2 * 40  # of the last call, 5 rows at a time
    assert sum(measured[count:]) == 2 * 200 * 200
    assert sum(measured[:count]) < 0.6 * 2 * 200 * 200


def test_bad_values_are_not_hidden():
    y = torch.zeros(4, 2)
    y[1, 0] = torch.nan
    loss, _ = soft_contrastive_terms(y, torch.zeros(4, 2), torch.eye(4, dtype=torch.bool), Similarity())
    assert torch.isnan(loss)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("nu", [0.01, 1.0, 100.0])
def test_the_form_is_the_kernel(name, nu):
    distance = torch.linspace(0, 9, 50, dtype=torch.float64)
    similarity, _ = form_of(KERNELS[name], nu).of(distance**2)
    torch.testing.assert_close(similarity, KERNELS[name](distance, nu), rtol=1e-10, atol=0)


def test_an_unknown_kernel_has_no_form():
    assert form_of(lambda distance, nu: distance, 1.0) is None
