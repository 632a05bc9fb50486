"""SupCon: its loss against Eq. 2 in float64, on two processes, without labels, in a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods import ProjectorSpec, SimCLR, build_encoder
from semaug.ssl_methods.methods import SupCon
from semaug.ssl_methods.testing import StripedPairs, small_run, two_ranks

LABELS = [2, 0, 2, -1, 1, 0, 2, -1]


def encoder(seed=0):
    return build_encoder("small-cnn", input_size=16, projector=ProjectorSpec(hidden=64, out=16), seed=seed)


def views(n=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 16, 16, generator=generator) for _ in range(2)]


def supervised_loss(z, labels, temperature):
    """Khosla et al., Eq. 2: for every anchor the mean over its positives of -log of the softmax over all others."""
    z, total = z / np.linalg.norm(z, axis=1, keepdims=True), 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        below = math.log(sum(math.exp(z[i] @ z[a] / temperature) for a in others))
        positives = [p for p in others if labels[p] == labels[i]]
        total -= sum(z[i] @ z[p] / temperature - below for p in positives) / len(positives)
    return total / len(z)


def test_the_loss_is_that_of_the_paper():
    method, batch = SupCon(encoder(), temperature=0.2, labels=LABELS).eval(), views(5)
    method.items = torch.tensor([6, 3, 0, 1, 7])
    with torch.no_grad():
        found = method(batch)["loss"].item()
        z = method.encoder.project(method.encoder(torch.cat(batch))).double().numpy()
    labels = [2, "alone 3", 2, 0, "alone 7"]  # images without a class attract nothing but their own view
    assert found == pytest.approx(supervised_loss(z, labels * 2, 0.2), abs=1e-5)


def test_without_labels_it_is_simclr():
    ours, theirs = SupCon(encoder(), temperature=0.2).eval(), SimCLR(encoder(), temperature=0.2).eval()
    with torch.no_grad():
        assert ours(views())["loss"].item() == pytest.approx(theirs(views())["loss"].item(), abs=1e-6)


def loss_and_norm(method, batch):
    loss = method(batch)["loss"]
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in method.parameters()])


def on_rank(rank, world, labels):
    torch.set_num_threads(1)
    method = SupCon(encoder(), labels=labels).eval()
    method.items = torch.arange(8).chunk(world)[rank]
    return loss_and_norm(method, [v.chunk(world)[rank] for v in views()])


@pytest.mark.parametrize("labels", [LABELS, None])
def test_two_processes_take_the_loss_and_gradient_of_one(labels):
    (first, a), (second, b) = two_ranks(on_rank, labels)
    loss, gradient = on_rank(0, 1, labels)
    assert (first + second) / 2 == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close((a + b) / 2, gradient, atol=1e-4, rtol=1e-3)


def test_a_batch_whose_images_are_not_known_is_refused():
    method = SupCon(encoder(), labels=LABELS)
    with pytest.raises(InvalidOption, match="a batch of 8 and none"):
        method(views())
    method.items = torch.arange(3)
    with pytest.raises(InvalidOption, match="a batch of 8 and 3"):
        method(views())


def labelled(seed):
    return SupCon(encoder(seed), labels=[i % 4 for i in range(40)])


def shifted(seed):
    return SupCon(encoder(seed), labels=[i // 2 % 4 for i in range(40)])


def test_a_run_hands_the_numbers_of_its_images_on_and_the_labels_shape_the_weights(tmp_path):
    pairs, steps = StripedPairs(40), {"steps": 6, "checkpoint_every": 6}
    cards = [
        small_run(tmp_path / name, build=build, pairs=pairs, **steps)
        for name, build in (("a", labelled), ("b", labelled), ("c", shifted))
    ]
    assert cards[0].weights_digest == cards[1].weights_digest != cards[2].weights_digest
    assert cards[0].config["method"]["labels"] != cards[2].config["method"]["labels"]
