"""A convolutional network small enough to pretrain on a CPU in minutes."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (3, 16, 32, 64, 128)


class SmallCNN(nn.Sequential):
    """Four 3x3 convolutions of 16, 32, 64 and 128 channels, each with batch norm and ReLU, then global average pooling.

    The last three halve the image; without the small-image stem the first does too.

    >>> import torch
    >>> SmallCNN()(torch.zeros(2, 3, 24, 24)).shape
    torch.Size([2, 128])
    """

    feature_dim = WIDTHS[-1]

    def __init__(self, small_stem: bool = True) -> None:
        strides = (1 if small_stem else 2, 2, 2, 2)
        blocks = [_block(a, b, s) for (a, b), s in zip(pairwise(WIDTHS), strides, strict=True)]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 128) of images (B, 3, H, W)."""
        return super().forward(images)

    def spatial_maps(self, images: Tensor) -> Tensor:
        """Maps (B, 128, h, w) of the last convolution, whose mean over the cells is the features."""
        for block in list(self)[:-2]:
            images = block(images)
        return images


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
