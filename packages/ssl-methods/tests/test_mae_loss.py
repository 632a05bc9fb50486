"""The masked autoencoder's loss against its definition, closed forms and other processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.losses import mae_loss
from semaug.ssl_methods.testing import rank_difference

HIDDEN = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)


def reference(predicted, patches, hidden, norm_pix_loss):
    """Section 3, "Reconstruction target": patch by patch, in float64."""
    costs = []
    for n, i in zip(*np.nonzero(hidden), strict=True):
        target = patches[n, i]
        if norm_pix_loss:
            mean = sum(target) / len(target)
            variance = sum((x - mean) ** 2 for x in target) / (len(target) - 1)
            target = [(x - mean) / math.sqrt(variance + 1e-6) for x in target]
        costs.append(sum((p - t) ** 2 for p, t in zip(predicted[n, i], target, strict=True)) / len(target))
    return sum(costs) / len(costs)


def patches(seed=0, n=3, count=4, width=6, dtype=torch.float64):
    return torch.randn(n, count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_equals_the_definition(norm_pix_loss):
    found = mae_loss(patches(1), patches(0), HIDDEN, norm_pix_loss=norm_pix_loss).item()
    assert found == pytest.approx(reference(patches(1).numpy(), patches(0).numpy(), HIDDEN.numpy(), norm_pix_loss))


def test_a_perfect_prediction_costs_nothing_and_none_costs_the_variance():
    given = patches(0)
    assert mae_loss(given, given, HIDDEN, norm_pix_loss=False).item() == 0
    width = given.shape[2]
    nothing = mae_loss(torch.zeros_like(given), given, HIDDEN).item()
    assert nothing == pytest.approx((width - 1) / width, rel=1e-4)  # the target's own variance over all its pixels


def test_patches_that_were_seen_cost_nothing():
    predicted = patches(1)
    other = torch.where(HIDDEN[..., None], predicted, 1e6)
    assert torch.equal(mae_loss(other, patches(0), HIDDEN), mae_loss(predicted, patches(0), HIDDEN))


def test_a_patch_of_one_colour_has_a_finite_target():
    flat = torch.full((1, 2, 12), 0.3)
    assert mae_loss(torch.zeros(1, 2, 12), flat, torch.ones(1, 2, dtype=torch.bool)).item() == pytest.approx(
        0, abs=1e-9
    )


def test_gradient_equals_finite_differences():
    predicted = patches(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mae_loss(x, patches(0), HIDDEN), (predicted,))


def test_targets_are_float32_inside_autocast():
    """Values far from zero lose their variance in half precision."""
    given = (100 + patches(0, dtype=torch.float32)).bfloat16().float()
    expected = mae_loss(patches(1, dtype=torch.float32), given, HIDDEN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mae_loss(patches(1, dtype=torch.float32), given, HIDDEN)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_equals_the_squared_error_of_lightlys_recipe():
    """lightly has no masked loss of its own: its recipe takes torch's squared error of the hidden patches, unscaled."""
    given, predicted = patches(0), patches(1)
    expected = torch.nn.functional.mse_loss(predicted[HIDDEN], given[HIDDEN])
    assert mae_loss(predicted, given, HIDDEN, norm_pix_loss=False).item() == pytest.approx(expected.item(), abs=1e-12)


def _loss(predicted, given):
    hidden = torch.ones(given.shape[:2], dtype=torch.bool)
    hidden[:, ::3] = False
    return mae_loss(predicted, given, hidden)


def test_two_ranks_equal_one_process_in_loss_and_gradient():
    assert rank_difference(_loss, patches(0, n=4), patches(1, n=4)) < 1e-13


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(InvalidOption, match=r"patches \(3, 4, 5\)"):
        mae_loss(patches(0), patches(0, width=5), HIDDEN)
    with pytest.raises(InvalidOption, match=r"hidden \(2, 4\)"):
        mae_loss(patches(0), patches(1), HIDDEN[:2])
