"""Packed reads: a packed store against a numpy memory map and against zarr's own indexing, in random order; and a pack
of JPEG files against torchvision's image folder and webdataset.

All hold the same pixels and hand out a copy of each image. zarr's array is as friendly to it as can be: one image a
chunk, sharded, no codec.
"""

from __future__ import annotations

import atexit
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import Benchmark, photograph_folder
from numpy.typing import NDArray
from peer_passes import peer_pass

SIDES = {224: 512, 32: 2048}
"""Side in pixels -> images."""


def benchmarks() -> list[Benchmark]:
    """One row a side."""
    folder = Path(tempfile.mkdtemp(prefix="semaug-reads-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [*(_row(folder / str(side), side, count) for side, count in SIDES.items()), *_files_row(folder / "files")]


def _row(folder: Path, side: int, count: int) -> Benchmark:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    order = np.random.default_rng(1).permutation(count).tolist()
    memory_map = _memory_map(folder, pixels)
    return Benchmark(
        name=f"packed reads, {side} px",
        target="at least a memory map's speed, 10x zarr's indexing",
        ours=_reader(_packed(folder, pixels).read, order),
        peers={
            "numpy memmap": _reader(lambda i: memory_map[i].copy(), order),
            "zarr indexing": _reader(_zarr(folder, pixels).__getitem__, order),
        },
        target_ratios={"numpy memmap": 1.0, "zarr indexing": 10.0},
        items=count,
        note="random order, page cache warm, every read gives a copy",
        processor=True,
    )


def _files_row(folder: Path) -> list[Benchmark]:
    """A pack of photographs' files; none without photographs."""
    from semaug.artifacts.decode import decode_image
    from semaug.artifacts.pack import pack_images
    from semaug.artifacts.sources import open_source

    photographs = photograph_folder()
    if photographs is None:
        return []
    folder.mkdir()
    source = open_source(photographs)
    pack_images(source, folder / "images.zarr", format="jpeg")
    packed, archive = open_source(folder / "images.zarr"), folder / "images.tar"
    with tarfile.open(archive, "w") as tar:
        for number, path in enumerate(sorted(p for p in photographs.rglob("*") if p.is_file())):
            tar.add(path, f"{number:06d}.jpg")
    order = np.random.default_rng(1).permutation(len(source)).tolist()
    files = [(photographs / source.key(i)).read_bytes() for i in order]
    return [
        Benchmark(
            name="packed JPEG reads",
            target="no slower than an image folder or webdataset",
            ours=_reader(packed.read, order),
            peers={
                "torchvision ImageFolder": peer_pass("lightly", "folder_reads", photographs),
                "webdataset": peer_pass("lightly", "webdataset_reads", archive),
                "limit: decoding alone": lambda: [decode_image(data).shape for data in files],
            },
            target_ratio=0.97,
            items=len(source),
            note="photographs to uint8 arrays; webdataset in the archive's order, the others in random order",
            processor=True,
        )
    ]


def _reader(read: Callable[[int], Any], order: list[int]) -> Callable[[], object]:
    def run() -> None:
        for index in order:
            read(index)

    return run


def _packed(folder: Path, pixels: NDArray[np.uint8]) -> Any:
    from semaug.artifacts.pack import pack_images
    from semaug.artifacts.sources import ArraySource, open_source

    pack_images(ArraySource(pixels), folder / "images.zarr", format="raw", shard_size=256)
    return open_source(folder / "images.zarr")


def _memory_map(folder: Path, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels.tofile(folder / "pixels.bin")
    return np.memmap(folder / "pixels.bin", np.uint8, "r", shape=pixels.shape)


def _zarr(folder: Path, pixels: NDArray[np.uint8]) -> Any:
    import zarr

    one, shard = (1, *pixels.shape[1:]), (256, *pixels.shape[1:])
    array = zarr.create_array(
        folder / "peer.zarr", shape=pixels.shape, dtype="uint8", chunks=one, shards=shard, compressors=None
    )
    for start in _starts(len(pixels)):
        array[start : start + 256] = pixels[start : start + 256]
    return array


def _starts(count: int) -> Iterator[int]:
    yield from range(0, count, 256)
