"""MoCo v2+: MoCo v2 with a symmetric loss, a queue for each view and a growing momentum (as solo-learn has it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.gathering import gather_keys
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.losses.inputs import require_temperature, unit
from semaug.ssl_methods.losses.moco import moco_loss
from semaug.ssl_methods.methods.base import Method, Settings
from semaug.ssl_methods.momentum import MomentumSchedule, follow, momentum_copy
from semaug.ssl_methods.queues import KeyQueue


class MoCoV2Plus(Method):
    """The mean of two InfoNCE losses: queries of either view against the other's keys and the queue of its kind.

    Queue k holds keys of view k, of all ranks, and takes new ones after both logits: an image's key of one view is
    never a negative of its query of the other. tau follows half a cosine from ``momentum`` to ``final_momentum``. The
    query encoder is the result.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = MoCoV2Plus.assemble(build_encoder("small-cnn", input_size=16), queue=64)
    >>> method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)])["loss"].shape
    torch.Size([])
    """

    name = "moco-v2plus"
    default_projector = ProjectorSpec(hidden=2048, out=256)

    def __init__(
        self,
        encoder: Encoder,
        queues: Sequence[KeyQueue],
        temperature: float = 0.2,
        momentum: float = 0.99,
        final_momentum: float = 0.999,
    ) -> None:
        super().__init__(encoder)
        require_temperature(temperature)
        for queue in queues:
            queue.require_width(encoder.projector_dim)
        self.queues = nn.ModuleList(queues)
        self.temperature = temperature
        self.tau = MomentumSchedule(momentum, final_momentum)
        self.teacher = momentum_copy(encoder)

    @classmethod
    def assemble(cls, encoder: Encoder, *, seed: int = 0, queue: int = 65536, **hyperparameters: Any) -> Self:
        """With two queues of ``queue`` keys each."""
        width = (encoder.spec.projector or cls.default_projector).out
        return cls(encoder, [KeyQueue(queue, width, seed, part=f"queue {k}") for k in range(2)], **hyperparameters)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D); while training the keys then enter their queues."""
        q1, q2 = (self.encoder.project(self.encoder(v)) for v in views)
        with torch.no_grad():
            k1, k2 = (unit(self.teacher.project(self.teacher(v))) for v in views)
        first, second = self._queues()
        loss1 = moco_loss(q1, k2, second.snapshot(), self.temperature)
        loss2 = moco_loss(q2, k1, first.snapshot(), self.temperature)
        if self.training:
            first.enqueue(gather_keys(k1))
            second.enqueue(gather_keys(k2))
        return {"loss": (loss1 + loss2) / 2}

    def _queues(self) -> list[KeyQueue]:
        return [queue for queue in self.queues if isinstance(queue, KeyQueue)]

    def check_batch(self, batch_size: int, items: int, world: int) -> None:
        """Also refuses a batch or a data set that the queues do not fit."""
        super().check_batch(batch_size, items, world)
        for queue in self._queues():
            queue.check(batch_size, items)

    def after_step(self, step: int, steps: int) -> None:
        """The key encoder follows the query encoder."""
        follow(self.teacher, self.encoder, self.tau(step, steps))

    def settings(self) -> Settings:
        """Queues, temperature and the momentum's course."""
        return {
            "queue": self._queues()[0].size,
            "temperature": self.temperature,
            "momentum": self.tau.base,
            "final_momentum": self.tau.final,
        }
