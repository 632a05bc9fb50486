"""Losses: one paper, one file; each a pure function that declares how it gathers across processes."""

from __future__ import annotations

from semaug.ssl_methods.losses.adco import adco_loss
from semaug.ssl_methods.losses.barlow_twins import barlow_twins_loss
from semaug.ssl_methods.losses.byol import byol_loss
from semaug.ssl_methods.losses.dino import centre_of, dino_loss
from semaug.ssl_methods.losses.dlme import soft_contrastive_loss
from semaug.ssl_methods.losses.mae import mae_loss
from semaug.ssl_methods.losses.moco import moco_loss
from semaug.ssl_methods.losses.moco_v3 import moco_v3_loss
from semaug.ssl_methods.losses.simclr import nt_xent
from semaug.ssl_methods.losses.simsiam import simsiam_loss
from semaug.ssl_methods.losses.stablerep import stablerep_loss
from semaug.ssl_methods.losses.swav import sinkhorn, swav_loss
from semaug.ssl_methods.losses.vicreg import vicreg_loss

__all__ = [
    "adco_loss",
    "barlow_twins_loss",
    "byol_loss",
    "centre_of",
    "dino_loss",
    "mae_loss",
    "moco_loss",
    "moco_v3_loss",
    "nt_xent",
    "simsiam_loss",
    "sinkhorn",
    "soft_contrastive_loss",
    "stablerep_loss",
    "swav_loss",
    "vicreg_loss",
]
