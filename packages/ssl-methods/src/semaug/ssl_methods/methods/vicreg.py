"""VICReg (Bardes et al. 2022): views agree, every column varies, no two columns vary together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.losses.inputs import require_rows
from semaug.ssl_methods.losses.vicreg import vicreg_terms
from semaug.ssl_methods.methods.base import Method, Settings


class VICReg(Method):
    """Variances and covariances over the whole batch of all processes; each view has its own batch norm.

    The projector has three layers of 2048, as solo-learn's for small images; the paper's ImageNet runs have 8192.

    >>> import torch
    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = VICReg(build_encoder("small-cnn", input_size=16))
    >>> sorted(method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)]))
    ['covariance', 'invariance', 'loss', 'variance']
    """

    name = "vicreg"
    default_projector = ProjectorSpec(hidden=2048, out=2048, layers=3, batch_norm=True)

    def __init__(
        self, encoder: Encoder, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
    ) -> None:
        super().__init__(encoder)
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D), and its three terms without their weights."""
        z1, z2 = (self.encoder.project(self.encoder(v)) for v in views)
        similar, varied, uncorrelated = vicreg_terms(z1, z2)
        loss = self.invariance * similar + self.variance * varied + self.covariance * uncorrelated
        return {"loss": loss, "invariance": similar, "variance": varied, "covariance": uncorrelated}

    def check_batch(self, batch_size: int, items: int, world: int) -> None:
        """Refuse a batch of one, which has no variance, also without batch norm. Raises ``InvalidOption``."""
        super().check_batch(batch_size, items, world)
        require_rows(batch_size, "a variance")

    def settings(self) -> Settings:
        """The weights of the three terms."""
        return {"invariance": self.invariance, "variance": self.variance, "covariance": self.covariance}
