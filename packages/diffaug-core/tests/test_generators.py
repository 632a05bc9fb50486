"""Generators: their arithmetic, their conditions, their averages, and what is kept of them on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import ArtifactError, InvalidOption, MissingWeights
from semaug.diffaug_core import Average, NoiseSchedule, build_generator, denoising_loss, load_generator, save_generator
from semaug.diffaug_core.diffusion import noised
from semaug.diffaug_core.generators import PREDICTIONS
from semaug.diffaug_core.generators.base import time_features
from semaug.ssl_methods.errors import WeightsMismatch

PAPER = NoiseSchedule.linear()
SMALL = {"channels": (8, 16), "attention": (16,)}


def inputs(shape, condition, rows=4, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(rows, *shape, generator=generator, dtype=dtype)
    t = torch.randint(1000, (rows,), generator=generator)
    return noisy, t, torch.randn(rows, condition, generator=generator, dtype=dtype)


def test_time_features_are_those_of_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0, 1, 17, 999])
    theirs = get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=1)
    torch.testing.assert_close(time_features(t, 32), theirs, rtol=0, atol=1e-4)


def test_the_mlp_is_its_equations():
    generator = build_generator("mlp", (7,), 3, widths=(6, 2, 5), embedding=8).double()
    noisy, t, condition = inputs((7,), 3, dtype=torch.float64)
    w = {name: p.detach().numpy() for name, p in generator.named_parameters()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    angles = t.numpy()[:, None] * (1e4 ** (-np.arange(4) / 3))
    time = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    embedded = linear("time.2", silu(linear("time.0", time))) + linear("condition", condition.numpy())
    shifts = np.split(linear("shifts", silu(embedded)), [6, 8], axis=1)
    hidden = noisy.numpy()
    for block, shift in enumerate(shifts):
        hidden = linear(f"blocks.{block}", hidden) + shift
        hidden = np.where(hidden > 0, hidden, 0.1 * hidden)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))[t.numpy()][:, None]
    expected = np.sqrt(1 - alpha_bar) * noisy.numpy() + np.sqrt(alpha_bar) * linear("out", hidden)
    np.testing.assert_allclose(generator(noisy, t, condition).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_papers_mlp_has_its_widths():
    generator = build_generator("mlp", (20,), 80)
    layers = [(b.in_features, b.out_features) for b in [*generator.blocks, generator.out]]
    assert layers == [(20, 500), (500, 80), (80, 500), (500, 20)]


@pytest.mark.parametrize("t", [0, 400, 999])
@pytest.mark.parametrize("name", PREDICTIONS)
def test_each_prediction_stands_for_the_true_noise(name, t):
    clean, noise = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a = torch.tensor(PAPER.alpha_bar[t])
    signal, spread = a.sqrt(), (1 - a).sqrt()
    out = {"noise": noise, "clean": clean, "velocity": signal * noise - spread * clean}[name]
    noisy = noised(clean, noise, torch.full((5,), t), PAPER)
    torch.testing.assert_close(PREDICTIONS[name](out, noisy, signal, spread), noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [32, 64])
def test_the_unet_takes_images_of_both_sizes(size):
    generator = build_generator("unet", (3, size, size), 5, channels=(8, 16, 16))
    noisy, t, condition = inputs((3, size, size), 5, rows=2)
    estimate = generator(noisy, t, condition)
    assert estimate.shape == noisy.shape
    loss = denoising_loss(generator, noisy, torch.randn_like(noisy), t, condition, PAPER)
    loss.backward()
    without = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


KINDS = {"mlp": ((6,), {"widths": (16, 8)}), "unet": ((3, 16, 16), SMALL)}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def built(kind, condition: int | None = 4, **more):
    shape, options = KINDS[kind]
    return build_generator(kind, shape, condition, **options, **more)


def test_samples_of_a_batch_do_not_meet(kind):
    generator = built(kind).double().eval()
    noisy, t, condition = inputs(generator.shape, 4, dtype=torch.float64)
    together = generator(noisy, t, condition)
    alone = torch.cat([generator(noisy[i : i + 1], t[i : i + 1], condition[i : i + 1]) for i in range(len(t))])
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)


def test_time_and_condition_are_heard_and_none_adds_nothing(kind):
    generator = built(kind).eval()
    noisy, t, condition = inputs(generator.shape, 4)
    estimate = generator.put_out(noisy, t, condition)
    assert not torch.allclose(generator.put_out(noisy, (t + 300) % 1000, condition), estimate, atol=1e-4)
    assert not torch.allclose(generator.put_out(noisy, t, -condition), estimate, atol=1e-4)
    unconditional = built(kind, None).eval()
    missing = unconditional.load_state_dict(generator.state_dict(), strict=False)
    assert set(missing.unexpected_keys) == {"condition.weight", "condition.bias"}
    torch.testing.assert_close(unconditional(noisy, t), generator(noisy, t, None))


def test_a_seed_decides_the_weights_and_leaves_torch_alone(kind):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (built(kind, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_saved_generator_comes_back_bit_equal(kind, tmp_path):
    schedule = NoiseSchedule.linear(50, 1e-3, 0.2)
    generator = built(kind, schedule=schedule, prediction="noise").eval()
    card = save_generator(tmp_path, generator, schedule, seed=3, steps=7, config={"alpha": 0.1}, inputs={"rows": "ab"})
    again, found = load_generator(tmp_path)
    noisy, t, condition = inputs(generator.shape, 4)
    assert torch.equal(again(noisy, t % 50, condition), generator(noisy, t % 50, condition))
    assert found == card
    assert found.schedule == schedule == again.schedule
    assert not again.training


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    generator = built("mlp")
    with pytest.raises(MissingWeights, match=r"generator\.json"):
        load_generator(tmp_path)
    with pytest.raises(InvalidOption, match="1000 time steps, the schedule trained with has 10"):
        save_generator(tmp_path, generator, NoiseSchedule.linear(10), seed=0, steps=1)
    save_generator(tmp_path, generator, PAPER, seed=0, steps=1)
    card = json.loads((tmp_path / "generator.json").read_text())
    card["options"]["widths"] = [16, 9]
    (tmp_path / "generator.json").write_text(json.dumps(card))
    with pytest.raises(WeightsMismatch, match=r"blocks\.1\.bias of shape \(8,\), the card's mlp needs \(9,\)"):
        load_generator(tmp_path)
    (tmp_path / "generator.safetensors").write_bytes(b"torn")
    with pytest.raises(WeightsMismatch, match="digest"):
        load_generator(tmp_path)
    (tmp_path / "generator.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        load_generator(tmp_path)


@pytest.mark.parametrize(
    ("kind", "shape", "condition", "options", "message"),
    [
        ("gan", (4,), 2, {}, "choose one of mlp, unet"),
        ("mlp", (4,), 2, {"channels": (8,)}, "no option 'channels'; it has widths, embedding, prediction"),
        ("mlp", (4,), 0, {}, "condition of 0 features"),
        ("mlp", (3, 8, 8), 2, {}, r"samples \(3, 8, 8\)"),
        ("mlp", (4,), 2, {"widths": (5, 0)}, r"widths \(5, 0\)"),
        ("mlp", (4,), 2, {"prediction": "score"}, "choose one of velocity, noise, clean"),
        ("unet", (4,), 2, {}, "square images"),
        ("unet", (3, 32, 16), 2, {}, "square images"),
        ("unet", (3, 18, 18), 2, {}, "18 pixels do not halve 2 times"),
        ("unet", (3, 16, 16), 2, {"channels": (12, 16)}, "multiples of 8"),
    ],
)
def test_bad_options_name_the_remedy(kind, shape, condition, options, message):
    with pytest.raises(InvalidOption, match=message):
        build_generator(kind, shape, condition, **options)


def test_samples_and_conditions_of_other_shapes_are_named():
    generator = built("mlp")
    with pytest.raises(InvalidOption, match=r"samples are \(5,\), the generator was built for \(6,\)"):
        generator(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InvalidOption, match=r"condition is \(2, 3\), the generator takes \(2, 4\)"):
        generator(torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3))


def train(generator, clean_of, steps, lr=3e-3):
    """The running average of ``generator`` after ``steps`` on fresh batches, and the last losses."""
    optimizer, source = torch.optim.Adam(generator.parameters(), lr=lr), torch.Generator().manual_seed(0)
    average = Average(generator)
    for _ in range(steps):
        clean, condition = clean_of(source)
        noise = torch.randn(clean.shape, generator=source)
        t = torch.randint(1000, (len(clean),), generator=source)
        optimizer.zero_grad()
        denoising_loss(generator, clean, noise, t, condition, PAPER).backward()
        optimizer.step()
        average.update(generator)
    return average.average


def test_the_mlp_learns_gaussian_data_down_to_the_floor():
    means, s = 2 * torch.eye(3), 0.3
    a = PAPER.alpha_bar
    floor = float(np.mean(a * s**2 / (a * s**2 + 1 - a)))

    def rows(source, count=256):
        component = torch.randint(3, (count,), generator=source)
        return means[component] + s * torch.randn(count, 3, generator=source), torch.eye(3)[component]

    generator = build_generator("mlp", (3,), 3, widths=(64, 64), embedding=32)
    learnt = train(generator, rows, 500)
    source = torch.Generator().manual_seed(9)
    clean, condition = rows(source, 20_000)
    noise, t = torch.randn(clean.shape, generator=source), torch.randint(1000, (len(clean),), generator=source)
    with torch.no_grad():
        losses = [float(denoising_loss(learnt, clean, noise, t, c, PAPER)) for c in (condition, condition.roll(1, 1))]
    assert floor * 0.97 < losses[0] < floor * 1.15
    assert losses[1] > 1.5 * losses[0]


def test_the_unet_learns():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    generator, codes = built("unet", 2), torch.eye(2)

    def both(source):
        return images.repeat(4, 1, 1, 1), codes.repeat(4, 1)

    source = torch.Generator().manual_seed(9)
    noise, t = torch.randn(8, 3, 16, 16, generator=source), torch.randint(1000, (8,), generator=source)

    def loss(network):
        with torch.no_grad():
            return float(denoising_loss(network, *both(source)[:1], noise, t, codes.repeat(4, 1), PAPER))

    before = loss(generator)
    train(generator, both, 60)
    assert loss(generator) < 0.8 * before


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_average_is_the_weighted_sum_of_the_weights(warm_up):
    layer = torch.nn.Linear(1, 1, bias=False).double()
    values, decay = [3.0, -1.0, 4.0, 1.5], 0.7
    with torch.no_grad():
        layer.weight.fill_(2.0)
    average, expected = Average(layer, decay, warm_up), 2.0
    for n, value in enumerate(values):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update(layer)
        d = min(decay, (1 + n) / (10 + n)) if warm_up else decay
        expected = d * expected + (1 - d) * value
    assert average.average.weight.item() == pytest.approx(expected, rel=1e-12)
    assert not average.average.weight.requires_grad


def test_a_resumed_average_goes_on_bit_equal():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    whole, first = Average(layer), Average(layer)

    def step(average):
        layer(torch.randn(8, 3, generator=torch.Generator().manual_seed(average.updates)))
        with torch.no_grad():
            layer[0].weight.fill_(average.updates)
        average.update(layer)

    for _ in range(3):
        step(whole)
    for _ in range(3):
        step(first)
    second = Average(layer)
    second.load_state_dict(first.state_dict())
    step(whole)
    second.update(layer)
    assert second.updates == whole.updates == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.average.parameters(), second.average.parameters(), strict=True))
    assert torch.equal(whole.average[1].running_mean, layer[1].running_mean)


def test_the_average_stays_in_evaluation_mode():
    owner = torch.nn.Module()
    owner.average = Average(torch.nn.Dropout())
    assert not owner.train().average.average.training
    with pytest.raises(InvalidOption, match="decay is 1"):
        Average(torch.nn.Linear(1, 1), 1.0)
