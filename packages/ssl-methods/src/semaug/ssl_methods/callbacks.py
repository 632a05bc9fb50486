"""Lightning callbacks of a pretraining run. Importing this module imports Lightning."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from semaug.artifacts.draws import draw_key
from semaug.artifacts.progress import OnProgress, Progress
from semaug.ssl_methods.batches import BatchOrder
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.errors import TrainingDiverged
from semaug.ssl_methods.gathering import mean_over_ranks, world
from semaug.ssl_methods.metrics import CurveWriter
from semaug.ssl_methods.periods import Periods, evaluating
from semaug.ssl_methods.schedules import cosine
from semaug.ssl_methods.stopping import ends_step
from semaug.ssl_methods.training import Training

Evaluate = Callable[[Encoder], Mapping[str, float]]

LEAST_SCALE = 1e-3
"""Of fp16's gradients: one that needs less has no end to its overflows."""


class StepClock(Callback):
    """Sets what a step's number decides: learning rates, weight decays and the seed of torch's generators.

    A group marked ``constant_lr`` keeps its rate; one without weight decay stays without. Each rank, and each part of
    a step that accumulates, draws its own numbers.
    """

    def __init__(
        self, schedule: Callable[[int], float], seed: int, *, rank: int = 0, final_weight_decay: float | None = None
    ) -> None:
        self.schedule = schedule
        self.seed = seed
        self.rank = rank
        self.final_weight_decay = final_weight_decay

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step, final = trainer.global_step, self.final_weight_decay
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group["base_lr"] * (1.0 if group.get("constant_lr") else self.schedule(step))
            if final is not None and group["base_weight_decay"]:
                group["weight_decay"] = cosine(step, int(trainer.max_steps), group["base_weight_decay"], final)
        part = batch_idx % trainer.accumulate_grad_batches
        drawer = f"{self.rank}.{part}" if part else str(self.rank) if self.rank else ""
        _seed(draw_key(self.seed, "step", step, drawer), pl_module.device)


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and the device; ``torch.manual_seed`` spends 0.7 ms on absent backends."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


class OnlineEvaluation(Callback):
    """Every ``every`` steps: ``evaluate(encoder)`` in evaluation mode; its numbers go into the run's curves.

    What it evaluates by, kNN or a linear probe, say, the caller brings: this package knows no evaluation.
    """

    def __init__(self, evaluate: Evaluate, every: int) -> None:
        self.evaluate = evaluate
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, training = trainer.global_step, cast(Training, pl_module)
        due = step % self.every == 0 or step == trainer.max_steps
        if trainer.is_global_zero and due and ends_step(trainer, batch_idx):
            encoder = training.method.result
            with evaluating(encoder), torch.no_grad():
                training.evaluations.update(self.evaluate(encoder))


class Curves(Callback):
    """Means of the method's scalars since the last row, rate of learning and images a second, every ``every`` steps.

    The means are those of all processes. Nothing is read off the device in between. A loss that is not finite raises
    ``TrainingDiverged`` at the next row or checkpoint (``is_saved``), and so do weights before a checkpoint, which a
    bad gradient may have spoilt under a good loss, and a scale of fp16's gradients that has fallen without end:
    nothing spoilt is ever saved.
    """

    def __init__(
        self,
        writer: CurveWriter | None,
        order: BatchOrder,
        every: int,
        is_saved: Callable[[int], bool],
        on_progress: OnProgress,
    ) -> None:
        self.writer, self.order, self.every, self.is_saved = writer, order, every, is_saved
        self.on_progress = on_progress
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self._bad: Tensor | None = None
        self._since = (0.0, 0)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {k: v.cpu() for k, v in _of_all(self.sums).items()}, "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sums, self.count = dict(state_dict["sums"]), state_dict["count"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sums = {k: v.to(pl_module.device) for k, v in self.sums.items()}
        self._bad = torch.full((), -1, device=pl_module.device)
        self._since = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, training = trainer.global_step, cast(Training, pl_module)
        self._collect(training.scalars, step)
        if not ends_step(trainer, batch_idx):
            return
        is_row = step % self.every == 0 or step == trainer.max_steps
        if is_row or self.is_saved(step):
            self._require_finite()
            _require_scale(trainer, step)
        if self.is_saved(step):
            _require_finite_weights(training, step)
        if is_row:
            self._write(trainer, training, step)
        else:
            self._write_evaluations(training, step)
            self.on_progress(Progress("pretrain", step, int(trainer.max_steps), "steps"))
        if self.is_saved(step) and self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        """Flush and close the curves' files."""
        if self.writer is not None:
            self.writer.close()

    def _collect(self, scalars: Mapping[str, Tensor], step: int) -> None:
        assert self._bad is not None
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if self.count else value
        self.count += 1
        failed = ~torch.isfinite(scalars["loss"]) & (self._bad < 0)
        self._bad = torch.where(failed, step, self._bad)

    def _require_finite(self) -> None:
        assert self._bad is not None
        if (bad := int(self._bad)) >= 0:
            raise TrainingDiverged(
                f"the loss is no longer finite at step {bad}; lower the learning rate or raise the warm-up "
                "(the last good checkpoint is kept)"
            )

    def _write_evaluations(self, training: Training, step: int) -> None:
        if training.evaluations and self.writer is not None:
            self.writer.write({"step": step, **training.evaluations})
        training.evaluations.clear()

    def _write(self, trainer: Trainer, training: Training, step: int) -> None:
        then, before = self._since
        now = time.perf_counter()
        means = {name: float(total) / self.count for name, total in _of_all(self.sums).items()}
        rate = (step - before) * self.order.batch_size / max(now - then, 1e-9)
        self.sums, self.count, self._since = {}, 0, (now, step)
        row = {"step": step, "epoch": step / self.order.per_epoch, **means}
        row |= {"lr": trainer.optimizers[0].param_groups[0]["lr"], "images_per_second": rate}
        if self.writer is not None:
            self.writer.write({**row, **training.evaluations})
        training.evaluations.clear()
        self.on_progress(Progress("pretrain", step, int(trainer.max_steps), "steps", f"loss {means['loss']:.3f}"))


def _of_all(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The means over all processes of each one's scalars; they all come here at the same steps."""
    if not own or world()[1] == 1:
        return dict(own)
    return dict(zip(own, mean_over_ranks(torch.stack(list(own.values()))).unbind(), strict=True))


def _require_scale(trainer: Trainer, step: int) -> None:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and (scale := float(scaler.get_scale())) < LEAST_SCALE:
        raise TrainingDiverged(
            f"fp16's gradients overflow still at a scale of {scale:.1e} at step {step}; lower the learning rate or "
            "take --precision bf16 (the last good checkpoint is kept)"
        )


@torch.no_grad()
def _require_finite_weights(training: Training, step: int) -> None:
    state = {name: t for name, t in training.method.state_dict().items() if t.is_floating_point()}
    sound = torch.stack([torch.isfinite(t).all() for t in state.values()])
    if not bool(sound.all()):
        name = next(n for n, good in zip(state, sound.tolist(), strict=True) if not good)
        raise TrainingDiverged(
            f"{name} is no longer finite at step {step}, though the loss is; lower the learning rate or raise the "
            "warm-up (the last good checkpoint is kept)"
        )


class GuidanceRecord(Callback):
    """Names in every checkpoint the guidance whose pairs the run is reading."""

    def __init__(self, periods: Periods) -> None:
        self.periods = periods

    def state_dict(self) -> dict[str, Any]:
        return dict(self.periods.current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.periods.current = dict(state_dict)


class LastCheckpoint(Callback):
    """Saves the run's one checkpoint every ``every`` steps and at the end; runs after ``Curves`` has checked it.

    ``also`` are further steps that are saved.
    """

    def __init__(self, path: Path, every: int, also: Collection[int] = ()) -> None:
        self.path = path
        self.every = every
        self.also = frozenset(also)

    def is_due(self, step: int, steps: int) -> bool:
        """Whether a checkpoint follows ``step`` of ``steps``."""
        return step % self.every == 0 or step == steps or step in self.also

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if ends_step(trainer, batch_idx) and self.is_due(trainer.global_step, int(trainer.max_steps)):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now; called on all ranks."""
        trainer.save_checkpoint(self.path)
