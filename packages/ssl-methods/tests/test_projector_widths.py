"""Projectors with a width for each layer, and batch norm after the activation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.backbones import MLP
from semaug.ssl_methods.cards import load_encoder, save_encoder
from semaug.ssl_methods.encoder import build_encoder
from semaug.ssl_methods.heads import ProjectorSpec, build_projector


def test_each_layer_has_its_own_width():
    spec = ProjectorSpec(hidden=(7, 3), out=2, layers=3, batch_norm=True, activation="leaky_relu")
    head = build_projector(5, spec)
    assert [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)] == [(5, 7), (7, 3), (3, 2)]
    assert head.text == "5-7-3-2 leaky_relu batch_norm"


def test_one_width_for_all_is_that_width_several_times():
    torch.manual_seed(0)
    one = build_projector(5, ProjectorSpec(hidden=4, out=2, layers=3))
    torch.manual_seed(0)
    several = build_projector(5, ProjectorSpec(hidden=(4, 4), out=2, layers=3))
    rows = torch.randn(3, 5)
    assert torch.equal(one(rows), several(rows))


def test_the_norm_comes_after_the_activation_where_it_is_asked_to():
    head = build_projector(5, ProjectorSpec(hidden=4, out=2, batch_norm=True, norm_after=True))
    assert [type(m) for m in head] == [nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Linear]
    assert head[0].bias is not None
    assert head.text == "5-4-2 relu batch_norm norm_after"
    out = MLP(5, (4,), norm_after=True)(torch.randn(64, 5))
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-5)


def test_the_widths_come_back_from_the_disk(tmp_path):
    spec = ProjectorSpec(hidden=(7, 3), out=2, layers=3, norm_after=True)
    encoder = build_encoder(
        "mlp", input_features=4, options={"widths": (6,), "norm_after": True}, projector=spec
    ).eval()
    save_encoder(tmp_path, encoder, method="dlme", seed=0, steps=0)
    again, _ = load_encoder(tmp_path)
    rows = torch.randn(3, 4)
    assert again.spec == encoder.spec
    assert torch.equal(again.project(again(rows)), encoder.project(encoder(rows)))


@pytest.mark.parametrize(
    ("hidden", "layers", "message"), [((4,), 3, "names 1 widths, 3 layers have 2"), ((4, 0), 3, "at least 1")]
)
def test_widths_that_build_no_projector_are_named(hidden, layers, message):
    with pytest.raises(InvalidOption, match=message):
        ProjectorSpec(hidden=hidden, layers=layers)
