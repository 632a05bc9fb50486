"""Rows of ``make bench`` in a quick form: ratios to peers, taken in turn in this process, against stored floors.

A floor is about six tenths of what was measured (``docs/guide/speed.md``), so that another processor passes and a row
that has lost half its speed does not. Processor time is compared, never the clock's.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 5
FLOORS: dict[str, dict[str, dict[str, float]]] = {
    "bench_quality": {"quality score, one core": {"opencv, 16-bit Laplacian": 1.5, "opencv, 64-bit Laplacian": 2.1}},
    "bench_views": {
        "SimCLR views, 224 px": {"torchvision v2": 25.0, "albumentations": 1.8},
        "SimCLR views, 32 px": {"torchvision v2": 20.0, "albumentations": 3.5},
        "guided views in our loader, 224 px": {"standard": 0.8},
        "guided views in our loader, 32 px": {"standard": 0.8},
    },
    "bench_reads": {
        "packed reads, 224 px": {"numpy memmap": 0.6, "zarr indexing": 20.0},
        "packed reads, 32 px": {"numpy memmap": 1.0, "zarr indexing": 200.0},
    },
    "bench_jpeg": {"JPEG parts, the middle 10%": {"decode, then crop": 1.3}},
}
"""Module, row and peer to the least ratio of the peer's time to ours."""


@pytest.mark.slow
@pytest.mark.parametrize("module", FLOORS)
def test_no_row_falls_below_its_floor(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    if module == "bench_jpeg" and importlib.import_module("benchmark").photograph_folder() is None:
        pytest.skip("no photographs; set SEMAUG_TEST_DATA")
    threads = single_thread()
    try:
        rows = {row.name: row for row in importlib.import_module(module).benchmarks()}
        found = {name: ratios(rows[name], floors) for name, floors in FLOORS[module].items()}
    finally:
        restore(threads)
    low = {
        f"{name} against {peer}": (round(ratio, 2), FLOORS[module][name][peer])
        for name, peers in found.items()
        for peer, ratio in peers.items()
        if ratio < FLOORS[module][name][peer]
    }
    assert not low


def ratios(row: Any, floors: dict[str, float]) -> dict[str, float]:
    """The median ratio of each peer that has a floor; the others, some of which need an environment, are left out."""
    assert row.processor, "the clock's time says nothing on a busy machine"
    measure = importlib.import_module("benchmark").measure
    measured = measure(replace(row, peers={name: row.peers[name] for name in floors}), REPEATS)
    return {peer.name: peer.ratio for peer in measured.peers}


def single_thread() -> tuple[int, int]:
    """One thread for every library that is compared; returns what was set."""
    import cv2
    import torch

    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    return before


def restore(threads: tuple[int, int]) -> None:
    """Undo ``single_thread``."""
    import cv2
    import torch

    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])


def test_a_lost_ratio_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure itself: a pass of twice the work has half the ratio, and a limit has no part in a target."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    bench = importlib.import_module("benchmark")
    work = lambda times: lambda: sum(i * i for i in range(20_000 * times))  # noqa: E731
    row = bench.Benchmark(
        name="row", target="", ours=work(2), peers={"peer": work(1), "limit: less work": work(1)}, processor=True,
        target_ratio=0.2,
    )  # fmt: skip
    measured = bench.measure(row, REPEATS)
    assert {peer.name for peer in measured.peers} == {"peer", "limit: less work"}
    assert 0.3 < measured.peers[0].ratio < 0.75
    assert measured.met is True
    assert bench.measure(replace(row, peers={"limit: less work": work(1)}, target_ratio=9.0), 2).met is None
