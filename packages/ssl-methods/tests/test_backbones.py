from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torchvision.models import VisionTransformer as TorchvisionTransformer

from semaug.artifacts.errors import InvalidOption, MissingDependency
from semaug.ssl_methods import BACKBONES, build_encoder, load_encoder, save_encoder
from semaug.ssl_methods.backbones import build_backbone
from semaug.ssl_methods.backbones.vit import resample, sincos_positions

OF_IMAGES = [name for name, kind in BACKBONES.items() if kind.reads != "rows"]
DIMS = {"small-cnn": 128, "resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "mobilenetv2": 1280}


def random_images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in OF_IMAGES for size in (8, 32) if (name, size) != ("vit-s16", 8)]
)
def test_small_images_have_features_and_maps(name, size):
    encoder = build_encoder(name, input_size=size, projector=None).eval()
    images = random_images(2, 3, size, size)
    with torch.no_grad():
        features, maps = encoder(images), encoder.spatial(images)
    assert features.shape == (2, DIMS.get(name, 384)) == (2, encoder.feature_dim)
    assert maps.shape[:2] == (2, encoder.feature_dim)
    cell = {"vit-s16": 16, "vit-s4": 4}.get(name, 8)
    assert maps.shape[2:] == (size // cell, size // cell)
    if not name.startswith("vit"):
        torch.testing.assert_close(maps.mean((2, 3)), features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "cells"), [("resnet34", 3), ("mobilenetv2", 3), ("vit-s16", 6)])
def test_large_images_take_the_large_stem(name, cells):
    encoder = build_encoder(name, input_size=96, projector=None).eval()
    assert not encoder.spec.small_stem
    with torch.no_grad():
        assert encoder.spatial(random_images(1, 3, 96, 96)).shape[2:] == (cells, cells)


@pytest.mark.parametrize("name", ["resnet34", "mobilenetv2", "vit-s16", "mlp"])
def test_backbones_are_copied_pickled_and_trained(name):
    table = name == "mlp"
    size = {"input_features": 7} if table else {"input_size": 32}
    encoder = build_encoder(name, projector=None, **size)
    batch = random_images(4, 7) if table else random_images(4, 3, 32, 32)
    encoder(batch).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(twin.eval()(batch), encoder.eval()(batch))


def test_mlp_is_linear_norm_and_leaky_relu_in_numpy(tmp_path):
    encoder = build_encoder("mlp", input_features=6, options={"widths": [5, 3]}, projector=None, seed=2)
    encoder.train()(random_images(9, 6) * 3)  # running statistics other than 0 and 1
    rows = random_images(4, 6, seed=1)
    save_encoder(tmp_path, encoder, method="none", seed=2, steps=0)
    loaded, card = load_encoder(tmp_path)
    assert (card.input_size, card.input_features, card.feature_dim) == (None, 6, 3)
    assert loaded.spec == encoder.spec
    state = {name: t.double().numpy() for name, t in encoder.state_dict().items()}
    expected = rows.double().numpy()
    for layer in range(2):
        linear, norm = (f"backbone.{layer}.{part}." for part in (0, 1))
        y = expected @ state[linear + "weight"].T + state[linear + "bias"]
        y = (y - state[norm + "running_mean"]) / np.sqrt(state[norm + "running_var"] + 1e-5)
        y = y * state[norm + "weight"] + state[norm + "bias"]
        expected = np.where(y > 0, y, 0.1 * y)
    with torch.no_grad():
        np.testing.assert_allclose(loaded(rows).numpy(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidOption, match="'mlp' has no spatial maps"):
        loaded.spatial(rows)
    with pytest.raises(InvalidOption, match="reads rows of a table; images need another encoder"):
        _ = loaded.image_size


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [("vit-s16", {"input_size": 8}, "input size 8 is not a multiple of the patch of 16 pixels; give 16"),
     ("vit-s8", {"input_size": 60}, "input size 60 is not a multiple of the patch of 8 pixels; give 64"),
     ("vit-s8", {"input_size": 64, "options": {"heads": 7}}, "7 heads do not divide the width of 384"),
     ("vit-s8", {"input_size": 64, "options": {"positions": "rope"}}, "'rope' are not known; choose one of learned, s"),
     ("vit-s8", {"input_size": 64, "options": {"drop_path": 1.0}}, "drop_path 1.0 is not a probability below 1"),
     ("vit-s8", {"input_size": 64, "small_stem": True}, "'vit-s8' has no small-image stem"),
     ("vit-s8", {"input_size": 64, "options": {"width": 9}}, "'vit-s8' has no option 'width'; it has heads, positions"),
     ("small-cnn", {"input_size": 64, "options": {"width": 9}}, "no option 'width'; it has none"),
     ("resnet18", {"input_size": 7}, "input size 7 is below the 8 pixels"),
     ("resnet18", {"input_features": 7}, "reads images, got input size None and 7 columns"),
     ("mlp", {"input_size": 32}, "reads rows of a table, got input size 32 and None columns"),
     ("mlp", {"input_features": 4, "options": {"widths": (3, 0)}}, r"widths \(3, 0\) are not a list of positive"),
     ("alexnet", {"input_size": 32}, "'alexnet' is not known; choose one of small-cnn, .*, mlp, timm:NAME")],
)  # fmt: skip
def test_what_cannot_be_built_is_one_line(name, given, message):
    with pytest.raises(InvalidOption, match=message) as caught:
        build_encoder(name, **given)
    assert "\n" not in str(caught.value)


def test_vit_refuses_images_that_patches_do_not_fill():
    network = build_backbone("vit-s16", input_size=32)
    with pytest.raises(InvalidOption, match="40x32 pixels do not divide into patches of 16"):
        network(torch.zeros(1, 3, 40, 32))


def as_torchvision(state, depth=12):
    """A ViT's weights under torchvision's names, written from its module tree."""
    names = {"cls_token": "class_token", "pos_embed": "encoder.pos_embedding", "norm": "encoder.ln",
             "patch_embed.proj": "conv_proj"}  # fmt: skip
    for i in range(depth):
        ours, theirs = f"blocks.{i}", f"encoder.layers.encoder_layer_{i}"
        names |= {f"{ours}.norm1": f"{theirs}.ln_1", f"{ours}.norm2": f"{theirs}.ln_2",
                  f"{ours}.attn.qkv": f"{theirs}.self_attention.in_proj_",
                  f"{ours}.attn.proj": f"{theirs}.self_attention.out_proj",
                  f"{ours}.mlp.fc1": f"{theirs}.mlp.0", f"{ours}.mlp.fc2": f"{theirs}.mlp.3"}  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if name in names:
            renamed[names[name]] = tensor
        else:
            renamed[names[stem] + ("" if names[stem].endswith("_") else ".") + kind] = tensor
    return renamed


@pytest.mark.parametrize("heads", [6, 12])
def test_vit_equals_torchvisions_in_float64(heads):
    ours = build_backbone("vit-s8", input_size=32, options={"heads": heads}).double().eval()
    theirs = TorchvisionTransformer(32, 8, 12, heads, 384, 1536).double().eval()
    theirs.heads = torch.nn.Identity()
    theirs.load_state_dict(as_torchvision(ours.state_dict()))
    images = random_images(3, 3, 32, 32).double()
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-10, atol=1e-12)


def test_vit_encodes_any_part_of_its_patches():
    network = build_backbone("vit-s16", input_size=64).eval()
    images = random_images(2, 3, 64, 64)
    with torch.no_grad():
        patches = network.embed(images)
        assert torch.equal(network.encode(patches), network.tokens(images))
        assert network.encode(patches[:, 3:8]).shape == (2, 6, 384)
        # Without positions the class token cannot see the order of the patches; with them it must.
        shuffled = network.encode(patches[:, torch.randperm(16)])[:, 0]
        torch.testing.assert_close(shuffled, network(images), rtol=1e-4, atol=1e-5)
        moved = network(images.roll(16, dims=3))
    assert (moved - network(images)).abs().max() > 1e-3


def test_sincos_positions_follow_their_formula_and_stay_fixed():
    table = sincos_positions(3, 16)[0]
    assert torch.equal(table[0], torch.zeros(16))
    for row in range(3):
        for column in range(3):
            expected = []
            for index in (row, column):
                for wave in (np.sin, np.cos):
                    expected += [wave(index / 10000 ** (k / 4)) for k in range(4)]
            np.testing.assert_allclose(table[1 + 3 * row + column], expected, rtol=1e-6, atol=1e-7)
    network = build_backbone("vit-s16", input_size=48, options={"positions": "sincos"})
    assert "pos_embed" in network.state_dict()
    assert "pos_embed" not in dict(network.named_parameters())
    bounds = {"blocks.0.attn.qkv": 768, "blocks.0.mlp.fc1": 384 * 5, "patch_embed.proj": 3 * 16 * 16 + 384}
    for name, fan in bounds.items():
        weight = network.get_submodule(name).weight
        assert 0.97 * (6 / fan) ** 0.5 < weight.abs().max() <= (6 / fan) ** 0.5


def test_positions_of_another_size_are_interpolated():
    positions = torch.zeros(1, 1 + 16, 2)
    positions[0, 0] = 7
    positions[0, 1:, 0] = torch.arange(4.0).repeat_interleave(4)  # the row
    positions[0, 1:, 1] = 5.0  # a constant
    smaller = resample(positions, 2, 4)[0]
    assert smaller.shape == (9, 2)
    assert torch.equal(smaller[0], positions[0, 0])
    torch.testing.assert_close(smaller[1:, 1], torch.full((8,), 5.0))
    rows = smaller[1:, 0].view(2, 4)
    torch.testing.assert_close(rows, rows[:, :1].expand(2, 4))
    torch.testing.assert_close(rows.mean(), torch.tensor(1.5))
    torch.testing.assert_close(resample(positions, 4, 4), positions, atol=1e-6, rtol=1e-6)
    network = build_backbone("vit-s8", input_size=64).eval()
    with torch.no_grad():
        assert network(random_images(2, 3, 24, 40)).shape == (2, 384)
        assert network.spatial_maps(random_images(2, 3, 24, 40)).shape == (2, 384, 3, 5)


def test_skipped_branches_keep_the_mean_and_only_while_training():
    network = build_backbone("vit-s16", input_size=32, options={"drop_path": 0.5})
    assert [block.drop_path for block in network.blocks][::11] == [0, 0.5]
    block = network.blocks[-1]
    torch.manual_seed(0)
    kept = block._kept(torch.ones(4000, 1, 1))
    assert set(kept.unique().tolist()) == {0, 2}
    assert abs(kept.mean() - 1) < 0.1
    assert torch.equal(block.eval()._kept(torch.ones(3, 1, 1)), torch.ones(3, 1, 1))


def test_vit_equals_timms():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_small_patch16_224", img_size=64, num_classes=0, dynamic_img_size=True).eval()
    ours = build_backbone("vit-s16", input_size=64).eval()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        for size in ((64, 64), (32, 48)):
            images = random_images(2, 3, *size)
            torch.testing.assert_close(ours.tokens(images), theirs.forward_features(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "size", "dim"),
    [("resnet10t", 32, 512), ("vit_tiny_patch16_224", 48, 192), ("mobilenetv3_small_050", 32, 1024),
     ("swin_tiny_patch4_window7_224", 64, 768)],
)  # fmt: skip
def test_timm_models_come_by_name(tmp_path, model, size, dim):
    timm = pytest.importorskip("timm")
    encoder = build_encoder(f"timm:{model}", input_size=size, projector=None, seed=3).eval()
    images = random_images(2, 3, size, size)
    sized = {} if model.startswith(("res", "mob")) else {"img_size": size}
    origin = timm.create_model(model, num_classes=0, **sized).eval()
    origin.load_state_dict(encoder.backbone.network.state_dict())
    with torch.no_grad():
        features = encoder(images)
        assert torch.equal(features, origin(images))
        maps = encoder.spatial(images)
    assert features.shape == (2, dim) == (2, encoder.feature_dim)
    assert maps.ndim == 4
    assert maps.shape[0] == 2
    if model == "resnet10t":
        torch.testing.assert_close(maps.mean((2, 3)), features)
    save_encoder(tmp_path, encoder, method="none", seed=3, steps=0)
    loaded, _ = load_encoder(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(images), features)


def test_unknown_timm_models_name_near_ones():
    pytest.importorskip("timm")
    with pytest.raises(InvalidOption, match=r"has no model 'resnet10x'; near it are: .*resnet10"):
        build_encoder("timm:resnet10x", input_size=32)
    with pytest.raises(InvalidOption, match=r"build vit_tiny_patch16_224 for input size 32 with .*'colour'"):
        build_encoder("timm:vit_tiny_patch16_224", input_size=32, options={"colour": 3})


def test_without_timm_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(MissingDependency, match=r"needs timm.*pip install 'semaug-ssl-methods\[timm\]'"):
        build_encoder("timm:resnet10t", input_size=32)
