"""How near generated positives are to real samples: whether a generator has learned samples by heart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.diffaug_core.samples import Samples

SAMPLED = 256
"""Positives that are looked at, at most."""
_CHUNK = 1024


def describe_nearest(
    values: Sequence[NDArray[Any]],
    origins: Sequence[str],
    samples: Samples,
    *,
    trained: bool,
    unread: Collection[str] = (),
    most: int = SAMPLED,
) -> dict[str, Any]:
    """Medians of Euclidean distances of at most ``most`` positives, evenly spread, each exact over all ``samples``
    but those whose keys are in ``unread``.

    ``values`` are the positives in arrays one after another, uint8 (n, S, S, 3) or float32 (n, D); ``origins`` the keys
    of the samples they are of. ``positive`` is from a positive to the nearest sample, ``origin`` to its own, ``real``
    from that sample to the nearest other one; distances of images are in units of [-1, 1] over all channels. ``own``
    is the share of positives whose nearest sample is their own. ``reference`` says whether the samples are those of
    training: positives that are copies of these have distances near 0. Of samples with labels, ``class`` is the share
    of positives whose nearest sample but their own has their own's class, ``class_real`` the same of their own samples
    in their place, and ``class_chance`` of samples drawn at random.
    """
    chosen = np.unique(np.linspace(0, len(origins) - 1, min(most, len(origins))).astype(np.int64))
    place = {key: i for i, key in enumerate(samples.keys)}
    own = np.array([place[origins[i]] for i in chosen], np.int64)
    made, real = _pick(values, chosen), _flat(samples.clean(own))
    among = np.array([i for i, key in enumerate(samples.keys) if key not in unread], np.int64)
    skip = np.concatenate([np.full(len(own), -1), own, own])  # one pass over the samples for all three questions
    distance, which = nearest_of(torch.cat([made, made, real]), samples, among, skip)
    nearest, (first, other, between) = distance.chunk(3), which.chunk(3)
    found: dict[str, Any] = {
        "positives": len(chosen),
        "positive": _median(nearest[0]),
        "origin": _median((made - real).norm(dim=1)),
        "own": float((first == torch.from_numpy(own)).double().mean()),
        "reference": "the samples of training" if trained else "these samples",
    }
    if len(among) < 2:
        return found
    return {**found, "real": _median(nearest[2]), **_classes(samples, among, own, other, between)}


def _classes(
    samples: Samples, among: NDArray[np.int64], own: NDArray[np.int64], made: Tensor, real: Tensor
) -> dict[str, float]:
    """How often the samples ``made`` and ``real`` (P,) nearest to others have the classes of ``own`` (P,)."""
    labels = np.array([-1 if (label := samples.label(i)) is None else label for i in range(len(samples))])
    if (labels[own] < 0).any():
        return {}
    same = [float((labels[which.numpy()] == labels[own]).mean()) for which in (made, real)]
    counts = np.bincount(labels[among][labels[among] >= 0], minlength=int(labels[own].max()) + 1)
    chance = float(((counts[labels[own]] - 1) / (len(among) - 1)).mean())
    return {"class": same[0], "class_real": same[1], "class_chance": chance}


def nearest_of(
    points: Tensor, samples: Samples, among: NDArray[np.int64], skip: NDArray[np.int64] | None = None
) -> tuple[Tensor, Tensor]:
    """The distance of each of ``points`` float64 (P, D) to its nearest sample, and which that is: float64, int64 (P,).

    ``among`` int64 (n,) are the samples that are looked at; ``skip`` int64 (P,) names one a point that is passed over,
    or -1.
    """
    best = torch.full((len(points),), torch.inf, dtype=torch.float64)
    which = torch.full((len(points),), -1, dtype=torch.int64)
    for start in range(0, len(among), _CHUNK):
        part = among[start : start + _CHUNK]
        real = _flat(samples.clean(part))
        squared = points.square().sum(1)[:, None] + real.square().sum(1)[None] - 2 * points @ real.T
        if skip is not None:
            squared[torch.from_numpy(skip)[:, None] == torch.from_numpy(part)[None]] = torch.inf
        least, place = squared.clamp_(min=0).sqrt_().min(dim=1)
        nearer = least < best
        best[nearer], which[nearer] = least[nearer], torch.from_numpy(part)[place[nearer]]
    return best, which


def _pick(values: Sequence[NDArray[Any]], chosen: NDArray[np.int64]) -> Tensor:
    """The chosen positives as float64 (P, D), images in [-1, 1]."""
    starts = np.cumsum([0, *(len(v) for v in values)])
    shards = np.searchsorted(starts, chosen, side="right") - 1
    picked = np.stack([values[s][i - starts[s]] for s, i in zip(shards.tolist(), chosen.tolist(), strict=True)])
    if picked.dtype == np.uint8:
        return torch.from_numpy(picked.transpose(0, 3, 1, 2).reshape(len(picked), -1) / 127.5 - 1)
    return _flat(torch.from_numpy(picked))


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).double()


def _median(values: Tensor) -> float:
    return float(values.median())
