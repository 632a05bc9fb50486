"""Our methods, as a user assembles them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from work import BANK, DECODER, OUTPUTS, PROTOTYPES, QUEUE, Images, Subject, Views, Work

from semaug.artifacts.memory import keep_freed_memory
from semaug.ssl_methods import METHODS, Method, OptimizerSettings, ProjectorSpec, build_encoder

STEPS = 1000
"""The length of the run that schedules are told of; every step is timed as one in its middle."""

PROJECTORS = {
    "simclr": ProjectorSpec(hidden=2048, out=128, batch_norm=True, last_batch_norm=True),
    "moco-v2": ProjectorSpec(hidden=2048, out=128),
    "moco-v2plus": ProjectorSpec(hidden=2048, out=128),
    "moco-v3": ProjectorSpec(4096, 256, 3, batch_norm=True, last_batch_norm=True, last_affine=False),
    "adco": ProjectorSpec(hidden=2048, out=128),
}
"""Where a method's own projector is not the one that peers have."""

OPTIONS: dict[str, dict[str, Any]] = {
    "moco-v2": {"queue": QUEUE},
    "moco-v2plus": {"queue": QUEUE},
    "adco": {"bank": BANK},
    "swav": {"prototypes": PROTOTYPES},
    "dino": {"outputs": OUTPUTS},
    "mae": {f"decoder_{name}": value for name, value in DECODER.items()},
}


def build(work: Work) -> Subject:
    """Any method of ``METHODS``; memory is kept between steps on a CPU, as ``pretrain`` does."""
    if work.device == "cpu":
        keep_freed_memory()
    kind = METHODS[work.method]
    backbone = "vit-s4" if work.method == "mae" else work.backbone
    projector = PROJECTORS.get(work.method, kind.default_projector)
    encoder = build_encoder(backbone, input_size=work.size, projector=projector)
    return subject_of(kind.assemble(encoder, **OPTIONS.get(work.method, {})).to(work.device))


def subject_of(method: Method) -> Subject:
    """A method in the middle of its run."""
    method.train()
    middle = STEPS // 2

    def loss(views: Views) -> Tensor:
        method.before_forward(middle, STEPS)
        return method(views)["loss"]

    return Subject(
        method, loss, lambda: method.before_update(middle, STEPS), lambda: method.after_step(middle, STEPS),
        encode=method.encoder,
    )  # fmt: skip


def parameter_groups(subject: Subject, lr: float) -> list[dict[str, Any]]:
    """As ``pretrain`` asks the method for them."""
    return subject.trained.parameter_groups(OptimizerSettings("sgd", lr=lr))  # type: ignore[operator, no-any-return]


def load(images: Images, work: Work, workers: int, pairs: str = "standard") -> Iterator[Views]:
    """SimCLR's views by our pair source and the loader of ``pretrain``; on a GPU, made there.

    For ``guided`` pairs the saliency boxes are extracted here.
    """
    return _batches(make_pairs_of(pairs, Decoded(images), work), work, workers)


def make_pairs_of(pairs: str, source: Decoded, work: Work) -> Any:
    """The pair source, with its guidance."""
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.schemas import Guidance
    from semaug.pairs_dataset import make_pairs

    if pairs == "standard":
        return make_pairs(pairs, source, preset="symmetric", size=work.size, seed=work.seed)
    from semaug.oracles.saliency import SaliencyDetector

    detector, rows = SaliencyDetector(), []
    for index in range(len(source)):
        height, width = source.read(index).shape[:2]
        rows.append(Guidance(source.key(index), height, width, boxes=detector.detect([source.read(index)])[0]))
    guidance = GuidanceTable.of(rows)
    return make_pairs(pairs, source, preset="symmetric", size=work.size, seed=work.seed, guidance=guidance)


def _batches(pairs: Any, work: Work, workers: int) -> Iterator[Views]:
    from semaug.pairs_dataset.device_views import DeviceViews, RawPairs
    from semaug.ssl_methods.batches import BatchOrder, RunSampler, run_loader

    sampler = RunSampler(BatchOrder(len(pairs), work.batch, seed=work.seed), 0, 10**6)
    if work.device == "cpu":
        for batch in run_loader(pairs, sampler, workers=workers, pin_memory=False):
            yield list(batch[:-1])
        return
    make = DeviceViews(pairs.views)
    for raw in run_loader(RawPairs(pairs), sampler, workers=workers, pin_memory=True):
        yield list(make(raw.to(work.device))[:-1])


class Decoded:
    """Decoded images behind our source contract, handed out without a copy."""

    spec, class_names, fingerprint = "memory", (), ""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return f"image{index}"

    def read(self, index: int) -> Any:
        return self._images[index]

    def label(self, index: int) -> None:
        return None
