"""Principal components of rows that are read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption

Blocks = Callable[[], Iterator[NDArray[np.float32]]]
EXACT_COLUMNS = 4096
"""Up to here the covariance is formed; beyond, a random subspace is iterated."""
POWER_ITERATIONS = 4
OVERSAMPLING = 10


@dataclass(frozen=True, slots=True)
class Components:
    """``mean`` float64 (d,), ``axes`` float64 (k, d), orthonormal rows of falling ``variance`` (k,)."""

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variance: NDArray[np.float64]

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores float32 (n, k) of rows (n, d)."""
        axes = self.axes.astype(np.float32)
        return rows @ axes.T - (self.mean @ self.axes.T).astype(np.float32)


def principal_components(blocks: Blocks, count: int) -> Components:
    """The first ``count`` principal components of all rows that ``blocks()`` yields (it is called several times).

    Up to 4,096 columns they are the eigenvectors of the covariance; beyond, a randomised subspace with four power
    iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4), drawn from a fixed seed. The entry of an axis that is
    largest in size is positive. Raises ``InvalidOption`` where there are fewer rows or columns.
    """
    mean, rows = _mean(blocks)
    most = min(rows - 1, len(mean))
    if not 1 <= count <= most:
        raise InvalidOption(
            f"pca:{count} of {rows} rows and {len(mean)} columns; give a number of components from 1 to {most}"
        )
    if len(mean) <= EXACT_COLUMNS:
        values, vectors = np.linalg.eigh(_covariance(blocks, mean, rows))
        axes, variance = vectors[:, ::-1][:, :count].T, values[::-1][:count]
    else:
        axes, variance = _randomised(blocks, mean, rows, count)
    flip = np.sign(axes[np.arange(count), np.abs(axes).argmax(axis=1)])
    return Components(mean, np.ascontiguousarray(axes * flip[:, None]), np.maximum(variance, 0))


def _mean(blocks: Blocks) -> tuple[NDArray[np.float64], int]:
    total, rows = None, 0
    for block in blocks():
        summed = block.sum(axis=0, dtype=np.float64)
        total, rows = summed if total is None else total + summed, rows + len(block)
    if total is None:
        raise InvalidOption("principal components of 0 rows; give at least 2")
    return total / rows, rows


def _covariance(blocks: Blocks, mean: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    total = np.zeros((len(mean), len(mean)))
    for block in blocks():
        centred = block - mean
        total += centred.T @ centred
    total /= rows - 1
    return total


def _randomised(
    blocks: Blocks, mean: NDArray[np.float64], rows: int, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    width = min(count + OVERSAMPLING, rows - 1, len(mean))
    basis = np.linalg.qr(generator(0, "pca").standard_normal((len(mean), width)))[0]
    for _ in range(POWER_ITERATIONS):
        basis = np.linalg.qr(_covariance_times(blocks, mean, basis))[0]
    small = basis.T @ _covariance_times(blocks, mean, basis) / (rows - 1)
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    return (basis @ vectors[:, ::-1][:, :count]).T, values[::-1][:count]


def _covariance_times(blocks: Blocks, mean: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros_like(basis)
    for block in blocks():
        scores = block @ basis - mean @ basis
        total += block.T @ scores - np.outer(mean, scores.sum(axis=0))
    return total
