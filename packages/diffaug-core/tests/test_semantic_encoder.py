"""The semantic encoder of rows and of images: its layers, y and z, and its way to the disk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core import semantic_encoder
from semaug.ssl_methods.cards import load_encoder, save_encoder


def layers(module):
    """Every layer without children: its name, and for linear ones their widths."""
    leaves = [m for m in module.modules() if not list(m.children())]
    return [(m.in_features, m.out_features) if isinstance(m, nn.Linear) else type(m).__name__ for m in leaves]


def test_rows_take_the_papers_layers():
    encoder = semantic_encoder(features=30)
    after = ["BatchNorm1d", "LeakyReLU"]
    assert layers(encoder.backbone) == [(30, 500), *after, (500, 300), *after, (300, 80), *after]
    assert layers(encoder.projector) == [(80, 500), *after, (500, 80), *after, (80, 2)]
    assert {m.negative_slope for m in encoder.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}


def test_the_newer_layout_normalises_after_the_activation():
    encoder = semantic_encoder(features=30, layout="newer", embedding=3)
    after = ["LeakyReLU", "BatchNorm1d"]
    widths = [(30, 500), (500, 500), (500, 500), (500, 50)]
    assert layers(encoder.backbone) == [part for width in widths for part in (width, *after)]
    assert layers(encoder.projector) == [(50, 500), *after, (500, 500), *after, (500, 3)]


@pytest.mark.parametrize(
    ("options", "x", "y"),
    [
        ({"features": 12}, (4, 12), 80),
        ({"features": 12, "layout": "newer"}, (4, 12), 50),
        ({"features": 12, "widths": (20, 10), "head": (9,)}, (4, 12), 10),
        ({"size": 32}, (4, 3, 32, 32), 128),
        ({"size": 32, "backbone": "resnet18"}, (4, 3, 32, 32), 512),
    ],
)
def test_y_and_z_and_the_way_to_the_disk(options, x, y, tmp_path):
    encoder = semantic_encoder(**options, seed=4).eval()
    samples = torch.randn(x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latent = encoder(samples)
        embedding = encoder.project(latent)
        assert (latent.shape, embedding.shape) == ((4, y), (4, 2))
        save_encoder(tmp_path, encoder, method="diffaug", seed=4, steps=0)
        again, card = load_encoder(tmp_path)
        assert torch.equal(again.project(again(samples)), embedding)
    assert again.spec == encoder.spec
    assert (card.feature_dim, card.projector_dim) == (y, 2)


def test_images_are_normalised_as_the_generator_reads_them():
    spec = semantic_encoder(size=32).spec
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


def test_a_seed_decides_the_weights():
    one, same, other = (semantic_encoder(features=5, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "features None and size None"),
        ({"features": 3, "size": 32}, "features 3 and size 32"),
        ({"features": 3, "layout": "older"}, "choose one of dlme, newer"),
        ({"size": 32, "widths": (4,)}, "of an encoder of rows"),
        ({"features": 3, "head": (4, 0)}, r"hidden \(4, 0\)"),
        ({"features": 3, "backbone": "resnet18"}, "reads images"),
    ],
)
def test_bad_options_name_the_remedy(options, message):
    with pytest.raises(InvalidOption, match=message):
        semantic_encoder(**options)
