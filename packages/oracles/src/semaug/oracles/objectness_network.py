"""The network of ``objectness``: half a million weights that say where an object is, and never what it is.

A plain convolutional pyramid. A grid of ``GRID`` x ``GRID`` cells carries a score and a box each (one stage, no
anchors); a finer one of ``MASK_GRID`` x ``MASK_GRID`` carries the coarse mask of everything that is an object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIDE = 256
"""Side in pixels of what the network sees: every image is resized to a square, whatever its shape."""
GRID = 16
MASK_GRID = 32
WIDTHS = (16, 24, 48, 72, 80)
"""Channels at strides 2, 4, 8, 16 and 32."""
BLOCKS = (0, 0, 2, 2, 1)
"""Residual blocks at these strides."""
FUSED = 64
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
REACH = 1.5
"""How far from its cell's middle a box's centre may lie, in cells."""


@dataclass(frozen=True, slots=True)
class ObjectnessMaps:
    """Raw maps of B images: ``scores`` (B, GRID, GRID) and ``mask`` (B, MASK_GRID, MASK_GRID) are logits, ``boxes``
    (B, GRID, GRID, 4) centre x, centre y, width, height in shares of the image, ``features`` (B, FUSED, GRID, GRID)."""

    scores: Tensor
    boxes: Tensor
    mask: Tensor
    features: Tensor


def _convolution(inputs: int, outputs: int, stride: int = 1, size: int = 3, *, active: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if active else []))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(width, width), _convolution(width, width, active=False))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


class ObjectnessNetwork(nn.Module):
    """Maps normalised images (B, 3, SIDE, SIDE) to ``ObjectnessMaps``.

    >>> maps = ObjectnessNetwork().eval()(torch.zeros(1, 3, SIDE, SIDE))
    >>> maps.scores.shape, maps.boxes.shape, maps.mask.shape
    (torch.Size([1, 16, 16]), torch.Size([1, 16, 16, 4]), torch.Size([1, 32, 32]))
    """

    def __init__(self) -> None:
        super().__init__()
        stages, inputs = [], 3
        for width, blocks in zip(WIDTHS, BLOCKS, strict=True):
            stages.append(nn.Sequential(_convolution(inputs, width, 2), *(_Residual(width) for _ in range(blocks))))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.context = nn.Linear(WIDTHS[4], FUSED)
        self.from_coarse = _convolution(WIDTHS[4], FUSED, size=1, active=False)
        self.from_middle = _convolution(WIDTHS[3], FUSED, size=1, active=False)
        self.fuse = _convolution(FUSED, FUSED)
        self.cells = nn.Conv2d(FUSED, 5, 1)
        self.from_fine = _convolution(WIDTHS[2], FUSED // 2, size=1, active=False)
        self.to_mask = _convolution(FUSED, FUSED // 2, size=1, active=False)
        self.mask = nn.Sequential(_convolution(FUSED // 2, 16), nn.Conv2d(16, 1, 1))
        assert self.cells.bias is not None
        nn.init.constant_(self.cells.bias[0:1], -4.0)  # almost no cell holds an object's middle

    def fold_normalisation(self) -> None:
        """Merge each batch norm, as it is in evaluation, into its convolution: the same maps in less time."""
        self.eval()
        for module in list(self.modules()):
            if not isinstance(module, nn.Sequential) or len(module) < 2:
                continue
            convolution, norm = module[0], module[1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[0], module[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()

    def forward(self, images: Tensor) -> ObjectnessMaps:
        """Maps of normalised images (B, 3, SIDE, SIDE)."""
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        fine, middle, coarse = maps[2:]
        context = self.context(coarse.mean(dim=(2, 3)))[:, :, None, None]
        coarse = functional.interpolate(self.from_coarse(coarse), scale_factor=2.0, mode="nearest")
        fused = self.fuse(functional.relu(self.from_middle(middle) + coarse + context))
        cells = self.cells(fused).permute(0, 2, 3, 1).float()
        up = functional.interpolate(self.to_mask(fused), scale_factor=2.0, mode="nearest")
        mask = self.mask(functional.relu(self.from_fine(fine) + up))[:, 0].float()
        return ObjectnessMaps(cells[..., 0], decode_boxes(cells[..., 1:]), mask, fused)


def decode_boxes(raw: Tensor) -> Tensor:
    """Boxes (B, G, G, 4), centre x, centre y, width, height in shares of the image, from raw outputs (B, G, G, 4)."""
    grid = raw.shape[1]
    middle = (torch.arange(grid, device=raw.device, dtype=raw.dtype) + 0.5) / grid
    x = middle[None, None, :] + REACH / grid * torch.tanh(raw[..., 0])
    y = middle[None, :, None] + REACH / grid * torch.tanh(raw[..., 1])
    return torch.stack([x, y, torch.sigmoid(raw[..., 2]), torch.sigmoid(raw[..., 3])], dim=-1)
