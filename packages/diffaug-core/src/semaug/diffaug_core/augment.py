"""Generated positives of a whole set of samples by a trained DiffAug run, as one artifact (spec S4.1, E7)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from semaug.artifacts.augment_table import augment_columns
from semaug.artifacts.devices import worker_device
from semaug.artifacts.draws import draw_key, normal_rows
from semaug.artifacts.errors import InvalidOption, UnreadableImage
from semaug.artifacts.files import require_space
from semaug.artifacts.places import AnyPath
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import AugmentRow, EncoderCard, Manifest, Skipped, augment_row
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.sources.packed import PIXELS
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter
from semaug.diffaug_core.generator_cards import GeneratorCard, load_generator, load_generator_card
from semaug.diffaug_core.generators import Generator
from semaug.diffaug_core.nearest import describe_nearest
from semaug.diffaug_core.samplers import Sampler
from semaug.diffaug_core.samples import Samples
from semaug.diffaug_core.settings import Condition, DiffAugSettings
from semaug.diffaug_core.training import METHOD
from semaug.ssl_methods.cards import load_card, load_encoder
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.errors import TrainingDiverged

BATCH = {1: 512, 3: 128}
"""Samples generated together, of rows and of images."""
SHARD = {1: 1024, 3: 256}
"""Real samples a shard, of rows and of images."""


@dataclass(frozen=True, slots=True)
class AugmentPlan:
    """What is generated of every sample: ``k`` positives.

    ``sampler``, its ``steps`` and ``eta`` are the run's own where they are None. Raises ``InvalidOption``.
    """

    k: int = 1
    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InvalidOption(f"k is {self.k}; generate 1 positive of each sample at least")

    def settings(self, trained: DiffAugSettings) -> DiffAugSettings:
        """The settings of a run, with the sampling of this plan; raises ``InvalidOption``."""
        chosen = {"sampler": self.sampler, "sampler_steps": self.steps, "eta": self.eta}
        changes: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        if self.sampler not in (None, "ddim") and self.eta is None:
            changes["eta"] = 0.0
        return replace(trained, **changes)


@dataclass(frozen=True)
class TrainedRun:
    """The cards of a finished DiffAug run, and its settings."""

    path: str
    encoder: EncoderCard
    generator: GeneratorCard
    settings: DiffAugSettings

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TrainedRun:
        """Read the cards in the folder ``path``; raises ``MissingWeights`` or ``ArtifactError``.

        ``InvalidOption`` for a run that trained no generator.
        """
        encoder = load_card(Path(path))
        settings = DiffAugSettings.from_record(encoder.config["method"])
        if encoder.method != METHOD or not settings.generate:
            raise InvalidOption(
                f"{path} is a run of {encoder.method} without a generator; train one with `semaug diffaug train`"
            )
        return cls(os.fspath(path), encoder, load_generator_card(Path(path)), settings)

    def load(self, device: str = "cpu") -> tuple[Encoder, Generator]:
        """Both networks on ``device``, in evaluation mode; raises as ``load_generator`` and ``load_encoder`` do."""
        generator, encoder = load_generator(self.path)[0], load_encoder(self.path)[0]
        return encoder.to(device).eval(), generator.to(device).eval()

    def require_fit(self, samples: Samples) -> None:
        """Raise ``InvalidOption`` unless ``samples`` are like those that it was trained on."""
        if tuple(samples.shape) != self.generator.shape:
            raise InvalidOption(
                f"{self.path} was trained on samples {self.generator.shape}, these are {tuple(samples.shape)}; "
                "give samples of that shape, or train on these"
            )

    @property
    def inputs(self) -> dict[str, str]:
        """Digests of both networks' weights."""
        return {"encoder": self.encoder.weights_digest, "generator": self.generator.weights_digest}

    def trained_on(self, samples: Samples) -> bool:
        """Whether it was trained on just these."""
        return self.generator.inputs.get("samples") == samples.fingerprint


def augment(
    samples: Samples,
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    plan: AugmentPlan | None = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    shard_size: int | None = None,
    device: str = "cpu",
    workers: Workers = 1,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Write an ``augment`` artifact: positives of every sample, generated by the DiffAug run in the folder ``run``.

    The noise of a positive depends on the seed, its sample's key and its number alone; a batch's size only moves last
    bits, and is part of the record. ``shard_size`` counts samples. Images are kept as uint8, rows as float32; samples
    that cannot be read are listed as skipped. Rerunning resumes. Workers take the devices of a list in turn. The
    manifest's ``info`` says how far positives are from the nearest samples (``describe_nearest``). Raises
    ``InvalidOption`` for samples of another shape than the run's, ``TrainingDiverged`` where a positive is not finite,
    ``OutputError`` where they will not fit, and what ``TrainedRun`` and ``ArtifactWriter.open`` raise.
    """
    plan, trained = plan or AugmentPlan(), TrainedRun.open(run)
    trained.require_fit(samples)
    rank = len(samples.shape)
    settings = plan.settings(trained.settings)
    work = AugmentWork(samples, trained, settings, plan.k, seed, batch_size or BATCH[rank], device)
    manifest = _manifest(work, shard_size or SHARD[rank])
    with ArtifactWriter.open(out, manifest, overwrite=overwrite) as writer:
        left = len(writer.pending()) / max(1, manifest.shards)
        require_space(Path(out), int(work.item_bytes * manifest.items * left), f"keeping {manifest.items:,} positives")
        process_shards(writer, work, stage="augment", workers=workers, on_progress=on_progress)
        return writer.finish({} if "nearest" in writer.manifest.info else _nearest(writer.path, work))


def _manifest(work: AugmentWork, shard_size: int) -> Manifest:
    samples, settings = work.samples, work.settings
    pixels = {"pixels": found} if (found := getattr(samples, "pixels", "")) else {}
    return Manifest(
        kind="augment",
        items=len(samples) * work.k,
        shard_size=shard_size * work.k,
        seed=work.seed,
        config={
            "k": work.k,
            "form": work.form,
            "shape": list(samples.shape),
            "condition": settings.condition,
            "sampler": {"name": settings.sampler, **asdict(work.sampler)},  # type: ignore[call-overload]
            "batch_size": work.batch_size,
            "class_names": list(getattr(samples, "class_names", ())),
        },
        inputs={"source": samples.fingerprint, **pixels, **work.trained.inputs},
        info={
            "run": work.trained.path,
            "features": list(getattr(samples, "feature_names", ())),
            "steps": list(getattr(samples, "steps", ())),
        },
    )


@dataclass(frozen=True)
class AugmentWork:
    """Positives of the shards of ``samples``: a shard's items are its samples' positives, sample by sample."""

    samples: Samples
    trained: TrainedRun
    settings: DiffAugSettings
    k: int
    seed: int
    batch_size: int
    device: str = "cpu"

    @property
    def form(self) -> str:
        """What the positives are."""
        return "images" if len(self.samples.shape) == 3 else "rows"

    @property
    def item_bytes(self) -> int:
        """What one positive takes."""
        return int(np.prod(self.samples.shape)) * (1 if self.form == "images" else 4)

    @cached_property
    def sampler(self) -> Sampler:
        """What draws the positives."""
        return self.settings.build_sampler(tuple(self.samples.shape))

    def open(self) -> Augmenter:
        device = worker_device(self.device)
        return Augmenter(self, *self.trained.load(device), device)


@dataclass(frozen=True)
class Augmenter:
    """Generates the positives of an ``AugmentWork`` by open networks."""

    work: AugmentWork
    encoder: Encoder = field(repr=False)
    generator: Generator = field(repr=False)
    device: str = "cpu"

    def run(self, indices: range, tick: Tick) -> ShardResult:
        work, k = self.work, self.work.k
        items = range(indices.start // k, indices.stop // k)
        rows: list[AugmentRow] = []
        labels: list[int | None] = []
        values, skipped = [self._stored(torch.empty((0, *work.samples.shape)))], []
        for start in range(0, len(items), per := max(1, work.batch_size // k)):
            kept, clean, unread = self._read(items[start : start + per])
            skipped += unread
            tick(k * len(unread))
            made = [augment_row(work.seed, work.samples.keys[i], number) for i in kept for number in range(k)]
            rows += made
            labels += [work.samples.label(i) for i in kept for _ in range(k)]
            for first in range(0, len(made), work.batch_size):
                part = made[first : first + work.batch_size]
                places = [(first + row) // k for row in range(len(part))]
                labelled = [work.samples.label(kept[place]) for place in places]
                values.append(self._stored(self.generate(part, clean[places], labelled)))
                tick(len(part))
        return ShardResult(augment_columns(rows, np.concatenate(values), labels), skipped)

    def _read(self, items: range) -> tuple[list[int], Tensor, list[Skipped]]:
        """The samples of ``items`` that can be read, and those that cannot."""
        try:
            return list(items), self.work.samples.clean(np.array(items, np.int64)), []
        except UnreadableImage:
            return self._read_one_by_one(items)

    def _read_one_by_one(self, items: range) -> tuple[list[int], Tensor, list[Skipped]]:
        kept, found, skipped = [], [torch.empty((0, *self.work.samples.shape))], []
        for item in items:
            try:
                found.append(self.work.samples.clean(np.array([item], np.int64)))
                kept.append(item)
            except UnreadableImage as error:
                skipped.append(Skipped(key=self.work.samples.keys[item], reason=str(error)))
        return kept, torch.cat(found), skipped

    @torch.no_grad()
    def generate(self, rows: Sequence[AugmentRow], clean: Tensor, labels: Sequence[int | None]) -> Tensor:
        """The positives float32 (B, *shape) of samples ``clean`` (B, *shape), by the noise of ``rows``.

        ``labels`` (B,) are read by a run that was conditioned on them. Raises ``TrainingDiverged`` where one is not
        finite.
        """
        keys = np.array([row.seed for row in rows], np.uint64)
        shape, size = tuple(clean.shape), int(np.prod(clean.shape[1:]))
        even = size + size % 2

        def noise(number: int) -> Tensor:
            drawn = normal_rows(keys, size, number * even).astype(np.float32)
            return torch.from_numpy(drawn).view(shape).to(self.device)

        condition = self._condition(rows, clean.to(self.device, torch.float32), labels)
        schedule = self.work.trained.generator.schedule
        made = self.work.sampler.sample(self.generator, condition, noise(0), lambda t: noise(t + 1), schedule).cpu()
        if not bool(torch.isfinite(made).all()):
            raise TrainingDiverged(
                f"positives of {self.work.trained.path} are not finite; train it for more epochs or at a lower "
                "generator_lr"
            )
        return made

    def _condition(self, rows: Sequence[AugmentRow], clean: Tensor, labels: Sequence[int | None]) -> Tensor:
        kind: Condition = self.work.settings.condition
        width = int(self.generator.condition_features or 0)
        if kind == "random":
            keys = [draw_key(self.work.seed, "augment condition", 0, row.origin, row.number) for row in rows]
            drawn = normal_rows(np.array(keys, np.uint64), width).astype(np.float32)
            return torch.from_numpy(drawn).to(clean.device)
        if kind == "label":
            return _one_hot(rows, labels, width).to(clean)
        y = self.encoder(clean)
        return y if kind == "y" else self.encoder.project(y)

    def _stored(self, made: Tensor) -> NDArray[Any]:
        return to_pixels(made) if self.work.form == "images" else made.numpy()


def _one_hot(rows: Sequence[AugmentRow], labels: Sequence[int | None], width: int) -> Tensor:
    known = [-1 if label is None else label for label in labels]
    if bad := [row.origin for row, label in zip(rows, known, strict=True) if not 0 <= label < width]:
        raise InvalidOption(
            f"the run is conditioned on {width} classes and {bad[0]!r} is of none; give samples with their labels"
        )
    return functional.one_hot(torch.tensor(known, dtype=torch.int64), width)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images float (B, 3, S, S) in [-1, 1], beyond which they are cut, as uint8 (B, S, S, 3)."""
    scaled = images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).numpy())


def from_pixels(images: NDArray[np.uint8]) -> Tensor:
    """Images uint8 (B, S, S, 3) as float32 (B, 3, S, S) in [-1, 1]: what ``to_pixels`` undoes."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div(127.5).sub(1)


def _nearest(path: AnyPath, work: AugmentWork) -> dict[str, Any]:
    """The note on how far a few positives, evenly spread, are from real samples."""
    artifact = Artifact.open(path)
    values = [_values(artifact, m.shard) for m in artifact.markers]
    origins = [k.rpartition("/")[0] for k in artifact.keys]
    if not origins:
        return {}
    trained, unread = work.trained.trained_on(work.samples), {s.key for s in artifact.skipped}
    return {"nearest": describe_nearest(values, origins, work.samples, trained=trained, unread=unread)}


def _values(artifact: Artifact, shard: int) -> NDArray[Any]:
    columns = artifact.shard(shard)
    return columns[PIXELS] if PIXELS in columns else columns["rows"]
