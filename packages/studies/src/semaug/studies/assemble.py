"""Encoder + pair source + method + callbacks, and encoder + evaluation: what the command line's verbs call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.sources import ImageSource, open_source

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from semaug.artifacts.schemas import EncoderCard
    from semaug.eval.features import Features
    from semaug.pairs_dataset.sources import PairSource
    from semaug.ssl_methods.encoder import Encoder
    from semaug.ssl_methods.pretrain import Hardware


@dataclass(frozen=True, slots=True)
class OnlineKnn:
    """Watch a run by kNN accuracy: specs of labelled images, how often (steps), and at most how many of each."""

    train: str
    test: str
    every: int
    limit: int = 2000


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """One pretraining run, by names and numbers.

    ``images`` is what ``open_source`` takes; ``guidance`` the path of a guidance artifact; ``pair_options`` go to
    ``make_pairs`` (see there). ``optimizer`` is a preset of ``OPTIMIZERS``, ``lr`` stands in for its rate.
    """

    images: str
    pairs: str = "standard"
    guidance: str | None = None
    pair_options: Mapping[str, Any] = field(default_factory=dict)
    method: str = "simclr"
    temperature: float = 0.2
    backbone: str = "resnet18"
    size: int = 224
    small_stem: bool | None = None
    steps: int = 500
    batch_size: int = 256
    optimizer: str = "paper"
    lr: float | None = None
    warmup: int = 0
    seed: int = 0
    checkpoint_every: int = 100
    log_every: int = 10
    online_knn: OnlineKnn | None = None

    def describe(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return asdict(self)


def train(
    plan: TrainingPlan,
    out: Path,
    *,
    hardware: Hardware | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> EncoderCard:
    """Carry a plan out: the run's folder holds encoder, card, curves and logs. Resumes and refuses as ``pretrain``."""
    from semaug.ssl_methods import METHODS, build_encoder
    from semaug.ssl_methods.pretrain import Hardware, pretrain

    pairs = pairs_of(plan)
    encoder = build_encoder(plan.backbone, input_size=plan.size, small_stem=plan.small_stem, seed=plan.seed)
    return pretrain(
        METHODS[plan.method](encoder, temperature=plan.temperature),
        pairs,
        out=out,
        steps=plan.steps,
        batch_size=plan.batch_size,
        optimizer=_optimizer(plan),
        warmup=plan.warmup,
        seed=plan.seed,
        hardware=hardware or Hardware(),
        callbacks=_callbacks(plan),
        config={"pairs": pairs.config},
        inputs=pairs.inputs(),
        checkpoint_every=plan.checkpoint_every,
        log_every=plan.log_every,
        overwrite=overwrite,
        on_progress=on_progress,
    )


def pairs_of(plan: TrainingPlan) -> PairSource:
    """The pair source of a plan; raises what ``open_source`` and ``make_pairs`` raise."""
    from semaug.pairs_dataset import make_pairs

    source = open_source(plan.images)
    table = GuidanceTable.open(plan.guidance) if plan.guidance else None
    return make_pairs(plan.pairs, source, size=plan.size, seed=plan.seed, guidance=table, **plan.pair_options)


def _optimizer(plan: TrainingPlan) -> Any:
    from semaug.ssl_methods import OPTIMIZERS

    if plan.optimizer not in OPTIMIZERS:
        raise InvalidOption(f"no optimizer is called {plan.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
    chosen = OPTIMIZERS[plan.optimizer]
    return chosen if plan.lr is None else replace(chosen, lr=plan.lr)


def _callbacks(plan: TrainingPlan) -> list[Callback]:
    if plan.online_knn is None:
        return []
    from semaug.eval.probes.knn import knn_accuracy
    from semaug.ssl_methods.callbacks import OnlineEvaluation

    watch = plan.online_knn
    bank, queries = open_source(watch.train), open_source(watch.test)

    def evaluate(encoder: Encoder) -> dict[str, float]:
        train, test = (_embed(encoder, source, limit=watch.limit) for source in (bank, queries))
        return {"knn": knn_accuracy(train, test)}

    return [OnlineEvaluation(evaluate, watch.every)]


def embed_run(
    run: Path, source: ImageSource, *, device: str = "cpu", workers: int = 0, on_progress: OnProgress = ignore_progress
) -> Features:
    """Backbone features and projections of a source by the encoder of a run."""
    from semaug.ssl_methods import load_encoder

    encoder, _ = load_encoder(run)
    return _embed(encoder.to(device), source, device=device, workers=workers, on_progress=on_progress)


def _embed(
    encoder: Encoder,
    source: ImageSource,
    *,
    device: str | None = None,
    workers: int = 0,
    limit: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Features:
    from semaug.eval.features import embed

    where = device or str(next(encoder.parameters()).device)
    training = encoder.training
    encoder.eval()
    try:
        return embed(
            _encode(encoder), source, input_size=encoder.spec.input_size, mean=encoder.spec.mean,
            std=encoder.spec.std, device=where, workers=workers, limit=limit, on_progress=on_progress,
        )  # fmt: skip
    finally:
        encoder.train(training)


def _encode(encoder: Encoder) -> Any:
    def encode(images: Any) -> tuple[Any, Any]:
        features = encoder(images)
        return features, encoder.project(features) if encoder.projector is not None else None

    return encode
