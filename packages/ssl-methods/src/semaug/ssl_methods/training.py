"""A method as Lightning wants to see it. Importing this module imports Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from semaug.ssl_methods.methods import Method
from semaug.ssl_methods.optimizers import OptimizerSettings, build_optimizer
from semaug.ssl_methods.restore import METHOD

BatchTransform = Callable[[Any], Sequence[Tensor]]
"""From a batch on the device to (view, view, ..., index)."""


class Training(LightningModule):
    """A method, seen as Lightning wants it."""

    def __init__(
        self,
        method: Method,
        optimizer: OptimizerSettings,
        steps: int,
        channels_last: bool,
        batch_transform: BatchTransform | None = None,
    ) -> None:
        super().__init__()
        self.method = method
        self.optimizer_settings = optimizer
        self.steps = steps
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.batch_transform = batch_transform
        self.scalars: dict[str, Tensor] = {}  # of the step just done, on the device
        self.evaluations: dict[str, float] = {}  # by callbacks, waiting for the step's row

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The batch, its views made where they are not yet."""
        return batch if self.batch_transform is None else self.batch_transform(batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The checkpoint names its method."""
        checkpoint[METHOD] = self.method.name

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch (view, view, ..., index)."""
        self.method.items = batch[-1]
        self.method.before_forward(self.trainer.global_step, self.steps)
        scalars = self.method([v.contiguous(memory_format=self.memory_format) for v in batch[:-1]])
        self.scalars = {name: value.detach() for name, value in scalars.items()}
        return scalars["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer; each group remembers its own full rate and first weight decay."""
        settings = self.optimizer_settings
        optimizer = build_optimizer(self.method, settings, self.method.parameter_groups(settings))
        for group in optimizer.param_groups:
            group["base_lr"], group["base_weight_decay"] = group["lr"], group["weight_decay"]
        return optimizer

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients are complete and unscaled."""
        self.method.before_update(self.trainer.global_step, self.steps)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, then the method's own update (a momentum encoder's, say), before anything looks at the result."""
        super().optimizer_step(*args, **kwargs)
        self.method.after_step(self.trainer.global_step, self.steps)  # Lightning counts it only later
