"""LARS: layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, Eq. 6 and Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step in each tensor w with gradient g is scaled to that tensor's own size::

        trust = eta * |w| / (|g| + weight_decay * |w|)      (1 where |w| or |g| is zero)
        v = momentum * v + trust * (g + weight_decay * w)
        w = w - lr * v

    ``clip`` caps the effective rate trust * lr at lr, i.e. trust at 1 (LARC's clipping, as solo-learn's presets use).
    A parameter group with ``adapt=False`` (biases, norms) takes plain momentum SGD with its own weight decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        clip: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta}
        super().__init__(params, {**defaults, "clip": clip, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of all groups; returns what ``closure`` returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(group, weights)
        return loss

    def _update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        gradients = [p.grad for p in weights if p.grad is not None]
        updates = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            torch._foreach_mul_(updates, _trust(group, weights, gradients))
        momenta = [self._momentum(p) for p in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(weights, momenta, alpha=-group["lr"])

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


def _trust(group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    sizes = torch.stack(torch._foreach_norm(weights))
    slopes = torch.stack(torch._foreach_norm(gradients))
    ratio = group["eta"] * sizes / (slopes + group["weight_decay"] * sizes)
    if group["clip"]:
        ratio = ratio.clamp(max=1.0)
    return list(torch.where((sizes > 0) & (slopes > 0), ratio, torch.ones_like(ratio)).unbind())
