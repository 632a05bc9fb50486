"""Fine-tuning: the whole network and a new linear head, trained on labelled images.

The learning rate is chosen on a selection split of the training set (images only; the test set is read once, at the
end); then the network is trained again on all of it. Views, order and the head's first weights depend on the seed
alone, so that two encoders fine-tuned with one seed are paired.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from semaug.artifacts.draws import generator
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.labelled_images import ImagePair, LabelledImages, image_pair
from semaug.eval.measures import Measure
from semaug.eval.probes.semi import share_name
from semaug.eval.splits import selection_split
from semaug.eval.statistics import summarise
from semaug.eval.subsets import stratified_subset, subset_count
from semaug.eval.training_course import Checkpoints, Course, Diverged, train_course

HEAD_DEVIATION = 0.01
_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers|stages|features)\.(\d+)\.|(?:^|\.)layer(\d+)\.|^(\d+)\.")
_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """``course`` is the training, ``learning_rates`` what the rate is chosen from.

    ``layer_decay`` multiplies the rate of each layer below the next by that factor (Clark et al. 2020; 1: none);
    ``head_factor`` multiplies the new head's. ``label_smoothing`` is a share of the target spread over all classes,
    ``mixup`` the parameter of the Beta distribution that mixes images (Zhang et al. 2018; 0: none). ``note`` says what
    the recipe is and what it leaves out.
    """

    learning_rates: tuple[float, ...]
    course: Course = field(default_factory=Course)
    layer_decay: float = 1.0
    head_factor: float = 1.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise EvaluationError(f"learning rates {self.learning_rates}; give at least one, all above 0")
        if not 0 < self.layer_decay <= 1 or self.head_factor <= 0:
            raise EvaluationError(
                f"layer decay {self.layer_decay} and head factor {self.head_factor}; give a decay above 0 and at most "
                "1, and a factor above 0"
            )
        if not 0 <= self.label_smoothing < 1 or self.mixup < 0:
            raise EvaluationError(
                f"label smoothing {self.label_smoothing} and mixup {self.mixup}; give a share below 1, and 0 or more"
            )


RECIPES: Mapping[str, FinetuneSettings] = {
    "sgd": FinetuneSettings(
        (0.003, 0.01, 0.03, 0.1),
        Course("sgd", epochs=30, batch_size=64, weight_decay=1e-4, nesterov=True),
        note="SGD with momentum for convolutional networks, after Kornblith et al. (2019)",
    ),
    "adamw": FinetuneSettings(
        (1e-4, 3e-4, 1e-3),
        Course("adamw", epochs=30, batch_size=64, weight_decay=0.05, warmup=3),
        layer_decay=0.75,
        label_smoothing=0.1,
        note="AdamW with layer-wise decay for transformers, after He et al. (2022)",
    ),
    "semantic-pairs": FinetuneSettings(
        (1e-5, 3e-5, 1e-4, 3e-4),
        Course("adamw", epochs=100, batch_size=256, weight_decay=0.05, warmup=5),
        label_smoothing=0.1,
        note="Semantic Pairs' Table 4 (DINO ViT-S/8 transferred whole); the paper prints no rates, so one is chosen",
    ),
    "dino": FinetuneSettings(
        (7.5e-6,),
        Course("adamw", epochs=1000, batch_size=768, weight_decay=0.05, warmup=5),
        label_smoothing=0.1,
        mixup=0.8,
        note="DINO's authors' rates for CIFAR-10; without their RandAugment, CutMix and repeated augmentation",
    ),
    "few-labels": FinetuneSettings(
        (0.003, 0.01, 0.03, 0.1),
        Course("sgd", epochs=60, batch_size=64, weight_decay=0.0),
        head_factor=10.0,
        note="Few labels: no weight decay and a faster head, after Caron et al. (2020)",
    ),
}
"""Fine-tuning settings by name. ``few-labels`` is for 1% and 10% of the labels."""


@dataclass(frozen=True, slots=True)
class Finetuned:
    """One fine-tuned network's scores: ``top5`` None with five classes or fewer, ``per_class`` NaN without images.

    ``losses`` is the mean training loss of each epoch of the last training; ``selection_accuracy`` that of each rate
    (None where it diverged).
    """

    seed: int
    top1: float
    top5: float | None
    n: int
    chosen: float
    selection_accuracy: dict[float, float | None]
    losses: tuple[float, ...]
    per_class: NDArray[np.float64]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """Fine-tuning with one or more seeds."""

    runs: tuple[Finetuned, ...]
    class_names: tuple[str, ...]
    prefix: str = "finetune"
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        n = self.runs[0].n
        yield from spread(f"{self.prefix}/top1", [run.top1 for run in self.runs], n)
        top5 = [run.top5 for run in self.runs if run.top5 is not None]
        yield from spread(f"{self.prefix}/top5", top5, n, "five classes or fewer")
        yield from spread(f"{self.prefix}/mean_per_class", [_mean(run.per_class) for run in self.runs], n)
        yield Measure(f"{self.prefix}/learning_rate", summarise([run.chosen for run in self.runs]).mean, n)
        for end, place in (("first", 0), ("last", -1)):
            mean = summarise([run.losses[place] for run in self.runs]).mean
            yield Measure(f"{self.prefix}/train_loss_{end}", mean, n)


def spread(metric: str, values: Sequence[float], n: int, why_none: str = "no value") -> Iterator[Measure]:
    """Mean and standard deviation over runs, with the reason where there is none."""
    if not values:
        yield Measure(metric, None, n, why_none)
        yield Measure(f"{metric}_std", None, n, why_none)
        return
    summary = summarise(values)
    yield Measure(metric, summary.mean, n)
    yield Measure(f"{metric}_std", summary.sd, n, "" if summary.sd is not None else "one run")


def _mean(per_class: NDArray[np.float64]) -> float:
    return float(np.nanmean(per_class))


def evaluate_finetune(
    backbone: nn.Module,
    feature_dim: int,
    train: LabelledImages,
    test: LabelledImages,
    settings: FinetuneSettings | None = None,
    *,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    on_progress: OnProgress = ignore_progress,
) -> FinetuneResult:
    """Fine-tune copies of ``backbone``, which maps images (b, 3, S, S) to features (b, feature_dim), one a seed.

    Raises ``EvaluationError`` and its kin as the probes do, and ``Diverged`` where every learning rate diverges.
    """
    settings, pair = settings or RECIPES["sgd"], image_pair(train, test)
    tuner = _Tuner(backbone, feature_dim, pair, settings, device, checkpoints or Checkpoints(), on_progress)
    runs = tuple(tuner.run(pair.train, seed, f"finetune-{seed}") for seed in seeds)
    notes = tuple(note for run in runs for note in run.warnings)
    return FinetuneResult(runs, pair.class_names, warnings=tuple(dict.fromkeys(pair.warnings + notes)))


@dataclass(frozen=True, slots=True)
class SemiFinetuneResult:
    """Fine-tuning on shares of the labels: for each share its results over draws, and how many labels that was."""

    shares: tuple[tuple[float, int, FinetuneResult], ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        for share, labelled, result in self.shares:
            yield Measure(f"semi/{share_name(share)}/labelled", float(labelled), result.runs[0].n)
            yield from replace(result, prefix=f"semi/{share_name(share)}/finetuned")


def evaluate_semi_finetune(
    backbone: nn.Module,
    feature_dim: int,
    train: LabelledImages,
    test: LabelledImages,
    settings: FinetuneSettings | None = None,
    *,
    shares: Sequence[float] = (0.01, 0.1),
    draws: int = 3,
    seed: int = 0,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    on_progress: OnProgress = ignore_progress,
) -> SemiFinetuneResult:
    """Fine-tune on a share of each class (at least one image), drawn ``draws`` times: the frozen form's subsets.

    Raises as ``evaluate_finetune``.
    """
    if not shares or draws < 1:
        raise EvaluationError(f"{len(shares)} shares and {draws} draws; give at least one of each")
    settings, pair = settings or RECIPES["few-labels"], image_pair(train, test)
    tuner = _Tuner(backbone, feature_dim, pair, settings, device, checkpoints or Checkpoints(), on_progress)
    warnings, found = pair.warnings, []
    for share in shares:
        runs, labelled = [], 0
        for draw in range(draws):
            rows = stratified_subset(pair.train.labels, share, seed, draw=draw)
            labelled = len(rows)
            runs.append(tuner.run(pair.train.take(rows), seed, f"semi-{share_name(share)}-{seed}-{draw}"))
        notes = tuple(f"{share_name(share)}: {note}" for run in runs for note in run.warnings)
        warnings += _rounding(pair.train.labels, share) + notes
        found.append((share, labelled, FinetuneResult(tuple(runs), pair.class_names)))
    return SemiFinetuneResult(tuple(found), tuple(dict.fromkeys(warnings)))


def _rounding(labels: NDArray[np.int64], share: float) -> tuple[str, ...]:
    _, counts = np.unique(labels, return_counts=True)
    short = sum(share * count < 0.5 and subset_count(int(count), share) == 1 for count in counts)
    return (f"{share_name(share)}: one image each of {short} classes, which is more than the share",) if short else ()


class _Tuner:
    """Fine-tunes one backbone on parts of one training set."""

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        pair: ImagePair,
        settings: FinetuneSettings,
        device: str,
        checkpoints: Checkpoints,
        on_progress: OnProgress,
    ) -> None:
        self.backbone, self.feature_dim, self.pair, self.settings = backbone, feature_dim, pair, settings
        self.device, self.checkpoints, self.on_progress = device, checkpoints, on_progress

    def run(self, train: LabelledImages, seed: int, name: str) -> Finetuned:
        """Choose the rate, train on all of ``train``, read the test set; a result kept on disk is returned."""
        if (kept := self.checkpoints.load(f"{name}-result")) is not None:
            return Finetuned(**{**kept, "per_class": np.asarray(kept["per_class"], np.float64)})
        chosen, scores, notes = self._choose(train, seed, name)
        network, losses = self._fit(train, chosen, seed, name)
        top1, top5, per_class = score(network, self.pair.test, len(self.pair.class_names), self.device)
        found = Finetuned(seed, top1, top5, len(self.pair.test), chosen, scores, losses, per_class, notes)
        plain = {field.name: getattr(found, field.name) for field in fields(found)}
        self.checkpoints.save(f"{name}-result", {**plain, "per_class": per_class.tolist()})
        self.checkpoints.forget(name)
        return found

    def _choose(
        self, train: LabelledImages, seed: int, name: str
    ) -> tuple[float, dict[float, float | None], tuple[str, ...]]:
        rates = self.settings.learning_rates
        if len(rates) == 1:
            return rates[0], {}, ()
        if np.bincount(train.labels).max() < 2:
            middle = rates[len(rates) // 2]
            return middle, {}, (f"every class has one image, so the learning rate is {middle:g}, not chosen",)
        fit, selection = selection_split(train.labels, seed=seed)
        scores = {r: self._selection_score(train, fit, selection, r, seed, f"{name}-select-{r:g}") for r in rates}
        known = {rate: value for rate, value in scores.items() if value is not None}
        if not known:
            raise Diverged(f"every learning rate of {rates} diverged; give lower ones")
        chosen = max(known, key=lambda rate: known[rate])
        lost = [f"{rate:g}" for rate in rates if scores[rate] is None]
        notes: tuple[str, ...] = (f"training diverged at the learning rates {', '.join(lost)}",) if lost else ()
        if chosen in (rates[0], rates[-1]) and list(known.values()).count(known[chosen]) == 1:
            notes += (f"the chosen learning rate {chosen:g} is at the end of {rates}: a wider list may do better",)
        return chosen, scores, notes

    def _selection_score(
        self,
        train: LabelledImages,
        fit: NDArray[np.intp],
        selection: NDArray[np.intp],
        rate: float,
        seed: int,
        name: str,
    ) -> float | None:
        """Accuracy on the selection split, kept on disk once known; None where training diverged."""
        if (kept := self.checkpoints.load(f"{name}-score")) is not None:
            return None if kept["score"] is None else float(kept["score"])
        try:
            network, _ = self._fit(train.take(fit), rate, seed, name)
            found = score(network, train.take(selection), len(self.pair.class_names), self.device)[0]
        except Diverged:
            found = None
        self.checkpoints.save(f"{name}-score", {"score": found})
        self.checkpoints.forget(name)
        return found

    def _fit(self, train: LabelledImages, rate: float, seed: int, name: str) -> tuple[nn.Module, tuple[float, ...]]:
        settings = self.settings
        network = Classifier(self.backbone, self.feature_dim, len(self.pair.class_names), seed).to(self.device)
        labels = torch.from_numpy(train.labels).to(self.device)
        network.train()

        def loss(images: torch.Tensor, rows: NDArray[np.intp], step: int) -> torch.Tensor:
            return classification_loss(network, images, labels[torch.from_numpy(rows)], settings, seed, step)

        optimizer = settings.course.build(parameter_groups(network, settings), rate)
        losses = train_course(
            network, loss, train.views, len(train), settings.course, optimizer, name=name, seed=seed,
            device=self.device, checkpoints=self.checkpoints, on_progress=self.on_progress,
        )  # fmt: skip
        return network, losses


class Classifier(nn.Module):
    """A copy of a backbone and a new linear head (normal weights of deviation 0.01, no bias) drawn from the seed."""

    def __init__(self, backbone: nn.Module, feature_dim: int, classes: int, seed: int) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.backbone.requires_grad_(True)
        self.head = nn.Linear(feature_dim, classes)
        with torch.no_grad():
            draws = generator(seed, "finetune-head").normal(0, HEAD_DEVIATION, (classes, feature_dim))
            self.head.weight.copy_(torch.from_numpy(draws))
            self.head.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (b, classes) of images (b, 3, S, S)."""
        return self.head(self.backbone(images))


def classification_loss(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, settings: FinetuneSettings, seed: int, step: int
) -> torch.Tensor:
    """Mean cross-entropy of a batch, smoothed and mixed as the settings say."""
    smoothing = settings.label_smoothing
    if not settings.mixup or len(images) < 2:
        return F.cross_entropy(network(images), labels, label_smoothing=smoothing)
    rng = generator(seed, "finetune-mixup", epoch=step)
    share = float(rng.beta(settings.mixup, settings.mixup))
    other = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    logits = network(share * images + (1 - share) * images[other])
    first, second = (F.cross_entropy(logits, y, label_smoothing=smoothing) for y in (labels, labels[other]))
    return share * first + (1 - share) * second


def parameter_groups(network: Classifier, settings: FinetuneSettings) -> list[dict[str, Any]]:
    """Groups with a ``factor`` of the rate by depth; under AdamW vectors, tokens and positions are not decayed.

    Raises ``EvaluationError`` for layer-wise decay of a backbone whose layers its parameters' names do not tell.
    """
    depths = layer_depths([name for name, _ in network.backbone.named_parameters()])
    last = max(depths.values(), default=0) + 1
    if settings.layer_decay < 1 and last == 1:
        raise EvaluationError(
            f"a layer decay of {settings.layer_decay:g} for {type(network.backbone).__name__}, whose layers are not "
            "numbered; give a decay of 1"
        )
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        own = name.removeprefix("backbone.")
        factor = settings.layer_decay ** (last - depths[own]) if own in depths else settings.head_factor
        whole = settings.course.optimizer == "sgd" or (
            parameter.ndim > 1 and own.split(".")[-1] not in ("cls_token", "pos_embed")
        )
        groups.setdefault((factor, whole), []).append(parameter)
    return [
        {"params": members, "factor": factor} | ({} if whole else {"weight_decay": 0.0})
        for (factor, whole), members in groups.items()
    ]


def layer_depths(names: Sequence[str]) -> dict[str, int]:
    """The depth of each parameter of a backbone by its name: stem 0, then blocks or stages 1, 2, ...

    What follows the last block belongs with it.

    >>> layer_depths(["cls_token", "blocks.0.w", "blocks.1.w", "norm.weight"])
    {'cls_token': 0, 'blocks.0.w': 1, 'blocks.1.w': 2, 'norm.weight': 2}
    """
    found = {name: next((int(g) for g in m.groups() if g), 0) for name in names if (m := _BLOCK.search(name))}
    order = {number: depth for depth, number in enumerate(sorted(set(found.values())), 1)}
    depths, seen = {}, False
    for name in names:
        seen = seen or name in found
        depths[name] = order[found[name]] if name in found else (len(order) if seen else 0)
    return depths


def score(
    network: nn.Module, images: LabelledImages, classes: int, device: str
) -> tuple[float, float | None, NDArray[np.float64]]:
    """Top-1, top-5 (None with five classes or fewer) and top-1 of each class (NaN without images)."""
    network.eval()
    parts = np.array_split(np.arange(len(images)), -(-len(images) // _EVALUATION_BATCH))
    with torch.inference_mode():
        logits = torch.cat([network(images.plain(part).to(device)) for part in parts])
    guesses = logits.topk(min(5, classes), dim=1).indices.cpu().numpy()
    right = guesses[:, 0] == images.labels
    counts = np.bincount(images.labels, minlength=classes)
    hits = np.bincount(images.labels, weights=right, minlength=classes)
    per_class = np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0)
    top5 = float((guesses == images.labels[:, None]).any(1).mean()) if classes > 5 else None
    return float(right.mean()), top5, per_class
