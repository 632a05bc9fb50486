"""The generator of images: a conditional U-Net of diffusers' blocks, for 32 and 64 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.diffusion import NoiseSchedule
from semaug.diffaug_core.generators.base import Generator, Prediction

_GROUPS = 8


class DenoisingUNet(Generator):
    """``UNet2DModel`` of diffusers, whose embedding of the time takes the projected condition as its class embedding.

    So the condition is added inside every residual block, as the MLP does. diffusers' ``UNet2DConditionModel`` would
    attend to it instead; over a single vector attention is a sum with one term, at the price of a layer a block.

    ``channels``: one width a resolution, each half the last; every level whose side is in ``attention`` attends;
    ``layers``: residual blocks a level. The default has 2.7 million weights.

    >>> generator = DenoisingUNet((3, 16, 16), 5, NoiseSchedule.linear(), channels=(8, 16))
    >>> generator(torch.randn(2, 3, 16, 16), torch.tensor([1, 9]), torch.randn(2, 5)).shape
    torch.Size([2, 3, 16, 16])
    """

    kind: ClassVar[str] = "unet"

    def __init__(
        self,
        shape: Sequence[int],
        condition_features: int | None,
        schedule: NoiseSchedule,
        channels: Sequence[int] = (32, 64, 128),
        layers: int = 1,
        attention: Sequence[int] = (8,),
        dropout: float = 0.0,
        prediction: Prediction = "velocity",
    ) -> None:
        options = {"channels": tuple(channels), "layers": layers, "attention": tuple(attention), "dropout": dropout}
        super().__init__(shape, condition_features, schedule, prediction, options)
        self._check(tuple(channels), layers)
        from diffusers.models.unets.unet_2d import UNet2DModel

        sides = [self.shape[1] >> level for level in range(len(channels))]
        attends = [side in attention for side in sides]
        self.embedding_width = 4 * channels[0]
        self.network = UNet2DModel(
            sample_size=self.shape[1],
            in_channels=self.shape[0],
            out_channels=self.shape[0],
            block_out_channels=tuple(channels),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            layers_per_block=layers,
            attention_head_dim=_GROUPS,
            norm_num_groups=_GROUPS,
            dropout=dropout,
            class_embed_type="identity",
        )
        self.condition = None if condition_features is None else nn.Linear(condition_features, self.embedding_width)

    def put_out(self, noisy: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """See ``Generator.put_out``; images (B, C, S, S), about [-1, 1] before their noise."""
        if condition is None or self.condition is None:
            embedded = torch.zeros(len(noisy), self.embedding_width, dtype=noisy.dtype, device=noisy.device)
        else:
            embedded = self.condition(condition)
        (estimate,) = self.network(noisy, t, class_labels=embedded, return_dict=False)
        return estimate

    def _check(self, channels: tuple[int, ...], layers: int) -> None:
        if len(self.shape) != 3 or self.shape[1] != self.shape[2]:
            raise InvalidOption(f"samples are {self.shape}; a U-Net takes square images (3, S, S)")
        if not channels or layers < 1 or any(c < 1 or c % _GROUPS for c in channels):
            raise InvalidOption(
                f"channels {channels}, {layers} layers: give multiples of {_GROUPS} and 1 layer at least"
            )
        if self.shape[1] % 2 ** (len(channels) - 1):
            raise InvalidOption(
                f"images of {self.shape[1]} pixels do not halve {len(channels) - 1} times; give fewer channels"
            )
