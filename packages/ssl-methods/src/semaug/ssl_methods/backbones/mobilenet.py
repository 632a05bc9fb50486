"""MobileNetV2 (Sandler et al. 2018) without its classifier, from torchvision's parts and in torchvision's names."""

from __future__ import annotations

from torch import nn


def mobilenetv2(small_stem: bool = False) -> nn.Module:
    """MobileNetV2 of width 1; ``feature_dim`` 1280. The small-image stem is 4 times as fine (8 pixels a cell)."""
    from semaug.ssl_methods.backbones.spatial_mobilenet import SpatialMobileNetV2

    return SpatialMobileNetV2(small_stem)
