"""The masked autoencoder's loss (He et al. 2022, section 3): squared error of the patches that were hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.gathering import Gathering
from semaug.ssl_methods.losses.inputs import full

_LEAST_VARIANCE = 1e-6


def mae_loss(
    predicted: Tensor, patches: Tensor, hidden: Tensor, *, norm_pix_loss: bool = True, gathering: Gathering = "none"
) -> Tensor:
    """Mean over hidden patches of the mean over a patch's pixels of (predicted - patch)^2.

    ``predicted`` and ``patches`` are (N, L, D) values of L patches, ``hidden`` (N, L) is true where a patch was masked;
    patches that were seen cost nothing. With ``norm_pix_loss`` a target is its patch less its mean, over its own
    standard deviation (of D - 1). Rows are independent, so nothing is gathered; the mean over ranks is the loss of all
    as long as each hides equally many. Computed in float32 (float64 for float64 input) also under autocast.
    Returns a scalar. Raises ``InvalidOption`` for shapes that do not fit.

    >>> patches = torch.randn(2, 4, 12)
    >>> float(mae_loss(patches, patches, torch.ones(2, 4, dtype=torch.bool), norm_pix_loss=False))
    0.0
    """
    if predicted.shape != patches.shape or predicted.shape[:2] != hidden.shape or predicted.ndim != 3:
        raise InvalidOption(
            f"predicted {tuple(predicted.shape)}, patches {tuple(patches.shape)} and hidden {tuple(hidden.shape)}; "
            "give (N, L, D), the same, and (N, L)"
        )
    with torch.autocast(predicted.device.type, enabled=False):
        target = full(patches)
        if norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=2, keepdim=True)
            target = (target - mean) / (variance + _LEAST_VARIANCE).sqrt()
        errors = (full(predicted) - target).square().mean(dim=2)
        return (errors * hidden).sum() / hidden.sum()
