"""The checks of ``gpu_check``: each yields findings, and needs nothing but a folder, a device and a size."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semaug.ssl_methods import Method

sys.path.insert(0, str(Path(__file__).parent / "steps"))

PUBLISHED = 90.74
"""Linear top-1 on CIFAR-10 that solo-learn publishes for SimCLR: ResNet-18, 1,000 epochs of batch 256."""
STOPPED = "stopped for this check"


@dataclass(frozen=True, slots=True)
class Size:
    """How large the checks are; ``head`` narrows projectors, None leaves the papers'."""

    backbone: str = "resnet18"
    side: int = 32
    batch: int = 256
    steps: int = 30
    repeats: int = 20
    items: int = 2048
    head: int | None = None
    bank: int = 1024
    decoder: tuple[int, int, int] = (256, 4, 8)
    epochs: int = 100
    workers: int = 8


FULL = Size()
TINY = Size("small-cnn", 16, 8, 4, 1, 32, 32, 16, (32, 1, 2), epochs=1, workers=0)
PRECISIONS = {"cuda": ("bf16-mixed", "16-mixed"), "cpu": ("32-true", "bf16-mixed")}
TOLERANCE = 1e-3
"""Largest relative difference of weights that two runs of equal arithmetic in another order may have on a GPU."""


VIEW_TOLERANCE = {"cuda": 5e-3, "cpu": 1e-4}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``passed`` is None where nothing is judged."""

    check: str
    name: str
    passed: bool | None
    values: dict[str, Any]


def build_method(name: str, size: Size, seed: int = 0) -> Method:
    """A method of ``METHODS`` on the backbone of ``size`` (the masked autoencoder on a ViT-S with 4-pixel patches)."""
    from semaug.ssl_methods import METHODS, build_encoder

    kind = METHODS[name]
    projector = kind.default_projector
    if projector is not None and size.head is not None:
        projector = replace(projector, hidden=size.head, out=size.head)
    backbone = "vit-s4" if name == "mae" else size.backbone
    width, depth, heads = size.decoder
    options: dict[str, dict[str, Any]] = {
        "moco-v2": {"queue": size.bank},
        "moco-v2plus": {"queue": size.bank},
        "adco": {"bank": size.bank},
        "swav": {"prototypes": size.bank},
        "dino": {"outputs": size.bank},
        "mae": {"decoder_width": width, "decoder_depth": depth, "decoder_heads": heads},
    }
    encoder = build_encoder(backbone, input_size=size.side, projector=projector, seed=seed)
    return kind.assemble(encoder, seed=seed, **options.get(name, {}))


def train(name: str, size: Size, out: Path, hardware: Any, *, stop: int | None = None) -> Path:
    """A run of ``pretrain`` on striped images, stopped after step ``stop`` where given; returns its folder."""
    from semaug.ssl_methods import OptimizerSettings
    from semaug.ssl_methods.pretrain import pretrain
    from semaug.ssl_methods.testing import Stopped, StripedPairs

    sides = (size.side, size.side, size.side // 2, size.side // 2) if name in ("swav", "dino") else None

    def listen(event: Any) -> None:
        if event.done == stop:
            raise Stopped(STOPPED)

    with suppress(Stopped):
        pretrain(
            build_method(name, size), StripedPairs(size.items, size.side, sides=sides), out=out, steps=size.steps,
            batch_size=size.batch, optimizer=OptimizerSettings("adamw", lr=1e-3), hardware=hardware,
            checkpoint_every=2, log_every=1, tensorboard=False, on_progress=listen,
        )  # fmt: skip
    return out


def check_steps(methods: Sequence[str], device: str, size: Size, out: Path) -> Iterator[Finding]:
    """Every method in every precision through ``pretrain``: finite losses that move."""
    from semaug.ssl_methods.pretrain import Hardware

    for name in methods:
        for precision in PRECISIONS[device]:
            reset_peak(device)
            hardware = Hardware(device, precision=precision, workers=size.workers)
            try:
                folder = train(name, size, out / f"{name}-{precision}", hardware)
            except Exception as error:
                yield Finding("steps", name, False, {"precision": precision, "error": f"{error}".splitlines()[0]})
                continue
            losses = _losses(folder)
            passed = all(map(math.isfinite, losses)) and len({*losses}) > 1
            values = {"precision": precision, "first": losses[0], "last": losses[-1], "peak_mb": peak_mb(device)}
            yield Finding("steps", name, passed, values)


def _losses(folder: Path) -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def check_resume(methods: Sequence[str], device: str, size: Size, out: Path) -> Iterator[Finding]:
    """A run stopped half-way and resumed against one that never was: bit-equal on a CPU, within ``TOLERANCE`` else."""
    import torch

    from semaug.ssl_methods.pretrain import Hardware

    if device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    hardware = Hardware(device, workers=size.workers)
    for name in methods:
        folders = {kind: out / f"{name}-{kind}" for kind in ("stopped", "whole")}
        try:
            train(name, size, folders["stopped"], hardware, stop=size.steps // 2)
            half = not (folders["stopped"] / "encoder.json").exists()
            for folder in folders.values():
                train(name, size, folder, hardware)
            difference = weight_difference(*folders.values())
        except Exception as error:
            yield Finding("resume", name, False, {"error": f"{error}".splitlines()[0]})
            continue
        passed = half and (difference == 0 if device == "cpu" else difference < TOLERANCE)
        yield Finding("resume", name, passed, {"relative_difference": difference})
    torch.use_deterministic_algorithms(False)


def weight_difference(first: Path, second: Path) -> float:
    """The norm of the difference of two runs' encoders over the norm of the second."""
    import torch
    from safetensors.torch import load_file

    a, b = (load_file(folder / "encoder.safetensors") for folder in (first, second))
    if a.keys() != b.keys():
        return math.inf
    flat = [torch.cat([w[name].double().flatten() for name in sorted(w)]) for w in (a, b)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def check_throughput(methods: Sequence[str], device: str, size: Size, out: Path) -> Iterator[Finding]:
    """Steps on views that lie on the device: images a second, milliseconds of each part, peak memory."""
    import torch
    import with_semaug
    from work import Work
    from worker import PARTS, Trainer

    for name in methods:
        for precision in {"cuda": ("32", "bf16", "fp16"), "cpu": ("32", "bf16")}[device]:
            reset_peak(device)
            adapter = SimpleNamespace(
                build=lambda _, name=name: with_semaug.subject_of(build_method(name, size).to(device)),
                parameter_groups=with_semaug.parameter_groups,
            )
            trainer = Trainer(adapter, Work(name, size.backbone, size.batch, size.side, precision, device))
            views = trainer.views
            trainer.run(max(1, size.repeats // 4), lambda views=views: views)
            found = trainer.run(size.repeats, lambda views=views: views)
            values = {"precision": precision, "images_per_second": size.batch * size.repeats / found["seconds"]}
            values |= {f"{part}_ms": 1000 * found[part] / size.repeats for part in PARTS if part != "data"}
            values["peak_mb"] = peak_mb(device)
            yield Finding("throughput", name, math.isfinite(found["loss"]), values)
            del trainer
            if device == "cuda":
                torch.cuda.empty_cache()


def reset_peak(device: str) -> None:
    """Forget the most memory that was in use."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mb(device: str) -> float | None:
    """The most memory on the GPU since ``reset_peak``, in MB; None on a CPU."""
    if device != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated() / 1e6


def check_views(device: str, size: Size, out: Path) -> Iterator[Finding]:
    """Views made on the device against the CPU path's, from the same draws, and how fast each is made.

    The largest difference is judged, in normalised units: convolutions in TF32 (cuDNN's default) round to three digits.
    """
    import torch

    from semaug.artifacts.sources import open_source
    from semaug.pairs_dataset import collate_pairs, make_pairs
    from semaug.pairs_dataset.device_views import DeviceViews, RawPairs

    items = list(range(size.items))
    source = open_source(f"scenes:train?items={size.items}")
    for preset in ("symmetric", "byol"):
        pairs = make_pairs("standard", source, preset=preset, size=size.side)
        make = DeviceViews(pairs.views)
        batch = RawPairs(pairs).__getitems__(items).to(device)
        expected, slow = _timed(lambda source: collate_pairs(source.__getitems__(items)), pairs, device)
        found, fast = _timed(make, batch, device)
        far = max(float((a - b.cpu()).abs().max()) for a, b in zip(expected[:2], found[:2], strict=True))
        values = {"largest_difference": far, "cpu_views_per_second": 2 * len(items) / slow}
        values |= {"device_views_per_second": 2 * len(items) / fast}
        for name, views in (("cpu", torch.cat(expected[:2])), ("device", torch.cat(found[:2]).cpu())):
            values |= {f"{name}_mean": float(views.mean()), f"{name}_deviation": float(views.std())}
        yield Finding("views", preset, far < VIEW_TOLERANCE[device], values)


def _timed(act: Callable[[Any], Any], argument: Any, device: str) -> tuple[Any, float]:
    """What ``act(argument)`` returns, and the seconds that it takes the second time."""
    import torch

    for _ in range(2):
        started = time.perf_counter()
        result = act(argument)
        if device == "cuda":
            torch.cuda.synchronize()
    return result, time.perf_counter() - started


def check_syncbn(device: str, size: Size, out: Path) -> Iterator[Finding]:
    """Two processes with half the batch each against one: with SyncBatchNorm (two GPUs) the same weights.

    On a CPU batch norm is not synchronised: there the two processes only have to end alike and nothing is compared.
    """
    import torch

    from semaug.ssl_methods.pretrain import Hardware

    if device == "cuda" and torch.cuda.device_count() < 2:
        yield Finding("syncbn", "two processes", None, {"left_out": f"{torch.cuda.device_count()} GPU is visible"})
        return
    together = out / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name("gpu_check.py")), "--device", device, "--rank-of", str(together)]
    done = subprocess.run([*command, *(["--tiny"] if size == TINY else [])], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("syncbn", "two processes", False, {"error": reason})
        return
    alone = train("simclr", size, out / "one", Hardware(device))
    difference = weight_difference(together, alone)
    passed = difference < TOLERANCE if device == "cuda" else (together / "encoder.json").exists()
    yield Finding("syncbn", "two processes", passed, {"relative_difference": difference})


def check_study(device: str, size: Size, out: Path, images: str | None) -> Iterator[Finding]:
    """SimCLR in solo-learn's recipe on CIFAR-10 (``images`` holds train and test), then the linear and kNN probes.

    Nothing is judged: ``Size.epochs`` are fewer than the thousand of the published number.
    """
    from semaug.artifacts.sources import open_source
    from semaug.ssl_methods.pretrain import Hardware
    from semaug.studies.assemble import TrainingPlan, embed_run, train
    from semaug.studies.evaluation import measures, run_knn, run_linear

    if images is None and size != TINY:
        yield Finding("study", "simclr, CIFAR-10", None, {"left_out": "no --images with train and test"})
        return
    sets = {s: open_source(f"scenes:{s}?items=60" if images is None else f"{images}/{s}") for s in ("train", "test")}
    batch = min(size.batch, 256)
    steps = size.epochs * (len(sets["train"]) // batch)
    plan = TrainingPlan(
        sets["train"].spec, recipe="solo", backbone=size.backbone, size=size.side, steps=steps, batch_size=batch,
        checkpoint_every=1000,
    )  # fmt: skip
    precision = "16-mixed" if device == "cuda" else "32-true"
    started = time.perf_counter()
    train(plan, out / "run", hardware=Hardware(device, workers=size.workers, precision=precision))
    seconds = time.perf_counter() - started
    features = {s: embed_run(out / "run", source, device=device) for s, source in sets.items()}
    rows = {**measures(run_linear(features["train"], features["test"], device=device))}
    rows |= measures(run_knn(features["train"], features["test"], device=device))
    values = {"epochs": size.epochs, "steps": steps, "seconds": seconds, "images_per_second": steps * batch / seconds}
    values |= {f"{name}_percent": 100 * rows[name]["value"] for name in ("linear/top1", "knn/backbone/top1")}
    name = "simclr, " + ("CIFAR-10" if images else "scenes in its place")
    yield Finding("study", name, None, {**values, "published_percent": PUBLISHED, "published_epochs": 1000})
