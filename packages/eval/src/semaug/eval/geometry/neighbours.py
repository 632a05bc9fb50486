"""Distances to the nearest neighbours of every point of a set, exact, at the cost of half a matrix product.

Points are centred and -|x - y|^2 / 2 is taken from one float32 product of two blocks, which serves the rows of both.
That product only proposes: a few more neighbours than asked for, whose distances are computed again in float64 from
the differences. A bound on the product's rounding says for which points no other neighbour can be nearer; the rest
(points in tight clusters far from the centre) are searched once more in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError

BLOCK = 2048
SPARE = 12
_EXACT_CHUNK = 32


def nearest_distances(
    points: NDArray[np.floating], k: int, *, device: str = "cpu", on_progress: OnProgress = ignore_progress
) -> NDArray[np.float64]:
    """Euclidean distances of each point to its k nearest others, nearest first: float64 (n, k).

    ``points`` is float (n, d), finite. Exact to float64 rounding of the coordinates given. Memory beside the points:
    one block of 2048 x 2048 products (17 MB), 12 bytes for each of (k + 12) candidates a point, and the points once
    more in float32. Raises ``EvaluationError`` for n <= k.
    """
    if not 0 < k < len(points):
        raise EvaluationError(f"{k} neighbours of {len(points)} points; ask for 1 to {len(points) - 1}")
    found = np.empty((len(points), k))
    with torch.inference_mode(), _full_precision():
        search = _Search(points, k, device)
        threshold, places = search.symmetric(on_progress)
        rest = search.refine(torch.arange(len(points), device=device), threshold, places, found)
        if len(rest):
            search.refine(rest, *search.again(rest, on_progress), found)
    return found


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products whose rounding is float32's own: not TF32 or bfloat16, which a training may have asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Search:
    """Points centred, scaled to at most length 1, and written so that one product gives -|x - y|^2 / 2."""

    def __init__(self, points: NDArray[np.floating], k: int, device: str) -> None:
        self.exact = torch.from_numpy(np.require(points, requirements=["C", "W"]))  # a mapped file is read-only
        self.k, self.kept = k, min(k + SPARE, len(points) - 1)
        self.centre = self.exact.double().mean(0) if len(points) < 4096 else _mean(self.exact)
        norms = self._norms()
        self.scale = 1 / max(float(norms.max()), torch.finfo(torch.float64).tiny)
        self.norms = (norms * self.scale).to(device)
        self.device = device
        self.left = torch.empty(len(points), points.shape[1] + 2, device=device)
        for block, (left, _) in zip(self.left.split(BLOCK), self._sides(torch.float32), strict=True):
            block.copy_(left)

    def _norms(self) -> torch.Tensor:
        return torch.cat([(part.double() - self.centre).norm(dim=1) for part in self.exact.split(BLOCK)])

    def _sides(self, dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Blocks of [x, 1, -|x|^2/2] and [y, -|y|^2/2, 1]."""
        for part, norm in zip(self.exact.split(BLOCK), self.norms.cpu().split(BLOCK), strict=True):
            centred = (part.double() - self.centre) * self.scale
            half = (-0.5 * norm**2)[:, None]
            left = torch.cat([centred, torch.ones_like(half), half], 1).to(self.device, dtype)
            yield left, _mirrored(left)

    def symmetric(self, on_progress: OnProgress) -> tuple[torch.Tensor, torch.Tensor]:
        """Candidates of every point: the smallest of their scores (n,), and their places int64 (n, kept)."""
        n = len(self.exact)
        starts = range(0, n, BLOCK)
        best = torch.full((n, self.kept), -torch.inf, device=self.device)
        places = torch.zeros(n, self.kept, dtype=torch.int64, device=self.device)
        for first in starts:  # a block's own points first: later blocks then have a threshold to pass
            rows = slice(first, first + BLOCK)
            scores = self.left[rows] @ _mirrored(self.left[rows]).T
            scores.fill_diagonal_(-torch.inf)
            own = min(self.kept, len(scores) - 1)
            best[rows, :own], order = scores.topk(own, dim=1)
            places[rows, :own] = order + first
        for first in starts:
            rows = slice(first, first + BLOCK)
            for second in range(first + BLOCK, n, BLOCK):
                columns = slice(second, second + BLOCK)
                scores = self.left[rows] @ _mirrored(self.left[columns]).T
                _offer(best[rows], places[rows], scores, second)
                _offer(best[columns], places[columns], scores, first, by_column=True)
            share = 1 - max(n - first - BLOCK, 0) * max(n - first - BLOCK, 0) / (n * n)
            on_progress(Progress("nearest neighbours", int(share * n), n))
        return best[:, -1], places

    def again(self, rows: torch.Tensor, on_progress: OnProgress) -> tuple[None, torch.Tensor]:
        """Candidates of the given rows by a product in float64."""
        best = torch.full((len(rows), self.kept), -torch.inf, device=self.device, dtype=torch.float64)
        places = torch.zeros(len(rows), self.kept, dtype=torch.int64, device=self.device)
        lefts = torch.cat([left for left, _ in self._sides(torch.float64)])[rows]
        for block, (_, right) in enumerate(self._sides(torch.float64)):
            first = block * BLOCK
            for start in range(0, len(rows), BLOCK):
                part = slice(start, start + BLOCK)
                scores = lefts[part] @ right.T
                own = rows[part] - first
                here = (own >= 0) & (own < len(right))
                scores[here.nonzero().squeeze(1), own[here]] = -torch.inf
                _offer(best[part], places[part], scores, first)
            on_progress(Progress("nearest neighbours, again", min(first + BLOCK, len(self.exact)), len(self.exact)))
        return None, places

    def refine(
        self, rows: torch.Tensor, threshold: torch.Tensor | None, places: torch.Tensor, found: NDArray[np.float64]
    ) -> torch.Tensor:
        """Write the k smallest exact distances of ``rows`` to ``found``; returns the rows that are not certain."""
        uncertain = []
        for start in range(0, len(rows), _EXACT_CHUNK):
            part = slice(start, start + _EXACT_CHUNK)
            index, candidates = rows[part].cpu(), places[part].cpu()
            difference = self.exact[candidates].double() - self.exact[index].double()[:, None]
            distances = torch.linalg.vector_norm(difference, dim=2).topk(self.k, largest=False).values
            found[index.numpy()] = distances.numpy()
            if threshold is not None and self.kept < len(self.exact) - 1:
                others = -2 * threshold[part].double() - 2 * self._rounding(self.norms[rows[part]])
                reached = (distances[:, -1].to(self.device) * self.scale) ** 2
                uncertain.append(rows[part][reached > others])
        return torch.cat(uncertain) if uncertain else rows[:0]

    def _rounding(self, norms: torch.Tensor) -> torch.Tensor:
        """The most that a float32 score of points of these lengths can be wrong by (Higham 2002, section 3.1)."""
        unit = 2.0**-24
        terms = (self.exact.shape[1] + 8) * unit  # the product's d + 2 terms, and what its factors were rounded by
        return terms / (1 - terms) * (norms + float(self.norms.max())) ** 2 / 2


def _mirrored(left: torch.Tensor) -> torch.Tensor:
    """[x, -|x|^2/2, 1] of [x, 1, -|x|^2/2]."""
    return torch.cat([left[:, :-2], left[:, -1:], left[:, -2:-1]], 1)


def _mean(points: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(points.shape[1], dtype=torch.float64)
    for part in points.split(BLOCK):
        total += part.double().sum(0)
    return total / len(points)


def _offer(best: torch.Tensor, places: torch.Tensor, scores: torch.Tensor, first: int, by_column: bool = False) -> None:
    """Take the scores (b, m) of points ``first`` to ``first + m - 1`` into the best (b, kept), largest first, in place.

    ``by_column`` says that the best are those of the m columns. Scores that do not pass the smallest one kept are not
    looked at again.
    """
    threshold = best[:, -1]
    flat = _where(scores > (threshold if by_column else threshold[:, None]))
    if not len(flat):
        return
    values, rows, others = scores.reshape(-1)[flat], flat // scores.shape[1], flat % scores.shape[1]
    if by_column:
        others, (rows, order) = rows, others.sort(stable=True)
        values, others = values[order], others[order]
    hit, own, counts = torch.unique_consecutive(rows, return_inverse=True, return_counts=True)
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[own]
    offered = best.new_full((len(hit), int(counts.max())), -torch.inf)
    offered[own, rank] = values
    origin = torch.zeros_like(offered, dtype=torch.int64)
    origin[own, rank] = others + first
    values, order = torch.cat([best[hit], offered], 1).topk(best.shape[1], dim=1)
    best[hit] = values
    places[hit] = torch.cat([places[hit], origin], 1).gather(1, order)


def _where(mask: torch.Tensor) -> torch.Tensor:
    """Flat places of what is true, int64 (numpy finds rare ones ten times faster than torch does)."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero().squeeze(1)
