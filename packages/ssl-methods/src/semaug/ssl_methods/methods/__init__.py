"""Methods by id: one paper, one file; `base` says what each must do."""

from __future__ import annotations

from semaug.ssl_methods.methods.adco import AdCo
from semaug.ssl_methods.methods.barlow_twins import BarlowTwins
from semaug.ssl_methods.methods.base import Method, ViewCount
from semaug.ssl_methods.methods.byol import BYOL
from semaug.ssl_methods.methods.dino import DINO
from semaug.ssl_methods.methods.dlme import DLME
from semaug.ssl_methods.methods.mae import MAE
from semaug.ssl_methods.methods.moco_v2 import MoCoV2
from semaug.ssl_methods.methods.moco_v2plus import MoCoV2Plus
from semaug.ssl_methods.methods.moco_v3 import MoCoV3
from semaug.ssl_methods.methods.simclr import SimCLR
from semaug.ssl_methods.methods.simsiam import SimSiam
from semaug.ssl_methods.methods.stablerep import StableRep
from semaug.ssl_methods.methods.supcon import SupCon
from semaug.ssl_methods.methods.swav import SwAV
from semaug.ssl_methods.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "moco-v2": MoCoV2,
    "moco-v2plus": MoCoV2Plus,
    "moco-v3": MoCoV3,
    "adco": AdCo,
    "byol": BYOL,
    "simsiam": SimSiam,
    "barlow-twins": BarlowTwins,
    "vicreg": VICReg,
    "dlme": DLME,
    "swav": SwAV,
    "dino": DINO,
    "mae": MAE,
    "supcon": SupCon,
    "stablerep": StableRep,
}

__all__ = [
    "BYOL",
    "DINO",
    "DLME",
    "MAE",
    "METHODS",
    "AdCo",
    "BarlowTwins",
    "Method",
    "MoCoV2",
    "MoCoV2Plus",
    "MoCoV3",
    "SimCLR",
    "SimSiam",
    "StableRep",
    "SupCon",
    "SwAV",
    "VICReg",
    "ViewCount",
]
