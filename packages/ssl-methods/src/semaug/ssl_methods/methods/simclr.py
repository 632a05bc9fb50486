"""SimCLR (Chen et al. 2020): two views of an image attract, all others in the batch repel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.losses.inputs import require_temperature
from semaug.ssl_methods.losses.simclr import nt_xent
from semaug.ssl_methods.methods.base import Method, Settings


class SimCLR(Method):
    """NT-Xent between the projections of two views; batch statistics are taken over both views together.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = SimCLR(build_encoder("small-cnn", input_size=16), temperature=0.2)
    >>> views = [torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)]
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    name = "simclr"

    def __init__(self, encoder: Encoder, temperature: float = 0.2) -> None:
        super().__init__(encoder)
        require_temperature(temperature)
        self.temperature = temperature

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S)."""
        z1, z2 = self.encoder.project(self.encoder(torch.cat(list(views)))).chunk(2)
        return {"loss": nt_xent(z1, z2, self.temperature)}

    def settings(self) -> Settings:
        """The temperature."""
        return {"temperature": self.temperature}
