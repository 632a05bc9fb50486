"""The one frozen encoder, trained on none of a study's variants, by which their views are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from semaug.oracles.objectness_network import ObjectnessNetwork

SIDE = 128
BATCH = 64
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class OutsideEncoder:
    """``encode`` takes images uint8 (n, ``size``, ``size``, 3) and gives features float32 (n, d)."""

    name: str
    size: int
    encode: Encode


def outside_encoder(run: str | None = None, device: str = "cpu") -> OutsideEncoder:
    """The encoder of a ``run`` of one's own, or by default the trunk of the packaged objectness network.

    Raises what ``load_card`` raises for a folder that holds no run.
    """
    if run is not None:
        from semaug.studies.proposing import EncoderChoice, region_encoder

        found = region_encoder(EncoderChoice(run, device=device))
        assert found is not None
        return OutsideEncoder(found.name, found.size, found.open())
    from semaug.oracles.objectness import open_network

    name = "the trunk of the objectness network (trained to find objects on ImageNet photographs)"
    return OutsideEncoder(name, SIDE, _Trunk(open_network(None, device), device))


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
