"""Test images taken out of the training images, where none were given: copies and near copies stay on one side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.shards import Workers
from semaug.artifacts.sources import ImageSource, labels_of, open_source
from semaug.artifacts.sources.base import Source, content_hash
from semaug.studies.study.data import DataSet, held_out_share

SEED = 0
"""One split a set of images, whatever the seeds of the runs."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which images are ``test`` (positions), among how many ``groups`` of copies, of which ``copies`` images share one
    with another image."""

    source: str
    share: float
    test: tuple[int, ...]
    images: int
    groups: int
    copies: int


class Part(Source):
    """Some images of a source, under their own keys. The fingerprint stays that of all images, so that guidance made
    on all of them fits; ``pixels`` says which these are."""

    def __init__(self, whole: ImageSource, rows: Sequence[int]) -> None:
        self.whole, self.rows = whole, [int(row) for row in rows]
        self.spec, self.class_names = whole.spec, whole.class_names

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        return self.whole.key(self.rows[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.whole.read(self.rows[index])

    def label(self, index: int) -> int | None:
        return self.whole.label(self.rows[index])

    def encoded(self, index: int) -> bytes | None:
        encoded = getattr(self.whole, "encoded", None)
        found: bytes | None = None if encoded is None else encoded(self.rows[index])
        return found

    @cached_property
    def fingerprint(self) -> str:
        return self.whole.fingerprint

    @property
    def pixels(self) -> str:
        keys = "\n".join(self.key(i) for i in range(len(self)))
        return f"{getattr(self.whole, 'pixels', '')}part:{content_hash(keys.encode()).hex()}"


def with_test_images(
    found: DataSet, folder: Path, workers: Workers = 1, on_progress: OnProgress = ignore_progress
) -> DataSet:
    """Packs of the two parts where the test images are to be held out of the training images; else as it is.

    Raises ``InvalidOption`` where no image can be spared, ``MissingDependency`` without imagehash.
    """
    from semaug.artifacts.pack import pack_images

    share = held_out_share(found.test)
    if share is None:
        return found
    source = open_source(found.train)
    split, paths = split_of(source, share, folder / f"{found.name}-split.json", workers, on_progress), {}
    test = set(split.test)
    parts = {"train": [i for i in range(len(source)) if i not in test], "test": list(split.test)}
    for name, rows in parts.items():
        part, path = Part(source, rows), folder / f"{found.name}-{name}.zarr"
        layout: Any = "raw" if part.encoded(0) is None else "auto"
        pack_images(part, path, format=layout, workers=workers, on_progress=on_progress)
        paths[name] = str(path.resolve())
    return replace(found, train=paths["train"], test=paths["test"])


def split_of(
    source: ImageSource, share: float, record: Path, workers: Workers = 1, on_progress: OnProgress = ignore_progress
) -> Split:
    """The split of a source, as ``record`` has it or made anew and written there."""
    kept = read_split(record)
    if kept is not None and (kept.source, kept.share) == (source.fingerprint, share):
        return kept
    groups = near_copies(source, workers, on_progress)
    test = held_out_rows(labels_of(source), groups, share)
    sizes = np.unique(groups, return_counts=True)[1]
    copies = int(sizes[sizes > 1].sum())
    split = Split(source.fingerprint, share, tuple(test.tolist()), len(source), len(sizes), copies)
    with writing(record):
        record.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(record, json.dumps(asdict(split)).encode())
    return split


def read_split(record: Path) -> Split | None:
    """A split that was written; None where there is none."""
    try:
        found = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return Split(**{**found, "test": tuple(found["test"])})


def near_copies(
    source: ImageSource, workers: Workers = 1, on_progress: OnProgress = ignore_progress
) -> NDArray[np.int64]:
    """The group of each image: images of equal content, or that look alike, share one. int64 (n,)."""
    from semaug.pairs_dataset.image_hashes import hash_images

    hashes = hash_images(
        source,
        range(len(source)),
        threads=workers if isinstance(workers, int) else 1,
        stage="look for copies",
        on_progress=on_progress,
    )
    first: dict[bytes, int] = {}
    equal = [(row, first.setdefault(hashes.content_of(row), row)) for row in range(len(source))]
    return groups_of(len(source), _pairs(equal, hashes.matches(hashes)))


def _pairs(equal: Sequence[tuple[int, int]], alike: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    yield from equal
    yield from alike


def groups_of(count: int, pairs: Iterator[tuple[int, int]]) -> NDArray[np.int64]:
    """Numbers of the connected parts of a graph of ``count`` points.

    >>> groups_of(4, iter([(0, 2)])).tolist()
    [0, 1, 0, 3]
    """
    root = list(range(count))

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for a, b in pairs:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    return np.array([find(row) for row in range(count)], np.int64)


def held_out_rows(labels: NDArray[np.int64], groups: NDArray[np.int64], share: float) -> NDArray[np.intp]:
    """Sorted rows to test on: whole groups, at random, up to ``share`` of every class (the class of a group's first
    image); images without a label are a class. Raises ``InvalidOption`` where that is none.

    >>> held_out_rows(np.zeros(4, np.int64), np.array([0, 0, 2, 3]), 0.25).shape
    (1,)
    """
    names, counts = np.unique(labels, return_counts=True)
    found = zip(names.tolist(), counts.tolist(), strict=True)
    wanted = {name: min(count - 1, round(share * count)) for name, count in found}
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    chosen: list[int] = []
    for group in generator(SEED, "held-out").permutation(sorted(members)).tolist():
        rows, label = members[group], int(labels[members[group][0]])
        if len(rows) <= wanted[label]:
            chosen += rows
            wanted[label] -= len(rows)
    if not chosen:
        raise InvalidOption(
            f"{len(labels)} images of {len(names)} classes spare none to test on ({share:g} of each class); give --test"
        )
    return np.array(sorted(chosen), np.intp)
