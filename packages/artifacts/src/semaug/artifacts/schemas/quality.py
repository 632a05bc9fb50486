"""Quality scores of one image (SDI, spec S1.1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QualityScore:
    """R, C and D in [0, 1] and their weighted sum Q; ``laplacian_variance`` on the 0-255 scale, ``entropy`` in bits."""

    height: int
    width: int
    laplacian_variance: float
    entropy: float
    resolution: float
    clarity: float
    diversity: float
    quality: float
