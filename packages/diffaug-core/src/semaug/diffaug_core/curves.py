"""The learning curves of a run: means between rows, and losses that are no longer finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from semaug.diffaug_core.steps import Scalars
from semaug.ssl_methods.errors import TrainingDiverged

LOSSES = {"loss": "the encoder's", "generator_loss": "the generator's"}
_RATES = {"loss": "lr", "generator_loss": "generator_lr"}


class Means:
    """Sums scalars by name since the last row without reading any off the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}
        self._bad: dict[str, Tensor] = {}

    def add(self, step: int, scalars: Scalars) -> None:
        """Take the scalars of the step that brought the run to ``step``."""
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
            if name in LOSSES:
                assert isinstance(value, Tensor)
                self._note(name, value, step)

    def take(self) -> dict[str, float]:
        """The means, and start anew."""
        found = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return found

    def require_finite(self) -> None:
        """Raise ``TrainingDiverged`` if a loss was not finite."""
        for name, bad in self._bad.items():
            if math.isfinite(step := float(bad)):
                raise TrainingDiverged(
                    f"{LOSSES[name]} loss is no longer finite at step {int(step)}; lower {_RATES[name]} or bring the "
                    "samples to unit scale (the last good checkpoint is kept)"
                )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that bring it back."""
        sums = {name: total.cpu() if isinstance(total, Tensor) else total for name, total in self.sums.items()}
        return {"sums": sums, "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take back what ``state_dict()`` gave."""
        self.sums = {name: t.to(device) if isinstance(t, Tensor) else t for name, t in state["sums"].items()}
        self.counts = dict(state["counts"])

    def _note(self, name: str, loss: Tensor, step: int) -> None:
        """Keep the first step with a bad loss, infinite for none."""
        now = torch.where(torch.isfinite(loss), math.inf, float(step))
        self._bad[name] = torch.minimum(self._bad[name], now) if name in self._bad else now


@torch.no_grad()
def require_finite_weights(networks: Mapping[str, nn.Module | None], step: int) -> None:
    """Raise ``TrainingDiverged`` where a bad gradient has spoilt weights under a good loss."""
    for owner, network in networks.items():
        tensors = {n: t for n, t in network.state_dict().items() if _is_number(t)} if network else {}
        sound = torch.stack([torch.isfinite(t).all() for t in tensors.values()]) if tensors else torch.ones(1)
        if not bool(sound.all()):
            name = next(n for n, good in zip(tensors, sound.tolist(), strict=True) if not good)
            raise TrainingDiverged(
                f"{name} of the {owner} is no longer finite at step {step}, though the loss is; lower its learning "
                "rate (the last good checkpoint is kept)"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
