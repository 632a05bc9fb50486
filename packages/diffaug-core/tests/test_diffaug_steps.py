"""One step of DiffAug: the losses by hand, what gradients reach, which views are generated, what stands still."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core import KERNELS, DiffAugSettings
from semaug.diffaug_core.conditions import stream
from semaug.diffaug_core.steps import Steps
from semaug.diffaug_core.testing import MixtureSamples

SMALL = DiffAugSettings(
    encoder={"widths": (6, 5), "head": (4,)},
    generator={"widths": (7,), "embedding": 4},
    timesteps=20,
    sampler_steps=3,
    warmup_epochs=1,
    generator_epochs=1,
    refresh_every=2,
    copies=2,
)


def steps_of(settings=SMALL, samples=None, **options):
    samples = samples or MixtureSamples(count=24, features=4)
    return Steps(samples, settings, **{"encoder_steps": 18, "batch_size": 8, **options})


def advance(steps, stop, start=0):
    """The scalars of steps ``start`` to ``stop`` - 1 of the plan, banks made where they are due."""
    found = []
    for moment in map(steps.plan.at, range(start, stop)):
        if steps.wants_bank(moment):
            steps.refresh(moment)
        found.append(steps.run(moment))
    return found


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}


def same(first, second):
    return all(torch.equal(v, second[k]) for k, v in first.items())


def layer(x, state, prefix, norm):
    """Linear, batch norm over the rows, leaky ReLU, in numpy."""
    x = x @ state[f"{prefix[0]}.weight"].T + state.get(f"{prefix[0]}.bias", 0)
    if not norm:
        return x
    x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    x = x * state[f"{prefix[1]}.weight"] + state[f"{prefix[1]}.bias"]
    return np.where(x > 0, x, 0.1 * x)


def encoded(rows, encoder):
    state = {k: v.double().numpy() for k, v in encoder.state_dict().items()}
    y = rows
    for number in range(2):
        y = layer(y, state, (f"backbone.{number}.0", f"backbone.{number}.1"), True)
    z = layer(y, state, ("projector.0", "projector.1"), True)
    return y, layer(z, state, ("projector.3",), False)


def soft_loss(y, z, kernel, nu_y, nu_z, beta):
    """Eq. 2 row by row: rows i and i + n are views of one sample."""
    costs = []
    for i, j in permutations(range(len(y)), 2):
        pull = math.exp(beta) if i % (len(y) // 2) == j % (len(y) // 2) else 1.0
        p = min(1.0, pull * similarity(math.dist(y[i], y[j]), nu_y, kernel))
        q = similarity(math.dist(z[i], z[j]), nu_z, kernel)
        costs.append(-(p * math.log(q + 1e-5) + (1 - p) * math.log(1 - q + 1e-5)))
    return sum(costs) / len(costs)


def similarity(distance, nu, kernel):
    shape = (1 + distance**2 / nu) ** (-(nu + 1) / 2)
    density = math.gamma((nu + 1) / 2) / (math.sqrt(nu * math.pi) * math.gamma(nu / 2)) * shape
    return {"paper": density, "official": 2 * math.pi * density**2, "peak1": shape}[kernel]


@pytest.mark.parametrize("kernel", KERNELS)
def test_loss_of_two_samples_by_hand(kernel):
    settings = replace(SMALL, kernel=kernel, nu_y=3.0, nu_z=0.5, beta=0.4, precision="fp64", generate=False)
    samples = MixtureSamples(count=2, features=4)
    steps = steps_of(settings, samples, batch_size=2, encoder_steps=5)
    order = steps.batches.at(0)
    rows = np.concatenate([samples.rows[order], samples.hand(order, seed=0, epoch=0, view=1).numpy()])
    y, z = encoded(rows.astype(np.float64), steps.state.encoder)
    found = steps.run(steps.plan.at(0))["loss"]
    assert float(found) == pytest.approx(soft_loss(y, z, kernel, 3.0, 0.5, 0.4), abs=1e-12)


def test_infonce_by_hand():
    settings = replace(SMALL, loss="infonce", precision="fp64", generate=False, temperature=0.3, first_view="hand")
    samples = MixtureSamples(count=6, features=4)
    steps = steps_of(settings, samples, batch_size=6, encoder_steps=5)
    order = steps.batches.at(0)
    rows = np.concatenate([samples.hand(order, seed=0, epoch=0, view=v).numpy() for v in (0, 1)])
    _, z = encoded(rows.astype(np.float64), steps.state.encoder)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    costs = []
    for i in range(12):
        others = [math.exp(z[i] @ z[j] / 0.3) for j in range(12) if j != i]
        costs.append(-z[i] @ z[(i + 6) % 12] / 0.3 + math.log(sum(others)))
    assert float(steps.run(steps.plan.at(0))["loss"]) == pytest.approx(np.mean(costs), abs=1e-12)


def test_denoising_loss_and_its_weight_by_hand():
    steps = steps_of(replace(SMALL, precision="fp64", generator_weight=0.25))
    moment = steps.plan.at(3)
    assert (moment.block.stage, moment.generator_step) == ("generator", 0)
    advance(steps, 3)
    network = steps.state.generator.trained.network
    indices, source = steps.generator_batches.at(0), stream(torch.device("cpu"), 0, "denoising", 0)
    t = torch.randint(20, (8,), generator=source)
    noise = torch.randn(8, 4, generator=source, dtype=torch.float64)
    kept = np.cumprod(1 - np.linspace(1e-4, 2e-2, 20))[t.numpy()][:, None]
    x = steps.clean[indices].numpy()
    noisy = torch.from_numpy(np.sqrt(kept) * x + np.sqrt(1 - kept) * noise.numpy())
    with torch.no_grad():
        condition = steps.state.encoder.eval()(steps.clean[indices])
    loss = (noise - network(noisy, t, condition)).square().mean()
    wanted = torch.autograd.grad(0.25 * loss, network.parameters())
    assert float(steps.run(moment)["generator_loss"]) == pytest.approx(float(loss.detach()), abs=1e-12)
    for parameter, gradient in zip(network.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("condition", ["y", "z"])
def test_no_gradient_of_the_denoising_loss_reaches_the_encoder(condition):
    steps = steps_of(replace(SMALL, condition=condition))
    rows = steps.clean[np.arange(8)]
    y = steps.state.encoder(rows)
    part = steps.state.generator
    told = part.conditions.of(np.arange(8), 0, (y, steps.state.encoder.project(y)))
    assert not told.requires_grad
    loss = steps.denoising.loss(part.trained.network, rows, told, 0)
    found = torch.autograd.grad(loss, list(steps.state.encoder.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in found)


def test_no_gradient_passes_through_generated_views():
    steps = steps_of(replace(SMALL, alpha=1.0))
    advance(steps, steps.plan.total)
    part = steps.state.generator
    part.trained.network.zero_grad()
    views = steps.views.draw(np.arange(8), steps.plan.at(steps.plan.total - 1), steps.bank)
    assert not views.second.requires_grad
    steps.state.encoder(views.second).sum().backward()
    assert all(p.grad is None for p in part.trained.network.parameters())
    assert all(p.grad is None for p in part.average.parameters())


@pytest.mark.parametrize("schedule", ["joint", "em"])
@pytest.mark.parametrize("first_view", ["clean", "hand"])
def test_alpha_zero_ends_with_the_encoder_of_b2_bit_for_bit(schedule, first_view):
    settings = replace(SMALL, schedule=schedule, first_view=first_view, alpha=0.0)
    full, alone = steps_of(settings), steps_of(replace(settings, generate=False))
    advance(full, full.plan.total)
    advance(alone, alone.plan.total)
    assert full.plan.generator_steps > 0
    assert same(weights(full.state.encoder), weights(alone.state.encoder))


def test_alpha_above_zero_changes_the_encoder():
    full, alone = steps_of(replace(SMALL, alpha=0.5)), steps_of(replace(SMALL, generate=False))
    advance(full, full.plan.total)
    advance(alone, alone.plan.total)
    assert not same(weights(full.state.encoder), weights(alone.state.encoder))


def test_with_alpha_one_every_second_view_is_one_of_the_banks_copies_after_the_warm_up():
    steps = steps_of(replace(SMALL, alpha=1.0))
    scalars = advance(steps, 10)
    assert [s["generated"] for s in scalars if "generated" in s] == [0, 0, 0, 1, 1, 1, 1]
    indices, moment = steps.batches.at(6), steps.plan.at(9)
    views = steps.views.draw(indices, moment, steps.bank)
    copies = steps.bank.views[:, torch.from_numpy(indices)]
    assert bool((views.second == copies).all(dim=2).any(dim=0).all())
    assert torch.equal(views.first, steps.clean[indices])


def test_both_copies_of_the_bank_are_drawn_alike():
    steps = steps_of(replace(SMALL, alpha=1.0))
    advance(steps, 7)
    indices = np.arange(24)
    drawn = torch.stack([steps.bank.draw(indices, seed=0, step=s) for s in range(200)])
    share = float((drawn == steps.bank.views[0]).all(dim=2).double().mean())
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 4800)


def test_views_are_substituted_at_the_rate_alpha():
    steps = steps_of(replace(SMALL, alpha=0.1), encoder_steps=400)
    moments = [steps.plan.at(s) for s in range(6, 306)]
    share = np.mean([steps.views.substituted(500, m) for m in moments])
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / 150_000)
    assert not np.array_equal(*(steps.views.substituted(500, m) for m in moments[:2]))


def test_hand_made_views_are_kept_where_nothing_is_substituted():
    steps = steps_of(replace(SMALL, alpha=0.5))
    advance(steps, 7)
    indices, moment = steps.batches.at(4), steps.plan.at(7)
    views = steps.views.draw(indices, moment, steps.bank)
    by_hand = steps.clean.samples.hand(indices, seed=0, epoch=moment.epoch, view=1)
    assert 0 < views.generated.sum() < 8
    np.testing.assert_array_equal((views.second == by_hand).all(dim=1).numpy(), ~views.generated)


def test_em_freezes_one_network_while_it_trains_the_other():
    steps = steps_of(replace(SMALL, schedule="em", block_epochs=1))
    for block in steps.plan.blocks:
        encoder, part = weights(steps.state.encoder), steps.state.generator
        generator, average = weights(part.trained.network), weights(part.average)
        advance(steps, block.stop, block.start)
        assert same(encoder, weights(steps.state.encoder)) == (not block.encoder)
        assert same(generator, weights(part.trained.network)) == (not block.generator)
        assert same(average, weights(part.average)) == (not block.generator)


def test_joint_steps_change_both():
    steps = steps_of()
    advance(steps, 6)
    encoder, generator = weights(steps.state.encoder), weights(steps.state.generator.trained.network)
    advance(steps, 7, 6)
    assert not same(encoder, weights(steps.state.encoder))
    assert not same(generator, weights(steps.state.generator.trained.network))


def test_conditions_while_the_encoder_stands_still_are_those_of_the_encoder():
    steps = steps_of()
    advance(steps, 4)
    part, indices = steps.state.generator, np.array([3, 11])
    held = part.conditions.of(indices, 4)
    part.conditions.hold(False)
    torch.testing.assert_close(part.conditions.of(indices, 4), held)


def test_random_conditions_are_new_at_every_step_and_normal():
    steps = steps_of(replace(SMALL, condition="random"))
    conditions = steps.state.generator.conditions
    first, second = (conditions.of(np.arange(2000), step) for step in (0, 1))
    assert first.shape == (2000, 5)
    assert not torch.equal(first, second)
    assert torch.equal(first, conditions.of(np.arange(2000), 0))
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.var()) - 1) < 0.1


def test_label_conditions_are_one_of_c():
    conditions = steps_of(replace(SMALL, condition="label")).state.generator.conditions
    assert conditions.of(np.array([4, 0, 5]), 0).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_a_sample_without_label_is_named():
    class Unlabelled(MixtureSamples):
        def label(self, index):
            return None if index == 3 else 0

    with pytest.raises(InvalidOption, match="'row3' has none"):
        steps_of(replace(SMALL, condition="label"), Unlabelled(count=24, features=4))


def test_rates_fall_every_tenth_of_a_networks_own_steps():
    trained = steps_of().state.trained
    assert [trained.rate(s) for s in (0, 1, 2, 17)] == pytest.approx([1e-3, 1e-3, 8e-4, 1e-3 * 0.8**9])


def test_the_bank_depends_on_neither_batch_size_nor_what_was_drawn_before():
    first, second = steps_of(), steps_of(batch_size=12, encoder_steps=12)
    for steps in (first, second):
        torch.manual_seed(steps.batches.batch_size)
    moments = [next(m for s in range(9) if (m := steps.plan.at(s)).refresh == 0) for steps in (first, second)]
    banks = [steps.refresh(moment) for steps, moment in zip((first, second), moments, strict=True)]
    assert torch.equal(banks[0].views, banks[1].views)
    assert banks[0].views.shape == (2, 24, 4)
    assert not torch.equal(banks[0].views[0], banks[0].views[1])


def test_banks_are_drawn_by_the_running_average_told_what_the_encoder_says_of_clean_samples():
    steps = steps_of()
    advance(steps, 6)
    moment, part = steps.plan.at(6), steps.state.generator
    expected = steps.refresh(moment).views
    torch.nn.init.zeros_(part.trained.network.out.weight)
    assert torch.equal(steps.refresh(moment).views, expected)
    torch.nn.init.zeros_(steps.state.encoder.backbone[1][0].weight)
    assert not torch.equal(steps.refresh(moment).views, expected)
    torch.nn.init.zeros_(part.average.average.out.weight)
    assert float((steps.refresh(moment).views - expected).abs().max()) > 0.1


def test_the_spread_of_a_bank_is_that_of_its_views_over_the_samples():
    steps = steps_of()
    scalars = advance(steps, 7)
    expected = steps.bank.views[0].numpy().std() / steps.clean.samples.rows.std()
    assert scalars[-1]["bank_spread"] == pytest.approx(expected, rel=0.02)  # torch divides by one less


def test_banks_are_drawn_anew_at_every_refresh():
    steps = steps_of(replace(SMALL, alpha=0.5))
    made = []
    for moment in map(steps.plan.at, range(steps.plan.total)):
        if steps.wants_bank(moment):
            made.append((moment.epoch, steps.refresh(moment)))
        age = steps.run(moment).get("bank_age", 0)
        assert age < 2
    assert [epoch for epoch, _ in made] == [1, 3, 5]
    assert [bank.number for _, bank in made] == [0, 1, 2]


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (MixtureSamples(count=1, features=4), {"batch_size": 1}, "was given 1; give at least 2"),
        (MixtureSamples(count=5, features=4), {"batch_size": 6}, "give --batch-size 2 to 5"),
        (MixtureSamples(count=5, features=4, spread=math.nan), {"batch_size": 5}, "'row0' holds NaN or infinity"),
    ],
)
def test_samples_that_cannot_be_trained_on(samples, options, message):
    with pytest.raises(InvalidOption, match=message):
        steps_of(SMALL, samples, **options)


def test_unknown_options_of_the_networks_are_named():
    with pytest.raises(InvalidOption, match="the encoder has no option 'depth'"):
        steps_of(replace(SMALL, encoder={"depth": 3}))
    with pytest.raises(InvalidOption, match="'mlp' has no option 'depth'"):
        steps_of(replace(SMALL, generator={"depth": 3}))
