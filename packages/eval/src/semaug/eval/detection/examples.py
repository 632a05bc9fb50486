"""Training examples: which image comes when, at which size, mirrored or not, all by counter-based draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from semaug.artifacts.draws import draw_key, generator, uniform
from semaug.eval.detection.data import AnnotatedImage
from semaug.eval.detection.masks import target_masks
from semaug.eval.detection.schedules import Schedule

Target = dict[str, Tensor]
"""``boxes`` float32 (n, 4), ``labels`` int64 (n,) from 1 up (0 is background), maybe ``masks`` uint8 (n, h, w)."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One image to be read: which, of which epoch."""

    index: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Images, each float32 (3, h, w) in [0, 1], and their targets."""

    images: list[Tensor]
    targets: list[Target]

    def to(self, device: str) -> Batch:
        """The batch on a device."""
        moved = [{name: t.to(device, non_blocking=True) for name, t in target.items()} for target in self.targets]
        return Batch([image.to(device, non_blocking=True) for image in self.images], moved)


def draws_by_step(sizes: Sequence[tuple[int, int]], batch_size: int, seed: int) -> Iterator[list[Draw]]:
    """Endless batches of draws: every epoch a new order, and only wide or only tall images in a batch, so that
    little is padded. ``sizes`` are (height, width). What comes at a step depends on the seed alone."""
    waiting: dict[bool, list[Draw]] = {True: [], False: []}
    epoch = 0
    while True:
        for index in generator(seed, "detection-order", epoch).permutation(len(sizes)).tolist():
            height, width = sizes[index]
            group = waiting[width > height]
            group.append(Draw(index, epoch))
            if len(group) == batch_size:
                yield group.copy()
                group.clear()
        epoch += 1


def make_batch(
    images: Sequence[AnnotatedImage], draws: Iterable[Draw], schedule: Schedule, seed: int, masks: bool
) -> Batch:
    """Read, resize and mirror the images of one step; crowds are left out of the targets."""
    made = [_example(images[d.index], d.epoch, schedule, seed, masks) for d in draws]
    return Batch([image for image, _ in made], [target for _, target in made])


def resized(image: NDArray[np.uint8], side: int, max_side: int) -> Tensor:
    """The image with its shorter side at ``side`` pixels, or its longer at ``max_side``: float32 (3, h, w) in [0, 1].

    Antialiased bilinear, as detectron2 resizes.
    """
    height, width = resized_size(image.shape[:2], side, max_side)
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(np.array(image.transpose(2, 0, 1))).float() / 255


def resized_size(size: tuple[int, ...], side: int, max_side: int) -> tuple[int, int]:
    """(height, width) after resizing.

    >>> resized_size((375, 500), 800, 1333), resized_size((100, 400), 800, 1333)
    ((800, 1067), (333, 1333))
    """
    scale = min(side / min(size[:2]), max_side / max(size[:2]))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def read_ahead(
    images: Sequence[AnnotatedImage],
    steps: Iterable[list[Draw]],
    schedule: Schedule,
    seed: int,
    masks: bool,
    workers: int,
) -> Iterator[Batch]:
    """The batches of ``steps`` in order, made by ``workers`` threads (decoding and resizing release the lock)."""
    if workers == 0:
        for draws in steps:
            yield make_batch(images, draws, schedule, seed, masks)
        return
    with ThreadPoolExecutor(workers) as pool:
        following, pending = iter(steps), deque()  # type: ignore[var-annotated]
        try:
            for draws in following:
                pending.append(pool.submit(make_batch, images, draws, schedule, seed, masks))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _example(image: AnnotatedImage, epoch: int, schedule: Schedule, seed: int, masks: bool) -> tuple[Tensor, Target]:
    key = draw_key(seed, "detection-view", epoch, image.key)
    flip = uniform(key, 0) < 0.5
    side = schedule.train_sides[int(uniform(key, 1) * len(schedule.train_sides))]
    pixels = resized(image.read(), side, schedule.max_side)
    height, width = pixels.shape[-2:]
    objects = image.objects.take(~image.objects.crowd)
    scale = np.asarray([width / image.size[1], height / image.size[0]] * 2, np.float32)
    boxes = torch.from_numpy(objects.boxes * scale)
    target: Target = {"labels": torch.from_numpy(objects.labels + 1)}
    if masks:
        target["masks"] = target_masks(objects.outlines, image.size, (height, width), flip)
    if flip:
        pixels = pixels.flip(-1)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    target["boxes"] = boxes
    return pixels, target
