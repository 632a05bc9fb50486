"""Methods by id: one paper, one file; `base` says what each must do."""

from __future__ import annotations

from semaug.ssl_methods.methods.barlow_twins import BarlowTwins
from semaug.ssl_methods.methods.base import Method, ViewCount
from semaug.ssl_methods.methods.byol import BYOL
from semaug.ssl_methods.methods.dlme import DLME
from semaug.ssl_methods.methods.simclr import SimCLR
from semaug.ssl_methods.methods.simsiam import SimSiam
from semaug.ssl_methods.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "byol": BYOL,
    "simsiam": SimSiam,
    "barlow-twins": BarlowTwins,
    "vicreg": VICReg,
    "dlme": DLME,
}

__all__ = ["BYOL", "DLME", "METHODS", "BarlowTwins", "Method", "SimCLR", "SimSiam", "VICReg", "ViewCount"]
