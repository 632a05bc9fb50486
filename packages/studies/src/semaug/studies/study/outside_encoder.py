"""The frozen encoders, trained on none of a study's variants, by which their views are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from semaug.oracles.objectness_network import ObjectnessNetwork

SIDE = 128
BATCH = 64
DRAWN, ORIENTATIONS = 64, 9
"""To what side images are reduced for hand-made features, and how many directions these tell apart."""
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class OutsideEncoder:
    """``encode`` takes images uint8 (n, ``size``, ``size``, 3) and gives features float32 (n, d)."""

    name: str
    size: int
    encode: Encode


def outside_encoders(run: str | None = None, device: str = "cpu") -> tuple[OutsideEncoder, OutsideEncoder]:
    """Two encoders: the first one decides the size of the views, and both see the same pixels.

    By default hand-made features, which nothing has taught what an object is, and the trunk of the packaged objectness
    network; with a ``run`` of one's own that run, and hand-made features. Raises what ``load_card`` raises for a folder
    that holds no run.
    """
    return (hand_made(), objectness_trunk(device)) if run is None else (encoder_of(run, device), hand_made())


def encoder_of(run: str, device: str = "cpu") -> OutsideEncoder:
    """The encoder of a run."""
    from semaug.studies.proposing import EncoderChoice, region_encoder

    found = region_encoder(EncoderChoice(run, device=device))
    assert found is not None
    return OutsideEncoder(found.name, found.size, found.open())


def objectness_trunk(device: str = "cpu") -> OutsideEncoder:
    """The trunk of the packaged objectness network."""
    from semaug.oracles.objectness import open_network

    return OutsideEncoder("the trunk of the objectness network", SIDE, _Trunk(open_network(None, device), device))


def hand_made() -> OutsideEncoder:
    """Gradients and colours of the quarters of an image, by fixed rules (``hand_made_features``)."""
    return OutsideEncoder("hand-made features (gradients and colours)", SIDE, hand_made_features)


def hand_made_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features float32 (n, 72) of RGB images uint8 (n, s, s, 3) of any side: of each quarter, a histogram of the
    gradients' orientations (Dalal and Triggs, 2005) and three moments of each channel of CIE Lab (Stricker and Orengo,
    1995). An image and its mirror image are alike.
    """
    return np.stack([_described(image) for image in images])


_MIRRORED = [1, 0, 3, 2]
"""Where the quarters of an image are in its mirror image."""


def _described(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    small = cv2.resize(image, (DRAWN, DRAWN), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    along, down = (_quarters(cv2.Sobel(lab[..., 0], cv2.CV_32F, *order)[..., None]) for order in ((1, 0), (0, 1)))
    shape, parts = _orientations(along, down), _quarters(lab)
    mean = parts.mean(axis=1, keepdims=True)
    apart = parts - mean
    colours = np.hstack([mean[:, 0], parts.std(axis=1), np.cbrt((apart * apart * apart).mean(axis=1))])
    shape = (shape + shape[_MIRRORED][:, -np.arange(ORIENTATIONS)]) / 2
    return np.concatenate([shape.ravel(), ((colours + colours[_MIRRORED]) / 2).ravel()]).astype(np.float32)


def _quarters(values: NDArray[Any]) -> NDArray[Any]:
    """The pixels of each quarter: (DRAWN, DRAWN, c) -> (4, n, c)."""
    half, channels = DRAWN // 2, values.shape[-1]
    return values.reshape(2, half, 2, half, channels).transpose(0, 2, 1, 3, 4).reshape(4, -1, channels)


def _orientations(along: NDArray[Any], down: NDArray[Any]) -> NDArray[np.float64]:
    """How much gradient there is along each of some directions, without sign, in each quarter; of length 1 in all. A
    gradient is shared out between the two nearest directions. The first is that of the rows, so that a mirror image has
    the others in reverse."""
    place = np.arctan2(down, along) * (ORIENTATIONS / np.pi)
    below, strength = np.floor(place), np.hypot(along, down)
    above = place - below
    found = np.zeros((len(place), ORIENTATIONS))
    for step, share in ((0, 1 - above), (1, above)):
        bins = (below.astype(int) + step) % ORIENTATIONS
        for row, of, weight in zip(found, bins, strength * share, strict=True):
            row += np.bincount(of.ravel(), weight.ravel(), ORIENTATIONS)
    return np.asarray(found / max(float(np.linalg.norm(found)), 1e-12))


@dataclass(frozen=True, slots=True)
class _Trunk:
    """Means over the image of the network's two coarsest maps."""

    network: ObjectnessNetwork
    device: str

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        from semaug.oracles.objectness_network import MEAN, STD

        shift, spread = (torch.tensor(x, device=self.device).view(1, 3, 1, 1) for x in (MEAN, STD))
        found = []
        for start in range(0, len(images), BATCH):
            with torch.inference_mode():
                x = torch.from_numpy(images[start : start + BATCH]).to(self.device).permute(0, 3, 1, 2).float() / 255
                maps = [(x - shift) / spread]
                for stage in self.network.stages:
                    maps.append(stage(maps[-1]))
                pooled = torch.cat([m.mean(dim=(2, 3)) for m in maps[-2:]], dim=1)
            found.append(pooled.float().cpu().numpy())
        return np.concatenate(found)
