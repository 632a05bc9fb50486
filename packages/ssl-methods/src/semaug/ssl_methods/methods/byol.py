"""BYOL (Grill et al. 2020): an online network predicts a momentum network's projection of the other view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import Head, ProjectorSpec, build_predictor, require_fit
from semaug.ssl_methods.losses.byol import byol_loss
from semaug.ssl_methods.methods.base import Method, Settings
from semaug.ssl_methods.momentum import MomentumSchedule, follow, momentum_copy


class BYOL(Method):
    """Predictions of the online projections against the target's, both directions; each view has its own batch norm.

    The target starts as a copy of the encoder and follows it after each step, with tau along half a cosine from
    ``momentum`` to ``final_momentum``. The online encoder is the result.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = BYOL.assemble(build_encoder("small-cnn", input_size=16), momentum=0.99)
    >>> method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)])["loss"].shape
    torch.Size([])
    """

    name = "byol"
    default_projector = ProjectorSpec(hidden=4096, out=256, batch_norm=True)
    predictor: Head

    def __init__(self, encoder: Encoder, predictor: Head, momentum: float = 0.996, final_momentum: float = 1.0) -> None:
        super().__init__(encoder)
        require_fit(predictor, encoder.projector_dim)
        self.predictor = predictor
        self.tau = MomentumSchedule(momentum, final_momentum)
        self.teacher = momentum_copy(encoder)

    @classmethod
    def assemble(cls, encoder: Encoder, *, seed: int = 0, **hyperparameters: Any) -> Self:
        """With a predictor of two layers, batch norm between, as wide as the projector."""
        projector = encoder.spec.projector or cls.default_projector
        hidden = projector.hidden_width(encoder.feature_dim)
        spec = ProjectorSpec(hidden=hidden, out=projector.out, batch_norm=True)
        return cls(encoder, build_predictor(projector.out, spec, seed=seed), **hyperparameters)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D)."""
        p1, p2 = (self.predictor(self.encoder.project(self.encoder(v))) for v in views)
        with torch.no_grad():
            t1, t2 = (self.teacher.project(self.teacher(v)) for v in views)
        return {"loss": byol_loss(p1, p2, t1, t2)}

    def after_step(self, step: int, steps: int) -> None:
        """The target follows the encoder."""
        follow(self.teacher, self.encoder, self.tau(step, steps))

    def settings(self) -> Settings:
        """The momentum's course and the predictor."""
        return {"momentum": self.tau.base, "final_momentum": self.tau.final, "predictor": self.predictor.text}
