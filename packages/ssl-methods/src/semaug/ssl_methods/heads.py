"""Heads on top of the features: the projector every method trains through, and the predictor of some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption

Activation = Literal["relu", "gelu", "leaky_relu"]


@dataclass(frozen=True, slots=True)
class ProjectorSpec:
    """An MLP of ``layers`` linear layers: widths ``hidden`` inside and ``out`` at the end.

    ``hidden`` None takes 2048 for features of 512 and more, else the features' own width; several name each layer's.
    ``last_affine`` False takes scale and shift from the last batch norm; ``norm_after`` puts the others after their
    activations. The defaults are SimCLR's head as solo-learn builds it: two layers, ReLU between, no batch norm.
    """

    hidden: int | tuple[int, ...] | None = None
    out: int = 128
    layers: int = 2
    batch_norm: bool = False
    last_batch_norm: bool = False
    last_affine: bool = True
    activation: Activation = "relu"
    norm_after: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.hidden, list):  # as a card has it
            object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.layers < 1 or self.out < 1 or min(self.hidden_widths(1), default=1) < 1:
            raise InvalidOption(
                f"a projector of {self.layers} layers, hidden {self.hidden}, out {self.out} cannot be built; "
                "every one must be at least 1"
            )
        if isinstance(self.hidden, tuple) and len(self.hidden) != self.layers - 1:
            raise InvalidOption(
                f"hidden {self.hidden} names {len(self.hidden)} widths, {self.layers} layers have {self.layers - 1} "
                "inside; give one each"
            )
        if self.activation not in _ACTIVATIONS:
            raise InvalidOption(f"activation {self.activation!r} is not known; choose one of {', '.join(_ACTIVATIONS)}")

    def hidden_widths(self, inputs: int) -> tuple[int, ...]:
        """The ``layers`` - 1 widths inside for features of width ``inputs``."""
        if isinstance(self.hidden, tuple):
            return self.hidden
        return (self.hidden_width(inputs),) * (self.layers - 1)

    def hidden_width(self, inputs: int) -> int:
        """The first hidden width for features of width ``inputs``."""
        if isinstance(self.hidden, tuple):
            return self.hidden[0] if self.hidden else inputs
        if self.hidden is not None:
            return self.hidden
        return 2048 if inputs >= 512 else inputs


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
}


class Head(nn.Sequential):
    """An MLP from (B, inputs) to (B, spec.out) that remembers what it was built from."""

    def __init__(self, inputs: int, spec: ProjectorSpec) -> None:
        super().__init__(*_layers(inputs, spec))
        self.inputs = inputs
        self.spec = spec

    @property
    def text(self) -> str:
        """Its widths and all else that its weights depend on, for a run's record.

        >>> Head(8, ProjectorSpec(hidden=4, out=8, batch_norm=True)).text
        '8-4-8 relu batch_norm'
        """
        s = self.spec
        widths = [self.inputs, *s.hidden_widths(self.inputs), s.out]
        norms = {"batch_norm": s.batch_norm, "norm_after": s.batch_norm and s.norm_after}
        norms["last_batch_norm"] = s.last_batch_norm
        norms["last_affine"] = s.last_batch_norm and s.last_affine
        return " ".join(["-".join(map(str, widths)), s.activation, *(name for name, has in norms.items() if has)])


def _layers(inputs: int, spec: ProjectorSpec) -> list[nn.Module]:
    widths = [inputs, *spec.hidden_widths(inputs)]
    modules: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        after = [_ACTIVATIONS[spec.activation]()]
        norm = [nn.BatchNorm1d(width_out)] if spec.batch_norm else []
        modules.append(nn.Linear(width_in, width_out, bias=spec.norm_after or not spec.batch_norm))
        modules += [*after, *norm] if spec.norm_after else [*norm, *after]
    modules.append(nn.Linear(widths[-1], spec.out, bias=not spec.last_batch_norm))
    modules += [nn.BatchNorm1d(spec.out, affine=spec.last_affine)] if spec.last_batch_norm else []
    return modules


def build_projector(inputs: int, spec: ProjectorSpec) -> Head:
    """The MLP from features (B, inputs) to projections (B, spec.out), drawn from torch's global generator."""
    return Head(inputs, spec)


def build_predictor(inputs: int, spec: ProjectorSpec, *, seed: int = 0) -> Head:
    """The MLP from projections (B, inputs) to predictions (B, spec.out); its weights depend on ``seed`` alone."""
    with seeded(seed, "predictor"):
        return Head(inputs, spec)


def require_fit(predictor: Head, width: int | None) -> None:
    """Raise ``InvalidOption`` unless ``predictor`` maps projections of ``width`` to predictions as wide."""
    if (predictor.inputs, predictor.spec.out) != (width, width):
        raise InvalidOption(
            f"a predictor from {predictor.inputs} to {predictor.spec.out} does not fit projections of width {width}; "
            f"build it from {width} to {width}"
        )


@contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Within it torch's CPU generator is seeded by (seed, part); afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_key(seed, part, 0, ""))
        yield
