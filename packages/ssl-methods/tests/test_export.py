from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from semaug.artifacts.errors import InvalidOption, MissingDependency
from semaug.ssl_methods import build_encoder, export_encoder, export_timm, export_torchvision, initialise

VITS = {"vit-s16": 16, "vit-s8": 8}


def lived_in(encoder, size):
    """``encoder`` with running statistics other than 0 and 1, in evaluation mode."""
    encoder.train()(images(size, 6))
    return encoder.eval()


def images(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def torchvision_twin(encoder):
    spec = encoder.spec
    if spec.backbone in VITS:
        network = models.VisionTransformer(spec.input_size, VITS[spec.backbone], 12, encoder.backbone.heads, 384, 1536)
        return network, "heads"
    if spec.backbone == "mobilenetv2":
        return models.mobilenet_v2(), "classifier"
    network = getattr(models, spec.backbone)()
    if spec.small_stem:
        network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network, "fc"


@pytest.mark.parametrize(
    ("backbone", "size", "options", "suffix"),
    [("resnet18", 32, {}, ".pth"), ("resnet34", 96, {}, ".pth"), ("resnet50", 96, {}, ".safetensors"),
     ("mobilenetv2", 96, {}, ".safetensors"), ("vit-s16", 32, {"heads": 12}, ".pth"),
     ("vit-s8", 32, {"positions": "sincos"}, ".safetensors")],
)  # fmt: skip
def test_torchvision_computes_the_same(tmp_path, backbone, size, options, suffix):
    encoder = lived_in(build_encoder(backbone, input_size=size, options=options, projector=None), size)
    out = tmp_path / f"weights{suffix}"
    notes = export_encoder(encoder, "torchvision", out)
    state = load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)
    network, head = torchvision_twin(encoder)
    report = network.load_state_dict(state, strict=False)
    assert report.unexpected_keys == []
    assert all(name.startswith(f"{head}.") for name in report.missing_keys)
    setattr(network, head, nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images(size)), encoder(images(size)), rtol=1e-4, atol=1e-5)
    assert "normalised by mean (0.485" in notes[0]
    assert any("padding=1" in note for note in notes) == encoder.spec.small_stem
    again = build_encoder(backbone, input_size=size, options=options, projector=None, seed=7).eval()
    initialise(again, out)
    with torch.no_grad():
        assert torch.equal(again(images(size)), encoder(images(size)))


@pytest.mark.parametrize(
    ("backbone", "size", "name"),
    [("resnet18", 96, "resnet18"), ("resnet101", 96, "resnet101"), ("mobilenetv2", 96, "mobilenetv2_100"),
     ("vit-s16", 64, "vit_small_patch16_224"), ("vit-s8", 32, "vit_small_patch8_224"),
     ("timm:resnet10t", 32, "resnet10t")],
)  # fmt: skip
def test_timm_computes_the_same(tmp_path, backbone, size, name):
    timm = pytest.importorskip("timm")
    encoder = lived_in(build_encoder(backbone, input_size=size, projector=None), size)
    export_encoder(encoder, "timm", tmp_path / "w.safetensors")
    sized = {"img_size": size} if backbone.startswith("vit") else {}
    network = timm.create_model(name, num_classes=0, **sized)
    network.load_state_dict(load_file(tmp_path / "w.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images(size)), encoder(images(size)), rtol=1e-4, atol=1e-5)


def test_timm_names_of_mobilenet_are_one_to_one():
    encoder = build_encoder("mobilenetv2", input_size=64, projector=None)
    names = list(export_timm(encoder))
    assert len(set(names)) == len(encoder.backbone.state_dict())
    assert {n.split(".")[0] for n in names} == {"conv_stem", "bn1", "blocks", "conv_head", "bn2"}
    assert "blocks.6.0.conv_pwl.weight" in names


@pytest.mark.parametrize(
    ("backbone", "size", "options"),
    [("small-cnn", {"input_size": 16}, {}), ("resnet18", {"input_size": 32}, {}),
     ("mobilenetv2", {"input_size": 32}, {}), ("vit-s8", {"input_size": 32}, {}),
     ("mlp", {"input_features": 9}, {"widths": (7, 5)})],
)  # fmt: skip
def test_onnx_computes_the_same_for_any_batch(tmp_path, backbone, size, options):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    import onnxruntime

    encoder = build_encoder(backbone, options=options, projector=None, **size)
    shape = (9,) if backbone == "mlp" else (3, *[size["input_size"]] * 2)
    batch = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    encoder.train()(batch)
    encoder.eval()
    export_encoder(encoder, "onnx", tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    name = "rows" if backbone == "mlp" else "images"
    for count in (1, 2, 5):
        (found,) = session.run(["features"], {name: batch[:count].numpy()})
        with torch.no_grad():
            expected = encoder(batch[:count]).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["backbone"] == backbone
    assert metadata["mean"] == "(0.485, 0.456, 0.406)"


def test_what_cannot_be_exported_is_one_line(tmp_path, monkeypatch):
    encoder = build_encoder("small-cnn", input_size=16)
    with pytest.raises(InvalidOption, match="'small-cnn' is not one of torchvision's; export it as onnx"):
        export_torchvision(encoder)
    with pytest.raises(InvalidOption, match="'small-cnn' is not one of timm's"):
        export_encoder(encoder, "timm", tmp_path / "w.pth")
    with pytest.raises(InvalidOption, match="'keras' is not known; choose one of torchvision, timm, onnx"):
        export_encoder(encoder, "keras", tmp_path / "w.pth")
    with pytest.raises(InvalidOption, match=r"cannot be written as '\.h5'; end --out in \.safetensors or \.pth"):
        export_encoder(build_encoder("resnet18", input_size=32), "timm", tmp_path / "w.h5")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependency, match="an ONNX export needs onnx; pip install onnx onnxscript"):
        export_encoder(encoder, "onnx", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
