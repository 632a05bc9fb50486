"""Guidance as columns of an artifact, and the table that looks it up by image key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.outside import reading
from semaug.artifacts.ragged import pack_arrays, pack_bytes, pack_strings, unpack_bytes, unpack_strings
from semaug.artifacts.reader import Artifact, ShardColumns
from semaug.artifacts.schemas import SCALES, Guidance, Manifest, Rle

_NO_BOXES = np.zeros((0, 4), np.float32)


def guidance_columns(rows: Sequence[Guidance]) -> dict[str, NDArray]:
    """Columns of one guidance shard: key, size (n, 2) int32, scale (n,) uint8, fallback, ragged boxes and masks."""
    masks = [m for row in rows for m in row.masks]
    first_mask = np.concatenate([[0], np.cumsum([len(row.masks) for row in rows])]).astype(np.int64)
    return {
        **pack_strings("key", [row.key for row in rows]),
        "size": np.array([(row.height, row.width) for row in rows], np.int32).reshape(-1, 2),
        "scale": np.array([SCALES.index(row.scale) for row in rows], np.uint8),
        "fallback": np.array([row.fallback for row in rows], bool),
        **pack_arrays("boxes", [row.boxes for row in rows], _NO_BOXES),
        **pack_bytes("mask_counts", [m.counts for m in masks]),
        "mask_row_offsets": first_mask,
    }


def guidance_rows(columns: ShardColumns) -> Iterator[Guidance]:
    """The rows of one guidance shard."""
    keys, counts = unpack_strings(columns, "key"), unpack_bytes(columns, "mask_counts")
    sizes, first_mask = columns["size"].tolist(), columns["mask_row_offsets"].tolist()
    boxes, first_box = np.array(columns["boxes"]), columns["boxes_offsets"].tolist()
    scales, fallback = columns["scale"].tolist(), columns["fallback"].tolist()
    for i, key in enumerate(keys):
        size = (sizes[i][0], sizes[i][1])
        yield Guidance(
            key,
            *size,
            scale=SCALES[scales[i]],
            boxes=boxes[first_box[i] : first_box[i + 1]],
            masks=tuple(Rle(size, c) for c in counts[first_mask[i] : first_mask[i + 1]]),
            fallback=fallback[i],
        )


@dataclass(frozen=True)
class GuidanceTable:
    """All guidance of an artifact, by key; ``digest`` identifies it, ``source`` is its images' fingerprint."""

    rows: dict[str, Guidance] = field(repr=False)
    digest: str
    source: str
    manifest: Manifest | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GuidanceTable:
        """Read a whole guidance artifact into memory; raises ``ArtifactError``."""
        artifact = Artifact.open(path, "guidance")
        with reading(path):
            rows = {g.key: g for m in artifact.markers for g in guidance_rows(artifact.shard(m.shard))}
        return cls(rows, artifact.digest, artifact.manifest.inputs.get("source", ""), artifact.manifest)

    @classmethod
    def of(cls, rows: Sequence[Guidance], digest: str = "", source: str = "") -> GuidanceTable:
        """A table of guidance that is already in memory."""
        return cls({g.key: g for g in rows}, digest, source)

    def get(self, key: str) -> Guidance | None:
        """The guidance of one image, or None when the step that made it skipped the image."""
        return self.rows.get(key)

    def require_source(self, fingerprint: str) -> None:
        """Refuse guidance that was made on other images."""
        if self.source and self.source != fingerprint:
            raise ArtifactError(
                f"the guidance was made on images {self.source}, these are {fingerprint}; "
                "run `semaug guide extract` on this folder"
            )

    def __len__(self) -> int:
        return len(self.rows)
