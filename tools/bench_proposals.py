"""Time to rank and choose pairs once descriptors exist: 100,000 images of 187 classes, and one class of 1,300.

    python tools/bench_proposals.py

Descriptors are random numbers of the real shapes (192 and 209 statistics, 512 features of an encoder): what they hold
does not change the work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

from semaug.artifacts.sources import ArraySource
from semaug.pairs_dataset.descriptors import Descriptors
from semaug.pairs_dataset.proposals import ProposalRule, propose_pairs

OBJECT, CONTEXT, FEATURES = 192, 209, 512


class Labelled(ArraySource):
    """Keys and labels alone."""

    def __init__(self, keys: Sequence[str], classes: int) -> None:
        super().__init__(
            np.zeros((1, 8, 8, 3), np.uint8), labels=[0], class_names=[f"class{c}" for c in range(classes)]
        )
        self._keys, self._labels = list(keys), [i % classes for i in range(len(keys))]

    def __len__(self) -> int:
        return len(self._keys)


def random_descriptors(count: int, encoded: bool) -> Descriptors:
    """Unit vectors and uniform numbers."""
    draws = np.random.default_rng(0)

    def unit(width: int) -> np.ndarray:
        rows = draws.standard_normal((count, width), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    features = [draws.standard_normal((count, FEATURES), dtype=np.float32) for _ in range(2 if encoded else 0)]
    return Descriptors(
        tuple(f"{i:06d}" for i in range(count)), unit(OBJECT), unit(CONTEXT), draws.random((count, 3), np.float32),
        draws.random(count, np.float32) * 200, draws.random(count, np.float32),
        draws.integers(0, 2**63, count).astype(np.uint64), np.ones(count, bool),
        object_features=features[0] if encoded else None, context_features=features[1] if encoded else None,
    )  # fmt: skip


def main() -> None:
    print(f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}")
    for count, classes in ((1_300, 1), (5_000, 1), (100_000, 187)):
        for encoded in (False, True):
            d = random_descriptors(count, encoded)
            source = Labelled(d.keys, classes)
            start, busy = time.perf_counter(), time.process_time()
            found = propose_pairs(source, d, ProposalRule())
            name = "encoder" if encoded else "statistics"
            print(
                f"{count:7,} images, {classes:3} classes, {name:10}: {time.perf_counter() - start:6.1f} s "
                f"({time.process_time() - busy:.1f} s of processor), {len(found.rows):,} pairs"
            )


if __name__ == "__main__":
    main()
