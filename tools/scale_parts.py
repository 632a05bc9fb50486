"""What semaug holds in memory for a whole data set: seconds of the processor and bytes an image, at growing sizes.

``python tools/scale_parts.py --items 320000 1280000`` builds artifacts of that many keys without their images (the
content is drawn, the layout is the real one) and prints, for every part that looks at all images at once, the
processor's seconds, the growth of resident memory, both for a million images, and how time grew from the size before
(1.0 in proportion). Each measurement has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.schemas import ArtifactKind, Guidance, Manifest, ShardMarker
from semaug.artifacts.store import ArtifactWriter

ROWS = 16_384
MARKED_SHARDS = 150
"""Items a shard of photographs of ImageNet's size (64 MiB decoded)."""
BATCH = 4096


def keys_of(span: range) -> list[str]:
    """Keys as ImageNet's, in order: n00000001/00000001_00000042.JPEG."""
    return [f"n{i // 1300:08d}/n{i // 1300:08d}_{i:08d}.JPEG" for i in span]


def _index_rows(span: range) -> dict[str, NDArray]:
    count, draws = len(span), np.random.default_rng(span.start)
    return {
        **pack_strings("key", keys_of(span)),
        **pack_strings("file", keys_of(span)),
        "label": (np.arange(span.start, span.stop) // 1300).astype(np.int32),
        "content_hash": draws.integers(0, 256, (count, 16), np.uint8),
        "size": np.full((count, 2), 400, np.int32),
        "file_bytes": np.full(count, 110_000, np.int64),
    }


def _image_rows(span: range) -> dict[str, NDArray]:
    count = len(span)
    labels, sizes = (np.arange(span.start, span.stop) // 1300).astype(np.int32), np.full((count, 2), 2, np.int32)
    pixels = np.zeros((count, 2, 2, 3), np.uint8)
    return {**pack_strings("key", keys_of(span)), "label": labels, "size": sizes, "pixels": pixels}


def _guidance_rows(span: range) -> dict[str, NDArray]:
    from semaug.artifacts.guidance_table import guidance_columns

    boxes = np.array([[40, 40, 200, 220], [10, 20, 100, 300]], np.float32)
    return guidance_columns([Guidance(k, 400, 350, scale="object", boxes=boxes, masks=()) for k in keys_of(span)])


def build(path: Path, kind: ArtifactKind, items: int, rows: Callable[[range], dict[str, NDArray]]) -> None:
    """An artifact of ``items`` rows."""
    manifest = Manifest(
        kind=kind, items=items, shard_size=ROWS, config={"class_names": []}, inputs={"source": "0" * 32}
    )
    with ArtifactWriter.open(path, manifest) as writer:
        for shard in writer.pending():
            writer.write(shard, rows(manifest.shard_range(shard)))
        writer.finish({"spec": "drawn", "root": ".", "fingerprint": "0" * 32})


def build_ledger(path: Path, items: int) -> None:
    """A ledger of as many shards as photographs need, without their data."""
    manifest = Manifest(kind="images", items=items, shard_size=MARKED_SHARDS, config={}, inputs={"source": "0" * 32})
    ArtifactWriter.open(path, manifest).close()
    for shard in range(manifest.shards):
        marker = ShardMarker(shard=shard, items=len(manifest.shard_range(shard)), digest="0" * 32)
        (path / "ledger" / f"{shard:06d}.json").write_text(marker.model_dump_json())


def order(folder: Path, items: int) -> None:
    """The batches of one epoch."""
    from semaug.ssl_methods.batches import BatchOrder

    held = BatchOrder(items, BATCH, 0, rank=0, world=8)
    for batch in held.batches(0, held.per_epoch):
        assert len(batch) == BATCH // 8


def keys(folder: Path, items: int) -> None:
    """The key of every image of a pack, as a step asks for them."""
    from semaug.artifacts.sources.packed import PackedSource

    source = PackedSource.open(folder / "images.zarr")
    assert sum(len(source.key(i)) for i in range(items)) > items


def labels(folder: Path, items: int) -> None:
    """The labels of a pack as one array."""
    from semaug.artifacts.sources.base import labels_of
    from semaug.artifacts.sources.packed import PackedSource

    assert len(labels_of(PackedSource.open(folder / "images.zarr"))) == items


def index(folder: Path, items: int) -> None:
    """Opening an index: names and keys of all files."""
    from semaug.artifacts.sources import open_source

    assert len(open_source(str(folder / "index.zarr"))) == items


def fingerprint(folder: Path, items: int) -> None:
    """The fingerprint of an index."""
    from semaug.artifacts.index import fingerprint_of_index
    from semaug.artifacts.reader import Artifact

    assert len(fingerprint_of_index(Artifact.open(folder / "index.zarr"))) == 32


def guidance(folder: Path, items: int) -> None:
    """Guidance of two boxes an image, read and laid out as guided pairs hold it."""
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.pairs_dataset.objects import object_rows

    table = GuidanceTable.open(folder / "guidance.zarr")
    assert len(object_rows(keys_of(range(items)), table).boxes) == 2 * items


def ledger(folder: Path, items: int) -> None:
    """Which of the shards are done, then the markers of all of them."""
    from semaug.artifacts.reader import Artifact

    assert Artifact.open(folder / "ledger.zarr", partial=True).markers


@dataclass(frozen=True, slots=True)
class Part:
    """A measurement, and what it reads."""

    measure: Callable[[Path, int], None]
    build: Callable[[Path, int], None] | None = None


PARTS: Mapping[str, Part] = {
    "order": Part(order),
    "keys": Part(keys, lambda f, n: build(f / "images.zarr", "images", n, _image_rows)),
    "labels": Part(labels, lambda f, n: build(f / "images.zarr", "images", n, _image_rows)),
    "index": Part(index, lambda f, n: build(f / "index.zarr", "index", n, _index_rows)),
    "fingerprint": Part(fingerprint, lambda f, n: build(f / "index.zarr", "index", n, _index_rows)),
    "guidance": Part(guidance, lambda f, n: build(f / "guidance.zarr", "guidance", n, _guidance_rows)),
    "ledger": Part(ledger, lambda f, n: build_ledger(f / "ledger.zarr", n)),
}


def measure(name: str, folder: Path, items: int) -> dict[str, Any]:
    """Processor seconds and growth of peak memory of one part, in this process."""
    import semaug.artifacts.sources
    import semaug.ssl_methods.batches  # noqa: F401  (imports are not what is measured)

    PARTS[name].measure(folder / "warm", ROWS)
    before, began = _peak(), time.process_time()
    PARTS[name].measure(folder / str(items), items)
    return {"part": name, "items": items, "seconds": time.process_time() - began, "bytes": _peak() - before}


def _peak() -> int:
    from semaug.artifacts.shards import peak_memory

    return peak_memory()


def all_rows(sizes: list[int], names: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """One result a part and size; each in a process of its own."""
    for name in names:
        for items in (ROWS, *sizes):
            where = folder / ("warm" if items == ROWS else str(items))
            make, words = PARTS[name].build, [sys.executable, __file__, "--one", name, str(items), str(folder)]
            where.mkdir(exist_ok=True)
            if make is not None and not _is_built(where, name):
                make(where, items)
            if items != ROWS:
                yield json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def _is_built(where: Path, name: str) -> bool:
    artifact = {"keys": "images", "labels": "images", "fingerprint": "index"}.get(name, name)
    return (where / f"{artifact}.zarr").exists()


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| part | images | seconds | MB | seconds a million | MB a million | growth |",
        "|---|---|---|---|---|---|---|",
    ]
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        n, seconds, held = row["items"], row["seconds"], row["bytes"]
        before = last.get(row["part"])
        grown = math.log(seconds / before["seconds"]) / math.log(n / before["items"]) if before else math.nan
        numbers = f"{seconds:.2f} | {held / 1e6:.0f} | {seconds / n * 1e6:.2f} | {held / n:.0f}"
        lines.append(f"| {row['part']} | {n:,} | {numbers} | {'' if math.isnan(grown) else f'{grown:.2f}'} |")
        last[row["part"]] = row
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[320_000, 1_280_000])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--one", nargs=3, metavar=("PART", "ITEMS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, items, folder = options.one
        print(json.dumps(measure(name, Path(folder), int(items))))
        return
    with tempfile.TemporaryDirectory(prefix="semaug-scale-") as folder:
        print(table(list(all_rows(options.items, options.parts, Path(folder)))))


if __name__ == "__main__":
    main()
