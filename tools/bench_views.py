"""View benchmarks: two-view rendering against torchvision v2, albumentations, kornia and lightly's transform, and
guided against standard pairs.

Every peer gets decoded uint8 images and gives normalised float32 CHW tensors, one thread each, with the operations
and distributions of the `symmetric` preset: random resized crop (scale 0.08-1), flip, colour jitter (0.8, 0.8, 0.8,
0.2) with probability 0.8, grey 0.2, Gaussian blur 0.5 with a kernel of a tenth of the view, normalise.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import Benchmark, photograph_folder
from numpy.typing import NDArray
from peer_passes import peer_pass

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {224: 23, 32: 3}
"""View size -> taps of the blur kernel."""
NOTE = (
    "albumentations resizes without antialiasing and jitters in uint8, kornia resizes without antialiasing; "
    "torchvision and lightly (PIL images, its own blur) antialias"
)

Images = list[NDArray[np.uint8]]


def benchmarks(quick: bool = False) -> list[Benchmark]:
    """The rows; ``quick`` takes fewer images."""
    rows = []
    for size in SIZES:
        images = _images(size, (8 if quick else 24) if size > 64 else (64 if quick else 256))
        rows += [_against_peers(size, images), _guided_against_standard(size, images)]
    return rows


def _images(size: int, count: int) -> Images:
    """Photographs whose shorter side is 256 for large views; for small ones, 32-pixel versions of them."""
    from PIL import Image

    from semaug.artifacts.sources import open_source

    folder = photograph_folder()
    source = open_source(str(folder) if folder else "scenes:train?items=64")
    side = 256 if size > 64 else 32
    found = []
    for i in range(count):
        image = Image.fromarray(source.read(i % len(source)))
        scale = side / min(image.size)
        shape = (side, side) if side == 32 else tuple(round(n * scale) for n in image.size)
        found.append(np.asarray(image.resize(shape, Image.Resampling.BILINEAR)).copy())
    return found


def _against_peers(size: int, images: Images) -> Benchmark:
    kernel = SIZES[size]
    peers = {
        "torchvision v2": _torchvision(size, kernel, images),
        "albumentations": _albumentations(size, kernel, images),
        **{name: peer_pass("lightly", f"{name}_views", _saved(images), size) for name in ("kornia", "lightly")},
        "limit: writing the views": _writing(size, images),
    }
    return Benchmark(
        name=f"SimCLR views, {size} px",
        target="2.5x albumentations, 30x torchvision v2",
        ours=_ours(size, kernel, images),
        peers=peers,
        target_ratios={"torchvision v2": 30.0, "albumentations": 2.5},
        items=2 * len(images),
        unit="views",
        note=NOTE,
        processor=True,
    )


def _saved(images: Images) -> Path:
    """The images in a file that other processes read."""
    file = Path(tempfile.mkdtemp(prefix="semaug-bench-")) / "images.npz"
    arrays: dict[str, Any] = {f"{i:04d}": image for i, image in enumerate(images)}
    np.savez(file, **arrays)
    return file


def _writing(size: int, images: Images) -> Callable[[], object]:
    """Memory alone: every image is copied once, and two views are written."""
    views, room = np.zeros((2, 3, size, size), np.float32), [np.empty_like(image) for image in images]

    def run() -> None:
        for number, image in enumerate(images):
            np.copyto(room[number], image)
            views.fill(number)

    return run


def _ours(size: int, kernel: int, images: Images) -> Callable[[], object]:
    pairs = _pairs("standard", size, kernel, images)
    return lambda: _drop(pairs[i] for i in range(len(pairs)))


def _drop(views: Iterable[object]) -> None:
    """Run through the views and keep none, so that nobody pays for ever fresh memory."""
    for _ in views:
        pass


class _Memory:
    """Decoded images behind the source contract, handed out without a copy, as the peers get them."""

    spec, class_names, fingerprint = "memory", (), ""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return f"image{index}"

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._images[index]

    def label(self, index: int) -> None:
        return None


def _pairs(name: str, size: int, kernel: int, images: Images, **options: Any) -> Any:
    import torch

    from semaug.pairs_dataset import make_pairs, preset

    torch.set_num_threads(1)
    recipe = replace(preset("symmetric")[0], blur_kernel=kernel)
    return make_pairs(name, _Memory(images), preset=(recipe, recipe), size=size, **options)


def _torchvision(size: int, kernel: int, images: Images) -> Callable[[], object]:
    import torch
    from torchvision.transforms import v2

    transform = v2.Compose([
        v2.RandomResizedCrop(size, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    return lambda: _drop((transform(t), transform(t)) for t in tensors)


def _albumentations(size: int, kernel: int, images: Images) -> Callable[[], object]:
    import cv2

    cv2.setNumThreads(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import albumentations as A
        from albumentations.pytorch import ToTensorV2

        transform = A.Compose([
            A.RandomResizedCrop((size, size)),
            A.HorizontalFlip(),
            A.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_limit=(kernel, kernel), sigma_limit=(0.1, 2.0), p=0.5),
            A.Normalize(MEAN, STD),
            ToTensorV2(),
        ])  # fmt: skip
    return lambda: _drop((transform(image=i), transform(image=i)) for i in images)


def _guided_against_standard(size: int, images: Images) -> Benchmark:
    """Both through a torch DataLoader in this process; the boxes take the middle 60% of each side."""
    from torch.utils.data import DataLoader

    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.schemas import Guidance
    from semaug.pairs_dataset import collate_pairs

    rows = []
    for i, image in enumerate(images):
        h, w = image.shape[:2]
        box = np.array([[0.2 * w, 0.2 * h, 0.8 * w, 0.8 * h]], np.float32)
        rows.append(Guidance(f"image{i}", h, w, boxes=box))
    sources = {
        "guided": _pairs("guided", size, SIZES[size], images, guidance=GuidanceTable.of(rows)),
        "standard": _pairs("standard", size, SIZES[size], images),
    }
    loaders = {n: DataLoader(p, batch_size=8, collate_fn=collate_pairs) for n, p in sources.items()}
    return Benchmark(
        name=f"guided views in our loader, {size} px",
        target="0.97 of standard's images per second",
        ours=lambda: _drop(loaders["guided"]),
        peers={"standard": lambda: _drop(loaders["standard"])},
        target_ratio=0.97,
        items=len(images),
        note="the same photometric draws; only the crops differ",
        processor=True,
    )
