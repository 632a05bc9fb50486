"""torchvision's MobileNetV2 without its classifier, and with its last spatial maps. Imports torchvision."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import MobileNetV2


class SpatialMobileNetV2(MobileNetV2):
    """A MobileNetV2 whose output are its features, (B, 1280); parameter names are torchvision's own."""

    feature_dim = 1280

    def __init__(self, small_stem: bool) -> None:
        super().__init__()
        self.classifier = nn.Identity()  # type: ignore[assignment]
        if small_stem:
            # Strides of the first convolution and of the first 24-channel block: no shape depends on them.
            for convolution in (self.features[0][0], self.features[2].conv[1][0]):  # type: ignore[index, union-attr]
                convolution.stride = (1, 1)

    def spatial_maps(self, images: Tensor) -> Tensor:
        """Maps (B, 1280, h, w) of the last convolution, whose mean over the cells is the features."""
        return self.features(images)
