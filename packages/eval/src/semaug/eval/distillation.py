"""Cross-architecture transfer: a frozen teacher's embedding, distilled into another network without labels.

The papers name the transfer and no protocol (spec S1.9 f). Here the student sees a view, a linear map of its features
stands beside the teacher's features of the same view, and the loss is 1 minus their cosine. What the student learnt is
scored by the linear probe, beside the same student before training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.labelled_images import LabelledImages
from semaug.eval.measures import Measure
from semaug.eval.probes.linear import LinearResult, evaluate_linear
from semaug.eval.training_course import Checkpoints, Course, train_course


@dataclass(frozen=True, slots=True)
class DistillationSettings:
    """How the student is trained, and at which rate."""

    course: Course = field(
        default_factory=lambda: Course("adamw", epochs=30, batch_size=128, weight_decay=1e-4, warmup=1)
    )
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise EvaluationError(f"a learning rate of {self.lr}; give one above 0")


def distil(
    teacher: Callable[[torch.Tensor], torch.Tensor],
    student: nn.Module,
    to_teacher: nn.Module,
    images: LabelledImages,
    settings: DistillationSettings | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    on_progress: OnProgress = ignore_progress,
) -> tuple[float, ...]:
    """Train ``student``, and the map ``to_teacher`` on top of it, in place to point where ``teacher`` does.

    ``teacher`` maps images (b, 3, S, S) to (b, d), ``student`` to (b, e), ``to_teacher`` (b, e) to (b, d). ``teacher``
    is called without gradients; a module must be in evaluation mode. Labels take no part. The same call resumes from
    ``checkpoints``. Returns the mean loss of each epoch; the student is in evaluation mode then. Raises ``Diverged``
    when the loss is no longer finite, ``EvaluationError`` for fewer than two images.
    """
    if len(images) < 2:
        raise EvaluationError(f"{len(images)} images to distil on; give at least 2")
    settings = settings or DistillationSettings()
    pair = nn.ModuleList([student, to_teacher]).to(device)
    pair.train()

    def loss(batch: torch.Tensor, rows: NDArray[np.intp], step: int) -> torch.Tensor:
        with torch.no_grad():
            target = teacher(batch)
        return cosine_distance(to_teacher(student(batch)), target)

    optimizer = settings.course.build(_groups(pair), settings.lr)
    losses = train_course(
        pair, loss, images.views, len(images), settings.course, optimizer, name="distil", seed=seed, device=device,
        checkpoints=checkpoints, on_progress=on_progress,
    )  # fmt: skip
    pair.eval()
    return losses


def cosine_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean of 1 minus the cosine of the rows of (n, d) and (n, d): 0 where they point one way, 2 where opposite."""
    return 1 - F.cosine_similarity(a, b, dim=1).mean()


def linear_cka(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """Linear centred kernel alignment of (n, d) and (n, e) features, in [0, 1] (Kornblith et al. 2019, equation 6).

    1 for features equal up to rotation, scale and shift; None where either is constant.

    >>> points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    >>> round(linear_cka(points, 5 * points[:, ::-1] + 1), 6)
    1.0
    """
    if len(a) != len(b):
        raise EvaluationError(f"{len(a)} rows against {len(b)}; give the features of the same images")
    x, y = (values.astype(np.float64) - values.mean(0, dtype=np.float64) for values in (a, b))
    norms = [float(np.linalg.norm(values.T @ values)) for values in (x, y)]
    if min(norms) <= 1e-12:
        return None
    return float(np.linalg.norm(y.T @ x)) ** 2 / (norms[0] * norms[1])


@dataclass(frozen=True, slots=True)
class EncodedSets:
    """The features that one encoder gives the training and the test images."""

    train: Features
    test: Features


@dataclass(frozen=True, slots=True)
class DistillationResult:
    """Linear probes of teacher, student and the student before training, and how alike they are on the test images.

    ``cka`` and ``untrained_cka`` compare with the teacher; ``cosine`` is the mean cosine of mapped student features
    and the teacher's.
    """

    teacher: LinearResult
    student: LinearResult
    untrained: LinearResult
    cka: float | None
    untrained_cka: float | None
    cosine: float
    losses: tuple[float, ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        n = self.student.n
        for role in ("student", "untrained", "teacher"):
            found: LinearResult = getattr(self, role)
            yield Measure(f"distil/{role}_top1", found.top1, n)
            yield Measure(
                f"distil/{role}_top5", found.top5, n, "" if found.top5 is not None else "five classes or fewer"
            )
        for metric, value in (("student_cka", self.cka), ("untrained_cka", self.untrained_cka)):
            yield Measure(f"distil/{metric}", value, n, "" if value is not None else "features that do not vary")
        yield Measure("distil/student_cosine", self.cosine, n)
        for end, place in (("first", 0), ("last", -1)):
            value = self.losses[place] if self.losses else None
            yield Measure(
                f"distil/train_loss_{end}", value, n, "" if self.losses else "the student's curve is not there"
            )


def evaluate_distillation(
    teacher: EncodedSets,
    student: EncodedSets,
    untrained: EncodedSets,
    losses: tuple[float, ...],
    *,
    device: str = "cpu",
    seed: int = 0,
) -> DistillationResult:
    """Score a distilled student beside its teacher and itself before training; all sets are of the same images.

    The student's projections are its features mapped to the teacher's. Raises as ``evaluate_linear``.
    """
    probes = [evaluate_linear(e.train, e.test, device=device, seed=seed) for e in (teacher, student, untrained)]
    ckas = [linear_cka(e.test.features, teacher.test.features) for e in (student, untrained)]
    mapped, target = student.test.projections, teacher.test.features
    if mapped is None or mapped.shape != target.shape:
        shape = None if mapped is None else mapped.shape
        raise EvaluationError(f"the student's projections {shape} do not stand beside the teacher's {target.shape}")
    cosine = 1 - float(cosine_distance(torch.tensor(mapped), torch.tensor(target)))
    warnings = tuple(dict.fromkeys(note for probe in probes for note in probe.warnings))
    return DistillationResult(probes[0], probes[1], probes[2], ckas[0], ckas[1], cosine, losses, warnings)


def _groups(module: nn.Module) -> list[dict[str, object]]:
    """Weights, and apart from them vectors, which are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
