"""Self-localisation: boxes from the activation map of an encoder, while it trains or afterwards.

After Peng et al., "Crafting Better Contrastive Views for Siamese Representation Learning" (CVPR 2022): where an
encoder's last spatial maps are strong there is something to see. A box is taken as the tight frame of all cells over a
threshold, on the grid of the maps; the paper enlarges the map to the image's size first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from torch import Tensor

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption, MissingDependency, UnreadableImage
from semaug.artifacts.guidance_table import guidance_columns
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.reader import Artifact, hash_columns
from semaug.artifacts.schemas import Guidance, Manifest, ShardCosts, Skipped
from semaug.artifacts.shards import peak_memory
from semaug.artifacts.sources import ImageSource, inputs_of
from semaug.artifacts.store import ArtifactWriter, place_of
from semaug.oracles.errors import OracleError
from semaug.oracles.protocols import Boxes, Image
from semaug.oracles.selection import usable_boxes

if TYPE_CHECKING:
    from semaug.ssl_methods.encoder import Encoder
    from semaug.ssl_methods.periods import Ranks

THRESHOLD = 0.1
"""Of the normalised heat: cells over it belong to the object (the paper's k)."""
BATCH = 64  # fixed, so that a box does not depend on what else was asked for
SHARD = 1024


def heat_maps(maps: Tensor) -> Tensor:
    """Sums over the channels of the positive part of maps (B, C, h, w), from 0 to 1 an image: float32 (B, h, w).

    A map without any contrast is 1 everywhere. Raises ``OracleError`` for values that are not finite.
    """
    if not bool(torch.isfinite(maps).all()):
        raise OracleError("the encoder's spatial maps are not finite: it has diverged; lower the learning rate")
    heat = maps.float().clamp(min=0).sum(1)
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return torch.where(high > low, (heat - low) / (high - low).clamp(min=1e-30), 1.0)


def hot_boxes(heat: NDArray[np.floating], threshold: float = THRESHOLD) -> NDArray[np.float64]:
    """The frames of the cells over ``threshold``, one a map (n, h, w): float64 (n, 4), xyxy in shares of the image.

    >>> hot_boxes(np.array([[[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.4, 0.0]]])).tolist()
    [[0.25, 0.5, 0.75, 1.0]]
    """
    hot = np.asarray(heat) > threshold
    x0, x1 = _extent(np.asarray(hot.any(axis=1)))
    y0, y1 = _extent(np.asarray(hot.any(axis=2)))
    return np.stack([x0, y0, x1, y1], axis=1)


def _extent(hot: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and one past the last true column of each row (n, k), as shares of k."""
    k = hot.shape[1]
    return hot.argmax(axis=1) / k, (k - hot[:, ::-1].argmax(axis=1)) / k


class SelfLocaliser:
    """A detector: of each image the one box that an encoder's activation frames.

    The whole image is resized to the encoder's input, its sides independently of each other, so that cells are equal
    shares of it.

    >>> from semaug.ssl_methods import build_encoder
    >>> localiser = SelfLocaliser(build_encoder("small-cnn", input_size=32).eval())
    >>> localiser.detect([np.zeros((30, 60, 3), np.uint8)])[0].shape
    (1, 4)
    """

    def __init__(self, encoder: Encoder, threshold: float = THRESHOLD, size: int | None = None) -> None:
        """``encoder`` in evaluation mode; ``size``: the side at which it sees images (its input size).

        Raises ``InvalidOption`` for an encoder without spatial maps, or a threshold that is not in [0, 1).
        """
        if not 0 <= threshold < 1:
            raise InvalidOption(f"the threshold of self-localisation is {threshold}; give 0 or more and less than 1")
        if not hasattr(encoder.backbone, "spatial_maps"):
            raise InvalidOption(
                f"backbone {encoder.spec.backbone!r} has no spatial maps to find objects in; choose one that has, "
                "resnet18 or small-cnn, say"
            )
        self.threshold, self.size = threshold, size or encoder.image_size
        self._encoder = encoder
        parameter = next(encoder.parameters())
        mean, std = (
            torch.tensor(v, dtype=parameter.dtype, device=parameter.device).view(1, 3, 1, 1)
            for v in (encoder.spec.mean, encoder.spec.std)
        )
        self._scale, self._shift = 1 / (255 * std), mean / std

    def prepare(self, image: Image) -> Image:
        """The image as the encoder sees it: uint8 (size, size, 3)."""
        return np.asarray(Picture.fromarray(image).resize((self.size, self.size), Picture.Resampling.BILINEAR))

    @torch.no_grad()
    def locate(self, prepared: Sequence[Image]) -> NDArray[np.float64]:
        """Boxes (n, 4), in shares of the image, of images that were prepared."""
        pixels = torch.from_numpy(np.stack(prepared)).to(self._scale.device).permute(0, 3, 1, 2)
        maps = self._encoder.spatial((pixels.to(self._scale.dtype) * self._scale - self._shift).contiguous())
        return hot_boxes(heat_maps(maps).cpu().numpy(), self.threshold)

    def detect(self, images: Sequence[Image]) -> list[Boxes]:
        """One box of shape (1, 4), xyxy, pixels, for every image; raises ``OracleError`` for an encoder gone astray."""
        prepared = [self.prepare(image) for image in images]
        found = [self.locate(prepared[i : i + BATCH]) for i in range(0, len(prepared), BATCH)]
        shares = np.concatenate(found) if found else np.zeros((0, 4))
        return [in_pixels(share, *image.shape[:2]) for share, image in zip(shares, images, strict=True)]


def in_pixels(share: NDArray[np.floating], height: int, width: int) -> Boxes:
    """A box in shares of an image as boxes (1, 4) in its pixels."""
    return (share * [width, height, width, height]).astype(np.float32)[None]


def open_self(
    encoder: Path, threshold: float = THRESHOLD, size: int | None = None, device: str = "cpu"
) -> SelfLocaliser:
    """The localiser of a finished run's encoder, the folder ``encoder``; raises what ``load_encoder`` raises."""
    try:
        from semaug.ssl_methods import load_encoder
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "the oracle `self` needs semaug-ssl-methods; pip install 'semaug-oracles[self]'"
        ) from error
    return SelfLocaliser(load_encoder(encoder)[0].to(device), threshold, size)


def write_self_guidance(
    source: ImageSource,
    out: str | os.PathLike[str],
    localiser: SelfLocaliser,
    ranks: Ranks,
    *,
    weights: str,
    readers: int = 1,
    shard_size: int = SHARD,
    on_progress: OnProgress = ignore_progress,
) -> str:
    """Write the guidance of ``source`` by an encoder in training to ``out``; returns the artifact's digest.

    Every process of ``ranks`` calls this and does its share of the shards. ``weights`` identifies the encoder: what an
    earlier call wrote of the same is kept, guidance of other weights is replaced. ``readers`` threads decode images.
    """
    manifest = Manifest(
        kind="guidance",
        items=len(source),
        shard_size=shard_size,
        config={"granularity": "object", "max_boxes": None,
                "detector": {"name": "self", "options": {"threshold": localiser.threshold, "size": localiser.size}}},
        inputs={**inputs_of(source), "encoder": weights},
        info={"spec": source.spec},
    )  # fmt: skip
    writer = _open(Path(out), manifest) if ranks.rank == 0 else None
    ranks.wait()
    with writer or ArtifactWriter(place_of(out), manifest) as shards:
        own = [s for s in shards.pending() if s % ranks.world == ranks.rank]
        _write_shards(shards, own, _Reader(source, localiser, readers), localiser, on_progress)
        ranks.wait()
        if writer is not None:
            writer.finish()
    ranks.wait()
    return Artifact.open(out, "guidance").digest


def _open(out: Path, manifest: Manifest) -> ArtifactWriter:
    """The artifact's writer, from the start where other weights made what is there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        return ArtifactWriter.open(out, manifest)
    except ArtifactMismatch:
        return ArtifactWriter.open(out, manifest, overwrite=True)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An image as the encoder sees it, and its own height and width; without pixels it is ``unreadable``."""

    key: str
    size: tuple[int, int] = (0, 0)
    pixels: Image | None = None
    unreadable: str = ""


class _Reader:
    """Reads images ahead of the encoder, in threads."""

    def __init__(self, source: ImageSource, localiser: SelfLocaliser, threads: int) -> None:
        self._source, self._localiser = source, localiser
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="semaug-read")

    def batches(self, indices: range) -> Iterator[list[_Loaded]]:
        """The images at ``indices`` in their order, ``BATCH`` at a time; the next batch is on its way."""
        parts = [indices[i : i + BATCH] for i in range(0, len(indices), BATCH)]
        ahead = self._submit(parts[0])
        for part in [*parts[1:], range(0)]:
            current, ahead = ahead, self._submit(part)
            yield [future.result() for future in current]

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, part: range) -> list[Future[_Loaded]]:
        return [self._pool.submit(self._load, i) for i in part]

    def _load(self, index: int) -> _Loaded:
        key = self._source.key(index)
        try:
            image = self._source.read(index)
        except UnreadableImage as error:
            return _Loaded(key, unreadable=str(error))
        return _Loaded(key, (image.shape[0], image.shape[1]), self._localiser.prepare(image))


def _write_shards(
    writer: ArtifactWriter, shards: Sequence[int], reader: _Reader, localiser: SelfLocaliser, on_progress: OnProgress
) -> None:
    ranges = [writer.manifest.shard_range(s) for s in shards]
    done, total = 0, sum(len(r) for r in ranges)
    try:
        for shard, indices in zip(shards, ranges, strict=True):
            started, rows, skipped = time.perf_counter(), list[Guidance](), list[Skipped]()
            for batch in reader.batches(indices):
                rows += _guidance(batch, localiser)
                skipped += [Skipped(key=b.key, reason=b.unreadable) for b in batch if b.pixels is None]
                done += len(batch)
                on_progress(Progress("self guidance", done, total))
            costs = ShardCosts(seconds=time.perf_counter() - started, peak_memory=peak_memory())
            writer.write(shard, guidance_columns(rows), skipped=skipped, costs=costs)
    finally:
        reader.close()


def _guidance(batch: Sequence[_Loaded], localiser: SelfLocaliser) -> list[Guidance]:
    whole = [b for b in batch if b.pixels is not None]
    if not whole:
        return []
    shares = localiser.locate([b.pixels for b in whole if b.pixels is not None])
    rows = []
    for image, share in zip(whole, shares, strict=True):
        boxes = usable_boxes(in_pixels(share, *image.size), *image.size)
        rows.append(Guidance(image.key, *image.size, boxes=boxes, fallback=len(boxes) == 0))
    return rows


def weights_digest(encoder: Encoder) -> str:
    """What identifies an encoder's weights and statistics: 32 hex digits."""
    return hash_columns({name: t.detach().cpu().numpy() for name, t in encoder.backbone.state_dict().items()})
