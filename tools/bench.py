"""``make bench``: every row of ours against peers on the same work, in one run, on one core.

    python tools/bench.py [--quick] [--only NAME] [--json]

Prints for each row the median time of one pass, the throughput, the ratio to each peer (peer's time over ours, with
quartiles), the target, and whether it is met. A row that cannot run here (a peer or its data is missing) is listed as
left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmark import Benchmark, Row, measure

MODULES = (
    "bench_quality",
    "bench_views",
    "bench_reads",
    "bench_jpeg",
    "bench_extraction",
    "bench_embedding",
    "bench_knn",
    "bench_geometry",
    "bench_methods",
    "bench_texts",
    "bench_generators",
    "bench_diffaug",
    "bench_diffusion",
    "bench_cli",
)
REPEATS, QUICK_REPEATS = 9, 5


def main() -> int:
    """Run the chosen rows; exit code 1 when a row fails to run, 0 otherwise (a missed target is a finding)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPEATS} repeats in place of {REPEATS}")
    parser.add_argument("--only", metavar="NAME", help="rows (or modules) whose name contains NAME")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    single_thread()
    rows, left_out = [], []
    for benchmark in _collect(options.only, left_out):
        print(f"measuring {benchmark.name} ...", file=sys.stderr)
        try:
            rows.append(measure(benchmark, QUICK_REPEATS if options.quick else REPEATS))
        except Exception as error:  # one row must not take the table with it
            left_out.append(f"{benchmark.name}: {type(error).__name__}: {error}")
    if options.json:
        print(json.dumps({"hardware": hardware(), "rows": [asdict(r) for r in rows], "left_out": left_out}, indent=1))
    else:
        print(table(rows, left_out))
    return 1 if left_out else 0


def single_thread() -> None:
    """One thread for every library that is compared; nothing here has imported them yet."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    import cv2

    cv2.setNumThreads(1)
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


def _collect(only: str | None, left_out: list[str]) -> Iterator[Benchmark]:
    wanted = (only or "").lower()
    for module in MODULES:
        if wanted.startswith("bench_") and wanted not in module:  # making a module's rows may take a minute
            continue
        if not (Path(__file__).parent / f"{module}.py").exists():
            left_out.append(f"{module}: no such module")
            continue
        try:
            found = import_module(module).benchmarks()
        except Exception as error:
            left_out.append(f"{module}: {type(error).__name__}: {error}")
            continue
        yield from (b for b in found if wanted in b.name.lower() or wanted in module)


def hardware() -> str:
    """The processor, its count of cores, and the versions that matter."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def table(rows: list[Row], left_out: list[str]) -> str:
    """The rows as text, one line a peer."""
    lines = [hardware(), ""]
    lines.append(f"{'benchmark':<34} {'who':<24} {'seconds':>9} {'per second':>13} {'peer / ours':>20}  target")
    for row in rows:
        lines.append(_line(row.benchmark, "ours", row.ours.median, row.ours.throughput, row.unit, "", _verdict(row)))
        for peer in row.peers:
            low, high = peer.ratio_quartiles
            ratio = f"{peer.ratio:.2f} [{low:.2f}, {high:.2f}]"
            lines.append(_line("", peer.name, peer.median, peer.throughput, row.unit, ratio, ""))
        if row.note:
            lines.append(f"    {row.note}")
    targets = [row.met for row in rows if row.met is not None]
    lines += ["", f"{sum(targets)} of {len(targets)} targets met"]
    lines += [f"left out: {reason}" for reason in left_out]
    return "\n".join(lines)


def _line(name: str, who: str, seconds: float, rate: float, unit: str, ratio: str, target: str) -> str:
    return f"{name:<34} {who:<24} {seconds:>9.4f} {f'{rate:,.0f} {unit}':>13} {ratio:>20}  {target}".rstrip()


def _verdict(row: Row) -> str:
    return row.target if row.met is None else f"{row.target}: {'met' if row.met else 'MISSED'}"


if __name__ == "__main__":
    sys.exit(main())
