"""Methods by id: one paper, one file; `base` says what each must do."""

from __future__ import annotations

from semaug.ssl_methods.methods.barlow_twins import BarlowTwins
from semaug.ssl_methods.methods.base import Method, ViewCount
from semaug.ssl_methods.methods.byol import BYOL
from semaug.ssl_methods.methods.dino import DINO
from semaug.ssl_methods.methods.dlme import DLME
from semaug.ssl_methods.methods.mae import MAE
from semaug.ssl_methods.methods.simclr import SimCLR
from semaug.ssl_methods.methods.simsiam import SimSiam
from semaug.ssl_methods.methods.swav import SwAV
from semaug.ssl_methods.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "byol": BYOL,
    "simsiam": SimSiam,
    "barlow-twins": BarlowTwins,
    "vicreg": VICReg,
    "dlme": DLME,
    "swav": SwAV,
    "dino": DINO,
    "mae": MAE,
}

__all__ = [
    "BYOL",
    "DINO",
    "DLME",
    "MAE",
    "METHODS",
    "BarlowTwins",
    "Method",
    "SimCLR",
    "SimSiam",
    "SwAV",
    "VICReg",
    "ViewCount",
]
