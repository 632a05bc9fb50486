"""Several processes that share a fine-tuning, as torchrun starts them: one a device, each with a part of a batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from semaug.artifacts.errors import InvalidOption

PATIENCE = timedelta(hours=24)
"""How long the others wait for the first process, which alone judges between two seeds."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this is; alone by default."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and judges."""
        return self.rank == 0

    def require_batch(self, batch_size: int) -> None:
        """Raise ``InvalidOption`` unless a batch can be dealt out evenly."""
        if batch_size % self.count:
            raise InvalidOption(
                f"a batch of {batch_size} images cannot be dealt to {self.count} processes; give --batch-size a "
                f"multiple of {self.count}"
            )

    def meet(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            distributed.barrier()

    def shared(self, detector: nn.Module, device: str) -> nn.Module:
        """The detector as it is trained: gradients averaged over the processes, on GPUs batch norm synchronised."""
        if self.count == 1:
            return detector
        if device.startswith("cuda"):
            detector = nn.SyncBatchNorm.convert_sync_batchnorm(detector)
        places: dict[str, Any] = {"device_ids": [torch.device(device)]} if device.startswith("cuda") else {}
        return nn.parallel.DistributedDataParallel(detector, **places)


@contextmanager
def started_ranks(device: str) -> Iterator[tuple[Ranks, str]]:
    """The processes torchrun started and the device of this one; this process alone and ``device`` without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(), device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), count), device
    finally:
        distributed.destroy_process_group()
