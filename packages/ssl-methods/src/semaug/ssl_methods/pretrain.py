"""Pretraining on a Lightning Trainer, resumable at any step to the same weights. Importing this imports Lightning."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.files import write_atomic
from semaug.artifacts.memory import keep_freed_memory
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.schemas import EncoderCard
from semaug.ssl_methods.batches import BatchOrder, RunSampler, run_loader
from semaug.ssl_methods.callbacks import Curves, GuidanceRecord, LastCheckpoint, StepClock
from semaug.ssl_methods.cards import load_card, save_encoder
from semaug.ssl_methods.hardware import PRECISIONS, Hardware, same_kernels
from semaug.ssl_methods.methods import Method
from semaug.ssl_methods.metrics import CurveWriter
from semaug.ssl_methods.optimizers import OPTIMIZERS, OptimizerSettings
from semaug.ssl_methods.peers import noticing_lost_peers
from semaug.ssl_methods.periods import PairRefresh, PeriodLoader, Periods, current_ranks
from semaug.ssl_methods.restore import restore
from semaug.ssl_methods.runs import GUIDANCE, METRICS, RunFolder
from semaug.ssl_methods.schedules import WarmupCosine
from semaug.ssl_methods.shared_norms import share_batch_norm
from semaug.ssl_methods.stopping import StopOnSignal
from semaug.ssl_methods.training import BatchTransform, Training

__all__ = ["PRECISIONS", "Hardware", "pretrain"]


class _DurableCheckpoints(TorchCheckpointIO):
    """Checkpoints that are either the old file or wholly the new one; only tensors and plain values are read back."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        write_atomic(Path(path), buffer.getvalue())


def pretrain(
    method: Method,
    pairs: Any,
    *,
    out: str | Path,
    steps: int,
    batch_size: int = 256,
    optimizer: OptimizerSettings = OPTIMIZERS["paper"],
    warmup: int = 0,
    accumulate: int = 1,
    seed: int = 0,
    hardware: Hardware = Hardware(),  # noqa: B008 (frozen)
    batch_transform: BatchTransform | None = None,
    callbacks: Sequence[Callback] = (),
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    refresh: PairRefresh | None = None,
    checkpoint_every: int = 100,
    log_every: int = 10,
    overwrite: bool = False,
    tensorboard: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> EncoderCard:
    """Train ``method`` on ``pairs`` for ``steps`` steps and write its encoder to the folder ``out``.

    ``pairs`` is a Dataset of (view, view, ..., index), views float32 (3, S, S), with ``set_epoch``; ``batch_size``
    counts its items in one step over all devices, which are forwarded in ``accumulate`` equal parts. The rate warms up
    linearly for ``warmup`` steps, then follows half a cosine to 0 (spec S1.8). ``batch_transform`` makes the views of
    a batch that has arrived on the device, where ``pairs`` hold what it needs instead of views. ``config`` and
    ``inputs`` say what else shaped the data; with the settings given here they are the run's identity. ``refresh``
    replaces the pairs at its times, guided by the encoder as it then is, and keeps that guidance in the run's folder
    ``guidance``; ``pairs`` are those until its first time.

    The same call resumes a run that was stopped at any moment, and ends with bit-equal weights on a CPU with the same
    number of threads; a finished run returns its card at once. On a CPU the process keeps the memory that steps free
    (``keep_freed_memory``). ``method`` must be freshly built from ``seed``.

    Raises ``ArtifactMismatch`` for a run of another config, ``ArtifactLocked`` for one in training,
    ``TrainingDiverged`` when loss or weights are no longer finite, ``RunStopped`` after SIGTERM or SIGUSR1,
    ``PeerLost`` when another of several processes is gone, ``InvalidOption``, ``OutputError``.
    """
    hardware = hardware.launched()
    if not hardware.cuda:
        keep_freed_memory()
    _check(out, steps, checkpoint_every, log_every, overwrite, hardware)
    order = BatchOrder(len(pairs), batch_size, seed, hardware.rank, hardware.world, accumulate)
    method.check_batch(batch_size // accumulate, len(pairs), hardware.world)
    periods = _periods(refresh, method, pairs, order, steps, Path(out))
    identity = _identity(method, optimizer, config or {}, seed)
    identity |= _course(steps, batch_size, warmup, accumulate, hardware, refresh)
    if hardware.precision == PRECISIONS["fp64"]:
        method.double()  # before a checkpoint is read: Lightning widens only afterwards, what float32 has cut off
    if hardware.world > 1 and not hardware.cuda:
        share_batch_norm(method)  # on GPUs Lightning does it, by torch's own
    if origin := method.encoder.origin:
        identity["init"], inputs = origin.settings(), {**(inputs or {}), "init": origin.digest}
    schedule = WarmupCosine(steps, warmup)
    clock = StepClock(schedule, seed, rank=order.rank, final_weight_decay=optimizer.final_weight_decay)
    primary = order.rank == 0
    with RunFolder.open(out, identity, inputs or {}, overwrite=overwrite, primary=primary) as folder:
        if card := folder.finished():
            return card
        start = restore(method, folder, steps)
        if start < steps:
            saver = LastCheckpoint(folder.checkpoint, checkpoint_every, periods.starts if periods else ())
            writer = CurveWriter(folder.path / METRICS, start, tensorboard=tensorboard) if primary else None
            curves = Curves(writer, order, log_every, lambda step: saver.is_due(step, steps), on_progress)
            records = [GuidanceRecord(periods)] if periods else []
            watchers = [clock, *callbacks, *records, curves, saver, StopOnSignal(saver.save, log_every)]
            trainer = _trainer(watchers, folder.path, steps, hardware, accumulate)
            training = Training(method, optimizer, steps, hardware.channels_last, batch_transform)
            with (
                same_kernels(hardware.deterministic),
                closing(curves),
                noticing_lost_peers(order.rank, order.world),
                _loader(method, pairs, periods, order, start, steps, hardware) as loader,
            ):
                _fit(trainer, training, loader, folder.checkpoint if start else None)
        if primary:
            save_encoder(
                folder.path, method.result, predictor=method.predictor, method=method.name, seed=seed, steps=steps,
                config=identity, inputs=inputs,
            )  # fmt: skip
        with noticing_lost_peers(order.rank, order.world):
            _wait_for_all()
        return load_card(folder.path)


def _identity(method: Method, optimizer: OptimizerSettings, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What decides the weights, but for the course of the training."""
    return {
        **config,
        "method": {"name": method.name, **method.settings()},
        "encoder": asdict(method.encoder.spec),
        "optimizer": optimizer.record(),
        "seed": seed,
    }


def _course(
    steps: int, batch_size: int, warmup: int, accumulate: int, hardware: Hardware, refresh: PairRefresh | None
) -> dict[str, Any]:
    """The course of the training, which decides the weights too; parts of batches and refreshes only where used."""
    course = {"steps": steps, "batch_size": batch_size, "warmup": warmup, "precision": hardware.precision}
    course |= {"accumulate": accumulate} if accumulate > 1 else {}
    return {"training": course} | (
        {"refresh": {**asdict(refresh.times), **refresh.settings()}} if refresh is not None else {}
    )


def _periods(
    refresh: PairRefresh | None, method: Method, pairs: Any, order: BatchOrder, steps: int, out: Path
) -> Periods | None:
    if refresh is None:
        return None
    refresh.check(method.result)
    return Periods(refresh, pairs, order, steps, out / GUIDANCE)


def _check(
    out: str | Path, steps: int, checkpoint_every: int, log_every: int, overwrite: bool, hardware: Hardware
) -> None:
    if min(steps, checkpoint_every, log_every) < 1:
        raise InvalidOption(f"steps {steps}, checkpoint every {checkpoint_every}, log every {log_every}: at least 1")
    if overwrite and hardware.world > 1:
        raise InvalidOption(f"--overwrite with {hardware.world} processes could race; delete {out} first")


@contextmanager
def _loader(
    method: Method, pairs: Any, periods: Periods | None, order: BatchOrder, start: int, steps: int, hardware: Hardware
) -> Iterator[Any]:
    """The batches of the rest of the run."""

    def load(first: int, stop: int) -> Any:
        found = pairs if periods is None else periods.pairs_at(first, method.result, current_ranks(_wait_for_all))
        return run_loader(found, RunSampler(order, first, stop), workers=hardware.workers, pin_memory=hardware.cuda)

    if periods is None:
        yield load(start, steps)
    else:
        with closing(PeriodLoader(periods.spans(start, steps), load, order.accumulate)) as loader:
            yield loader


def _trainer(callbacks: list[Callback], folder: Path, steps: int, hardware: Hardware, accumulate: int) -> Trainer:
    numbers = hardware.numbers()
    plugin = numbers.pop("plugin", None)
    with _quiet():
        return Trainer(
            accelerator="gpu" if hardware.cuda else "cpu",
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=hardware.strategy,
            sync_batchnorm=hardware.cuda and hardware.world > 1,
            max_steps=steps,
            max_epochs=1,  # to Lightning a run is one epoch: its loader crosses ours without a pause
            callbacks=callbacks,
            accumulate_grad_batches=accumulate,
            plugins=[_DurableCheckpoints(), *([plugin] if plugin else [])],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **numbers,
        )


def _fit(trainer: Trainer, training: LightningModule, loader: Any, checkpoint: Path | None) -> None:
    """Fit with the caller's random state and interrupt handler left as they were."""
    devices = list(range(torch.cuda.device_count())) if trainer.strategy.root_device.type == "cuda" else []
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with _quiet(), torch.random.fork_rng(devices=devices):
            trainer.fit(training, loader, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        # Lightning turns an interrupt into an exit and leaves interrupts ignored.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notices, and without its warnings that do not hold here."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _ANSWERED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_ANSWERED = (
    r".*does not have many workers.*",  # the number of workers is the caller's choice
    r".*ended before the epoch ended and your dataloader is not resumable",  # the sampler starts at the step
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.15
    r".*GPU available but not used.*",  # the device is the caller's choice
)
