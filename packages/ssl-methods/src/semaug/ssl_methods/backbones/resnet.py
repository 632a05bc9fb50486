"""ResNet-18 and ResNet-50 from torchvision's parts (He et al. 2016), with the small-image stem of SimCLR's CIFAR runs.

Parameter names are torchvision's own, so weights move to and from it unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def resnet18(small_stem: bool = False) -> nn.Module:
    """ResNet-18 without its classifier; ``feature_dim`` 512."""
    from torchvision.models import resnet18 as build

    return _without_classifier(build, small_stem)


def resnet50(small_stem: bool = False) -> nn.Module:
    """ResNet-50 without its classifier; ``feature_dim`` 2048."""
    from torchvision.models import resnet50 as build

    return _without_classifier(build, small_stem)


def _without_classifier(build: Callable[..., nn.Module], small_stem: bool) -> nn.Module:
    network: Any = build(weights=None)
    network.feature_dim = network.fc.in_features
    network.fc = nn.Identity()
    if small_stem:
        # Chen et al. 2020, appendix B.9: a 3x3 convolution of stride 1 and no max pooling.
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network
