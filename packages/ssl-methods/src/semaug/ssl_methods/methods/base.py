"""What pretraining asks of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from semaug.ssl_methods.encoder import Encoder


class Method(nn.Module, ABC):
    """A self-supervised method: built parts and a loss over the views of a batch.

    A plain module, so that it also serves in anyone's own loop; ``pretrain`` trains all parameters that require a
    gradient. A subclass is one paper's file: it sets ``name``, keeps what it is given (predictor, momentum encoder,
    queue; buffers are checkpointed) and implements ``forward``.
    """

    name: str = ""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Scalars of one batch of views, each (B, 3, S, S); ``loss`` is minimised, the others are only logged."""

    def after_step(self, step: int, steps: int) -> None:
        """Called once ``step`` of ``steps`` is done: the place for a momentum encoder's update."""

    def settings(self) -> dict[str, float | int | str]:
        """The hyperparameters that shape the weights, for the run's record."""
        return {}
