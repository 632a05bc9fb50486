"""Optimizers and the papers' settings of them (spec S1.8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.lars import LARS


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Rates are for the batch in use: nothing is rescaled behind the caller's back (see ``scaled``).

    ``exclude_norms`` takes biases and normalisation weights out of weight decay, and out of LARS's scaling.
    ``final_weight_decay``, where given, is reached along half a cosine from ``weight_decay`` (as DINO has it).
    ``betas`` are AdamW's.
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    lr: float = 0.03
    weight_decay: float = 1e-4
    momentum: float = 0.9
    eta: float = 1e-3
    clip: bool = False
    exclude_norms: bool = False
    final_weight_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.name not in _BUILDERS:
            raise InvalidOption(f"optimizer {self.name!r} is not known; choose one of {', '.join(_BUILDERS)}")
        if not self.lr > 0:
            raise InvalidOption(f"learning rate {self.lr} is not positive; try {OPTIMIZERS['paper'].lr}")

    def scaled(self, batch_size: int) -> OptimizerSettings:
        """The same settings with the rate multiplied by ``batch_size / 256`` (Goyal et al. 2017)."""
        return replace(self, lr=self.lr * batch_size / 256)

    def record(self) -> dict[str, Any]:
        """The settings as plain JSON values, as a run records them: betas where they are not the usual ones."""
        plain = asdict(self)
        if self.betas == (0.9, 0.999):
            del plain["betas"]
        return plain


def _sgd(groups: list[dict[str, Any]], s: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)


def _lars(groups: list[dict[str, Any]], s: OptimizerSettings) -> torch.optim.Optimizer:
    return LARS(groups, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay, eta=s.eta, clip=s.clip)


def _adamw(groups: list[dict[str, Any]], s: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=s.lr, weight_decay=s.weight_decay, betas=s.betas)


_BUILDERS: dict[str, Callable[[list[dict[str, Any]], OptimizerSettings], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "lars": _lars,
    "adamw": _adamw,
}

OPTIMIZERS: dict[str, OptimizerSettings] = {
    "paper": OptimizerSettings("sgd", lr=0.03, weight_decay=1e-4),
    "solo": OptimizerSettings("lars", lr=0.4, weight_decay=1e-4, eta=0.02, clip=True, exclude_norms=True),
    "adamw": OptimizerSettings("adamw", lr=1e-3, weight_decay=1e-4, exclude_norms=True),
}
"""Presets for batches of 256. ``paper``: SDI's text (S1.8). ``solo``: solo-learn's SimCLR preset, which its public
code uses instead. ``adamw``: ours, for short runs of small networks on a CPU."""


def build_optimizer(
    module: nn.Module, settings: OptimizerSettings, groups: list[dict[str, Any]] | None = None
) -> torch.optim.Optimizer:
    """The optimizer of all parameters of ``module`` that require a gradient, or of ``groups`` (see below)."""
    return _BUILDERS[settings.name](groups or parameter_groups(module, settings), settings)


def parameter_groups(
    module: nn.Module, settings: OptimizerSettings, *, constant_lr: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Weights, and apart from them biases and norms (tensors of one dimension) when these are excluded.

    Parameters in ``constant_lr`` form groups of their own, marked ``constant_lr``: the schedule leaves their rate at
    its full value (SimSiam's predictor).
    """
    constant = {id(p) for p in constant_lr}
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = _split([p for p in trained if id(p) not in constant], settings)
    held = _split([p for p in trained if id(p) in constant], settings)
    return groups + [{**group, "constant_lr": True} for group in held]


def _split(trained: list[nn.Parameter], settings: OptimizerSettings) -> list[dict[str, Any]]:
    if not settings.exclude_norms:
        return [{"params": trained}] if trained else []
    vectors: dict[str, Any] = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}
    if settings.name == "lars":
        vectors["adapt"] = False
    groups = [{"params": [p for p in trained if p.ndim > 1]}, vectors]
    return [group for group in groups if group["params"]]
