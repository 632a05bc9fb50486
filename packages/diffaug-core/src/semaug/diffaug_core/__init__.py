"""DiffAug: augmentation learned from scratch by a semantic encoder and a conditional diffusion generator."""

from semaug.diffaug_core.kernels import KERNELS, official_kernel, paper_kernel, peak1_kernel
from semaug.diffaug_core.soft_contrastive import Similarity, soft_contrastive_loss, soft_targets

__all__ = [
    "KERNELS",
    "Similarity",
    "official_kernel",
    "paper_kernel",
    "peak1_kernel",
    "soft_contrastive_loss",
    "soft_targets",
]
