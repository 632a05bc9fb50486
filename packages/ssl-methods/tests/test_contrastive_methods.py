"""MoCo v2, v2+ and v3 and AdCo as methods: one step's parts, queues and banks; two ranks; resuming; learning."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods import METHODS, OptimizerSettings, ProjectorSpec, build_encoder
from semaug.ssl_methods.losses import adco_loss, moco_loss, moco_v3_loss
from semaug.ssl_methods.losses.adco import bank_gradient
from semaug.ssl_methods.methods.adco import AdCo, AdversarialBank
from semaug.ssl_methods.methods.moco_v2 import MoCoV2
from semaug.ssl_methods.methods.moco_v2plus import MoCoV2Plus
from semaug.ssl_methods.methods.moco_v3 import MoCoV3
from semaug.ssl_methods.optimizers import build_optimizer
from semaug.ssl_methods.queues import KeyQueue
from semaug.ssl_methods.shuffling import keys_of_all, own_rows
from semaug.ssl_methods.testing import SCENE_THRESHOLD, resume_differences, train_scenes, two_ranks

OPTIONS = {
    "moco-v2": {"queue": 16, "momentum": 0.9},
    "moco-v2plus": {"queue": 16, "momentum": 0.8, "final_momentum": 0.9},
    "moco-v3": {"momentum": 0.8},
    "adco": {"bank": 12, "momentum": 0.9, "bank_lr": 0.5},
}


def build(name, seed=0, **options):
    norms = {"batch_norm": True, "last_batch_norm": True, "last_affine": False} if name == "moco-v3" else {}
    chosen = {**OPTIONS[name], **options}
    head = ProjectorSpec(hidden=chosen.pop("hidden", 64), out=chosen.pop("out", 16), **norms)
    encoder = build_encoder("small-cnn", input_size=16, projector=head, seed=seed)
    return METHODS[name].assemble(encoder, seed=seed, **chosen)


def views(n=8, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


def freeze_norms(method):
    """Batch norm by its running statistics, whatever the method's own mode."""
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    return method


def step(method, batch, number=0, steps=10, lr=0.1):
    """One plain step as the contract has it; returns its loss."""
    settings = OptimizerSettings("sgd", lr=lr)
    optimizer = build_optimizer(method, settings, method.parameter_groups(settings))
    method.before_forward(number, steps)
    loss = method(batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    method.before_update(number, steps)
    optimizer.step()
    method.after_step(number, steps)
    return loss.detach()


def project(encoder, images):
    """A forward pass that leaves no trace in ``encoder``."""
    with torch.no_grad():
        twin = copy.deepcopy(encoder)
        return twin.project(twin(images))


@pytest.mark.parametrize("name", OPTIONS)
def test_teacher_starts_equal_and_follows_by_tau(name):
    method = build(name)
    start = [p.detach().clone() for p in method.encoder.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(start, method.teacher.parameters(), strict=True))
    step(method, views(), number=3)
    tau = method.tau(3, 10)
    assert 0.7 < tau < 1
    moved = 0
    for before, slow, fast in zip(start, method.teacher.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(slow, tau * before + (1 - tau) * fast, rtol=1e-5, atol=1e-6)
        assert slow.grad is None
        assert not slow.requires_grad
        moved += not torch.equal(before, fast)
    assert moved > 5


@pytest.mark.parametrize("name", OPTIONS)
def test_every_trained_parameter_gets_a_gradient(name):
    method = build(name)
    method(views())["loss"].backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    assert any(n.startswith("teacher.") for n, _ in method.named_parameters())


def test_moco_v2_takes_its_logits_before_the_keys_enter():
    method, (first, second) = build("moco-v2"), views()
    before, keys = method.queue.snapshot(), functional.normalize(project(method.teacher, second), dim=1)
    expected = moco_loss(project(method.encoder, first), keys, before, 0.2)
    torch.testing.assert_close(step(method, [first, second]), expected)
    torch.testing.assert_close(method.queue.keys, torch.cat([keys, before[8:]]))
    assert (before @ keys.T).max() < 0.99  # no key of this batch was among the negatives
    step(method, views(seed=1))
    assert int(method.queue.count) == 16
    torch.testing.assert_close(method.queue.keys[:8], keys)
    step(method, views(seed=2))  # the queue of 16 is full: the first batch leaves
    assert (method.queue.keys @ keys.T).max() < 0.999


def test_moco_v2plus_crosses_views_and_queues():
    method, (first, second) = build("moco-v2plus"), views()
    before = [queue.snapshot() for queue in method.queues]
    assert not torch.equal(*before)
    keys = [functional.normalize(project(method.teacher, v), dim=1) for v in (first, second)]
    queries = [project(method.encoder, v) for v in (first, second)]
    expected = (moco_loss(queries[0], keys[1], before[1]) + moco_loss(queries[1], keys[0], before[0])) / 2
    torch.testing.assert_close(step(method, [first, second]), expected)
    for queue, key, old in zip(method.queues, keys, before, strict=True):
        torch.testing.assert_close(queue.keys, torch.cat([key, old[8:]]))


def test_moco_v3_sums_both_directions_of_predictions_and_keys():
    method, batch = build("moco-v3"), views()
    with torch.no_grad():
        twin = copy.deepcopy(method.predictor)
        queries = [twin(project(method.encoder, v)) for v in batch]
    expected = moco_v3_loss(*queries, *(project(method.teacher, v) for v in batch), 0.2)
    torch.testing.assert_close(step(method, batch), expected)


@pytest.mark.parametrize(("frozen", "expected"), [(True, []), (False, ["proj.bias", "proj.weight"])])
def test_moco_v3_freezes_the_patches_of_a_transformer(frozen, expected):
    encoder = build_encoder("vit-s16", input_size=32, projector=ProjectorSpec(hidden=8, out=8, batch_norm=True))
    method = MoCoV3.assemble(encoder, freeze_patches=frozen)
    patches = method.encoder.backbone.patch_embed
    before = patches.proj.weight.detach().clone()
    assert method.predictor.spec.last_batch_norm
    batch = [torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(s)) for s in range(2)]
    step(method, batch)
    assert sorted(n for n, p in patches.named_parameters() if p.grad is not None) == expected
    assert torch.equal(before, patches.proj.weight) is frozen
    assert not build("moco-v3").predictor.spec.last_batch_norm  # a convolutional network's is not normalised at the end


@pytest.mark.parametrize("symmetric", [False, True])
def test_adco_moves_its_bank_by_logits_before_the_step(symmetric):
    method, (first, second) = build("adco", symmetric=symmetric), views()
    start = method.bank.rows.clone()
    directions = [(first, second), (second, first)][: 1 + symmetric]
    pairs = [(project(method.encoder, q), project(method.teacher, k)) for q, k in directions]
    expected = torch.stack([adco_loss(q, k, start, 0.12) for q, k in pairs]).mean()
    torch.testing.assert_close(step(method, [first, second]), expected)
    gradient = torch.stack([bank_gradient(q, k, start, 0.02) for q, k in pairs]).mean(0)
    velocity = gradient + 1e-4 * start
    torch.testing.assert_close(method.bank.velocity, velocity, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.bank.rows, start - 0.5 * velocity, rtol=1e-4, atol=1e-6)


def test_adco_moves_its_bank_once_for_several_forwards():
    method, other = build("adco"), build("adco")
    batches = [views(seed=s) for s in range(2)]
    start = method.bank.rows.clone()
    for batch in batches:
        method(batch)["loss"].backward()
        assert torch.equal(method.bank.rows, start)
    method.before_update(0, 10)
    gradients = []
    for batch in batches:
        other(batch)
        gradients += other._gradients
        other._gradients = []
    expected = AdversarialBank(12, 16, 0, lr=0.5)
    expected.descend(torch.stack(gradients).mean(0))
    assert torch.equal(method.bank.rows, expected.rows)
    method.before_update(1, 10)
    assert torch.equal(method.bank.rows, expected.rows)  # nothing is left over


def test_the_bank_is_sgd_with_momentum_and_decay():
    bank, weight = AdversarialBank(3, 4, seed=1), nn.Parameter(AdversarialBank(3, 4, seed=1).rows.clone())
    sgd = torch.optim.SGD([weight], lr=3.0, momentum=0.9, weight_decay=1e-4)
    for seed in range(4):
        gradient = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) * 0.1
        bank.descend(gradient)
        weight.grad = gradient
        sgd.step()
    torch.testing.assert_close(bank.rows, weight.detach())


@pytest.mark.parametrize("name", OPTIONS)
def test_outside_of_training_nothing_is_kept(name):
    method = build(name).eval()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method(views())
    method.before_update(0, 10)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


@pytest.mark.parametrize("name", OPTIONS)
def test_its_state_is_in_the_state_dict(name):
    method, other = build(name), build(name, seed=1)
    for number in range(2):
        step(method, views(seed=number), number)
    other.load_state_dict(method.state_dict())
    batch = views(seed=5)
    assert torch.equal(step(method, batch, 2), step(other, batch, 2))
    assert all(
        torch.equal(a, b) for a, b in zip(method.state_dict().values(), other.state_dict().values(), strict=True)
    )


def model_on_rank(rank, world, name):
    """A whole step in float64 on this rank's share: loss, gradients and what the method keeps."""
    method = freeze_norms(build(name).double())
    batch = [v.chunk(world)[rank] for v in views(dtype=torch.float64)]
    method.before_forward(0, 10)
    loss = method(batch)["loss"]
    loss.backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    method.before_update(0, 10)
    return loss.detach(), gradients, {n: b for n, b in method.named_buffers() if "running" not in n}


@pytest.mark.parametrize("name", OPTIONS)
def test_two_ranks_equal_one_process_for_the_whole_model(name):
    loss, gradients, kept = model_on_rank(0, 1, name)
    ranks = two_ranks(model_on_rank, name)
    torch.testing.assert_close(torch.stack([r[0] for r in ranks]).mean(), loss, rtol=1e-12, atol=1e-12)
    for parameter, gradient in gradients.items():
        shared = torch.stack([r[1][parameter] for r in ranks]).mean(0)
        torch.testing.assert_close(shared, gradient, rtol=1e-9, atol=1e-12)
    for found in ranks:
        assert all(torch.allclose(found[2][n], value, rtol=1e-10, atol=1e-12) for n, value in kept.items())


def shuffled_on_rank(rank, world, rows):
    seen = []

    def network(images):
        seen.append(images.clone())
        return images * 2

    torch.manual_seed(rank)  # ranks draw different numbers
    keys = keys_of_all(network, rows.chunk(world)[rank])
    plain = keys_of_all(network, rows.chunk(world)[rank], shuffle=False)
    return keys, own_rows(keys), plain, seen


def test_shuffled_keys_come_back_in_order_from_mixed_batches():
    rows = torch.arange(16.0)[:, None]
    found = two_ranks(shuffled_on_rank, rows)
    for rank, (keys, own, plain, _) in enumerate(found):
        assert torch.equal(keys, 2 * rows)
        assert torch.equal(plain, 2 * rows)
        assert torch.equal(own, 2 * rows.chunk(2)[rank])
    mixed = [set(seen[0].flatten().tolist()) for *_, seen in found]
    assert mixed[0] | mixed[1] == set(range(16))
    assert mixed[0] != set(range(8))
    assert torch.equal(found[1][3][1], rows.chunk(2)[1])


@pytest.mark.parametrize("name", OPTIONS)
def test_resumes_to_the_same_bits(name, tmp_path):
    assert resume_differences(partial(build, name), tmp_path, stop=4, steps=7) == []


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "ranks"), [(2, 1), (0, 2)])
@pytest.mark.parametrize("name", OPTIONS)
def test_resumes_with_workers_and_ranks(name, workers, ranks, tmp_path):
    assert resume_differences(partial(build, name), tmp_path, stop=5, steps=8, workers=workers, ranks=ranks) == []


LEARNING = {
    "moco-v2": ({"queue": 128, "momentum": 0.8}, 2e-3),
    "moco-v2plus": ({"queue": 128, "momentum": 0.5, "final_momentum": 0.9}, 2e-3),
    "moco-v3": ({"momentum": 0.5, "hidden": 256}, 1e-2),
    "adco": ({"bank": 128}, 5e-3),
}
"""What learns in fifty steps: a momentum network that is quick, and the rate."""


def learn(name, seed):
    options, lr = LEARNING[name]
    return train_scenes(build(name, seed, out=64, **options), lr=lr)


@pytest.mark.parametrize("name", LEARNING)
def test_fifty_steps_learn_the_scenes(name):
    scores = learn(name, seed=2)
    assert scores.learned, scores


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_fifty_steps_learn_the_scenes_from_other_weights(name):
    scores = [learn(name, seed) for seed in range(4)]
    assert sum(s.trained for s in scores) / len(scores) > SCENE_THRESHOLD, scores


@pytest.mark.parametrize(
    ("name", "batch", "words"),
    [
        ("moco-v2", 32, "a batch of 32 is larger than the queue of 16"),
        ("moco-v2plus", 6, "a queue of 16 keys is not divisible by the batch of 6; take a queue of 12"),
        ("moco-v2", 2, "a batch of 2 over 2 processes leaves 1 row for batch norm"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(name, batch, words):
    with pytest.raises(InvalidOption, match=words):
        build(name).check_batch(batch, 1000, 2)
    build(name).check_batch(8, 32, 2)
    with pytest.raises(InvalidOption, match="over half the data set of 31 items"):
        build(name).check_batch(8, 31, 2)


def test_parts_that_do_not_fit_are_refused():
    encoder = build_encoder("small-cnn", input_size=16, projector=ProjectorSpec(out=16))
    for call, words in [
        (lambda: MoCoV2(encoder, KeyQueue(8, 4)), "keys of width 4 does not fit projections of width 16"),
        (lambda: MoCoV2Plus(encoder, [KeyQueue(8, 16), KeyQueue(8, 4)]), "keys of width 4 does not fit"),
        (lambda: AdCo(encoder, AdversarialBank(8, 4)), "bank of width 4 does not fit projections of width 16"),
        (lambda: AdversarialBank(0, 4), "bank of 0 negatives"),
        (lambda: AdversarialBank(8, 4, lr=-1.0), "rate -1.0"),
        (lambda: MoCoV2.assemble(encoder, queue=8, temperature=0.0), "temperature 0.0"),
        (lambda: AdCo.assemble(encoder, bank=8, bank_temperature=-1.0), "temperature -1.0"),
    ]:
        with pytest.raises(InvalidOption, match=words):
            call()


@pytest.mark.parametrize("name", OPTIONS)
def test_settings_hold_what_shapes_the_weights(name):
    settings = build(name).settings()
    assert settings.items() >= OPTIONS[name].items()
    assert build(name, momentum=0.5).settings() != settings
