"""The two views of a batch: the sample or its hand-made augmentation, against a hand-made or a generated one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts import draws
from semaug.diffaug_core.bank import Bank
from semaug.diffaug_core.plan import Moment
from semaug.diffaug_core.samples import CleanSamples
from semaug.diffaug_core.settings import FirstView


@dataclass(frozen=True, slots=True)
class Views:
    """``first`` and ``second`` (B, *shape), row i of both of one sample; ``generated``: bool (B,), of the second."""

    first: Tensor
    second: Tensor
    generated: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ViewDrawer:
    """Draws the views of a batch; the hand-made ones are the same whatever is generated (alpha = 0 equals B2)."""

    clean: CleanSamples
    first: FirstView
    seed: int

    def draw(self, indices: NDArray[np.int64], moment: Moment, bank: Bank | None) -> Views:
        """The views of samples ``indices`` at ``moment``; a second view is of ``bank`` with probability alpha."""
        first = self.clean[indices] if self.first == "clean" else self._hand(indices, moment.epoch, 0)
        generated = self.substituted(len(indices), moment)
        second = torch.empty_like(first) if generated.all() else self._hand(indices, moment.epoch, 1)
        if generated.any():
            assert bank is not None
            rows = torch.from_numpy(generated.nonzero()[0]).to(second.device)
            second = second.index_copy(0, rows, bank.draw(indices, seed=self.seed, step=moment.encoder_step)[rows])
        return Views(first, second, generated)

    def substituted(self, count: int, moment: Moment) -> NDArray[np.bool_]:
        """Which second views are generated: uniform draws below alpha, bool (count,)."""
        if moment.alpha == 0:
            return np.zeros(count, dtype=np.bool_)
        return draws.generator(self.seed, "substitute", moment.encoder_step).random(count) < moment.alpha

    def _hand(self, indices: NDArray[np.int64], epoch: int, view: int) -> Tensor:
        found = self.clean.samples.hand(indices, seed=self.seed, epoch=epoch, view=view)
        return found.to(self.clean.device, self.clean.dtype)
