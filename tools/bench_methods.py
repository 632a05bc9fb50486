"""Training steps of every method against lightly's and stable-pretraining's equivalents.

    python tools/bench_methods.py [--backbone small-cnn|resnet18] [--threads 1] [--batch 64] [--methods simclr,byol]
                                  [--repeats 5] [--out steps.json]

Each code base runs in a process and an environment of its own (``peer_environment``) and is asked in turn for a few
steps on the same random views: same backbone, widths of heads, batch, precision, optimizer (SGD), threads. With one
thread the time is the processor's, which other programs lengthen little; with more it is the wall clock's. The rows
"from decoded images" add each one's own loader and SimCLR views. AdCo, DLME, StableRep and SupCon have no peer,
MoCo v3 none of lightly, MoCo v2+ none of stable-pretraining.
"""

from __future__ import annotations

import argparse
import atexit
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import Benchmark, Row, measure, photograph_folder
from numpy.typing import NDArray
from peer_environment import peer_python

WORKER = Path(__file__).parent / "steps" / "worker.py"
LIGHTLY = ("simclr", "moco-v2", "moco-v2plus", "byol", "simsiam", "barlow-twins", "vicreg", "swav", "dino", "mae")
STABLE = ("simclr", "moco-v2", "moco-v3", "byol", "simsiam", "barlow-twins", "vicreg", "swav", "dino", "mae")
PEERS = {"lightly": LIGHTLY, "stable-pretraining": STABLE}
"""Which methods each peer has."""
STEPS = {"small-cnn": 4, "resnet18": 1}
"""Steps in one timed pass."""
TARGET = "no slower than either peer, within 3%"
NOTES = {
    "moco-v2": "stable-pretraining's also runs the teacher on the first view, for a probe",
    "moco-v2plus": "lightly has no such method: its parts for MoCo, in both directions with two banks",
    "swav": "stable-pretraining's assigns the small views too",
    "mae": "ViT-S with patches of 4 pixels everywhere",
}
IMAGES = 512


class Process:
    """A code base's worker; it holds one method at a time, and remembers the parts of its passes."""

    def __init__(self, name: str, threads: int) -> None:
        python = Path(sys.executable) if name == "ours" else peer_python(name)
        module = "semaug" if name == "ours" else name.replace("-", "_")
        command = [str(python), str(WORKER), module, str(threads)]
        self.name, self._held = name, ""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.parts: dict[str, list[dict[str, float]]] = defaultdict(list)
        self.parameters: dict[str, int] = {}
        atexit.register(self._process.kill)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request; raises ``RuntimeError`` with what went wrong there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"exit code {self._process.wait()}"}
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def hold(self, row: str, work: dict[str, Any], load: dict[str, Any] | None) -> None:
        """Build the method of a row, unless it is the one at hand."""
        if self._held == row:
            return
        self.parameters[row] = self.ask(prepare=work)["parameters"]
        if load is not None:
            self.ask(load=load)
        self._held = row


@dataclass(frozen=True, slots=True)
class Setting:
    """What all rows of a run share."""

    backbone: str = "small-cnn"
    batch: int = 64
    threads: int = 1
    precision: str = "32"
    device: str = "cpu"

    def work(self, method: str) -> dict[str, Any]:
        """The fields of the worker's ``Work``."""
        return {"method": method, **{k: v for k, v in asdict(self).items() if k != "threads"}}


@cache
def process(name: str, threads: int) -> Process:
    """The running worker of a code base."""
    return Process(name, threads)


def benchmarks() -> list[Benchmark]:
    """The rows of ``make bench``: every method on the small CNN, one core."""
    setting = Setting()
    return [*(step_row(method, setting) for method in _methods()), loader_row(setting)]


def _methods() -> list[str]:
    from semaug.ssl_methods import METHODS

    return list(METHODS)


def step_row(method: str, setting: Setting) -> Benchmark:
    """One method's steps on views that are there."""
    steps = STEPS[setting.backbone]
    name = f"{method} step, {setting.backbone}, {setting.threads} core{'s' * (setting.threads > 1)}"
    return Benchmark(
        name=name,
        target=TARGET,
        ours=_pass("ours", name, setting.work(method), setting, steps),
        peers={
            peer: _pass(peer, name, setting.work(method), setting, steps)
            for peer, has in PEERS.items()
            if method in has
        },
        target_ratio=0.97,
        items=setting.batch * steps,
        note=NOTES.get(method, ""),
    )


def loader_row(setting: Setting) -> Benchmark:
    """SimCLR's steps on views made of decoded 32-pixel images by each one's own loader."""
    steps = STEPS[setting.backbone]
    workers = 0 if setting.threads == 1 else setting.threads
    name = f"simclr from decoded images, {setting.backbone}, {setting.threads} core{'s' * (setting.threads > 1)}"
    work, load = setting.work("simclr"), {"images": _saved_images(), "workers": workers}
    return Benchmark(
        name=name,
        target=TARGET,
        ours=_pass("ours", name, work, setting, steps, load),
        peers={peer: _pass(peer, name, work, setting, steps, load) for peer in PEERS},
        target_ratio=0.97,
        items=setting.batch * steps,
        note=f"views of 32 pixels, {workers} loader processes; the peers' by torchvision on PIL images",
    )


def _pass(
    who: str, row: str, work: dict[str, Any], setting: Setting, steps: int, load: dict[str, Any] | None = None
) -> Callable[[], float]:
    def run() -> float:
        worker = process(who, setting.threads)
        worker.hold(row, work, load)
        answer = worker.ask(train=steps) if load else worker.ask(run=steps)
        if not np.isfinite(answer["loss"]):
            raise RuntimeError(f"{who}: the loss of {row} is {answer['loss']}")
        worker.parts[row].append({part: value / steps for part, value in answer.items() if part != "loss"})
        return float(answer["seconds"])

    return run


@cache
def decoded_images() -> list[NDArray[np.uint8]]:
    """``IMAGES`` photographs (generated scenes without them) at 32 pixels, uint8."""
    from PIL import Image

    from semaug.artifacts.sources import open_source

    folder = photograph_folder()
    source = open_source(str(folder) if folder else "scenes:train?items=64")
    small = [
        np.asarray(Image.fromarray(source.read(i)).resize((32, 32), Image.Resampling.BILINEAR))
        for i in range(min(IMAGES, len(source)))
    ]
    return [small[i % len(small)] for i in range(IMAGES)]


@cache
def _saved_images() -> str:
    file = Path(tempfile.mkdtemp(prefix="semaug-bench-")) / "images.npy"
    np.save(file, np.stack(decoded_images()))
    return str(file)


def decode_seconds(batch: int) -> float:
    """Seconds that our folder source takes to read ``batch`` JPEG files of 32 pixels, the median of nine passes."""
    from PIL import Image

    from semaug.artifacts.sources import open_source

    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(decoded_images()[:batch]):
            Image.fromarray(image).save(Path(folder) / f"{i}.jpg", quality=95)
        source = open_source(folder)
        seconds = []
        for _ in range(10):
            started = time.perf_counter()
            for i in range(batch):
                source.read(i)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


@dataclass(frozen=True, slots=True)
class Measured:
    """A row, the number of trained parameters of each, and the median seconds of a step's parts."""

    row: Row
    parameters: dict[str, int]
    parts: dict[str, dict[str, float]] = field(default_factory=dict)


def run_rows(benchmarks: Sequence[Benchmark], threads: int, repeats: int) -> list[Measured]:
    """Measure rows one after another; a row that cannot run is reported on stderr and left out."""
    found = []
    for benchmark in benchmarks:
        print(f"measuring {benchmark.name} ...", file=sys.stderr)
        try:
            row = measure(benchmark, repeats)
        except Exception as error:
            print(f"left out: {benchmark.name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        workers = {who: process(who, threads) for who in ("ours", *benchmark.peers)}
        parameters = {who: w.parameters[benchmark.name] for who, w in workers.items()}
        found.append(Measured(row, parameters, {who: _medians(w.parts[benchmark.name]) for who, w in workers.items()}))
    return found


def _medians(passes: list[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(p[part] for p in passes[1:]) for part in passes[0]}


def table(measured: Sequence[Measured], batch: int) -> str:
    """The rows as markdown: rates, ratios with their quartiles, and our split in milliseconds a step."""
    lines = [
        "| row | ours: steps/s, images/s | lightly / ours | stable-pretraining / ours | views, transfer, forward, "
        "backward, update (ms) |",
        "|---|---|---|---|---|",
    ]
    for m in measured:
        rate = m.row.ours.throughput
        ratios = {
            p.name: f"{p.ratio:.2f} [{p.ratio_quartiles[0]:.2f}, {p.ratio_quartiles[1]:.2f}]" for p in m.row.peers
        }
        split = ", ".join(f"{1000 * m.parts['ours'][part]:.1f}" for part in _PARTS)
        cells = [m.row.benchmark, f"{rate / batch:.2f}, {rate:.0f}", *(ratios.get(p, "none") for p in PEERS), split]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_PARTS = ("data", "transfer", "forward", "backward", "update")


def main() -> int:
    """Measure what the options choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=list(STEPS), default="small-cnn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--methods", help="ids, separated by commas; all by default, `loader` for the last row")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON to this file")
    options = parser.parse_args()
    from bench import hardware

    setting = Setting(options.backbone, options.batch, options.threads, options.precision, options.device)
    chosen = options.methods.split(",") if options.methods else [*_methods(), "loader"]
    rows = [loader_row(setting) if m == "loader" else step_row(m, setting) for m in chosen]
    measured = run_rows(rows, options.threads, options.repeats)
    decode = decode_seconds(options.batch)
    print(hardware(), "", table(measured, options.batch), sep="\n")
    print(f"\nDecoding a batch of JPEG files of 32 pixels: {1000 * decode:.1f} ms")
    if options.out:
        figures = {"hardware": hardware(), "setting": asdict(setting), "decode_seconds": decode}
        options.out.write_text(json.dumps({**figures, "rows": [asdict(m) for m in measured]}, indent=1), "utf-8")
    return 0 if len(measured) == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
