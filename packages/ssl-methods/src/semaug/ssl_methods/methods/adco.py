"""AdCo (Hu, Wang, Hu and Qi 2021): an encoder learns against negatives that learn against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.losses.adco import adco_loss, bank_gradient
from semaug.ssl_methods.losses.inputs import require_temperature
from semaug.ssl_methods.methods.base import Method, Settings
from semaug.ssl_methods.momentum import MomentumSchedule, follow, momentum_copy
from semaug.ssl_methods.shuffling import keys_of_all, own_rows


class AdversarialBank(nn.Module):
    """Learnt negatives, (size, dim), that ascend the encoder's loss by SGD with momentum at a constant rate.

    Rows and velocity are buffers: no gradient of the optimizer trains them, and the checkpoint holds both. Rows start
    as random unit vectors.
    """

    rows: Tensor
    velocity: Tensor

    def __init__(
        self, size: int, dim: int, seed: int = 0, lr: float = 3.0, momentum: float = 0.9, weight_decay: float = 1e-4
    ) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise InvalidOption(f"a bank of {size} negatives of width {dim} holds nothing; both must be at least 1")
        if not (lr > 0 and 0 <= momentum < 1 and weight_decay >= 0):
            raise InvalidOption(
                f"the bank's rate {lr}, momentum {momentum} or weight decay {weight_decay} is out of range; "
                "AdCo uses 3, 0.9 and 0.0001"
            )
        generator = torch.Generator().manual_seed(draw_key(seed, "bank", 0, "") & (2**63 - 1))
        rows = functional.normalize(torch.randn(size, dim, generator=generator), dim=1)
        self.register_buffer("rows", rows)
        self.register_buffer("velocity", torch.zeros_like(rows))
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    @torch.no_grad()
    def descend(self, gradient: Tensor) -> None:
        """One step of SGD along ``gradient`` (size, dim), that of the negated loss."""
        self.velocity.mul_(self.momentum).add_(gradient).add_(self.rows, alpha=self.weight_decay)
        self.rows.sub_(self.velocity, alpha=self.lr)


class AdCo(Method):
    """InfoNCE of a query against all keys of the batch and a bank that ascends the same loss.

    The bank moves once a step, by logits taken before the encoder's step, at a temperature of its own. With
    ``symmetric`` both views are queries and the two losses are averaged. The query encoder is the result.

    >>> from semaug.ssl_methods.encoder import build_encoder
    >>> method = AdCo.assemble(build_encoder("small-cnn", input_size=16), bank=64)
    >>> method([torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)])["loss"].shape
    torch.Size([])
    """

    name = "adco"
    default_projector = ProjectorSpec()

    def __init__(
        self,
        encoder: Encoder,
        bank: AdversarialBank,
        temperature: float = 0.12,
        bank_temperature: float = 0.02,
        momentum: float = 0.999,
        symmetric: bool = False,
        shuffle_bn: bool = True,
    ) -> None:
        super().__init__(encoder)
        require_temperature(temperature)
        require_temperature(bank_temperature)
        if bank.rows.shape[1] != encoder.projector_dim:
            raise InvalidOption(
                f"a bank of width {bank.rows.shape[1]} does not fit projections of width {encoder.projector_dim}; "
                f"build it with dim={encoder.projector_dim}"
            )
        self.bank = bank
        self.temperature, self.bank_temperature = temperature, bank_temperature
        self.tau = MomentumSchedule(momentum)
        self.symmetric, self.shuffle_bn = symmetric, shuffle_bn
        self.teacher = momentum_copy(encoder)
        self._gradients: list[Tensor] = []  # of the bank, one a forward; empty between steps

    @classmethod
    def assemble(
        cls,
        encoder: Encoder,
        *,
        seed: int = 0,
        bank: int = 65536,
        bank_lr: float = 3.0,
        bank_momentum: float = 0.9,
        bank_weight_decay: float = 1e-4,
        **hyperparameters: Any,
    ) -> Self:
        """With a bank of ``bank`` negatives."""
        width = (encoder.spec.projector or cls.default_projector).out
        negatives = AdversarialBank(bank, width, seed, bank_lr, bank_momentum, bank_weight_decay)
        return cls(encoder, negatives, **hyperparameters)

    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """``loss`` of two views, each (B, 3, S, S) or (B, D); while training the bank's gradient is kept."""
        directions = [(views[0], views[1]), (views[1], views[0])][: 1 + self.symmetric]
        losses = [self._direction(query, key) for query, key in directions]
        return {"loss": torch.stack(losses).mean()}

    def _direction(self, query: Tensor, key: Tensor) -> Tensor:
        q = self.encoder.project(self.encoder(query))
        k = own_rows(keys_of_all(self._keys, key, shuffle=self.shuffle_bn))
        if self.training:
            self._gradients.append(bank_gradient(q, k, self.bank.rows, self.bank_temperature))
        return adco_loss(q, k, self.bank.rows.clone(), self.temperature)

    def _keys(self, images: Tensor) -> Tensor:
        return self.teacher.project(self.teacher(images))

    def before_update(self, step: int, steps: int) -> None:
        """The bank steps along the mean gradient of the step's forwards."""
        if self._gradients:
            self.bank.descend(torch.stack(self._gradients).mean(dim=0))
        self._gradients = []

    def after_step(self, step: int, steps: int) -> None:
        """The key encoder follows the query encoder."""
        follow(self.teacher, self.encoder, self.tau(step, steps))

    def settings(self) -> Settings:
        """Both temperatures, the bank's size, rate, momentum and decay, and the encoder's momentum."""
        return {
            "temperature": self.temperature,
            "bank_temperature": self.bank_temperature,
            "bank": len(self.bank.rows),
            "bank_lr": self.bank.lr,
            "bank_momentum": self.bank.momentum,
            "bank_weight_decay": self.bank.weight_decay,
            "momentum": self.tau.base,
            "symmetric": self.symmetric,
            "shuffle_bn": self.shuffle_bn,
        }
