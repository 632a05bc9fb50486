"""The images that the curation page may show: those of the pairs, by number, and nothing outside their folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from semaug.artifacts.decode import decode_image, encode_jpeg
from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.sources import FileSource, ImageSource

SHOWN_SIDE = 1000
"""The longer side of what a page shows before it is zoomed, in pixels."""
_SHOWN, _WHOLE = 400, 12
"""How many encoded images are kept in memory, scaled and whole."""

Box = tuple[float, float, float, float]


class ShownImages:
    """Images of ``source`` whose keys are in ``keys``; ``roots`` are folders, besides its own, that links may lead to.

    Images are asked for by their number in the source. A file that resolves to a place outside the source's folder and
    ``roots`` is never opened.
    """

    def __init__(
        self,
        source: ImageSource,
        keys: Iterable[str],
        *,
        guidance: GuidanceTable | None = None,
        roots: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        if guidance is not None:
            guidance.require_source(source.fingerprint)
        self._source, self._guidance = source, guidance
        wanted = set(keys)
        self._numbers = {key: i for i in range(len(source)) if (key := source.key(i)) in wanted}
        self._keys = {number: key for key, number in self._numbers.items()}
        own = [source.root] if isinstance(source, FileSource) else []
        self._roots = [Path(os.path.realpath(root)) for root in (*own, *roots)]
        self._scaled = lru_cache(_SHOWN)(lambda number: self._encode(number, SHOWN_SIDE))
        self._whole = lru_cache(_WHOLE)(lambda number: self._encode(number, None))
        self.missing = len(wanted) - len(self._numbers)

    def number(self, key: str) -> int | None:
        """The number of an image, or None where the source has none of that key."""
        return self._numbers.get(key)

    def boxes(self, key: str) -> list[Box]:
        """The boxes of an image as shares of its width and height: (left, top, right, bottom)."""
        found = self._guidance.get(key) if self._guidance is not None else None
        if found is None:
            return []
        shares = found.boxes / np.array([found.width, found.height] * 2, np.float32)
        return [(b[0], b[1], b[2], b[3]) for b in np.clip(shares, 0, 1).round(5).tolist()]

    def jpeg(self, number: int, *, whole: bool = False) -> bytes:
        """One image as JPEG, its longer side at most ``SHOWN_SIDE`` unless ``whole``.

        Raises ``KeyError`` for an image that is not in any pair, ``UnreadableImage`` for one that cannot be shown.
        """
        if number not in self._keys:
            raise KeyError(number)
        return self._whole(number) if whole else self._scaled(number)

    def outside(self) -> list[str]:
        """The keys of images that lie outside the folders and will not be shown."""
        if not isinstance(self._source, FileSource):
            return []
        return [key for key, number in self._numbers.items() if not self._is_inside(self._source.path(number))]

    def _is_inside(self, path: Path) -> bool:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(root) for root in self._roots)

    def _encode(self, number: int, side: int | None) -> bytes:
        image = Image.fromarray(self._pixels(number))
        if side is not None and max(image.size) > side:
            image.thumbnail((side, side), Image.Resampling.BICUBIC)
        return encode_jpeg(np.asarray(image), 92)

    def _pixels(self, number: int) -> np.ndarray:
        if not isinstance(self._source, FileSource):
            return self._source.read(number)
        real = Path(os.path.realpath(self._source.path(number)))
        if not self._is_inside(real):
            raise UnreadableImage("the file is a link that leads out of the image folder; allow its folder with --root")
        return decode_image(_read_plain(real))


def _read_plain(path: Path) -> bytes:
    """The bytes of a file that is no link any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise UnreadableImage(f"cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
