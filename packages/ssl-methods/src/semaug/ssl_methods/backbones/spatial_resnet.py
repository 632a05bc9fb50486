"""torchvision's ResNet (He et al. 2016) without its classifier, and with its last spatial maps. Imports torchvision."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class SpatialResNet(ResNet):
    """A ResNet whose output are its features, (B, feature_dim); parameter names are torchvision's own.

    ``depths`` counts the blocks of its four stages, ``bottleneck`` says which kind they are. ``stem_padding`` (of the
    small-image stem) and ``stem_relu`` are there for weights of others: solo-learn's CIFAR stem pads by 2, lightly's
    CIFAR backbone has no ReLU behind it.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        *,
        bottleneck: bool,
        small_stem: bool,
        stem_padding: int = 1,
        stem_relu: bool = True,
    ) -> None:
        block = Bottleneck if bottleneck else BasicBlock
        super().__init__(block, list(depths))
        self.feature_dim = 512 * block.expansion
        self.fc = nn.Identity()  # type: ignore[assignment]
        if small_stem:
            # Chen et al. 2020, appendix B.9: a 3x3 convolution of stride 1 and no max pooling.
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=stem_padding, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()  # type: ignore[assignment]
        if not stem_relu:
            self.relu = nn.Identity()  # type: ignore[assignment]

    def spatial_maps(self, images: Tensor) -> Tensor:
        """Maps (B, feature_dim, h, w) of the last stage, whose mean over the cells is the features."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
        return maps
