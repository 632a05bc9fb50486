"""Targets: every kind of artifact with one of its files replaced."""

from __future__ import annotations

import atexit
import shutil
import zlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.fuzzing.guard import scratch
from tests.fuzzing.images import PIXELS, encoded
from tests.fuzzing.target import Target

from semaug.artifacts.augment_table import AugmentTable, augment_columns
from semaug.artifacts.describe import describe
from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.guidance_table import GuidanceTable, guidance_columns
from semaug.artifacts.masks import decode_mask, encode_mask
from semaug.artifacts.ragged import pack_arrays, pack_bytes, pack_strings
from semaug.artifacts.schemas import Guidance, Manifest, SemanticPair, Slot, SyntheticRow, augment_row
from semaug.artifacts.sources import open_source
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.synthetic_table import SimilarityTable, SyntheticTable, synthetic_columns
from semaug.artifacts.tables import open_table
from semaug.artifacts.verify import verify
from semaug.eval.feature_store import open_features
from semaug.oracles.exchange import export_coco, export_yolo
from semaug.pairs_dataset.pair_table import PairTable, pair_columns
from semaug.prompt_synthesis.captions import Caption
from semaug.prompt_synthesis.rewriting import Rewrite
from semaug.prompt_synthesis.store import (
    CaptionTable,
    MapTable,
    PromptTable,
    caption_columns,
    map_columns,
    prompt_columns,
)
from semaug.quality_policy.table import QualityTable

KEYS = ["a.png", "b.png"]
_LABELS = {"label": np.array([0, 1], np.int32)}
_CLASSES = {"class_names": ["cat", "dog"]}
Columns = Mapping[str, NDArray[Any]]


def _images(path: Path) -> None:
    source = open_source(path)
    assert source.fingerprint
    for index in range(min(len(source), 10)):
        source.key(index)
        source.label(index)
        try:
            assert source.read(index).dtype == np.uint8
        except UnreadableImage:
            continue


def _guidance(path: Path) -> None:
    table = GuidanceTable.open(path)
    for row in table.rows.values():
        for mask in row.masks:
            decode_mask(mask)
    export_coco(path, path.parent / "out.json")
    export_yolo(path, path.parent / "out")


def _synthetic(path: Path) -> None:
    table = SyntheticTable.open(path)
    table.by_origin()
    _images(path)


def _maps(path: Path) -> None:
    table = MapTable.open(path)
    for key in KEYS:
        if key in table:
            table.classes(key)


def _features(path: Path) -> None:
    found = open_features(path)
    assert np.isfinite(np.asarray(found.features)).any() in (True, False)


def _augment_images(path: Path) -> None:
    AugmentTable.open(path).places()
    _images(path)


def _quality(path: Path) -> None:
    table = QualityTable.open(path)
    for row in range(len(table)):
        table.score(row)


def _written(place: Path, name: str, kind: Any, columns: Columns, config: Any = None, inputs: Any = None) -> Path:
    path = place / f"{name}.zarr"
    manifest = Manifest(
        kind=kind, items=len(KEYS), shard_size=4, config=config or {}, inputs={"source": "0" * 32, **(inputs or {})}
    )
    with ArtifactWriter.open(path, manifest) as writer:
        writer.write(0, columns)
        writer.finish()
    return path


def _guidance_rows() -> list[Guidance]:
    mask = encode_mask(np.eye(8, 6, dtype=bool))
    boxes = np.array([[0, 0, 4, 5]], np.float32)
    return [Guidance("a.png", 8, 6, "hybrid", boxes, (mask,)), Guidance("b.png", 8, 6, fallback=True)]


def _pairs() -> list[SemanticPair]:
    return [
        SemanticPair("p1", "cat", "a.png", "b.png", ("background",), "accept", "me", "2026-01-01", "x", {"light": 0.5}),
        SemanticPair("p2", "dog", "b.png", "a.png"),
    ]


def _kinds(place: Path) -> dict[str, Callable[[Path], Any]]:
    """Write one artifact of every kind below ``place``; name -> its reader."""
    key, two = pack_strings("key", KEYS), [PIXELS, PIXELS[:4]]
    write, made = partial(_written, place), np.stack([PIXELS, PIXELS])
    slots = [SyntheticRow(f"{k}/0", k, Slot(), "a cat", 7) for k in KEYS]
    augmented, source = [augment_row(0, k, 0) for k in KEYS], {"source": "0" * 32}
    sizes = {"size": np.array([[8, 6], [4, 6]], np.int32)}
    flat = pack_arrays("pixels", [p.reshape(-1) for p in two], np.zeros(0, np.uint8))
    statistics = {"laplacian_variance": np.ones(2), "entropy": np.ones(2)}
    write("fixed", "images", {**key, **_LABELS, "pixels": made}, _CLASSES)
    write("ragged", "images", {**key, **_LABELS, **flat, **sizes}, _CLASSES)
    files = pack_bytes("encoded", [encoded(p, "PNG") for p in two])
    write("encoded", "images", {**key, **_LABELS, **files, **sizes}, _CLASSES)
    write("guidance", "guidance", guidance_columns(_guidance_rows()))
    write("quality", "quality", {**key, **sizes, **statistics}, {"scoring": _scoring()})
    write("pairs", "pairs", pair_columns(_pairs(), ["light"]), {"form": "semantic", "scores": ["light"]})
    write("captions", "captions", caption_columns(KEYS, [Caption("a cat", False, False, 1)] * 2))
    rewrites = [Rewrite("a cat", False, (0,))] * 2
    write("prompts", "prompts", prompt_columns(KEYS, rewrites, 1), {"n_sem": 1}, {"captions": "0" * 32})
    write("maps", "mask_maps", map_columns(KEYS, [PIXELS[..., 0]] * 2))
    write("synthetic", "synthetic", synthetic_columns(slots, [PIXELS, PIXELS], [0, None], "jpeg"), _CLASSES)
    write("similarity", "similarity", {**key, "cosine": np.ones(2, np.float32)})
    augment = {"k": 1, "form": "images", "shape": [3, 6, 6], **_CLASSES}
    write("augmented", "augment", augment_columns(augmented, made[:, :6], [0, 1]), augment)
    rows = np.eye(2, 3, dtype=np.float32)
    write("rows", "augment", augment_columns(augmented, rows, [0, 1]), {**augment, "form": "rows", "shape": [3]})
    features = {"feature": np.eye(2, 3, dtype=np.float32), **_LABELS, **sizes}
    write("features", "features", {**key, **features}, {"feature_dim": 3, **_CLASSES}, source)
    return {
        "fixed": _images, "ragged": _images, "encoded": _images, "guidance": _guidance, "quality": _quality,
        "pairs": PairTable.open, "captions": CaptionTable.open, "prompts": PromptTable.open, "maps": _maps,
        "synthetic": _synthetic, "similarity": SimilarityTable.open, "augmented": _augment_images,
        "rows": lambda path: open_table(path).describe(), "features": _features,
    }  # fmt: skip


@cache
def _template() -> tuple[Path, dict[str, Callable[[Path], Any]]]:
    """One artifact of every kind, written once a process."""
    place = scratch("artifacts")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place, _kinds(place)


def _copied_kinds(place: Path) -> dict[str, Callable[[Path], Any]]:
    template, readers = _template()
    shutil.copytree(template, place, dirs_exist_ok=True)
    return readers


def _scoring() -> dict[str, Any]:
    from semaug.quality_policy.scoring import Scoring

    return Scoring().identity()


class Artifacts:
    """One artifact of every kind, of which the files that match ``pattern`` are replaced in turn.

    An input is the number of a file, in text, a line break, and the file's content. ``padded`` contents are made as
    long as the file was, so that its length does not give it away.
    """

    def __init__(self, pattern: str, padded: bool = False) -> None:
        self._pattern, self._padded = pattern, padded
        self._readers: dict[str, Callable[[Path], Any]] = {}
        self._files: list[tuple[Path, bytes]] = []

    def prepare(self, place: Path) -> tuple[bytes, ...]:
        """Write the artifacts; each replaceable file is a seed."""
        self._readers = _copied_kinds(place)
        found = sorted(p for p in place.glob(f"*.zarr/{self._pattern}") if p.is_file())
        self._files = [(p, p.read_bytes()) for p in found]
        return tuple(_framed(number, content) for number, (_, content) in enumerate(self._files))

    def parse(self, data: bytes, place: Path) -> None:
        """Replace a file, read the artifact, and put the file back."""
        head, _, content = data.partition(b"\n")
        number = int(head) if head.isdigit() and len(head) < 9 else zlib.crc32(head)
        path, kept = self._files[number % len(self._files)]
        if self._padded:
            content = (content + bytes(len(kept)))[: len(kept)]
        path.write_bytes(content)
        try:
            self._read(place / path.relative_to(place).parts[0])
        finally:
            path.write_bytes(kept)

    def _read(self, artifact: Path) -> None:
        describe(artifact)
        verify(artifact)
        self._readers[artifact.stem](artifact)


def _framed(number: int, content: bytes) -> bytes:
    return f"{number}\n".encode() + content


def _target(name: str, pattern: str, form: str, padded: bool = False) -> Target:
    artifacts = Artifacts(pattern, padded)
    return Target(name, artifacts.prepare, artifacts.parse, form)


TARGETS = (
    _target("artifact-manifest", "zarr.json", "framed-json"),
    _target("artifact-marker", "ledger/*.json", "framed-json"),
    _target("artifact-column", "shards/*/*/zarr.json", "framed-json"),
    _target("artifact-data", "shards/*/*/c/**/0", "bytes", padded=True),
)
