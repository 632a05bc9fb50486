"""What tests of methods share: small pair sources, runs that other processes can start, and standard checks.

``two_ranks`` and ``rank_difference`` hold a loss on two gloo processes against one; ``train_scenes`` asks whether a
method learns anything in fifty steps; ``resume_differences`` whether a stopped run ends as an undisturbed one.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, get_worker_info

from semaug.artifacts.draws import draw_key, generator, uniforms
from semaug.artifacts.schemas import EncoderCard
from semaug.artifacts.sources.scenes import ScenesSource
from semaug.ssl_methods.encoder import Encoder, build_encoder
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.methods import Method, SimCLR
from semaug.ssl_methods.optimizers import OptimizerSettings, build_optimizer


class StripedPairs(Dataset):
    """Images of stripes, ``classes`` orientations; a view is the image shifted, with a gain, an offset and noise.

    ``lag`` is the time in seconds that the first of several workers takes longer for an image, so that they drift
    apart. Views are float32 (3, side, side), one for each of ``sides`` (two of ``size`` unless given); they depend on
    the seed, the epoch, the index and the view alone. The epoch lives in shared memory, as that of the real pair
    sources does.
    """

    def __init__(
        self,
        items: int = 64,
        size: int = 16,
        classes: int = 4,
        seed: int = 0,
        lag: float = 0,
        sides: Sequence[int] | None = None,
    ) -> None:
        self.items, self.size, self.classes, self.seed, self.lag = items, size, classes, seed, lag
        self.sides = tuple(sides or (size, size))
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.items

    def set_epoch(self, epoch: int) -> None:
        """Draw other views from here on."""
        self._epoch.fill_(epoch)

    def label(self, index: int) -> int:
        """The orientation of the stripes."""
        return index % self.classes

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        worker = get_worker_info()
        if worker is not None and worker.id == 0:
            time.sleep(self.lag)
        epoch = int(self._epoch)
        return (*(self.view(index, epoch, k, side) for k, side in enumerate(self.sides)), index)

    def view(self, index: int, epoch: int, view: int, side: int | None = None) -> Tensor:
        """One view of one image."""
        draw = uniforms(draw_key(self.seed, "stripes", epoch, str(index), view=view), 6)
        angle = np.pi * self.label(index) / self.classes
        y, x = np.mgrid[: side or self.size, : side or self.size]
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 1.6 + 2 * np.pi * draw[0]) * (0.5 + draw[1])
        noise = generator(self.seed, "noise", epoch, f"{index}/{view}").standard_normal(wave.shape) * 0.3
        image = (wave + noise)[None] + draw[2:5, None, None]
        return torch.from_numpy(image.astype(np.float32))


def small_method(seed: int = 0, size: int = 16) -> SimCLR:
    """SimCLR on the small CNN with a 32-wide projector."""
    encoder = build_encoder("small-cnn", input_size=size, projector=ProjectorSpec(hidden=64, out=32), seed=seed)
    return SimCLR(encoder, temperature=0.2)


def small_run(
    out: str | Path,
    *,
    build: Callable[[int], Method] = small_method,
    pairs: StripedPairs | None = None,
    pause: float = 0.0,
    workers: int = 0,
    **changes: Any,
) -> EncoderCard:
    """Pretrain ``build(seed)`` on 40 striped pairs: 24 steps of 8 (5 an epoch), a checkpoint every 3 steps.

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
    return pretrain(build(changes.get("seed", 0)), pairs or StripedPairs(40), out=out, **{**settings, **changes})


Loss = Callable[..., Tensor]


def loss_and_gradient(loss: Loss, *tensors: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The value of ``loss(*tensors)`` and its gradient by each of them."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = loss(*leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return value.detach(), [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, gradients, strict=True)]


def two_ranks(function: Callable[..., Any], *arguments: Any, world: int = 2) -> list[Any]:
    """What ``function(rank, world, *arguments)`` returns on each of ``world`` gloo processes.

    ``function`` is found by name in the new processes, so it is one of a module. Raises ``RuntimeError`` with the
    traceback of the first that failed.
    """
    multiprocessing.set_forkserver_preload([__name__])
    context = multiprocessing.get_context("forkserver")
    answers = context.Queue()
    call = pickle.dumps((function, arguments))
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_on_rank, args=(rank, world, f"{folder}/meeting", call, answers))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        try:
            found = dict(_collect(answers) for _ in processes)
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    return [found[rank] for rank in range(world)]


def _collect(answers: Any) -> tuple[int, Any]:
    rank, failed, payload = answers.get(timeout=600)
    if failed:
        raise RuntimeError(f"rank {rank} failed:\n{payload}")
    return rank, pickle.loads(payload)


def _on_rank(rank: int, world: int, meeting: str, call: bytes, answers: Any) -> None:
    from torch import distributed

    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
        function, arguments = pickle.loads(call)
        answers.put((rank, False, pickle.dumps(function(rank, world, *arguments))))
        distributed.destroy_process_group()
    except BaseException:
        answers.put((rank, True, traceback.format_exc()))


def rank_difference(loss: Loss, *tensors: Tensor) -> float:
    """How far two ranks with half the rows each are from one process with all: the largest difference of the loss
    (mean over the ranks) and of its gradients (as DistributedDataParallel averages them)."""
    value, gradients = loss_and_gradient(loss, *tensors)
    ranks = two_ranks(_share, loss, tensors)
    differences = [(torch.stack([r[0] for r in ranks]).mean() - value).abs()]
    for k, gradient in enumerate(gradients):
        shared = torch.cat([r[1][k] for r in ranks]) / len(ranks)
        differences.append((shared - gradient).abs().max())
    return max(float(d) for d in differences)


def _share(rank: int, world: int, loss: Loss, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    return loss_and_gradient(loss, *(t.chunk(world)[rank] for t in tensors))


SCENE_CLASSES = ("crescent", "square")
SCENE_THRESHOLD = 0.83
"""kNN accuracy that fifty steps of a sound method pass, and an untrained or collapsed encoder fails (chance 0.5)."""


@dataclass(frozen=True, slots=True)
class SceneScores:
    """kNN accuracy before and after training, and with all features equal."""

    untrained: float
    trained: float
    collapsed: float

    @property
    def learned(self) -> bool:
        """Whether the trained encoder alone passes the threshold."""
        return self.trained > SCENE_THRESHOLD > max(self.untrained, self.collapsed)


def train_scenes(
    method: Method,
    *,
    steps: int = 50,
    batch_size: int = 64,
    lr: float = 5e-3,
    sides: Sequence[int] = (16, 16),
    optimizer: OptimizerSettings | None = None,
) -> SceneScores:
    """Train ``method`` on the surfaces of scenes of two classes and vote among the five nearest.

    A view is a crop at one of ``sides`` pixels with its colours mixed at random; so are the images that are voted on,
    of which colour alone says nothing. Takes about two seconds for the small CNN on one core.
    """
    images, _ = _surfaces("train", 256)
    before = scene_accuracy(method.result)
    torch.manual_seed(0)
    chosen = optimizer or OptimizerSettings("adamw", lr=lr, exclude_norms=True)
    stepper = build_optimizer(method, chosen, method.parameter_groups(chosen))
    draws = torch.Generator().manual_seed(0)
    method.train()
    for step in range(steps):
        batch = images[torch.randperm(len(images), generator=draws)[:batch_size]]
        method.before_forward(step, steps)
        loss = method([scene_view(batch, draws, side, local=side < sides[0]) for side in sides])["loss"]
        stepper.zero_grad()
        loss.backward()
        method.before_update(step, steps)
        stepper.step()
        method.after_step(step, steps)
    return SceneScores(before, scene_accuracy(method.result), _vote(lambda x: torch.ones(len(x), 4)))


def scene_accuracy(encoder: Encoder) -> float:
    """Share of the test scenes of two classes that the five nearest training scenes by cosine name rightly."""
    training = encoder.training
    encoder.eval()
    try:
        return _vote(encoder, encoder.spec.input_size or 16)
    finally:
        encoder.train(training)


@torch.no_grad()
def _vote(encode: Callable[[Tensor], Tensor], side: int = 16) -> float:
    draws = torch.Generator().manual_seed(99)
    (bank, names), (queries, truth) = _surfaces("train", 256), _surfaces("test", 128)
    a, b = (functional.normalize(encode(scene_view(x, draws, side)), dim=1) for x in (queries, bank))
    nearest = names[(a @ b.T).topk(5).indices]
    return float((nearest.mode(dim=1).values == truth).double().mean())


def scene_view(images: Tensor, draws: torch.Generator, side: int, *, local: bool = False) -> Tensor:
    """A view (B, 3, side, side) of each image: crop of 30-70% (locally 10-30%), flip, colours mixed and shifted."""
    n = len(images)
    low, high = (0.1, 0.3) if local else (0.3, 0.7)
    share = torch.sqrt(low + (high - low) * torch.rand(n, generator=draws))
    place = (2 * torch.rand(n, 2, generator=draws) - 1) * (1 - share[:, None])
    flip = torch.where(torch.rand(n, generator=draws) < 0.5, -1.0, 1.0)
    zero = torch.zeros(n)
    rows = [torch.stack([share * flip, zero, place[:, 0]], 1), torch.stack([zero, share, place[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), [n, 3, side, side], align_corners=False)
    crops = functional.grid_sample(images, grid, align_corners=False)
    mixing = torch.eye(3) + 0.6 * torch.randn(n, 3, 3, generator=draws)
    shift = 0.6 * torch.randn(n, 3, 1, 1, generator=draws)
    return torch.einsum("nij,njhw->nihw", mixing, crops) + shift


@cache
def _surfaces(split: str, items: int) -> tuple[Tensor, Tensor]:
    """``items`` object surfaces of ``SCENE_CLASSES``, standardised, float32 (items, 3, 32, 32), and their classes."""
    source = ScenesSource(split, items=items * 10 // len(SCENE_CLASSES))
    wanted = {source.class_names.index(name): k for k, name in enumerate(SCENE_CLASSES)}
    indices = [i for i in range(len(source)) if source.label(i) in wanted]
    images = torch.cat([_surface(source, i) for i in indices])
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    return images, torch.tensor([wanted[source.label(i)] for i in indices])


def _surface(source: ScenesSource, index: int) -> Tensor:
    """The middle of one object, two thirds of its longer side wide, at 32 pixels."""
    image = torch.from_numpy(source.read(index)).permute(2, 0, 1)[None].float() / 255
    left, top, right, bottom = source.guidance(index).boxes[0].tolist()
    half = max(right - left, bottom - top) / 3
    x, y = (left + right) / 2, (top + bottom) / 2
    rows, columns = slice(max(0, int(y - half)), int(y + half)), slice(max(0, int(x - half)), int(x + half))
    return functional.interpolate(image[:, :, rows, columns], (32, 32), mode="bilinear", antialias=True)


class Stopped(Exception):
    """A run was stopped on purpose."""


def resume_differences(
    build: Callable[[int], Method],
    folder: Path,
    *,
    stop: int,
    workers: int = 0,
    ranks: int = 1,
    **changes: Any,
) -> list[str]:
    """Names of what differs between a run stopped after step ``stop`` and resumed, and one that never was.

    Compared bit by bit: every tensor of the last checkpoint (weights, momentum networks, queues, optimizer) and the
    encoder's file. ``changes`` go to ``small_run``. With two ranks ``build`` is found by name in new processes.
    """

    def run(name: str, stop: int | None = None) -> None:
        _run_once(build, folder / name, workers=workers, ranks=ranks, stop=stop, **changes)

    run("stopped", stop)
    if not (folder / "stopped" / "run.json").exists() or (folder / "stopped" / "encoder.json").exists():
        raise RuntimeError(f"the run was not stopped within its training at step {stop}")
    run("stopped")
    run("whole")
    found, expected = (_tensors(folder / name) for name in ("stopped", "whole"))
    names = sorted({*found, *expected})
    return [n for n in names if n not in found or n not in expected or not torch.equal(found[n], expected[n])]


def _run_once(build: Callable[[int], Method], out: Path, *, workers: int, ranks: int, **settings: Any) -> None:
    if ranks == 1:
        _train_and_stop(build, out, workers=workers, devices=1, **settings)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["semaug.ssl_methods.pretrain", __name__])
    context = multiprocessing.get_context("forkserver")
    processes = [
        context.Process(target=_train_as_rank, args=(rank, ranks, port, build, out, workers, settings))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"ranks ended with codes {[process.exitcode for process in processes]}")


def _train_as_rank(
    rank: int, ranks: int, port: int, build: Callable[[int], Method], out: Path, workers: int, settings: dict[str, Any]
) -> None:
    """One process of a distributed run, told so as torchrun does."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {name: str(value) for name, value in {**place, **meeting}.items()}
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    cast(Any, rank_zero_only).rank = rank
    _train_and_stop(build, out, workers=workers, devices=ranks, **settings)


def _train_and_stop(
    build: Callable[[int], Method], out: Path, *, workers: int, devices: int, stop: int | None = None, **settings: Any
) -> None:
    from semaug.ssl_methods.pretrain import Hardware

    def listen(event: Any) -> None:
        if event.done == stop:
            raise Stopped

    hardware = Hardware(workers=workers, devices=devices)
    try:
        small_run(out, build=build, hardware=hardware, on_progress=listen, **settings)
    except Stopped:
        torch.rand(3)  # another random state must not matter to the run that goes on


def _tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    found = {f"method {name}": value for name, value in checkpoint["state_dict"].items()}
    for number, optimizer in enumerate(checkpoint["optimizer_states"]):
        for index, state in optimizer["state"].items():
            found |= {f"optimizer {number} {index} {k}": torch.as_tensor(v) for k, v in state.items()}
    weights = (folder / "encoder.safetensors").read_bytes()
    return {**found, "encoder file": torch.frombuffer(bytearray(weights), dtype=torch.uint8)}
