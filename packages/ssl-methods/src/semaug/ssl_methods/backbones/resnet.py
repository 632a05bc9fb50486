"""ResNet-18 and ResNet-50 from torchvision's parts (He et al. 2016), with the small-image stem of SimCLR's CIFAR runs.

Parameter names are torchvision's own, so weights move to and from it unchanged.
"""

from __future__ import annotations

from torch import nn


def resnet18(small_stem: bool = False) -> nn.Module:
    """ResNet-18 without its classifier; ``feature_dim`` 512."""
    return _resnet((2, 2, 2, 2), bottleneck=False, small_stem=small_stem)


def resnet50(small_stem: bool = False) -> nn.Module:
    """ResNet-50 without its classifier; ``feature_dim`` 2048."""
    return _resnet((3, 4, 6, 3), bottleneck=True, small_stem=small_stem)


def _resnet(depths: tuple[int, int, int, int], *, bottleneck: bool, small_stem: bool) -> nn.Module:
    from semaug.ssl_methods.backbones.spatial_resnet import SpatialResNet

    return SpatialResNet(depths, bottleneck=bottleneck, small_stem=small_stem)
