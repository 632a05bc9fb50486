"""Few-shot classification of frozen features (spec S1.9 e): many small balanced training sets, scored on test images.

An episode draws its support from the training set and its queries from the test set. Features are scaled to length
1. Two classifiers read the support: multinomial logistic regression with C = 1 (Tian et al. 2020, "Rethinking
Few-Shot Image Classification"), and the nearest class mean (Snell et al. 2017, "Prototypical Networks").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.errors import EvaluationError, OneClass
from semaug.eval.features import Features
from semaug.eval.measures import Measure
from semaug.eval.probes.batched_logistic import fit_logistic_batch
from semaug.eval.splits import LabelledPair, labelled_pair
from semaug.eval.statistics import paired_difference, summarise
from semaug.eval.subsets import overlap_warning

SHOTS = (1, 5, 20)
EPISODES = 100
QUERIES = 100
CLASSIFIERS = ("logistic", "centroid")
_BATCH_NUMBERS = 2**24  # float64 numbers of the supports solved at once: 134 MB


@dataclass(frozen=True, slots=True)
class FewShotSettings:
    """Lists to evaluate. ``ways`` None is all classes; fewer are drawn anew for each episode.

    ``queries`` caps the test images a class gives to an episode (None: all of them). ``cost`` is the C of the
    logistic regression: C times the summed cross-entropy beside |W|^2 / 2, with a free bias.
    """

    shots: tuple[int, ...] = SHOTS
    episodes: int = EPISODES
    ways: int | None = None
    queries: int | None = QUERIES
    cost: float = 1.0
    classifiers: tuple[str, ...] = CLASSIFIERS
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.shots, default=0) < 1 or self.episodes < 1:
            raise EvaluationError(f"{self.episodes} episodes of {self.shots} shots; give at least 1 of each")
        if self.ways is not None and self.ways < 2:
            raise EvaluationError(f"{self.ways} ways; give at least 2, or none for all classes")
        if self.queries is not None and self.queries < 1:
            raise EvaluationError(f"{self.queries} queries a class; give at least 1, or none for all")
        if self.cost <= 0:
            raise EvaluationError(f"a cost of {self.cost}; give one above 0")
        if not self.classifiers or not set(self.classifiers) <= set(CLASSIFIERS):
            raise EvaluationError(f"classifiers {self.classifiers}; choose from {', '.join(CLASSIFIERS)}")


@dataclass(frozen=True, slots=True)
class FewShotScores:
    """Top-1 accuracy of each episode at one number of shots, by classifier; ``reason`` says why there is none.

    ``n`` counts the test images that may be asked for. The interval is Student's at 95% over the episodes: it tells
    how sure the mean over draws is, for these test images.
    """

    shots: int
    accuracies: dict[str, tuple[float, ...]]
    n: int
    reason: str = ""

    def __iter__(self) -> Iterator[Measure]:
        for classifier, values in self.accuracies.items():
            name = f"fewshot/{self.shots}-shot/{classifier}/top1"
            ends = ("", "_std", "_interval_low", "_interval_high")
            if self.reason:
                yield from (Measure(name + end, None, self.n, self.reason) for end in ends)
                continue
            summary, interval = summarise(values), paired_difference(values, [0.0] * len(values))
            for end, value in zip(ends, (summary.mean, summary.sd, interval.low, interval.high), strict=True):
                yield Measure(name + end, value, self.n, "" if value is not None else "one episode")


@dataclass(frozen=True, slots=True)
class FewShotResult:
    """Scores of each number of shots, over ``ways`` classes an episode."""

    scores: tuple[FewShotScores, ...]
    ways: int
    episodes: int
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        for scores in self.scores:
            yield from scores


@dataclass(frozen=True, slots=True)
class Episode:
    """One draw: ``support`` (ways, shots) rows of the training set, ``queries`` rows of the test set, ``targets`` the
    way (0 to ways - 1) of each query."""

    support: NDArray[np.intp]
    queries: NDArray[np.intp]
    targets: NDArray[np.intp]


def evaluate_fewshot(
    train: Features,
    test: Features,
    settings: FewShotSettings | None = None,
    *,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> FewShotResult:
    """Mean accuracy over episodes at each number of shots.

    Classes that only one of the sets holds are left out, with a warning. The support of fewer shots lies within that
    of more. More shots than a class has training images give None with the reason. Raises ``EvaluationError`` and
    its kin.
    """
    settings = settings or FewShotSettings()
    pair, warnings = _shared_classes(labelled_pair(train, test))
    rows = _ClassRows(pair)
    ways = settings.ways or len(rows.classes)
    if ways > len(rows.classes):
        raise EvaluationError(f"{ways} ways of {len(rows.classes)} classes; give at most as many as there are classes")
    reasons = {shots: rows.too_few(shots, pair.train.class_names) for shots in settings.shots}
    possible = tuple(shots for shots in settings.shots if not reasons[shots])
    found: dict[int, dict[str, tuple[float, ...]]] = {}
    if possible:
        episodes = [
            draw_episode(rows, ways, max(possible), settings.queries, seed, e) for e in range(settings.episodes)
        ]
        found = _Scorer(pair, settings, on_progress, len(possible)).run(episodes, possible)
    nothing: dict[str, tuple[float, ...]] = dict.fromkeys(settings.classifiers, ())
    scores = tuple(FewShotScores(s, found.get(s, nothing), len(pair.test), reasons[s]) for s in settings.shots)
    return FewShotResult(scores, ways, settings.episodes, warnings)


class _ClassRows:
    """Rows of each class in the training and in the test set."""

    def __init__(self, pair: LabelledPair) -> None:
        self.classes = np.unique(pair.train.labels)
        self.train = [np.flatnonzero(pair.train.labels == label) for label in self.classes]
        self.test = [np.flatnonzero(pair.test.labels == label) for label in self.classes]

    def too_few(self, shots: int, names: tuple[str, ...]) -> str:
        counts = [len(rows) for rows in self.train]
        if min(counts) >= shots:
            return ""
        smallest = names[self.classes[int(np.argmin(counts))]]
        return f"{shots} shots, and class {smallest} has {min(counts)} training image{'s' * (min(counts) > 1)}"


def _shared_classes(pair: LabelledPair) -> tuple[LabelledPair, tuple[str, ...]]:
    """The images of classes that both sets hold, and a warning about the rest."""
    shared = np.intersect1d(pair.train.labels, pair.test.labels)
    if len(shared) < 2:
        raise OneClass(f"training and test set share {len(shared)} classes; few-shot episodes need at least 2")
    left = len(np.union1d(pair.train.labels, pair.test.labels)) - len(shared)
    train, test = (part.take(np.isin(part.labels, shared)) for part in (pair.train, pair.test))
    kept = LabelledPair(train, test)
    warning = (f"{left} classes are in the training or the test set alone and take no part",) if left else ()
    return kept, warning + overlap_warning(kept)


def draw_episode(rows: _ClassRows, ways: int, shots: int, queries: int | None, seed: int, number: int) -> Episode:
    """Episode ``number`` of a seed: the same whatever the other episodes are."""
    rng = generator(seed, "few-shot", epoch=number)
    total = len(rows.classes)
    chosen = np.arange(total) if ways == total else np.sort(rng.choice(total, ways, replace=False))
    support = np.stack([rng.permutation(rows.train[place])[:shots] for place in chosen])
    asked = [rows.test[place] if queries is None else rng.permutation(rows.test[place])[:queries] for place in chosen]
    targets = np.repeat(np.arange(ways), [len(part) for part in asked])
    return Episode(support, np.concatenate(asked), targets)


class _Scorer:
    """Classifies the queries of all episodes, a batch of episodes at a time."""

    def __init__(self, pair: LabelledPair, settings: FewShotSettings, on_progress: OnProgress, lists: int) -> None:
        self.settings, self.on_progress, self.lists = settings, on_progress, lists
        self.bank, self.queries = (_unit(part.features, settings.device) for part in (pair.train, pair.test))

    def run(self, episodes: list[Episode], shots: tuple[int, ...]) -> dict[int, dict[str, tuple[float, ...]]]:
        """Accuracies (one an episode) by shots and classifier."""
        found: dict[int, dict[str, tuple[float, ...]]] = {}
        for position, count in enumerate(shots):
            values: dict[str, tuple[float, ...]] = dict.fromkeys(self.settings.classifiers, ())
            for batch in self._batches(episodes, count):
                for classifier, column in zip(values, self._accuracies(batch, count).T, strict=True):
                    values[classifier] += tuple(column.tolist())
                done = position * len(episodes) + len(values[self.settings.classifiers[0]])
                self.on_progress(Progress("few-shot", done, self.lists * len(episodes), unit="episodes"))
            found[count] = values
        return found

    def _batches(self, episodes: list[Episode], shots: int) -> Iterator[list[Episode]]:
        images = episodes[0].support.shape[0] * shots
        size = max(1, _BATCH_NUMBERS // (images * max(images, self.bank.shape[1])))
        for start in range(0, len(episodes), size):
            yield episodes[start : start + size]

    def _accuracies(self, batch: list[Episode], shots: int) -> NDArray[np.float64]:
        """Accuracy of each classifier on the queries of each episode: (episodes, classifiers)."""
        support = torch.from_numpy(np.stack([episode.support[:, :shots] for episode in batch]))
        known = self.bank[support.to(self.bank.device)]  # (episodes, ways, shots, d)
        solve = {"logistic": self._logistic, "centroid": self._centroids}
        solved = [solve[classifier](known) for classifier in self.settings.classifiers]
        weights, biases = (torch.stack(parts, 1) for parts in zip(*solved, strict=True))
        return np.stack([self._score(episode, weights[e], biases[e]) for e, episode in enumerate(batch)])

    def _centroids(self, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest of the class means as a linear classifier: 2 x.m - |m|^2 is largest where |x - m| is least."""
        means = known.mean(2)
        return 2 * means.mT, -means.square().sum(2)

    def _logistic(self, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        episodes, ways, shots, width = known.shape
        labels = torch.arange(ways, device=known.device).repeat_interleave(shots).expand(episodes, -1)
        fitted = fit_logistic_batch(known.reshape(episodes, -1, width).double(), labels, ways, self.settings.cost)
        return fitted[0].to(known.dtype), fitted[1].to(known.dtype)

    def _score(self, episode: Episode, weights: torch.Tensor, biases: torch.Tensor) -> NDArray[np.float64]:
        """Accuracy of each classifier: weights (classifiers, d, ways), biases (classifiers, ways)."""
        asked = self.queries[torch.from_numpy(episode.queries).to(self.queries.device)]
        logits = asked @ torch.cat(tuple(weights), 1) + biases.flatten()
        predicted = logits.view(len(asked), len(weights), -1).argmax(2).cpu().numpy()
        right: NDArray[np.float64] = (predicted == episode.targets[:, None]).mean(0)
        return right


def _unit(values: NDArray[np.float32], device: str) -> torch.Tensor:
    """Rows scaled to length 1; a zero row stays zero."""
    return torch.nn.functional.normalize(torch.tensor(np.asarray(values)).to(device), dim=1)
