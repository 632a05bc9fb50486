"""What the stages before generation keep: captions, rewritten prompts and mask maps, by image key."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import MAX_PIXELS
from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.outside import reading
from semaug.artifacts.ragged import pack_bytes, pack_strings, slice_of, unpack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.prompt_synthesis.captions import Caption
from semaug.prompt_synthesis.rewriting import Rewrite

Classes = NDArray[np.uint8]


def caption_columns(keys: Sequence[str], captions: Sequence[Caption]) -> dict[str, NDArray]:
    """Columns of one shard of captions: a text an image, and how it came about."""
    return {
        **pack_strings("key", keys),
        **pack_strings("caption", [caption.text for caption in captions]),
        "flagged": np.array([caption.flagged for caption in captions], bool),
        "truncated": np.array([caption.truncated for caption in captions], bool),
        "attempts": np.array([caption.attempts for caption in captions], np.int32),
    }


@dataclass(frozen=True)
class CaptionTable:
    """The captions of an artifact, by image key; ``digest`` identifies it, ``source`` its images."""

    captions: Mapping[str, Caption] = field(repr=False)
    digest: str
    source: str
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> CaptionTable:
        """Read a whole captions artifact; raises ``ArtifactError``."""
        artifact = Artifact.open(path, "captions")
        found: dict[str, Caption] = {}
        with reading(path):
            for marker in artifact.markers:
                columns = artifact.shard(marker.shard)
                numbers = (columns[name].tolist() for name in ("flagged", "truncated", "attempts"))
                rows = zip(unpack_strings(columns, "key"), unpack_strings(columns, "caption"), *numbers, strict=True)
                found |= {key: Caption(text, *rest) for key, text, *rest in rows}
        return cls(found, artifact.digest, artifact.manifest.inputs.get("source", ""), artifact.manifest)


def prompt_columns(keys: Sequence[str], rewrites: Sequence[Rewrite], n_sem: int) -> dict[str, NDArray]:
    """Columns of one shard of prompts: ``n_sem`` texts an image, in the order of the draws from 1 on."""
    shown = max((len(r.examples) for r in rewrites), default=0)
    shape = (len(keys), n_sem)
    return {
        **pack_strings("key", keys),
        **pack_strings("prompt", [r.text for r in rewrites]),
        "examples": np.array([r.examples for r in rewrites], np.int32).reshape(*shape, shown),
        "truncated": np.array([r.truncated for r in rewrites], bool).reshape(shape),
        "flagged": np.array([r.flagged for r in rewrites], bool).reshape(shape),
        "attempts": np.array([r.attempts for r in rewrites], np.int32).reshape(shape),
    }


@dataclass(frozen=True)
class PromptTable:
    """The rewritten prompts of an artifact, by image key, ``n_sem`` each; ``captions`` is the digest of their
    captions."""

    prompts: Mapping[str, tuple[str, ...]] = field(repr=False)
    n_sem: int
    digest: str
    captions: str
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PromptTable:
        """Read a whole prompts artifact; raises ``ArtifactError``."""
        artifact = Artifact.open(path, "prompts")
        found: dict[str, tuple[str, ...]] = {}
        with reading(path):
            n_sem = int(artifact.manifest.config["n_sem"])
            for marker in artifact.markers:
                columns = artifact.shard(marker.shard)
                keys, texts = unpack_strings(columns, "key"), unpack_strings(columns, "prompt")
                found |= {key: tuple(texts[i * n_sem : (i + 1) * n_sem]) for i, key in enumerate(keys)}
            return cls(found, n_sem, artifact.digest, artifact.manifest.inputs["captions"], artifact.manifest)

    def require_captions(self, table: CaptionTable) -> None:
        """Raise ``ArtifactError`` unless these captions were rewritten."""
        if self.captions != table.digest:
            raise ArtifactError(
                f"the prompts were rewritten from captions {self.captions}, these are {table.digest}; "
                "run `semaug synth rewrite` on them"
            )


def map_columns(keys: Sequence[str], maps: Sequence[Classes]) -> dict[str, NDArray]:
    """Columns of one shard of mask maps: the ADE20K class of every pixel, deflated."""
    return {
        **pack_strings("key", keys),
        **pack_bytes("classes", [zlib.compress(np.ascontiguousarray(m, np.uint8).tobytes(), 6) for m in maps]),
        "size": np.array([m.shape for m in maps], np.int32).reshape(-1, 2),
    }


class MapTable:
    """The mask maps of an artifact, read one by one; ``digest`` identifies it, ``source`` its images."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self.digest, self.manifest = artifact.digest, artifact.manifest
        self.source = artifact.manifest.inputs.get("source", "")
        self._places: dict[str, tuple[int, int]] = {}
        for marker in artifact.markers:
            for row, key in enumerate(unpack_strings(artifact.shard(marker.shard), "key")):
                self._places[key] = (marker.shard, row)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> MapTable:
        """Open a mask map artifact; raises ``ArtifactError``."""
        return cls(Artifact.open(path, "mask_maps"))

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def classes(self, key: str) -> Classes:
        """The class of every pixel of an image: uint8 (height, width).

        Raises ``KeyError`` for an unknown image, ``ArtifactError`` for a damaged map.
        """
        shard, row = self._places[key]
        columns = self._artifact.shard(shard)
        with reading(self._artifact.path):
            height, width = columns["size"][row].tolist()
            if min(height, width) < 0 or height * width > MAX_PIXELS:
                raise ValueError(f"a map of {height} x {width}")
            data = zlib.decompressobj().decompress(slice_of(columns, "classes", row).tobytes(), height * width + 1)
            return np.frombuffer(data, np.uint8).reshape(height, width)


def require_same_images(what: str, source: str, fingerprint: str, command: str) -> None:
    """Raise ``ArtifactError`` where ``what`` was made of other images than those of ``fingerprint``."""
    if source != fingerprint:
        raise ArtifactError(f"the {what} were made of images {source}, these are {fingerprint}; run `{command}`")
