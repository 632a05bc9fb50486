"""Evaluations that train: fine-tuning with all or few labels, and distillation into another network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption, UnreadableImage
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.schemas import Skipped
from semaug.artifacts.sources import ImageSource, inputs_of, open_source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from semaug.eval.distillation import DistillationResult, DistillationSettings, EncodedSets
    from semaug.eval.labelled_images import LabelledImages
    from semaug.eval.probes.finetune import FinetuneResult, FinetuneSettings, SemiFinetuneResult
    from semaug.eval.training_course import Checkpoints
    from semaug.ssl_methods.encoder import Encoder, EncoderSpec

CHECKPOINTS = "checkpoints"
"""Where a protocol that trains keeps what it has done, below the folder of its results."""
SMALL_SCALE = (0.4, 1.0)
LARGE_SCALE = (0.08, 1.0)
"""A training crop's share of the image, for inputs below 128 pixels and from 128 on."""
DISTIL_METHOD = "distil"


@dataclass(frozen=True, slots=True)
class Trained:
    """A result with the images it is of, whose ``skipped`` could not be read."""

    result: Any
    images: tuple[LabelledImages, ...]


def crop_scale(size: int) -> tuple[float, float]:
    """The usual crop of training views: ImageNet's for large inputs, a milder one for small ones."""
    from semaug.eval.features import LARGE_INPUT

    return LARGE_SCALE if size >= LARGE_INPUT else SMALL_SCALE


def labelled_images(
    source: ImageSource,
    spec: EncoderSpec,
    *,
    seed: int = 0,
    scale: tuple[float, float] | None = None,
    workers: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> LabelledImages:
    """The readable images of a source as an encoder of this spec sees them.

    A view is a RandomResizedCrop (``scale`` of the image, antialiased) and a flip, drawn from (seed, epoch, key); a
    plain image is the centre square of the frozen protocols. Every image is read once first, to leave out those that
    cannot be. Raises ``InvalidOption`` for an encoder of tables.
    """
    import numpy as np

    from semaug.artifacts.sources import labels_of
    from semaug.eval.features import enlarged_note
    from semaug.eval.labelled_images import LabelledImages
    from semaug.pairs_dataset import make_pairs

    if spec.input_size is None:
        raise InvalidOption(f"backbone {spec.backbone!r} reads rows of a table; images need another encoder")
    size = spec.input_size
    kept, sizes, skipped = _readable(source, workers, on_progress)
    pairs = make_pairs(
        "standard", source, preset="crop_flip", size=size, mean=spec.mean, std=spec.std, seed=seed,
        scale=scale or crop_scale(size),
    )  # fmt: skip
    shown = _Shown(pairs, np.asarray(kept, np.intp), size, workers)
    keys = tuple(source.key(i) for i in kept)
    notes = enlarged_note(np.asarray(sizes, np.int32).reshape(-1, 2), size)
    labels = labels_of(source)[kept] if kept else np.empty(0, np.int64)
    return LabelledImages(labels, keys, source.class_names, shown.views, shown.plain, tuple(skipped), notes)


def readers(workers: int, device: str) -> int:
    """Threads that read and render images: those asked for, else one, and on a GPU as many as there are cores."""
    return workers or (1 if device == "cpu" else min(16, os.cpu_count() or 1))


class _Shown:
    """Views and plain images of some rows of a pair source's images."""

    def __init__(self, pairs: Any, rows: NDArray[np.intp], size: int, workers: int) -> None:
        self.pairs, self.rows, self.size, self.workers = pairs, rows, size, workers

    def views(self, rows: NDArray[np.intp], epoch: int) -> torch.Tensor:
        """The first of the two views that the pairs would give in this epoch."""
        import numpy as np
        import torch

        from semaug.pairs_dataset.photometrics import normalisation, render_views, scratch_length

        self.pairs.set_epoch(epoch)
        norm = normalisation(self.pairs.views.mean, self.pairs.views.std)
        out = np.empty((len(rows), 3, self.size, self.size), np.float32)

        def show(place: int) -> None:
            _, image, crops, keys, recipes = self.pairs.raw(int(self.rows[rows[place]]))
            scratch = np.empty(scratch_length(self.size), np.float32)
            render_views(image, crops[:1], keys[:1], recipes[:1], norm, scratch, out[place : place + 1])

        for _ in _mapped(show, range(len(rows)), self.workers):
            pass
        return torch.from_numpy(out)

    def plain(self, rows: NDArray[np.intp]) -> torch.Tensor:
        """Prepared as for the frozen protocols."""
        import numpy as np
        import torch

        from semaug.eval.features import default_crop, prepare

        def read(row: int) -> Any:
            return prepare(self.pairs.source.read(int(self.rows[row])), self.size, default_crop(self.size))

        pixels = torch.from_numpy(np.stack(list(_mapped(read, rows.tolist(), self.workers)))).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.pairs.views.mean, self.pairs.views.std))
        return ((pixels.float() / 255 - mean) / std).contiguous()


def _mapped(function: Any, items: Sequence[int], workers: int) -> Iterator[Any]:
    """``function`` of each item in order, by threads (decoding and rendering release the interpreter's lock)."""
    if workers < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, items)


def _readable(
    source: ImageSource, workers: int, on_progress: OnProgress
) -> tuple[list[int], list[tuple[int, int]], list[Skipped]]:
    """Indices and (height, width) of the images that can be read, and the others with their reasons."""

    def look(index: int) -> tuple[int, int] | str:
        try:
            height, width = source.read(index).shape[:2]
        except UnreadableImage as error:
            return str(error)
        return height, width

    kept, sizes, skipped = [], [], []
    for index, found in enumerate(_mapped(look, range(len(source)), workers)):
        if isinstance(found, str):
            skipped.append(Skipped(key=source.key(index), reason=found))
        else:
            kept.append(index)
            sizes.append(found)
        on_progress(Progress("read images", index + 1, len(source)))
    return kept, sizes, skipped


def finetune_settings(
    run: Path,
    recipe: str | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] = (),
    layer_decay: float | None = None,
    label_smoothing: float | None = None,
    mixup: float | None = None,
) -> FinetuneSettings:
    """A recipe of ``RECIPES`` with some of its settings replaced; the warm-up keeps its share of the epochs.

    Without a name it is ``adamw`` for a transformer and ``sgd`` for anything else. Raises ``InvalidOption`` for an
    unknown name, ``EvaluationError`` for settings that cannot be.
    """
    from semaug.eval.probes.finetune import RECIPES
    from semaug.ssl_methods import load_card

    if recipe is None:
        backbone = load_card(run).backbone.removeprefix("timm:")
        recipe = "adamw" if backbone.startswith(("vit", "deit")) else "sgd"
    if recipe not in RECIPES:
        raise InvalidOption(f"no recipe is called {recipe!r}; choose one of {', '.join(RECIPES)}")
    known = RECIPES[recipe]
    course = known.course
    if epochs is not None:
        course = replace(course, epochs=epochs, warmup=course.warmup * epochs / course.epochs)
    if batch_size is not None:
        course = replace(course, batch_size=batch_size)
    given = {"layer_decay": layer_decay, "label_smoothing": label_smoothing, "mixup": mixup}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if learning_rates:
        changes["learning_rates"] = tuple(learning_rates)
    return replace(known, course=course, **changes)


def run_finetune(
    run: Path,
    train: str,
    test: str,
    settings: FinetuneSettings,
    *,
    repeats: int = 1,
    seed: int = 0,
    scale: tuple[float, float] | None = None,
    out: Path | None = None,
    device: str = "cpu",
    workers: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Trained:
    """Fine-tune the encoder of a run with ``repeats`` seeds from ``seed`` on; ``result`` is a ``FinetuneResult``.

    What is done is kept below ``out`` (RUN/eval) until the result is complete, so that the same call goes on after a
    stop. Raises as ``evaluate_finetune``.
    """
    from semaug.eval.probes.finetune import evaluate_finetune

    if repeats < 1:
        raise InvalidOption(f"{repeats} repeats; give at least 1")
    images = _Images(run, train, test, seed, scale, readers(workers, device), on_progress)
    with _checkpoints(images, out, "finetune", settings) as kept:
        result: FinetuneResult = evaluate_finetune(
            images.encoder.backbone, images.encoder.feature_dim, images.train, images.test, settings,
            seeds=range(seed, seed + repeats), device=device, checkpoints=kept, on_progress=on_progress,
        )  # fmt: skip
    return Trained(result, (images.train, images.test))


def semi_finetuned(
    run: Path,
    train: str,
    test: str,
    settings: FinetuneSettings | None = None,
    *,
    shares: Sequence[float] = (0.01, 0.1),
    draws: int = 3,
    seed: int = 0,
    scale: tuple[float, float] | None = None,
    out: Path | None = None,
    device: str = "cpu",
    workers: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Trained:
    """Fine-tune the encoder of a run on shares of the labels; ``result`` is a ``SemiFinetuneResult``.

    The labelled subsets are those of the frozen form with the same seed. Resumes as ``run_finetune``.
    """
    from semaug.eval.probes.finetune import RECIPES, evaluate_semi_finetune

    settings = settings or RECIPES["few-labels"]
    images = _Images(run, train, test, seed, scale, readers(workers, device), on_progress)
    with _checkpoints(images, out, "semi-finetune", settings) as kept:
        result: SemiFinetuneResult = evaluate_semi_finetune(
            images.encoder.backbone, images.encoder.feature_dim, images.train, images.test, settings, shares=shares,
            draws=draws, seed=seed, device=device, checkpoints=kept, on_progress=on_progress,
        )  # fmt: skip
    return Trained(result, (images.train, images.test))


class _Images:
    """A run's encoder, and training and test images as it sees them."""

    def __init__(
        self,
        run: Path,
        train: str,
        test: str,
        seed: int,
        scale: tuple[float, float] | None,
        workers: int,
        on_progress: OnProgress,
    ) -> None:
        from semaug.ssl_methods import load_encoder

        self.run, self.specs, self.scale = run, {"train": train, "test": test}, scale
        self.seed = seed
        sources = {role: image_source(spec, role) for role, spec in self.specs.items()}
        self.encoder, self.card = load_encoder(run)
        made = {
            role: labelled_images(
                source, self.encoder.spec, seed=seed, scale=scale, workers=workers, on_progress=on_progress
            )
            for role, source in sources.items()
        }
        self.train = made["train"]
        self.test = replace(made["test"], notes=(*made["test"].notes, *_shared(sources["train"], sources["test"])))


def _shared(train: ImageSource, test: ImageSource) -> tuple[str, ...]:
    """A note where test images, by content, lie in the training set."""
    known = {_content(train, i) for i in range(len(train))}
    count = sum(_content(test, i) in known for i in range(len(test)))
    if not count:
        return ()
    return (f"{count} of {len(test)} test images lie in the training set: their share of the score is memory",)


def _content(source: ImageSource, index: int) -> bytes:
    """What identifies an image's content; of one that cannot be read, its key."""
    from semaug.artifacts.sources.base import Source, pixels_hash

    try:
        return source.content_hash(index) if isinstance(source, Source) else pixels_hash(source.read(index))
    except UnreadableImage:
        return source.key(index).encode()


def image_source(spec: str, role: str) -> ImageSource:
    """The images of a spec; raises ``InvalidOption`` where it gives their features alone."""
    from semaug.studies.protocols.features import is_features

    if is_features(spec):
        raise InvalidOption(f"--{role} {spec} holds features, and this trains on images; give the images")
    return open_source(spec)


@contextmanager
def _checkpoints(images: _Images, out: Path | None, name: str, settings: FinetuneSettings) -> Iterator[Checkpoints]:
    """Where this evaluation's work is kept; emptied once it is done."""
    from semaug.eval.training_course import Checkpoints
    from semaug.studies.evaluation import content_of

    identity = {
        "encoder": images.card.weights_digest,
        "sources": {role: content_of(spec) for role, spec in images.specs.items()},
        "settings": asdict(settings),
        "scale": images.scale,
        "views_seed": images.seed,
    }
    kept = Checkpoints((out or images.run / "eval") / CHECKPOINTS / name, identity)
    yield kept
    kept.clear()


def run_distil(
    run: Path,
    images: str,
    train: str,
    test: str,
    *,
    out: Path,
    backbone: str = "resnet18",
    options: Sequence[str] = (),
    settings: DistillationSettings | None = None,
    scale: tuple[float, float] | None = None,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    keep: bool = True,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> Trained:
    """Distil the encoder of a run into a new ``backbone`` on ``images``, whose labels are not read, and score both.

    ``options`` are the backbone's, written ``name=value``. The student is of the teacher's input size and is written
    to ``out`` as a run of its own (weights, card, curve); its projector is the linear map to the teacher's features.
    Rerunning resumes, or scores the finished student; other settings are refused unless ``overwrite``. ``result`` is a
    ``DistillationResult``. Raises as ``distil``, ``RunFolder.open`` and ``evaluate_linear``.
    """
    from semaug.eval.distillation import DistillationSettings
    from semaug.ssl_methods import load_encoder

    settings = settings or DistillationSettings()
    teacher, card = load_encoder(run)
    for role, spec in (("images", images), ("train", train), ("test", test)):
        image_source(spec, role)
    student = _student(backbone, teacher, seed, options)
    scale = scale or crop_scale(teacher.image_size)
    identity = {
        "method": {"name": DISTIL_METHOD, **asdict(settings)},
        "encoder": asdict(student.spec),
        "scale": list(scale),
        "seed": seed,
    }
    source = open_source(images)
    inputs = {**inputs_of(source), "teacher": card.weights_digest}
    made = _Student(student, identity, inputs, out, overwrite)
    threads = readers(workers, device)
    shown = labelled_images(source, student.spec, seed=seed, scale=scale, workers=threads, on_progress=on_progress)
    losses = made.trained(teacher, shown, settings, seed, device, on_progress)
    fresh = _student(backbone, teacher, seed, options)
    result = _score(run, out, fresh, (train, test), losses, device=device, workers=workers, keep=keep, seed=seed)
    return Trained(result, (shown,))


def distillation_settings(*, epochs: int, batch_size: int, lr: float) -> DistillationSettings:
    """The default distillation at this length, batch and rate; a thirtieth of it is warm-up."""
    from semaug.eval.distillation import DistillationSettings

    known = DistillationSettings()
    warmup = known.course.warmup * epochs / known.course.epochs
    return replace(known, lr=lr, course=replace(known.course, epochs=epochs, batch_size=batch_size, warmup=warmup))


def _student(backbone: str, teacher: Encoder, seed: int, options: Sequence[str]) -> Encoder:
    """A new encoder with the teacher's input, and one linear layer to its features as the projector."""
    from semaug.ssl_methods import ProjectorSpec, build_encoder
    from semaug.ssl_methods.backbones import read_options

    return build_encoder(
        backbone, input_size=teacher.image_size, mean=teacher.spec.mean, std=teacher.spec.std,
        options=read_options(options), projector=ProjectorSpec(layers=1, out=teacher.feature_dim), seed=seed,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Student:
    """A student and the folder of its run."""

    encoder: Encoder
    identity: dict[str, Any]
    inputs: dict[str, str]
    out: Path
    overwrite: bool

    def trained(
        self,
        teacher: Encoder,
        images: LabelledImages,
        settings: DistillationSettings,
        seed: int,
        device: str,
        on_progress: OnProgress,
    ) -> tuple[float, ...]:
        """Train and save it, unless that is done; the loss of each epoch."""
        from semaug.eval.distillation import distil
        from semaug.eval.training_course import Checkpoints
        from semaug.ssl_methods import save_encoder
        from semaug.ssl_methods.metrics import CurveWriter, read_rows
        from semaug.ssl_methods.runs import METRICS, RunFolder

        assert self.encoder.projector is not None
        per_epoch = settings.course.batches(max(1, len(images)))
        with RunFolder.open(self.out, self.identity, self.inputs, overwrite=self.overwrite) as folder:
            if folder.finished() is not None:
                return tuple(float(row["loss"]) for row in read_rows(folder.path / METRICS))
            kept = Checkpoints(folder.path / CHECKPOINTS, {**self.identity, **self.inputs})
            losses = distil(
                teacher.to(device).eval(), self.encoder.backbone, self.encoder.projector, images, settings,
                seed=seed, device=device, checkpoints=kept, on_progress=on_progress,
            )  # fmt: skip
            curve = CurveWriter(folder.path / METRICS, -1, tensorboard=False)
            for epoch, loss in enumerate(losses, 1):
                curve.write({"step": epoch * per_epoch, "loss": loss})
            curve.close()
            save_encoder(
                folder.path, self.encoder, method=DISTIL_METHOD, seed=seed, steps=settings.course.epochs * per_epoch,
                config=self.identity, inputs=self.inputs,
            )  # fmt: skip
            kept.clear()
        return losses


def _score(
    run: Path,
    out: Path,
    fresh: Encoder,
    specs: tuple[str, str],
    losses: tuple[float, ...],
    *,
    device: str,
    workers: int,
    keep: bool,
    seed: int,
) -> DistillationResult:
    """Probes of teacher (``run``), student (``out``) and ``fresh``, the student before training."""
    from semaug.eval.distillation import EncodedSets, evaluate_distillation
    from semaug.eval.features import embed
    from semaug.studies.protocols.features import features_of_run

    def encoded(folder: Path) -> EncodedSets:
        return EncodedSets(*features_of_run(folder, specs, device=device, workers=workers, keep=keep))

    backbone = fresh.backbone.to(device).eval()
    untrained = EncodedSets(*(
        embed(
            lambda images: (backbone(images), None), open_source(spec), input_size=fresh.image_size,
            mean=fresh.spec.mean, std=fresh.spec.std, device=device, workers=workers,
        )
        for spec in specs
    ))  # fmt: skip
    return evaluate_distillation(encoded(run), encoded(out), untrained, losses, device=device, seed=seed)
