from __future__ import annotations

import copy
import json

import pytest
import torch

from semaug.artifacts.errors import ArtifactError, InvalidOption, MissingWeights
from semaug.artifacts.verify import verify
from semaug.ssl_methods import ProjectorSpec, build_encoder, export_torchvision, load_encoder, save_encoder
from semaug.ssl_methods.errors import WeightsMismatch


@pytest.mark.parametrize(
    ("backbone", "size", "stem", "dim", "cells"),
    [("small-cnn", 24, True, 128, 3), ("small-cnn", 96, False, 128, 6), ("resnet18", 32, True, 512, 4),
     ("resnet18", 96, False, 512, 3), ("resnet50", 64, True, 2048, 8), ("resnet50", 65, False, 2048, 3)],
)  # fmt: skip
def test_stem_follows_the_input_size(backbone, size, stem, dim, cells):
    encoder = build_encoder(backbone, input_size=size).eval()
    assert encoder.spec.small_stem is stem
    assert encoder.feature_dim == dim
    maps = []
    pool = encoder.backbone[4] if backbone == "small-cnn" else encoder.backbone.avgpool
    pool.register_forward_hook(lambda module, inputs, output: maps.append(inputs[0].shape[-1]))
    with torch.no_grad():
        features = encoder(torch.zeros(2, 3, size, size))
    assert features.shape == (2, dim)
    assert encoder.project(features).shape == (2, 128)
    assert maps == [cells]


def test_weights_depend_on_the_seed_alone():
    first = build_encoder("small-cnn", input_size=16, seed=3).state_dict()
    torch.rand(5)
    before = torch.get_rng_state()
    again = build_encoder("small-cnn", input_size=16, seed=3).state_dict()
    other = build_encoder("small-cnn", input_size=16, seed=4).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["backbone.0.0.weight"], other["backbone.0.0.weight"])
    assert torch.equal(before, torch.get_rng_state())


def test_projector_follows_its_spec():
    spec = ProjectorSpec(hidden=7, out=5, layers=3, batch_norm=True, last_batch_norm=True)
    shapes = {
        k: tuple(v.shape) for k, v in build_encoder("small-cnn", input_size=16, projector=spec).state_dict().items()
    }
    linear = [v for k, v in shapes.items() if k.startswith("projector") and len(v) == 2]
    assert linear == [(7, 128), (7, 7), (5, 7)]
    assert [k for k in shapes if k.startswith("projector") and k.endswith("running_mean")] == [
        "projector.1.running_mean", "projector.4.running_mean", "projector.7.running_mean"]  # fmt: skip


@pytest.mark.parametrize("backbone", ["small-cnn", "resnet18"])
def test_saved_encoder_comes_back_bit_equal(tmp_path, backbone):
    encoder = build_encoder(backbone, input_size=32, projector=ProjectorSpec(hidden=9, out=6), mean=(0.1, 0.2, 0.3))
    encoder = encoder.to(memory_format=torch.channels_last).eval()
    card = save_encoder(tmp_path, encoder, method="simclr", seed=5, steps=7, inputs={"source": "ab"})
    loaded, found = load_encoder(tmp_path)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), encoder(images), rtol=1e-4, atol=1e-5)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), encoder.state_dict().values(), strict=True)
    )
    assert found == card
    assert loaded.spec == encoder.spec
    assert verify(tmp_path).problems == ()


def test_an_encoder_without_projector_comes_back_without(tmp_path):
    save_encoder(tmp_path, build_encoder("small-cnn", input_size=16, projector=None), method="none", seed=0, steps=0)
    loaded, card = load_encoder(tmp_path)
    assert card.projector_dim is None
    with pytest.raises(InvalidOption, match="no projector"):
        loaded.project(torch.zeros(1, 128))


def saved(folder, **changes):
    encoder = build_encoder("small-cnn", input_size=16, projector=ProjectorSpec(out=6, **changes))
    return save_encoder(folder, encoder, method="simclr", seed=0, steps=1)


def test_weights_of_another_run_are_refused(tmp_path):
    saved(tmp_path / "a")
    saved(tmp_path / "b", hidden=9)
    (tmp_path / "b" / "encoder.safetensors").replace(tmp_path / "a" / "encoder.safetensors")
    with pytest.raises(WeightsMismatch, match=r"digest .*, its card says"):
        load_encoder(tmp_path / "a")


def test_a_card_of_another_shape_is_refused(tmp_path):
    saved(tmp_path)
    card = json.loads((tmp_path / "encoder.json").read_text())
    card["config"]["projector"]["hidden"] = 9
    (tmp_path / "encoder.json").write_text(json.dumps(card))
    with pytest.raises(WeightsMismatch, match=r"projector\.0\.bias of shape \(128,\).* needs \(9,\)"):
        load_encoder(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(MissingWeights, match=r"no encoder\.json"):
        load_encoder(tmp_path)
    saved(tmp_path)
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"no encoder\.safetensors"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text('{"backbone": 3}')
    with pytest.raises(ArtifactError, match="damaged"):
        load_encoder(tmp_path)


def test_pickled_weights_are_never_loaded(tmp_path):
    from semaug.artifacts.files import hash_file

    card = saved(tmp_path)
    torch.save({"a": 1}, tmp_path / "encoder.safetensors")
    digest = hash_file(tmp_path / "encoder.safetensors")
    (tmp_path / "encoder.json").write_text(card.model_copy(update={"weights_digest": digest}).model_dump_json())
    with pytest.raises(WeightsMismatch, match="not a safetensors file"):
        load_encoder(tmp_path)


def test_export_has_torchvisions_names():
    from torchvision.models import resnet18

    encoder = build_encoder("resnet18", input_size=96).eval()
    network = resnet18(weights=None).eval()
    report = network.load_state_dict(export_torchvision(encoder), strict=False)
    assert (report.missing_keys, report.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    network.fc = torch.nn.Identity()
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(network(images), encoder(images))
    with pytest.raises(InvalidOption, match="not one of torchvision's"):
        export_torchvision(build_encoder("small-cnn", input_size=16))


def test_unknown_backbone_names_the_choices():
    with pytest.raises(InvalidOption, match=r"'resnet19' is not known; choose one of small-cnn, resnet18, .*timm:NAME"):
        build_encoder("resnet19", input_size=32)


@pytest.mark.parametrize(
    ("backbone", "size", "cells"),
    [("small-cnn", 24, 3), ("small-cnn", 96, 6), ("resnet18", 32, 4), ("resnet18", 96, 3)],
)
def test_features_are_the_mean_of_the_spatial_maps(backbone, size, cells):
    encoder = build_encoder(backbone, input_size=size).eval()
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        maps = encoder.spatial(images)
        torch.testing.assert_close(maps.mean((2, 3)), encoder(images), rtol=1e-5, atol=1e-6)
    assert maps.shape == (2, encoder.feature_dim, cells, cells)


def test_a_copy_has_spatial_maps_of_its_own_weights():
    encoder = build_encoder("resnet18", input_size=32).eval()
    copied = copy.deepcopy(encoder)
    torch.nn.init.zeros_(copied.backbone.conv1.weight)
    with torch.no_grad():
        assert (
            copied.spatial(torch.rand(1, 3, 32, 32)).unique().numel()
            < encoder.spatial(torch.rand(1, 3, 32, 32)).numel()
        )


def test_an_encoder_without_spatial_maps_says_so():
    encoder = build_encoder("small-cnn", input_size=16)
    encoder.backbone = torch.nn.Flatten()
    with pytest.raises(InvalidOption, match="backbone 'small-cnn' has no spatial maps to find objects in; choose"):
        encoder.spatial(torch.zeros(1, 3, 16, 16))
