"""What every image source shares: the fingerprint, what identifies its pixels, and labels as an array."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import SourceError

DIGEST_SIZE = 16


def content_hash(data: bytes) -> bytes:
    """blake2b of an image's bytes, 16 bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()


def pixels_hash(image: NDArray[np.uint8]) -> bytes:
    """Content hash of an image that has no encoded form: its shape and pixels."""
    digest = hashlib.blake2b(f"{image.shape}|".encode(), digest_size=DIGEST_SIZE)
    digest.update(np.ascontiguousarray(image).reshape(-1).data)
    return digest.digest()


def fingerprint_of(pairs: Iterable[tuple[str, bytes]]) -> str:
    """blake2b over the sorted (key, content hash) pairs, 32 hex digits.

    >>> fingerprint_of([("b", b"2"), ("a", b"1")]) == fingerprint_of([("a", b"1"), ("b", b"2")])
    True
    """
    return fingerprint_of_ordered(sorted(pairs))


def fingerprint_of_ordered(pairs: Iterable[tuple[str, bytes]]) -> str:
    """The fingerprint of pairs that stand in the order of their keys, one after the other: none of them is kept."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for key, content in pairs:
        digest.update(f"{key}\x1f{content.hex()}\n".encode())
    return digest.hexdigest()


class Source:
    """Base of the sources: subclasses give ``spec``, ``class_names``, ``__len__``, ``key``, ``read`` and ``label``.

    Every source can be pickled, so a shard's work may carry the source itself or its ``spec``.
    """

    spec: str
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} has no length")

    def key(self, index: int) -> str:
        """The image's key."""
        raise TypeError(f"{type(self).__name__} has no keys")

    def read(self, index: int) -> NDArray[np.uint8]:
        """The image: uint8, shape (height, width, 3), RGB; raises ``UnreadableImage``."""
        raise TypeError(f"{type(self).__name__} has no pixels")

    @property
    def pixels(self) -> str:
        """Empty where the images are those of the fingerprint; of a resized copy, the digest of that copy."""
        return ""

    def label(self, index: int) -> int | None:
        """The class of the image, or None."""
        return None

    def encoded(self, index: int) -> bytes | None:
        """The file's bytes as they are, or None where the images have no encoded form."""
        return None

    def content_hash(self, index: int) -> bytes:
        """16 bytes that identify the image's content: of its file where it has one, of its pixels otherwise."""
        data = self.encoded(index)
        return content_hash(data) if data is not None else pixels_hash(self.read(index))

    @cached_property
    def fingerprint(self) -> str:
        """blake2b over the sorted (key, content hash) pairs, 32 hex digits; computed once, at first use."""
        return fingerprint_of((self.key(i), self.content_hash(i)) for i in range(len(self)))


def clean_key(text: str) -> str:
    """A key in Unicode's composed form (NFC), so that one name is one key on every file system.

    Raises ``SourceError`` for names that are not valid Unicode, or that no file can have.
    """
    if "\0" in text:
        raise SourceError(f"the file name {text[:60]!r} holds a NUL, which no file's name can; mend the list")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"the file name {text!r} is not valid UTF-8; rename the file") from error
    return unicodedata.normalize("NFC", text)


def require_unique(keys: Sequence[str], origins: Sequence[str], where: str) -> None:
    """Refuse two images with one key; ``origins`` are their names as found."""
    if len(set(keys)) == len(keys):
        return
    seen: dict[str, str] = {}
    for key, origin in zip(keys, origins, strict=True):
        if key in seen:
            raise SourceError(f"{where}: {seen[key]!a} and {origin!a} have the same key {key!r}; rename one of them")
        seen[key] = origin


class Identified(Protocol):
    """What images and tables share: content and labels."""

    @property
    def fingerprint(self) -> str:
        """blake2b over the sorted (key, content hash) pairs."""
        ...

    def __len__(self) -> int: ...

    def label(self, index: int) -> int | None:
        """The class of an item, or None."""
        ...


def inputs_of(source: Identified) -> dict[str, str]:
    """What identifies the pixels that a step reads: ``source``, the fingerprint, and of a resized copy also ``pixels``.

    A resized pack keeps its origin's fingerprint, since guidance fits both; scores and weights do not.
    """
    pixels = getattr(source, "pixels", "")
    return {"source": source.fingerprint} | ({"pixels": pixels} if pixels else {})


def labels_of(source: Identified) -> NDArray[np.int64]:
    """The labels of all items: int64, shape (n,), -1 where there is none."""
    labels = (source.label(i) for i in range(len(source)))
    return np.fromiter((-1 if label is None else label for label in labels), np.int64, len(source))
