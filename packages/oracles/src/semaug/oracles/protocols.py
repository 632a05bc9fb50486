"""The contracts of oracles: where things are in an image, never what they are.

Classes and confidences stop inside an oracle: what crosses these protocols is geometry, best first, so that guidance
cannot leak labels (SDI, spec S1.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""uint8, shape (height, width, 3), RGB."""
Boxes = NDArray[np.float32]
"""float32, shape (n, 4): x1, y1, x2, y2 in pixels of the image, exclusive end, best first."""
Mask = NDArray[np.bool_]
"""bool, shape (height, width) of its image."""


@runtime_checkable
class Detector(Protocol):
    """Finds boxes."""

    def detect(self, images: Sequence[Image]) -> list[Boxes]:
        """The boxes of every image; an image without objects has boxes of shape (0, 4)."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Finds masks."""

    def segment(self, images: Sequence[Image], boxes: Sequence[Boxes] | None) -> list[list[Mask]]:
        """The masks of every image.

        With ``boxes``, one mask a box in the boxes' order (all False where nothing was found in a box); without
        them, any number of masks, best first.
        """
        ...


@runtime_checkable
class KeyedDetector(Protocol):
    """A detector that needs to know which image it sees, such as one that looks up annotations."""

    def detect_keyed(self, keys: Sequence[str], images: Sequence[Image]) -> list[Boxes]:
        """Like ``Detector.detect``, for the images of these keys."""
        ...


@runtime_checkable
class KeyedSegmenter(Protocol):
    """A segmenter that needs to know which image it sees."""

    def segment_keyed(
        self, keys: Sequence[str], images: Sequence[Image], boxes: Sequence[Boxes] | None
    ) -> list[list[Mask]]:
        """Like ``Segmenter.segment``, for the images of these keys."""
        ...


AnyDetector = Detector | KeyedDetector
AnySegmenter = Segmenter | KeyedSegmenter

NO_BOXES: Boxes = np.zeros((0, 4), np.float32)
"""No boxes, in the shape that the protocol asks for."""
