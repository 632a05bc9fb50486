"""DINO's loss and centre against the paper's equations, closed forms, other processes and lightly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.losses import centre_of, dino_loss
from semaug.ssl_methods.testing import rank_difference, two_ranks


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def reference(student, teacher, centre, student_temperature, teacher_temperature):
    """Eq. 3 with the multi-crop set of views and the centre of Eq. 4, term by term, in float64."""
    total, terms = 0.0, 0
    for t, target in enumerate(teacher):
        for v, view in enumerate(student):
            if v == t:
                continue
            terms += 1
            for n in range(len(view)):
                p = softmax((target[n] - centre) / teacher_temperature)
                q = softmax(view[n] / student_temperature)
                total -= sum(p * np.log(q)) / len(view)
    return total / terms


def outputs(views, n=6, k=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, k, generator=generator, dtype=dtype) for _ in range(views)]


CENTRE = outputs(1, 1, 5, seed=9)[0][0]


@pytest.mark.parametrize("views", [2, 3, 10])
@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (0.5, 0.07)])
def test_equals_the_paper_equation(views, temperatures):
    student, teacher = outputs(views), outputs(2, seed=1)
    found = dino_loss(
        student, teacher, CENTRE, student_temperature=temperatures[0], teacher_temperature=temperatures[1]
    )
    expected = reference(*([x.numpy() for x in y] for y in (student, teacher)), CENTRE.numpy(), *temperatures)
    assert found.item() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("k", [4, 100])
def test_constant_outputs_cost_log_of_the_width(k):
    flat = [torch.ones(3, k, dtype=torch.float64)] * 4
    assert dino_loss(flat, flat[:2], torch.zeros(k)).item() == pytest.approx(math.log(k), abs=1e-12)


def test_orthogonal_outputs_cost_what_two_softmaxes_say():
    n, ts, tt = 4, 0.1, 0.04
    apart = [torch.eye(n, dtype=torch.float64)] * 2
    p = 1 / (1 + (n - 1) * math.exp(-1 / tt))
    log_q = [x / ts - math.log(math.exp(1 / ts) + n - 1) for x in (1, 0)]
    found = dino_loss(apart, apart, torch.zeros(n), student_temperature=ts, teacher_temperature=tt)
    assert found.item() == pytest.approx(-(p * log_q[0] + (1 - p) * log_q[1]), abs=1e-12)


def test_the_centre_takes_the_teachers_favourite_away():
    student, teacher = outputs(2), outputs(2, seed=1)
    shifted = [t + 3 * CENTRE for t in teacher]
    assert dino_loss(student, shifted, 3 * CENTRE).item() == pytest.approx(
        dino_loss(student, teacher, torch.zeros(5)).item(), abs=1e-10
    )


def test_a_global_view_is_never_held_against_itself():
    """With two global views the first student output meets the second target alone."""
    student, (first, second) = outputs(2), outputs(2, seed=1)
    other = dino_loss(student, [first + 5 * torch.eye(6, 5, dtype=torch.float64), second], CENTRE)
    moved = [t.requires_grad_() for t in student]
    gradients = [
        torch.autograd.grad(dino_loss(moved, [f, second], CENTRE), moved)
        for f in (first, first + 5 * torch.eye(6, 5, dtype=torch.float64))
    ]
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.equal(gradients[0][1], gradients[1][1])
    assert other.item() != pytest.approx(dino_loss(student, [first, second], CENTRE).item())


def test_gradient_equals_finite_differences_and_stops_at_the_teacher():
    student, teacher = outputs(4, 4, 3), outputs(2, 4, 3, seed=1)
    centre = CENTRE[:3]
    leaves = [s.clone().requires_grad_() for s in student]
    assert torch.autograd.gradcheck(lambda *x: dino_loss(x, teacher, centre), leaves)
    watched = [t.requires_grad_() for t in teacher]
    dino_loss(leaves, watched, centre).backward()
    assert all(t.grad is None for t in watched)


def test_is_float32_inside_autocast_and_finite_where_exp_overflows():
    student, teacher = outputs(3, 8, 16, dtype=torch.float32), outputs(2, 8, 16, seed=1, dtype=torch.float32)
    expected = dino_loss(student, teacher, torch.zeros(16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dino_loss(student, teacher, torch.zeros(16))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.isfinite(dino_loss([100 * s for s in student], [100 * t for t in teacher], torch.zeros(16)))


@pytest.mark.parametrize("views", [2, 6])
def test_equals_lightly_and_so_does_the_centre(views):
    pytest.importorskip("lightly.loss")
    from lightly.loss import DINOLoss

    peer = DINOLoss(output_dim=12, warmup_teacher_temp_epochs=1)
    student, centre = outputs(views, 16, 12, dtype=torch.float32), torch.zeros(12)
    for seed in (1, 2, 3):
        teacher = outputs(2, 16, 12, seed=seed, dtype=torch.float32)
        found = dino_loss(student, teacher, centre, teacher_temperature=0.06)
        assert found.item() == pytest.approx(peer(teacher, student, teacher_temp=0.06).item(), rel=1e-5)  # same scale
        centre = 0.9 * centre + 0.1 * centre_of(teacher)
        torch.testing.assert_close(centre, peer.center.flatten())


def _loss(*tensors):
    return dino_loss(tensors[:4], tensors[4:], CENTRE)


def test_two_ranks_equal_one_process_in_loss_and_gradient():
    assert rank_difference(_loss, *outputs(4, 8), *outputs(2, 8, seed=1)) < 1e-13


def _centre(rank, world, teacher):
    return centre_of([t.chunk(world)[rank] for t in teacher])


def test_the_centre_is_the_mean_over_rows_views_and_ranks():
    teacher = outputs(2, 8)
    expected = torch.cat(teacher).mean(0)
    torch.testing.assert_close(centre_of(teacher), expected)
    for found in two_ranks(_centre, teacher):
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "message"),
    [
        (outputs(1), outputs(1), {}, "1 target views and 1 views"),
        (outputs(2), [], {}, "0 target views"),
        (outputs(2), outputs(2, n=3), {}, "shapes"),
        (outputs(2), outputs(2), {"teacher_temperature": 0.0}, "temperature 0.0"),
        (outputs(2), outputs(2), {"student_temperature": -1.0}, "temperature -1.0"),
    ],
)
def test_refuses_what_has_no_meaning(student, teacher, options, message):
    with pytest.raises(InvalidOption, match=message):
        dino_loss(student, teacher, CENTRE, **options)
