"""ResNets from torchvision's parts (He et al. 2016), with the small-image stem of SimCLR's CIFAR runs.

Parameter names are torchvision's own, so weights move to and from it unchanged.
"""

from __future__ import annotations

from torch import nn


def resnet18(small_stem: bool = False, **options: int | bool) -> nn.Module:
    """ResNet-18 without its classifier; ``feature_dim`` 512. ``options`` as ``SpatialResNet``."""
    return _resnet((2, 2, 2, 2), bottleneck=False, small_stem=small_stem, **options)


def resnet34(small_stem: bool = False, **options: int | bool) -> nn.Module:
    """ResNet-34 without its classifier; ``feature_dim`` 512. ``options`` as ``SpatialResNet``."""
    return _resnet((3, 4, 6, 3), bottleneck=False, small_stem=small_stem, **options)


def resnet50(small_stem: bool = False, **options: int | bool) -> nn.Module:
    """ResNet-50 without its classifier; ``feature_dim`` 2048. ``options`` as ``SpatialResNet``."""
    return _resnet((3, 4, 6, 3), bottleneck=True, small_stem=small_stem, **options)


def resnet101(small_stem: bool = False, **options: int | bool) -> nn.Module:
    """ResNet-101 without its classifier; ``feature_dim`` 2048. ``options`` as ``SpatialResNet``."""
    return _resnet((3, 4, 23, 3), bottleneck=True, small_stem=small_stem, **options)


def _resnet(
    depths: tuple[int, int, int, int], *, bottleneck: bool, small_stem: bool, **options: int | bool
) -> nn.Module:
    from semaug.ssl_methods.backbones.spatial_resnet import SpatialResNet

    return SpatialResNet(depths, bottleneck=bottleneck, small_stem=small_stem, **options)  # type: ignore[arg-type]
