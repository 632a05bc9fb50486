from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.losses import barlow_twins_loss, byol_loss, simsiam_loss, vicreg_loss
from semaug.ssl_methods.losses.vicreg import vicreg_terms
from semaug.ssl_methods.testing import loss_and_gradient, rank_difference


def drawn(count, n=6, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=dtype) for _ in range(count)]


def cosines(a, b):
    """Row by row, in float64."""
    a, b = a.double().numpy(), b.double().numpy()
    return [float(x @ y / math.sqrt((x @ x) * (y @ y))) for x, y in zip(a, b, strict=True)]


def byol_reference(p1, p2, t1, t2):
    """Eq. 2: the squared distance of unit vectors; the symmetrised loss adds the direction with the views swapped."""
    total = 0.0
    for p, t in ((p1, t2), (p2, t1)):
        p, t = p.double().numpy(), t.double().numpy()
        for x, y in zip(p, t, strict=True):
            total += sum(
                (a / np.sqrt((x**2).sum()) - b / np.sqrt((y**2).sum())) ** 2 for a, b in zip(x, y, strict=True)
            )
    return total / len(p1)


def simsiam_reference(p1, p2, z1, z2):
    """Eqs. 1 and 2: half of D(p1, z2), half of D(p2, z1), where D is the negative cosine."""
    return float(np.mean([-a / 2 - b / 2 for a, b in zip(cosines(p1, z2), cosines(p2, z1), strict=True)]))


def barlow_reference(z1, z2, off_diagonal, scale):
    """Eqs. 1 and 2 on columns standardised as batch norm does it (biased variance, 1e-5), term by term."""
    z1, z2 = z1.double().numpy(), z2.double().numpy()
    n, d = z1.shape

    def standard(column):
        mean = sum(column) / n
        return (column - mean) / math.sqrt(sum((v - mean) ** 2 for v in column) / n + 1e-5)

    total = 0.0
    for i in range(d):
        for j in range(d):
            c = float(standard(z1[:, i]) @ standard(z2[:, j])) / n
            total += (1 - c) ** 2 if i == j else off_diagonal * c**2
    return scale * total


def vicreg_reference(z1, z2, weights=(25.0, 25.0, 1.0)):
    """Eqs. 1 to 6, the variance halved over the views as in the published code."""
    z1, z2 = z1.double().numpy(), z2.double().numpy()
    n, d = z1.shape
    similar = sum(float((a - b) @ (a - b)) for a, b in zip(z1, z2, strict=True)) / (n * d)
    varied = uncorrelated = 0.0
    for z in (z1, z2):
        centred = z - z.sum(axis=0) / n
        for i in range(d):
            variance = float(centred[:, i] @ centred[:, i]) / (n - 1)
            varied += max(0.0, 1 - math.sqrt(variance + 1e-4)) / d / 2
            for j in range(d):
                if i != j:
                    uncorrelated += (float(centred[:, i] @ centred[:, j]) / (n - 1)) ** 2 / d
    return weights[0] * similar + weights[1] * varied + weights[2] * uncorrelated


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_byol_and_simsiam_equal_the_papers_equations(n, d, seed):
    a, b, c, e = drawn(4, n, d, seed)
    assert byol_loss(a, b, c, e).item() == pytest.approx(byol_reference(a, b, c, e), abs=1e-12)
    assert simsiam_loss(a, b, c, e).item() == pytest.approx(simsiam_reference(a, b, c, e), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 99), st.sampled_from([0.3, 1.0, 4.0]))
def test_barlow_twins_and_vicreg_equal_the_papers_equations(n, d, seed, size):
    z1, z2 = (z * size + 0.7 for z in drawn(2, n, d, seed))
    barlow = barlow_twins_loss(z1, z2, 7e-3, 0.3).item()
    assert barlow == pytest.approx(barlow_reference(z1, z2, 7e-3, 0.3), rel=1e-10, abs=1e-12)
    assert vicreg_loss(z1, z2).item() == pytest.approx(vicreg_reference(z1, z2), rel=1e-10, abs=1e-12)
    found = vicreg_loss(z1, z2, invariance=3, variance=5, covariance=7).item()
    assert found == pytest.approx(vicreg_reference(z1, z2, (3, 5, 7)), rel=1e-10, abs=1e-12)


def test_byol_and_simsiam_of_equal_opposite_and_orthogonal_rows():
    same = torch.ones(3, 4, dtype=torch.float64)
    across = torch.tensor([[1.0, -1.0, 1.0, -1.0]] * 3, dtype=torch.float64)
    for other, cosine in ((5 * same, 1.0), (-same, -1.0), (across, 0.0)):
        assert byol_loss(same, same, other, other).item() == pytest.approx(4 - 4 * cosine, abs=1e-12)
        assert simsiam_loss(same, same, other, other).item() == pytest.approx(-cosine, abs=1e-12)


HADAMARD = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
"""Three columns without mean, of biased variance 1, and without correlation."""


def test_barlow_twins_in_closed_form():
    column = HADAMARD[:, :1]
    diagonal = 3 * (1 - 1 / (1 + 1e-5)) ** 2  # by batch norm's epsilon
    assert barlow_twins_loss(HADAMARD, HADAMARD, scale=1).item() == pytest.approx(diagonal, abs=1e-15)
    assert barlow_twins_loss(torch.ones(4, 3), torch.ones(4, 3), scale=1).item() == pytest.approx(3, abs=1e-6)
    alike = column.expand(-1, 3)
    expected = diagonal + 0.1 * 6 / (1 + 1e-5) ** 2
    assert barlow_twins_loss(alike, alike, 0.1, 1).item() == pytest.approx(expected, abs=1e-12)
    assert barlow_twins_loss(HADAMARD, -HADAMARD, scale=1).item() == pytest.approx(12, abs=1e-3)


def test_vicreg_in_closed_form():
    ones = torch.ones(4, 3, dtype=torch.float64)
    assert [t.item() for t in vicreg_terms(ones, ones)] == pytest.approx([0, 1 - 0.01, 0], abs=1e-12)
    # variance 4/3 is over the hinge; columns are uncorrelated
    assert [t.item() for t in vicreg_terms(HADAMARD, HADAMARD)] == pytest.approx([0, 0, 0], abs=1e-12)
    alike = HADAMARD[:, :1].expand(-1, 3)
    similar, varied, uncorrelated = vicreg_terms(alike, alike + 2)
    assert (similar.item(), varied.item()) == pytest.approx((4, 0), abs=1e-12)
    assert uncorrelated.item() == pytest.approx(2 * 6 * (4 / 3) ** 2 / 3, abs=1e-12)


def test_gradients_equal_finite_differences():
    a, b, c, e = (t.requires_grad_() for t in drawn(4, 5, 3))
    for loss in (byol_loss, simsiam_loss):
        assert torch.autograd.gradcheck(lambda x, y, loss=loss: loss(x, y, c.detach(), e.detach()), (a, b))
    assert torch.autograd.gradcheck(barlow_twins_loss, (a, b))
    assert torch.autograd.gradcheck(lambda x, y: vicreg_loss(x * 0.4, y * 0.4), (a, b))  # below the hinge and above


@pytest.mark.parametrize("loss", [byol_loss, simsiam_loss])
def test_targets_receive_no_gradient(loss):
    _, gradients = loss_and_gradient(loss, *drawn(4))
    assert [bool(g.any()) for g in gradients] == [True, True, False, False]


LOSSES = {
    "byol": (byol_loss, 4),
    "simsiam": (simsiam_loss, 4),
    "barlow-twins": (barlow_twins_loss, 2),
    "vicreg": (vicreg_loss, 2),
    "vicreg under the hinge": (partial(vicreg_loss, invariance=1, covariance=3), 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_equal_one_process_in_loss_and_gradient(name):
    loss, count = LOSSES[name]
    tensors = [0.5 * t + 0.3 for t in drawn(count, 8, 5)]
    assert rank_difference(loss, *tensors) < 1e-12


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32_inside_autocast(name):
    loss, count = LOSSES[name]
    tensors = [300 * t for t in drawn(count, 16, 32, dtype=torch.float32)]
    expected = loss(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(*tensors)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.isfinite(loss(*(t.half() for t in tensors)))  # a float16 covariance would overflow


def test_equals_lightly():
    """lightly's cosine loss is one direction's mean: BYOL is 4 + 2 (a + b), SimSiam (a + b) / 2. Its Barlow Twins has
    no scale, so that ours is ``scale`` times it; its VICReg is ours."""
    peers = pytest.importorskip("lightly.loss")
    p1, p2, t1, t2 = drawn(4, 16, 32, dtype=torch.float32)
    cosine = peers.NegativeCosineSimilarity()
    both = (cosine(p1, t2) + cosine(p2, t1)).item()
    assert byol_loss(p1, p2, t1, t2).item() == pytest.approx(4 + 2 * both, rel=1e-5)
    assert simsiam_loss(p1, p2, t1, t2).item() == pytest.approx(both / 2, rel=1e-5)
    peer = peers.BarlowTwinsLoss(lambda_param=5e-3)(p1, p2).item()
    assert barlow_twins_loss(p1, p2, 5e-3, scale=0.1).item() == pytest.approx(0.1 * peer, rel=1e-5)
    assert vicreg_loss(p1, p2).item() == pytest.approx(peers.VICRegLoss()(p1, p2).item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_differ_are_refused(name):
    loss, count = LOSSES[name]
    with pytest.raises(InvalidOption, match=r"views have shapes .*\(N, P\)"):
        loss(*[torch.ones(2, 3)] * (count // 2), *[torch.ones(3, 3)] * (count // 2))


@pytest.mark.parametrize("loss", [barlow_twins_loss, vicreg_loss])
def test_one_row_has_no_statistics(loss):
    with pytest.raises(InvalidOption, match="over 1 row is not defined; give a batch of 2 or more"):
        loss(torch.ones(1, 3), torch.ones(1, 3))
