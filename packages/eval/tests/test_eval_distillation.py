"""Distillation: CKA by its closed forms, and a student that comes to agree with its teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from semaug.eval.distillation import (
    DistillationSettings,
    EncodedSets,
    cosine_distance,
    distil,
    evaluate_distillation,
    linear_cka,
)
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.labelled_images import LabelledImages
from semaug.eval.training_course import Checkpoints, Course

SIDE = 8
NAMES = ("a", "b", "c")


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@given(seed=st.integers(0, 20), scale=st.floats(0.1, 10))
def test_cka_ignores_rotation_scale_and_shift(seed: int, scale: float) -> None:
    x = points(30, 5, seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0].astype(np.float32)
    assert linear_cka(x, scale * x @ rotation + 3) == pytest.approx(1, abs=1e-5)


def test_cka_is_the_normalised_hsic_of_the_gram_matrices() -> None:
    x, y = points(40, 6), points(40, 3, 1) + points(40, 6)[:, :3]
    centre = np.eye(40) - 1 / 40
    k, m = (centre @ (v.astype(np.float64) @ v.astype(np.float64).T) @ centre for v in (x, y))
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-10)
    assert linear_cka(x, np.ones((40, 2), np.float32)) is None
    with pytest.raises(EvaluationError, match="40 rows against 10"):
        linear_cka(x, y[:10])


def test_cosine_distance_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    assert float(cosine_distance(a, 5 * a)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_distance(a, -a)) == pytest.approx(2, abs=1e-6)
    assert float(cosine_distance(a[:2], a[:2].flip(1))) == pytest.approx(1, abs=1e-6)


def pictures(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Bright quarters: the class says which quarter of the image is bright."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 3
    values = rng.normal(0, 1, (n, 3, SIDE, SIDE))
    for row, label in enumerate(labels):
        top, left = divmod(int(label), 2)
        values[row, :, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 1.5
    return torch.from_numpy(values).float(), labels.astype(np.int64)


def network(widths: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, widths, 4, stride=4), nn.ReLU(), nn.Flatten()
    )  # a place's brightness is a feature


def images_of(pixels: torch.Tensor, labels: np.ndarray) -> LabelledImages:
    keys = tuple(map(str, range(len(labels))))
    return LabelledImages(labels, keys, NAMES, lambda rows, epoch: pixels[rows], lambda rows: pixels[rows])


def encoded(module: nn.Module, mapping: nn.Module, *sets: tuple[torch.Tensor, np.ndarray]) -> EncodedSets:
    made = []
    with torch.no_grad():
        for x, y in sets:
            found = module(x)
            made.append(Features(found.numpy(), mapping(found).numpy(), y, tuple(map(str, range(len(y)))), NAMES))
    return EncodedSets(*made)


SETTINGS = DistillationSettings(Course("adamw", epochs=12, batch_size=32), lr=5e-3)


def test_a_student_comes_to_agree_with_its_teacher_without_labels() -> None:
    train, test = pictures(192, 0), pictures(96, 1)
    teacher, student, mapping = network(16, seed=1).eval(), network(6, seed=2), nn.Linear(24, 64)
    before = encoded(student, mapping, train, test)
    frozen = [p.clone() for p in teacher.parameters()]
    unlabelled = images_of(train[0], np.full(192, -1))
    losses = distil(teacher, student, mapping, unlabelled, SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(frozen, teacher.parameters(), strict=True))
    assert losses[-1] < 0.5 * losses[0]
    assert not student.training
    sets = encoded(teacher, nn.Identity(), train, test), encoded(student, mapping, train, test)
    result = evaluate_distillation(*sets, before, losses)
    assert result.cka > result.untrained_cka + 0.05
    assert result.cosine == pytest.approx(1 - losses[-1], abs=0.1)
    rows = {m.metric: m.value for m in result}
    assert set(rows) >= {"distil/student_top1", "distil/untrained_top1", "distil/teacher_top1", "distil/student_cka"}
    with pytest.raises(EvaluationError, match=r"projections \(96, 16\) do not stand beside the teacher's \(96, 64\)"):
        evaluate_distillation(sets[0], encoded(student, nn.Linear(24, 16), train, test), before, losses)


def test_a_stopped_distillation_resumes_to_the_same_student(tmp_path) -> None:
    pixels, labels = pictures(64, 0)
    teacher = network(8, seed=1).eval()

    def run(views=None, checkpoints=None) -> list[torch.Tensor]:
        images = images_of(pixels, labels)
        if views is not None:
            images = LabelledImages(images.labels, images.keys, NAMES, views, images.plain)
        torch.manual_seed(3)
        student, mapping = network(4, seed=2), nn.Linear(16, 32)
        distil(teacher, student, mapping, images, SETTINGS, checkpoints=checkpoints)
        return [*student.parameters(), *mapping.parameters()]

    def failing(rows: np.ndarray, epoch: int) -> torch.Tensor:
        if epoch == 7:
            raise RuntimeError("stopped")
        return pixels[rows]

    whole = run()
    with pytest.raises(RuntimeError, match="stopped"):
        run(failing, Checkpoints(tmp_path, every=0))
    assert any(tmp_path.iterdir())
    resumed = run(checkpoints=Checkpoints(tmp_path, every=0))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_what_is_refused() -> None:
    pixels, labels = pictures(1, 0)
    with pytest.raises(EvaluationError, match="1 images to distil on; give at least 2"):
        distil(network(4, 0), network(4, 0), nn.Linear(16, 16), images_of(pixels, labels))
    with pytest.raises(EvaluationError, match="a learning rate of 0"):
        DistillationSettings(lr=0)
