"""DiffAug's training: a plain loop over ``Steps``, resumable at any step to the same weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption
from semaug.artifacts.files import write_atomic
from semaug.artifacts.memory import keep_freed_memory
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.schemas import EncoderCard
from semaug.diffaug_core.bank import BankFile
from semaug.diffaug_core.curves import Means, require_finite_weights
from semaug.diffaug_core.generator_cards import save_generator
from semaug.diffaug_core.plan import Moment
from semaug.diffaug_core.samples import Samples
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.steps import Steps
from semaug.diffaug_core.stopping import StopSignals
from semaug.ssl_methods.cards import save_encoder
from semaug.ssl_methods.metrics import CurveWriter
from semaug.ssl_methods.runs import METRICS, RunFolder

METHOD = "diffaug"
BATCH = 500
"""The official code's; a smaller set is one batch."""


def train_diffaug(
    samples: Samples,
    out: str | Path,
    settings: DiffAugSettings = DiffAugSettings(),  # noqa: B008 (frozen)
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    checkpoint_every: int = 200,
    log_every: int = 10,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> EncoderCard:
    """Train encoder and generator on ``samples`` and write both to the folder ``out``; returns the encoder's card.

    ``epochs`` (or ``steps``) are the encoder's; what the generator takes alone comes on top. ``batch_size`` None is
    500, or all of a smaller set. ``device`` is cpu, cuda or auto. ``config`` and ``inputs`` say what else shaped the
    samples; with settings, course and the samples' fingerprint they are the run's identity. The same call resumes a
    run that was stopped at any moment, and ends with bit-equal weights on a CPU with the same number of threads; a
    finished run returns its card at once.

    Raises ``ArtifactMismatch`` for a run of another config, ``ArtifactLocked`` for one in training,
    ``TrainingDiverged`` when a loss, weights or generated views are no longer finite, ``RunStopped`` after SIGTERM or
    SIGUSR1, ``InvalidOption``, ``OutputError``.
    """
    place = _device(device)
    if place.type == "cpu":
        keep_freed_memory()
    batch = min(BATCH, len(samples)) if batch_size is None else batch_size
    course = _course(samples, batch, epochs, steps, checkpoint_every, log_every)
    identity = {**(config or {}), "method": {"name": METHOD, **settings.record()}, "seed": seed, "training": course}
    read = {"samples": samples.fingerprint, **(inputs or {})}
    with RunFolder.open(out, identity, read, overwrite=overwrite) as folder:
        if card := folder.finished():
            return card
        found = Steps(samples, settings, encoder_steps=course["steps"], batch_size=batch, seed=seed, device=place)
        run = _Run(found, folder, checkpoint_every, log_every, on_progress)
        devices = [place] if place.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), StopSignals() as signals:
            run.train(signals)
        return _save(found, folder.path, seed, identity, read)


def _course(
    samples: Samples, batch_size: int, epochs: int | None, steps: int | None, checkpoint_every: int, log_every: int
) -> dict[str, int]:
    """The encoder's steps and the batch size, which decide the weights."""
    if (epochs is None) == (steps is None):
        raise InvalidOption(f"epochs {epochs} and steps {steps}: give one of both")
    if min(n for n in (epochs, steps, checkpoint_every, log_every) if n is not None) < 1:
        raise InvalidOption(
            f"epochs {epochs}, steps {steps}, checkpoint every {checkpoint_every}, log every {log_every}: at least 1"
        )
    own = steps if steps is not None else (epochs or 0) * max(1, len(samples) // max(1, batch_size))
    return {"steps": own, "batch_size": batch_size}


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda", "auto"):
        raise InvalidOption(f"device {name!r} is not known; choose cpu, cuda or auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidOption("device 'cuda' was asked for and none is visible; use --device cpu")
    return torch.device("cuda", 0) if name != "cpu" and torch.cuda.is_available() else torch.device("cpu")


class _Run:
    """The loop: steps, curves, banks and checkpoints of one run."""

    def __init__(
        self, steps: Steps, folder: RunFolder, checkpoint_every: int, log_every: int, on_progress: OnProgress
    ) -> None:
        self.steps, self.folder, self.on_progress = steps, folder, on_progress
        self.checkpoint_every, self.log_every = checkpoint_every, log_every
        self.total = steps.plan.total
        self.means = Means()
        self.banks = BankFile(folder.path)
        self.bank_record: dict[str, Any] | None = None

    def train(self, signals: StopSignals) -> None:
        start = self._restore()
        with closing(CurveWriter(self.folder.path / METRICS, start, tensorboard=False)) as writer:
            since = (time.perf_counter(), start)
            for step in range(start, self.total):
                moment = self.steps.plan.at(step)
                if self.steps.wants_bank(moment):
                    self._refresh(moment, step, signals)
                self.means.add(step + 1, self.steps.run(moment))
                since = self._report(writer, moment, step + 1, since)
                if signals.received and step + 1 < self.total:
                    self._save(step + 1)
                    raise signals.stopped(step + 1, self.total)

    def _report(self, writer: CurveWriter, moment: Moment, step: int, since: tuple[float, int]) -> tuple[float, int]:
        """The row and the checkpoint that are due at ``step``."""
        last = step == self.total
        is_row, is_saved = step % self.log_every == 0 or last, step % self.checkpoint_every == 0 or last
        if is_row or is_saved:
            self.means.require_finite()
        note: str = moment.block.stage
        if is_row:
            now = time.perf_counter()
            row = {"step": step, "epoch": moment.epoch, **self.means.take(), **self._rates(moment)}
            rate = (step - since[1]) * self.steps.batches.batch_size / max(now - since[0], 1e-9)
            writer.write({**row, "samples_per_second": rate})
            since = (now, step)
            losses = [f"{name.replace('_', ' ')} {row[name]:.3f}" for name in ("loss", "generator_loss") if name in row]
            note = ", ".join([moment.block.stage, *losses])
        if is_saved:
            self._save(step)
        self.on_progress(Progress("diffaug", step, self.total, "steps", note))
        return since

    def _rates(self, moment: Moment) -> dict[str, float]:
        block, state = moment.block, self.steps.state
        rates = {"lr": state.trained.rate(moment.encoder_step)} if block.encoder else {}
        if block.generator and state.generator:
            rates["generator_lr"] = state.generator.trained.rate(moment.generator_step)
        return rates

    def _refresh(self, moment: Moment, step: int, signals: StopSignals) -> None:
        """Make the bank and keep it: a run killed later reads it back, one stopped within makes it again."""
        self.means.require_finite()
        count = self.steps.settings.copies * len(self.steps.clean.samples)

        def on_chunk(done: int) -> None:
            self.on_progress(Progress("generated views", done, count, "views"))
            if signals.received:
                self._save(step)
                raise signals.stopped(step, self.total)

        bank = self.steps.refresh(moment, on_chunk)
        self.bank_record = {"number": bank.number, "step": bank.step, "spread": bank.spread}
        self.bank_record["digest"] = self.banks.write(bank)
        self._save(step)
        self.banks.drop_others(bank.number)

    def _save(self, step: int) -> None:
        self.means.require_finite()
        state = self.steps.state
        generator = state.generator.trained.network if state.generator else None
        require_finite_weights({"encoder": state.encoder, "generator": generator}, step)
        record = {"step": step, "method": METHOD, "state": state.state_dict(), "means": self.means.state_dict()}
        buffer = BytesIO()
        torch.save({**record, "bank": self.bank_record}, buffer)
        write_atomic(self.folder.checkpoint, buffer.getvalue())

    def _restore(self) -> int:
        """The step to go on from, with everything as it was then."""
        checkpoint = self.folder.load_checkpoint()
        if checkpoint is None:
            return 0
        if not isinstance(checkpoint, Mapping) or checkpoint.get("method") != METHOD:
            raise ArtifactMismatch(
                f"{self.folder.checkpoint} is no checkpoint of a DiffAug run; put the run's own back, or start anew "
                "with --overwrite"
            )
        self.steps.state.load_state_dict(checkpoint["state"])
        self.means.load_state_dict(checkpoint["means"], self.steps.clean.device)
        step, self.bank_record = int(checkpoint["step"]), checkpoint["bank"]
        if self.bank_record is not None and step < self.total:
            self.steps.bank = self.banks.read(**self.bank_record, like=self.steps.clean)
        return step


def _save(steps: Steps, path: Path, seed: int, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> EncoderCard:
    """Write the generator, then the encoder, whose card says that the run is done."""
    if part := steps.state.generator:
        save_generator(
            path,
            part.average.average,
            steps.denoising.schedule,
            seed=seed,
            steps=steps.plan.generator_steps,
            config=identity,
            inputs=inputs,
        )
    BankFile(path).drop_others(None)
    return save_encoder(
        path,
        steps.state.encoder,
        method=METHOD,
        seed=seed,
        steps=steps.plan.encoder_steps,
        config=identity,
        inputs=inputs,
    )
