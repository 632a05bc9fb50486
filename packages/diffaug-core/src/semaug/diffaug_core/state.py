"""The networks of a run with their optimizers: everything that training changes but the bank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.averaging import Average
from semaug.diffaug_core.conditions import Conditions, build_conditions
from semaug.diffaug_core.encoders import semantic_encoder
from semaug.diffaug_core.generators import Generator, build_generator
from semaug.diffaug_core.samples import CleanSamples
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.ssl_methods.encoder import Encoder

M = TypeVar("M", bound=nn.Module)

ENCODER_OPTIONS = ("backbone", "embedding", "layout", "widths", "head", "options")
"""What ``DiffAugSettings.encoder`` may say, each an argument of ``semantic_encoder``."""

TENTHS = 10


@dataclass(frozen=True, slots=True)
class Trained(Generic[M]):
    """A network, its optimizer, and how its rate falls: by ``decay`` after each tenth of its ``steps``."""

    network: M
    optimizer: torch.optim.Optimizer
    lr: float
    decay: float
    steps: int

    def rate(self, step: int) -> float:
        """The learning rate of step ``step`` (from 0): StepLR every tenth of the run."""
        return self.lr * self.decay ** (step * TENTHS // max(1, self.steps))

    def update(self, loss: torch.Tensor, step: int) -> None:
        """Minimise ``loss`` by one step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


@dataclass(frozen=True, slots=True)
class GeneratorPart:
    """The generator in training, the running average that samples, and the conditions both are told."""

    trained: Trained[Generator]
    average: Average[Generator]
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class State:
    """Encoder and, unless it is trained alone, generator."""

    encoder: Encoder
    trained: Trained[Encoder]
    generator: GeneratorPart | None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that bring it back."""
        found = {"encoder": self.encoder.state_dict(), "encoder_optimizer": self.trained.optimizer.state_dict()}
        if part := self.generator:
            found["generator"] = part.trained.network.state_dict()
            found["generator_optimizer"] = part.trained.optimizer.state_dict()
            found["average"] = part.average.state_dict()
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict()`` gave."""
        self.encoder.load_state_dict(state["encoder"])
        self.trained.optimizer.load_state_dict(state["encoder_optimizer"])
        if part := self.generator:
            part.trained.network.load_state_dict(state["generator"])
            part.trained.optimizer.load_state_dict(state["generator_optimizer"])
            part.average.load_state_dict(state["average"])


def build_state(
    clean: CleanSamples, settings: DiffAugSettings, *, encoder_steps: int, generator_steps: int, seed: int
) -> State:
    """New networks for samples of one shape; their weights depend on ``seed`` alone. Raises ``InvalidOption``."""
    encoder = _encoder(clean.samples.shape, settings.encoder, seed).to(clean.device, clean.dtype)
    return State(
        encoder=encoder.train(),
        trained=_trained(encoder, settings.lr, encoder_steps, settings),
        generator=_generator(encoder, clean, settings, generator_steps, seed) if settings.generate else None,
    )


def _encoder(shape: tuple[int, ...], options: Mapping[str, Any], seed: int) -> Encoder:
    for option in options:
        if option not in ENCODER_OPTIONS:
            raise InvalidOption(f"the encoder has no option {option!r}; it has {', '.join(ENCODER_OPTIONS)}")
    side: dict[str, Any] = {"features": shape[0]} if len(shape) == 1 else {"size": shape[-1]}
    return semantic_encoder(**side, **options, seed=seed)


def _generator(
    encoder: Encoder, clean: CleanSamples, settings: DiffAugSettings, steps: int, seed: int
) -> GeneratorPart:
    shape, options = clean.samples.shape, dict(settings.generator)
    kind = options.pop("kind", "mlp" if len(shape) == 1 else "unet")
    conditions = build_conditions(settings.condition, encoder, clean, seed)
    schedule = settings.noise_schedule()
    network = build_generator(kind, shape, conditions.width, schedule=schedule, seed=seed, **options)
    network = network.to(clean.device, clean.dtype)
    return GeneratorPart(
        trained=_trained(network.train(), settings.generator_lr, steps, settings),
        average=Average(network, settings.ema_decay),
        conditions=conditions,
    )


def _trained(network: M, lr: float, steps: int, settings: DiffAugSettings) -> Trained[M]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=settings.weight_decay, fused=True)
    return Trained(network, optimizer, lr, settings.decay, steps)
