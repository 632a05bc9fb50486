"""Intrinsic dimension of an embedding: exact neighbours of 50,000 points, and the same estimates by scikit-dimension.

Ours is ``evaluate_dimension`` whole: TwoNN, its halves, the MLE with 20 neighbours, and their bootstrap. The first row
takes two threads (10,000 points under ``--quick``); the second one thread, like the peer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from benchmark import Benchmark, Run

POINTS, DIM = 50_000, 512
FEW, INNER = 5_000, 12


def benchmarks() -> list[Benchmark]:
    """The exact search at scale, and against the peer where it is installed."""
    from semaug.eval.geometry.dimension import DimensionSettings, evaluate_dimension

    points = 10_000 if "--quick" in sys.argv else POINTS
    large, small = _embedding(points), _embedding(FEW)
    rows = [
        Benchmark(
            f"TwoNN and MLE, {points // 1000}k x {DIM}, two cores",
            "a minute on two cores",
            ours=_with_threads(2, lambda: evaluate_dimension(large)),
            peers={},
            target_seconds=60,
            items=points,
            unit="points",
            note=f"features on a {INNER}-dimensional surface with noise; exact distances, memory bounded",
            most_repeats=3,
        )
    ]
    try:
        import skdim
    except ImportError:
        return rows

    def peer() -> None:
        skdim.id.TwoNN().fit(small)
        skdim.id.MLE().fit(small, n_neighbors=20)

    settings = DimensionSettings(draws=2, halvings=0)  # the peer gives no spread
    ours = Benchmark(
        f"TwoNN and MLE, {FEW // 1000}k x {DIM}",
        "",
        ours=lambda: evaluate_dimension(small, settings),
        peers={"scikit-dimension": peer},
        items=FEW,
        unit="points",
        most_repeats=3,
    )
    return [*rows, ours]


def _embedding(count: int) -> np.ndarray:
    """Points of a smooth surface of ``INNER`` dimensions in ``DIM``, with noise: float32 (count, DIM)."""
    rng = np.random.default_rng(0)
    inner = rng.standard_normal((count, INNER), dtype=np.float32)
    folded = np.tanh(inner @ rng.standard_normal((INNER, DIM), dtype=np.float32) / 2)
    return folded + 0.02 * rng.standard_normal((count, DIM), dtype=np.float32)


def _with_threads(threads: int, run: Run) -> Callable[[], object]:
    import torch

    def counted() -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return counted
