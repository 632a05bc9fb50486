"""A step of DiffAug's training on rows against the bare forward and backward passes of its networks.

    python tools/bench_diffaug.py [--threads 2] [--repeats 7]

The bare step has the networks and the two losses (Eqs. 2 and 5) on one batch of views and noise that was drawn before:
no drawing of samples, views, time steps or noise, no optimizer, no running average, no curves, no checkpoints. Ours
has them all but the checkpoints; banks are made beforehand, since a run makes one every ``refresh_every`` epochs only.
The row of EM's turns is over as many steps of each network. Seconds are the processor's, which other programs
lengthen little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from benchmark import Benchmark, Row, measure
from torch import Tensor

from semaug.artifacts.memory import keep_freed_memory
from semaug.diffaug_core import DiffAugSettings, denoising_loss
from semaug.diffaug_core.curves import Means
from semaug.diffaug_core.objectives import contrast_views
from semaug.diffaug_core.plan import Moment
from semaug.diffaug_core.steps import Steps
from semaug.diffaug_core.testing import MixtureSamples

STEPS = 10
BATCH = 500
FEATURES = 500
"""Columns of HCL after its reduction (spec S4.6)."""
TARGET = "within 1.2 times the bare forward and backward passes"


class Rows(MixtureSamples):
    """A mixture whose rows are drawn once, and mixed with a random other row, as neighbours are."""

    __slots__ = ("_rows",)

    def prepare(self) -> Rows:
        """Draw the rows."""
        object.__setattr__(self, "_rows", super().rows)
        return self

    def clean(self, indices: np.ndarray) -> Tensor:
        """See ``Samples``."""
        return torch.from_numpy(self._rows[indices])

    def hand(self, indices: np.ndarray, *, seed: int, epoch: int, view: int) -> Tensor:
        """See ``Samples``."""
        source = np.random.default_rng((seed, epoch, view))
        share = source.random((len(indices), 1), dtype=np.float32)
        near = source.integers(len(self), size=len(indices))
        return torch.from_numpy(self._rows[indices] * share + self._rows[near] * (1 - share))


def prepared(settings: DiffAugSettings) -> tuple[Steps, list[Moment], list[Moment]]:
    """Steps at the start of the substitution, and moments of it that train the encoder, and the generator."""
    samples = Rows(count=4 * BATCH, features=FEATURES, components=10).prepare()
    steps = Steps(samples, settings, encoder_steps=400, batch_size=BATCH)
    moments = [m for m in map(steps.plan.at, range(steps.plan.total)) if m.block.stage == "substitution"]
    steps.refresh(next(m for m in moments if m.refresh is not None))
    quiet = [m for m in moments if m.refresh is None]
    return steps, [m for m in quiet if m.block.encoder][:STEPS], [m for m in quiet if m.block.generator][:STEPS]


def ours(steps: Steps, moments: list[Moment]) -> Callable[[], float]:
    """Whole steps, with their curves."""
    means = Means()

    def run() -> float:
        start = time.process_time()
        for number, moment in enumerate(moments):
            means.add(number, steps.run(moment))
        means.require_finite()
        means.take()
        return time.process_time() - start

    return run


def bare(
    steps: Steps, moments: list[Moment], *, losses_too: bool = True, optimizers: bool = False
) -> Callable[[], float]:
    """Forward and backward passes of the networks that ``moments`` train; with ``optimizers`` their updates too.

    Without ``losses_too`` the encoder minimises a mean of z.
    """
    part = steps.state.generator
    assert part is not None
    indices = np.arange(BATCH)
    views = steps.views.draw(indices, steps.plan.at(0), None)
    clean, noise = steps.clean[indices], torch.randn(BATCH, FEATURES)
    t, condition = torch.randint(1000, (BATCH,)), torch.randn(BATCH, part.conditions.width)
    encoder, generator = steps.state.encoder.train(), part.trained.network

    contrast = steps.contrast if losses_too else _plain

    def one(moment: Moment) -> None:
        losses = []
        if moment.block.encoder:
            terms, _ = contrast_views(encoder, views, contrast)
            losses.append((terms["loss"], steps.state.trained))
        if moment.block.generator:
            schedule = steps.denoising.schedule
            losses.append((denoising_loss(generator, clean, noise, t, condition, schedule), part.trained))
        for loss, trained in losses:
            trained.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if optimizers:
                trained.optimizer.step()

    def run() -> float:
        start = time.process_time()
        for moment in moments:
            one(moment)
        return time.process_time() - start

    return run


def _plain(y: Tensor, z: Tensor) -> dict[str, Tensor]:
    return {"loss": z.square().mean()}


def row(name: str, settings: DiffAugSettings) -> Benchmark:
    """One schedule: joint steps, or as many of each turn of EM."""
    steps, of_encoder, of_generator = prepared(settings)
    moments = of_encoder if settings.schedule == "joint" else [*of_encoder, *of_generator]
    return Benchmark(
        name=f"DiffAug, a step of {name}, batch {BATCH} of {FEATURES} columns",
        target=TARGET,
        ours=ours(steps, moments),
        peers={
            "bare": bare(steps, moments),
            "bare and optimizers": bare(steps, moments, optimizers=True),
            "bare without the loss of pairs": bare(steps, moments, losses_too=False),
        },
        target_ratio=1 / 1.2,
        target_peers=("bare",),
        items=len(moments),
        unit="steps",
        note="bare: both networks and losses on one batch drawn before; no draws, optimizer, average or curves",
    )


def benchmarks() -> list[Benchmark]:
    """A joint step, and a step of each turn of EM."""
    keep_freed_memory()
    settings = DiffAugSettings(warmup_epochs=1, generator_epochs=1, refresh_every=50, block_epochs=20)
    return [row("joint training", settings), row("EM's turns", replace(settings, schedule="em"))]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for benchmark in benchmarks():
        _print(measure(benchmark, given.repeats))


def _print(found: Row) -> None:
    print(f"{found.benchmark}: {1000 / found.ours.throughput:.1f} ms, target met: {found.met}")
    for peer in found.peers:
        print(f"  {peer.name}: {1000 / peer.throughput:.1f} ms, ours takes {1 / peer.ratio:.2f} times as long")


if __name__ == "__main__":
    main()
