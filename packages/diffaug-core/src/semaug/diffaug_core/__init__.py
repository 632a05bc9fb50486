"""DiffAug: augmentation learned from scratch by a semantic encoder and a conditional diffusion generator.

Its kernels and its soft contrastive loss are DLME's and live in ``semaug.ssl_methods.losses``.
"""

from semaug.diffaug_core.ablations import ABLATIONS, Ablation, ablate, alpha_sweep
from semaug.diffaug_core.averaging import Average
from semaug.diffaug_core.diffusion import NoiseSchedule, denoising_loss, noised, recovered
from semaug.diffaug_core.encoders import semantic_encoder
from semaug.diffaug_core.generator_cards import load_generator, save_generator
from semaug.diffaug_core.generators import GENERATORS, DenoisingMLP, DenoisingUNet, build_generator
from semaug.diffaug_core.runs import DiffAugRun, load_diffaug
from semaug.diffaug_core.samplers import (
    SAMPLERS,
    AncestralSampler,
    ImplicitSampler,
    Sampler,
    SolverSampler,
    build_sampler,
)
from semaug.diffaug_core.samples import Samples
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.training import train_diffaug
from semaug.ssl_methods.losses.dlme import Similarity, soft_contrastive_loss, soft_targets
from semaug.ssl_methods.losses.kernels import KERNELS, official_kernel, paper_kernel, peak1_kernel

__all__ = [
    "ABLATIONS",
    "GENERATORS",
    "KERNELS",
    "SAMPLERS",
    "Ablation",
    "AncestralSampler",
    "Average",
    "DenoisingMLP",
    "DenoisingUNet",
    "DiffAugRun",
    "DiffAugSettings",
    "ImplicitSampler",
    "NoiseSchedule",
    "Sampler",
    "Samples",
    "Similarity",
    "SolverSampler",
    "ablate",
    "alpha_sweep",
    "build_generator",
    "build_sampler",
    "denoising_loss",
    "load_diffaug",
    "load_generator",
    "noised",
    "official_kernel",
    "paper_kernel",
    "peak1_kernel",
    "recovered",
    "save_generator",
    "semantic_encoder",
    "soft_contrastive_loss",
    "soft_targets",
    "train_diffaug",
]
