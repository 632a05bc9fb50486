"""MoCo v2 and v3, AdCo and StableRep, each against its paper's equation written out in float64."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.losses import adco_loss, moco_loss, moco_v3_loss, nt_xent, stablerep_loss
from semaug.ssl_methods.losses.adco import bank_gradient
from semaug.ssl_methods.testing import loss_and_gradient, rank_difference, two_ranks


def rows(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit(z):
    z = z.detach().numpy().astype(np.float64)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def info_nce(query, positive, negatives, temperature):
    """One query: -log of the positive's share among itself and the negatives (He et al. 2020, Eq. 1)."""
    above = math.exp(query @ positive / temperature)
    return -math.log(above / (above + sum(math.exp(query @ n / temperature) for n in negatives)))


def moco_reference(q, k, queue, temperature):
    q, k, queue = unit(q), unit(k), queue.numpy()
    return np.mean([info_nce(q[i], k[i], queue, temperature) for i in range(len(q))])


def moco_v3_reference(q1, q2, k1, k2, temperature):
    def ctr(q, k):
        q, k = unit(q), unit(k)
        others = [[k[j] for j in range(len(k)) if j != i] for i in range(len(q))]
        return 2 * temperature * np.mean([info_nce(q[i], k[i], others[i], temperature) for i in range(len(q))])

    return ctr(q1, k2) + ctr(q2, k1)


def adco_reference(q, k, bank, temperature):
    q, k, bank = unit(q), unit(k), unit(bank)
    others = [[*(k[j] for j in range(len(k)) if j != i), *bank] for i in range(len(q))]
    return np.mean([info_nce(q[i], k[i], others[i], temperature) for i in range(len(q))])


def stablerep_reference(z, groups, temperature):
    """Eqs. 1 to 3: the cross-entropy H(p, q) of every row that has positives."""
    z, groups, costs = unit(z), groups.tolist(), []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        below = sum(math.exp(z[i] @ z[j] / temperature) for j in others)
        positives = [j for j in others if groups[j] == groups[i]]
        if positives:
            logs = [math.log(math.exp(z[i] @ z[j] / temperature) / below) for j in positives]
            costs.append(-sum(logs) / len(logs))
    return np.mean(costs)


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_each_equals_its_paper(temperature):
    q1, q2, k1, k2 = (rows(6, 5, seed=s) for s in range(4))
    bank, groups = rows(9, 5, seed=5), torch.tensor([3, 0, 3, 3, 1, 1])
    queue = torch.from_numpy(unit(bank))
    close = partial(pytest.approx, abs=1e-12)
    assert moco_loss(q1, k1, queue, temperature).item() == close(moco_reference(q1, k1, queue, temperature))
    v3 = moco_v3_reference(q1, q2, k1, k2, temperature)
    assert moco_v3_loss(q1, q2, k1, k2, temperature).item() == close(v3)
    assert adco_loss(q1, k1, bank, temperature).item() == close(adco_reference(q1, k1, bank, temperature))
    multi = stablerep_reference(q1, groups, temperature)
    assert stablerep_loss(q1, groups, temperature).item() == close(multi)


@pytest.mark.parametrize(("n", "size"), [(2, 3), (5, 40)])
def test_identical_embeddings_cost_the_log_of_the_candidates(n, size):
    same, queue = torch.ones(n, 4, dtype=torch.float64), torch.full((size, 4), 0.5, dtype=torch.float64)
    assert moco_loss(same, same, queue, 0.05).item() == pytest.approx(math.log(1 + size), abs=1e-12)
    assert adco_loss(same, same, queue, 0.05).item() == pytest.approx(math.log(n + size), abs=1e-12)
    assert moco_v3_loss(same, same, same, same, 0.05).item() == pytest.approx(2 * 0.1 * math.log(n), abs=1e-12)
    assert stablerep_loss(same, torch.zeros(n), 0.05).item() == pytest.approx(math.log(n - 1), abs=1e-12)


def test_orthogonal_embeddings_have_a_closed_form():
    n, t = 4, 0.5
    eye = torch.eye(2 * n, dtype=torch.float64)
    q, bank = eye[:n], eye[n:]

    def cost(negatives):
        return pytest.approx(math.log(1 + negatives * math.exp(-1 / t)), abs=1e-12)

    assert moco_loss(q, q, bank, t).item() == cost(n)
    assert adco_loss(q, q, bank, t).item() == cost(2 * n - 1)
    assert moco_v3_loss(q, q, q, q, t).item() / (4 * t) == cost(n - 1)
    assert stablerep_loss(torch.cat([q, q]), torch.arange(n).repeat(2), t).item() == cost(2 * (n - 1))


def test_gradients_equal_finite_differences():
    q1, q2, k1, k2, bank = (rows(4, 3, seed=s) for s in range(5))
    leaves = [z.requires_grad_() for z in (q1, q2)]
    queue = torch.from_numpy(unit(bank))
    assert torch.autograd.gradcheck(lambda q: moco_loss(q, k1, queue), leaves[:1])
    assert torch.autograd.gradcheck(lambda a, b: moco_v3_loss(a, b, k1, k2), leaves)
    assert torch.autograd.gradcheck(lambda q, w: adco_loss(q, k1, w), [leaves[0], bank.requires_grad_()])
    assert torch.autograd.gradcheck(lambda z: stablerep_loss(z, torch.tensor([0, 0, 0, 1])), leaves[:1])


def test_gradients_reach_the_queries_alone():
    q1, q2, k1, k2 = (rows(4, 3, seed=s) for s in range(4))
    _, (queries, keys, queue) = loss_and_gradient(moco_loss, q1, k1, k2)
    assert queries.abs().sum() > 0
    assert keys.abs().sum() == queue.abs().sum() == 0
    _, gradients = loss_and_gradient(moco_v3_loss, q1, q2, k1, k2)
    assert [bool(g.abs().sum() > 0) for g in gradients] == [True, True, False, False]
    _, (queries, keys, bank) = loss_and_gradient(adco_loss, q1, k1, k2)
    assert keys.abs().sum() == 0
    assert min(queries.abs().sum(), bank.abs().sum()) > 0


def with_queue(q, k):
    return moco_loss(q, k, torch.from_numpy(unit(rows(7, 3, seed=9))), 0.2)


def with_bank(q, k):
    return adco_loss(q, k, rows(7, 3, seed=9), 0.12)


def in_groups(z, groups):
    """Groups come as floats beside the rows, so that both are shared out; they take no gradient."""
    return stablerep_loss(z, groups.detach().round().long(), 0.1)


@pytest.mark.parametrize("loss", [with_queue, with_bank])
def test_two_ranks_equal_one_process_with_negatives(loss):
    assert rank_difference(loss, rows(8, 3, seed=1), rows(8, 3, seed=2)) < 1e-12


def test_two_ranks_equal_one_process_for_moco_v3():
    assert rank_difference(partial(moco_v3_loss, temperature=0.3), *(rows(8, 3, seed=s) for s in range(4))) < 1e-12


def test_two_ranks_equal_one_process_for_groups_across_them():
    groups = torch.tensor([0, 1, 1, 2, 0, 1, 5, 6], dtype=torch.float64)  # rows without positives lie unevenly
    assert rank_difference(in_groups, rows(8, 3), groups) < 1e-12


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 6), size=st.integers(1, 9), temperature=st.floats(0.02, 2))
def test_bank_gradient_is_autograds_of_the_negated_loss(seed, n, size, temperature):
    q, k = rows(n, 4, seed=seed), rows(n, 4, seed=seed + 1)
    bank = rows(size, 4, seed=seed + 2) * 3
    _, (expected,) = loss_and_gradient(lambda w: -adco_loss(q, k, w, temperature), bank)
    torch.testing.assert_close(bank_gradient(q, k, bank, temperature), expected, rtol=1e-9, atol=1e-11)


def bank_on_rank(rank, world, q, k, bank):
    return bank_gradient(q.chunk(world)[rank], k.chunk(world)[rank], bank, 0.05)


def test_bank_gradient_is_the_whole_batchs_on_every_rank():
    q, k, bank = rows(6, 4, seed=1), rows(6, 4, seed=2), rows(5, 4, seed=3)
    whole = bank_gradient(q, k, bank, 0.05)
    for found in two_ranks(bank_on_rank, q, k, bank):
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


def test_descending_the_bank_gradient_raises_the_loss():
    q, k, bank = rows(6, 4, seed=1), rows(6, 4, seed=2), rows(5, 4, seed=3)
    moved = bank - 1e-3 * bank_gradient(q, k, bank, 0.05)
    assert adco_loss(q, k, moved, 0.05) > adco_loss(q, k, bank, 0.05)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_one_positive_a_row_is_nt_xent(temperature):
    z1, z2 = rows(6, 5), rows(6, 5, seed=1)
    found = stablerep_loss(torch.cat([z1, z2]), torch.arange(6).repeat(2), temperature)
    assert found.item() == pytest.approx(nt_xent(z1, z2, temperature).item(), abs=1e-12)


def test_lone_rows_are_candidates_only():
    z, groups = rows(5, 4), torch.tensor([0, 0, 1, 2, 3])
    assert stablerep_loss(z, groups).item() == pytest.approx(stablerep_reference(z, groups, 0.1), abs=1e-12)
    assert stablerep_loss(z, torch.arange(5)).item() == 0.0
    _, (gradient,) = loss_and_gradient(lambda x: stablerep_loss(x, groups), z)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_moco_equals_lightlys_loss_with_a_memory_bank(temperature):
    """On one scale: both are means over the queries. Its bank is left alone where nothing asks for a gradient."""
    peer = pytest.importorskip("lightly.loss").NTXentLoss(temperature=temperature, memory_bank_size=(12, 6))
    q, k = rows(4, 6, dtype=torch.float32), rows(4, 6, seed=1, dtype=torch.float32)
    ours = moco_loss(q, k, peer.memory_bank.bank.clone(), temperature)
    assert ours.item() == pytest.approx(peer(q, k).item(), rel=1e-6)


CALLS = {
    "moco": lambda q, k, bank: moco_loss(q, k, bank),
    "moco-v3": lambda q, k, bank: moco_v3_loss(q, k, q, k),
    "adco": lambda q, k, bank: adco_loss(q, k, bank),
    "bank": lambda q, k, bank: bank_gradient(q, k, bank),
    "stablerep": lambda q, k, bank: stablerep_loss(q, torch.zeros(6)),
}


@pytest.mark.parametrize("name", CALLS)
def test_is_float32_inside_autocast(name):
    inputs = [rows(n, 8, seed=n, dtype=torch.float32) for n in (6, 6, 9)]
    expected = CALLS[name](*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = CALLS[name](*inputs)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_what_has_no_meaning_is_refused():
    z, w = rows(3, 4), rows(2, 4)
    with pytest.raises(InvalidOption, match=r"\(3, 4\) and \(2, 4\)"):
        moco_loss(z, w, z)
    with pytest.raises(InvalidOption, match=r"\(3, 4\) and \(2, 4\)"):
        moco_v3_loss(z, z, z, w)
    with pytest.raises(InvalidOption, match=r"\(3, 4\) and \(2, 4\)"):
        adco_loss(z, w, z)
    with pytest.raises(InvalidOption, match=r"\(3, 4\) and groups \(2,\)"):
        stablerep_loss(z, torch.zeros(2))
    for loss in (partial(moco_loss, z, z, z), partial(adco_loss, z, z, z), partial(stablerep_loss, z, torch.zeros(3))):
        with pytest.raises(InvalidOption, match=r"temperature 0\.0 is not positive"):
            loss(0.0)
