"""How alike synthetic images and their real ones are to CLIP (LMM-MPA, spec S2.7): cosines, histogram, normal fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.devices import worker_device
from semaug.artifacts.errors import InvalidOption, UnreadableImage
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest, Skipped
from semaug.artifacts.shards import ShardResult, Tick
from semaug.artifacts.sources import ImageSource
from semaug.artifacts.store import ArtifactSummary
from semaug.artifacts.synthetic_table import SyntheticTable
from semaug.prompt_synthesis.model_folders import (
    ModelLocation,
    free_device_memory,
    guarding_memory,
    loading,
    locate_model,
    read_config,
    resolve_dtype,
)
from semaug.prompt_synthesis.parts import Models, Part
from semaug.prompt_synthesis.pipeline import PathLike, Running, write_stage

Image = NDArray[np.uint8]
Rows = NDArray[np.float32]
PART = "the similarity model"
BINS = 40


class ImageEmbedder(Protocol):
    """Anything that embeds images for comparison."""

    def embed(self, images: Sequence[Image]) -> Rows:
        """Unit vectors: float32, shape (n, d)."""

    def close(self) -> None:
        """Let go of the model."""


class ClipEmbedder:
    """Image features of a CLIP model of transformers (CLIP, SigLIP and others that have ``get_image_features``)."""

    def __init__(self, location: ModelLocation, device: str, dtype: Any, batch_size: int) -> None:
        with loading(location, PART):
            from transformers import AutoImageProcessor, AutoModel

            options = location.options()
            model: Any = AutoModel.from_pretrained(location.source, dtype=dtype, use_safetensors=True, **options)
            self._processor = AutoImageProcessor.from_pretrained(location.source, backend="pil", **options)
        if not hasattr(model, "logit_scale"):  # what models of the kind share: SigLIP has it, BLIP-2 has not
            raise _no_clip(location, model.config)
        self._model = model.to(device).eval()
        self._device, self._dtype, self._batch_size = device, dtype, batch_size

    def embed(self, images: Sequence[Image]) -> Rows:
        """Unit vectors of uint8 images (height, width, 3), of any sizes."""
        parts = [images[i : i + self._batch_size] for i in range(0, len(images), self._batch_size)]
        with guarding_memory(PART, self._batch_size):
            return np.concatenate([self._features(part) for part in parts])

    def _features(self, images: Sequence[Image]) -> Rows:
        import torch

        pixels = self._processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        with torch.inference_mode():
            found: Any = self._model.get_image_features(pixels.pixel_values.to(self._device, self._dtype))
            rows = getattr(found, "pooler_output", found).float()
            return torch.nn.functional.normalize(rows, dim=1).cpu().numpy()

    def close(self) -> None:
        """Let go of the model and its device memory."""
        self._model = None
        free_device_memory()


@dataclass(frozen=True, slots=True)
class ClipPart:
    """A CLIP model by a folder or a hub id (the paper's is ViT-L/14)."""

    model: str
    device: str = "cpu"
    dtype: str = "auto"
    batch_size: int = 32
    revision: str | None = None

    def identity(self) -> dict[str, Any]:
        location = self._location()
        dtype = str(resolve_dtype(self.dtype, self.device)).removeprefix("torch.")
        return {**location.identity(), "dtype": dtype}

    def open(self) -> ClipEmbedder:
        device = worker_device(self.device)
        return ClipEmbedder(self._location(), device, resolve_dtype(self.dtype, device), self.batch_size)

    def _location(self) -> ModelLocation:
        location = locate_model(self.model, PART, self.revision)
        config = read_config(location, PART)
        if not hasattr(config, "vision_config"):
            raise _no_clip(location, config)
        return location


def _no_clip(location: ModelLocation, config: Any) -> InvalidOption:
    return InvalidOption(f"{PART}: {location.name} is a {config.model_type} model; give a CLIP model")


@dataclass(frozen=True)
class SimilarityWork:
    """Cosines of the shards of a synthetic artifact; each real image is embedded once a shard."""

    source: ImageSource
    synthetic: str
    part: Part[ImageEmbedder]
    models: Models

    @cached_property
    def _table(self) -> SyntheticTable:
        return SyntheticTable.open(self.synthetic)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {self.source.key(i): i for i in range(len(self.source))}

    def open(self) -> SimilarityWork:
        self.models.take(self.part)
        assert self._place
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        rows = [self._table.rows[i] for i in indices]
        real, skipped = self._embed_real(list(dict.fromkeys(row.origin for row in rows)))
        kept = [(i, row) for i, row in zip(indices, rows, strict=True) if row.origin in real]
        found = self._embed([i for i, _ in kept])
        cosines = [float(np.dot(mine, real[row.origin])) for (_, row), mine in zip(kept, found, strict=True)]
        tick(len(rows))
        columns = {**pack_strings("key", [row.key for _, row in kept]), "cosine": np.array(cosines, np.float32)}
        return ShardResult(columns, [Skipped(key=key, reason=reason) for key, reason in skipped.items()])

    def _embed(self, indices: Sequence[int]) -> Rows:
        embedder, images = self.models.take(self.part), self._table.images
        parts = [indices[i : i + self.part.batch_size] for i in range(0, len(indices), self.part.batch_size)]
        rows = [embedder.embed([images.read(i) for i in part]) for part in parts]
        return np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)

    def _embed_real(self, keys: Sequence[str]) -> tuple[dict[str, Rows], dict[str, str]]:
        embedder = self.models.take(self.part)
        found: dict[str, Rows] = {}
        skipped: dict[str, str] = {}
        for start in range(0, len(keys), self.part.batch_size):
            names, images = [], []
            for key in keys[start : start + self.part.batch_size]:
                try:
                    images.append(self.source.read(self._place[key]))
                    names.append(key)
                except UnreadableImage as error:
                    skipped[key] = str(error)
            found |= dict(zip(names, embedder.embed(images), strict=True)) if names else {}
        return found, skipped


def measure_similarity(
    source: ImageSource,
    synthetic: PathLike,
    out: PathLike,
    clip: Part[ImageEmbedder],
    *,
    shard_size: int = 512,
    running: Running | None = None,
) -> ArtifactSummary:
    """Write a ``similarity`` artifact: the cosine of every synthetic image and its real one. Rerunning resumes.

    Raises ``ArtifactError`` where the synthetic images are of another source, and what the model raises.
    """
    running, table = running or Running(), SyntheticTable.open(synthetic)
    table.require_source(source.fingerprint)
    manifest = Manifest(
        kind="similarity",
        items=len(table),
        shard_size=shard_size,
        config={"model": clip.identity(), "batch_size": clip.batch_size},
        inputs={"source": table.source, "synthetic": table.digest},
        info={"synthetic": str(synthetic)},
    )
    work = SimilarityWork(source, os.fspath(synthetic), clip, running.models)
    return write_stage(manifest, work, out, "similarity", running)


@dataclass(frozen=True, slots=True)
class SimilarityReport:
    """Cosines of ``count`` pairs (Figure 9): the normal fit's ``mean`` and ``deviation`` (of the greatest likelihood),
    the least and the greatest, how many are below ``threshold`` (equality is kept), and a histogram of ``counts``
    between ``edges``."""

    count: int
    mean: float
    deviation: float
    least: float
    greatest: float
    threshold: float
    below: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]


def report_similarity(path: str | Path, threshold: float = 0.6) -> SimilarityReport:
    """The distribution of a similarity artifact; raises ``InvalidOption`` for a threshold that is no cosine."""
    if not -1 <= threshold <= 1:
        raise InvalidOption(f"the threshold is {threshold}; cosines are from -1 to 1")
    stored = Artifact.open(path, "similarity").column("cosine")
    cosines = stored.astype(np.float64)
    if not len(cosines):
        raise InvalidOption(f"{path} holds no similarity; every image was skipped")
    counts, edges = np.histogram(cosines, BINS)
    return SimilarityReport(
        len(cosines), float(cosines.mean()), float(cosines.std()), float(cosines.min()), float(cosines.max()),
        threshold, int((stored < np.float32(threshold)).sum()), tuple(edges.tolist()), tuple(counts.tolist()),
    )  # fmt: skip
