"""Generated positives as columns of an artifact, and the table that looks them up."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.outside import reading
from semaug.artifacts.ragged import pack_strings, unpack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import AugmentForm, AugmentRow, Manifest
from semaug.artifacts.sources.base import DIGEST_SIZE, content_hash, fingerprint_of, pixels_hash
from semaug.artifacts.sources.packed import PIXELS, GeneratedSource

ROWS = "rows"
"""The column of rows of a table."""
COMMAND = "semaug diffaug augment"


def augment_columns(
    rows: Sequence[AugmentRow], values: NDArray[np.uint8] | NDArray[np.float32], labels: Sequence[int | None]
) -> dict[str, NDArray]:
    """Columns of one shard: whose positives they are, and the positives, either uint8 images (n, S, S, 3) or float32
    rows (n, D)."""
    images = values.dtype == np.uint8
    hashes = [pixels_hash(v) if images else content_hash(v.tobytes()) for v in values]
    return {
        **pack_strings("key", [row.key for row in rows]),
        **pack_strings("origin", [row.origin for row in rows]),
        "number": np.array([row.number for row in rows], np.int32),
        "seed": np.array([row.seed for row in rows], np.int64),
        "label": np.array([-1 if label is None else label for label in labels], np.int32),
        "content": np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), DIGEST_SIZE),
        PIXELS if images else ROWS: values,
        **({"size": np.tile(np.array(values.shape[1:3], np.int32), (len(values), 1))} if images else {}),
    }


class GeneratedRows:
    """The float32 rows of an artifact, read through memory maps; their fingerprint is their own."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.spec = str(artifact.path)
        self._shards = [artifact.shard(m.shard)[ROWS].view(np.ndarray) for m in artifact.markers]
        self._starts = [0, *accumulate(m.items for m in artifact.markers)]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GeneratedRows:
        """Open a finished artifact of rows; raises ``ArtifactError``."""
        return cls(Artifact.open(path, "augment"))

    def __reduce__(self) -> Any:
        return type(self).open, (self.spec,)

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def features(self) -> int:
        """Columns of a row."""
        return int(self.artifact.manifest.config["shape"][0])

    def read(self, index: int) -> NDArray[np.float32]:
        """Row ``index``: float32 (D,); raises ``IndexError``."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = bisect_right(self._starts, index) - 1
        return cast("NDArray[np.float32]", self._shards[place][index - self._starts[place]].copy())

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows float32 (n, D) of int64 ``indices`` (n,)."""
        out = np.empty((len(indices), self.features), np.float32)
        places = np.searchsorted(self._starts, indices, side="right") - 1
        for place in np.unique(places).tolist():
            here = places == place
            out[here] = self._shards[place][indices[here] - self._starts[place]]
        return out

    @cached_property
    def fingerprint(self) -> str:
        """blake2b over the sorted (key, content hash) pairs, 32 hex digits."""
        return fingerprint_of(zip(self.artifact.keys, map(bytes, self.artifact.column("content")), strict=True))


@dataclass(frozen=True)
class AugmentTable:
    """The generated positives of an artifact: ``k`` of every item of ``origins``, one item's next to each other.

    ``digest`` identifies it, ``source`` is the fingerprint of the real items; ``images`` or ``rows`` reads the
    positives, the other is None.
    """

    origins: tuple[str, ...] = field(repr=False)
    k: int
    digest: str
    source: str
    manifest: Manifest
    images: GeneratedSource | None = field(repr=False)
    rows: GeneratedRows | None = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> AugmentTable:
        """Open an augment artifact; raises ``ArtifactError``."""
        artifact = Artifact.open(path, "augment")
        with reading(path):
            k, form = int(artifact.manifest.config["k"]), artifact.manifest.config["form"]
            origins = tuple(o for m in artifact.markers for o in unpack_strings(artifact.shard(m.shard), "origin")[::k])
            return cls(
                origins, k, artifact.digest, artifact.manifest.inputs.get("source", ""), artifact.manifest,
                GeneratedSource(artifact) if form == "images" else None,
                GeneratedRows(artifact) if form == "rows" else None,
            )  # fmt: skip

    @property
    def form(self) -> AugmentForm:
        """What the positives are."""
        return "rows" if self.images is None else "images"

    def __len__(self) -> int:
        return len(self.origins) * self.k

    def places(self) -> dict[str, int]:
        """Where each item's first positive is, by the item's key; its others follow."""
        return {origin: i * self.k for i, origin in enumerate(self.origins)}

    def require_source(self, fingerprint: str) -> None:
        """Raise ``ArtifactError`` unless they were made of items of this fingerprint."""
        if self.source != fingerprint:
            raise ArtifactError(
                f"the positives were generated of data {self.source}, these are {fingerprint}; run `{COMMAND}` on these"
            )

    def require_images(self) -> GeneratedSource:
        """The images; raises ``ArtifactError`` where the positives are rows of a table."""
        if self.images is None:
            raise ArtifactError(f"the positives are {self.form} and images are needed; run `{COMMAND}` on images")
        return self.images

    def require_rows(self) -> GeneratedRows:
        """The rows; raises ``ArtifactError`` where the positives are images."""
        if self.rows is None:
            raise ArtifactError(f"the positives are {self.form} and rows are needed; run `{COMMAND}` on a table")
        return self.rows
