"""What a training step is timed on: the same for every code base. Imports torch and torchvision only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MULTI_CROP = ("swav", "dino")
QUEUE = PROTOTYPES = BANK = OUTPUTS = 4096
"""Keys of a queue, SwAV's prototypes, AdCo's negatives, DINO's outputs."""
DECODER = {"width": 256, "depth": 4, "heads": 8}
"""MAE's decoder."""

Images = Sequence[NDArray[np.uint8]]
Views = list[Tensor]


@dataclass(frozen=True, slots=True)
class Work:
    """One row: a method on a backbone, with ``batch`` images a step at ``size`` pixels.

    ``lr`` is by default so small that hundreds of steps on random numbers stay finite. ``precision`` is 32, bf16 or
    fp16 (autocast). Multi-crop methods see two more views of half the size; the masked autoencoder sees one view and
    always has the ViT-S with patches of 4 pixels.
    """

    method: str
    backbone: str = "small-cnn"
    batch: int = 64
    size: int = 32
    precision: str = "32"
    device: str = "cpu"
    lr: float = 1e-4
    seed: int = 0

    @property
    def sides(self) -> tuple[int, ...]:
        """The side of each view."""
        if self.method == "mae":
            return (self.size,)
        local = (self.size // 2,) * 2 if self.method in MULTI_CROP else ()
        return (self.size, self.size, *local)


@dataclass(frozen=True, slots=True)
class Subject:
    """A method as one code base has it. ``trained`` holds all parameters; ``loss`` maps views (B, 3, S, S) to a scalar.

    ``before_update`` is called between backward and the optimizer, ``after_step`` behind it. ``encode`` maps images
    (N, 3, S, S) to the backbone's features, where a method's accuracy can be asked for.
    """

    trained: nn.Module
    loss: Callable[[Views], Tensor]
    before_update: Callable[[], object] = lambda: None
    after_step: Callable[[], object] = lambda: None
    encode: Callable[[Tensor], Tensor] | None = None


Build = Callable[[Work], Subject]
Loader = Callable[[Images, Work, int], Iterator[Views]]
"""(decoded images, work, worker processes) -> batches of SimCLR's two views, without end."""


def plain_backbone(work: Work) -> tuple[nn.Module, int]:
    """The backbone for a peer, without our package, and the width of its features."""
    if work.backbone == "small-cnn":
        return _small_cnn(), 128
    if work.backbone != "resnet18":
        raise ValueError(f"peers are built on small-cnn or resnet18, not on {work.backbone}")
    from torchvision.models import resnet18

    network = resnet18()
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()  # type: ignore[assignment]
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network, 512


def _small_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2), (64, 128, 2)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def plain_transformer(work: Work) -> nn.Module:
    """timm's ViT-S with patches of 4 pixels, for a peer's masked autoencoder."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=work.size, patch_size=4, embed_dim=384, depth=12, num_heads=6, num_classes=0
    )  # fmt: skip


def random_views(work: Work) -> Views:
    """Standard normal views on the device, the same for every code base."""
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(work.batch, 3, side, side, generator=draws).to(work.device) for side in work.sides]


def neighbour_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, wanted: Tensor, k: int = 20) -> float:
    """Share of queries (M, D) whose k nearest rows of the bank (N, D), by cosine, mostly have the wanted label."""
    bank, queries = (nn.functional.normalize(x, dim=1) for x in (bank, queries))
    near = labels[(queries @ bank.T).topk(k, dim=1).indices]
    votes = nn.functional.one_hot(near, int(labels.max()) + 1).sum(1)
    return float((votes.argmax(1) == wanted).float().mean())


class InMemory:
    """Decoded images behind torch's Dataset contract; ``transform`` maps one to its views."""

    def __init__(self, images: Sequence[object], transform: Callable[[object], object]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> object:
        return self.transform(self.images[index])


def endless(loader: object) -> Iterator[object]:
    """The batches of a loader, epoch after epoch."""
    while True:
        yield from loader  # type: ignore[misc]
