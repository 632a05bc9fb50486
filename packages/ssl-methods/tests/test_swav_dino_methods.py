"""SwAV and DINO as methods: one step's parts, queues, centre, teacher; resuming; learning."""

from __future__ import annotations

import copy
import math
from statistics import mean
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods import OptimizerSettings, ProjectorSpec, build_encoder
from semaug.ssl_methods.backbones import vit
from semaug.ssl_methods.losses import centre_of, dino_loss, sinkhorn, swav_loss
from semaug.ssl_methods.methods.dino import DINO, DINOHead
from semaug.ssl_methods.methods.multi_crop import project_views
from semaug.ssl_methods.methods.swav import Prototypes, SwAV
from semaug.ssl_methods.optimizers import build_optimizer
from semaug.ssl_methods.testing import (
    SCENE_THRESHOLD,
    StripedPairs,
    resume_differences,
    small_run,
    train_scenes,
    two_ranks,
)

SIDES = (16, 16, 8, 8, 8)


def encoder(seed=0, **changes):
    head = ProjectorSpec(**{"hidden": 64, "out": 16, **changes})
    return build_encoder("small-cnn", input_size=16, projector=head, seed=seed)


def swav(seed=0, **options):
    chosen = {"prototypes": 12, "queue": 16, "queue_start": 0.2, "frozen": 0.1, **options}
    return SwAV.assemble(encoder(seed, batch_norm=True), seed=seed, **chosen)


def dino(seed=0, **options):
    chosen = {"outputs": 24, "momentum": 0.9, "frozen": 0.1, "temperature_warmup": 0.5, **options}
    return DINO.assemble(encoder(seed, layers=3, activation="gelu"), seed=seed, **chosen)


def views(n=8, sides=SIDES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, side, side, generator=generator) for side in sides]


def train(method, batches, steps=10, lr=0.1, start=0):
    """Plain steps as the contract has them; yields after each."""
    optimizer = build_optimizer(method, OptimizerSettings("sgd", lr=lr), method.parameter_groups(OptimizerSettings()))
    for step, batch in enumerate(batches, start):
        method.before_forward(step, steps)
        loss = method(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        method.before_update(step, steps)
        optimizer.step()
        method.after_step(step, steps)
        yield step, loss.item()


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


class TestMultiCrop:
    def test_each_view_is_projected_by_itself_where_there_is_no_batch_norm(self):
        model, given = encoder().eval(), views()
        found = project_views(model, given)
        for view, projection in zip(given, found, strict=True):
            torch.testing.assert_close(projection, model.project(model(view)), rtol=1e-5, atol=1e-6)

    def test_a_vision_transformer_takes_smaller_views(self):
        with patch.object(vit, "DEPTH", 2):
            model = build_encoder("vit-s8", input_size=16, projector=ProjectorSpec(hidden=8, out=4))
        assert [p.shape for p in project_views(model, views(2))] == [(2, 4)] * 5


class TestSwav:
    def test_the_loss_is_that_of_unit_projections_and_unit_prototypes(self):
        method, given = swav(queue=0), views()
        found = method(given)["loss"]
        again = copy.deepcopy(method)
        vectors = functional.normalize(again.prototypes.vectors, dim=1)
        scores = [functional.normalize(p, dim=1) @ vectors.T for p in project_views(again.encoder, given)]
        assert found.item() == pytest.approx(swav_loss(scores).item(), abs=1e-5)
        assert torch.allclose(method.prototypes.vectors.norm(dim=1), torch.ones(12))

    def test_only_prototypes_and_encoder_are_trained_and_all_of_both(self):
        method = swav(frozen=0.0)
        method(views())["loss"].backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters() if p.ndim > 1)

    def test_prototypes_are_held_at_first_and_unit_after_every_step(self):
        method = swav(queue=0, frozen=0.2)
        before, encoder_before = method.prototypes.vectors.clone(), copy.deepcopy(method.encoder)
        for step, _ in train(method, [views(seed=s) for s in range(4)]):
            vectors = method.prototypes.vectors.detach()
            assert torch.allclose(vectors.norm(dim=1), torch.ones(12), atol=1e-6)
            assert torch.allclose(vectors, before, atol=1e-6) == (step < 2)
        assert not same(method.encoder, encoder_before)

    def test_the_queues_start_fill_and_are_used_when_full(self):
        """Steps 2 and 3 fill 16 places with 8 rows each; the first loss with the queue is that of step 4."""
        method, given = swav(), [views(seed=s) for s in range(5)]
        expected = {}
        for step, batch in enumerate(given):
            method.before_forward(step, 10)
            kept = [q.keys.clone() for q in method.queues]
            with torch.no_grad():
                projections = [functional.normalize(p, dim=1) for p in project_views(method.encoder, batch)]
                scores = [method.prototypes(p) for p in projections]
                earlier = [k @ method.prototypes.vectors.T for k in kept] if step == 4 else None
                loss = method(batch)["loss"]
            assert loss.item() == pytest.approx(swav_loss(scores, earlier=earlier).item(), abs=1e-5)
            assert [int(q.count) for q in method.queues] == [max(0, step - 1) * 8] * 2
            if step >= 2:
                expected[step] = projections[:2]
        for k, queue in enumerate(method.queues):
            torch.testing.assert_close(queue.keys[:8], expected[4][k], atol=1e-6, rtol=0)
            torch.testing.assert_close(queue.keys[8:], expected[3][k], atol=1e-6, rtol=0)
        assert not any(q.keys.requires_grad for q in method.queues)

    def test_a_batch_that_the_queue_does_not_fit_is_refused(self):
        method = swav(queue=16)
        method.check_batch(8, 20, 1)
        with pytest.raises(InvalidOption, match="16 keys is not divisible by the batch of 6"):
            method.check_batch(6, 100, 1)
        with pytest.raises(InvalidOption, match="batch of 32 is larger than the queue of 16"):
            method.check_batch(32, 100, 1)

    def test_codes_come_from_the_global_views_alone(self):
        """A local view changes the loss only through its own prediction."""
        method, given = swav(queue=0).eval(), views(sides=(16, 16, 8))
        other = [*given[:2], views(sides=(8,), seed=5)[0]]
        a, b = (method(v)["loss"].item() for v in (given, other))
        with torch.no_grad():
            scores = [method.prototypes(functional.normalize(p, dim=1)) for p in project_views(method.encoder, other)]
            mean_code = (sinkhorn(scores[0]) + sinkhorn(scores[1])) / 2
            change = -(mean_code * (scores[2] / 0.1).log_softmax(1)).sum(1).mean()
            first = [method.prototypes(functional.normalize(p, dim=1)) for p in project_views(method.encoder, given)]
            change += (mean_code * (first[2] / 0.1).log_softmax(1)).sum(1).mean()
        assert b - a == pytest.approx(change.item() / 2, abs=1e-5)


class TestDino:
    def test_one_step_moves_student_teacher_and_centre_as_the_paper_says(self):
        method, given = dino(frozen=0.0, clip=0.0), views()
        assert same(method.teacher, method.encoder)
        assert same(method.teacher_head, method.head)
        with torch.no_grad():
            outputs = [method.head(p) for p in project_views(method.encoder, given)]
        student_before = copy.deepcopy(method.encoder)
        ((_, loss),) = train(method, [given])
        # The teacher was the student: the loss has the teacher's first temperature and a centre of zeros.
        expected = dino_loss(outputs, outputs[:2], torch.zeros(24), teacher_temperature=0.04)
        assert loss == pytest.approx(expected.item(), abs=1e-5)
        torch.testing.assert_close(method.centre, 0.1 * centre_of(outputs[:2]), atol=1e-6, rtol=0)
        for slow, old, new in zip(
            method.teacher.parameters(), student_before.parameters(), method.encoder.parameters(), strict=True
        ):
            torch.testing.assert_close(slow, 0.9 * old + 0.1 * new, atol=1e-6, rtol=0)
        assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
        assert method.result is method.teacher

    def test_the_centre_of_earlier_steps_is_applied_and_saved(self):
        method, given = dino(), [views(seed=s) for s in range(3)]
        list(train(method, given[:2]))
        assert "centre" in method.state_dict()
        centre = method.centre.clone()
        assert centre.abs().max() > 0
        with torch.no_grad():
            student = [method.head(p) for p in project_views(method.encoder, given[2])]
            teacher = [method.teacher_head(p) for p in project_views(method.teacher, given[2][:2])]
        method.before_forward(2, 10)
        expected = dino_loss(student, teacher, centre, teacher_temperature=method.teacher_temperature)
        assert method(given[2])["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
        assert torch.equal(method.centre, centre)
        method.after_step(2, 10)
        torch.testing.assert_close(method.centre, 0.9 * centre + 0.1 * centre_of(teacher), atol=1e-6, rtol=0)

    def test_accumulated_forwards_move_the_centre_as_one_of_the_whole_batch(self):
        whole, parts, given = dino().eval(), dino().eval(), views(sides=(16, 16))
        whole.training = parts.training = True  # while batch norm stays frozen
        whole(given)
        for half in (0, 1):
            parts([v.chunk(2)[half] for v in given])
        for method in (whole, parts):
            method.after_step(0, 10)
        torch.testing.assert_close(parts.centre, whole.centre, atol=1e-6, rtol=0)

    def test_the_teacher_gives_no_gradient_and_the_student_all(self):
        method = dino(trained_scale=True)
        method(views())["loss"].backward()
        trained = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert {n.split(".")[0] for n in trained} == {"encoder", "head"}
        assert {n for n, p in method.named_parameters() if p.requires_grad} == {
            n for n, p in method.named_parameters() if p.grad is not None
        }

    def test_temperatures_warm_up_as_a_function_of_the_step(self):
        method, found = dino(), []
        for step in (0, 5, 10, 19):
            method.before_forward(step, 20)
            found.append(method.teacher_temperature)
        assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
        assert dino(temperature_warmup=0.0).teacher_temperature == 0.07

    def test_the_last_layer_is_held_at_first(self):
        method = dino(frozen=0.2)
        before = copy.deepcopy(method.head)
        moved = [step for step, _ in train(method, [views(seed=s) for s in range(4)]) if not same(method.head, before)]
        assert moved == [2, 3]

    def test_each_gradient_is_clipped_by_its_own_norm(self):
        method = dino(clip=3.0, frozen=0.0)
        for k, p in enumerate(p for p in method.parameters() if p.requires_grad):
            p.grad = torch.ones_like(p) * (10.0 if k % 2 else 1e-4)
        before = [p.grad.clone() for p in method.parameters() if p.requires_grad]
        method.before_update(0, 10)
        after = [p.grad for p in method.parameters() if p.requires_grad]
        for k, (g, c) in enumerate(zip(before, after, strict=True)):
            norm = g.norm().item()
            assert c.norm().item() == pytest.approx(min(norm, 3.0), rel=1e-4)
            assert (norm > 3) == bool(k % 2)

    def test_vectors_of_the_head_are_normalised_without_bias(self):
        head, z = DINOHead(4, 6), torch.randn(5, 4)
        expected = functional.normalize(z, dim=1) @ functional.normalize(head.vectors, dim=1).T
        torch.testing.assert_close(head(z), expected)
        assert head(z).abs().max() <= 1
        scaled = DINOHead(4, 6, trained_scale=True)
        torch.testing.assert_close(scaled(z), expected)
        assert [n for n, _ in scaled.named_parameters()] == ["vectors", "scale"]

    def test_two_global_views_alone_are_enough_and_one_is_refused(self):
        assert torch.isfinite(dino()(views(sides=(16, 16)))["loss"])
        with pytest.raises(InvalidOption, match="dino takes at least 2 views of an image, got 1"):
            dino()(views(sides=(16,)))

    def test_a_vision_transformer_learns_from_local_views_too(self):
        with patch.object(vit, "DEPTH", 2):
            model = build_encoder("vit-s8", input_size=16, projector=ProjectorSpec(hidden=8, out=4, layers=3))
        method = DINO.assemble(model, outputs=8)
        method(views(2))["loss"].backward()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def _step_on_rank(rank, world, name):
    """Loss and gradients of one step on a share of the rows; buffers after it, which must be alike on all ranks."""
    method = {"swav": swav, "dino": dino}[name]().double().eval()
    if name == "dino":
        method.training = True  # so that the centre moves; batch norm stays frozen
    share = [v.double().chunk(world)[rank] for v in views()]
    losses = []
    for step in (2, 3, 4):
        method.before_forward(step, 10)
        loss = method(share)["loss"]
        method.zero_grad()
        loss.backward()
        method.after_step(step, 10)
        losses.append(loss)
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    return losses[-1].detach(), gradients, {n: b for n, b in method.named_buffers() if "num_batches" not in n}


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_two_ranks_equal_one_process_in_loss_gradient_queues_and_centre(name):
    loss, gradients, buffers = _step_on_rank(0, 1, name)
    ranks = two_ranks(_step_on_rank, name)
    assert torch.stack([r[0] for r in ranks]).mean().item() == pytest.approx(loss.item(), abs=1e-12)
    for k, gradient in enumerate(gradients):
        torch.testing.assert_close((ranks[0][1][k] + ranks[1][1][k]) / 2, gradient, atol=1e-12, rtol=0)
    moved = {"swav": "queues.0.keys", "dino": "centre"}[name]
    assert not torch.equal(buffers[moved], dict(swav().double().named_buffers()).get(moved, torch.zeros(24)))
    for rank in ranks:
        for key, buffer in buffers.items():
            if "teacher" not in key and "encoder" not in key:
                torch.testing.assert_close(rank[2][key], buffer, atol=1e-12, rtol=0)


def small_swav(seed):
    return swav(seed, queue=16, queue_start=0.3, frozen=0.2)


def small_dino(seed):
    return dino(seed)


BUILD = {"swav": small_swav, "dino": small_dino}
PAIRS = {"pairs": StripedPairs(40, sides=(16, 16, 8))}


@pytest.mark.parametrize(("name", "stop"), [("swav", 13), ("dino", 5)])
def test_resuming_gives_the_weights_of_an_undisturbed_run(name, stop, tmp_path):
    assert resume_differences(BUILD[name], tmp_path, stop=stop, workers=1, **PAIRS) == []


def test_fifty_steps_of_swav_teach_the_scenes():
    method = SwAV.assemble(encoder(hidden=256, out=64, batch_norm=True), prototypes=32, temperature=0.2)
    scores = train_scenes(method, sides=(16, 16, 8, 8), lr=1e-2)
    assert scores.learned, scores


def test_fifty_steps_of_dino_teach_the_scenes():
    """A short run wants a quick teacher: its momentum is 0.9, not 0.996."""
    model = encoder(hidden=256, out=32, activation="gelu")
    method = DINO.assemble(model, outputs=512, momentum=0.9, teacher_temperature=0.04)
    scores = train_scenes(method, lr=3e-3, batch_size=128)
    assert scores.learned, scores


@pytest.mark.slow
def test_fifty_steps_of_dino_teach_the_scenes_whatever_the_first_weights():
    """One start in three ends below the threshold, so the mean over five is held to it."""
    found = []
    for seed in range(5):
        model = encoder(seed=seed, hidden=256, out=32, activation="gelu", batch_norm=True)
        method = DINO.assemble(model, outputs=512, momentum=0.9, teacher_temperature=0.04)
        found.append(train_scenes(method, lr=3e-3, batch_size=128))
    trained, untrained = (mean(getattr(s, name) for s in found) for name in ("trained", "untrained"))
    assert trained > SCENE_THRESHOLD > max(untrained, found[0].collapsed), found


@pytest.mark.parametrize("name", [pytest.param("swav", marks=pytest.mark.slow), "dino"])
def test_two_ranks_resume_to_the_same_weights(name, tmp_path):
    assert resume_differences(BUILD[name], tmp_path, stop=7, ranks=2, steps=8, **PAIRS) == []


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 4, 8, 16, 20, 23])
@pytest.mark.parametrize("name", ["swav", "dino"])
def test_resuming_at_any_step_with_workers_gives_the_same_weights(name, stop, tmp_path):
    assert resume_differences(BUILD[name], tmp_path, stop=stop, workers=2, **PAIRS) == []


def test_queue_and_centre_are_in_the_checkpoint_and_not_in_the_encoder(tmp_path):
    for name, entries in (("swav", ("prototypes.vectors", "queues.0.keys", "queues.1.count")), ("dino", ("centre",))):
        card = small_run(tmp_path / name, build=BUILD[name], steps=6, **PAIRS)
        state = torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
        assert all(f"method.{entry}" in state for entry in entries)
        assert card.method == name


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (swav, {"epsilon": 0.0}, "epsilon 0.0 and 3 iterations"),
        (swav, {"queue_start": 2.0}, "queue_start 2.0"),
        (swav, {"prototypes": 1}, "1 prototypes"),
        (swav, {"temperature": 0.0}, "temperature 0.0"),
        (dino, {"clip": -1.0}, "clip -1.0"),
        (dino, {"centre_momentum": 1.0}, "centre_momentum 1.0"),
        (dino, {"frozen": 1.5}, "frozen 1.5"),
        (dino, {"outputs": 1}, "1 outputs"),
        (dino, {"first_temperature": 0.0}, "temperature 0.0"),
    ],
)
def test_wrong_hyperparameters_are_refused(build, options, message):
    with pytest.raises(InvalidOption, match=message):
        build(**options)


def test_settings_name_all_that_shapes_the_weights():
    assert {"prototypes", "queue", "queue_start", "frozen", "epsilon"} <= swav().settings().keys()
    assert {"outputs", "centre_momentum", "momentum", "clip", "frozen"} <= dino().settings().keys()
    assert swav(queue=8).settings() != swav().settings()
    assert math.isclose(dino().settings()["momentum"], 0.9)


def test_prototypes_and_head_depend_on_the_seed_alone():
    torch.manual_seed(3)
    first = Prototypes(5, 4, seed=1).vectors, DINOHead(4, 5, seed=1).vectors
    torch.manual_seed(4)
    assert torch.equal(first[0], Prototypes(5, 4, seed=1).vectors)
    assert torch.equal(first[1], DINOHead(4, 5, seed=1).vectors)
    assert not torch.equal(first[0], Prototypes(5, 4, seed=2).vectors)
