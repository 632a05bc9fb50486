"""Ends that are asked for: a checkpoint at the step in progress, then, under SLURM, the job's place in the queue."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from semaug.ssl_methods.errors import RunStopped

STOPS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM ends the run; SIGUSR1 (``sbatch --signal=USR1@120``) also puts its SLURM job back into the queue."""


class StopOnSignal(Callback):
    """After a signal: ``save`` at the next step, requeue for SIGUSR1, and raise ``RunStopped``.

    Several processes agree on it every ``every`` steps, whichever of them got the signal.
    """

    def __init__(self, save: Callable[[Trainer], None], every: int) -> None:
        self.save, self.every = save, every
        self.received = 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._handlers = {number: signal.signal(number, self._receive) for number in STOPS}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not ends_step(trainer, batch_idx) or step == trainer.max_steps:
            return
        if trainer.world_size > 1 and step % self.every:
            return
        if number := _agreed(self.received, trainer):
            self.save(trainer)
            note = requeue() if number == signal.SIGUSR1 and trainer.is_global_zero else ""
            raise RunStopped(
                f"{signal.Signals(number).name} stopped the run at step {step} of {trainer.max_steps}, and a "
                f"checkpoint was written{note}; the same command goes on from there"
            )

    def _receive(self, number: int, frame: Any) -> None:
        self.received = max(self.received, number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer has stepped after batch ``batch_idx``, which may be one of several that accumulate."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def _agreed(received: int, trainer: Trainer) -> int:
    """The signal that any process got, on all of them; 0 for none."""
    if trainer.world_size == 1:
        return received
    number = torch.tensor(received, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
    return int(number)


def requeue() -> str:
    """Put this SLURM job back into the queue; what came of it, as the end of a sentence, nothing outside of SLURM."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not job:
        return ""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f", but `scontrol requeue {job}` failed ({error})"
    if done.returncode:
        return f", but `scontrol requeue {job}` failed ({' '.join(done.stderr.split())})"
    return f" and SLURM job {job} was requeued"
