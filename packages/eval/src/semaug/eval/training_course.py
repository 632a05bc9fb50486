"""The one training loop of evaluation: epochs of seeded batches, warm-up and cosine, checkpoints it resumes from.

Fine-tuning and distillation give it a loss. Every random number is drawn from (seed, epoch, step), so a course that
was stopped at any step ends with the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semaug.artifacts.draws import draw_key, generator
from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError

Loss = Callable[[torch.Tensor, NDArray[np.intp], int], torch.Tensor]
"""From (images on the device, their rows, the step) to the mean loss."""
_AHEAD = 2  # batches read ahead


class Diverged(EvaluationError):
    """A training whose loss is no longer finite."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a network is trained: rates are for the batch in use.

    The rate rises linearly for ``warmup`` epochs, then follows half a cosine to 0. ``clip`` bounds the gradient's
    norm, 0 for no bound. ``nesterov`` and ``momentum`` are SGD's.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: int = 30
    batch_size: int = 64
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False
    warmup: float = 0.0
    clip: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise EvaluationError(f"optimizer {self.optimizer!r} is not known; choose sgd or adamw")
        if self.epochs < 1 or self.batch_size < 2:
            raise EvaluationError(f"{self.epochs} epochs of batch {self.batch_size}; give at least 1 and 2")
        if not 0 <= self.warmup <= self.epochs:
            raise EvaluationError(f"a warm-up of {self.warmup:g} epochs does not fit into {self.epochs}; lower it")
        if self.weight_decay < 0 or self.clip < 0:
            raise EvaluationError(f"weight decay {self.weight_decay} and clip {self.clip}; give 0 or more")

    def batches(self, n: int) -> int:
        """Batches in an epoch of n images; they differ by one image at most."""
        return math.ceil(n / self.batch_size)

    def factor(self, step: int, n: int) -> float:
        """What multiplies the rate at a step, counted from 0.

        >>> course = Course(epochs=10, batch_size=10, warmup=2)
        >>> [round(course.factor(step, 10), 3) for step in (0, 1, 2, 6)]
        [0.5, 1.0, 1.0, 0.5]
        """
        per_epoch = self.batches(n)
        warmup, total = self.warmup * per_epoch, self.epochs * per_epoch
        if step < warmup:
            return min(1.0, (step + 1) / warmup)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))

    def build(self, groups: Iterable[Mapping[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimizer of parameter groups, each of which may have a ``factor`` of the rate."""
        made = [{**group, "lr": lr * group.get("factor", 1.0)} for group in groups]
        optimizer: torch.optim.Optimizer
        if self.optimizer == "adamw":
            optimizer = torch.optim.AdamW(made, lr=lr, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                made, lr=lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
            )
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
        return optimizer


class Checkpoints:
    """Where an evaluation that trains keeps what it has done: one file a name, read back without unpickling objects.

    ``identity`` is everything that decides the result, as plain values: another one never resumes from these files.
    ``every`` seconds lie between two of them at least. Without a folder nothing is kept.
    """

    def __init__(
        self, folder: Path | None = None, identity: Mapping[str, Any] | None = None, every: float = 60
    ) -> None:
        text = json.dumps(identity or {}, sort_keys=True, default=str)
        self.folder, self.every = folder, every
        self._mark = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self._last = time.monotonic()

    def path(self, name: str) -> Path | None:
        """The file of this name."""
        return None if self.folder is None else self.folder / f"{name}-{self._mark}.ckpt"

    def load(self, name: str) -> dict[str, Any] | None:
        """What was saved under this name, None where nothing (readable) was."""
        path = self.path(name)
        if path is None or not path.exists():
            return None
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception:  # damaged or foreign: this work is done again
            return None

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Replace what is under this name, so that a crash leaves the old or the new."""
        path = self.path(name)
        if path is None:
            return
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomic(path, buffer.getvalue())
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return self.folder is not None and time.monotonic() - self._last >= self.every

    def forget(self, name: str) -> None:
        """Remove what is under this name."""
        path = self.path(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove this identity's files, once the result is written."""
        if self.folder is not None:
            for path in self.folder.glob(f"*-{self._mark}.ckpt"):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # others keep theirs here
                self.folder.rmdir()


def train_course(
    module: nn.Module,
    loss: Loss,
    views: Callable[[NDArray[np.intp], int], torch.Tensor],
    n: int,
    course: Course,
    optimizer: torch.optim.Optimizer,
    *,
    name: str,
    seed: int = 0,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    on_progress: OnProgress = ignore_progress,
) -> tuple[float, ...]:
    """Train ``module`` (on the device, in training mode) in place on n images; returns the mean loss of each epoch.

    ``views(rows, epoch)`` gives the images of a batch and is called ahead, in a thread. ``name`` stands in the
    checkpoint's file name and in the progress. Raises ``Diverged`` when the loss is no longer finite.
    """
    checkpoints = checkpoints or Checkpoints()
    per_epoch, losses = course.batches(n), torch.zeros(course.epochs, dtype=torch.float64)
    start = _resume(checkpoints.load(name), module, optimizer, losses)
    with torch.random.fork_rng(devices=_devices(device)):
        for step, rows, images in _ahead(views, n, course, seed, start):
            torch.manual_seed(draw_key(seed, "evaluation-step", step, "") >> 1)
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * course.factor(step, n)
            value = loss(images.to(device, non_blocking=True), rows, step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            if course.clip:
                nn.utils.clip_grad_norm_(module.parameters(), course.clip)
            optimizer.step()
            losses[step // per_epoch] += _finite(value, name, step) * len(rows) / n
            if checkpoints.due():
                checkpoints.save(name, _state(module, optimizer, losses, step + 1))
            on_progress(Progress(name, step + 1, course.epochs * per_epoch, unit="steps"))
    if start < course.epochs * per_epoch:
        checkpoints.save(name, _state(module, optimizer, losses, course.epochs * per_epoch))
    return tuple(losses.tolist())


def epoch_batches(n: int, course: Course, seed: int, epoch: int) -> list[NDArray[np.intp]]:
    """The batches of an epoch: all n rows in a seeded order, in parts of nearly equal size."""
    order = generator(seed, "evaluation-order", epoch=epoch).permutation(n)
    return list(np.array_split(order, course.batches(n)))


def _ahead(
    views: Callable[[NDArray[np.intp], int], torch.Tensor], n: int, course: Course, seed: int, start: int
) -> Iterator[tuple[int, NDArray[np.intp], torch.Tensor]]:
    """(step, rows, images) from step ``start`` on; one thread reads the next batches while this one is used."""
    per_epoch = course.batches(n)
    steps = (
        (epoch * per_epoch + i, rows, epoch)
        for epoch in range(start // per_epoch, course.epochs)
        for i, rows in enumerate(epoch_batches(n, course, seed, epoch))
        if epoch * per_epoch + i >= start
    )
    with ThreadPoolExecutor(1) as reader:
        pending: deque[tuple[int, NDArray[np.intp], Any]] = deque()
        for step, rows, epoch in steps:
            pending.append((step, rows, reader.submit(views, rows, epoch)))
            if len(pending) > _AHEAD:
                done = pending.popleft()
                yield done[0], done[1], done[2].result()
        while pending:
            done = pending.popleft()
            yield done[0], done[1], done[2].result()


def _finite(value: torch.Tensor, name: str, step: int) -> float:
    number = float(value.detach())
    if not math.isfinite(number):
        raise Diverged(f"{name}: the loss is {number} at step {step}; lower the learning rate")
    return number


def _state(module: nn.Module, optimizer: torch.optim.Optimizer, losses: torch.Tensor, step: int) -> dict[str, Any]:
    return {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses, "step": step}


def _resume(
    state: dict[str, Any] | None, module: nn.Module, optimizer: torch.optim.Optimizer, losses: torch.Tensor
) -> int:
    """The step to go on from, with everything as it was then."""
    if state is None:
        return 0
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    losses.copy_(state["losses"])
    return int(state["step"])


def _devices(device: str) -> list[int]:
    return [torch.cuda.current_device()] if device.startswith("cuda") else []
