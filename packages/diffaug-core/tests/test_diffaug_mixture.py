"""On a mixture whose components are known: generated views stay in theirs, and the embedding tells them apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from semaug.artifacts.tables import Table
from semaug.diffaug_core import DiffAugSettings
from semaug.diffaug_core.steps import Steps
from semaug.diffaug_core.table_samples import TableSamples

COUNT, FEATURES, COMPONENTS = 200, 12, 4
LABELS = np.arange(COUNT) % COMPONENTS
LONG, THIN = 1.5, 0.1

SETTINGS = DiffAugSettings(
    encoder={"widths": (64, 32), "head": (64,)},
    generator={"widths": (128, 64, 128), "embedding": 32},
    timesteps=200,
    sampler_steps=20,
    warmup_epochs=40,
    generator_epochs=120,
    refresh_every=15,
    alpha=0.15,
    lr=3e-3,
    generator_lr=3e-3,
    detach_p=True,
)


def unit_rows(rng):
    rows = rng.standard_normal((COMPONENTS, FEATURES))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


RNG = np.random.default_rng(0)
CENTRES, AXES = 1.2 * unit_rows(RNG), unit_rows(RNG)
ROWS = (
    CENTRES[LABELS]
    + LONG * RNG.standard_normal((COUNT, 1)) * AXES[LABELS]
    + THIN * RNG.standard_normal((COUNT, FEATURES))
).astype(np.float32)


def component(rows):
    """The component, each a Gaussian long along its axis, that is the likeliest for every row."""
    apart = rows[:, None] - CENTRES
    along = (apart * AXES).sum(axis=2)
    across = (apart**2).sum(axis=2) - along**2
    return (along**2 / (LONG**2 + THIN**2) + across / THIN**2).argmin(axis=1)


def kmeans_accuracy(rows):
    found = KMeans(COMPONENTS, n_init=10, random_state=0).fit_predict(rows)
    table = np.zeros((COMPONENTS, COMPONENTS))
    np.add.at(table, (found, LABELS), 1)
    return table[linear_sum_assignment(-table)].sum() / COUNT


def train(settings, until_first_bank=False):
    """The steps after training, and the share of every bank's views that kept their component."""
    steps = Steps(TableSamples(Table.of(ROWS)), settings, encoder_steps=160, batch_size=100)
    kept = []
    for moment in map(steps.plan.at, range(steps.plan.total)):
        if steps.wants_bank(moment):
            kept.append((component(steps.refresh(moment).views[0].numpy()) == LABELS).mean())
            if until_first_bank:
                break
        steps.run(moment)
    return steps, kept


@pytest.mark.parametrize("schedule", ["joint", pytest.param("em", marks=pytest.mark.slow)])
def test_generated_samples_keep_their_component_and_kmeans_improves(schedule):
    steps, kept = train(replace(SETTINGS, schedule=schedule))
    assert len(kept) == 3
    assert min(kept) >= 0.95
    encoder = steps.state.encoder.eval()
    with torch.no_grad():
        z = encoder.project(encoder(torch.from_numpy(ROWS))).numpy()
    assert z.shape == (COUNT, 2)
    assert kmeans_accuracy(z) >= kmeans_accuracy(ROWS) + 0.2


def test_generated_samples_told_nothing_do_not():
    _, kept = train(replace(SETTINGS, condition="random"), until_first_bank=True)
    assert 0.1 < kept[0] < 0.4
