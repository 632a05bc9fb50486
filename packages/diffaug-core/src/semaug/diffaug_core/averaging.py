"""The running average of a generator's weights, which is what samples are drawn with."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.momentum import follow, momentum_copy

M = TypeVar("M", bound=nn.Module)


class Average(nn.Module, Generic[M]):
    """An exponential average of a module's weights: average = d * average + (1 - d) * weights after every step.

    d is ``decay``, or with ``warm_up`` the smaller of ``decay`` and (1 + n) / (10 + n) after n updates, so that a short
    run is not left at its first weights. ``average`` is the module to sample with; buffers are copied. The state dict
    holds weights and n: a resumed run goes on as if never stopped.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> slow = Average(layer, decay=0.5, warm_up=False)
    >>> with torch.no_grad(): _ = layer.weight.add_(1)
    >>> slow.update(layer)
    >>> round((layer.weight - slow.average.weight).item(), 6)
    0.5
    """

    def __init__(self, online: M, decay: float = 0.9999, warm_up: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise InvalidOption(f"decay is {decay}, expected 0 (the weights themselves) up to, but not, 1")
        self.average: M = momentum_copy(online).eval()
        self.decay = decay
        self.warm_up = warm_up
        self.updates = 0

    @property
    def next_decay(self) -> float:
        """d of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay

    @torch.no_grad()
    def update(self, online: M) -> None:
        """Follow ``online`` by one step."""
        follow(self.average, online, self.next_decay)
        for slow, fast in zip(self.average.buffers(), online.buffers(), strict=True):
            slow.copy_(fast)
        self.updates += 1

    def train(self, mode: bool = True) -> Average[M]:
        """The average stays in evaluation mode whatever its owner is in."""
        super().train(mode)
        self.average.eval()
        return self

    def get_extra_state(self) -> dict[str, int]:
        """The number of updates, for the state dict."""
        return {"updates": self.updates}

    def set_extra_state(self, state: Any) -> None:
        """Take the number of updates back."""
        self.updates = int(state["updates"])
