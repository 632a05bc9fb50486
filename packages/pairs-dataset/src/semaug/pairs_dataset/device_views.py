"""Views made on the device: loaders hand over pixels and what was drawn, and one batched pass makes the views.

Crops and colours are those of the CPU path to the number: the same counter-based draws decide both. The operations are
those of ``photometrics.render``, in the same order and in float32, so that a view differs from the CPU path's by
rounding alone (at most 1e-4 in normalised units).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from semaug.artifacts.errors import InvalidOption
from semaug.pairs_dataset import photometrics as fields
from semaug.pairs_dataset.photometrics import PARAMETER_FIELDS, draw_parameters
from semaug.pairs_dataset.sources.base import PairSource, ViewSettings

CHUNK = 128
"""Crops that are resized together: their pixels stand in memory as float32 at once."""
_GRAY = (0.2989, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class RawBatch:
    """B items whose V views are still to be made.

    ``pixels`` uint8 holds the part of every image that its crops need, row by row, one image behind the other, from
    ``first`` int64 (B,) on; ``widths`` int64 (B,) are its rows' lengths in pixels. ``crops`` int64 (B, V, 4) are top,
    left, height and width within it; ``drawn`` float64 (B, V, PARAMETER_FIELDS) the photometric parameters; ``index``
    int64 (B,) the images' numbers. Crops and parameters stay on the CPU, which decides by them what is to be done.
    """

    pixels: Tensor
    index: Tensor
    first: Tensor
    widths: Tensor
    crops: Tensor
    drawn: Tensor

    def to(self, device: Any, non_blocking: bool = False, **_: Any) -> RawBatch:
        """The batch with its pixels and numbers on ``device``."""
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("pixels", "index")}
        return replace(self, **moved)

    def pin_memory(self) -> RawBatch:
        """The batch with its pixels in page-locked memory."""
        return replace(self, pixels=self.pixels.pin_memory(), index=self.index.pin_memory())


class RawPairs(Dataset[Any]):
    """A pair source whose batches are ``RawBatch``es: images are read and views drawn, and ``DeviceViews`` makes them.

    Raises ``InvalidOption`` for a source that alters pixels outside of masks.
    """

    def __init__(self, pairs: PairSource) -> None:
        if getattr(pairs, "mask_mode", "crop_only") != "crop_only":
            raise InvalidOption(
                f"mask_mode {pairs.mask_mode!r} alters pixels on the CPU; take --views cpu, or mask_mode crop_only"  # type: ignore[attr-defined]
            )
        self.pairs = pairs
        self.config = {**pairs.config, "views": "device"}

    def inputs(self) -> dict[str, str]:
        """Fingerprints of what the pairs are made from, by role."""
        return self.pairs.inputs()

    def __len__(self) -> int:
        return len(self.pairs)

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of this epoch from now on, in every worker."""
        self.pairs.set_epoch(epoch)

    def __getitem__(self, item: int) -> RawBatch:
        """A batch of one."""
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int]) -> RawBatch:
        rows = [self._raw(item) for item in items]
        first = np.cumsum([0, *(len(row[1]) for row in rows[:-1])])
        pixels = np.concatenate([row[1] for row in rows])
        columns = (np.array([row[k] for row in rows]) for k in (0, 2))
        index, widths = (torch.from_numpy(column.astype(np.int64)) for column in columns)
        crops, drawn = (torch.from_numpy(np.stack([row[k] for row in rows])) for k in (3, 4))
        return RawBatch(torch.from_numpy(pixels), index, torch.from_numpy(first.astype(np.int64)), widths, crops, drawn)

    @staticmethod
    def collate(batch: RawBatch) -> RawBatch:
        """Nothing is left to collate."""
        return batch

    def _raw(self, item: int) -> tuple[int, NDArray[np.uint8], int, NDArray[np.int64], NDArray[np.float64]]:
        index, image, crops, keys, recipes = self.pairs.raw(item)
        top, left = crops[:, 0].min(), crops[:, 1].min()
        bottom, right = (crops[:, 0] + crops[:, 2]).max(), (crops[:, 1] + crops[:, 3]).max()
        part = image[top:bottom, left:right]
        drawn = np.empty((len(crops), PARAMETER_FIELDS))
        for key, recipe, row in zip(keys, recipes, drawn, strict=True):
            draw_parameters(key, recipe, row)
        return index, part.reshape(-1), part.shape[1], crops - np.array([top, left, 0, 0]), drawn


class DeviceViews:
    """From a ``RawBatch`` on a device to (view 1, view 2, local views, index), float32 (B, 3, S, S), normalised."""

    def __init__(self, views: ViewSettings) -> None:
        self.views = views

    @torch.no_grad()
    def __call__(self, batch: RawBatch) -> tuple[Tensor, ...]:
        """The views, made where the batch's pixels are."""
        made: list[Tensor] = []
        for count, _, size, _ in self.views.shapes:
            made += [self._view(batch, v, size) for v in range(len(made), len(made) + count)]
        return (*made, batch.index)

    def _view(self, batch: RawBatch, view: int, size: int) -> Tensor:
        out = torch.empty(len(batch.crops), 3, size, size, device=batch.pixels.device)
        for start in range(0, len(out), CHUNK):
            rows = slice(start, start + CHUNK)
            drawn = batch.drawn[rows, view]
            images = resize(batch.pixels, batch.first[rows], batch.widths[rows], batch.crops[rows, view], size, drawn)
            out[rows] = colour(rotate(images, drawn), drawn)
        mean, std = (torch.tensor(x, device=out.device).view(3, 1, 1) for x in (self.views.mean, self.views.std))
        return out.sub_(mean).div_(std)


def resize(pixels: Tensor, first: Tensor, widths: Tensor, crops: Tensor, size: int, drawn: Tensor) -> Tensor:
    """Crops of ragged images, float32 (N, 3, size, size) in [0, 1], antialiased and flipped where drawn.

    ``pixels``, ``first`` and ``widths`` as in ``RawBatch``, ``crops`` int64 (N, 4), ``drawn`` (N, PARAMETER_FIELDS).
    """
    device = pixels.device
    top, left, height, width = crops.unbind(1)
    y, x = (torch.arange(int(n.max()), device=device) for n in (height, width))
    where = (first + top * widths * 3 + left * 3).to(device)
    row = torch.minimum(y[None], height[:, None].to(device) - 1) * widths[:, None].to(device) * 3
    column = torch.minimum(x[None], width[:, None].to(device) - 1) * 3
    place = where[:, None, None] + row[:, :, None] + column[:, None, :]
    cut = torch.stack([pixels[place + c] for c in range(3)], dim=1).float().div_(255)
    never = torch.zeros(len(crops), dtype=torch.bool)
    down = _triangles(height, len(y), size, never).to(device)
    across = _triangles(width, len(x), size, drawn[:, fields.P_FLIP] != 0).to(device)
    return torch.matmul(torch.matmul(down[:, None], cut), across[:, None].transpose(2, 3))


def _triangles(lengths: Tensor, most: int, size: int, flip: Tensor) -> Tensor:
    """Weights float32 (N, size, most) of the antialiased bilinear filter from ``lengths`` (N,) to ``size`` positions;
    zero behind a row's own length."""
    scale = (lengths.double() / size)[:, None, None]
    place = torch.arange(size, dtype=torch.float64)
    place = torch.where(flip[:, None], place.flip(0)[None], place[None])[:, :, None]
    taps = torch.arange(most, dtype=torch.float64)
    distance = (taps + 0.5 - (place + 0.5) * scale).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp_(min=0) * (taps < lengths[:, None, None])
    return (weights / weights.sum(2, keepdim=True)).float()


def rotate(images: Tensor, drawn: Tensor) -> Tensor:
    """Float32 (N, 3, S, S) turned about their centres, bilinear, where ``drawn`` on the CPU says; in place."""
    chosen = drawn[:, fields.P_ANGLE] != 0
    if not chosen.any():
        return images
    rows = chosen.nonzero().squeeze(1).to(images.device)
    angle = drawn[chosen, fields.P_ANGLE].float()
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    part = images[rows]
    grid = functional.affine_grid(turn.to(images.device), list(part.shape), align_corners=False)
    images[rows] = functional.grid_sample(part, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return images


def colour(images: Tensor, drawn: Tensor) -> Tensor:
    """Jitter, gray, blur and solarisation of float32 (N, 3, S, S) in [0, 1], in place, as ``drawn`` on the CPU says."""
    jittered = drawn[:, fields.P_JITTER] != 0
    for step in range(4):
        for operation, (field, change) in enumerate(_JITTER):
            chosen = jittered & (drawn[:, fields.P_ORDER + step] == operation)
            _change(images, chosen, change, drawn[:, field])
    _change(images, drawn[:, fields.P_GRAY] != 0, lambda x, _: luminance(x).expand_as(x), drawn[:, 0])
    _blur(images, drawn)
    _change(images, drawn[:, fields.P_THRESHOLD] <= 1, _solarise, drawn[:, fields.P_THRESHOLD])
    return images


def _change(images: Tensor, chosen: Tensor, change: Any, factors: Tensor) -> None:
    if chosen.any():
        rows = chosen.nonzero().squeeze(1).to(images.device)
        factor = factors[chosen].float().to(images.device).view(-1, 1, 1, 1)
        images[rows] = change(images[rows], factor)


def luminance(images: Tensor) -> Tensor:
    """(N, 1, S, S) of (N, 3, S, S)."""
    red, green, blue = images.split(1, dim=1)
    return _GRAY[0] * red + _GRAY[1] * green + _GRAY[2] * blue


def _brighten(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = luminance(images).mean(dim=(2, 3), keepdim=True)
    return (images * factor + (1 - factor) * mean).clamp_(0, 1)


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor + (1 - factor) * luminance(images)).clamp_(0, 1)


def _shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift`` turns: to hue, chroma and value and back."""
    red, green, blue = images.split(1, dim=1)
    value, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    chroma = value - low
    inverse = 1 / torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    hue = torch.where(value == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse)
    hue = torch.where(value == red, (green - blue) * inverse, hue) + 6 * (shift - shift.floor())
    sector = torch.cat([(hue + offset) % 6 for offset in (5, 3, 1)], dim=1)
    return value - chroma * torch.minimum(sector, 4 - sector).clamp_(0, 1)


def _solarise(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images >= threshold, 1 - images, images)


_JITTER = (
    (fields.P_BRIGHTNESS, _brighten),
    (fields.P_CONTRAST, _contrast),
    (fields.P_SATURATION, _saturate),
    (fields.P_HUE, _shift_hue),
)


def _blur(images: Tensor, drawn: Tensor) -> None:
    """The Gaussian of every image that drew one, by a kernel of its own, with reflected borders."""
    chosen = drawn[:, fields.P_SIGMA] > 0
    if not chosen.any():
        return
    size = images.shape[-1]
    kernels = _gaussians(drawn[chosen], size - 1)
    count, reach = len(kernels), kernels.shape[1] // 2
    weights = kernels.repeat_interleave(3, dim=0).to(images.device)[:, None]
    rows = chosen.nonzero().squeeze(1).to(images.device)
    flat = functional.pad(images[rows].reshape(1, 3 * count, size, size), [reach] * 4, mode="reflect")
    flat = functional.conv2d(flat, weights[:, :, None], groups=3 * count)
    images[rows] = functional.conv2d(flat, weights[..., None], groups=3 * count).view(count, 3, size, size)


def _gaussians(drawn: Tensor, most: int) -> Tensor:
    """Kernels float32 (N, K), each cut at four deviations, at its recipe's radius and at ``most``."""
    sigma = drawn[:, fields.P_SIGMA]
    reach = torch.minimum((4 * sigma).ceil(), drawn[:, fields.P_RADIUS].clamp(max=most)).clamp(min=1)
    place = torch.arange(-int(reach.max()), int(reach.max()) + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (place / sigma[:, None]) ** 2) * (place.abs() <= reach[:, None])
    return (weights / weights.sum(1, keepdim=True)).float()
