"""Sets of semantic pairs: an artifact of kind ``pairs``, or its twin as JSON lines or CSV; both ways without loss."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.outside import reading
from semaug.artifacts.ragged import pack_strings, unpack_strings
from semaug.artifacts.reader import Artifact, ShardColumns, hash_columns
from semaug.artifacts.schemas import FORMS, TAGS, VERDICTS, Manifest, PairForm, SemanticPair
from semaug.artifacts.sources import ImageSource
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter
from semaug.pairs_dataset.errors import NoPairs

SHARD_SIZE = 8192
_TEXTS = ("class_name", "image_a", "image_b", "curator", "time", "provenance")
_SCORE = "score_"


def score_names(rows: Iterable[SemanticPair]) -> tuple[str, ...]:
    """The names of all score parts that occur, sorted."""
    return tuple(sorted({name for row in rows for name in row.scores}))


def pair_columns(rows: Sequence[SemanticPair], scores: Sequence[str]) -> dict[str, NDArray]:
    """Columns of one shard: texts ragged, tags as bits (n,) uint8, verdict codes, float64 scores (NaN for none)."""
    columns: dict[str, NDArray] = {**pack_strings("key", [row.pair_id for row in rows])}
    for name in _TEXTS:
        columns |= pack_strings(name, [getattr(row, name) for row in rows])
    columns["tags"] = np.array([sum(1 << TAGS.index(tag) for tag in row.tags) for row in rows], np.uint8)
    columns["verdict"] = np.array([VERDICTS.index(row.verdict) for row in rows], np.uint8)
    for name in scores:
        columns[_SCORE + name] = np.array([row.scores.get(name, np.nan) for row in rows], np.float64)
    return columns


def pair_rows(columns: ShardColumns | Mapping[str, NDArray], scores: Sequence[str]) -> list[SemanticPair]:
    """The pairs of one shard."""
    texts = {name: unpack_strings(columns, name) for name in _TEXTS}
    tags, verdicts = columns["tags"].tolist(), columns["verdict"].tolist()
    parts = {name: columns[_SCORE + name].tolist() for name in scores}
    return [
        SemanticPair(
            pair_id,
            tags=tuple(tag for bit, tag in enumerate(TAGS) if tags[i] >> bit & 1),
            verdict=VERDICTS[verdicts[i]],
            scores={name: values[i] for name, values in parts.items() if values[i] == values[i]},
            **{name: values[i] for name, values in texts.items()},
        )
        for i, pair_id in enumerate(unpack_strings(columns, "key"))
    ]


@dataclass(frozen=True)
class PairTable:
    """Pairs in order; ``digest`` identifies what they were read from, ``source`` is their images' fingerprint.

    ``form`` says what the set is. Raises ``InvalidOption`` for an id that stands twice.
    """

    rows: tuple[SemanticPair, ...] = field(repr=False)
    form: PairForm = "semantic"
    digest: str = ""
    source: str = ""
    manifest: Manifest | None = None

    def __post_init__(self) -> None:
        if len({row.pair_id for row in self.rows}) < len(self.rows):
            twice = Counter(row.pair_id for row in self.rows).most_common(1)[0][0]
            raise InvalidOption(f"the pair id {twice!r} stands twice; give each pair an id of its own")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PairTable:
        """Read an artifact, or a ``.jsonl`` or ``.csv`` file; raises ``ArtifactError`` or ``InvalidOption``."""
        path = Path(path)
        if path.suffix.lower() in (".jsonl", ".csv"):
            from semaug.pairs_dataset.pair_exchange import read_pairs

            return cls.of(read_pairs(path))
        artifact = Artifact.open(path, "pairs")
        config = artifact.manifest.config
        if config.get("form") not in FORMS or not isinstance(config.get("scores"), list):
            raise ArtifactError(f"the manifest of {path} names no form and scores of pairs; build it again")
        with reading(path):
            rows = [r for m in artifact.markers for r in pair_rows(artifact.shard(m.shard), config["scores"])]
        inputs = artifact.manifest.inputs
        return cls(tuple(rows), config["form"], artifact.digest, inputs.get("source", ""), artifact.manifest)

    @classmethod
    def of(cls, rows: Iterable[SemanticPair], form: PairForm = "semantic", source: str = "") -> PairTable:
        """A table of pairs that are already in memory."""
        rows = tuple(rows)
        return cls(rows, form, hash_columns(pair_columns(rows, score_names(rows))), source)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Every image once, by key, in order of first use."""
        return tuple(dict.fromkeys(key for row in self.rows for key in (row.image_a, row.image_b)))

    @cached_property
    def by_class(self) -> dict[str, tuple[SemanticPair, ...]]:
        """The pairs of each class, classes and pairs in order."""
        groups: dict[str, list[SemanticPair]] = {}
        for row in self.rows:
            groups.setdefault(row.class_name, []).append(row)
        return {name: tuple(rows) for name, rows in groups.items()}

    def with_verdict(self, verdict: str) -> PairTable:
        """The pairs of one verdict."""
        return PairTable.of((r for r in self.rows if r.verdict == verdict), self.form, self.source)

    def without(self, names: Collection[str]) -> PairTable:
        """The pairs that are not named, neither by their own id nor by one of their images."""
        names = frozenset(names)
        kept = (r for r in self.rows if names.isdisjoint((r.pair_id, r.image_a, r.image_b)))
        return PairTable.of(kept, self.form, self.source)

    def first(self, per_class: int) -> PairTable:
        """The first ``per_class`` pairs of each class, in order: of proposals, the best."""
        kept = {row.pair_id for rows in self.by_class.values() for row in rows[:per_class]}
        return PairTable.of((r for r in self.rows if r.pair_id in kept), self.form, self.source)

    def subset(self, per_class: int, seed: int = 0) -> PairTable:
        """The first ``per_class`` pairs of each class after a seeded shuffle, so that smaller subsets are nested.

        The shuffle looks at ids alone: neither the order of the rows nor the other classes change it.
        """
        kept: set[str] = set()
        for name, rows in self.by_class.items():
            ids = sorted(row.pair_id for row in rows)
            order = generator(seed, "pair-subset", key=name).permutation(len(ids))
            kept.update(ids[i] for i in order[:per_class])
        return PairTable.of((r for r in self.rows if r.pair_id in kept), self.form, self.source)

    def require_source(self, fingerprint: str) -> None:
        """Refuse pairs that were made of other images."""
        if self.source and self.source != fingerprint:
            raise ArtifactError(
                f"the pairs were made of images {self.source}, these are {fingerprint}; "
                "give the images they were built from"
            )

    def __len__(self) -> int:
        return len(self.rows)


def write_pairs(
    table: PairTable,
    out: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ArtifactSummary:
    """Write the ``pairs`` artifact of ``table``.

    ``config``, ``inputs`` and ``seed`` say how it was made; the rows' own digest is added to the inputs, so that other
    rows are another artifact. Raises ``NoPairs`` for an empty table and what ``ArtifactWriter.open`` raises.
    """
    if not len(table):
        raise NoPairs("there are no pairs to write; accept some, or ask for less")
    names = score_names(table.rows)
    digest = hash_columns(pair_columns(table.rows, names))
    manifest = Manifest(
        kind="pairs",
        items=len(table),
        shard_size=SHARD_SIZE,
        seed=seed,
        config={**(config or {}), "form": table.form, "scores": list(names)},
        inputs={**(inputs or {}), **({"source": table.source} if table.source else {}), "rows": digest},
        info={**(info or {}), "classes": len(table.by_class), "images": len(table.images)},
    )
    with ArtifactWriter.open(out, manifest, overwrite=overwrite) as writer:
        for shard in writer.pending():
            span = manifest.shard_range(shard)
            writer.write(shard, pair_columns(table.rows[span.start : span.stop], names))
        return writer.finish()


def import_pairs(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    source: ImageSource | None = None,
    form: PairForm = "semantic",
    overwrite: bool = False,
) -> tuple[ArtifactSummary, int]:
    """Write the artifact of a ``.jsonl`` or ``.csv`` file; returns its summary and how many images ``source`` lacks.

    Raises ``InvalidOption`` where ``source`` has none of the images, and what ``read_pairs`` and ``write_pairs`` raise.
    """
    from semaug.pairs_dataset.pair_exchange import read_pairs

    table = PairTable.of(read_pairs(file), form, source.fingerprint if source is not None else "")
    missing = 0
    if source is not None and len(table):
        known = {source.key(i) for i in range(len(source))}
        missing = sum(key not in known for key in table.images)
        if missing == len(table.images):
            raise InvalidOption(
                f"none of the {missing} images of {file} is among the {len(source)} of {source.spec} (the first are "
                f"{table.images[0]!r} and {source.key(0)!r}); give the images that the keys name"
            )
    info = {"imported": str(file), "curated": form == "semantic"}
    return write_pairs(table, out, info=info, overwrite=overwrite), missing
