"""Frozen features of an image source: what every probe reads.

Images are prepared as the papers' evaluations do (spec S1.9): the short side resized with antialiasing, then the
centre square. From 128 pixels on the square is 224/256 of the short side (resize 256, crop 224); below that it is
the whole short side, so that CIFAR's 32 and STL's 96 pixels are used as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.memory import keep_freed_memory
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.schemas import Skipped
from semaug.artifacts.sources.protocol import ImageSource
from semaug.artifacts.tables.protocol import TableSource
from semaug.eval.errors import EvaluationError

Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
Unit = TypeVar("Unit")
Loaded = TypeVar("Loaded")
UNLABELLED = -1
LARGE_INPUT = 128
LARGE_CROP = 224 / 256
_UNIT = 32  # images a thread takes at a time


@dataclass(frozen=True, slots=True)
class Features:
    """Frozen features of n images.

    ``features`` is float32 (n, d), ``projections`` float32 (n, p) or None, ``labels`` int64 (n,) with -1 for images
    without a class, ``class_names`` what the labels index. ``skipped`` lists images that could not be read; they
    have no row. ``notes`` say what a reader of any result must know, such as images that were enlarged. Both matrices
    may be mapped from files (``feature_store.open_features``): what reads them in chunks needs no memory for them.

    >>> Features(np.eye(2, dtype=np.float32), None, np.array([0, 1]), ("a.jpg", "b.jpg"), ("cat", "dog")).classes
    2
    """

    features: NDArray[np.float32]
    projections: NDArray[np.float32] | None
    labels: NDArray[np.int64]
    keys: tuple[str, ...]
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

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


@dataclass(frozen=True, slots=True)
class Preparation:
    """How an image becomes an encoder's input: the centre square resized to ``input_size`` pixels, then normalised.

    ``mean`` and ``std`` are of RGB in [0, 1]; ``crop`` is the share of the short side that the square keeps.
    """

    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float

    @classmethod
    def of(cls, input_size: int, mean: Sequence[float], std: Sequence[float], crop: float | None = None) -> Preparation:
        """The papers' preparation for this input size, unless ``crop`` says otherwise."""
        return cls(input_size, tuple(mean), tuple(std), default_crop(input_size) if crop is None else crop)


def enlarged_note(sizes: NDArray[np.int32], input_size: int) -> tuple[str, ...]:
    """A note where images of these (height, width), shape (n, 2), are smaller than the encoder's input."""
    count = int((sizes.min(axis=1, initial=input_size) < input_size).sum())
    if not count:
        return ()
    return (f"{count:,} of {len(sizes):,} images are smaller than the encoder's {input_size} pixels and were enlarged",)


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
    channels last in memory on a CPU, and returns features (b, d) and projections (b, p) or None. A
    ``torch.nn.Module`` is put into evaluation mode for the call; any other callable must see to its own batch
    normalisation. ``workers`` threads read images ahead. ``limit`` keeps a seeded random subset. Unreadable images are
    listed in ``skipped``.

    Raises ``EvaluationError`` where no image could be read.
    """
    indices = chosen_items(len(source), limit, seed)
    preparation = Preparation.of(input_size, mean, std, crop)
    steps = embed_groups(
        encode, source, [indices], preparation, batch_size=batch_size, workers=workers, device=device,
        on_progress=on_progress,
    )  # fmt: skip
    (rows,) = steps
    if not rows.keys:
        raise nothing_readable(source)
    return Features(
        rows.features, rows.projections, rows.labels, rows.keys, source.class_names, rows.skipped,
        enlarged_note(rows.sizes, input_size),
    )  # fmt: skip


def nothing_readable(source: ImageSource | TableSource) -> EvaluationError:
    """The error of a source without one image that can be read."""
    return EvaluationError(
        f"none of {len(source)} images of {source.spec} could be read; `semaug data index` lists why"
    )


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """Features of some images, as ``Features`` holds them, and ``sizes`` int32 (n, 2), their height and width."""

    features: NDArray[np.float32]
    projections: NDArray[np.float32] | None
    labels: NDArray[np.int64]
    keys: tuple[str, ...]
    sizes: NDArray[np.int32]
    skipped: tuple[Skipped, ...]


def embed_groups(
    encode: Encode,
    source: ImageSource,
    groups: Sequence[Sequence[int]],
    preparation: Preparation,
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    on_progress: OnProgress = ignore_progress,
    done: int = 0,
) -> Iterator[EmbeddedRows]:
    """Features of groups of images, a group at a time, read ahead from one group into the next.

    A batch never joins images of two groups, so that a group's features do not depend on the others. ``done`` images
    of an earlier run count as finished in ``on_progress``. A module is put into evaluation mode for the time being.
    """
    if device == "cpu":
        keep_freed_memory()
    normalise = _Normaliser(preparation, device)
    total = done + sum(map(len, groups))
    collected = _Collected()
    with evaluation_mode(encode):
        for batch, ends in _batches(source, groups, batch_size, workers, preparation):
            if batch.images:
                with torch.inference_mode():
                    collected.add(batch, *encode(normalise(np.stack(batch.images))))
            collected.skipped += batch.skipped
            on_progress(Progress("embed", done + collected.done, total))
            if ends:
                done += collected.done
                yield collected.finish()
                collected = _Collected()


def chosen_items(total: int, limit: int | None, seed: int) -> list[int]:
    """All of ``total`` items, or a seeded random subset of ``limit``, in order."""
    if limit is None or limit >= total:
        return list(range(total))
    if limit < 1:
        raise EvaluationError(f"a limit of {limit} images; give at least 1, or none")
    return sorted(generator(seed, "embed-limit").permutation(total)[:limit].tolist())


class _Normaliser:
    """uint8 (b, h, w, 3) to normalised float32 (b, 3, h, w) on the device; on a CPU channels stay last in memory,
    which saves convolutions a fifth of their time."""

    def __init__(self, preparation: Preparation, device: str) -> None:
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (preparation.mean, preparation.std))
        self.device = device
        self.scale = (1 / (255 * std)).view(1, 3, 1, 1).to(device)
        self.shift = (mean / std).view(1, 3, 1, 1).to(device)

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
        layout = torch.preserve_format if self.device == "cpu" else torch.contiguous_format
        return pixels.to(torch.float32, memory_format=layout).mul_(self.scale).sub_(self.shift)


@dataclass(slots=True)
class _Batch:
    images: list[NDArray[np.uint8]]
    labels: list[int]
    keys: list[str]
    sizes: list[tuple[int, int]]
    skipped: list[Skipped]

    @classmethod
    def empty(cls) -> _Batch:
        return cls([], [], [], [], [])

    def extend(self, other: _Batch) -> None:
        for name in _Batch.__slots__:
            getattr(self, name).extend(getattr(other, name))


class _Collected:
    """Rows of a group gathered so far."""

    def __init__(self) -> None:
        self.rows = _Batch.empty()
        self.features: list[NDArray[np.float32]] = []
        self.projections: list[NDArray[np.float32]] = []
        self.skipped: list[Skipped] = []

    @property
    def done(self) -> int:
        return len(self.rows.keys) + len(self.skipped)

    def add(self, batch: _Batch, features: torch.Tensor, projections: torch.Tensor | None) -> None:
        self.features.append(features.float().cpu().numpy())
        if projections is not None:
            self.projections.append(projections.float().cpu().numpy())
        for name in ("labels", "keys", "sizes"):
            getattr(self.rows, name).extend(getattr(batch, name))

    def finish(self) -> EmbeddedRows:
        return EmbeddedRows(
            np.concatenate(self.features) if self.features else np.zeros((0, 0), np.float32),
            np.concatenate(self.projections) if self.projections else None,
            np.asarray(self.rows.labels, dtype=np.int64),
            tuple(self.rows.keys),
            np.asarray(self.rows.sizes, dtype=np.int32).reshape(-1, 2),
            tuple(self.skipped),
        )


def _batches(
    source: ImageSource, groups: Sequence[Sequence[int]], batch_size: int, workers: int, preparation: Preparation
) -> Iterator[tuple[_Batch, bool]]:
    """Batches of the groups in order, each with whether it is its group's last (an empty group has an empty one)."""

    def load(unit: tuple[Sequence[int], bool]) -> tuple[_Batch, bool]:
        return _load(source, unit[0], preparation), unit[1]

    size = min(batch_size, _UNIT)
    waiting = _Batch.empty()
    for unit, ends in _ahead(load, _units(groups, size), workers, window=workers + 2 * batch_size // size):
        waiting.extend(unit)
        if ends or len(waiting.images) >= batch_size:
            yield waiting, ends
            waiting = _Batch.empty()


def _units(groups: Sequence[Sequence[int]], size: int) -> Iterator[tuple[Sequence[int], bool]]:
    for group in groups:
        for start in range(0, max(1, len(group)), size):
            yield group[start : start + size], start + size >= len(group)


def _load(source: ImageSource, indices: Sequence[int], preparation: Preparation) -> _Batch:
    loaded = _Batch.empty()
    for index in indices:
        key = source.key(index)
        try:
            image = source.read(index)
        except UnreadableImage as error:
            loaded.skipped.append(Skipped(key=key, reason=str(error)))
            continue
        label = source.label(index)
        loaded.images.append(prepare(image, preparation.input_size, preparation.crop))
        loaded.labels.append(UNLABELLED if label is None else label)
        loaded.keys.append(key)
        loaded.sizes.append((image.shape[0], image.shape[1]))
    return loaded


def _ahead(load: Callable[[Unit], Loaded], units: Iterable[Unit], workers: int, window: int) -> Iterator[Loaded]:
    """Results of ``load`` in order, read ahead by threads (decoding and resizing release the interpreter's lock)."""
    if workers == 0:
        yield from map(load, units)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="semaug-read") as pool:
        following = iter(units)
        pending = deque(pool.submit(load, unit) for unit in islice(following, window))
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(load, unit) for unit in islice(following, 1))
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def evaluation_mode(encode: Encode) -> Iterator[None]:
    """Put a module into evaluation mode, and back; anything else is left as it is."""
    if not isinstance(encode, torch.nn.Module):
        yield
        return
    training = encode.training
    encode.eval()
    try:
        yield
    finally:
        encode.train(training)
