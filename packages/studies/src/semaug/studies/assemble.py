"""Encoder + pair source + method + callbacks, and encoder + evaluation: what the command line's verbs call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.sources import ImageSource, open_source
from semaug.artifacts.sources.packed import require_random_reads

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from semaug.artifacts.schemas import EncoderCard
    from semaug.artifacts.tables import Table
    from semaug.eval.features import Features
    from semaug.pairs_dataset.sources import PairSource
    from semaug.pairs_dataset.sources.rows import RowPairs
    from semaug.ssl_methods.encoder import Encoder
    from semaug.ssl_methods.methods import Method
    from semaug.ssl_methods.optimizers import OptimizerSettings
    from semaug.ssl_methods.presets import TrainingRecipe
    from semaug.ssl_methods.pretrain import Hardware


@dataclass(frozen=True, slots=True)
class OnlineKnn:
    """Watch a run by kNN accuracy: specs of labelled images, how often (steps), and at most how many of each.

    ``linear`` also fits a linear probe to the frozen features of the same images.
    """

    train: str
    test: str
    every: int
    limit: int = 2000
    linear: bool = False


@dataclass(frozen=True, slots=True)
class SelfOptions:
    """How pairs `self` are guided: warm-up and time between refreshes in epochs (None: a fifth of the run each), and
    the threshold of the heat maps."""

    warmup: int | None = None
    every: int | None = None
    threshold: float = 0.1


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """One pretraining run, by names and numbers.

    ``images`` is what ``open_source`` takes, or ``open_table`` where the backbone reads rows; ``guidance`` the path of
    a guidance artifact; ``pair_options`` go to ``make_pairs`` (see there) or are ``ROW_OPTIONS`` of rows,
    ``self_options`` are for pairs `self` alone. ``views`` says where views are made: `cpu`, `device`, or `auto`, which
    is the device where it is a GPU and can make them. ``recipe`` names one of the method's (``ssl_methods.presets``;
    its first by default): it decides what is None here and what ``hyperparameters`` leave out. ``backbone_options``
    are the backbone's own, and ``init`` are the weights it starts from (``initialise``). ``optimizer`` is a preset of
    ``OPTIMIZERS``, ``lr`` stands in for the optimizer's rate.
    """

    images: str
    pairs: str = "standard"
    guidance: str | None = None
    pair_options: Mapping[str, Any] = field(default_factory=dict)
    views: str = "auto"
    self_options: SelfOptions = SelfOptions()
    method: str = "simclr"
    recipe: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    size: int = 224
    small_stem: bool | None = None
    backbone_options: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    init_format: str = "auto"
    steps: int = 500
    batch_size: int | None = None
    accumulate: int = 1
    optimizer: str | None = None
    lr: float | None = None
    warmup: int | None = None
    seed: int = 0
    checkpoint_every: int = 100
    log_every: int = 10
    online_knn: OnlineKnn | None = None

    def describe(self) -> dict[str, Any]:
        """The plan as plain JSON values, without options that it does not use."""
        plain = asdict(self)
        if self.pairs != "self":
            del plain["self_options"]
        if self.views == "auto":
            del plain["views"]
        if self.accumulate == 1:
            del plain["accumulate"]
        if not self.backbone_options:
            del plain["backbone_options"]
        if self.init is None:
            del plain["init"], plain["init_format"]
        return plain


def train(
    plan: TrainingPlan,
    out: Path,
    *,
    hardware: Hardware | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> EncoderCard:
    """Carry a plan out: the run's folder holds encoder, card, curves and logs. Resumes and refuses as ``pretrain``."""
    from semaug.ssl_methods.presets import training_recipe
    from semaug.ssl_methods.pretrain import Hardware, pretrain

    recipe = training_recipe(plan.method, plan.recipe)
    hardware = hardware or Hardware()
    _require_float32(plan, hardware)
    pairs = pairs_of(plan)
    items, transform = _views(plan, pairs, hardware)
    method = method_of(plan, pairs)
    method.pairing = pairs.pairing
    return pretrain(
        method,
        items,
        out=out,
        steps=plan.steps,
        batch_size=recipe.batch_size if plan.batch_size is None else plan.batch_size,
        optimizer=_optimizer(plan, recipe),
        warmup=recipe.warmup_steps(plan.steps) if plan.warmup is None else plan.warmup,
        accumulate=plan.accumulate,
        seed=plan.seed,
        hardware=hardware,
        batch_transform=transform,
        callbacks=_callbacks(plan),
        config={"pairs": items.config},
        inputs=pairs.inputs(),
        refresh=_refresh(plan, pairs, hardware, on_progress),
        checkpoint_every=plan.checkpoint_every,
        log_every=plan.log_every,
        overwrite=overwrite,
        on_progress=on_progress,
    )


def _require_float32(plan: TrainingPlan, hardware: Hardware) -> None:
    """Refuse what looks at images of float32 with the encoder in training, where that one is in float64."""
    looks = "online kNN" if plan.online_knn is not None else "pairs 'self'" if plan.pairs == "self" else ""
    if looks and hardware.precision == "64-true":
        raise InvalidOption(
            f"{looks} with precision 'fp64': its images are float32; take --precision fp32, or evaluate it afterwards"
        )


def pairs_of(plan: TrainingPlan) -> PairSource | RowPairs:
    """The pair source of a plan; raises what ``open_source`` and ``make_pairs``, or ``open_table``, raise."""
    from semaug.pairs_dataset import make_pairs
    from semaug.ssl_methods.presets import training_recipe
    from semaug.studies.tables import reads_rows, refuse_row_options, refuse_table, row_pairs_of

    recipe = training_recipe(plan.method, plan.recipe)
    if reads_rows(plan.backbone or recipe.backbone):
        return row_pairs_of(plan)
    refuse_row_options(plan.pair_options)
    refuse_table(plan.images)
    source = open_source(plan.images)
    require_random_reads(source)
    table = GuidanceTable.open(plan.guidance) if plan.guidance else None
    options = {"preset": recipe.augmentation, **recipe.views, **plan.pair_options}
    return make_pairs(plan.pairs, source, size=plan.size, seed=plan.seed, guidance=table, **options)


def _views(plan: TrainingPlan, pairs: PairSource | RowPairs, hardware: Hardware) -> tuple[Any, Any]:
    """What the loader reads, and what makes views of it on the device: the pairs themselves and nothing on a CPU."""
    from semaug.pairs_dataset.device_views import DeviceViews, RawPairs
    from semaug.pairs_dataset.sources.rows import RowPairs

    if plan.views not in ("auto", "cpu", "device"):
        raise InvalidOption(f"views {plan.views!r} are not known; choose auto, cpu or device")
    if isinstance(pairs, RowPairs):
        return pairs, None
    if plan.views == "device" and plan.pairs == "self":
        raise InvalidOption(
            f"pairs {plan.pairs!r} with views {plan.views!r}: these change in training; take --views cpu"
        )
    altered = getattr(pairs, "mask_mode", "crop_only") != "crop_only"
    able = hardware.cuda and plan.pairs != "self" and not altered
    if plan.views == "cpu" or (plan.views == "auto" and not able):
        return pairs, None
    return RawPairs(pairs), DeviceViews(pairs.views)


def method_of(plan: TrainingPlan, pairs: PairSource | RowPairs | None = None) -> Method:
    """The method of a plan on a new encoder; raises ``InvalidOption`` for an unknown method, recipe or parameter.

    ``pairs`` are those of the plan, where they are at hand.
    """
    from semaug.ssl_methods import METHODS, build_encoder, initialise
    from semaug.ssl_methods.presets import method_options, training_recipe
    from semaug.studies.tables import open_inputs, reads_rows

    recipe, kind = training_recipe(plan.method, plan.recipe), METHODS[plan.method]
    known = {*method_options(plan.method), *recipe.hyperparameters}
    if unknown := sorted({*plan.hyperparameters} - known):
        raise InvalidOption(f"{plan.method} has no hyperparameter {unknown[0]!r}; it has {', '.join(sorted(known))}")
    backbone = plan.backbone or recipe.backbone
    rows, source = reads_rows(backbone), None if pairs is None else pairs.source
    if source is None and (rows or kind.reads_labels):
        source = open_inputs(plan.images, rows)
    encoder = build_encoder(
        backbone, small_stem=plan.small_stem, seed=plan.seed,
        input_size=None if rows else plan.size,
        input_features=len(cast("Table", source).feature_names) if rows else None,
        projector=recipe.projector or kind.default_projector,
        options={**recipe.backbone_options(backbone), **plan.backbone_options},
    )  # fmt: skip
    if plan.init is not None:
        initialise(encoder, plan.init, format=plan.init_format)
    own = {**recipe.hyperparameters, **plan.hyperparameters}
    if kind.reads_labels:
        own["labels"] = _labels(cast("ImageSource | Table", source))
    return kind.assemble(encoder, seed=plan.seed, **own)


def _labels(source: ImageSource | Table) -> Any:
    """The labels of all images or rows; raises ``InvalidOption`` where there are none."""
    from semaug.artifacts.sources.base import labels_of

    if not source.class_names:
        raise InvalidOption(
            f"the method reads labels and {source.spec} has none; give images in class folders, or a table's label=..."
        )
    return labels_of(source)


def _refresh(plan: TrainingPlan, pairs: PairSource | RowPairs, hardware: Hardware, on_progress: OnProgress) -> Any:
    """What renews the pairs while the run trains: nothing, but for pairs `self`."""
    from semaug.pairs_dataset.sources import SelfGuidedPairs
    from semaug.studies.self_guidance import SelfGuidance

    if not isinstance(pairs, SelfGuidedPairs):
        if plan.self_options != SelfOptions():
            chosen = ", ".join(f"{name} {value}" for name, value in asdict(plan.self_options).items())
            raise InvalidOption(
                f"self-localisation ({chosen}) is for pairs 'self' and this run has {plan.pairs!r}; "
                "give --pairs self, or leave --self-warmup, --self-every and --self-threshold out"
            )
        return None
    times = plan.self_options
    return SelfGuidance(
        pairs, times.warmup, times.every, times.threshold, readers=hardware.workers, on_progress=on_progress
    )


def _optimizer(plan: TrainingPlan, recipe: TrainingRecipe) -> OptimizerSettings:
    from semaug.ssl_methods import OPTIMIZERS

    if plan.optimizer not in (None, *OPTIMIZERS):
        raise InvalidOption(f"no optimizer is called {plan.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    chosen = recipe.optimizer if plan.optimizer is None else OPTIMIZERS[plan.optimizer]
    return chosen if plan.lr is None else replace(chosen, lr=plan.lr)


def _callbacks(plan: TrainingPlan) -> list[Callback]:
    if plan.online_knn is None:
        return []
    from semaug.eval.probes.knn import knn_accuracy
    from semaug.eval.probes.linear import LbfgsSettings, evaluate_linear
    from semaug.ssl_methods.callbacks import OnlineEvaluation
    from semaug.ssl_methods.presets import training_recipe
    from semaug.studies.tables import open_inputs, reads_rows

    watch, rows = plan.online_knn, reads_rows(plan.backbone or training_recipe(plan.method, plan.recipe).backbone)
    bank, queries = open_inputs(watch.train, rows), open_inputs(watch.test, rows)

    def evaluate(encoder: Encoder) -> dict[str, float]:
        train, test = (_embed(encoder, source, limit=watch.limit) for source in (bank, queries))
        found = {"knn": knn_accuracy(train, test)}
        if watch.linear:
            found["linear"] = evaluate_linear(train, test, LbfgsSettings((1e-3,), iterations=100)).top1
        return found

    return [OnlineEvaluation(evaluate, watch.every)]


def embed_run(
    run: Path,
    source: ImageSource | Table,
    *,
    device: str = "cpu",
    workers: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Features:
    """Backbone features and projections of a source by the encoder of a run."""
    from semaug.ssl_methods import load_encoder

    encoder, _ = load_encoder(run)
    return _embed(encoder.to(device), source, device=device, workers=workers, on_progress=on_progress)


def _embed(
    encoder: Encoder,
    source: ImageSource | Table,
    *,
    device: str | None = None,
    workers: int = 0,
    limit: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Features:
    from semaug.eval.features import embed
    from semaug.eval.rows import embed_rows

    where = device or str(next(encoder.parameters()).device)
    training = encoder.training
    encoder.eval()
    try:
        if encoder.spec.input_size is None:
            table = cast("Table", source)
            return embed_rows(_encode(encoder), table, device=where, limit=limit, on_progress=on_progress)
        return embed(
            _encode(encoder), cast("ImageSource", source), input_size=encoder.image_size, mean=encoder.spec.mean,
            std=encoder.spec.std, device=where, workers=workers, limit=limit, on_progress=on_progress,
        )  # fmt: skip
    finally:
        encoder.train(training)


def _encode(encoder: Encoder) -> Any:
    def encode(images: Any) -> tuple[Any, Any]:
        features = encoder(images)
        return features, encoder.project(features) if encoder.projector is not None else None

    return encode
