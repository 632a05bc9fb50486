"""DINO (Caron et al. 2021): a student predicts a momentum teacher's centred and sharpened output of other views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import ProjectorSpec, seeded
from semaug.ssl_methods.losses.dino import centre_of, dino_loss
from semaug.ssl_methods.losses.inputs import full, require_temperature, unit
from semaug.ssl_methods.methods.base import Method, Settings, ViewCount
from semaug.ssl_methods.methods.multi_crop import project_views
from semaug.ssl_methods.momentum import MomentumSchedule, follow, momentum_copy


class DINOHead(nn.Module):
    """The last layer: products of unit projections (N, dim) with ``outputs`` weight-normalised vectors, no bias.

    The vectors' lengths are 1, or trained from 1 on where ``trained_scale`` (DINO's norm_last_layer=False). Weights
    are drawn from ``seed`` alone.
    """

    def __init__(self, dim: int, outputs: int, *, trained_scale: bool = False, seed: int = 0) -> None:
        super().__init__()
        if outputs < 2:
            raise InvalidOption(f"{outputs} outputs cannot tell images apart; the paper uses 65536")
        with seeded(seed, "dino head"):
            self.vectors = nn.Parameter(nn.init.trunc_normal_(torch.empty(outputs, dim), std=0.02))
        self.scale = nn.Parameter(torch.ones(outputs)) if trained_scale else None

    def forward(self, projections: Tensor) -> Tensor:
        """Outputs (N, outputs), in float32 or float64."""
        with torch.autocast(projections.device.type, enabled=False):
            products = unit(projections) @ functional.normalize(full(self.vectors), dim=1).T
            return products if self.scale is None else products * full(self.scale)


class DINO(Method):
    """The student sees all views, the teacher the two global ones; no view is held against itself.

    The teacher starts as a copy and follows after each step, with tau along half a cosine from ``momentum`` to
    ``final_momentum``; it is the result, as in the paper. Its temperature rises linearly from ``first_temperature`` to
    ``teacher_temperature`` over the share ``temperature_warmup`` of the run. The centre, a buffer, follows the mean of
    its outputs over both global views and all ranks once a step (0.9 of itself kept), so that a step's loss has the
    centre of earlier ones. For the share ``frozen`` of the run the last layer is held; the norm of every parameter's
    gradient is cut to ``clip`` (0: not at all).

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = DINO.assemble(build_encoder("small-cnn", input_size=16), outputs=8)
    >>> method([torch.randn(4, 3, side, side) for side in (16, 16, 8)])["loss"].shape
    torch.Size([])
    """

    name = "dino"
    views = ViewCount(2, None)
    default_projector = ProjectorSpec(hidden=2048, out=256, layers=3, activation="gelu")
    centre: Tensor

    def __init__(
        self,
        encoder: Encoder,
        head: DINOHead,
        *,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        first_temperature: float = 0.04,
        temperature_warmup: float = 0.1,
        centre_momentum: float = 0.9,
        momentum: float = 0.996,
        final_momentum: float = 1.0,
        frozen: float = 0.01,
        clip: float = 3.0,
    ) -> None:
        super().__init__(encoder)
        for temperature in (student_temperature, teacher_temperature, first_temperature):
            require_temperature(temperature)
        _check(temperature_warmup, centre_momentum, frozen, clip)
        self.head = head
        self.tau = MomentumSchedule(momentum, final_momentum)
        self.teacher, self.teacher_head = momentum_copy(encoder), momentum_copy(head)
        self.register_buffer("centre", torch.zeros(len(head.vectors)))
        self.student_temperature, self.last_temperature = student_temperature, teacher_temperature
        self.first_temperature, self.temperature_warmup = first_temperature, temperature_warmup
        self.centre_momentum, self.frozen, self.clip = centre_momentum, frozen, clip
        self._means: list[Tensor] = []  # of the teacher's outputs in this step, one a forward

    @classmethod
    def assemble(
        cls,
        encoder: Encoder,
        *,
        seed: int = 0,
        outputs: int = 65536,
        trained_scale: bool = False,
        **hyperparameters: Any,
    ) -> Self:
        """With a last layer of ``outputs`` vectors."""
        head = DINOHead(encoder.projector_dim or 0, outputs, trained_scale=trained_scale, seed=seed)
        return cls(encoder, head, **hyperparameters)

    @property
    def result(self) -> Encoder:
        """The teacher."""
        return self.teacher

    @property
    def teacher_temperature(self) -> float:
        """The teacher's temperature at the current step."""
        warmup = self.temperature_warmup * self.steps
        share = min(self.step / warmup, 1.0) if warmup else 1.0
        return self.first_temperature + (self.last_temperature - self.first_temperature) * share

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of the views, each (B, 3, S, S), two global ones first."""
        student = [self.head(p) for p in project_views(self.encoder, views)]
        with torch.no_grad():
            teacher = [self.teacher_head(p) for p in project_views(self.teacher, views[:2])]
        if self.training:
            self._means.append(centre_of(teacher))
        loss = dino_loss(
            student, teacher, self.centre, student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )  # fmt: skip
        return {"loss": loss}

    def before_update(self, step: int, steps: int) -> None:
        """Gradients are clipped, each parameter's by itself, and those of the last layer held back at first."""
        if self.clip:
            _clip_each([p.grad for p in self.parameters() if p.grad is not None], self.clip)
        if step < self.frozen * steps:
            for parameter in self.head.parameters():
                parameter.grad = None

    def after_step(self, step: int, steps: int) -> None:
        """Teacher and centre follow."""
        tau = self.tau(step, steps)
        follow(self.teacher, self.encoder, tau)
        follow(self.teacher_head, self.head, tau)
        if self._means:
            self.centre.lerp_(torch.stack(self._means).mean(dim=0), 1 - self.centre_momentum)
            self._means.clear()

    def settings(self) -> Settings:
        """Head, temperatures, momenta, what is held and clipped."""
        return {
            "outputs": len(self.head.vectors),
            "trained_scale": self.head.scale is not None,
            "student_temperature": self.student_temperature,
            "teacher_temperature": self.last_temperature,
            "first_temperature": self.first_temperature,
            "temperature_warmup": self.temperature_warmup,
            "centre_momentum": self.centre_momentum,
            "momentum": self.tau.base,
            "final_momentum": self.tau.final,
            "frozen": self.frozen,
            "clip": self.clip,
        }


@torch.no_grad()
def _clip_each(gradients: list[Tensor], most: float) -> None:
    if not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((most / (norms + 1e-6)).clamp(max=1.0).unbind()))


def _check(temperature_warmup: float, centre_momentum: float, frozen: float, clip: float) -> None:
    if not (0 <= temperature_warmup <= 1 and 0 <= frozen <= 1):
        raise InvalidOption(
            f"temperature_warmup {temperature_warmup} and frozen {frozen} are shares of the run; give 0 to 1"
        )
    if not 0 <= centre_momentum < 1:
        raise InvalidOption(f"centre_momentum {centre_momentum} leaves [0, 1); the paper uses 0.9")
    if clip < 0:
        raise InvalidOption(f"clip {clip} is negative; the paper uses 3, and 0 clips nothing")
