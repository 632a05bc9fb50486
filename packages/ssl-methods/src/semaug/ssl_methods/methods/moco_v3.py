"""MoCo v3 (Chen, Xie and He 2021): queries through a predictor against the batch's momentum keys, no queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import Head, ProjectorSpec, build_predictor, require_fit
from semaug.ssl_methods.losses.inputs import require_temperature
from semaug.ssl_methods.losses.moco_v3 import moco_v3_loss
from semaug.ssl_methods.methods.base import Method, Settings
from semaug.ssl_methods.momentum import MomentumSchedule, follow, momentum_copy


class MoCoV3(Method):
    """Both directions summed, tau along half a cosine from ``momentum`` to ``final_momentum``.

    For a vision transformer the patch embedding keeps its random weights (section 4.2) unless ``freeze_patches`` is
    False; the paper also fixes sine-cosine positions (``positions="sincos"``, ``heads=12``) and a projector of three
    layers. The query encoder is the result.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = MoCoV3.assemble(build_encoder("small-cnn", input_size=16))
    >>> method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)])["loss"].shape
    torch.Size([])
    """

    name = "moco-v3"
    default_projector = ProjectorSpec(hidden=4096, out=256, batch_norm=True, last_batch_norm=True, last_affine=False)
    predictor: Head

    def __init__(
        self,
        encoder: Encoder,
        predictor: Head,
        temperature: float = 0.2,
        momentum: float = 0.99,
        final_momentum: float = 1.0,
        freeze_patches: bool = True,
    ) -> None:
        super().__init__(encoder)
        require_temperature(temperature)
        require_fit(predictor, encoder.projector_dim)
        self.predictor = predictor
        self.temperature = temperature
        self.tau = MomentumSchedule(momentum, final_momentum)
        self.freeze_patches = freeze_patches
        if freeze_patches and (patches := _patch_embedding(encoder)) is not None:
            patches.requires_grad_(False)
        self.teacher = momentum_copy(encoder)

    @classmethod
    def assemble(cls, encoder: Encoder, *, seed: int = 0, **hyperparameters: Any) -> Self:
        """With a predictor of two layers, as wide as the projector; its end is normalised for a transformer only."""
        projector = encoder.spec.projector or cls.default_projector
        spec = ProjectorSpec(
            hidden=projector.hidden_width(encoder.feature_dim),
            out=projector.out,
            batch_norm=True,
            last_batch_norm=_patch_embedding(encoder) is not None,
            last_affine=False,
        )
        return cls(encoder, build_predictor(projector.out, spec, seed=seed), **hyperparameters)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D)."""
        q1, q2 = (self.predictor(self.encoder.project(self.encoder(v))) for v in views)
        with torch.no_grad():
            k1, k2 = (self.teacher.project(self.teacher(v)) for v in views)
        return {"loss": moco_v3_loss(q1, q2, k1, k2, self.temperature)}

    def after_step(self, step: int, steps: int) -> None:
        """The key encoder follows the query encoder."""
        follow(self.teacher, self.encoder, self.tau(step, steps))

    def settings(self) -> Settings:
        """Temperature, the momentum's course, the predictor and whether patches are frozen."""
        return {
            "temperature": self.temperature,
            "momentum": self.tau.base,
            "final_momentum": self.tau.final,
            "predictor": self.predictor.text,
            "freeze_patches": self.freeze_patches,
        }


def _patch_embedding(encoder: Encoder) -> nn.Module | None:
    found = getattr(encoder.backbone, "patch_embed", None)
    return found if isinstance(found, nn.Module) else None
