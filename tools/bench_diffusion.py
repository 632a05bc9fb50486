"""Sampling: positives of 10,000 rows by the generator of the paper's widths, 50 steps of DDIM, and by diffusers' loop.

Ours is cut into the batches that ``augment`` takes; the peer steps diffusers' ``DDIMScheduler`` over the same batches
with the same network, so the ratio is the price of everything around the network. Seconds are the
processor's, which other programs lengthen little. 1,000 rows under ``--quick``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import torch
from benchmark import Benchmark

BATCH, STEPS, CONDITION = 512, 50, 80


def benchmarks() -> list[Benchmark]:
    """Rows of 50 columns (principal components) and of 765 (genes)."""
    return [_row(features, 1_000 if "--quick" in sys.argv else 10_000) for features in (50, 765)]


def _row(features: int, rows: int) -> Benchmark:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    from semaug.diffaug_core import ImplicitSampler, NoiseSchedule, build_generator

    schedule, sampler = NoiseSchedule.linear(), ImplicitSampler(STEPS)
    network = build_generator("mlp", (features,), CONDITION, schedule=schedule).eval()
    noise, conditions = torch.randn(rows, features), torch.randn(rows, CONDITION)
    theirs = DDIMScheduler(clip_sample=False, timestep_spacing="trailing", trained_betas=list(schedule.betas))
    theirs.set_timesteps(STEPS)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(noise.split(BATCH), conditions.split(BATCH), strict=True)

    def ours() -> float:
        started = time.process_time()
        for x, condition in batches():
            sampler.sample(network, condition, x, lambda t: x, schedule)  # noqa: B023 (asked for at once, and never)
        return time.process_time() - started

    @torch.no_grad()
    def peer() -> float:
        started = time.process_time()
        for x, condition in batches():
            for t in theirs.timesteps:
                x = theirs.step(network(x, t.expand(len(x)), condition), t, x).prev_sample
        return time.process_time() - started

    return Benchmark(
        f"DDIM, {rows // 1000}k rows x {features}, {STEPS} steps",
        "no slower than diffusers' loop; 10k rows in two minutes",
        ours=ours,
        peers={"diffusers": peer},
        target_ratio=0.95,
        target_seconds=120,
        items=rows,
        unit="rows",
        most_repeats=3,
    )
