"""Where a run is computed, and in what numbers. Importing this imports Lightning."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, Strategy

from semaug.artifacts.errors import InvalidOption

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed", "fp64": "64-true"}
"""What a run computes in: our name, then Lightning's, which is taken too."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where a run is computed: none of it enters the run's identity.

    ``device`` is cpu, cuda or auto; ``devices`` processes on each of ``nodes`` machines share every batch (DDP, also
    under torchrun) and wait ``peer_timeout`` seconds for one another; ``precision`` is one of ``PRECISIONS`` and does
    enter the identity, since it shapes weights. ``deterministic`` lets torch take only kernels that give the same bits
    every time, and fail where it has none.
    """

    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    precision: str = "32-true"
    channels_last: bool = False
    peer_timeout: float = 1800.0
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda", "auto"):
            raise InvalidOption(f"device {self.device!r} is not known; choose cpu, cuda or auto")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InvalidOption("device 'cuda' was asked for and none is visible; use --device cpu")
        object.__setattr__(self, "precision", PRECISIONS.get(self.precision, self.precision))
        if self.precision not in PRECISIONS.values():
            raise InvalidOption(f"precision {self.precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
        if self.workers < 0 or self.devices < 1 or self.nodes < 1:
            raise InvalidOption(
                f"{self.workers} workers on {self.devices} devices of {self.nodes} nodes: give at least 0, 1 and 1"
            )
        if not 0 < self.peer_timeout < math.inf:
            raise InvalidOption(f"processes cannot wait {self.peer_timeout} s for one another; give seconds above 0")

    @property
    def cuda(self) -> bool:
        """Whether the run computes on a GPU."""
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())

    @property
    def world(self) -> int:
        """Processes that share a batch."""
        return self.devices * self.nodes

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return int(getattr(rank_zero_only, "rank", 0) or 0) if self.world > 1 else 0

    def launched(self) -> Hardware:
        """The same with the processes that torchrun has started, where it has and none were asked for.

        Raises ``InvalidOption`` where others were.
        """
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return self
        started, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if self.world not in (1, started):
            raise InvalidOption(
                f"{self.devices} devices on {self.nodes} nodes were asked for and torchrun started {started} "
                "processes; leave --devices and --nodes away"
            )
        return replace(self, devices=local, nodes=started // local)

    @property
    def strategy(self) -> Strategy | str:
        """How Lightning's Trainer joins the processes."""
        return DDPStrategy(timeout=timedelta(seconds=self.peer_timeout)) if self.world > 1 else "auto"

    def numbers(self) -> dict[str, Any]:
        """What Lightning's Trainer is told of the precision: ``precision`` and, for fp16 on a CPU, the plugin.

        Raises ``InvalidOption`` for fp16 on a CPU whose torch has no kernels for it.
        """
        if self.precision != "16-mixed" or self.cuda:
            return {"precision": self.precision}
        if not _halves_on_cpu():
            raise InvalidOption(
                f"precision 'fp16' on the cpu: torch {torch.__version__} has no such kernels; take --precision bf16"
            )
        return {"plugin": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))}


@contextmanager
def same_kernels(wanted: bool) -> Iterator[None]:
    """Within it, where ``wanted``, torch takes only kernels that give the same bits every time; afterwards as before.

    An operation without such a kernel raises torch's ``RuntimeError``, which names it.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product on a GPU
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@cache
def _halves_on_cpu() -> bool:
    """Whether this torch trains a convolution, a norm and a linear map in fp16 on this CPU."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    layers.append(torch.nn.Linear(4 * 36, 2))
    try:
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", dtype=torch.float16):
            layers(torch.zeros(2, 3, 8, 8)).float().sum().backward()
    except RuntimeError:
        return False
    return True
