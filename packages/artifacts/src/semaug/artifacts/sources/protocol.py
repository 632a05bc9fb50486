"""The contract of an image source."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class ImageSource(Protocol):
    """A read-only, indexable set of images.

    Labels serve evaluation, class-wise layout and the controls that say so; guidance and views never see them.
    """

    @property
    def spec(self) -> str:
        """What ``open_source`` makes this source from again, in another process too."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that labels index; empty without labels."""
        ...

    @property
    def fingerprint(self) -> str:
        """blake2b over the sorted (key, content hash) pairs, 32 hex digits; computed once, at first use."""
        ...

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The NFC-normalised relative POSIX path with its extension, or ``split/index``."""
        ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """The image: uint8, shape (height, width, 3), RGB, EXIF orientation applied.

        Raises ``UnreadableImage`` where it cannot be decoded.
        """
        ...

    def label(self, index: int) -> int | None:
        """The class of the image, or None."""
        ...
