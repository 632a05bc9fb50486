"""The conditional denoisers of DiffAug by kind: ``mlp`` for rows of a table, ``unet`` for images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.diffusion import NoiseSchedule
from semaug.diffaug_core.generators.base import PREDICTIONS, Generator, Prediction
from semaug.diffaug_core.generators.mlp import DenoisingMLP
from semaug.diffaug_core.generators.unet import DenoisingUNet
from semaug.ssl_methods.heads import seeded

GENERATORS: dict[str, Callable[..., Generator]] = {"mlp": DenoisingMLP, "unet": DenoisingUNet}
"""Generators by kind: each is built from (shape, condition_features, schedule, **options)."""


def build_generator(
    kind: str,
    shape: Sequence[int],
    condition_features: int | None,
    *,
    schedule: NoiseSchedule | None = None,
    seed: int = 0,
    **options: Any,
) -> Generator:
    """A new generator whose weights depend on ``seed`` alone.

    ``shape``: (D,) of a row or (3, S, S) of an image; ``condition_features``: the width of the condition, None for a
    generator without one; ``schedule``: that of training and sampling, None for the paper's. ``options`` are the kind's
    own. Raises ``InvalidOption``.

    >>> import torch
    >>> generator = build_generator("mlp", (20,), 8)
    >>> generator(torch.randn(4, 20), torch.tensor([0, 10, 500, 999]), torch.randn(4, 8)).shape
    torch.Size([4, 20])
    """
    if kind not in GENERATORS:
        raise InvalidOption(f"generator {kind!r} is not known; choose one of {', '.join(GENERATORS)}")
    known = list(inspect.signature(GENERATORS[kind]).parameters)[3:]
    for option in options:
        if option not in known:
            raise InvalidOption(f"generator {kind!r} has no option {option!r}; it has {', '.join(known)}")
    with seeded(seed, "generator"):
        return GENERATORS[kind](shape, condition_features, schedule or NoiseSchedule.linear(), **options)


__all__ = [
    "GENERATORS",
    "PREDICTIONS",
    "DenoisingMLP",
    "DenoisingUNet",
    "Generator",
    "Prediction",
    "build_generator",
]
