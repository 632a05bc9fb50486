"""What every picture of a run gives back, and how photographs are put into galleries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    from semaug.eval.measures import Measure
    from semaug.eval.report import Block

SHOWN = 8
"""Cards of a gallery."""
SIDE = 224


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture: what is shown, the numbers measured on the way, and what to beware of."""

    blocks: tuple[Block, ...]
    measures: tuple[Measure, ...] = ()
    warnings: tuple[str, ...] = ()


def picture_of(image: NDArray[np.uint8]) -> Image.Image:
    """The image with its longer side at most 224 pixels; a small one as it is."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def short_key(key: str) -> str:
    """The end of a key, which tells images apart, as code."""
    return f"`{key if len(key) <= 34 else '…' + key[-33:]}`"
