"""Extraction of guidance against a bare loop that decodes the same images and runs the same models."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

from benchmark import Benchmark, photograph_folder

from semaug.artifacts.sources import ImageSource, open_source
from semaug.oracles.extract import extract_guidance
from semaug.oracles.grabcut import GrabCutSegmenter
from semaug.oracles.saliency import SaliencyDetector

IMAGES = 96
"""Enough that writing the artifact once (a few flushes to disk) is not what is measured."""
_number = itertools.count()


def benchmarks() -> list[Benchmark]:
    """One process on each side: boxes alone, and boxes with a mask in each."""
    photographs = photograph_folder()
    scratch = Path(tempfile.mkdtemp(prefix="semaug-bench-"))
    source = open_source(_copy(photographs, scratch / "images") if photographs else "scenes:train")
    what = "photographs" if photographs else "generated scenes (no photographs here)"
    return [_row("object", source, scratch, what), _row("hybrid", source, scratch, what)]


def _copy(photographs: Path, folder: Path) -> Path:
    """The first photographs, in one flat folder."""
    folder.mkdir()
    for file in sorted(p for p in photographs.rglob("*") if p.is_file())[:IMAGES]:
        shutil.copy(file, folder / file.name)
    return folder


def _row(granularity: str, source: ImageSource, scratch: Path, what: str) -> Benchmark:
    detector, segmenter = SaliencyDetector(), GrabCutSegmenter()

    def bare() -> None:
        for index in range(len(source)):
            image = source.read(index)
            boxes = detector.detect([image])
            if granularity == "hybrid":
                segmenter.segment([image], boxes)

    return Benchmark(
        name=f"guide extract, {granularity}",
        target="within 1.15x of decode and model",
        ours=lambda: extract_guidance(source, scratch / f"{next(_number)}.zarr", granularity=granularity),
        peers={"bare loop": bare},
        target_ratio=1 / 1.15,
        items=len(source),
        note=f"{len(source)} {what}, saliency{' and grabcut' if granularity == 'hybrid' else ''}, one process each",
    )
