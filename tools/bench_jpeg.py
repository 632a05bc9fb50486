"""From JPEG files to views: decoding only what the crops need, and whole loaders against the peers'.

The boxes are those of the saliency detector, and the crops what guided pairs draw in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bench_views import _drop
from benchmark import Benchmark, photograph_folder
from peer_passes import peer_pass

from semaug.artifacts.decode import decode_image
from semaug.artifacts.sources import ImageSource, open_source
from semaug.pairs_dataset.jpeg_regions import Box, JpegFile

SIZE, BATCH = 224, 8
_of = JpegFile.of


def benchmarks() -> list[Benchmark]:
    """Decoding alone, for three kinds of parts, and images a second of whole loaders; none without photographs."""
    photographs = photograph_folder()
    if photographs is None:
        return []
    source = open_source(photographs)
    table = _guidance(source)
    guided = _pairs("guided", source, guidance=table)
    oracle = [_around(guided.plan(i, *_size(source, i)).crops) for i in range(len(source))]
    sizes = [_size(source, i) for i in range(len(source))]
    middles = {share: [_middle(*size, share) for size in sizes] for share in (0.1, 0.25)}
    return [
        _decoding("the crops of guided views", source, oracle),
        *(_decoding(f"the middle {share:.0%}", source, boxes) for share, boxes in middles.items()),
        _loaders(photographs, source, guided),
    ]


def _guidance(source: ImageSource) -> Any:
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.schemas import Guidance
    from semaug.oracles.saliency import SaliencyDetector

    detector, rows = SaliencyDetector(), []
    for i in range(len(source)):
        image = source.read(i)
        height, width = image.shape[:2]
        rows.append(Guidance(source.key(i), height, width, boxes=detector.detect([image])[0]))
    return GuidanceTable.of(rows)


def _pairs(name: str, source: ImageSource, **options: Any) -> Any:
    import torch

    from semaug.pairs_dataset import make_pairs

    torch.set_num_threads(1)
    return make_pairs(name, source, preset="symmetric", size=SIZE, **options)


def _size(source: Any, index: int) -> tuple[int, int]:
    file = _of(source.encoded(index))
    assert file is not None
    return file.height, file.width


def _middle(height: int, width: int, share: float) -> Box:
    h, w = round(height * share**0.5), round(width * share**0.5)
    return (height - h) // 2, (width - w) // 2, h, w


def _around(crops: Any) -> Box:
    top, left = crops[:, :2].min(axis=0).tolist()
    bottom, right = (crops[:, :2] + crops[:, 2:]).max(axis=0).tolist()
    return top, left, bottom - top, right - left


def _decoding(what: str, source: Any, boxes: list[Box]) -> Benchmark:
    """Files in memory; a box is left to the full decode where that is reckoned to be quicker, as for views."""
    files = [source.encoded(i) for i in range(len(source))]
    alone = [_alone(data, box) for data, box in zip(files, boxes, strict=True)]
    shares = [h * w / np.prod(_size(source, i)) for i, (_, _, h, w) in enumerate(boxes)]

    def ours() -> None:
        for data, (top, left, h, w) in zip(files, boxes, strict=True):
            file = JpegFile.of(data)
            part = file.read((top, left, h, w)) if file is not None and file.is_worth((top, left, h, w)) else None
            if part is None:
                decode_image(data)[top : top + h, left : left + w].copy()

    def whole() -> None:
        for data, (top, left, h, w) in zip(files, boxes, strict=True):
            decode_image(data)[top : top + h, left : left + w].copy()

    return Benchmark(
        name=f"JPEG parts, {what}",
        target="quicker than decoding and cropping",
        ours=ours,
        peers={
            "decode, then crop": whole,
            "limit: files of the part alone": lambda: [decode_image(d).shape for d in alone],
        },
        target_ratios={"decode, then crop": 1.0},
        items=len(files),
        note=f"bit-equal; the parts are {np.mean(shares):.0%} of their images on average",
        processor=True,
    )


def _alone(data: bytes, box: Box) -> bytes:
    """A file that holds the blocks of the box and no others."""
    file = _of(data)
    assert file is not None
    found = file._cut(*file._units(*box))
    assert found is not None
    return found


@contextmanager
def _whole_files() -> Iterator[None]:
    """Every file is decoded whole."""
    JpegFile.of = classmethod(lambda cls, data: None)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        JpegFile.of = _of  # type: ignore[method-assign]


def _loaders(photographs: Path, source: Any, guided: Any) -> Benchmark:
    from torch.utils.data import DataLoader

    from semaug.pairs_dataset import collate_pairs

    def loader(pairs: Any) -> Callable[[], object]:
        found: Any = DataLoader(pairs, batch_size=BATCH, collate_fn=collate_pairs)
        return lambda: _drop(found)

    def without() -> None:
        with _whole_files():
            loader(guided)()

    files = [source.encoded(i) for i in range(len(source))]
    return Benchmark(
        name=f"views from JPEG files, {SIZE} px",
        target="quicker than lightly and stable-pretraining",
        ours=loader(guided),
        peers={
            "ours, whole files": without,
            "ours, standard views": loader(_pairs("standard", source)),
            "lightly": peer_pass("lightly", "lightly_files", photographs, SIZE, BATCH),
            "stable-pretraining": peer_pass("stable-pretraining", "stable_files", photographs, SIZE, BATCH),
            "limit: decoding alone": lambda: [decode_image(data).shape for data in files],
        },
        target_ratio=1.0,
        target_peers=("lightly", "stable-pretraining"),
        items=len(files),
        note="two SimCLR views of every photograph through torch's DataLoader, no worker processes; ours guided",
        processor=True,
    )
