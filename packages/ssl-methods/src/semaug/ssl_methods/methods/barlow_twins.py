"""Barlow Twins (Zbontar et al. 2021): the cross-correlation of two views' projections approaches the identity."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.losses.barlow_twins import barlow_twins_loss
from semaug.ssl_methods.losses.inputs import require_rows
from semaug.ssl_methods.methods.base import Method, Settings


class BarlowTwins(Method):
    """Correlations over the whole batch of all processes; each view has its own batch norm.

    The projector has three layers of 2048, as solo-learn's for small images; the paper's ImageNet runs have 8192.
    ``scale`` multiplies the loss and so acts as a factor of the rate under SGD.

    >>> import torch
    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = BarlowTwins(build_encoder("small-cnn", input_size=16), off_diagonal=5e-3)
    >>> method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)])["loss"].shape
    torch.Size([])
    """

    name = "barlow-twins"
    default_projector = ProjectorSpec(hidden=2048, out=2048, layers=3, batch_norm=True)

    def __init__(self, encoder: Encoder, off_diagonal: float = 5e-3, scale: float = 0.1) -> None:
        super().__init__(encoder)
        self.off_diagonal = off_diagonal
        self.scale = scale

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D)."""
        z1, z2 = (self.encoder.project(self.encoder(v)) for v in views)
        return {"loss": barlow_twins_loss(z1, z2, self.off_diagonal, self.scale)}

    def check_batch(self, batch_size: int, items: int, world: int) -> None:
        """Refuse a batch of one, which has no correlations, also without batch norm. Raises ``InvalidOption``."""
        super().check_batch(batch_size, items, world)
        require_rows(batch_size, "a correlation")

    def settings(self) -> Settings:
        """The weight off the diagonal and the scale of the whole."""
        return {"off_diagonal": self.off_diagonal, "scale": self.scale}
