"""Standard pairs: two augmented views of one image (SimCLR and its successors)."""

from __future__ import annotations

from semaug.pairs_dataset.sources.base import PairSource


class StandardPairs(PairSource):
    """Both views are RandomResizedCrops of the image.

    >>> import numpy as np
    >>> from semaug.artifacts.sources import ArraySource
    >>> from semaug.pairs_dataset import make_pairs
    >>> images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    >>> view_1, view_2, index = make_pairs("standard", ArraySource(images), size=32)[1]
    >>> view_1.shape, index
    (torch.Size([3, 32, 32]), 1)
    """
