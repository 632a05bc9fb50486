"""SupCon (Khosla et al. 2020), a labelled reference: all views of all images of a class attract."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.gathering import world
from semaug.ssl_methods.losses.inputs import require_temperature
from semaug.ssl_methods.losses.stablerep import stablerep_loss
from semaug.ssl_methods.methods.base import Method, Settings


class SupCon(Method):
    """The supervised contrastive loss L_out (Eq. 2) between the projections of two views.

    ``labels`` (N,) are whole numbers, the class of every image of the set, below zero for none; ``items`` of the batch
    says which images its rows are. An image without a class has only its other view for a positive; without ``labels``
    that holds for all, and the loss is NT-Xent.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = SupCon(build_encoder("small-cnn", input_size=16), labels=[0, 1, 0, 1, 1])
    >>> method.items = torch.tensor([0, 2, 3])
    >>> method([torch.randn(3, 3, 16, 16), torch.randn(3, 3, 16, 16)])["loss"].shape
    torch.Size([])
    """

    name = "supcon"
    reads_labels: ClassVar[bool] = True
    labels: Tensor | None

    def __init__(
        self, encoder: Encoder, temperature: float = 0.1, labels: Sequence[int] | Tensor | None = None
    ) -> None:
        super().__init__(encoder)
        require_temperature(temperature)
        self.temperature = temperature
        found = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        self.register_buffer("labels", found, persistent=False)  # of the images, not of the encoder

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S). Raises ``InvalidOption`` where ``items`` do not fit the batch."""
        z = self.encoder.project(self.encoder(torch.cat(list(views))))
        return {"loss": stablerep_loss(z, self._groups(views[0]).repeat(2), self.temperature)}

    def _groups(self, view: Tensor) -> Tensor:
        rows = torch.arange(len(view), device=view.device) + world()[0] * len(view)
        if self.labels is None:
            return rows
        if self.items is None or len(self.items) != len(view):
            count = "none" if self.items is None else len(self.items)
            raise InvalidOption(
                f"a batch of {len(view)} and {count} numbers of its images; set `items` before the call"
            )
        items = self.items.to(self.labels.device)
        labels = self.labels[items]
        return torch.where(labels < 0, -1 - items, labels).to(view.device)

    def settings(self) -> Settings:
        """The temperature and a digest of the labels."""
        known = None if self.labels is None else self.labels.cpu().numpy().tobytes()
        digest = None if known is None else hashlib.blake2b(known, digest_size=16).hexdigest()
        return {"temperature": self.temperature, "labels": digest}
