"""The bank of generated views: ``copies`` of every sample, drawn by the averaged generator and kept until refreshed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts import draws
from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.files import hash_file, write_atomic
from semaug.diffaug_core.conditions import CHUNK, chunks, normal
from semaug.diffaug_core.diffusion import Denoiser, NoiseSchedule
from semaug.diffaug_core.samplers import Sampler
from semaug.diffaug_core.samples import CleanSamples
from semaug.ssl_methods.errors import TrainingDiverged


@dataclass(frozen=True, slots=True)
class Bank:
    """Generated ``views`` (copies, N, *shape) without gradient; ``number`` counts refreshes from 0, ``step`` is when
    it was made, in steps of the encoder. ``spread`` is their standard deviation over that of the samples, as the first
    ``CHUNK`` of both have it: far from 1 the generator needs more epochs, or its rate is too high.
    """

    views: Tensor
    number: int
    step: int
    spread: float

    def draw(self, indices: NDArray[np.int64], *, seed: int, step: int) -> Tensor:
        """One of the views of each of ``indices``, (B, *shape), drawn uniformly for the encoder's step ``step``."""
        chosen = draws.generator(seed, "copy", step).integers(len(self.views), size=len(indices))
        return self.views[
            torch.from_numpy(chosen).to(self.views.device), torch.from_numpy(indices).to(self.views.device)
        ]


@dataclass(frozen=True, slots=True)
class BankMaker:
    """Draws banks of ``copies`` views of each sample by ``sampler`` along ``schedule``."""

    sampler: Sampler
    schedule: NoiseSchedule
    copies: int
    seed: int

    @torch.no_grad()
    def make(
        self,
        generator: Denoiser,
        condition: Tensor,
        like: CleanSamples,
        *,
        number: int,
        step: int,
        on_chunk: Callable[[int], None] = lambda done: None,
    ) -> Bank:
        """Bank ``number`` of the samples of ``like``, told their ``condition`` (N, c), at the encoder's step ``step``.

        The draws depend on seed, number and copy alone. ``on_chunk`` hears how many views are done. Raises
        ``TrainingDiverged`` where a view is not finite.
        """
        shape = (self.copies, len(like.samples), *like.samples.shape)
        views = torch.empty(shape, device=like.device, dtype=like.dtype)
        for copy in range(self.copies):
            for part in chunks(shape[1]):
                span = slice(int(part[0]), int(part[-1]) + 1)
                views[copy, span] = self._sample(
                    generator, condition[span], like, number, f"{copy}.{span.start // CHUNK}"
                )
                on_chunk(copy * shape[1] + span.stop)
        if not bool(torch.isfinite(views).all()):
            raise TrainingDiverged(
                f"generated views of bank {number} are not finite; lower the generator's learning rate or train it for "
                "more epochs before its views are used"
            )
        first = next(chunks(shape[1]))
        spread = float(views[0, : len(first)].std() / like[first].std())
        return Bank(views, number, step, spread)

    def _sample(self, generator: Denoiser, condition: Tensor, like: CleanSamples, number: int, key: str) -> Tensor:
        shape = (len(condition), *like.samples.shape)

        def drawn(purpose: str) -> Tensor:
            return normal(shape, self.seed, purpose, number, key, like=like)

        return self.sampler.sample(
            generator, condition, drawn("bank noise"), lambda t: drawn(f"bank noise of step {t}"), self.schedule
        )


class BankFile:
    """Where a run keeps its bank: one file a refresh, which the checkpoint names with its digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, bank: Bank) -> str:
        """Write ``bank`` and return its digest; older ones stay until ``drop_others``."""
        from safetensors.torch import save

        path = self._path(bank.number)
        write_atomic(path, save({"views": bank.views.cpu()}))
        return hash_file(path)

    def read(self, number: int, step: int, spread: float, digest: str, like: CleanSamples) -> Bank:
        """Bank ``number`` as it was written; raises ``ArtifactError`` where it is gone or has changed."""
        from safetensors.torch import load_file

        path = self._path(number)
        found = hash_file(path) if path.exists() else "none"
        if found != digest:
            raise ArtifactError(
                f"{path} has digest {found}, the checkpoint names {digest}; restore it, or start anew with --overwrite"
            )
        return Bank(load_file(path)["views"].to(like.device, like.dtype), number, step, spread)

    def drop_others(self, number: int | None) -> None:
        """Remove every bank but ``number``."""
        for path in self.folder.glob("bank-*.safetensors"):
            if number is None or path != self._path(number):
                path.unlink()

    def _path(self, number: int) -> Path:
        return self.folder / f"bank-{number:05d}.safetensors"
