"""Visual prompts that need no model: mask-image mixing and random noise (LMM-MPA, spec S2.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator

Image = NDArray[np.uint8]


def mix_with_mask(image: Image, mask_map: Image, alpha: float = 0.5) -> Image:
    """The image superimposed with its mask map: ``(1 - alpha) * image + alpha * mask_map``, rounded.

    Both are uint8 of one shape (height, width, 3). Raises ``ValueError`` on other shapes or an alpha outside [0, 1].
    """
    if image.shape != mask_map.shape:
        raise ValueError(f"the image is {image.shape}, its mask map {mask_map.shape}; make the map at the image's size")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, expected 0 <= alpha <= 1")
    mixed = (1 - alpha) * image.astype(np.float64) + alpha * mask_map.astype(np.float64)
    return np.rint(mixed).astype(np.uint8)


def noise_prompt(image: Image, sigma: float, seed: int, key: str, draw: int = 0) -> Image:
    """The image with Gaussian noise of ``sigma`` (share of the range 0 to 255) added, clipped; a pure function."""
    noise = generator(seed, "visual-prompt-noise", draw, key).standard_normal(image.shape)
    return np.clip(np.rint(image + noise * sigma * 255), 0, 255).astype(np.uint8)
