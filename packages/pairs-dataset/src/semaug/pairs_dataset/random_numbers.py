"""The compiled twin of ``semaug.artifacts.draws.uniform``, and the slots each random choice reads.

A view's choices come from two draw keys: ``crop`` (where it is cut) and ``photometric`` (what happens to its
colours). Every transform reads its own slots, so leaving one out changes no other transform's numbers, and the
photometric key does not depend on how the crop was chosen, so that crop variants are paired.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from semaug.artifacts.draws import GOLDEN_GAMMA, TO_UNIT

_GAMMA = np.uint64(GOLDEN_GAMMA)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)

# Slots of the photometric key.
FLIP = 0
JITTER, JITTER_ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE = 8, 9, 10, 11, 12, 13
GRAY = 16
BLUR, BLUR_SIGMA = 24, 25
SOLARISE = 32
ROTATION, ROTATION_ANGLE = 40, 41

# Slots of the crop key: try t of a sampler reads four slots from its start + 4 t; samplers start TRY_STRIDE apart.
FIRST_TRY, INSIDE_TRY, TRY_STRIDE, GUIDE = 0, 64, 64, 1 << 20

# Slots of the object key.
OBJECT, PLACE_X, PLACE_Y = 0, 1, 2


@njit(cache=True, nogil=True, inline="always")
def uniform(key: np.uint64, slot: int) -> float:
    """Number ``slot`` of the draw ``key``: float64 on [0, 1), equal to ``semaug.artifacts.draws.uniform``."""
    z = np.uint64(key) + np.uint64(slot + 1) * _GAMMA
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return float((z ^ (z >> _S31)) >> _S11) * TO_UNIT
