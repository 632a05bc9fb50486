"""Losses: one paper, one file; each a pure function that declares how it gathers across processes."""

from __future__ import annotations

from semaug.ssl_methods.losses.barlow_twins import barlow_twins_loss
from semaug.ssl_methods.losses.byol import byol_loss
from semaug.ssl_methods.losses.dlme import Similarity, positive_pairs, soft_contrastive_loss
from semaug.ssl_methods.losses.kernels import KERNELS
from semaug.ssl_methods.losses.simclr import nt_xent
from semaug.ssl_methods.losses.simsiam import simsiam_loss
from semaug.ssl_methods.losses.vicreg import vicreg_loss

__all__ = [
    "KERNELS",
    "Similarity",
    "barlow_twins_loss",
    "byol_loss",
    "nt_xent",
    "positive_pairs",
    "simsiam_loss",
    "soft_contrastive_loss",
    "vicreg_loss",
]
