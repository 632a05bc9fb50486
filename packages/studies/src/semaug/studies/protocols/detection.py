"""Detection and segmentation by the encoder of a run: annotated images, fine-tuning, scores (spec S1.9 d)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from semaug.eval.detection.data import DetectionSet
    from semaug.eval.detection.model import DetectorSpec
    from semaug.eval.detection.ranks import Ranks
    from semaug.eval.detection.schedules import Schedule
    from semaug.eval.detection.scores import DetectionResult, RepeatedDetection
    from semaug.ssl_methods.encoder import Encoder


@dataclass(frozen=True, slots=True)
class DetectionPlan:
    """What to fine-tune and how: specs of ``open_detection_set`` (several are joined), a named schedule and what
    replaces parts of it, and the detector's own options. ``masks`` makes it Mask R-CNN; None keeps a default."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    masks: bool = False
    schedule: str = "voc"
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    sides: tuple[int, ...] = ()
    architecture: str = "c4"
    norm: str = "batch"
    samples: int | None = None
    proposals: int | None = None
    repeats: int = 1
    checkpoint_every: int = 500


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """What came out, and what it was made of: the schedule as it ran, the detector, fingerprints of the images."""

    result: RepeatedDetection
    schedule: dict[str, Any]
    detector: dict[str, Any]
    sources: dict[str, dict[str, str]]


def run_detection(
    run: Path,
    plan: DetectionPlan,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> DetectionReport | None:
    """Fine-tune a detector on the encoder of ``run`` and judge it, once for each of ``repeats`` seeds from ``seed`` on.

    Training is kept in ``folder/seed-N`` and goes on from there. Under torchrun the processes share it, and all but
    the first return None. Raises ``InvalidOption`` for an encoder that is no
    ResNet, ``DetectionDataError``, ``ArtifactMismatch`` where the folder holds another fine-tuning.
    """
    from semaug.eval.detection.data import match_classes
    from semaug.eval.detection.model import require_resnet
    from semaug.eval.detection.ranks import started_ranks
    from semaug.eval.detection.schedules import schedule_of
    from semaug.eval.detection.scores import RepeatedDetection
    from semaug.ssl_methods import load_encoder

    if plan.repeats < 1:
        raise InvalidOption(f"{plan.repeats} repeats; give at least 1")
    encoder, card = load_encoder(run)
    require_resnet(encoder.backbone)
    schedule = schedule_of(
        plan.schedule, steps=plan.steps, batch_size=plan.batch_size, lr=plan.lr, sides=plan.sides
    )  # fmt: skip
    train, test, notes = match_classes(_opened(plan.train, plan.masks), _opened(plan.test, plan.masks))
    spec = _detector_spec(plan, encoder, len(train.class_names))
    notes = (*_caveats(encoder, spec, schedule), *train.notes, *test.notes, *notes)
    identity = {"encoder": card.weights_digest, "train": train.fingerprint, "detector": spec.describe()}
    with started_ranks(device) as (ranks, place):
        job = _Job(encoder, spec, schedule, train, test, identity, place, ranks, workers, plan, overwrite)
        found = [job(folder / f"seed-{s}", s, on_progress) for s in range(seed, seed + plan.repeats)]
    runs = tuple(result for result in found if result is not None)
    if not runs:
        return None
    sources = {
        role: {"spec": part.spec, "annotations": part.fingerprint} for role, part in (("train", train), ("test", test))
    }
    warnings = tuple(dict.fromkeys(notes))
    return DetectionReport(RepeatedDetection(runs, warnings), schedule.describe(), spec.describe(), sources)


def export_for_detectron2(encoder: Encoder, out: Path) -> tuple[str, ...]:
    """Write the encoder's ResNet as detectron2 reads it; returns the settings that detectron2 needs for it."""
    from semaug.eval.detection.detectron2 import export_detectron2

    notes = export_detectron2(encoder.backbone, out)
    mean, std = ([round(255 * v, 4) for v in values] for values in (encoder.spec.mean, encoder.spec.std))
    return (*notes, f"set MODEL.PIXEL_MEAN {mean} and MODEL.PIXEL_STD {std}")


@dataclass(frozen=True, slots=True)
class _Job:
    encoder: Encoder
    spec: DetectorSpec
    schedule: Schedule
    train: DetectionSet
    test: DetectionSet
    identity: dict[str, Any]
    device: str
    ranks: Ranks
    workers: int
    plan: DetectionPlan
    overwrite: bool

    def __call__(self, folder: Path, seed: int, on_progress: OnProgress) -> DetectionResult | None:
        from semaug.eval.detection.fine_tuning import fine_tune
        from semaug.eval.detection.model import build_detector
        from semaug.eval.detection.prediction import predict
        from semaug.eval.detection.scores import score_detections

        detector = build_detector(self.encoder.backbone, self.spec, seed)
        fine_tune(
            detector, self.train, self.schedule, folder, identity=self.identity, seed=seed, masks=self.spec.masks,
            workers=self.workers, device=self.device, ranks=self.ranks,
            checkpoint_every=self.plan.checkpoint_every, overwrite=self.overwrite, on_progress=on_progress,
        )  # fmt: skip
        if not self.ranks.first:
            return None
        side, longest = self.schedule.test_side, self.schedule.max_side
        found = predict(
            detector, self.test.images, side=side, max_side=longest, device=self.device, on_progress=on_progress
        )
        return score_detections(self.test, found, masks=self.spec.masks)


def _opened(specs: Sequence[str], outlines: bool) -> DetectionSet:
    from semaug.eval.detection.data import join
    from semaug.eval.detection.door import open_detection_set

    return join([open_detection_set(spec, outlines=outlines) for spec in specs])


def _detector_spec(plan: DetectionPlan, encoder: Encoder, classes: int) -> DetectorSpec:
    from semaug.eval.detection.model import PROPOSALS, SAMPLES, DetectorSpec

    return DetectorSpec(
        classes,
        encoder.spec.mean,
        encoder.spec.std,
        plan.masks,
        plan.architecture,
        plan.norm,
        SAMPLES if plan.samples is None else plan.samples,
        PROPOSALS if plan.proposals is None else plan.proposals,
    )


def _caveats(encoder: Encoder, spec: DetectorSpec, schedule: Schedule) -> tuple[str, ...]:
    """Why a result is not to be held against the papers'."""
    from semaug.eval.detection.model import PROPOSALS, SAMPLES, cell_side, require_resnet
    from semaug.eval.detection.schedules import SCHEDULES

    paper, notes = SCHEDULES[schedule.name], []
    if (cell := cell_side(require_resnet(encoder.backbone))) != 16:
        notes.append(f"the encoder has the small-image stem: its maps have {cell} pixels a cell and the papers' 16")
    if spec.architecture != "c4":
        notes.append("a feature pyramid (fpn) is not what the papers train (c4)")
    if schedule != paper:
        notes.append(
            f"{schedule.steps:,} steps of {schedule.batch_size} images at rate {schedule.lr:g} and sides "
            f"{min(schedule.train_sides)}-{max(schedule.train_sides)}; the papers' {schedule.name} has {paper.steps:,} "
            f"of {paper.batch_size} at {paper.lr:g} and {min(paper.train_sides)}-{max(paper.train_sides)}"
        )
    if (spec.samples, spec.proposals) != (SAMPLES, PROPOSALS):
        notes.append(
            f"{spec.samples} samples and {spec.proposals} proposals an image; the papers' {SAMPLES}, {PROPOSALS}"
        )
    if spec.norm != "batch":
        notes.append("the backbone's norms are frozen; the papers train them, synchronised")
    return tuple(f"not comparable with the papers: {note}" for note in notes)
