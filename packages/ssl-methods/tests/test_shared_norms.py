"""Batch norm shared by processes against torch's own on all rows, and what is said when a process is gone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from semaug.ssl_methods.errors import PeerLost
from semaug.ssl_methods.peers import noticing_lost_peers
from semaug.ssl_methods.shared_norms import SharedBatchNorm, share_batch_norm
from semaug.ssl_methods.testing import two_ranks


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), nn.Flatten(), nn.Linear(27, 4),
            nn.BatchNorm1d(4, affine=False, momentum=0.3),
        )  # fmt: skip
    return layers.double()


def steps_on_rank(rank, world):
    """Two steps on a share of the rows: losses, gradients, running statistics, and the outputs in evaluation."""
    layers = network()
    share_batch_norm(layers)
    rows = torch.randn(2, 8, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    losses = []
    for batch in rows:
        out = layers(batch.chunk(world)[rank])
        losses.append((out.pow(3) + functional.softplus(out)).mean())
        losses[-1].backward()
    gradients = [p.grad for p in layers.parameters()]
    buffers = list(layers.buffers())
    return torch.stack(losses).detach(), gradients, buffers, layers.eval()(rows[0]).detach()


def test_loss_gradients_and_running_statistics_are_those_of_one_process_with_all_rows():
    losses, gradients, buffers, outputs = steps_on_rank(0, 1)
    ranks = two_ranks(steps_on_rank)
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, losses, atol=1e-12, rtol=0)
    for k, gradient in enumerate(gradients):
        torch.testing.assert_close((ranks[0][1][k] + ranks[1][1][k]) / 2, gradient, atol=1e-12, rtol=0)
    for rank in ranks:
        torch.testing.assert_close(rank[2], buffers, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(rank[3], outputs, atol=1e-12, rtol=1e-12)


def test_sharing_keeps_parameters_names_and_numbers_of_one_process():
    plain, shared = network(), network()
    parameters = list(shared.parameters())
    share_batch_norm(shared)
    assert all(a is b for a, b in zip(parameters, shared.parameters(), strict=True))
    assert list(plain.state_dict()) == list(shared.state_dict())
    assert sum(isinstance(m, SharedBatchNorm) for m in shared.modules()) == 2
    rows = torch.randn(6, 2, 5, 5, dtype=torch.float64)
    assert torch.equal(plain(rows), shared(rows))
    with pytest.raises(ValueError, match=r"shape \(3,\); give"):
        SharedBatchNorm(3)(torch.zeros(3))


@pytest.mark.parametrize(
    "said",
    [
        "Application timeout caused pair closure",
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:37132",
    ],
)
def test_a_collective_without_an_answer_is_one_line_with_the_remedy(said):
    wanted = r"^process 0 of 2 lost another one .*(timeout|closed).*same command$"
    with pytest.raises(PeerLost, match=wanted), noticing_lost_peers(0, 2):
        raise RuntimeError(said)


@pytest.mark.parametrize(("said", "world"), [("shapes cannot be multiplied", 2), ("Connection closed by peer", 1)])
def test_other_errors_and_those_of_one_process_stay_what_they_are(said, world):
    with pytest.raises(RuntimeError, match=said) as caught, noticing_lost_peers(0, world):
        raise RuntimeError(said)
    assert not isinstance(caught.value, PeerLost)
