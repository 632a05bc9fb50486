"""Weighted cosine k-nearest-neighbour classification (Wu et al. 2018, "Unsupervised Feature Learning via
Non-Parametric Instance Discrimination"; spec S1.9 b), for every k and temperature in one pass over the bank.

Bank and queries are read in blocks and made unit vectors as they are read, so that features mapped from files may be
larger than memory. A block of the bank meets ``QUERY_BLOCK`` queries before the next one is read.

The vote of a neighbour is exp(similarity / T). The largest similarity is subtracted first, which changes no decision
and keeps T = 0.01 and below within float32. So T -> 0 is the nearest neighbour, T -> infinity the majority vote,
and k = 1 does not depend on T.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.joined import release_rows
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.measures import Measure
from semaug.eval.splits import LabelledPair, labelled_pair, selection_split

KS = (1, 2, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5)
HEADLINE_K = 20
HEADLINE_TEMPERATURE = 0.07
LEAKAGE_SIMILARITY = 1 - 1e-5
LEAKAGE_SHARE = 0.01
NEAR_COPY_QUANTILE, NEAR_COPY_SHARE = 0.99, 0.05
QUERY_CHUNK, BANK_CHUNK = 256, 65536
QUERY_BLOCK = 8192
BANK_BYTES = 128 << 20
_SELECTION_LIMIT = 5000
_ENOUGH_TO_COMPARE = 100


@dataclass(frozen=True, slots=True)
class KnnSettings:
    """Lists to evaluate and the memory to use.

    The headline setting (k = 20, T = 0.07) is always part of the lists. Similarities are held for ``query_chunk``
    by ``bank_chunk`` pairs at a time: 67 MB as set. Unit vectors are held of ``bank_chunk`` images of the bank, of
    fewer where these take over 128 MB, and of 8,192 queries. Give a GPU a ``query_chunk`` of thousands.
    """

    ks: tuple[int, ...] = KS
    temperatures: tuple[float, ...] = TEMPERATURES
    exclude_self: bool = False
    query_chunk: int = QUERY_CHUNK
    bank_chunk: int = BANK_CHUNK
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.ks, default=0) < 1:
            raise EvaluationError(f"k of {self.ks}; every k must be at least 1")
        if min(self.temperatures, default=0.0) <= 0:
            raise EvaluationError(f"temperatures {self.temperatures}; every T must be above 0")
        object.__setattr__(self, "ks", tuple(sorted({*self.ks, HEADLINE_K})))
        object.__setattr__(self, "temperatures", tuple(sorted({*self.temperatures, HEADLINE_TEMPERATURE})))


@dataclass(frozen=True, slots=True)
class KnnGrid:
    """Top-1 accuracy in one space (``backbone`` or ``projector``): float64 (len(ks), len(temperatures)).

    Rows of a k larger than the bank are NaN. ``top5`` is the headline setting's, None with five classes or fewer.
    ``selected`` is the (k, T) that was best on the selection split of the training set; without one, ``unselected``
    says why.
    """

    space: str
    ks: tuple[int, ...]
    temperatures: tuple[float, ...]
    accuracy: NDArray[np.float64]
    top5: float | None
    n: int
    bank: int
    selected: tuple[int, float] | None = None
    unselected: str = "not asked for"

    def at(self, k: int, temperature: float) -> float | None:
        """Top-1 accuracy at one setting, or None where k exceeds the bank."""
        value = self.accuracy[self.ks.index(k), self.temperatures.index(temperature)]
        return None if np.isnan(value) else float(value)


@dataclass(frozen=True, slots=True)
class KnnResult:
    """Grids of both spaces (``projector`` is None without projections) and what a reader must know about them."""

    backbone: KnnGrid
    projector: KnnGrid | None
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        """The headline, the selected setting, every grid cell, and the backbone-projector gap."""
        for grid in (self.backbone, self.projector):
            if grid is not None:
                yield from _grid_measures(grid)
        if self.projector is not None:
            ours = self.backbone.at(HEADLINE_K, HEADLINE_TEMPERATURE)
            theirs = self.projector.at(HEADLINE_K, HEADLINE_TEMPERATURE)
            gap = None if ours is None or theirs is None else ours - theirs
            yield Measure("knn/gap", gap, self.backbone.n, "" if gap is not None else _too_few(self.backbone))


def _too_few(grid: KnnGrid) -> str:
    return f"the bank holds {grid.bank} images, fewer than k = {HEADLINE_K}"


def _grid_measures(grid: KnnGrid) -> Iterator[Measure]:
    prefix = f"knn/{grid.space}"
    headline = grid.at(HEADLINE_K, HEADLINE_TEMPERATURE)
    missing = "" if headline is not None else _too_few(grid)
    yield Measure(f"{prefix}/top1", headline, grid.n, missing)
    few_classes = "" if grid.top5 is not None else missing or "five classes or fewer"
    yield Measure(f"{prefix}/top5", grid.top5, grid.n, few_classes)
    chosen = grid.at(*grid.selected) if grid.selected else None
    yield Measure(f"{prefix}/selected_top1", chosen, grid.n, "" if grid.selected else grid.unselected)
    for k in grid.ks:
        for temperature in grid.temperatures:
            value = grid.at(k, temperature)
            reason = "" if value is not None else f"the bank holds {grid.bank} images, fewer than k = {k}"
            yield Measure(f"{prefix}/top1/k={k}/T={temperature:g}", value, grid.n, reason)


def evaluate_knn(
    train: Features,
    test: Features,
    settings: KnnSettings | None = None,
    *,
    select: bool = True,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> KnnResult:
    """Classify the test images by their neighbours among the training images, in backbone and projector space.

    With ``select`` the best (k, T) is chosen on a fifth of the training set (at most 5,000 images) against the rest.
    ``settings.exclude_self`` leaves out bank images whose key equals the query's (for queries from the bank).
    Unlabelled images take no part; classes are the union of both sets'. Raises ``EvaluationError`` and its kin.
    """
    settings = settings or KnnSettings()
    pair = labelled_pair(train, test)
    backbone, warnings = _evaluate_space(pair, "backbone", settings, select, seed, on_progress)
    projector = None
    if pair.train.projections is not None and pair.test.projections is not None:
        projector, _ = _evaluate_space(pair, "projector", settings, select, seed, on_progress)
    return KnnResult(backbone, projector, pair.warnings + warnings)


def knn_accuracy(
    train: Features, test: Features, k: int = HEADLINE_K, temperature: float = HEADLINE_TEMPERATURE
) -> float:
    """Top-1 accuracy in backbone space at one setting, k cut to the bank: for watching a run while it trains."""
    pair = labelled_pair(train, test)
    k = min(k, len(pair.train))
    settings = KnnSettings()
    bank, queries = (UnitRows.of(part.features, settings) for part in (pair.train, pair.test))
    counts = _Counts((k,), (temperature,), pair.classes)
    bank_labels, targets = torch.from_numpy(pair.train.labels), torch.from_numpy(pair.test.labels)
    for rows, similarity, index in nearest(queries, bank, k, query_chunk=QUERY_CHUNK):
        counts.add(similarity, bank_labels[index], targets[rows])
    return float(counts.correct[0, 0]) / len(pair.test)


def _evaluate_space(
    pair: LabelledPair, space: str, settings: KnnSettings, select: bool, seed: int, on_progress: OnProgress
) -> tuple[KnnGrid, tuple[str, ...]]:
    values = [_values(part, space) for part in (pair.train, pair.test)]
    selected, reason, usual = _select(pair, values[0], settings, seed) if select else (None, "not asked for", None)
    excluded = _own_places(pair) if settings.exclude_self else None
    bank, queries = (UnitRows.of(part, settings) for part in values)
    search = _Search(bank, torch.from_numpy(pair.train.labels).to(settings.device), pair.classes, settings)
    counts, closest = search.run(queries, pair.test.labels, excluded, space, on_progress)
    n = len(pair.test)
    top5 = counts.top5 / n if pair.classes > 5 and len(bank) >= HEADLINE_K else None
    accuracy = counts.accuracy(n)
    grid = KnnGrid(space, settings.ks, settings.temperatures, accuracy, top5, n, len(bank), selected, reason)
    return grid, _leakage(closest, usual, bank)


def _values(features: Features, space: str) -> NDArray[np.float32]:
    values = features.features if space == "backbone" else features.projections
    assert values is not None  # evaluate_knn asks for projections only where both sets have them
    return values


def _select(
    pair: LabelledPair, values: NDArray[np.float32], settings: KnnSettings, seed: int
) -> tuple[tuple[int, float] | None, str, NDArray[np.float32] | None]:
    """The best (k, T) on the selection split, the smallest of equals; or None and why there is none.

    Last comes how close each selection image lies to the rest of the training set: float32 (n,), or None.
    """
    try:
        fit, selection = selection_split(pair.train.labels, seed=seed, limit=_SELECTION_LIMIT)
    except EvaluationError as error:
        return None, str(error), None
    if len(fit) < settings.ks[0]:
        return None, f"{len(fit)} images to fit on, fewer than k = {settings.ks[0]}", None
    labels = torch.from_numpy(pair.train.labels).to(settings.device)
    search = _Search(UnitRows.of(values, settings, fit), labels[fit], pair.classes, settings)
    queries = UnitRows.of(values, settings, selection)
    counts, closest = search.run(queries, pair.train.labels[selection], None, "", ignore_progress)
    best = int(np.nanargmax(counts.accuracy(len(selection))))
    row, column = divmod(best, len(settings.temperatures))
    return (settings.ks[row], settings.temperatures[column]), "", closest


@dataclass(frozen=True, slots=True)
class UnitRows:
    """Rows of a matrix (all, or those at ``rows``, ascending), scaled to length 1 as they are read; zero stays zero.

    ``values`` is float32 (n, d), perhaps mapped from files; a block has at most ``chunk`` rows.
    """

    values: NDArray[np.float32]
    rows: NDArray[np.intp] | None
    chunk: int
    device: str

    @classmethod
    def of(cls, values: NDArray[np.float32], settings: KnnSettings, rows: NDArray[np.intp] | None = None) -> UnitRows:
        """Blocks of the settings' ``bank_chunk`` rows, of fewer where these take over 128 MB."""
        fitting = max(1, BANK_BYTES // (4 * values.shape[1]))
        return cls(values, rows, min(settings.bank_chunk, fitting), settings.device)

    def __len__(self) -> int:
        return len(self.values) if self.rows is None else len(self.rows)

    def block(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` as unit vectors: float32 on the device."""
        chosen = slice(start, stop) if self.rows is None else self.rows[start:stop]
        part = np.ascontiguousarray(self.values[chosen])
        unit = torch.nn.functional.normalize(torch.from_numpy(part).to(self.device), dim=1)
        first, last = (start, stop - 1) if self.rows is None else self.rows[[start, stop - 1]].tolist()
        release_rows(self.values, first, last + 1)
        return unit

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All blocks in order, each with its first row."""
        for start in range(0, len(self), self.chunk):
            yield start, self.block(start, min(start + self.chunk, len(self)))


class _Search:
    """A bank with labels, ready to classify queries."""

    def __init__(self, bank: UnitRows, labels: torch.Tensor, classes: int, settings: KnnSettings) -> None:
        self.bank, self.labels, self.classes, self.settings = bank, labels, classes, settings

    def run(
        self,
        queries: UnitRows,
        targets: NDArray[np.int64],
        excluded: tuple[NDArray[np.intp], NDArray[np.intp]] | None,
        space: str,
        on_progress: OnProgress,
    ) -> tuple[_Counts, NDArray[np.float32]]:
        """Counts of right answers, and each query's largest similarity: float32 (n,)."""
        chosen = self.settings
        counts = _Counts(chosen.ks, chosen.temperatures, self.classes)
        truth = torch.from_numpy(targets).to(chosen.device)
        closest = np.empty(len(queries), dtype=np.float32)
        k = min(max(chosen.ks), len(self.bank))
        listen = on_progress if space else ignore_progress
        found = nearest(
            queries, self.bank, k, query_chunk=chosen.query_chunk, excluded=excluded, stage=f"kNN {space}",
            on_progress=listen,
        )  # fmt: skip
        for rows, similarity, index in found:
            counts.add(similarity, self.labels[index], truth[rows])
            closest[rows] = similarity[:, 0].cpu().numpy()
        return counts, closest


class _Counts:
    """Right answers so far for every k and temperature: int64 (len(ks), len(temperatures))."""

    def __init__(self, ks: Sequence[int], temperatures: Sequence[float], classes: int) -> None:
        self.ks, self.temperatures, self.classes = ks, temperatures, classes
        self.correct = np.zeros((len(ks), len(temperatures)), dtype=np.int64)
        self.reached = np.zeros(len(ks), dtype=bool)
        self.top5 = 0

    def add(self, similarity: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> None:
        """``similarity`` float32 (b, k) largest first, ``labels`` int64 (b, k), ``targets`` int64 (b,)."""
        centred = similarity - similarity[:, :1]
        for column, temperature in enumerate(self.temperatures):
            weights = torch.exp(centred / temperature)
            votes = similarity.new_zeros(len(similarity), self.classes)
            start = 0
            for row, k in enumerate(self.ks):
                if k > similarity.shape[1]:
                    break
                votes.scatter_add_(1, labels[:, start:k], weights[:, start:k])
                start = k
                self.reached[row] = True
                self.correct[row, column] += int((votes.argmax(1) == targets).sum())
                if k == HEADLINE_K and temperature == HEADLINE_TEMPERATURE and self.classes > 5:
                    self.top5 += int((votes.topk(5).indices == targets[:, None]).any(1).sum())

    def accuracy(self, n: int) -> NDArray[np.float64]:
        values = self.correct / n
        values[~self.reached] = np.nan
        return values


Excluded = tuple[NDArray[np.intp], NDArray[np.intp]]
"""(Query rows, bank rows) that may not be matched, ordered by query row."""


def nearest(
    queries: UnitRows,
    bank: UnitRows,
    k: int,
    *,
    query_chunk: int,
    excluded: Excluded | None = None,
    stage: str = "kNN",
    on_progress: OnProgress = ignore_progress,
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """The k largest cosines of each query with the bank, k at most its size.

    Yields (rows of at most ``query_chunk`` queries, similarities (b, k) largest first, bank rows (b, k)). Which of
    several bank images at exactly the k-th similarity is taken is not defined.
    """
    whole = next(bank.blocks())[1] if len(bank) <= bank.chunk else None
    steps, done = -(-len(bank) // bank.chunk), 0
    for start in range(0, len(queries), QUERY_BLOCK):
        block = queries.block(start, min(start + QUERY_BLOCK, len(queries)))
        search = _Block(block, start, k, query_chunk, excluded)
        for first, part in [(0, whole)] if whole is not None else bank.blocks():
            search.meet(part, first)
            done += len(block)
            on_progress(Progress(stage, done // steps, len(queries)))
        yield from search.found()


class _Block:
    """A block of queries, and the bank rows nearest to each among those met so far."""

    def __init__(self, queries: torch.Tensor, start: int, k: int, chunk: int, excluded: Excluded | None) -> None:
        self.queries, self.start, self.k, self.chunk, self.excluded = queries, start, k, chunk, excluded
        self.best: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * -(-len(queries) // chunk)

    def meet(self, bank: torch.Tensor, first: int) -> None:
        """Compare with bank rows, the first of which is row ``first``."""
        scratch = bank.new_empty(min(self.chunk, len(self.queries)) * len(bank))
        for place in range(len(self.best)):
            part = self.queries[place * self.chunk : (place + 1) * self.chunk]
            similarity = torch.mm(part, bank.T, out=scratch[: len(part) * len(bank)].view(len(part), len(bank)))
            _mask(similarity, self.start + place * self.chunk, first, self.excluded)
            values, index = largest(similarity, min(self.k, len(bank)))
            self.best[place] = self._merged(self.best[place], values, index + first)

    def _merged(
        self, held: tuple[torch.Tensor, torch.Tensor] | None, values: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if held is None:
            return values, places
        both, index = torch.cat([held[0], values], 1), torch.cat([held[1], places], 1)
        best, order = both.topk(min(self.k, both.shape[1]), dim=1)
        return best, index.gather(1, order)

    def found(self) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """What ``nearest`` yields for this block."""
        for place, held in enumerate(self.best):
            assert held is not None
            start = self.start + place * self.chunk
            yield slice(start, start + len(held[0])), *held


def largest(values: torch.Tensor, k: int, *, group: int = 8, ordered: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """``values.topk(k)`` of a wide float matrix (b, m), several times faster; ``ordered`` puts the largest first.

    Columns are dealt to groups; the k largest values of a row lie in the k groups with the largest maxima, since each
    group whose maximum is larger holds one value that is. So only k * group values a row are sorted.
    """
    width = values.shape[1]
    groups = width // group
    if groups < 2 * k:
        return values.topk(k, dim=1, sorted=ordered)
    whole = groups * group
    dealt = values[:, :whole].view(len(values), group, groups)  # column c belongs to group c % groups
    chosen = largest(dealt.amax(1), k, group=group, ordered=False)[1]
    offsets = torch.arange(group, device=values.device) * groups
    columns = (chosen[:, None, :] + offsets[None, :, None]).reshape(len(values), -1)
    if whole < width:
        tail = torch.arange(whole, width, device=values.device).expand(len(values), -1)
        columns = torch.cat([columns, tail], 1)
    best, order = values.gather(1, columns).topk(k, dim=1, sorted=ordered)
    return best, columns.gather(1, order)


def _mask(similarity: torch.Tensor, start: int, first: int, excluded: Excluded | None) -> None:
    """Rule out excluded pairs among queries from row ``start`` and bank rows from ``first``."""
    if excluded is None:
        return
    low, high = np.searchsorted(excluded[0], [start, start + len(similarity)])
    queries, places = excluded[0][low:high], excluded[1][low:high]
    here = (places >= first) & (places < first + similarity.shape[1])
    if here.any():
        similarity[queries[here] - start, places[here] - first] = -torch.inf


def _own_places(pair: LabelledPair) -> Excluded:
    """(Query rows, bank rows) that share a key; a key may lie in the bank several times."""
    places: dict[str, list[int]] = {}
    for place, key in enumerate(pair.train.keys):
        places.setdefault(key, []).append(place)
    found = [(row, place) for row, key in enumerate(pair.test.keys) for place in places.get(key, ())]
    both = np.asarray(found, dtype=np.intp).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _leakage(closest: NDArray[np.float32], usual: NDArray[np.float32] | None, bank: UnitRows) -> tuple[str, ...]:
    """Warnings where queries lie closer to the bank than images that are not in it can be expected to.

    ``closest`` is each query's largest similarity, ``usual`` that of training images left out of the bank.
    """
    if not closest.any():
        return ("all features are 0: the encoder has collapsed",)
    share = float((closest >= LEAKAGE_SIMILARITY).mean())
    if share > LEAKAGE_SHARE:
        if _one_way(bank):
            return ("all features point one way: the encoder has collapsed",)
        return (
            f"{share:.0%} of the queries have a bank image at similarity 1: test images seem to lie in the training "
            "set; compare with exclude_self, or remove the copies",
        )
    if usual is None or min(len(usual), len(closest)) < _ENOUGH_TO_COMPARE:
        return ()
    limit = float(np.quantile(usual, NEAR_COPY_QUANTILE))
    near = float((closest > limit).mean())
    if near <= NEAR_COPY_SHARE:
        return ()
    return (
        f"{near:.0%} of the queries lie closer to a bank image (similarity over {limit:.4f}) than all but "
        f"{1 - NEAR_COPY_QUANTILE:.0%} of the training images to each other: near copies of test images seem to lie in "
        "the training set",
    )


def _one_way(bank: UnitRows) -> bool:
    """Whether all rows are one direction."""
    total = sum(block.double().sum(0) for _, block in bank.blocks())
    return float(torch.linalg.vector_norm(torch.as_tensor(total))) / len(bank) > LEAKAGE_SIMILARITY
