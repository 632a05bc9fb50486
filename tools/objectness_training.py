"""The training loop of the objectness network: losses, augmentation, averaged weights, checkpoints."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from objectness_samples import CLASSES, UNKNOWN
from torch import Tensor, nn
from torch.nn import functional

from semaug.artifacts.draws import generator
from semaug.oracles.objectness_network import FUSED, MEAN, STD, ObjectnessMaps, ObjectnessNetwork

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """``steps`` of ``batch`` samples; the rate warms up for ``warmup`` steps, then falls along half a cosine.

    ``sharp`` wants decisions in place of the teacher's shades: see ``sharpened`` and ``ranking_loss``.
    """

    steps: int
    batch: int = 64
    rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.02
    average: float = 0.998
    sharp: bool = False

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


class Student(nn.Module):
    """The network and a classifier that only training has: what an object is helps to learn that it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ObjectnessNetwork()
        self.classes = nn.Conv2d(FUSED, CLASSES, 1)

    def forward(self, images: Tensor) -> tuple[ObjectnessMaps, Tensor]:
        """The maps, and class logits (B, 80, G, G)."""
        maps = self.network(images)
        return maps, self.classes(maps.features).float()


def losses(
    maps: ObjectnessMaps, classes: Tensor, truth: Mapping[str, Tensor], *, sharp: bool = False
) -> dict[str, Tensor]:
    """Score (quality focal loss, Li et al. 2020), box (GIoU and L1), class and mask terms, each a scalar; with
    ``sharp`` a ranking term."""
    wanted = sharpened(truth["scores"]) if sharp else truth["scores"]
    total = wanted.sum().clamp(min=1.0)
    cross = functional.binary_cross_entropy_with_logits(maps.scores, wanted, reduction="none")
    score = ((maps.scores.sigmoid() - wanted).abs().square() * cross).sum() / total
    weight = wanted * (wanted > 0.05)
    apart = (maps.boxes - truth["boxes"]).abs().sum(dim=-1)
    box = (weight * (2 * giou_loss(maps.boxes, truth["boxes"]) + apart)).sum() / weight.sum().clamp(min=1.0)
    opinion = truth["classes"]
    told = opinion.sum(dim=-1)
    opinion = opinion / told.clamp(min=1e-6)[..., None]
    surprise = -(opinion * classes.permute(0, 2, 3, 1).log_softmax(dim=-1)).sum(dim=-1)
    kind = (weight * (told > 0) * surprise).sum() / weight.sum().clamp(min=1.0)
    known = truth["mask"] != UNKNOWN
    pixels = functional.binary_cross_entropy_with_logits(maps.mask, (truth["mask"] == 1).float(), reduction="none")
    mask = (pixels * known).sum() / known.sum().clamp(min=1)
    terms = {"score": score, "box": box, "class": 0.5 * kind, "mask": 0.5 * mask}
    return terms | {"ranking": 0.3 * ranking_loss(maps.scores, truth["scores"])} if sharp else terms


def sharpened(scores: Tensor) -> Tensor:
    """Scores pushed apart around 0.4, where FastestDet starts to be right; 0 stays 0."""
    return torch.sigmoid(12 * (scores - 0.4)) * (scores > 0.1)


def ranking_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Cross-entropy over the cells of an image between the network's order and the wanted scores' (to the power 4).

    ``logits`` and ``scores`` are (B, G, G); images whose best wanted score is below 0.3 do not count. A scalar.
    """
    wanted = scores.flatten(1) ** 4
    counts = (scores.flatten(1).amax(dim=1) > 0.3).float()
    wanted = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1e-6)
    surprise = -(wanted * logits.flatten(1).log_softmax(dim=1)).sum(dim=1)
    return (surprise * counts).sum() / counts.sum().clamp(min=1.0)


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019) of boxes (..., 4) given by centre and size; shape (...)."""
    a1, a2 = a[..., :2] - a[..., 2:] / 2, a[..., :2] + a[..., 2:] / 2
    b1, b2 = b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2
    shared = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(dim=-1)
    union = (a2 - a1).prod(dim=-1) + (b2 - b1).prod(dim=-1) - shared
    hull = (torch.maximum(a2, b2) - torch.minimum(a1, b1)).prod(dim=-1)
    return 1 - shared / union.clamp(min=1e-9) + (hull - union) / hull.clamp(min=1e-9)


def draw_batch(sets: list[tuple[Arrays, NDArray[np.int64], float]], schedule: Schedule, seed: int, step: int) -> Any:
    """The batch of a step from ``(samples, usable rows, share)`` sets: images normalised, mirrored, recoloured."""
    random = generator(seed, "objectness-batch", step, "")
    parts, left = [], schedule.batch
    for k, (arrays, rows, share) in enumerate(sets):
        n = left if k == len(sets) - 1 else round(share * schedule.batch)
        left -= n
        chosen = np.sort(random.choice(rows, n, replace=len(rows) < n))
        parts.append({name: torch.from_numpy(arrays[name][chosen]) for name in _USED})
    batch = {name: torch.cat([p[name] for p in parts]) for name in _USED}
    images = batch.pop("images").numpy()
    truth = {k: v if k == "mask" else v.float() for k, v in batch.items()}
    mirrored = random.random(len(images)) < 0.5
    _mirror(truth, torch.from_numpy(mirrored))
    matrices, offsets = _colour_changes(images, random)
    seen = np.empty(images.shape, np.float32)
    _recolour(images, mirrored, matrices, offsets, _LOWEST, _HIGHEST, seen)
    return torch.from_numpy(seen).permute(0, 3, 1, 2), truth  # channels last, as it is


_USED = ("images", "scores", "boxes", "classes", "mask")
_LOWEST = (-np.array(MEAN) / np.array(STD)).astype(np.float32)
_HIGHEST = ((1 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def _mirror(truth: dict[str, Tensor], which: Tensor) -> None:
    for name in ("scores", "boxes", "classes", "mask"):
        truth[name][which] = truth[name][which].flip(2)
    boxes = truth["boxes"]
    boxes[which, ..., 0] = 1 - boxes[which, ..., 0]


def _colour_changes(
    images: NDArray[np.uint8], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Brightness, contrast, saturation and a cast per image, grey for one in twelve, and the normalisation, all as
    one matrix (B, 3, 3) and one offset (B, 3) on values of 0 to 255."""
    n = len(images)
    saturation = random.uniform(0.4, 1.5, n) * (random.random(n) > 1 / 12)
    contrast, brightness = random.uniform(0.6, 1.4, n), random.uniform(0.6, 1.4, n)
    cast = random.uniform(0.9, 1.1, (n, 3))
    middle = images[:, ::8, ::8].mean(axis=(1, 2, 3)) / 255
    mix = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] / 3
    matrix = contrast[:, None, None] * mix * cast[:, :, None] / 255
    offset = (middle * (brightness - contrast))[:, None] * cast
    std = np.array(STD)
    return (matrix / std[:, None]).astype(np.float32), ((offset - np.array(MEAN)) / std).astype(np.float32)


@njit(nogil=True, cache=True, fastmath=True)
def _recolour(
    images: NDArray[np.uint8],
    mirrored: NDArray[np.bool_],
    matrices: NDArray[np.float32],
    offsets: NDArray[np.float32],
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    n, height, width, _ = images.shape
    for i in range(n):
        m, o = matrices[i], offsets[i]
        for y in range(height):
            for x in range(width):
                column = width - 1 - x if mirrored[i] else x
                r = np.float32(images[i, y, x, 0])
                g = np.float32(images[i, y, x, 1])
                b = np.float32(images[i, y, x, 2])
                for c in range(3):
                    value = m[c, 0] * r + m[c, 1] * g + m[c, 2] * b + o[c]
                    out[i, y, column, c] = min(max(value, lowest[c]), highest[c])


@dataclass(slots=True)
class State:
    """What a checkpoint holds."""

    student: Student
    averaged: Student
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write the checkpoint whole or not at all."""
        parts = {
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(parts, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        parts = torch.load(path, weights_only=True)
        self.student.load_state_dict(parts["student"])
        self.averaged.load_state_dict(parts["averaged"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.step, self.seconds = parts["step"], parts["seconds"]


MASK_PARTS = ("from_fine", "to_mask", "mask")
"""The network's parts that only its mask depends on."""


def new_state(schedule: Schedule, seed: int, start_from: Path | None, *, masks_only: bool = False) -> State:
    """A student with weights from ``seed``, or the averaged weights of a finished run's checkpoint.

    With ``masks_only`` all that boxes depend on is frozen, normalisation included.
    """
    torch.manual_seed(seed)
    student = Student().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start_from is not None:
        student.load_state_dict(torch.load(start_from, weights_only=True)["averaged"])
    averaged = copy.deepcopy(student).requires_grad_(False)
    student.train(not masks_only).requires_grad_(not masks_only)
    for part in MASK_PARTS if masks_only else ():
        student.network.get_submodule(part).train().requires_grad_(True)
    trained = [p for p in student.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return State(student, averaged, torch.optim.AdamW(groups, lr=schedule.rate))


def train(
    sets: list[tuple[Arrays, NDArray[np.int64], float]],
    schedule: Schedule,
    checkpoint: Path,
    *,
    seed: int,
    start_from: Path | None = None,
    masks_only: bool = False,
    every: int = 100,
    until: int | None = None,
) -> State:
    """Train to the schedule's end, or only to step ``until``; a checkpoint every ``every`` steps, from which the same
    call goes on."""
    state = new_state(schedule, seed, start_from, masks_only=masks_only)
    if checkpoint.exists():
        state.load(checkpoint)
    mark, sums = time.perf_counter(), {}
    while state.step < min(schedule.steps, until or schedule.steps):
        terms = _step(state, sets, schedule, seed)
        sums = {k: sums.get(k, 0.0) + float(v.detach()) for k, v in terms.items()}
        if state.step % every == 0 or state.step == schedule.steps:
            state.seconds += time.perf_counter() - mark
            mark = time.perf_counter()
            state.save(checkpoint)
            text = ", ".join(f"{k} {v / every:.3f}" for k, v in sums.items())
            print(
                f"{checkpoint.stem}: step {state.step} of {schedule.steps}, {state.seconds:.0f} s: {text}", flush=True
            )
            sums = {}
    return state


def _step(
    state: State,
    sets: list[tuple[Arrays, NDArray[np.int64], float]],
    schedule: Schedule,
    seed: int,
) -> dict[str, Tensor]:
    images, truth = draw_batch(sets, schedule, seed, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = schedule.rate_at(state.step)
    with torch.autocast("cpu", torch.bfloat16):
        maps, classes = state.student(images)
    terms = losses(maps, classes, truth, sharp=schedule.sharp)
    state.optimizer.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    nn.utils.clip_grad_norm_(state.student.parameters(), 10.0)
    state.optimizer.step()
    state.step += 1
    _average(state, min(schedule.average, (1 + state.step) / (10 + state.step)))
    return terms


@torch.no_grad()
def _average(state: State, keep: float) -> None:
    new, old = state.student.state_dict(), state.averaged.state_dict()
    for name, value in old.items():
        if value.is_floating_point():
            value.lerp_(new[name], 1 - keep)
        else:
            value.copy_(new[name])
