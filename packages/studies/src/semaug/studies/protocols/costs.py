"""What an encoder's forward pass costs: seconds and memory for 1,000 images, warm-up left out (spec S1.9 k)."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress

if TYPE_CHECKING:
    import torch

    from semaug.eval.measures import Measure

PER = 1000
WARM_UP = 3
LIMIT = 1000
_BATCHES = 5  # at least, for a spread


@dataclass(frozen=True, slots=True)
class Costs:
    """Measures of a forward pass on one device, in batches of ``batch_size``."""

    measures: tuple[Measure, ...]
    device: str
    batch_size: int
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        return iter(self.measures)


def costs_of(
    run: Path,
    images: str,
    *,
    batch_size: int = 64,
    limit: int = LIMIT,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Costs:
    """Time, memory and size of a run's encoder on ``limit`` prepared images of a source.

    ``costs/forward_seconds`` is the median batch's time scaled to 1,000 images, with the quartiles; three batches go
    before. ``costs/read_seconds`` is what reading and preparing 1,000 images took on one thread. ``costs/memory_mb`` is
    the most memory that a forward pass of one batch holds beside weights and images. ``n`` is the number of images.
    Raises ``InvalidOption`` for a features artifact or fewer than two batches' worth of images.
    """
    from semaug.eval.measures import Measure
    from semaug.ssl_methods import load_encoder

    encoder = load_encoder(run)[0].to(device).eval()
    batches, read_seconds, count = _prepared(run, images, batch_size, limit, seed)
    forward = _Forward(encoder, device)
    memory, reason = forward.memory(batches[0])
    seconds = forward.seconds(batches, on_progress)
    scale = PER / batch_size
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    backbone, projector = (_parameters(part) for part in (encoder.backbone, encoder.projector))
    return Costs(
        (
            Measure("costs/forward_seconds", middle * scale, count),
            Measure("costs/forward_seconds_quartile_low", low * scale, count),
            Measure("costs/forward_seconds_quartile_high", high * scale, count),
            Measure("costs/read_seconds", read_seconds * PER / count, count),
            Measure("costs/memory_mb", memory, batch_size, reason),
            Measure("costs/backbone_parameters", backbone, 1),
            Measure("costs/projector_parameters", projector, 1),
        ),
        device,
        batch_size,
    )


def _prepared(run: Path, images: str, batch_size: int, limit: int, seed: int) -> tuple[list[torch.Tensor], float, int]:
    """Whole batches of normalised images, the seconds that reading took, and how many images were read."""
    import torch

    from semaug.artifacts.sources import open_source
    from semaug.eval.features import embed
    from semaug.studies.protocols.features import Embedder, is_features

    if is_features(images):
        raise InvalidOption(f"{images} holds features, and costs are of images; give the images")
    batches: list[torch.Tensor] = []

    def keep(batch: torch.Tensor) -> tuple[torch.Tensor, None]:
        batches.append(batch)
        return torch.zeros(len(batch), 1), None

    prepared = Embedder(run).preparation
    started = time.perf_counter()
    found = embed(
        keep, open_source(images), input_size=prepared.input_size, mean=prepared.mean, std=prepared.std,
        batch_size=batch_size, limit=limit, seed=seed,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    whole = [batch for batch in batches if len(batch) == batch_size]
    if len(whole) < 2:
        raise InvalidOption(
            f"{len(found)} images are {len(whole)} batches of {batch_size}, and a time needs 2; give more images"
        )
    return whole, seconds, len(found)


def _parameters(module: Any) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True, slots=True)
class _Forward:
    """Features and, where there is a projector, projections of a batch, as evaluation computes them."""

    encoder: Any
    device: str

    def __call__(self, batch: torch.Tensor) -> None:
        import torch

        with torch.inference_mode():
            features = self.encoder(batch)
            if self.encoder.projector is not None:
                self.encoder.project(features)
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()

    def seconds(self, batches: list[torch.Tensor], on_progress: OnProgress) -> list[float]:
        """Seconds of each batch, all of them at least once, after a warm-up."""
        rounds = [batches[i % len(batches)] for i in range(WARM_UP + max(len(batches), _BATCHES))]
        found = []
        for done, batch in enumerate(rounds):
            here = batch.to(self.device)
            started = time.perf_counter()
            self(here)
            found.append(time.perf_counter() - started)
            on_progress(Progress("costs", done + 1, len(rounds), "batches"))
        return found[WARM_UP:]

    def memory(self, batch: torch.Tensor) -> tuple[float | None, str]:
        """MB that one pass holds beside weights and images, at its height; or why that is not known."""
        here = batch.to(self.device)
        self(here)  # what a first pass alone allocates is no part of it
        with watched(self.device) as height:
            self(here)
            found = height()
        if found is None:
            return None, "the system does not tell the height of memory (Linux and GPUs do)"
        return found / 1e6, ""


@contextmanager
def watched(device: str) -> Iterator[Callable[[], float | None]]:
    """A function that gives the bytes held since entry, at their height; None where the system does not say."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: float(torch.cuda.max_memory_allocated() - before)
        return
    _return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to VmRSS
    except OSError:
        yield lambda: None
        return
    start = _resident("VmRSS")
    yield lambda: float(max(0, _resident("VmHWM") - start))


def memory_height(device: str) -> float | None:
    """Bytes that this process holds, or on a GPU has allocated, at their height since ``watched`` began."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.max_memory_allocated())
    return float(_resident("VmHWM")) if Path("/proc/self/status").is_file() else None


def _return_freed_memory() -> None:
    """Hand pages that the C library keeps for later back to the system, since their reuse would not show."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        return


def _resident(field: str) -> int:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
