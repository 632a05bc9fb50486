"""What the two networks minimise: the contrast of two views (Eq. 2, or InfoNCE) and the denoising loss (Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from semaug.diffaug_core.conditions import Encoded, stream
from semaug.diffaug_core.diffusion import Denoiser, NoiseSchedule, denoising_loss
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.views import Views
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.losses.dlme import Similarity, positive_pairs, soft_contrastive_terms
from semaug.ssl_methods.losses.simclr import nt_xent

Contrast = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""From y and z of 2B rows, the B first views before the B second ones, to scalars, of which ``loss`` is minimised."""


def soft_contrast(similarity: Similarity) -> Contrast:
    """The soft contrastive loss (Eq. 2), and the share of P that the clamp has ``saturated``."""

    def terms(y: Tensor, z: Tensor) -> dict[str, Tensor]:
        ids = torch.arange(len(y) // 2, device=y.device).repeat(2)
        loss, saturated = soft_contrastive_terms(y, z, positive_pairs(ids), similarity)
        return {"loss": loss, "saturated": saturated}

    return terms


def infonce_contrast(temperature: float) -> Contrast:
    """InfoNCE of z, as SimCLR has it (B1, B3)."""

    def terms(y: Tensor, z: Tensor) -> dict[str, Tensor]:
        first, second = z.chunk(2)
        return {"loss": nt_xent(first, second, temperature)}

    return terms


def build_contrast(settings: DiffAugSettings) -> Contrast:
    """The loss of the encoder that ``settings`` name."""
    if settings.loss == "soft":
        return soft_contrast(settings.similarity)
    return infonce_contrast(settings.temperature)


def contrast_views(encoder: Encoder, views: Views, contrast: Contrast) -> tuple[dict[str, Tensor], Encoded]:
    """The scalars of two views, and y and z of the first ones; batch statistics are of both together."""
    y = encoder(torch.cat([views.first, views.second]))
    z = encoder.project(y)
    count = len(views.first)
    return contrast(y, z), (y[:count], z[:count])


@dataclass(frozen=True, slots=True)
class Denoising:
    """Eq. 5 with one time step a sample, drawn uniformly."""

    schedule: NoiseSchedule
    seed: int

    def loss(self, generator: Denoiser, clean: Tensor, condition: Tensor, step: int) -> Tensor:
        """Of ``clean`` (B, *shape) told ``condition`` (B, c), at the generator's step ``step``; a scalar.

        The mean over samples and dimensions; no gradient reaches ``condition``.
        """
        source = stream(clean.device, self.seed, "denoising", step)
        t = torch.randint(self.schedule.steps, (len(clean),), generator=source, device=clean.device)
        noise = torch.randn(clean.shape, generator=source, device=clean.device, dtype=clean.dtype)
        return denoising_loss(generator, clean, noise, t, condition, self.schedule)
