"""Items of more than two views: means over pairs, queues that are filled once, and the multi-positive method."""

from __future__ import annotations

import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.encoder import build_encoder
from semaug.ssl_methods.losses.moco import moco_loss
from semaug.ssl_methods.methods import METHODS, AdCo, MoCoV2, MoCoV2Plus, SimCLR, StableRep
from semaug.ssl_methods.methods.base import Method
from semaug.ssl_methods.queues import KeyQueue

PAIRING = ((0, 2), (0, 1), (1, 2))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 16, 16, generator=generator) for _ in range(3)]


def build(kind: type[Method], **options: object) -> Method:
    return kind.assemble(build_encoder("small-cnn", input_size=16, projector=kind.default_projector), **options)


@pytest.mark.parametrize("name", ["simclr", "byol", "simsiam", "barlow-twins", "vicreg", "moco-v3"])
def test_the_loss_of_three_views_is_the_mean_over_their_pairs(views, name) -> None:
    paired, plain = build(METHODS[name]), build(METHODS[name])
    plain.load_state_dict(paired.state_dict())
    paired.pairing = PAIRING
    expected = torch.stack([plain([views[a], views[b]])["loss"] for a, b in PAIRING]).mean()
    assert paired(views)["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_queue_takes_one_key_an_image_and_none_before_the_last_loss(views) -> None:
    method = build(MoCoV2, queue=32)
    method.pairing = PAIRING
    before = method.queue.keys.clone()
    teacher = method.teacher
    with torch.no_grad():
        method.train()
        z = [method.encoder.project(method.encoder(v)) for v in views]
        k = [torch.nn.functional.normalize(teacher.project(teacher(v)), dim=1) for v in views]
    expected = torch.stack([moco_loss(z[a], k[b], before, method.temperature) for a, b in PAIRING]).mean()
    assert method(views)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(method.queue.count) == 4
    assert torch.allclose(method.queue.keys[:4], k[2], atol=1e-6)  # those of the first pair
    assert torch.equal(method.queue.keys[4:], before[4:])


def test_both_queues_of_the_symmetric_method_take_one_key_an_image(views) -> None:
    method = build(MoCoV2Plus, queue=32)
    method.pairing = PAIRING
    method(views)["loss"].backward()
    assert [int(queue.count) for queue in method.modules() if isinstance(queue, KeyQueue)] == [4, 4]


def test_the_bank_follows_the_mean_of_all_pairs(views) -> None:
    method = build(AdCo, bank=16)
    method.pairing = PAIRING
    method(views)
    assert len(method._gradients) == 3


def test_an_error_in_a_loss_lets_go_of_the_keys(views) -> None:
    method = build(MoCoV2, queue=32)
    method.pairing = PAIRING
    with pytest.raises(RuntimeError):
        method([*views[:2], views[2][:, :1]])  # of one channel
    assert method.queue._held is None
    method(views)
    assert int(method.queue.count) == 4


def test_a_method_of_many_views_sees_them_all_and_others_refuse_what_is_left_over(views) -> None:
    dino = build(METHODS["dino"], outputs=8)
    dino.pairing = PAIRING
    assert torch.isfinite(dino(views)["loss"])
    simclr = build(SimCLR)
    with pytest.raises(InvalidOption, match="takes 2 views of an image, got 3"):
        simclr(views)
    simclr.pairing = PAIRING
    with pytest.raises(InvalidOption, match="of 3 views, got 4"):
        simclr([*views, views[0]])


def reference(z: torch.Tensor, items: int, temperature: float) -> float:
    """The multi-positive loss of float64 embeddings (V * items, P), row by row from its equations."""
    z = torch.nn.functional.normalize(z, dim=1)
    total = 0.0
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        scale = sum(float(torch.exp(z[i] @ z[j] / temperature)) for j in others)
        positives = [j for j in others if j % items == i % items]
        total -= sum(float(z[i] @ z[j] / temperature) - torch.tensor(scale).log().item() for j in positives) / len(
            positives
        )
    return total / len(z)


def test_all_views_of_an_item_are_positives_of_each_other(views) -> None:
    method = build(StableRep).double()
    doubled = [v.double() for v in views]
    z = method.encoder.project(method.encoder(torch.cat(doubled)))
    assert method(doubled)["loss"].item() == pytest.approx(reference(z.detach(), 4, 0.1), rel=1e-6)


def test_with_two_views_it_is_simclr(views) -> None:
    ours, theirs = build(StableRep, temperature=0.2), build(SimCLR, temperature=0.2)
    theirs.load_state_dict(ours.state_dict())
    assert ours(views[:2])["loss"].item() == pytest.approx(theirs(views[:2])["loss"].item(), rel=1e-6)
