"""Images that are in memory already: for tests, notebooks and generated sets."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources.base import Source, clean_key, require_unique

_open: WeakValueDictionary[str, ArraySource] = WeakValueDictionary()


class ArraySource(Source):
    """Images held in memory: uint8 arrays of shape (height, width, 3), or one array (n, height, width, 3).

    ``spec`` opens it again within this process only; to another process the source itself can be pickled.

    >>> source = ArraySource(np.zeros((2, 8, 8, 3), np.uint8))
    >>> source.key(1), source.read(1).shape
    ('000001', (8, 8, 3))
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        keys: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self._images = [_checked(image) for image in images]
        names = [f"{i:06d}" for i in range(len(self._images))] if keys is None else list(keys)
        self._keys = [clean_key(name) for name in names]
        self._labels = None if labels is None else [int(label) for label in labels]
        for what, values in (("keys", self._keys), ("labels", self._labels)):
            if values is not None and len(values) != len(self._images):
                raise SourceError(f"{len(values)} {what} for {len(self._images)} images; give one each")
        require_unique(self._keys, names, "the images")
        count = max(self._labels, default=-1) + 1 if self._labels else 0
        self.class_names = tuple(class_names) or tuple(f"class{i}" for i in range(count))
        if count > len(self.class_names):
            raise SourceError(f"label {count - 1} has no name among {len(self.class_names)} class_names; add it")

    @property
    def spec(self) -> str:  # type: ignore[override]
        """``array:`` and the fingerprint."""
        name = f"array:{self.fingerprint}"
        _open[name] = self
        return name

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return self._keys[index]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._images[index].copy()

    def label(self, index: int) -> int | None:
        if self._labels is None or self._labels[index] < 0:
            return None
        return self._labels[index]


def open_array(spec: str) -> ArraySource:
    """The source of this spec, if this process holds it."""
    try:
        return _open[spec]
    except KeyError as error:
        raise SourceError(f"{spec} lives in the memory of another process; write the images to a folder") from error


def _checked(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise SourceError(f"an image has dtype {image.dtype} and shape {image.shape}, expected uint8 (h, w, 3)")
    return image
