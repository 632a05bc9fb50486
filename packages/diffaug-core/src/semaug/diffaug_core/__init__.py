"""DiffAug: augmentation learned from scratch by a semantic encoder and a conditional diffusion generator.

Its kernels and its soft contrastive loss are DLME's and live in ``semaug.ssl_methods.losses``.
"""

from semaug.ssl_methods.losses.dlme import Similarity, soft_contrastive_loss, soft_targets
from semaug.ssl_methods.losses.kernels import KERNELS, official_kernel, paper_kernel, peak1_kernel

__all__ = [
    "KERNELS",
    "Similarity",
    "official_kernel",
    "paper_kernel",
    "peak1_kernel",
    "soft_contrastive_loss",
    "soft_targets",
]
