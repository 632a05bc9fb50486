"""DiffAug: augmentation learned from scratch by a semantic encoder and a conditional diffusion generator.

Its kernels and its soft contrastive loss are DLME's and live in ``semaug.ssl_methods.losses``.
"""

from semaug.diffaug_core.averaging import Average
from semaug.diffaug_core.diffusion import NoiseSchedule, denoising_loss, noised, recovered
from semaug.diffaug_core.encoders import semantic_encoder
from semaug.diffaug_core.generator_cards import load_generator, save_generator
from semaug.diffaug_core.generators import GENERATORS, DenoisingMLP, DenoisingUNet, build_generator
from semaug.diffaug_core.samplers import SAMPLERS, AncestralSampler, ImplicitSampler, Sampler, build_sampler
from semaug.ssl_methods.losses.dlme import Similarity, soft_contrastive_loss, soft_targets
from semaug.ssl_methods.losses.kernels import KERNELS, official_kernel, paper_kernel, peak1_kernel

__all__ = [
    "GENERATORS",
    "KERNELS",
    "SAMPLERS",
    "AncestralSampler",
    "Average",
    "DenoisingMLP",
    "DenoisingUNet",
    "ImplicitSampler",
    "NoiseSchedule",
    "Sampler",
    "Similarity",
    "build_generator",
    "build_sampler",
    "denoising_loss",
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
]
