"""A pair source small enough for tests, and a run of it that other processes can start by name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from semaug.artifacts.draws import draw_key, generator, uniforms
from semaug.artifacts.schemas import EncoderCard
from semaug.ssl_methods.encoder import build_encoder
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.losses import nt_xent
from semaug.ssl_methods.methods import SimCLR
from semaug.ssl_methods.optimizers import OptimizerSettings


class StripedPairs(Dataset):
    """Images of stripes, ``classes`` orientations; a view is the image shifted, with a gain, an offset and noise.

    ``lag`` is the time in seconds that the first of several workers takes longer for an image, so that they drift
    apart. Views are float32 (3, size, size); they depend on the seed, the epoch, the index and the view alone. The
    epoch lives in shared memory, as that of the real pair sources does.
    """

    def __init__(self, items: int = 64, size: int = 16, classes: int = 4, seed: int = 0, lag: float = 0) -> None:
        self.items, self.size, self.classes, self.seed, self.lag = items, size, classes, seed, lag
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.items

    def set_epoch(self, epoch: int) -> None:
        """Draw other views from here on."""
        self._epoch.fill_(epoch)

    def label(self, index: int) -> int:
        """The orientation of the stripes."""
        return index % self.classes

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        worker = get_worker_info()
        if worker is not None and worker.id == 0:
            time.sleep(self.lag)
        epoch = int(self._epoch)
        return self.view(index, epoch, 0), self.view(index, epoch, 1), index

    def view(self, index: int, epoch: int, view: int) -> Tensor:
        """One view of one image."""
        draw = uniforms(draw_key(self.seed, "stripes", epoch, str(index), view=view), 6)
        angle = np.pi * self.label(index) / self.classes
        y, x = np.mgrid[: self.size, : self.size]
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 1.6 + 2 * np.pi * draw[0]) * (0.5 + draw[1])
        noise = generator(self.seed, "noise", epoch, f"{index}/{view}").standard_normal(wave.shape) * 0.3
        image = (wave + noise)[None] + draw[2:5, None, None]
        return torch.from_numpy(image.astype(np.float32))


def small_method(seed: int = 0, size: int = 16) -> SimCLR:
    """SimCLR on the small CNN with a 32-wide projector."""
    encoder = build_encoder("small-cnn", input_size=size, projector=ProjectorSpec(hidden=64, out=32), seed=seed)
    return SimCLR(encoder, temperature=0.2)


def small_run(out: str | Path, *, pause: float = 0.0, workers: int = 0, **changes: Any) -> EncoderCard:
    """Pretrain ``small_method`` on 40 striped pairs: 24 steps of 8 (5 an epoch), a checkpoint every 3 steps.

    ``pause`` seconds pass after every step, so that a test can stop the run within it.
    """
    from semaug.ssl_methods.pretrain import Hardware, pretrain

    torch.set_num_threads(1)
    settings: dict[str, Any] = {
        "steps": 24,
        "batch_size": 8,
        "warmup": 2,
        "checkpoint_every": 3,
        "log_every": 2,
        "tensorboard": False,
        "hardware": Hardware(workers=workers),
        "on_progress": lambda event: time.sleep(pause),
        "optimizer": OptimizerSettings("lars", lr=0.3, eta=0.02, exclude_norms=True),
    }
    seed = changes.get("seed", 0)
    return pretrain(small_method(seed), StripedPairs(40), out=out, **{**settings, **changes})


def nt_xent_on_rank(rank: int, world: int, meeting: str, z1: Tensor, z2: Tensor, answers: Any) -> None:
    """One of ``world`` gloo processes: its share of the rows, its loss, and the gradients of its share."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    a, b = (z.chunk(world)[rank].clone().requires_grad_() for z in (z1, z2))
    loss = nt_xent(a, b, 0.3)
    gradients = torch.autograd.grad(loss, (a, b))
    answers.put((rank, loss.item(), *(g.numpy() for g in gradients)))
    distributed.destroy_process_group()
