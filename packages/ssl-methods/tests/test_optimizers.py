from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.lars import LARS
from semaug.ssl_methods.optimizers import OPTIMIZERS, OptimizerSettings, build_optimizer, parameter_groups
from semaug.ssl_methods.schedules import WarmupCosine


def lars_reference(weights, gradients, *, lr, momentum, decay, eta, clip, adapt):
    """You et al. 2017, one tensor after another."""
    w, v = weights.astype(np.float64).copy(), np.zeros_like(weights, dtype=np.float64)
    for g in gradients:
        size, slope = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
        trust = 1.0
        if adapt and size > 0 and slope > 0:
            trust = eta * size / (slope + decay * size)
            trust = min(trust, 1.0) if clip else trust
        v = momentum * v + trust * (g + decay * w)
        w = w - lr * v
    return w


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("adapt", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_lars_equals_its_reference(clip, adapt, scale):
    rng = np.random.default_rng(0)
    starts = [rng.standard_normal((4, 3)), rng.standard_normal((2, 5)), np.zeros((3, 2))]
    gradients = [[rng.standard_normal(s.shape) * scale for s in starts] for _ in range(4)]
    weights = [nn.Parameter(torch.tensor(s)) for s in starts]
    settings = {"lr": 0.3, "momentum": 0.9, "eta": 0.02, "clip": clip}
    optimizer = LARS([{"params": weights, "adapt": adapt}], weight_decay=0.01, **settings)
    for step in gradients:
        for w, g in zip(weights, step, strict=True):
            w.grad = torch.tensor(g)
        optimizer.step()
    for k, start in enumerate(starts):
        steps = [g[k] for g in gradients]
        expected = lars_reference(start, steps, decay=0.01, adapt=adapt, **settings)
        np.testing.assert_allclose(weights[k].detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_lars_without_adaptation_is_sgd():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    a = LARS([{"params": [ours], "adapt": False}], lr=0.1, momentum=0.9, weight_decay=0.1)
    b = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        ours.grad = torch.randn(3, 2)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs)


def test_biases_and_norms_are_left_out():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    weights, vectors = parameter_groups(network, OPTIMIZERS["solo"])
    assert [tuple(p.shape) for p in weights["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert len(vectors["params"]) == 4
    assert vectors["weight_decay"] == 0.0
    assert vectors["adapt"] is False
    assert len(parameter_groups(network, OPTIMIZERS["paper"])[0]["params"]) == 6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_presets_build_and_step(name):
    network = nn.Linear(3, 2)
    before = network.weight.detach().clone()
    optimizer = build_optimizer(network, OPTIMIZERS[name])
    network(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, network.weight)


def test_presets_are_the_papers():
    paper, solo = OPTIMIZERS["paper"], OPTIMIZERS["solo"]
    assert (paper.name, paper.lr, paper.momentum, paper.weight_decay) == ("sgd", 0.03, 0.9, 1e-4)
    assert (solo.name, solo.lr, solo.eta, solo.clip) == ("lars", 0.4, 0.02, True)
    assert solo.scaled(512).lr == 0.8


@pytest.mark.parametrize("settings", [{"name": "adam"}, {"lr": 0.0}, {"lr": float("nan")}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(InvalidOption, match=r"not known|not positive"):
        OptimizerSettings(**settings)


def test_schedule_warms_up_and_falls_to_zero():
    schedule = WarmupCosine(steps=100, warmup=10)
    rates = [schedule(s) for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-3
    with pytest.raises(InvalidOption, match="warm-up of 11 steps does not fit into 10"):
        WarmupCosine(steps=10, warmup=11)
