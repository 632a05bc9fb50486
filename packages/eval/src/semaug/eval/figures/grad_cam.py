"""Grad-CAM (Selvaraju et al., ICCV 2017): which places of an image raise a score of its features.

With maps A of shape (C, h, w) from one layer and a score y of the image, the weight of channel c is the mean over the
cells of dy/dA_c, and the heat of a cell is ReLU(sum over c of weight_c A_c) (their Equations 1 and 2). The paper's
score is the logit of a class; frozen features have a linear probe for that. Two scores need no probe: the similarity
to a class's centroid, and the image's agreement with its own embedding.

What heat is worth is measured against boxes: the share of the heat inside them (the energy-based pointing game of
Wang et al., CVPR-W 2020), beside the share of the area that they cover (what a map without any preference has) and the
share of *another* image's heat in them (what a map that always looks at the centre has).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from semaug.eval.errors import EvaluationError
from semaug.eval.measures import Measure

Score = Callable[[Tensor], Tensor]
"""Features (B, d) to one number an image, (B,)."""
Layout = Literal["maps", "tokens"]


@dataclass(frozen=True, slots=True)
class Layer:
    """The module whose output is looked at: ``maps`` (B, C, h, w), or ``tokens`` (B, prefix + h h, C), whose first
    ``prefix`` tokens (the class token) have no place in the image."""

    module: nn.Module
    layout: Layout = "maps"
    prefix: int = 0

    def arrange(self, output: Tensor) -> Tensor:
        """The output as maps (B, C, h, w); raises ``EvaluationError`` where it has another shape."""
        wanted = 4 if self.layout == "maps" else 3
        if output.ndim != wanted:
            raise EvaluationError(
                f"the layer gives {output.ndim} dimensions where {self.layout} have {wanted}; choose another layer"
            )
        if self.layout == "maps":
            return output
        tokens = output[:, self.prefix :]
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise EvaluationError(
                f"{tokens.shape[1]} tokens behind {self.prefix} others make no square; set the prefix, or take "
                "square images"
            )
        return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def grad_cam(encode: Callable[[Tensor], Tensor], layer: Layer, images: Tensor, score: Score) -> NDArray[np.float32]:
    """Heat (B, h, w), not negative and not scaled, of normalised images (B, 3, H, W) on the grid of the layer's maps.

    ``encode`` gives features (B, d) and runs ``layer.module`` once; put its modules into evaluation mode first, so
    that images do not depend on each other. Raises ``EvaluationError`` where the score does not depend on the layer.
    """
    kept: list[Tensor] = []
    handle = layer.module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            total = score(encode(images.detach().requires_grad_())).sum()
    finally:
        handle.remove()
    if len(kept) != 1:
        raise EvaluationError(f"the layer ran {len(kept)} times for one batch; choose one that runs once")
    reached = kept[0].requires_grad and total.requires_grad
    gradient = torch.autograd.grad(total, kept[0], allow_unused=True)[0] if reached else None
    if gradient is None:
        raise EvaluationError("the features do not depend on the layer's output; choose an earlier layer")
    maps, slopes = layer.arrange(kept[0].detach()), layer.arrange(gradient)
    weights = slopes.float().mean((2, 3), keepdim=True)
    return (weights * maps.float()).sum(1).clamp(min=0).cpu().numpy()


def class_logit(weight: NDArray[np.float32], bias: NDArray[np.float32], labels: NDArray[np.integer]) -> Score:
    """The probe's logit of each image's class: ``weight`` (d, classes), ``bias`` (classes,), ``labels`` (B,)."""
    columns, shift = torch.from_numpy(weight[:, labels].T.copy()), torch.from_numpy(bias[labels].copy())

    def score(features: Tensor) -> Tensor:
        return (features * columns.to(features)).sum(1) + shift.to(features)

    return score


def centroid_similarity(centroids: NDArray[np.float32], labels: NDArray[np.integer]) -> Score:
    """The cosine to the centroid of each image's class: ``centroids`` (classes, d), ``labels`` (B,)."""
    own = torch.from_numpy(centroids[labels].copy())

    def score(features: Tensor) -> Tensor:
        return F.cosine_similarity(features, own.to(features), dim=1)

    return score


def own_embedding(features: Tensor) -> Tensor:
    """Half the squared length of the features (B, d), which has the gradient of their product with themselves held
    fixed; needs no label. (The cosine to the own embedding is at its largest, 1, and so has no gradient.)"""
    return 0.5 * (features * features).sum(1)


def heat_map(heat: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Heat (n, h, w) enlarged to (n, size, size), bilinear, each from 0 to 1; a map that is 0 everywhere stays 0."""
    large = F.interpolate(torch.from_numpy(heat)[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    peak = large.amax((1, 2), keepdim=True)
    return torch.where(peak > 0, large / peak.clamp(min=torch.finfo(large.dtype).tiny), large).numpy()


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32], strength: float = 0.75) -> Image.Image:
    """Heat (S, S) from 0 to 1 laid in colour over the greyed image, uint8 (S, S, 3): cold places stay grey."""
    import matplotlib

    grey = image.astype(np.float32).mean(2, keepdims=True).repeat(3, 2)
    colour = matplotlib.colormaps["inferno"](0.25 + 0.75 * heat)[..., :3] * 255
    share = strength * heat[..., None]
    return Image.fromarray(((1 - share) * grey + share * colour).round().clip(0, 255).astype(np.uint8))


def box_region(boxes: NDArray[np.floating], height: int, width: int, crop: float, size: int) -> NDArray[np.bool_]:
    """The union of boxes (n, 4), xyxy in pixels of an image, as pixels of its prepared square: bool (size, size).

    ``crop`` is what ``features.prepare`` takes: the square is the middle ``crop`` of the short side. A pixel belongs
    to a box that holds its centre.
    """
    side = min(height, width) * crop
    left, top = (width - side) / 2, (height - side) / 2
    centres = (np.arange(size) + 0.5) * side / size
    x, y = centres + left, centres + top
    region = np.zeros((size, size), bool)
    for x0, y0, x1, y1 in np.asarray(boxes, np.float64):
        region |= ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None]
    return region


@dataclass(frozen=True, slots=True)
class EnergyInBoxes:
    """Shares in [0, 1] of m images that have a region: of the heat inside it, of another image's heat inside it, and
    of the area. ``left_out`` counts images without a region or without heat."""

    inside: NDArray[np.float64]
    shuffled: NDArray[np.float64]
    area: NDArray[np.float64]
    left_out: int

    def __iter__(self) -> Iterator[Measure]:
        """Means over the images, and the mean gain over the area with its standard deviation."""
        n = len(self.inside)
        reason = "" if n else f"none of {self.left_out} images has both heat and a box inside its square"
        gain = self.inside - self.area
        rows = {"energy_in_box": self.inside, "energy_in_box/uniform": self.area, "energy_in_box/gain": gain}
        for name, values in rows.items():
            yield Measure(f"grad_cam/{name}", float(values.mean()) if n else None, n, reason)
        yield Measure("grad_cam/energy_in_box/gain_std", float(gain.std(ddof=1)) if n > 1 else None, n,
                      "" if n > 1 else reason or "one image has no spread")  # fmt: skip
        known = self.shuffled[np.isfinite(self.shuffled)]
        reason = "" if len(known) else reason or "one image has no other to take heat from"
        yield Measure(
            "grad_cam/energy_in_box/shuffled", float(known.mean()) if len(known) else None, len(known), reason
        )


def energy_in_boxes(heat: NDArray[np.float32], regions: NDArray[np.bool_]) -> EnergyInBoxes:
    """How much of each heat map (n, S, S) lies in its region (n, S, S), and of the next image's map.

    >>> heat = np.zeros((2, 4, 4), np.float32); heat[0, 0, 0] = heat[1, 3, 3] = 1
    >>> regions = np.zeros((2, 4, 4), bool); regions[:, :2, :2] = True
    >>> found = energy_in_boxes(heat, regions)
    >>> found.inside.tolist(), found.shuffled.tolist(), found.area.tolist()
    ([1.0, 0.0], [0.0, 1.0], [0.25, 0.25])
    """
    if heat.shape != regions.shape:
        raise EvaluationError(f"heat of shape {heat.shape} and regions of shape {regions.shape}; give one a map")
    usable = (heat.sum((1, 2)) > 0) & regions.any((1, 2))
    heat, regions = heat[usable].astype(np.float64), regions[usable]
    total = heat.sum((1, 2))
    shuffled = np.full(len(heat), np.nan)
    if len(heat) > 1:
        shuffled = (np.roll(heat, -1, axis=0) * regions).sum((1, 2)) / np.roll(total, -1)
    inside = (heat * regions).sum((1, 2)) / total
    return EnergyInBoxes(inside, shuffled, regions.mean((1, 2)), int((~usable).sum()))
