"""The benchmark contract: what a row of ``make bench`` is, and how it is measured.

A module ``tools/bench_<topic>.py`` has ``benchmarks() -> list[Benchmark]``; ``tools/bench.py`` collects and runs them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Run = Callable[[], object]
"""One pass over the work. It is timed from outside, unless it returns a float: seconds it measured itself."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Ours and the peers on the same work.

    ``ratio`` of a peer is its median time over ours: above 1 we are faster. The target is met when the ratio to every
    peer in ``target_peers`` (all peers when empty) is at least ``target_ratio``; a target of None is only reported. For
    "no more than 1.15 times the peer's time" the ratio is 1 / 1.15. With ``target_seconds`` our own median time must
    not be longer. A peer named ``limit: ...`` is no peer but what no code can pass (memory, decoding, a model alone):
    it is timed alike and has no part in the target.
    """

    name: str
    target: str
    """The target in words, as the table prints it."""
    ours: Run
    peers: Mapping[str, Run]
    target_ratio: float | None = None
    target_ratios: Mapping[str, float] = field(default_factory=dict)
    """Targets that differ from peer to peer; they win over ``target_ratio``."""
    target_peers: tuple[str, ...] = ()
    target_seconds: float | None = None
    items: int = 1
    """Units of work in one pass, for the throughput."""
    unit: str = "images"
    note: str = ""
    """What a reader must know to judge the row (a peer does not antialias, ...)."""
    processor: bool = False
    """Time the processor of this process and not the clock: for work of one thread, which other programs then lengthen
    little."""
    most_repeats: int | None = None
    """For a row whose passes take long: no more than so many of them (at least 2)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one pass: median and quartiles over the repeats; ``ratio`` (and quartiles) against ours, paired."""

    name: str
    median: float
    quartiles: tuple[float, float]
    throughput: float
    ratio: float
    ratio_quartiles: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Row:
    """A measured benchmark; ``met`` is None where there is no target."""

    benchmark: str
    target: str
    unit: str
    ours: Timing
    peers: tuple[Timing, ...]
    met: bool | None
    note: str


def measure(benchmark: Benchmark, repeats: int = 7) -> Row:
    """Time ours and the peers in turn (A B A B ...), after one dropped round of warm-up; ratios are paired by round."""
    runs = {"ours": benchmark.ours, **benchmark.peers}
    repeats = min(repeats, benchmark.most_repeats or repeats)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(_timed(run, time.process_time if benchmark.processor else time.perf_counter))
    timings = {name: _timing(name, seconds[name], seconds["ours"], benchmark.items) for name in runs}
    ours = timings.pop("ours")
    met = _met(benchmark, ours, timings)
    return Row(benchmark.name, benchmark.target, benchmark.unit, ours, tuple(timings.values()), met, benchmark.note)


def _timed(run: Run, clock: Callable[[], float]) -> float:
    started = clock()
    own = run()
    return own if isinstance(own, float) else clock() - started


def _timing(name: str, seconds: list[float], ours: list[float], items: int) -> Timing:
    ratios = [a / b for a, b in zip(seconds, ours, strict=True)]
    median = statistics.median(seconds)
    return Timing(name, median, _quartiles(seconds), items / median, statistics.median(ratios), _quartiles(ratios))


def _quartiles(values: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _met(benchmark: Benchmark, ours: Timing, peers: Mapping[str, Timing]) -> bool | None:
    checks = [
        peers[name].ratio >= wanted
        for name in benchmark.target_peers or tuple(peers)
        if not name.startswith("limit")
        and (wanted := benchmark.target_ratios.get(name, benchmark.target_ratio)) is not None
    ]
    if benchmark.target_seconds is not None:
        checks.append(ours.median <= benchmark.target_seconds)
    return all(checks) if checks else None


def photograph_folder(name: str = "imagenet100") -> Path | None:
    """The folder of photographs under ``SEMAUG_TEST_DATA`` (else ``shared`` beside the checkout), or None."""
    root = os.environ.get("SEMAUG_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared"
    folder = Path(root) / "data" / name
    return folder if folder.is_dir() else None
