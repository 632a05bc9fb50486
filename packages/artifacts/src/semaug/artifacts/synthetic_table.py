"""Synthetic images as columns of an artifact, the table that looks them up, and their similarity to the real ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import encode_jpeg
from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.outside import reading
from semaug.artifacts.ragged import pack_arrays, pack_bytes, pack_strings, unpack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest, Slot, SyntheticRow
from semaug.artifacts.sources.base import content_hash, pixels_hash
from semaug.artifacts.sources.packed import ENCODED, PIXELS, GeneratedSource

Image = NDArray[np.uint8]
Layout = Literal["raw", "jpeg"]
_NO_PIXELS = np.zeros(0, np.uint8)


def synthetic_columns(
    rows: Sequence[SyntheticRow],
    images: Sequence[Image],
    labels: Sequence[int | None],
    layout: Layout,
    quality: int = 95,
) -> dict[str, NDArray]:
    """Columns of one shard: what every image was made with, and the images as pixels or as JPEG of ``quality``."""
    files = [encode_jpeg(image, quality) for image in images] if layout == "jpeg" else []
    hashes = [content_hash(f) for f in files] if files else [pixels_hash(image) for image in images]
    sizes = np.array([image.shape[:2] for image in images], np.int32).reshape(-1, 2)
    return {
        **pack_strings("key", [row.key for row in rows]),
        **pack_strings("origin", [row.origin for row in rows]),
        **pack_strings("prompt", [row.prompt for row in rows]),
        "slot": np.array([(r.slot.semantic, r.slot.visual, r.slot.repeat) for r in rows], np.int32).reshape(-1, 3),
        "seed": np.array([row.seed for row in rows], np.int64),
        "truncated": np.array([row.truncated for row in rows], bool),
        "flagged": np.array([row.flagged for row in rows], bool),
        "label": np.array([-1 if label is None else label for label in labels], np.int32),
        "size": sizes,
        "content": np.frombuffer(b"".join(hashes), np.uint8).reshape(len(images), -1) if images else _no_hashes(),
        **(pack_bytes(ENCODED, files) if layout == "jpeg" else _pixel_columns(images, sizes)),
    }


def _no_hashes() -> NDArray[np.uint8]:
    return np.zeros((0, 16), np.uint8)


def _pixel_columns(images: Sequence[Image], sizes: NDArray[np.int32]) -> dict[str, NDArray]:
    if len(images) and (sizes == sizes[0]).all():
        return {PIXELS: np.stack(images)}
    return pack_arrays(PIXELS, [image.reshape(-1) for image in images], _NO_PIXELS)


@dataclass(frozen=True)
class SyntheticTable:
    """The synthetic images of an artifact, in its order; ``digest`` identifies it, ``source`` is the fingerprint of
    the real images. ``images`` reads them."""

    rows: tuple[SyntheticRow, ...] = field(repr=False)
    digest: str
    source: str
    manifest: Manifest
    images: GeneratedSource = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SyntheticTable:
        """Read all but the pixels of a synthetic artifact into memory; raises ``ArtifactError``."""
        artifact = Artifact.open(path, "synthetic")
        with reading(path):
            rows = tuple(row for m in artifact.markers for row in _rows(artifact.shard(m.shard)))
        source = artifact.manifest.inputs.get("source", "")
        return cls(rows, artifact.digest, source, artifact.manifest, GeneratedSource(artifact))

    def by_origin(self) -> dict[str, list[int]]:
        """The places of each real image's synthetic ones, by the real image's key."""
        found: dict[str, list[int]] = {}
        for place, row in enumerate(self.rows):
            found.setdefault(row.origin, []).append(place)
        return found

    def require_source(self, fingerprint: str) -> None:
        """Raise ``ArtifactError`` unless they were made of images of this fingerprint."""
        if self.source != fingerprint:
            raise ArtifactError(
                f"the synthetic images were made of images {self.source}, these are {fingerprint}; "
                "run `semaug synth run` on this folder"
            )

    def __len__(self) -> int:
        return len(self.rows)


def _rows(columns: Mapping[str, NDArray]) -> list[SyntheticRow]:
    texts = (unpack_strings(columns, name) for name in ("key", "origin", "prompt"))
    numbers = (columns[name].tolist() for name in ("slot", "seed", "truncated", "flagged"))
    return [
        SyntheticRow(key, origin, Slot(*slot), prompt, seed, truncated, flagged)
        for key, origin, prompt, slot, seed, truncated, flagged in zip(*texts, *numbers, strict=True)
    ]


@dataclass(frozen=True)
class SimilarityTable:
    """How alike each synthetic image and its real one are, by the synthetic image's key: cosines from -1 to 1."""

    cosines: Mapping[str, float] = field(repr=False)
    digest: str
    synthetic: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SimilarityTable:
        """Read a similarity artifact; raises ``ArtifactError``."""
        artifact = Artifact.open(path, "similarity")
        with reading(path):
            cosines = dict(zip(artifact.keys, artifact.column("cosine").tolist(), strict=True))
        return cls(cosines, artifact.digest, artifact.manifest.inputs.get("synthetic", ""))

    def keeps(self, key: str, least: float) -> bool:
        """Whether an image is at least as alike as ``least``, compared in the float32 that is stored.

        Raises ``ArtifactError`` for an image that was not measured.
        """
        if key not in self.cosines:
            raise ArtifactError(f"the similarity lacks {key!r}; run `semaug synth similarity` on these images")
        return bool(np.float32(self.cosines[key]) >= np.float32(least))

    def require_images(self, table: SyntheticTable) -> None:
        """Raise ``ArtifactError`` unless it was measured on these synthetic images."""
        if self.synthetic != table.digest:
            raise ArtifactError(
                f"the similarity was measured on synthetic images {self.synthetic}, these are {table.digest}; "
                "run `semaug synth similarity` on them"
            )
