"""A multilayer perceptron for rows of a table: the encoder that P4 trains on cells (spec S4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption


class MLP(nn.Sequential):
    """Linear, batch norm and leaky ReLU of slope 0.1, once for each of ``widths``; features are the last one wide.

    With ``norm_after`` the batch norm comes after the activation, as in DiffAug's own code.

    >>> import torch
    >>> MLP(20)(torch.randn(4, 20)).shape
    torch.Size([4, 80])
    """

    def __init__(self, input_features: int, widths: Sequence[int] = (500, 300, 80), norm_after: bool = False) -> None:
        if not widths or min(widths) < 1:
            raise InvalidOption(f"widths {tuple(widths)} are not a list of positive numbers; P4 has 500,300,80")
        super().__init__(*(_layer(a, b, norm_after) for a, b in pairwise([input_features, *widths])))
        self.feature_dim = widths[-1]

    def forward(self, rows: Tensor) -> Tensor:
        """Features (B, widths[-1]) of rows (B, input_features), float32."""
        return super().forward(rows)


def _layer(inputs: int, outputs: int, norm_after: bool) -> nn.Sequential:
    linear, norm, activation = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.1)
    return nn.Sequential(linear, activation, norm) if norm_after else nn.Sequential(linear, norm, activation)
