"""SimSiam (Chen and He 2021): a network predicts its own projection of the other view, through a stopped gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import Head, ProjectorSpec, build_predictor, require_fit
from semaug.ssl_methods.losses.inputs import unit
from semaug.ssl_methods.losses.simsiam import simsiam_loss
from semaug.ssl_methods.methods.base import Method, Settings
from semaug.ssl_methods.optimizers import OptimizerSettings, parameter_groups


class SimSiam(Method):
    """Predictions against projections, both directions; each view has its own batch norm; the predictor's rate is
    constant.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = SimSiam.assemble(build_encoder("small-cnn", input_size=16, projector=SimSiam.default_projector))
    >>> sorted(method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)]))
    ['loss', 'spread']
    """

    name = "simsiam"
    default_projector = ProjectorSpec(
        hidden=2048, out=2048, layers=3, batch_norm=True, last_batch_norm=True, last_affine=False
    )
    predictor: Head

    def __init__(self, encoder: Encoder, predictor: Head) -> None:
        super().__init__(encoder)
        require_fit(predictor, encoder.projector_dim)
        self.predictor = predictor

    @classmethod
    def assemble(cls, encoder: Encoder, *, seed: int = 0, **hyperparameters: Any) -> Self:
        """With the paper's bottleneck as predictor: a quarter of the projection's width, batch norm inside."""
        width = (encoder.spec.projector or cls.default_projector).out
        spec = ProjectorSpec(hidden=max(1, width // 4), out=width, batch_norm=True)
        return cls(encoder, build_predictor(width, spec, seed=seed), **hyperparameters)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D), and ``spread``: 1 for well spread projections, 0 when
        all have collapsed into one direction (the paper's Figure 2, times the root of the width)."""
        z1, z2 = (self.encoder.project(self.encoder(v)) for v in views)
        loss = simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)
        return {"loss": loss, "spread": _spread(z1)}

    def parameter_groups(self, settings: OptimizerSettings) -> list[dict[str, Any]]:
        """The predictor apart, at a constant rate."""
        return parameter_groups(self, settings, constant_lr=self.predictor.parameters())

    def settings(self) -> Settings:
        """The predictor."""
        return {"predictor": self.predictor.text}


@torch.no_grad()
def _spread(z: Tensor) -> Tensor:
    return unit(z).std(dim=0, correction=0).mean() * z.shape[1] ** 0.5
