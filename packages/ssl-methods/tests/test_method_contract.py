from __future__ import annotations

import inspect
from typing import get_args

import pytest
import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods import (
    METHODS,
    OptimizerSettings,
    ProjectorSpec,
    SimCLR,
    ViewCount,
    build_encoder,
    build_predictor,
    load_encoder,
    load_predictor,
    losses,
    save_encoder,
)
from semaug.ssl_methods.gathering import Gathering, gather_keys, gather_rows, mean_over_ranks, sum_over_ranks
from semaug.ssl_methods.momentum import MomentumSchedule, follow, momentum_copy
from semaug.ssl_methods.optimizers import build_optimizer, parameter_groups
from semaug.ssl_methods.queues import KeyQueue
from semaug.ssl_methods.testing import (
    StripedPairs,
    rank_difference,
    resume_differences,
    small_method,
    small_run,
    train_scenes,
    two_ranks,
)


def statistics(z):
    """A loss of the batch's mean and of every pair of rows."""
    rows = gather_rows(z)
    mean = sum_over_ranks(z.sum(0)) / len(rows)
    return (z @ rows.T).square().sum(1).mean() + mean.pow(4).sum() + mean_over_ranks(z.exp().mean())


def test_sums_and_gathers_carry_the_gradient_of_the_whole_batch():
    assert rank_difference(statistics, torch.randn(6, 3, dtype=torch.float64)) < 1e-12


def keys_on_rank(rank, world, rows):
    own = rows.chunk(world)[rank].clone().requires_grad_()
    keys = gather_keys(own)
    return keys, keys.requires_grad


def test_keys_are_gathered_in_rank_order_without_gradient():
    rows = torch.randn(6, 2)
    for keys, requires_grad in two_ranks(keys_on_rank, rows):
        assert torch.equal(keys, rows)
        assert not requires_grad


def failing(rank, world):
    raise ValueError(f"rank {rank} is unwell")


def test_a_rank_that_fails_is_heard():
    with pytest.raises(RuntimeError, match="is unwell"):
        two_ranks(failing)


def test_every_loss_declares_its_gathering():
    declared = {name: inspect.signature(getattr(losses, name)).parameters.get("gathering") for name in losses.__all__}
    kinds = {name: parameter.default for name, parameter in declared.items() if parameter is not None}
    assert kinds["nt_xent"] == "candidates"
    assert set(kinds.values()) <= set(get_args(Gathering))


def test_methods_are_named_as_their_ids():
    assert all(method.name == name for name, method in METHODS.items())


def test_momentum_copy_is_exact_and_takes_no_gradient():
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    online(torch.randn(5, 3))
    teacher = momentum_copy(online)
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), online.state_dict().values(), strict=True)
    )
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in online.parameters())


def test_follow_moves_parameters_and_leaves_buffers():
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    teacher = momentum_copy(online)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.5)
    online(torch.randn(5, 3, dtype=torch.float64))
    follow(teacher, online, 0.9)
    names = {name for name, _ in teacher.named_parameters()}
    for name, value in teacher.state_dict().items():
        expected = 0.9 * before[name] + 0.1 * (before[name] + 1.5) if name in names else before[name]
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("base", "final"), [(1.1, None), (0.9, 1.2), (-0.1, None)])
def test_momentum_outside_the_unit_interval_is_refused(base, final):
    with pytest.raises(InvalidOption, match="leaves"):
        MomentumSchedule(base, final)


def test_queue_keeps_the_last_keys_across_the_wrap():
    queue, seen = KeyQueue(5, 2), []
    for batch in torch.arange(28.0).reshape(7, 2, 2):
        queue.enqueue(batch)
        seen += batch.tolist()
        assert queue.full == (len(seen) >= 5)
    assert sorted(queue.keys.tolist()) == sorted(seen[-5:])


def test_queue_starts_with_unit_vectors_of_its_seed():
    torch.testing.assert_close(KeyQueue(7, 3).keys.norm(dim=1), torch.ones(7))
    assert torch.equal(KeyQueue(7, 3, seed=1).keys, KeyQueue(7, 3, seed=1).keys)
    assert not torch.equal(KeyQueue(7, 3, seed=1).keys, KeyQueue(7, 3, seed=2).keys)


@pytest.mark.parametrize(
    ("size", "batch", "items", "words"),
    [
        (8, 16, 99, "a batch of 16 is larger than the queue of 8"),
        (20, 8, 99, "a queue of 20 keys is not divisible by the batch of 8; take a queue of 16"),
        (64, 8, 99, "a queue of 64 keys is over half the data set of 99 items.*take a queue of at most 48"),
    ],
)
def test_queues_that_do_not_fit_are_refused(size, batch, items, words):
    with pytest.raises(InvalidOption, match=words):
        KeyQueue(size, 2).check(batch, items)


def test_a_queue_that_fits_is_accepted():
    KeyQueue(48, 2).check(8, 99)
    with pytest.raises(InvalidOption, match="batch of 5 keys is larger than the queue of 4"):
        KeyQueue(4, 2).enqueue(torch.ones(5, 2))


def test_view_counts():
    assert [ViewCount(2, 4).admits(n) for n in (1, 2, 4, 5)] == [False, True, True, False]
    assert ViewCount(2, None).admits(10)
    assert str(ViewCount(2, 4)) == "2 to 4 views"


def test_views_of_differing_rows_are_refused():
    with pytest.raises(InvalidOption, match=r"\[2, 3\] rows"):
        small_method()([torch.zeros(2, 3, 16, 16), torch.zeros(3, 3, 16, 16)])


def test_a_share_of_one_row_is_refused_before_training(tmp_path):
    with pytest.raises(
        InvalidOption, match=r"a batch of 2 over 2 processes leaves 1 row for batch norm.*--batch-size 4"
    ):
        small_method().check_batch(2, 40, 2)

    class Choosy(SimCLR):
        def check_batch(self, batch_size, items, world):
            raise InvalidOption(f"{batch_size} of {items} on {world}")

    with pytest.raises(InvalidOption, match="8 of 40 on 1"):
        small_run(tmp_path / "run", build=lambda seed: Choosy(small_method().encoder))
    assert not (tmp_path / "run").exists()


def test_a_method_without_its_projector_is_refused():
    with pytest.raises(InvalidOption, match="simclr trains through a projector"):
        SimCLR(build_encoder("small-cnn", input_size=16, projector=None))


def test_hooks_are_called_once_a_step_in_order(tmp_path):
    calls = []

    class Watched(SimCLR):
        def before_forward(self, step, steps):
            super().before_forward(step, steps)
            calls.append(("forward", self.step, self.steps))

        def before_update(self, step, steps):
            assert all(p.grad is not None for p in self.parameters())
            calls.append(("update", step, steps))
            self.weights = self.encoder.backbone[0][0].weight.detach().clone()

        def after_step(self, step, steps):
            assert not torch.equal(self.weights, self.encoder.backbone[0][0].weight)
            calls.append(("after", step, steps))

    small_run(tmp_path, build=lambda seed: Watched(small_method().encoder), steps=3)
    assert calls == [(name, step, 3) for step in range(3) for name in ("forward", "update", "after")]


def test_constant_rates_and_growing_weight_decay(tmp_path):
    seen = []

    class Held(SimCLR):
        def parameter_groups(self, settings):
            return parameter_groups(self, settings, constant_lr=self.encoder.projector.parameters())

    from lightning.pytorch import Callback

    class Reader(Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append([(g["lr"], g["weight_decay"]) for g in trainer.optimizers[0].param_groups])

    settings = OptimizerSettings("sgd", lr=0.1, weight_decay=0.2, exclude_norms=True, final_weight_decay=0.4)
    build = lambda seed: Held(small_method().encoder)  # noqa: E731
    small_run(tmp_path, build=build, steps=4, warmup=0, optimizer=settings, callbacks=[Reader()])
    weights, norms, head, biases = (list(row) for row in zip(*seen, strict=True))
    assert [lr for lr, _ in weights] == pytest.approx([0.1, 0.085355, 0.05, 0.014645], abs=1e-6)
    assert [decay for _, decay in weights] == pytest.approx([0.2, 0.229289, 0.3, 0.370711], abs=1e-6)
    assert [lr for lr, _ in head] == [0.1] * 4
    assert [lr for lr, _ in biases] == [0.1] * 4
    assert {decay for _, decay in norms + biases} == {0.0}


def test_frozen_parameters_are_left_to_themselves():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    groups = parameter_groups(network, OptimizerSettings(exclude_norms=True), constant_lr=network[1].parameters())
    assert [(len(g["params"]), g.get("constant_lr")) for g in groups] == [(1, True), (1, True)]
    build_optimizer(network, OptimizerSettings(), groups)


def test_a_predictor_is_saved_beside_its_encoder(tmp_path):
    encoder = build_encoder("small-cnn", input_size=16, projector=ProjectorSpec(out=6))
    predictor = build_predictor(6, ProjectorSpec(hidden=5, out=6, batch_norm=True), seed=2)
    predictor(torch.randn(4, 6))
    save_encoder(tmp_path / "with", encoder, predictor=predictor, method="byol", seed=0, steps=1)
    save_encoder(tmp_path / "without", encoder, method="simclr", seed=0, steps=1)
    loaded = load_predictor(tmp_path / "with")
    state = predictor.state_dict()
    assert loaded.spec == predictor.spec
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())
    assert load_predictor(tmp_path / "without") is None
    assert set(load_encoder(tmp_path / "with")[0].state_dict()) == set(encoder.state_dict())


def test_predictors_depend_on_the_seed_alone():
    a, b, c = (build_predictor(3, ProjectorSpec(out=3), seed=s).state_dict()["0.weight"] for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("gelu", nn.GELU), ("leaky_relu", nn.LeakyReLU)])
def test_heads_take_their_activation_and_last_norm(activation, kind):
    spec = ProjectorSpec(
        hidden=4, out=5, batch_norm=True, last_batch_norm=True, last_affine=False, activation=activation
    )
    head = build_predictor(3, spec)
    assert isinstance(head[2], kind)
    assert not head[-1].affine
    with pytest.raises(InvalidOption, match="'tanh' is not known"):
        ProjectorSpec(activation="tanh")


def test_fifty_steps_learn_the_scenes():
    scores = train_scenes(small_method())
    assert scores.learned, scores


def test_scores_of_constant_features_are_chance():
    assert train_scenes(small_method(), steps=0).collapsed == pytest.approx(0.5, abs=0.02)


class Forgetful(SimCLR):
    """Trains on a tensor that no checkpoint holds."""

    def __init__(self, encoder):
        super().__init__(encoder)
        self.drift = torch.ones(())

    def scalars(self, views):
        self.drift = self.drift * 1.01
        return super().scalars([v * self.drift for v in views])


def forgetful(seed):
    return Forgetful(small_method(seed).encoder)


def test_what_no_checkpoint_holds_shows_on_resume(tmp_path):
    assert "encoder file" in resume_differences(forgetful, tmp_path, stop=4, steps=7)


def test_simclr_resumes_to_the_same_bits(tmp_path):
    assert resume_differences(small_method, tmp_path, stop=4, steps=7) == []


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "ranks"), [(2, 1), (0, 2)])
def test_simclr_resumes_with_workers_and_ranks(tmp_path, workers, ranks):
    assert resume_differences(small_method, tmp_path, stop=4, steps=7, workers=workers, ranks=ranks) == []


def test_small_views_follow_the_large_ones():
    assert [tuple(v.shape) for v in StripedPairs(4, sides=(16, 16, 8))[0][:-1]] == [(3, 16, 16), (3, 16, 16), (3, 8, 8)]
