"""Encoders, losses and methods of self-supervised learning, and pretraining that resumes to the same weights.

Light parts are re-exported here; ``semaug.ssl_methods.pretrain`` and ``.callbacks`` import Lightning and are imported
by name.
"""

from __future__ import annotations

from semaug.ssl_methods.backbones import BACKBONES
from semaug.ssl_methods.cards import load_card, load_encoder, load_predictor, save_encoder
from semaug.ssl_methods.encoder import Encoder, EncoderSpec, Initialisation, build_encoder
from semaug.ssl_methods.export import export_encoder, export_timm, export_torchvision
from semaug.ssl_methods.heads import ProjectorSpec, build_predictor
from semaug.ssl_methods.initialise import initialise
from semaug.ssl_methods.losses import nt_xent
from semaug.ssl_methods.methods import METHODS, Method, SimCLR, ViewCount
from semaug.ssl_methods.optimizers import OPTIMIZERS, OptimizerSettings

__all__ = [
    "BACKBONES",
    "METHODS",
    "OPTIMIZERS",
    "Encoder",
    "EncoderSpec",
    "Initialisation",
    "Method",
    "OptimizerSettings",
    "ProjectorSpec",
    "SimCLR",
    "ViewCount",
    "build_encoder",
    "build_predictor",
    "export_encoder",
    "export_timm",
    "export_torchvision",
    "initialise",
    "load_card",
    "load_encoder",
    "load_predictor",
    "nt_xent",
    "save_encoder",
]
