"""kNN evaluation against the bare matrix product it cannot do without.

Ours is ``evaluate_knn`` whole: unit vectors, similarities, the 200 nearest, and the votes of 8 k by 7 temperatures.
The peer multiplies the same matrices, 512 queries at a time, and throws the result away. 10,000 queries; 1,000 under
``--quick``.
"""

from __future__ import annotations

import sys

import numpy as np
from benchmark import Benchmark

BANK, DIM, CLASSES = 50_000, 512, 10
CHUNK = 512


def benchmarks() -> list[Benchmark]:
    """One row: 50,000 x 512 features in the bank."""
    import torch

    from semaug.eval.features import Features
    from semaug.eval.probes.knn import evaluate_knn

    queries = 1_000 if "--quick" in sys.argv else 10_000
    rng = np.random.default_rng(0)

    def features(count: int) -> Features:
        labels = rng.integers(0, CLASSES, count)
        values = rng.standard_normal((count, DIM), dtype=np.float32)
        values[np.arange(count), labels] += 4
        names = tuple(map(str, range(CLASSES)))
        return Features(values, None, labels, tuple(map(str, range(count))), names)

    train, test = features(BANK), features(queries)
    bank, asked = torch.from_numpy(train.features), torch.from_numpy(test.features)
    scratch = torch.empty(CHUNK, BANK)

    def product() -> None:
        for start in range(0, queries, CHUNK):
            part = asked[start : start + CHUNK]
            torch.mm(part, bank.T, out=scratch[: len(part)])

    return [
        Benchmark(
            f"kNN, {BANK // 1000}k x {DIM} bank, {queries // 1000}k queries",
            "70% of the bare matrix product's rate",
            ours=lambda: evaluate_knn(train, test, select=False),
            peers={"matrix product alone": product},
            target_ratio=0.7,
            items=queries,
            unit="queries",
            note="ours: the whole grid of 8 k by 7 T; similarities held at once: 256 queries by 65,536 images (67 MB)",
        )
    ]
