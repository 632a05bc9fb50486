"""MoCo v2 (He et al. 2020; Chen et al. 2020): a query meets the key of its other view among a queue of earlier keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.losses.inputs import require_temperature, unit
from semaug.ssl_methods.losses.moco import moco_loss
from semaug.ssl_methods.methods.base import Method, Settings
from semaug.ssl_methods.momentum import MomentumSchedule, follow, momentum_copy
from semaug.ssl_methods.queues import KeyQueue
from semaug.ssl_methods.shuffling import keys_of_all, own_rows


class MoCoV2(Method):
    """Queries of the first view, keys of the second by a momentum encoder, one queue.

    Keys of all ranks enter the queue after the logits. Over several processes the key encoder's batch norm sees
    shuffled images unless ``shuffle_bn`` is False. The query encoder is the result.

    >>> import torch
    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = MoCoV2.assemble(build_encoder("small-cnn", input_size=16), queue=64)
    >>> method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)])["loss"].shape
    torch.Size([])
    """

    name = "moco-v2"
    default_projector = ProjectorSpec()

    def __init__(
        self,
        encoder: Encoder,
        queue: KeyQueue,
        temperature: float = 0.2,
        momentum: float = 0.999,
        shuffle_bn: bool = True,
    ) -> None:
        super().__init__(encoder)
        require_temperature(temperature)
        queue.require_width(encoder.projector_dim)
        self.queue = queue
        self.temperature = temperature
        self.tau = MomentumSchedule(momentum)
        self.shuffle_bn = shuffle_bn
        self.teacher = momentum_copy(encoder)

    @classmethod
    def assemble(cls, encoder: Encoder, *, seed: int = 0, queue: int = 65536, **hyperparameters: Any) -> Self:
        """With a queue of ``queue`` keys."""
        width = (encoder.spec.projector or cls.default_projector).out
        return cls(encoder, KeyQueue(queue, width, seed), **hyperparameters)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D); while training the keys then enter the queue."""
        queries = self.encoder.project(self.encoder(views[0]))
        everyone = unit(keys_of_all(self._keys, views[1], shuffle=self.shuffle_bn))
        loss = moco_loss(queries, own_rows(everyone), self.queue.snapshot(), self.temperature)
        if self.training:
            self.queue.enqueue(everyone)
        return {"loss": loss}

    def _keys(self, images: Tensor) -> Tensor:
        return self.teacher.project(self.teacher(images))

    def check_batch(self, batch_size: int, items: int, world: int) -> None:
        """Also refuses a batch or a data set that the queue does not fit."""
        super().check_batch(batch_size, items, world)
        self.queue.check(batch_size, items)

    def after_step(self, step: int, steps: int) -> None:
        """The key encoder follows the query encoder."""
        follow(self.teacher, self.encoder, self.tau(step, steps))

    def settings(self) -> Settings:
        """Queue, temperature, momentum and whether batch norm is shuffled."""
        return {
            "queue": self.queue.size,
            "temperature": self.temperature,
            "momentum": self.tau.base,
            "shuffle_bn": self.shuffle_bn,
        }
