"""Frozen features of an image source: what every probe reads.

Images are prepared as the papers' evaluations do (spec S1.9): the short side resized with antialiasing, then the
centre square. From 128 pixels on the square is 224/256 of the short side (resize 256, crop 224); below that it is
the whole short side, so that CIFAR's 32 and STL's 96 pixels are used as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.schemas import Skipped
from semaug.artifacts.sources.protocol import ImageSource
from semaug.eval.errors import EvaluationError

Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
UNLABELLED = -1
LARGE_INPUT = 128
LARGE_CROP = 224 / 256
_UNIT = 32  # images a thread takes at a time


@dataclass(frozen=True, slots=True)
class Features:
    """Frozen features of n images.

    ``features`` is float32 (n, d), ``projections`` float32 (n, p) or None, ``labels`` int64 (n,) with -1 for images
    without a class, ``class_names`` what the labels index. ``skipped`` lists images that could not be read; they
    have no row.

    >>> Features(np.eye(2, dtype=np.float32), None, np.array([0, 1]), ("a.jpg", "b.jpg"), ("cat", "dog")).classes
    2
    """

    features: NDArray[np.float32]
    projections: NDArray[np.float32] | None
    labels: NDArray[np.int64]
    keys: tuple[str, ...]
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.features)
        rows = {"labels": len(self.labels), "keys": len(self.keys)}
        if self.projections is not None:
            rows["projections"] = len(self.projections)
        for what, count in rows.items():
            if count != n:
                raise EvaluationError(f"{n} rows of features and {count} {what}; give one of each an image")
        if self.class_names and n and self.labels.max(initial=UNLABELLED) >= len(self.class_names):
            raise EvaluationError(
                f"label {self.labels.max()} with {len(self.class_names)} class names; name every class"
            )

    def __len__(self) -> int:
        return len(self.features)

    @property
    def classes(self) -> int:
        """Number of classes that have a name, or a label where names are missing."""
        return max(len(self.class_names), int(self.labels.max(initial=UNLABELLED)) + 1)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Features:
        """The images at ``rows`` (indices or a mask of shape (n,))."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(
            self,
            features=self.features[index],
            projections=None if self.projections is None else self.projections[index],
            labels=self.labels[index],
            keys=tuple(self.keys[i] for i in index),
        )

    def labelled(self) -> Features:
        """The images that have a label: what a probe may read."""
        return self if np.all(self.labels >= 0) else self.take(self.labels >= 0)


def prepare(image: NDArray[np.uint8], input_size: int, crop: float) -> NDArray[np.uint8]:
    """Resize the short side to ``input_size / crop`` and take the centre ``input_size`` square, in one resampling.

    ``image`` is uint8 (h, w, 3); the result uint8 (input_size, input_size, 3), antialiased bilinear. ``crop`` is the
    share of the short side that the square keeps, in (0, 1].
    """
    height, width = image.shape[:2]
    if height == width == input_size and crop == 1:
        return image
    side = min(height, width) * crop
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    resized = Image.fromarray(image).resize((input_size, input_size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def default_crop(input_size: int) -> float:
    """The share of the short side the papers keep: 224/256 from 128 pixels on, all of it below."""
    return LARGE_CROP if input_size >= LARGE_INPUT else 1.0


def embed(
    encode: Encode,
    source: ImageSource,
    *,
    input_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    limit: int | None = None,
    seed: int = 0,
    crop: float | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Features:
    """Features of every readable image of a source, in the source's order.

    ``encode`` takes float32 (b, 3, input_size, input_size), scaled to [0, 1] and normalised by ``mean`` and ``std``,
    and returns features (b, d) and projections (b, p) or None. A ``torch.nn.Module`` is put into evaluation mode for
    the call; any other callable must see to its own batch normalisation. ``workers`` threads read images ahead.
    ``limit`` keeps a seeded random subset. Unreadable images are listed in ``skipped``.

    Raises ``EvaluationError`` where no image could be read.
    """
    indices = _chosen(len(source), limit, seed)
    collected = _Collected(source.class_names)
    crop = default_crop(input_size) if crop is None else crop
    normalise = _Normaliser(mean, std, device)
    with torch.inference_mode(), _evaluation_mode(encode):
        for batch in _batches(source, indices, batch_size, workers, input_size, crop):
            if batch.images:
                collected.add(batch, *encode(normalise(np.stack(batch.images))))
            collected.skipped += batch.skipped
            on_progress(Progress("embed", collected.done, len(indices)))
    if not collected.keys:
        raise EvaluationError(
            f"none of {len(indices)} images of {source.spec} could be read; `semaug data index` lists why"
        )
    return collected.finish()


def _chosen(total: int, limit: int | None, seed: int) -> list[int]:
    if limit is None or limit >= total:
        return list(range(total))
    if limit < 1:
        raise EvaluationError(f"a limit of {limit} images; give at least 1, or none")
    return sorted(generator(seed, "embed-limit").permutation(total)[:limit].tolist())


class _Normaliser:
    """uint8 (b, h, w, 3) to normalised float32 (b, 3, h, w) on the device."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: str) -> None:
        self.device = device
        self.scale = (1 / (255 * torch.tensor(std, dtype=torch.float32))).view(1, 3, 1, 1).to(device)
        self.shift = (torch.tensor(mean) / torch.tensor(std)).float().view(1, 3, 1, 1).to(device)

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
        return (pixels.float() * self.scale - self.shift).contiguous()


@dataclass(slots=True)
class _Batch:
    images: list[NDArray[np.uint8]]
    labels: list[int]
    keys: list[str]
    skipped: list[Skipped]


class _Collected:
    """Rows gathered so far."""

    def __init__(self, class_names: tuple[str, ...]) -> None:
        self.class_names = class_names
        self.features: list[NDArray[np.float32]] = []
        self.projections: list[NDArray[np.float32]] = []
        self.labels: list[int] = []
        self.keys: list[str] = []
        self.skipped: list[Skipped] = []

    @property
    def done(self) -> int:
        return len(self.keys) + len(self.skipped)

    def add(self, batch: _Batch, features: torch.Tensor, projections: torch.Tensor | None) -> None:
        self.features.append(features.float().cpu().numpy())
        if projections is not None:
            self.projections.append(projections.float().cpu().numpy())
        self.labels += batch.labels
        self.keys += batch.keys

    def finish(self) -> Features:
        return Features(
            np.concatenate(self.features),
            np.concatenate(self.projections) if self.projections else None,
            np.asarray(self.labels, dtype=np.int64),
            tuple(self.keys),
            self.class_names,
            tuple(self.skipped),
        )


def _batches(
    source: ImageSource, indices: list[int], batch_size: int, workers: int, input_size: int, crop: float
) -> Iterator[_Batch]:
    def load(unit: list[int]) -> _Batch:
        loaded = _Batch([], [], [], [])
        for index in unit:
            key = source.key(index)
            try:
                loaded.images.append(prepare(source.read(index), input_size, crop))
            except UnreadableImage as error:
                loaded.skipped.append(Skipped(key=key, reason=str(error)))
                continue
            label = source.label(index)
            loaded.labels.append(UNLABELLED if label is None else label)
            loaded.keys.append(key)
        return loaded

    size = min(batch_size, _UNIT)
    units = [indices[start : start + size] for start in range(0, len(indices), size)]
    waiting = _Batch([], [], [], [])
    for unit in _ahead(load, units, workers, window=workers + 2 * batch_size // size):
        for name in _Batch.__slots__:
            getattr(waiting, name).extend(getattr(unit, name))
        if len(waiting.images) >= batch_size:
            yield waiting
            waiting = _Batch([], [], [], [])
    yield waiting


def _ahead(load: Callable[[list[int]], _Batch], units: list[list[int]], workers: int, window: int) -> Iterator[_Batch]:
    """Results of ``load`` in order, read ahead by threads (decoding and resizing release the interpreter's lock)."""
    if workers == 0:
        yield from map(load, units)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending = deque(pool.submit(load, unit) for unit in units[:window])
        following = iter(units[window:])
        while pending:
            yield pending.popleft().result()
            for unit in following:
                pending.append(pool.submit(load, unit))
                break


@contextmanager
def _evaluation_mode(encode: Encode) -> Iterator[None]:
    if not isinstance(encode, torch.nn.Module):
        yield
        return
    training = encode.training
    encode.eval()
    try:
        yield
    finally:
        encode.train(training)
