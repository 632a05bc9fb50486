"""Pairs of rows: a batch is its items, whatever loads it; views are those of the augmentation and no others."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from semaug.artifacts.draws import draw_key, uniforms
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import labels_of
from semaug.artifacts.tables import Table
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.sources.rows import RowPairs, collate_rows, refuse_image_options


class Jitter:
    """A row and a number of its own for every seed, epoch and view."""

    def __init__(self, rows):
        self.rows = rows

    def hand(self, indices, *, seed, epoch, view):
        noise = [uniforms(draw_key(seed, "jitter", epoch, str(i), view=view), self.rows.shape[1]) for i in indices]
        return torch.from_numpy((self.rows[indices] + np.stack(noise)).astype(np.float32))


@pytest.fixture
def pairs():
    rows = np.arange(40, dtype=np.float32).reshape(10, 4) * 10
    return RowPairs(Table.of(rows, labels=[0, 1] * 5), Jitter(rows), seed=3)


def test_an_item_is_two_views_of_its_row(pairs):
    pairs.set_epoch(2)
    view_1, view_2, index = pairs[7]
    assert index == 7
    assert torch.equal(view_1, pairs.views.hand(np.array([7]), seed=3, epoch=2, view=0)[0])
    assert torch.equal(view_2, pairs.views.hand(np.array([7]), seed=3, epoch=2, view=1)[0])
    assert not torch.equal(view_1, view_2)
    pairs.set_epoch(3)
    assert not torch.equal(pairs[7][0], view_1)
    assert pairs[-1][2] == 9
    with pytest.raises(IndexError, match="item 10 of 10 pairs"):
        pairs[10]


def test_a_batch_is_its_items(pairs):
    batch = pairs.__getitems__([4, 1, 4])
    for (a, b, i), item in zip(batch, [4, 1, 4], strict=True):
        assert i == item
        assert torch.equal(a, pairs[item][0])
        assert torch.equal(b, pairs[item][1])
    together, alone = collate_rows(batch), collate_rows(list(batch))
    assert all(torch.equal(x, y) for x, y in zip(together, alone, strict=True))
    assert together[2].dtype == torch.int64


def test_in_a_plain_loader_and_after_pickling(pairs):
    loaded = list(DataLoader(pickle.loads(pickle.dumps(pairs)), batch_size=4, collate_fn=pairs.collate))
    assert [batch[0].shape for batch in loaded] == [(4, 4), (4, 4), (2, 4)]
    found = torch.cat([batch[1] for batch in loaded])
    assert torch.equal(found, torch.stack([pairs[i][1] for i in range(10)]))


def test_what_a_run_keeps_of_them(pairs):
    assert pairs.inputs() == {"source": pairs.source.fingerprint}
    assert pairs.config == {"pairs": "rows", "seed": 3}
    assert labels_of(pairs.source).tolist() == [0, 1] * 5


def test_what_is_refused(pairs):
    with pytest.raises(NoPairs, match="has 1 row; give at least 2"):
        RowPairs(Table.of([[1.0]]), pairs.views, seed=0)
    with pytest.raises(InvalidOption, match="--preset, --box-scale: for views of images"):
        refuse_image_options({"preset": "symmetric", "box_scale": (0.1, 1)})
