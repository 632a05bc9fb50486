"""The plan for 1.28 and 100 million images: shards, bytes, requests and hours of every stage, and what limits each.

``python tools/scale_plan.py`` prints the tables of docs/guide/scale.md: the inputs with where each comes from, the
artifacts, and the stages on 1 to 512 devices by ``scale_simulation``. ``--check FOLDER`` holds the simulation against
`guide extract` run here with one and two workers on the images of FOLDER.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scale_simulation import Actors, Outcome, Shard, Store, simulate

SIZES = {"1.28M": 1_281_167, "100M": 100_000_000}
DEVICES = (1, 8, 64, 512)
MEASURED, PRINTED, ASSUMED = "measured here", "printed", "assumed"


@dataclass(frozen=True, slots=True)
class Input:
    """A number the plan rests on, with its unit, its kind (one of the three above) and where it comes from."""

    value: float
    unit: str
    kind: str
    source: str


INPUTS: Mapping[str, Input] = {
    "image": Input(104e3, "bytes a photograph", MEASURED, "mean of 100 photographs of ImageNet, JPEG as they are"),
    "decode": Input(2.1e-3, "core-s an image", MEASURED, "the same photographs, one core"),
    "hash": Input(0.12e-3, "core-s an image", MEASURED, "the same, for the fingerprint"),
    "score": Input(0.25e-3, "core-s an image", MEASURED, "quality score, docs/guide/speed.md (3,949 images/s)"),
    "saliency": Input(6.5e-3, "core-s an image", MEASURED, "docs/guide/oracles.md, decoded photographs"),
    "grabcut": Input(45e-3, "core-s an image", MEASURED, "docs/guide/speed.md: 18 images/s, less the other two"),
    "yolo": Input(4e-3, "GPU-s an image", ASSUMED, "YOLOv8n in torch, decoding beside it on the CPU"),
    "sam": Input(0.15, "GPU-s an image", ASSUMED, "SAM ViT-H image encoder on an A100, and its decoder for two boxes"),
    "caption": Input(3 * 3600 / 126_689, "GPU-s an image", PRINTED, "SASI's Table 13: 3 A100-hours of extraction"),
    "generate": Input(37 * 3600 / 126_689, "GPU-s an image", PRINTED, "SASI's Table 13: 37 A100-hours of generation"),
    "subset": Input(126_689, "images", ASSUMED, "ImageNet-100, which SASI's Table 13 is taken to be about"),
    "crop": Input(2.5e-3, "core-s an image", ASSUMED, "two crops at 224 px, written without loss"),
    "crop bytes": Input(2 * 90e3, "bytes an image", ASSUMED, "two lossless 224 px crops"),
    "made bytes": Input(60e3, "bytes an image", ASSUMED, "one generated 512 px image as JPEG"),
    "guidance": Input(100, "bytes an image", MEASURED, "columns of a guidance shard with two boxes an image"),
    "masks": Input(1000, "bytes an image", ASSUMED, "two run-length masks more"),
    "shard": Input(4096, "images a shard", ASSUMED, "`--shard-size 4096`; `pack` alone takes about 150 photographs"),
    "objects": Input(14, "objects a shard", MEASURED, "files of a shard of a pack: six columns, the group, the marker"),
    "load cpu": Input(10, "s", ASSUMED, "start of a process that needs no model"),
    "load gpu": Input(60, "s", ASSUMED, "start of a process and its models"),
    "store": Input(10e9, "bytes/s", ASSUMED, "a shared store, all clients together"),
    "link": Input(1.25e9, "bytes/s", ASSUMED, "one host's network, 10 Gbit/s"),
    "requests": Input(3500, "requests/s", ASSUMED, "one prefix of an object store, the lower figure, that of writes"),
    "latency": Input(30e-3, "s a request", ASSUMED, "of an object store; eight at a time from one actor"),
    "file": Input(1e-3, "s a file", ASSUMED, "to open, read and close one on a shared disk, one after the other"),
    "files": Input(10_000, "files/s", ASSUMED, "the same of the disk's server, all clients together"),
    "opened": Input(6e-6, "core-s an image", MEASURED, "opening an index, `scale_parts.py`"),
    "marker": Input(0.025e-3, "core-s a shard", MEASURED, "reading one marker of the ledger, `scale_parts.py`"),
    "listed": Input(1000, "objects a listing", PRINTED, "the page of an S3 listing"),
    "lifetime": Input(200 * 3600, "s", ASSUMED, "an actor's mean time to its death: preemption, memory, hardware"),
    "slow": Input(0.05, "share of actors", ASSUMED, "stragglers, half as fast"),
    "train": Input(1200, "images/s a GPU", ASSUMED, "ResNet-50, two views at 224 px, bf16, an A100"),
    "epochs": Input(100, "epochs", ASSUMED, "of 1.28 million images; the same number of steps for 100 million"),
    "weights": Input(28e6 * 4, "bytes", MEASURED, "gradients of a ResNet-50 and its projector in fp32"),
    "ring": Input(20e9, "bytes/s", ASSUMED, "all-reduce between hosts of eight GPUs, each way"),
    "views": Input(414, "images/s a core", ASSUMED, "half of the 828 measured for decoded images, docs/guide/speed.md"),
    "cores": Input(12, "cores a GPU", ASSUMED, "of the host that has it"),
}  # fmt: skip


def value(name: str) -> float:
    """The number of an input."""
    return INPUTS[name].value


@dataclass(frozen=True, slots=True)
class Stage:
    """What one image takes in a stage: seconds of a device (``unit``), bytes read and written, its reads, and seconds
    of the driver, which lists all images before the actors start.
    """

    name: str
    unit: str
    seconds: float
    read: float
    written: float
    requests_an_image: float = 0.0
    load: str = "load cpu"
    listing: float = 0.0


def stages() -> list[Stage]:
    """Every stage that works on shards, in the order of a run."""
    v, image = value, value("image")
    decode = v("decode")
    return [
        Stage("index files", "core", decode + v("hash"), image, 150, 1.0, listing=v("file")),
        Stage("pack", "core", decode, image, image, 1.0, listing=v("opened")),
        Stage("quality score", "core", decode + v("score"), image, 60),
        Stage("extract, saliency", "core", decode + v("saliency"), image, v("guidance")),
        Stage("extract, saliency and GrabCut", "core", decode + v("saliency") + v("grabcut"), image, v("masks")),
        Stage("extract, YOLO", "GPU", v("yolo"), image, v("guidance"), 0, "load gpu"),
        Stage("extract, YOLO and SAM", "GPU", v("yolo") + v("sam"), image, v("masks"), 0, "load gpu"),
        Stage("caption and rewrite", "GPU", v("caption"), image, 300, 0, "load gpu"),
        Stage("generate", "GPU", v("generate"), image, v("made bytes"), 0, "load gpu"),
        Stage("materialize", "core", decode + v("crop"), image, v("crop bytes")),
    ]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A stage on so many devices: seconds of the actors and of the driver alone, and the share used of each limit."""

    outcome: Outcome
    driver: float
    used: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.outcome.seconds + self.driver

    @property
    def limit(self) -> str:
        """What there is least left of; `tail` where nothing is used for more than half of the time."""
        used = {**{name: share * self.outcome.seconds for name, share in self.used.items()}, "driver": self.driver}
        name = max(used, key=lambda n: used[n])
        return name if used[name] > 0.5 * self.seconds else "tail"


def shards_of(images: int, size: int) -> int:
    """Number of shards."""
    return -(-images // size)


def shard(stage: Stage, images: int) -> Shard:
    """What one shard of ``images`` takes in a stage."""
    objects = value("objects")
    return Shard(
        compute=images * stage.seconds,
        read_requests=images * stage.requests_an_image or objects,
        read_bytes=images * stage.read,
        write_requests=objects,
        write_bytes=images * stage.written,
    )


def driver_seconds(shards: int) -> float:
    """What the driver does alone: it lists the ledger and reads the markers, three times (what is pending, twice; the
    totals), eight requests at a time."""
    requests = shards / value("listed") + shards
    return 3 * (shards * value("marker") + requests * value("latency") / 8)


def store(stage: Stage) -> Store:
    """What is shared, and one actor's limits at it: a disk's files one after the other, or objects eight at a time."""
    if stage.requests_an_image:
        return Store(value("store"), value("files"), value("link"), 1 / value("file"))
    return Store(value("store"), value("requests"), value("link"), 8 / value("latency"))


def estimate(stage: Stage, images: int, devices: int, *, size: int | None = None, seed: int = 0) -> Estimate:
    """A stage on ``devices`` by the simulation, with stragglers and deaths."""
    size = size or int(value("shard"))
    count = shards_of(images, size)
    rows = [shard(stage, size)] * (count - 1) + [shard(stage, images - size * (count - 1))]
    actors = Actors(devices, value(stage.load), value("slow"), 2.0, value("lifetime"), attempts=10)
    limits = store(stage)
    found = simulate(rows, actors, limits, seed)
    moved = found.read_bytes + found.written_bytes
    used = {
        "devices": (found.compute + found.wasted) / devices,
        "bandwidth": moved / limits.bandwidth,
        "requests": found.requests / limits.requests,
        "links": moved / limits.actor_bandwidth / devices,
        "latency": found.requests / limits.actor_requests / devices,
    }
    driver = driver_seconds(count) + images * stage.listing
    return Estimate(found, driver, {name: taken / found.seconds for name, taken in used.items()})


@dataclass(frozen=True, slots=True)
class Pretraining:
    """A run of ``steps`` batches on ``gpus``: images a second by each limit, the least of which holds."""

    gpus: int
    batch: int
    steps: float
    rates: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Images a second."""
        return min(self.rates.values())

    @property
    def limit(self) -> str:
        """What holds it there."""
        return min(self.rates, key=lambda n: self.rates[n])

    @property
    def hours(self) -> float:
        """From start to end."""
        return self.steps * self.batch / self.rate / 3600


def pretraining(images: int, gpus: int, *, cached: bool) -> Pretraining:
    """A run over ``epochs`` of 1.28 million images; each step ends with an all-reduce that is not hidden."""
    v, batch = value, 4096
    hosts = -(-gpus // 8)
    reduce = 2 * (hosts - 1) / hosts * v("weights") / v("ring") if hosts > 1 else 0.0
    reading = math.inf if cached else min(v("store"), hosts * v("link")) / v("image")
    rates = {
        "GPU": batch / (batch / (gpus * v("train")) + reduce),
        "loader": gpus * v("cores") * v("views"),
        "store": reading,
    }
    return Pretraining(gpus, batch, v("epochs") * SIZES["1.28M"] / batch, rates)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def duration(seconds: float) -> str:
    """Seconds as a person reads them.

    >>> duration(90), duration(7200), duration(20 * 86400)
    ('1.5 min', '2.0 h', '20 d')
    """
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length * (3 if unit == "d" else 1):
            count = seconds / length
            return f"{count:,.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
    return f"{seconds:.0f} s"


def inputs_table() -> str:
    """All inputs with their kinds."""
    rows = [
        (n, f"{i.value:,.4g}" if i.value < 1e4 else f"{i.value:.4g}", i.unit, i.kind, i.source)
        for n, i in INPUTS.items()
    ]
    return table(("input", "value", "unit", "kind", "where from"), rows)


def artifacts_table() -> str:
    """Bytes, shards and objects of every artifact."""
    rows = []
    for name, images in SIZES.items():
        for size in (150, int(value("shard"))):
            count, held = shards_of(images, size), images * value("image")
            ledger = duration(driver_seconds(count))
            listing = -(-count * int(value("objects")) // int(value("listed")))
            cells = (name, f"{size:,}", f"{count:,}", f"{size * value('image') / 1e6:,.0f} MB", f"{held / 1e12:.2f} TB")
            rows.append((*cells, f"{count * value('objects'):,.0f}", f"{listing:,}", ledger))
    head = ("images", "a shard", "shards", "bytes a shard", "pack", "objects", "listings", "ledger, alone")
    return table(head, rows)


def stages_table(name: str, devices: Sequence[int] = DEVICES) -> str:
    """Every stage on every number of devices: time, and what limits it."""
    rows = []
    for stage in stages():
        cells = []
        for count in devices:
            found = estimate(stage, SIZES[name], count)
            cells.append(f"{duration(found.seconds)}, {found.limit}")
        rows.append((stage.name, stage.unit, *cells))
    return table((f"{name} images", "device", *map(str, devices)), rows)


def sizes_table() -> str:
    """One stage on 512 devices by the size of its shards: what the actors take, and the ledger before and after."""
    stage, rows = next(s for s in stages() if s.name == "extract, YOLO and SAM"), []
    for name, sizes in (("1.28M", (256, 1024, 4096)), ("100M", (1024, 4096))):
        for size in sizes:
            found = estimate(stage, SIZES[name], 512, size=size)
            cells = (f"{shards_of(SIZES[name], size):,}", duration(found.outcome.seconds), duration(found.driver))
            rows.append((name, f"{size:,}", *cells, found.limit))
    return table(("images", "a shard", "shards", "actors", "ledger", "limit"), rows)


def pretraining_table() -> str:
    """Pretraining on every number of GPUs, read from the store or from what the hosts hold."""
    rows = []
    for gpus in (8, 64, 512):
        for cached in (True, False):
            found = pretraining(SIZES["1.28M"], gpus, cached=cached)
            where = "held by the hosts" if cached else "read off the store"
            rows.append((str(gpus), where, f"{found.rate:,.0f}", f"{found.hours:,.1f} h", found.limit))
    return table(("GPUs", "images", "images/s", "run", "limit"), rows)


@dataclass(frozen=True, slots=True)
class Check:
    """A run here beside its simulation: seconds on the clock."""

    workers: int
    measured: float
    simulated: float


def check(folder: str, workers: Sequence[int] = (1, 2), size: int = 8) -> list[Check]:
    """`guide extract` on the images of a folder, against the simulation fed with the costs of one worker's run.

    A shard's seconds are those that the ledger of one worker's run records; what is left of its time is that of the
    process that starts and finishes. For more workers only their number changes, and the cores that there are.
    """
    from semaug.artifacts.reader import Artifact
    from semaug.artifacts.sources import open_source

    rows: list[Shard] = []
    found: list[Check] = []
    alone = load = 0.0
    assert len(open_source(folder)) > size * max(workers)
    with tempfile.TemporaryDirectory(prefix="semaug-plan-") as scratch:
        for count in workers:
            out = Path(scratch, f"{count}.zarr")
            took = _extract(folder, out, count, size)
            costs = [m.costs for m in Artifact.open(out).markers]
            if not found:
                rows = [Shard(c.seconds) for c in costs]
                load = max(c.warm_seconds for c in costs)
                alone = took - simulate(rows, Actors(1, load)).seconds
                found.append(Check(count, took, took))
                continue
            found.append(Check(count, took, alone + simulate(rows, Actors(count, load)).seconds))
    return found


def _extract(folder: str, out: Path, workers: int, size: int) -> float:
    """Seconds of one command, processes of its own whatever their number."""
    import subprocess

    entry = [sys.executable, "-c", "from semaug.cli.main import main; main()"]
    words = ["guide", "extract", folder, "--granularity", "object", "--shard-size", str(size), "--threads", "1"]
    began = time.perf_counter()
    subprocess.run([*entry, *words, "--workers", str(workers), "--out", str(out)], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the tables, or the check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", metavar="FOLDER", help="hold the simulation against runs on these images")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.check:
        for row in check(options.check):
            print(json.dumps({"workers": row.workers, "measured_s": row.measured, "simulated_s": row.simulated}))
        return
    parts = [
        inputs_table(),
        artifacts_table(),
        *(stages_table(name) for name in SIZES),
        sizes_table(),
        pretraining_table(),
    ]
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
