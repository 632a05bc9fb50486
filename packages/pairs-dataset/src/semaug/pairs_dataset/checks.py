"""``semaug pairs check``: what is wrong with a set of pairs, and what its user should know (spec S3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.schemas import SemanticPair
from semaug.artifacts.sources import ImageSource
from semaug.pairs_dataset.class_list import ClassList
from semaug.pairs_dataset.image_hashes import ImageHashes, hash_images
from semaug.pairs_dataset.pair_table import PairTable

FindingKind = Literal[
    "missing", "unreadable", "same_image", "not_same_image", "different_classes", "duplicate_pair", "count", "leak",
    "reused", "classes", "other_images",
]  # fmt: skip
WARNINGS = ("reused", "classes")
"""Kinds that a sound set of pairs may have."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: its kind, the pair, image or class it is about, and a sentence."""

    kind: FindingKind
    about: str
    text: str

    @property
    def is_problem(self) -> bool:
        """Whether it should be mended, or is only told."""
        return self.kind not in WARNINGS


@dataclass(frozen=True)
class PairCheck:
    """What was counted and found. ``counts`` are pairs by class, ``uses`` images by the number of pairs they are in."""

    pairs: int
    images: int
    counts: dict[str, int]
    uses: dict[int, int]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What should be mended."""
        return tuple(found for found in self.findings if found.is_problem)

    @property
    def bad(self) -> tuple[str, ...]:
        """The pair ids and image keys that problems are about: what ``build_pairs`` can leave out."""
        return tuple(
            dict.fromkeys(found.about for found in self.problems if found.kind not in ("count", "other_images"))
        )

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What the user should know."""
        return tuple(found for found in self.findings if not found.is_problem)


def check_pairs(
    table: PairTable,
    source: ImageSource,
    *,
    per_class: int = 157,
    against: Sequence[ImageSource] = (),
    class_list: ClassList | None = None,
    threads: int = 2,
    on_progress: OnProgress = ignore_progress,
) -> PairCheck:
    """Check ``table`` on its images, and that none of them is in the evaluation sets ``against``.

    The same picture is found by the hash of its content and, resized or compressed anew, by a perceptual hash and its
    colours. ``per_class`` 0 takes any count. Raises ``MissingDependency`` without imagehash.
    """
    number = {source.key(i): i for i in range(len(source))}
    present = [key for key in table.images if key in number]
    hashes = hash_images(
        source, [number[key] for key in present], threads=threads, stage="hash pairs", on_progress=on_progress
    )
    images = _Images(source, number, {key: row for row, key in enumerate(present)}, hashes)
    findings = [
        *_other_images(table, images),
        *_missing(table, images),
        *_same_images(table, images),
        *_different_classes(table, images, class_list),
        *_duplicates(table, images),
        *_wrong_counts(table, per_class),
        *_reused(table),
    ]
    for other in against:
        rows = range(len(other))
        theirs = hash_images(other, rows, threads=threads, stage=f"hash {other.spec}", on_progress=on_progress)
        findings += _leaks(present, hashes, other, theirs)
    if class_list is not None:
        findings += [Finding("classes", "", text) for text in class_list.warnings(table.by_class)]
    counts = {name: len(rows) for name, rows in table.by_class.items()}
    uses = Counter(_uses(table).values())
    return PairCheck(len(table), len(table.images), counts, dict(sorted(uses.items())), tuple(findings))


@dataclass(frozen=True)
class _Images:
    source: ImageSource
    number: dict[str, int]
    row: dict[str, int]
    hashes: ImageHashes

    def content(self, key: str) -> bytes:
        """The content hash of an image, or its key where there is no content."""
        return self.hashes.content_of(self.row[key]) if key in self.row else key.encode()

    def class_name(self, key: str) -> str | None:
        """What the source says it is, where it says something."""
        label = self.source.label(self.number[key]) if key in self.number else None
        return None if label is None else self.source.class_names[label]


def _other_images(table: PairTable, images: _Images) -> Iterator[Finding]:
    """Where images have the names of the pairs' images and are others; with missing ones, those say enough."""
    made_of, given = table.source, images.source.fingerprint
    if made_of and made_of != given and all(key in images.row for key in table.images):
        text = f"the pairs were made of images {made_of}, {images.source.spec} is {given}; give the same images"
        yield Finding("other_images", "", text)


def _missing(table: PairTable, images: _Images) -> Iterator[Finding]:
    for key in table.images:
        if key not in images.row:
            yield Finding("missing", key, f"{key} is not among the images of {images.source.spec}")
        elif (reason := images.hashes.reasons.get(images.row[key])) is not None:
            yield Finding("unreadable", key, f"{key} cannot be read: {reason}")


def _same_images(table: PairTable, images: _Images) -> Iterator[Finding]:
    """Two images of a pair that are one; of a control that pairs an image with itself, those that are not."""
    doubled = table.form in ("augmented", "all-images")
    for pair in table.rows:
        if doubled:
            if pair.image_a != pair.image_b:
                text = f"pair {pair.pair_id} of a set of {table.form} pairs has two images, {_both(pair)}"
                yield Finding("not_same_image", pair.pair_id, text)
        elif images.content(pair.image_a) == images.content(pair.image_b):
            yield Finding("same_image", pair.pair_id, f"pair {pair.pair_id} has one image twice: {_both(pair)}")
        elif images.row.keys() >= {pair.image_a, pair.image_b} and images.hashes.alike(
            images.row[pair.image_a], images.hashes, images.row[pair.image_b]
        ):
            text = f"pair {pair.pair_id} shows one picture twice, to look at: {_both(pair)}"
            yield Finding("same_image", pair.pair_id, text)


def _both(pair: SemanticPair) -> str:
    return f"{pair.image_a} and {pair.image_b}"


def _different_classes(table: PairTable, images: _Images, class_list: ClassList | None) -> Iterator[Finding]:
    def plain(name: str) -> str:
        found = class_list.find(name) if class_list is not None else None
        return name if found is None else found.name

    for pair in table.rows:
        names = [images.class_name(key) for key in (pair.image_a, pair.image_b)]
        if {plain(name) for name in (*names, pair.class_name) if name is not None} != {plain(pair.class_name)}:
            told = " and ".join(name or "none" for name in names)
            text = f"pair {pair.pair_id} is of class {pair.class_name}, its images of {told}: {_both(pair)}"
            yield Finding("different_classes", pair.pair_id, text)


def _duplicates(table: PairTable, images: _Images) -> Iterator[Finding]:
    """Pairs of the same two images, either way round and under whatever names."""
    first: dict[frozenset[bytes], str] = {}
    for pair in table.rows:
        ends = frozenset((images.content(pair.image_a), images.content(pair.image_b)))
        if ends in first and table.form != "augmented":
            text = f"pair {pair.pair_id} has the images of pair {first[ends]}: {_both(pair)}"
            yield Finding("duplicate_pair", pair.pair_id, text)
        first.setdefault(ends, pair.pair_id)


def _wrong_counts(table: PairTable, per_class: int) -> Iterator[Finding]:
    if not per_class or table.form == "all-images":
        return
    for name, rows in table.by_class.items():
        if len(rows) != per_class:
            yield Finding("count", name, f"class {name} has {len(rows)} pairs, {per_class} are wanted")


def _uses(table: PairTable) -> Counter[str]:
    return Counter(key for pair in table.rows for key in {pair.image_a, pair.image_b})


def _reused(table: PairTable) -> Iterator[Finding]:
    often = [(key, n) for key, n in _uses(table).most_common() if n > 1]
    if often:
        key, most = often[0]
        text = f"{len(often)} of {len(table.images)} images are in several pairs, {key} in {most}"
        yield Finding("reused", key, text)


def _leaks(keys: Sequence[str], ours: ImageHashes, other: ImageSource, theirs: ImageHashes) -> Iterator[Finding]:
    content: dict[bytes, int] = {theirs.content_of(i): i for i in range(len(other)) if i not in theirs.reasons}
    exact = {row: content[found] for row in range(len(keys)) if (found := ours.content_of(row)) in content}
    for row, index in exact.items():
        yield Finding("leak", keys[row], f"{keys[row]} is {other.key(index)} of the evaluation set {other.spec}")
    told = set(exact)
    for row, index in ours.matches(theirs):
        if row not in told:
            told.add(row)
            text = f"{keys[row]} looks like {other.key(index)} of the evaluation set {other.spec}"
            yield Finding("leak", keys[row], text)


def counts_text(check: PairCheck) -> str:
    """Pairs a class in few words: the number where all have the same, else the range."""
    counts = np.array(list(check.counts.values()) or [0])
    return f"{counts[0]}" if (counts == counts[0]).all() else f"{counts.min()} to {counts.max()}"
