"""Heads on top of the features: the projector every method trains through."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from semaug.artifacts.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class ProjectorSpec:
    """An MLP of ``layers`` linear layers: widths ``hidden`` inside and ``out`` at the end.

    ``hidden`` None takes 2048 for features of 512 and more, else the features' own width. The defaults are SimCLR's
    head as solo-learn builds it: two layers, ReLU between, no batch norm.
    """

    hidden: int | None = None
    out: int = 128
    layers: int = 2
    batch_norm: bool = False
    last_batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.layers < 1 or self.out < 1 or (self.hidden is not None and self.hidden < 1):
            raise InvalidOption(
                f"a projector of {self.layers} layers, hidden {self.hidden}, out {self.out} cannot be built; "
                "every one must be at least 1"
            )

    def hidden_width(self, inputs: int) -> int:
        """The hidden width for features of width ``inputs``."""
        if self.hidden is not None:
            return self.hidden
        return 2048 if inputs >= 512 else inputs


def build_projector(inputs: int, spec: ProjectorSpec) -> nn.Sequential:
    """The MLP from features (B, inputs) to projections (B, spec.out)."""
    widths = [inputs] + [spec.hidden_width(inputs)] * (spec.layers - 1)
    modules: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        modules.append(nn.Linear(width_in, width_out, bias=not spec.batch_norm))
        modules += [nn.BatchNorm1d(width_out)] if spec.batch_norm else []
        modules.append(nn.ReLU(inplace=True))
    modules.append(nn.Linear(widths[-1], spec.out, bias=not spec.last_batch_norm))
    modules += [nn.BatchNorm1d(spec.out)] if spec.last_batch_norm else []
    return nn.Sequential(*modules)
