"""Fine-tuning a detector: a loop whose every draw is of its step, so that a stopped run goes on bit for bit."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.store import require_same, take_lock
from semaug.eval.detection.data import AnnotatedImage, DetectionDataError, DetectionSet
from semaug.eval.detection.examples import Batch, draws_by_step, read_ahead
from semaug.eval.detection.model import norm_parameters
from semaug.eval.detection.ranks import Ranks
from semaug.eval.detection.schedules import Schedule
from semaug.eval.errors import EvaluationError

CHECKPOINT = "last.ckpt"
RECORD = "record.json"
LOSSES = "losses.csv"
NOTED_EVERY = 20


@dataclass(slots=True)
class _State:
    """Where training is: the steps done, the losses noted so far, and whether the norms were averaged."""

    step: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    precise: bool = False


def fine_tune(
    detector: nn.Module,
    data: DetectionSet,
    schedule: Schedule,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    seed: int = 0,
    masks: bool = False,
    workers: int = 0,
    device: str = "cpu",
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    checkpoint_every: int = 500,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> list[dict[str, float]]:
    """Train ``detector`` in place; returns the losses noted every twenty steps.

    Images without an object to learn from are left out, as detectron2 does. ``folder`` holds ``record.json``
    (``identity`` and the schedule), ``last.ckpt`` (tensors and plain values) and ``losses.csv``; a rerun of the same
    identity goes on from the checkpoint, another is refused with ``ArtifactMismatch`` unless ``overwrite``. Of several
    ``ranks`` each takes its part of a batch, and the first writes.
    Raises ``EvaluationError`` where the loss is no longer finite.
    """
    images = [i for i in data.images if (~i.objects.crowd).any()]
    if not images:
        raise DetectionDataError(f"{data.spec} has {len(data)} images and no object to train on; check the labels")
    ranks.require_batch(schedule.batch_size)
    own = {"seed": seed, "ranks": ranks.count, "schedule": schedule.describe()}
    record = json.loads(json.dumps({**identity, **own}))
    with _held(folder, record, overwrite) if ranks.first else nullcontext():
        ranks.meet()
        detector.to(device)
        run = _Run(
            detector, images, schedule, folder, seed, masks, workers, device, ranks, checkpoint_every, on_progress
        )  # fmt: skip
        with _own_randomness(device):
            return run()


@dataclass(slots=True)
class _Run:
    detector: nn.Module
    images: Sequence[AnnotatedImage]
    schedule: Schedule
    folder: Path
    seed: int
    masks: bool
    workers: int
    device: str
    ranks: Ranks
    checkpoint_every: int
    on_progress: OnProgress
    state: _State = field(default_factory=_State)

    def __call__(self) -> list[dict[str, float]]:
        optimizer = _optimizer(self.detector, self.schedule)
        self._restore(optimizer)
        trained = self.ranks.shared(self.detector.train(), self.device)
        for batch in self._batches(self.state.step, self.schedule.steps):
            self._step(trained, optimizer, batch)
            self.state.step += 1
            self.on_progress(Progress("fine-tune", self.state.step, self.schedule.steps, "steps"))
            if self._saves_after(self.state.step - 1):
                self._save(optimizer)
        if not self.state.precise:
            self._average_norms()
            self.state.precise = True
            self._save(optimizer)
        self.detector.eval()
        return self.state.losses

    def _saves_after(self, step: int) -> bool:
        return (step + 1) % self.checkpoint_every == 0 or step == self.schedule.steps - 1

    def _batches(self, first: int, end: int) -> Iterator[Batch]:
        sizes = [image.size for image in self.images]
        whole = islice(draws_by_step(sizes, self.schedule.batch_size, self.seed), first, end)
        steps = (draws[self.ranks.rank :: self.ranks.count] for draws in whole)
        for batch in read_ahead(self.images, steps, self.schedule, self.seed, self.masks, self.workers):
            yield batch.to(self.device)

    def _seed_samplers(self, step: int) -> None:
        torch.manual_seed(draw_key(self.seed, "detection-step", step, "", view=self.ranks.rank) >> 1)

    def _step(self, trained: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        step = self.state.step
        self._seed_samplers(step)
        for group in optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)
        losses: dict[str, Tensor] = trained(batch.images, batch.targets)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros((), device=self.device)).backward()
        if step % NOTED_EVERY == 0 or self._saves_after(step):
            self._note(losses)
        optimizer.step()

    def _note(self, losses: Mapping[str, Tensor]) -> None:
        """Look at the losses, which waits for the device, and write some down: the same ones whatever is saved when."""
        step, rate = self.state.step, self.schedule.rate(self.state.step)
        values = {name: float(value.detach()) for name, value in losses.items()}
        total = sum(values.values())
        if not math.isfinite(total):
            raise EvaluationError(
                f"the loss is {total} at step {step} with rate {rate:.3g}; lower --lr or raise --batch-size"
            )
        if step % NOTED_EVERY == 0 or step == self.schedule.steps - 1:
            self.state.losses.append({"step": float(step), "lr": rate, "loss": total, **values})

    def _average_norms(self) -> None:
        """Batch-norm statistics as the mean over training batches, not a moving one (detectron2's precise BN)."""
        norms = [m for m in self.detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not norms or not self.schedule.precise_batches:
            return
        kept = [(norm, norm.momentum) for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        count = self.schedule.precise_batches
        with torch.no_grad():
            for done, batch in enumerate(self._batches(self.schedule.steps, self.schedule.steps + count), 1):
                self._seed_samplers(self.schedule.steps + done - 1)
                self.detector(batch.images, batch.targets)
                self.on_progress(Progress("average norms", done, count, "steps"))
        for norm, momentum in kept:
            norm.momentum = momentum

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        if not self.ranks.first:
            return
        state = {
            "step": self.state.step,
            "losses": self.state.losses,
            "precise": self.state.precise,
            "detector": self.detector.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.folder / CHECKPOINT, buffer.getvalue())
        write_atomic(self.folder / LOSSES, _table(self.state.losses).encode())

    def _restore(self, optimizer: torch.optim.Optimizer) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.detector.load_state_dict(state["detector"])
            optimizer.load_state_dict(state["optimizer"])
            self.state = _State(int(state["step"]), list(state["losses"]), bool(state["precise"]))
        except Exception as error:
            raise ArtifactError(
                f"{path} cannot be read ({type(error).__name__}); delete it, or start anew with --overwrite"
            ) from error


def _optimizer(detector: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD; norms are not decayed."""
    plain = norm_parameters(detector)
    named = [(name, p) for name, p in detector.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if name not in plain], "weight_decay": schedule.weight_decay},
        {"params": [p for name, p in named if name in plain], "weight_decay": 0.0},
    ]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=schedule.lr, momentum=schedule.momentum)


@contextmanager
def _held(folder: Path, record: Mapping[str, Any], overwrite: bool) -> Iterator[None]:
    """The folder of a fine-tuning, locked, with its record written or found to be the same."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder)
    try:
        if overwrite:
            for name in (CHECKPOINT, RECORD, LOSSES):
                (folder / name).unlink(missing_ok=True)
        if (folder / CHECKPOINT).exists():
            require_same(folder, _record(folder / RECORD), record)
        write_atomic(folder / RECORD, json.dumps(record, indent=1).encode())
        yield
    finally:
        os.close(lock)


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); start anew with --overwrite") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} is no record of a fine-tuning; start anew with --overwrite")
    return found


@contextmanager
def _own_randomness(device: str) -> Iterator[None]:
    """Torch's global generators, which torchvision's samplers draw from, are given back as they were."""
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        yield


def _table(losses: Sequence[Mapping[str, float]]) -> str:
    if not losses:
        return ""
    names = list(losses[0])
    lines = [",".join(f"{row[name]:.6g}" for name in names) for row in losses]
    return "\n".join([",".join(names), *lines]) + "\n"
