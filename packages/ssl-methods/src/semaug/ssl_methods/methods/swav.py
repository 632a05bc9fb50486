"""SwAV (Caron et al. 2020): each view predicts to which prototypes the image's other views are assigned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.gathering import gather_keys, world
from semaug.ssl_methods.heads import ProjectorSpec, seeded
from semaug.ssl_methods.losses.inputs import full, require_temperature, unit
from semaug.ssl_methods.losses.swav import swav_loss
from semaug.ssl_methods.methods.base import Method, Settings, ViewCount
from semaug.ssl_methods.methods.multi_crop import project_views
from semaug.ssl_methods.queues import KeyQueue


class Prototypes(nn.Module):
    """``count`` unit vectors (count, dim) that are trained, without bias; drawn from ``seed`` alone."""

    def __init__(self, count: int, dim: int, *, seed: int = 0) -> None:
        super().__init__()
        if count < 2:
            raise InvalidOption(f"{count} prototypes cannot tell images apart; the paper uses 3000")
        with seeded(seed, "prototypes"):
            self.vectors = nn.Parameter(functional.normalize(torch.randn(count, dim), dim=1))

    def forward(self, projections: Tensor) -> Tensor:
        """Cosines (N, count), in float32 or float64, of unit projections (N, dim)."""
        with torch.autocast(projections.device.type, enabled=False):
            return full(projections) @ full(self.vectors).T

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring every vector back to length 1."""
        self.vectors.copy_(functional.normalize(self.vectors, dim=1))


class SwAV(Method):
    """Swapped prediction over all views; the two first, global views alone are assigned (``losses/swav.py``).

    With two ``queues`` (of the two global views), projections of earlier steps share in the assignment: they are kept
    from ``queue_start`` of the run on, and used once the queues have filled. For the share ``frozen`` of the run the
    prototypes are held (an epoch in the paper). Prototypes are normalised after every step.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = SwAV.assemble(build_encoder("small-cnn", input_size=16), prototypes=8)
    >>> method([torch.randn(4, 3, side, side) for side in (16, 16, 8)])["loss"].shape
    torch.Size([])
    """

    name = "swav"
    views = ViewCount(2, None)
    default_projector = ProjectorSpec(hidden=2048, out=128, batch_norm=True)

    def __init__(
        self,
        encoder: Encoder,
        prototypes: Prototypes,
        queues: Sequence[KeyQueue] = (),
        *,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue_start: float = 0.0375,
        frozen: float = 0.0025,
    ) -> None:
        super().__init__(encoder)
        require_temperature(temperature)
        _check(epsilon, iterations, queue_start, frozen, len(queues))
        self.prototypes = prototypes
        self.queues = nn.ModuleList(queues)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_start, self.frozen = queue_start, frozen

    @classmethod
    def assemble(
        cls, encoder: Encoder, *, seed: int = 0, prototypes: int = 3000, queue: int = 0, **hyperparameters: Any
    ) -> Self:
        """With ``prototypes`` vectors and, where ``queue`` is not 0, two queues of as many projections."""
        dim = encoder.projector_dim or 0
        queues = [KeyQueue(queue, dim, seed + view) for view in (0, 1)] if queue else []
        return cls(encoder, Prototypes(prototypes, dim, seed=seed), queues, **hyperparameters)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of the views, each (B, 3, S, S), two global ones first."""
        projections = [unit(p) for p in project_views(self.encoder, views)]
        scores = [self.prototypes(p) for p in projections]
        earlier = self._earlier(len(scores[0]))
        self._remember(projections)
        loss = swav_loss(scores, self.temperature, epsilon=self.epsilon, iterations=self.iterations, earlier=earlier)
        return {"loss": loss}

    @torch.no_grad()
    def _earlier(self, rows: int) -> list[Tensor] | None:
        """This rank's share of the queues' scores; None before the queues have filled."""
        rank, ranks = world()
        if not self.queues or self.step < self._first_kept + math.ceil(self._length / (rows * ranks)):
            return None
        return [self.prototypes(queue.keys[rank::ranks]) for queue in self._pair]

    def _remember(self, projections: Sequence[Tensor]) -> None:
        if self.step >= self._first_kept:
            for queue, projection in zip(self._pair, projections, strict=False):
                queue.enqueue(gather_keys(projection))

    @property
    def _pair(self) -> list[KeyQueue]:
        return [queue for queue in self.queues if isinstance(queue, KeyQueue)]

    @property
    def _length(self) -> int:
        return self._pair[0].size if self.queues else 0

    @property
    def _first_kept(self) -> int:
        """The step from which on projections are kept."""
        return math.ceil(self.queue_start * self.steps)

    def check_batch(self, batch_size: int, items: int, world: int) -> None:
        """Also refuse a batch that the queues do not hold a whole number of times."""
        super().check_batch(batch_size, items, world)
        for queue in self._pair:
            # Earlier projections are assigned, not repelled: those of the image itself may be among them.
            queue.check(batch_size, max(items, 2 * queue.size))

    def before_update(self, step: int, steps: int) -> None:
        """The prototypes are held at first."""
        if step < self.frozen * steps:
            self.prototypes.vectors.grad = None

    def after_step(self, step: int, steps: int) -> None:
        """Prototypes of length 1, also in the checkpoint."""
        self.prototypes.normalise()

    def settings(self) -> Settings:
        """Prototypes, assignment, queue."""
        return {
            "prototypes": len(self.prototypes.vectors),
            "temperature": self.temperature,
            "epsilon": self.epsilon,
            "iterations": self.iterations,
            "queue": self._length,
            "queue_start": self.queue_start,
            "frozen": self.frozen,
        }


def _check(epsilon: float, iterations: int, queue_start: float, frozen: float, queues: int) -> None:
    if not (epsilon > 0 and iterations >= 1):
        raise InvalidOption(f"epsilon {epsilon} and {iterations} iterations; the paper uses 0.05 and 3")
    if not (0 <= queue_start <= 1 and 0 <= frozen <= 1):
        raise InvalidOption(f"queue_start {queue_start} and frozen {frozen} are shares of the run; give 0 to 1")
    if queues not in (0, 2):
        raise InvalidOption(f"{queues} queues do not fit two global views; give none or 2")
