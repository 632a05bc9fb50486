"""Feature extraction against the bare forward loop that it cannot do without.

Ours reads, prepares and embeds a whole source and writes the ``features`` artifact. The peers run the same encoder
over the same batches: ``forward alone`` on tensors that are prepared and in memory, ``read and forward`` as a plain
loop that reads, prepares and normalises one image after the other and keeps the features.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmark import Benchmark, Run, photograph_folder

from semaug.artifacts.sources import ImageSource, open_source

if TYPE_CHECKING:
    from torch import Tensor

    from semaug.eval.features import Encode, Preparation

BATCH = 256
_number = itertools.count()


def benchmarks() -> list[Benchmark]:
    """Packed images by the small network, where reading and writing weigh most, and photographs by a ResNet-18."""
    scratch = Path(tempfile.mkdtemp(prefix="semaug-bench-"))
    rows = [_row("packed scenes at 32 px", _packed(scratch), "small-cnn", 32, scratch)]
    photographs = photograph_folder()
    if photographs is not None:
        source = open_source(_copy(photographs, scratch / "images", 64))
        rows.append(_row("photographs at 224 px", source, "resnet18", 224, scratch))
    return rows


def _packed(scratch: Path) -> ImageSource:
    from semaug.artifacts.pack import pack_images

    pack_images(open_source("scenes:train?items=4096"), scratch / "packed.zarr", size=32, format="raw")
    return open_source(scratch / "packed.zarr")


def _copy(photographs: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for file in sorted(p for p in photographs.rglob("*") if p.is_file())[:count]:
        shutil.copy(file, folder / file.name)
    return folder


def _row(name: str, source: ImageSource, backbone: str, size: int, scratch: Path) -> Benchmark:
    from semaug.eval.feature_store import FeatureWork, write_features
    from semaug.eval.features import Preparation
    from semaug.ssl_methods import build_encoder

    encoder = build_encoder(backbone, input_size=size).eval()
    preparation = Preparation.of(size, encoder.spec.mean, encoder.spec.std)

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        features = encoder(images)
        return features, encoder.project(features)

    work = FeatureWork(encode, "bench", preparation, encoder.feature_dim, encoder.projector_dim)
    work.manifest(source)  # the source keeps its fingerprint, which is no part of what is measured

    def ours() -> None:
        write_features(work, source, scratch / f"{next(_number)}.zarr", workers=1, batch_size=BATCH)

    bare, forward = _peers(source, encode, preparation)
    return Benchmark(
        name=f"eval embed, {name}",
        target="within 1.1x of the forward passes alone",
        ours=ours,
        peers={"forward alone": forward, "read and forward": bare},
        target_ratio=1 / 1.1,
        items=len(source),
        note=f"{len(source)} images by {backbone}; ours reads ahead in a second thread, and writes the artifact",
    )


def _peers(source: ImageSource, encode: Encode, preparation: Preparation) -> tuple[Run, Run]:
    import torch

    from semaug.eval.features import prepare

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preparation.mean, preparation.std))

    def batch(start: int) -> Tensor:
        images = [
            prepare(source.read(i), preparation.input_size, preparation.crop)
            for i in range(start, min(start + BATCH, len(source)))
        ]
        return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 - mean) / std

    ready = [batch(start) for start in range(0, len(source), BATCH)]

    @torch.inference_mode()
    def forward() -> None:
        for images in ready:
            encode(images)

    @torch.inference_mode()
    def bare() -> list[Tensor]:
        return [part for start in range(0, len(source), BATCH) for part in encode(batch(start))]

    return bare, forward
