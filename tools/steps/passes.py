"""Passes of other libraries over the same images, on demand: one JSON request a line on stdin, one answer on stdout.

    python passes.py

Requests: {"prepare": name of a pass, "images": a folder or file, "size": pixels, "batch": images}, then {"run": n}.
The answer to a run has the seconds of processor time. Runs in a peer's environment (``peer_environment``), one thread.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pass = Callable[[], object]


def _drop(items: Iterable[object]) -> None:
    for _ in items:
        pass


def _arrays(path: str) -> list[Any]:
    import numpy as np

    found = np.load(path)
    return [found[name] for name in found.files]


def lightly_views(images: str, size: int, batch: int) -> Pass:
    """Two views by lightly's SimCLR transform, of decoded PIL images."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    transform = SimCLRTransform(input_size=size, cj_strength=1.0, gaussian_blur=0.5)
    pictures = [Image.fromarray(array) for array in _arrays(images)]
    return lambda: _drop(transform(picture) for picture in pictures)


def kornia_views(images: str, size: int, batch: int) -> Pass:
    """Two views by kornia, image by image, since photographs differ in size."""
    import kornia.augmentation as K
    import torch

    taps = 3 if size < 64 else 23
    transform = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((taps, taps), (0.1, 2.0), p=0.5),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    tensors = [torch.from_numpy(a).permute(2, 0, 1)[None].float() / 255 for a in _arrays(images)]
    return lambda: _drop((transform(t), transform(t)) for t in tensors)


def lightly_files(images: str, size: int, batch: int) -> Pass:
    """Batches of two views of the files of a folder: lightly's dataset and transform, torch's loader."""
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform
    from torch.utils.data import DataLoader

    transform = SimCLRTransform(input_size=size, cj_strength=1.0, gaussian_blur=0.5)
    loader = DataLoader(LightlyDataset(images, transform=transform), batch, shuffle=True)
    return lambda: _drop(loader)


def stable_files(images: str, size: int, batch: int) -> Pass:
    """Batches of two views of the files of a folder: stable-pretraining's transforms, torch's loader."""
    from PIL import Image
    from stable_pretraining.data import transforms as T
    from torch.utils.data import DataLoader, Dataset

    def view() -> Any:
        return T.Compose(
            T.RandomResizedCrop(size, scale=(0.08, 1.0)),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
            T.RandomGrayscale(0.2),
            T.PILGaussianBlur(sigma=(0.1, 2.0), p=0.5),
            T.ToImage(mean=MEAN, std=STD),
        )

    both = T.MultiViewTransform([view(), view()])
    files = sorted(p for p in Path(images).rglob("*") if p.is_file())

    class Files(Dataset[Any]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            return both({"image": Image.open(files[index]).convert("RGB")})

    loader = DataLoader(Files(), batch, shuffle=True)
    return lambda: _drop(loader)


def folder_reads(images: str, size: int, batch: int) -> Pass:
    """Every image of a folder, in random order: torchvision's ImageFolder, as arrays."""
    import numpy as np
    from torchvision.datasets import ImageFolder

    data = ImageFolder(images)
    order = np.random.default_rng(1).permutation(len(data)).tolist()
    return lambda: _drop(np.asarray(data[i][0]) for i in order)


def webdataset_reads(images: str, size: int, batch: int) -> Pass:
    """Every image of a tar archive, in its order (it has no other), decoded to arrays by webdataset."""
    import webdataset

    data = webdataset.WebDataset(images, shardshuffle=False).decode("rgb8")
    return lambda: _drop(data)


PASSES = {
    "lightly_views": lightly_views,
    "kornia_views": kornia_views,
    "lightly_files": lightly_files,
    "stable_files": stable_files,
    "folder_reads": folder_reads,
    "webdataset_reads": webdataset_reads,
}


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    import torch

    torch.set_num_threads(1)
    run: Pass = lambda: None  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                run = PASSES[request["prepare"]](request["images"], request["size"], request["batch"])
                answer: dict[str, Any] = {}
            else:
                started = time.process_time()
                for _ in range(request["run"]):
                    run()
                answer = {"seconds": time.process_time() - started}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
