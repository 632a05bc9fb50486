"""How much of a feature survives a change of its image (spec S1.9 i): the mean cosine of f(x) and f(t(x)).

The papers name families of transforms (geometric, colour, mixed) and print no formula; the transforms are handed in, so
that every encoder is measured on the same ones. An encoder that gives every image one feature is perfectly invariant
and useless, so the mean cosine of *different* images stands beside the score, and ``above_chance`` is the score's place
between that (0) and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.draws import draw_key, uniforms
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.schemas import Skipped
from semaug.artifacts.sources.protocol import ImageSource
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Encode, embed
from semaug.eval.geometry.results import (
    GeometryResult,
    directed,
    finite_mean,
    joined,
    undefined,
    unit_rows,
    why_unusable,
    with_error,
)
from semaug.eval.measures import Measure

NUMBERS = 16
"""Uniform numbers that a transform may use for one image."""
Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Images float32 (b, 3, s, s) in [0, 1] and uniform numbers float64 (b, NUMBERS) in [0, 1) to images of that shape."""
COLLAPSED = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Transform:
    """One change of an image: its family, and whether it draws anything (if not, one pass says all)."""

    name: str
    family: str
    change: Change
    random: bool = True


@dataclass(frozen=True, slots=True)
class InvarianceResult:
    """Scores of each space (``backbone``, and ``projector`` where the encoder has one), and the images left out."""

    spaces: Mapping[str, GeometryResult]
    skipped: tuple[Skipped, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        return iter(self._joined())

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._joined().warnings

    def value(self, metric: str) -> float | None:
        """The value of a measure such as ``invariance/backbone/geometric``; raises ``KeyError`` for an unknown name."""
        return self._joined().value(metric)

    def _joined(self) -> GeometryResult:
        return joined(result.under(space) for space, result in self.spaces.items()).under("invariance")


def evaluate_invariance(
    encode: Encode,
    source: ImageSource,
    transforms: Sequence[Transform],
    *,
    input_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    draws: int = 3,
    limit: int | None = None,
    batch_size: int = 128,
    workers: int = 0,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> InvarianceResult:
    """Scores of every transform and family over the images of a source, prepared as the probes' are (``embed``).

    Each random transform is drawn ``draws`` times for each image, from (seed, transform, draw, the image's place), so
    every encoder sees the same changes. A score is the mean over images and draws; ``_std`` is its spread over the
    draws and the interval that over images. A family's score is the mean of its transforms'. ``between_images`` is the
    mean cosine of all pairs of different images. Raises ``EvaluationError`` where no image could be read.
    """
    _check(transforms, draws)
    watched = _Watched(encode, transforms, draws, mean, std, seed)
    training = isinstance(encode, torch.nn.Module) and encode.training
    if isinstance(encode, torch.nn.Module):
        encode.eval()
    try:
        plain = embed(
            watched, source, input_size=input_size, mean=mean, std=std, batch_size=batch_size, workers=workers,
            device=device, limit=limit, seed=seed, on_progress=on_progress,
        )  # fmt: skip
    finally:
        if isinstance(encode, torch.nn.Module):
            encode.train(training)
    spaces = {"backbone": _scores(plain.features, watched.cosines["backbone"], transforms)}
    if plain.projections is not None:
        spaces["projector"] = _scores(plain.projections, watched.cosines["projector"], transforms)
    return InvarianceResult(spaces, plain.skipped)


def _check(transforms: Sequence[Transform], draws: int) -> None:
    if draws < 1 or not transforms:
        raise EvaluationError(f"{len(transforms)} transforms, {draws} draws; give at least one of each")
    names = [t.name for t in transforms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EvaluationError(f"{names.count(twice[0])} transforms are called {twice[0]!r}; give each its own name")


Cosines = dict[tuple[str, int], list[NDArray[np.float64]]]
"""(transform, draw) -> cosines float64 (b,) of each batch."""


@dataclass(slots=True)
class _Watched:
    """An encoder that also encodes every transform of what it is given, and keeps the cosines."""

    encode: Encode
    transforms: Sequence[Transform]
    draws: int
    mean: Sequence[float]
    std: Sequence[float]
    seed: int
    seen: int = 0
    cosines: dict[str, Cosines] = field(default_factory=lambda: {"backbone": {}, "projector": {}})

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        mean, std = (
            torch.tensor(v, dtype=torch.float32, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std)
        )
        pixels = (images * std + mean).clamp_(0, 1)
        plain = self.encode((pixels - mean) / std)
        for transform in self.transforms:
            for draw in range(self.draws if transform.random else 1):
                numbers = self._numbers(transform.name, draw, len(images)).to(images.device)
                changed = self.encode((transform.change(pixels.clone(), numbers) - mean) / std)
                for space, before, after in zip(self.cosines, plain, changed, strict=True):
                    if before is not None and after is not None:
                        kept = self.cosines[space].setdefault((transform.name, draw), [])
                        kept.append(_cosines(before, after))
        self.seen += len(images)
        return plain

    def _numbers(self, name: str, draw: int, count: int) -> torch.Tensor:
        keys = (draw_key(self.seed, f"invariance-{name}", draw, str(self.seen + row)) for row in range(count))
        return torch.from_numpy(np.stack([uniforms(key, NUMBERS) for key in keys]))


def _cosines(before: torch.Tensor, after: torch.Tensor) -> NDArray[np.float64]:
    """Of rows, float64 (b,); NaN where one is not finite or has no direction."""
    first, second = (v.float().cpu().numpy().astype(np.float64) for v in (before, after))
    found = (unit_rows(first) * unit_rows(second)).sum(axis=1)
    found[~np.any(first != 0, axis=1) | ~np.any(second != 0, axis=1)] = np.nan
    return np.clip(found, -1, 1)


def _scores(plain: NDArray[np.float32], cosines: Cosines, transforms: Sequence[Transform]) -> GeometryResult:
    families, n = tuple(dict.fromkeys(t.family for t in transforms)), len(plain)
    if reason := why_unusable(plain, 1):
        return undefined([*families, "between_images"], n, reason)
    drawn = {t.name: _by_draw(cosines, t.name) for t in transforms}
    between, missing = _between_images(plain)
    measures: list[Measure] = []
    for family in families:
        members = {t.name: drawn[t.name] for t in transforms if t.family == family}
        score = _summary(family, list(members.values()), random=True)
        measures += [*score, _above_chance(score[0], between, missing)]
        for t in transforms:
            if t.family == family:
                measures += _summary(f"{family}/{t.name}", [drawn[t.name]], random=t.random)
    return GeometryResult((*measures, Measure("between_images", between, n, missing)), _notes(drawn, between, n))


def _by_draw(cosines: Cosines, name: str) -> NDArray[np.float64]:
    """All cosines of one transform, float64 (draws, n)."""
    return np.stack([np.concatenate(batches) for (of, _), batches in cosines.items() if of == name])


def _summary(metric: str, drawn: Sequence[NDArray[np.float64]], random: bool) -> list[Measure]:
    """The mean over transforms, images and draws; its spread over draws, if any; its interval over images."""
    draws = max(len(found) for found in drawn)
    every = np.mean([np.broadcast_to(found, (draws, found.shape[1])) for found in drawn], axis=0)
    every = every[:, np.isfinite(every).all(axis=0)]
    n = every.shape[1]
    if not n:
        return [Measure(metric, None, 0, "no image has a direction before and after")]
    value, error = finite_mean(every.mean(axis=0))
    score, _, *interval = with_error(metric, value, error, n)
    if not random:
        return [score, *interval]
    spread = float(every.mean(axis=1).std(ddof=1)) if draws > 1 else None
    return [score, Measure(f"{metric}_std", spread, n, "" if draws > 1 else "one draw has no spread"), *interval]


def _between_images(plain: NDArray[np.float32]) -> tuple[float | None, str]:
    """The mean cosine of all pairs of different images, from the length of the sum of unit features; or why not."""
    directions, _ = directed(plain)
    n = len(directions)
    if n < 2:
        return None, f"{n} images with a direction, at least 2 are needed"
    units = unit_rows(plain[directions])
    return float((np.square(units.sum(axis=0)).sum() - n) / (n * (n - 1))), ""


def _above_chance(score: Measure, between: float | None, missing: str) -> Measure:
    """(score - between) / (1 - between): 0 where changed images are as unlike as other images, 1 where all alike."""
    metric = f"{score.metric}_above_chance"
    if score.value is None or between is None:
        return Measure(metric, None, score.n, score.reason or missing)
    if between > COLLAPSED:
        return Measure(metric, None, score.n, "all images have one feature: the encoder has collapsed")
    return Measure(metric, (score.value - between) / (1 - between), score.n)


def _notes(drawn: Mapping[str, NDArray[np.float64]], between: float | None, n: int) -> tuple[str, ...]:
    notes = []
    lost = sum(~np.isfinite(found).all(axis=0) for found in drawn.values())
    if count := int(np.count_nonzero(lost)):
        notes.append(
            f"{count} of {n} images have a feature without direction, or NaN, under some transform: left out of it"
        )
    if between is not None and between > COLLAPSED:
        notes.append("all images have one feature: the encoder has collapsed, and its invariance says nothing")
    return tuple(notes)
