"""StableRep (Tian et al. 2023): all images that were generated from one caption attract."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.gathering import world
from semaug.ssl_methods.losses.inputs import require_temperature
from semaug.ssl_methods.losses.stablerep import stablerep_loss
from semaug.ssl_methods.methods.base import Method, Settings, ViewCount


class StableRep(Method):
    """Multi-positive InfoNCE (Eqs. 1 to 3) between the projections of an item's views, two or more.

    All views of an item are positives of each other, in equal parts; with two views this is NT-Xent.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = StableRep(build_encoder("small-cnn", input_size=16))
    >>> method([torch.randn(4, 3, 16, 16) for _ in range(3)])["loss"].shape
    torch.Size([])
    """

    name = "stablerep"
    views = ViewCount(2, None)

    def __init__(self, encoder: Encoder, temperature: float = 0.1) -> None:
        super().__init__(encoder)
        require_temperature(temperature)
        self.temperature = temperature

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of the views, each (B, 3, S, S)."""
        z = self.encoder.project(self.encoder(torch.cat(list(views))))
        rows = torch.arange(len(views[0]), device=z.device) + world()[0] * len(views[0])
        return {"loss": stablerep_loss(z, rows.repeat(len(views)), self.temperature)}

    def settings(self) -> Settings:
        """The temperature."""
        return {"temperature": self.temperature}
