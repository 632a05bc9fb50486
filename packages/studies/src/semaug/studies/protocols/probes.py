"""SVM, k-means, few-shot and semi-supervised probes of the features of a run (spec S1.9 e, S2.8, S4.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from semaug.artifacts.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from semaug.eval.features import Features
    from semaug.eval.measures import Measure
    from semaug.eval.probes.fewshot import FewShotResult
    from semaug.eval.probes.kmeans import KmeansResult
    from semaug.eval.probes.semi import SemiResult
    from semaug.eval.probes.svm import SvmFolds, SvmResult

TRANSDUCTIVE = (
    "the encoder was trained on the images of the folds, without their labels: accuracies over folds are transductive"
)


@dataclass(frozen=True, slots=True)
class SvmReport:
    """Both forms: trained on the training set and scored on the test set, and folds of the training set (None where
    they were not asked for)."""

    held_out: SvmResult
    folds: SvmFolds | None

    def __iter__(self) -> Iterator[Measure]:
        yield from self.held_out
        if self.folds is not None:
            yield from self.folds

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know of either form."""
        more = () if self.folds is None else self.folds.warnings
        return tuple(dict.fromkeys(self.held_out.warnings + more))


def run_svm(
    train: Features,
    test: Features,
    *,
    kernel: str = "linear",
    folds: int | None = None,
    transductive: bool = False,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> SvmReport:
    """A support vector machine, by both forms. ``folds`` None is the kernel's own number, 0 leaves the folds out.

    ``transductive`` says that the encoder was trained on the training images (``trained_on``).
    """
    from semaug.eval.probes.svm import SvmSettings, cross_validate_svm, evaluate_svm

    settings = SvmSettings(kernel, folds=folds or None)
    held_out = evaluate_svm(train, test, settings, seed=seed, on_progress=on_progress)
    if folds == 0:
        return SvmReport(held_out, None)
    found = cross_validate_svm(train, settings, seed=seed, on_progress=on_progress)
    if transductive and not found.reason:
        found = replace(found, warnings=(*found.warnings, TRANSDUCTIVE))
    return SvmReport(held_out, found)


def trained_on(run: Path, images: str) -> bool:
    """Whether the encoder of a run was trained on these very images (or on those of a features artifact)."""
    from semaug.ssl_methods import load_card
    from semaug.studies.evaluation import content_of

    return content_of(images, run)["source"] == load_card(run).inputs.get("source")


def run_kmeans(
    train: Features,
    test: Features,
    *,
    clusters: int | None = None,
    repetitions: int | None = None,
    normalise: bool = False,
    transductive: bool = False,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> KmeansResult:
    """k-means in backbone and projector space; ``clusters`` None is the number of classes."""
    from semaug.eval.probes.kmeans import SEEDS, KmeansSettings, evaluate_kmeans

    settings = KmeansSettings(
        seeds=SEEDS if repetitions is None else repetitions, clusters=clusters, normalise=normalise,
        transductive=transductive,
    )  # fmt: skip
    return evaluate_kmeans(train, test, settings, seed=seed, on_progress=on_progress)


def run_fewshot(
    train: Features,
    test: Features,
    *,
    shots: Sequence[int] = (),
    ways: int | None = None,
    episodes: int | None = None,
    queries: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> FewShotResult:
    """Few-shot episodes; what is None or empty takes ``FewShotSettings``' own, and 0 queries are all of them."""
    from semaug.eval.probes.fewshot import EPISODES, QUERIES, SHOTS, FewShotSettings, evaluate_fewshot

    settings = FewShotSettings(
        shots=tuple(shots) or SHOTS,
        ways=ways,
        episodes=EPISODES if episodes is None else episodes,
        queries=QUERIES if queries is None else queries or None,
        device=device,
    )
    return evaluate_fewshot(train, test, settings, seed=seed, on_progress=on_progress)


def run_semi(
    train: Features,
    test: Features,
    *,
    shares: Sequence[float] = (),
    draws: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> SemiResult:
    """Linear probes on shares of the labels, the backbone frozen; empty ``shares`` are 1% and 10%."""
    from semaug.eval.probes.semi import DRAWS, SHARES, SemiSettings, evaluate_semi

    settings = SemiSettings(tuple(shares) or SHARES, DRAWS if draws is None else draws)
    return evaluate_semi(train, test, settings, device=device, seed=seed, on_progress=on_progress)
