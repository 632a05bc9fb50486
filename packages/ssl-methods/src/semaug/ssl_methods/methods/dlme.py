"""DLME (Zang et al. 2022): neighbours in the features stay neighbours in the embedding, softly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.gathering import world
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.losses.dlme import Similarity, positive_pairs, soft_contrastive_terms
from semaug.ssl_methods.losses.kernels import KERNELS
from semaug.ssl_methods.methods.base import Method, Settings


class DLME(Method):
    """The soft contrastive loss between features (y) and projections (z) of two views; batch statistics are taken over
    both views together.

    ``kernel`` is one of ``KERNELS``; ``detach_p`` keeps gradients out of the targets (the official code lets them in).

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = DLME(build_encoder("small-cnn", input_size=16), kernel="paper")
    >>> sorted(method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)]))
    ['loss', 'saturated']
    """

    name = "dlme"
    default_projector = ProjectorSpec(hidden=500, out=80, layers=3, batch_norm=True, activation="leaky_relu")

    def __init__(
        self,
        encoder: Encoder,
        kernel: str = "official",
        nu_y: float = 100.0,
        nu_z: float = 0.01,
        beta: float = 1.0,
        detach_p: bool = True,
    ) -> None:
        super().__init__(encoder)
        if kernel not in KERNELS:
            raise InvalidOption(f"kernel {kernel!r} is not known; choose one of {', '.join(KERNELS)}")
        self.kernel = kernel
        self.similarity = Similarity(KERNELS[kernel], nu_y, nu_z, beta, detach_p)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D), and the share of P that its clamp has ``saturated``."""
        y = self.encoder(torch.cat(list(views)))
        items = len(views[0])
        ids = torch.arange(items, device=y.device) + world()[0] * items
        positive = positive_pairs(ids.repeat(len(views)))
        loss, saturated = soft_contrastive_terms(y, self.encoder.project(y), positive, self.similarity)
        return {"loss": loss, "saturated": saturated}

    def settings(self) -> Settings:
        """The kernel, both nu, beta, and whether P is detached."""
        s = self.similarity
        return {"kernel": self.kernel, "nu_y": s.nu_y, "nu_z": s.nu_z, "beta": s.beta, "detach_p": s.detach_p}
