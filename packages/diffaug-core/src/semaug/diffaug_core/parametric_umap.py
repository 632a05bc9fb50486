"""Parametric UMAP (Sainburg, McInnes and Gentner 2021): UMAP's graph, laid out by a small network.

The graph is umap-learn's own. The network is trained here in torch, since umap-learn's own parametric form needs
TensorFlow. Edges are drawn in proportion to their weight and each comes with five others as negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semaug.artifacts.draws import draw_key

_SMALLEST = 1e-4
"""Similarities are kept this far from 0 and 1 inside logarithms."""


@dataclass(frozen=True, slots=True)
class ParametricUmapSettings:
    """``passes`` is how often the heaviest edge is drawn; ``negatives`` are drawn for every edge."""

    neighbours: int = 15
    min_dist: float = 0.1
    widths: tuple[int, ...] = (100, 100, 100)
    passes: int = 200
    batch_size: int = 1000
    negatives: int = 5
    learning_rate: float = 1e-3


def fit_parametric_umap(
    rows: NDArray[np.float32], seed: int, settings: ParametricUmapSettings | None = None
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Train on ``rows`` (n, d); returns what maps rows (m, d) to float32 (m, 2). Equal seeds give equal networks."""
    from umap.umap_ import find_ab_params

    settings = settings or ParametricUmapSettings()
    heads, tails, weights = _edges(rows, seed, settings)
    curve = tuple(float(value) for value in find_ab_params(1.0, settings.min_dist))
    draws = torch.Generator().manual_seed(draw_key(seed, "parametric-umap", 0, "") >> 1)
    centre, scale = rows.mean(axis=0), max(float(rows.std()), 1e-12)
    data = torch.from_numpy((rows - centre) / scale)
    network = _network(rows.shape[1], settings.widths, draws)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    steps = max(1, round(float(weights.sum() / weights.max()) * settings.passes / settings.batch_size))
    for _ in range(steps):
        chosen = torch.multinomial(weights, settings.batch_size, replacement=True, generator=draws)
        others = torch.randint(len(data), (settings.batch_size * settings.negatives,), generator=draws)
        loss = _loss(network, data, heads[chosen], tails[chosen], others, curve)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def transform(wanted: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy((wanted - centre) / scale)).numpy(), np.float32)

    return transform


def umap_cost(distance: Tensor, joined: Tensor, curve: tuple[float, ...]) -> Tensor:
    """UMAP's cross-entropy of pairs at ``distance`` (n,) that an edge joins or not, bool (n,); the mean, a scalar.

    The similarity is 1 / (1 + a d^(2 b)) with ``curve`` = (a, b).
    """
    a, b = curve
    similarity = 1 / (1 + a * distance.square().clamp_min(1e-12) ** b)
    kept = similarity.clamp(_SMALLEST, 1 - _SMALLEST)
    return -torch.where(joined, kept.log(), (1 - kept).log()).mean()


def _loss(
    network: nn.Module, data: Tensor, heads: Tensor, tails: Tensor, others: Tensor, curve: tuple[float, ...]
) -> Tensor:
    """Cost of the drawn edges and of their heads against the drawn others; each row is embedded once."""
    present, places = torch.unique(torch.cat([heads, tails, others]), return_inverse=True)
    start, end, far = network(data[present])[places].split([len(heads), len(tails), len(others)])
    near = (start - end).norm(dim=1)
    apart = (start.repeat(len(others) // len(heads), 1) - far).norm(dim=1)
    joined = torch.arange(len(near) + len(apart)) < len(near)
    return umap_cost(torch.cat([near, apart]), joined, curve)


def _edges(rows: NDArray[np.float32], seed: int, settings: ParametricUmapSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Heads, tails (int64) and weights (float32) of UMAP's fuzzy graph."""
    from umap.umap_ import fuzzy_simplicial_set

    state = np.random.RandomState(seed % 2**32)
    neighbours = min(settings.neighbours, len(rows) - 1)
    graph: Any = fuzzy_simplicial_set(rows, neighbours, state, "euclidean")[0].tocoo()
    kept = graph.data >= graph.data.max() / settings.passes  # lighter edges would not be drawn once
    parts = (graph.row[kept].astype(np.int64), graph.col[kept].astype(np.int64), graph.data[kept].astype(np.float32))
    heads, tails, weights = (torch.from_numpy(part) for part in parts)
    return heads, tails, weights


def _network(features: int, widths: tuple[int, ...], draws: torch.Generator) -> nn.Sequential:
    """Linear and ReLU, once for each width, and a linear layer to two; weights He-uniform from ``draws``."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((features, *widths), (*widths, 2), strict=True):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=draws)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
