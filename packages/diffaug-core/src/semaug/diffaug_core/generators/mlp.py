"""The generator of rows: a multilayer perceptron [-1, 500, 80, 500, -1] (DiffAug, spec S4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.diffusion import NoiseSchedule
from semaug.diffaug_core.generators.base import Generator, Prediction, time_features


class DenoisingMLP(Generator):
    """Linear and leaky ReLU of slope 0.1 once for each of ``widths``, then Linear back to the row.

    Time and condition are embedded together, ``embedding`` wide, and a projection of that embedding is added inside
    every block before its activation. No layer mixes the rows of a batch.

    >>> import torch
    >>> schedule = NoiseSchedule.linear()
    >>> DenoisingMLP((12,), 3, schedule)(torch.randn(5, 12), torch.arange(5), torch.randn(5, 3)).shape
    torch.Size([5, 12])
    """

    kind: ClassVar[str] = "mlp"

    def __init__(
        self,
        shape: Sequence[int],
        condition_features: int | None,
        schedule: NoiseSchedule,
        widths: Sequence[int] = (500, 80, 500),
        embedding: int = 128,
        prediction: Prediction = "velocity",
    ) -> None:
        options = {"widths": tuple(widths), "embedding": embedding}
        super().__init__(shape, condition_features, schedule, prediction, options)
        if len(self.shape) != 1 or not widths or min(*self.shape, *widths, embedding // 2) < 1:
            raise InvalidOption(
                f"samples {self.shape}, widths {tuple(widths)} and embedding {embedding} build no MLP; "
                "give rows (D,), positive widths and an embedding of 2 at least"
            )
        self.time_width = 2 * (embedding // 2)
        self.time = nn.Sequential(nn.Linear(self.time_width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.condition = None if condition_features is None else nn.Linear(condition_features, embedding)
        layers = pairwise([self.shape[0], *widths])
        self.blocks = nn.ModuleList(nn.Linear(a, b) for a, b in layers)
        self.shifts = nn.Linear(embedding, sum(widths))
        self.out = nn.Linear(widths[-1], self.shape[0])

    def put_out(self, noisy: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """See ``Generator.put_out``; rows (B, D)."""
        embedded = self.time(time_features(t, self.time_width).to(noisy.dtype))
        if condition is not None and self.condition is not None:
            embedded = embedded + self.condition(condition)
        shifts = self.shifts(nn.functional.silu(embedded)).split([b.out_features for b in self.blocks], dim=1)
        hidden = noisy
        for block, shift in zip(self.blocks, shifts, strict=True):
            hidden = nn.functional.leaky_relu(block(hidden) + shift, 0.1)
        return self.out(hidden)
