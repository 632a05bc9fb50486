"""Files in every documented layout, made from the true models: the encoder's features must be the origin's."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.ssl_methods import OptimizerSettings, ProjectorSpec, build_encoder, initialise, save_encoder
from semaug.ssl_methods.backbones import build_backbone
from semaug.ssl_methods.errors import WeightsMismatch


def images(size=32, count=3):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def lived_in(network, size=32):
    """``network`` with weights of its own and running statistics other than 0 and 1."""
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.add_(0.02 * noise)
        network.train()(images(size, 8))
    return network.eval()


def below(prefix, network):
    return {prefix + name: value for name, value in network.state_dict().items()}


def without_head(network, head="fc"):
    setattr(network, head, nn.Identity())
    return network


def small_stem(network, padding=1):
    network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=padding, bias=False)
    network.maxpool = nn.Identity()
    return network


def head_of(prefix):
    return {prefix + name: torch.ones(3) for name in ("0.weight", "0.bias", "2.weight")}


# Each layout: (file, origin with its classifier gone, how to build the encoder, format).
def torchvision_resnet(small=False):
    network = lived_in(small_stem(models.resnet18()) if small else models.resnet18())
    return (
        dict(network.state_dict()),
        without_head(network),
        {"backbone": "resnet18", "small_stem": small},
        "torchvision",
    )


def torchvision_before_counters():
    file, *rest = torchvision_resnet()
    return {k: v for k, v in file.items() if not k.endswith("num_batches_tracked")}, *rest


def torchvision_wrapped():
    file, *rest = torchvision_resnet()
    return {"model": {f"module.{k}": v for k, v in file.items()}, "epoch": 3}, *rest


def torchvision_mobilenet():
    network = lived_in(models.mobilenet_v2())
    file = dict(network.state_dict())
    return file, without_head(network, "classifier"), {"backbone": "mobilenetv2", "small_stem": False}, "torchvision"


def torchvision_vit():
    network = lived_in(models.VisionTransformer(32, 8, 12, 6, 384, 1536))
    return dict(network.state_dict()), without_head(network, "heads"), {"backbone": "vit-s8"}, "torchvision"


def timm_model(name, backbone, **options):
    timm = pytest.importorskip("timm")
    network = lived_in(timm.create_model(name, **options))
    file = dict(network.state_dict())
    network.reset_classifier(0)
    return file, network, {"backbone": backbone, **({} if "vit" in name else {"small_stem": False})}, "timm"


def timm_by_name():
    file, network, _, _ = timm_model("resnet10t", "timm:resnet10t")
    return file, network, {"backbone": "timm:resnet10t"}, "timm"


def lightning(state):
    callbacks = {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5)}}
    return {"epoch": 2, "pytorch-lightning_version": "2.1.0", "state_dict": OrderedDict(state), "callbacks": callbacks}


def lightly_whole():
    network = lived_in(without_head(models.resnet18()))
    state = {**below("backbone.", network), **head_of("projection_head.layers.")}
    return lightning(state), network, {"backbone": "resnet18", "small_stem": False}, "lightly"


def lightly_children():
    network = lived_in(nn.Sequential(*list(models.resnet18().children())[:-1], nn.Flatten()))
    return lightning(below("backbone.", network)), network, {"backbone": "resnet18", "small_stem": False}, "auto"


def lightly_own_children():
    from lightly.models import ResNetGenerator

    parts = [*list(ResNetGenerator("resnet-18").children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = lived_in(nn.Sequential(*parts))
    state = {**below("backbone.", network), **below("backbone_momentum.", network)}
    return lightning(state), network, {"backbone": "resnet18", "options": {"stem_relu": False}}, "auto"


def lightly_own():
    from lightly.models import ResNetGenerator

    network = lived_in(ResNetGenerator("resnet-18"))
    return dict(network.state_dict()), without_head(network, "linear"), {"backbone": "resnet18"}, "auto"


def lightly_vit():
    timm = pytest.importorskip("timm")
    from lightly.models.modules import MaskedVisionTransformerTIMM

    vit = timm.create_model("vit_small_patch16_224", img_size=32, num_classes=0)
    network = lived_in(MaskedVisionTransformerTIMM(vit))
    return lightning(below("backbone.", network)), vit, {"backbone": "vit-s16"}, "auto"


def solo(prefix="backbone.", cifar=False):
    network = small_stem(models.resnet18(), padding=2) if cifar else models.resnet18()
    network = lived_in(without_head(network))
    state = {**below(prefix, network), **below("momentum_" + prefix, models.resnet18())}
    state |= {**head_of("projector."), "classifier.weight": torch.zeros(10, 512), "queue": torch.zeros(2, 9)}
    options = {"options": {"stem_padding": 2}} if cifar else {}
    return lightning(state), network, {"backbone": "resnet18", "small_stem": cifar, **options}, "solo"


def solo_vit(positions="learned", heads=6):
    network = build_backbone("vit-s8", input_size=32, options={"positions": positions, "heads": heads}).eval()
    state = {**below("backbone.", network), "classifier.bias": torch.zeros(10)}
    options = {"positions": positions, "heads": heads}
    return lightning(state), network, {"backbone": "vit-s8", "options": options}, "solo"


def moco_v2():
    network = models.resnet18()
    network.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    network = lived_in(network)
    state = {**below("module.encoder_q.", network), **below("module.encoder_k.", models.resnet18())}
    state |= {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    file = {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
    return file, without_head(network), {"backbone": "resnet18", "small_stem": False}, "moco"


def moco_v3():
    network = build_backbone("vit-s16", input_size=64, options={"positions": "sincos", "heads": 12}).eval()
    state = {**below("module.base_encoder.", network), **head_of("module.base_encoder.head.")}
    state |= {**below("module.momentum_encoder.", network), **head_of("module.predictor.")}
    options = {"heads": 12, "positions": "sincos"}
    return {"state_dict": state, "scaler": {}}, network, {"backbone": "vit-s16", "options": options}, "moco"


def dino_vit():
    network = lived_in(build_backbone("vit-s16", input_size=64), 64)
    state = {
        **below("backbone.", network),
        **head_of("head.mlp."),
        "head.last_layer.weight_g": torch.ones(9, 1),
    }
    student = {f"module.{name}": torch.zeros_like(value) for name, value in state.items()}
    file = {"student": student, "teacher": state, "epoch": 1, "args": argparse.Namespace(arch="vit_small", lr=0.1)}
    return file, network, {"backbone": "vit-s16"}, "dino"


def dino_resnet():
    network = lived_in(without_head(models.resnet18()))
    state = {**below("module.backbone.", network), **head_of("module.head.mlp.")}
    return {"teacher": state, "student": {}}, network, {"backbone": "resnet18", "small_stem": False}, "dino"


def dino_backbone_alone():
    network = lived_in(build_backbone("vit-s8", input_size=32))
    return dict(network.state_dict()), network, {"backbone": "vit-s8"}, "timm"


LAYOUTS = {
    "torchvision resnet": torchvision_resnet,
    "torchvision resnet, small stem": lambda: torchvision_resnet(small=True),
    "torchvision resnet of 2016": torchvision_before_counters,
    "torchvision resnet from a training script": torchvision_wrapped,
    "torchvision mobilenet": torchvision_mobilenet,
    "torchvision vit": torchvision_vit,
    "timm resnet": lambda: timm_model("resnet18", "resnet18"),
    "timm mobilenet": lambda: timm_model("mobilenetv2_100", "mobilenetv2"),
    "timm vit": lambda: timm_model("vit_small_patch16_224", "vit-s16", img_size=32),
    "timm by name": timm_by_name,
    "lightly, whole": lightly_whole,
    "lightly, children": lightly_children,
    "lightly, children of its own": lightly_own_children,
    "lightly, its own": lightly_own,
    "lightly, masked vit": lightly_vit,
    "solo-learn": solo,
    "solo-learn of 2021": lambda: solo("encoder."),
    "solo-learn on CIFAR": lambda: solo(cifar=True),
    "solo-learn vit": solo_vit,
    "solo-learn moco-v3 vit": lambda: solo_vit("sincos", 12),
    "moco v2": moco_v2,
    "moco v3 vit": moco_v3,
    "dino vit": dino_vit,
    "dino resnet": dino_resnet,
    "dino, backbone alone": dino_backbone_alone,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_are_those_of_the_origin(tmp_path, layout):
    file, origin, build, format = LAYOUTS[layout]()
    torch.save(file, tmp_path / "weights.pth")
    size = 64 if layout in ("moco v3 vit", "dino vit") else 32
    encoder = build_encoder(**build, input_size=size, seed=9).eval()
    head = {name: value.clone() for name, value in encoder.projector.state_dict().items()}
    report = initialise(encoder, tmp_path / "weights.pth")
    if format != "auto" and layout not in ("lightly, whole", "timm resnet"):  # whose names are others' too
        assert report.format == format
    with torch.no_grad():
        expected = origin(images(size)).flatten(1)
        torch.testing.assert_close(encoder(images(size)), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(head[name], value) for name, value in encoder.projector.state_dict().items())
    counters = [name for name in encoder.backbone.state_dict() if name.endswith("num_batches_tracked")]
    assert report.tensors == len(encoder.backbone.state_dict()) - (len(counters) if "2016" in layout else 0)
    assert "\n" not in str(report)
    taken = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    for value in encoder.backbone.state_dict().values():
        value.zero_()
    initialise(encoder, tmp_path / "weights.pth", format=report.format if format == "auto" else format)
    names = set(taken) - (set(counters) if "2016" in layout else set())
    assert all(torch.equal(taken[name], encoder.backbone.state_dict()[name]) for name in names)


def test_safetensors_serve_as_well_and_heads_are_left_out_by_name(tmp_path):
    file, origin, build, _ = torchvision_resnet()
    save_file(file, tmp_path / "weights.safetensors")
    encoder = build_encoder(**build, input_size=32).eval()
    report = initialise(encoder, tmp_path / "weights.safetensors")
    assert report.dropped == ("fc.bias", "fc.weight")
    assert str(report).endswith("weights.safetensors (torchvision): 120 tensors; left out fc.bias, fc.weight")
    with torch.no_grad():
        assert torch.equal(encoder(images()), origin(images()))


@pytest.mark.parametrize("name", ["", "encoder.safetensors"])
def test_an_encoder_of_ours_gives_its_backbone(tmp_path, name):
    origin = build_encoder("small-cnn", input_size=16, projector=ProjectorSpec(out=5), seed=1)
    lived_in(origin.backbone, 16)
    card = save_encoder(tmp_path, origin, method="simclr", seed=1, steps=1)
    encoder = build_encoder("small-cnn", input_size=24, seed=2).eval()
    report = initialise(encoder, tmp_path / name)
    assert (report.format, report.digest) == ("semaug", card.weights_digest)
    with torch.no_grad():
        assert torch.equal(encoder(images(24)), origin.eval()(images(24)))


def test_positions_of_another_size_are_interpolated_and_said(tmp_path):
    origin = build_encoder("vit-s8", input_size=64, seed=1).eval()
    torch.save(origin.backbone.state_dict(), tmp_path / "w.pth")
    encoder = build_encoder("vit-s8", input_size=32, seed=2).eval()
    report = initialise(encoder, tmp_path / "w.pth")
    assert report.resized == (64, 16)
    assert "interpolated 64 positions to 16" in str(report)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images(32)), origin(images(32)), rtol=1e-4, atol=1e-5)


def refusal(tmp_path, file, error=WeightsMismatch, format="auto", **build):
    torch.save(file, tmp_path / "w.pth")
    encoder = build_encoder(**{"backbone": "resnet18", "input_size": 32, **build})
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(error) as caught:
        initialise(encoder, tmp_path / "w.pth", format=format)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_stem_names_both_shapes(tmp_path):
    text = refusal(tmp_path, dict(models.resnet18().state_dict()), small_stem=True)
    assert "does not fit resnet18 with the small-image stem" in text
    assert "1 of another shape: conv1.weight (64, 3, 7, 7) against (64, 3, 3, 3)" in text


def test_missing_and_unexpected_names_are_listed(tmp_path):
    state = dict(models.resnet18().state_dict())
    for name in ("bn1.weight", "layer2.0.conv1.weight"):
        del state[name]
    text = refusal(tmp_path, {**state, "layer9.weight": torch.zeros(1)}, small_stem=False)
    assert "2 missing: bn1.weight, layer2.0.conv1.weight; 1 unexpected: layer9.weight;" in text
    text = refusal(tmp_path, dict(models.resnet34().state_dict()), small_stem=False)
    assert "unexpected: layer1.2.conv1.weight" in text
    assert "more" in text


@pytest.mark.parametrize(
    ("layout", "build", "message"),
    [(moco_v3, {"backbone": "vit-s16", "input_size": 64}, "MoCo v3's ViT-S has 12 heads, this vit-s16 6"),
     (dino_vit, {"backbone": "vit-s16", "input_size": 64, "options": {"heads": 12}}, "DINO's ViT-S has 6 heads"),
     (lambda: solo_vit("sincos", 12), {"backbone": "vit-s8"}, "solo-learn's MoCo v3's ViT-S has 12 heads"),
     (lambda: solo(cifar=True), {}, "pads by 2 pixels, this encoder has stem_padding=1"),
     (lightly_own_children, {}, "no ReLU in its stem, this encoder has stem_relu=True")],
)  # fmt: skip
def test_weights_that_would_compute_something_else_are_refused(tmp_path, layout, build, message):
    assert message in refusal(tmp_path, layout()[0], InvalidOption, **build)


def test_the_wrong_format_says_what_is_there(tmp_path):
    plain = dict(models.resnet18().state_dict())
    for format, prefix in {"moco": "encoder_q. or base_encoder.", "solo": "backbone. or encoder."}.items():
        text = refusal(tmp_path, plain, format=format, small_stem=False)
        assert f"no weights under {prefix}" in text
        assert "but conv1.weight, bn1.weight" in text
    assert "no 'teacher' as DINO's have, but conv1.weight" in refusal(tmp_path, plain, format="dino")
    assert "timm has no small-cnn" in refusal(tmp_path, plain, InvalidOption, format="timm", backbone="small-cnn")
    assert "'keras' is not known; choose one of auto, semaug, torch" in refusal(
        tmp_path, plain, InvalidOption, format="keras"
    )
    assert "has no weights under" in refusal(tmp_path, {"epoch": 3})


def test_pickles_are_never_run(tmp_path):
    text = refusal(tmp_path, {"state_dict": nn.Linear(2, 2)})
    assert "is a pickle that runs torch.nn.modules.linear.Linear and is not loaded" in text
    assert "; where you trust it, save its tensors: torch.save(" in text
    assert "holds a list, not weights by name" in refusal(tmp_path, [torch.zeros(2)])


def test_files_that_are_no_weights_are_named(tmp_path):
    encoder = build_encoder("resnet18", input_size=32)
    with pytest.raises(MissingWeights, match=r"none\.pth does not exist"):
        initialise(encoder, tmp_path / "none.pth")
    for name, message in {"a.pth": "cannot be read as weights", "a.safetensors": "not a safetensors file"}.items():
        (tmp_path / name).write_bytes(b"hello there, no weights")
        with pytest.raises(WeightsMismatch, match=message) as caught:
            initialise(encoder, tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_run_of_another_backbone_or_stem_is_refused(tmp_path):
    save_encoder(tmp_path, build_encoder("small-cnn", input_size=16), method="none", seed=0, steps=0)
    with pytest.raises(WeightsMismatch, match="has backbone 'small-cnn', this encoder 'resnet18'"):
        initialise(build_encoder("resnet18", input_size=16), tmp_path)
    with pytest.raises(WeightsMismatch, match="has small stem True, this encoder False"):
        initialise(build_encoder("small-cnn", input_size=96), tmp_path)


def test_a_run_starts_there_and_records_it(tmp_path):
    from semaug.artifacts.errors import ArtifactMismatch
    from semaug.ssl_methods import SimCLR, load_encoder
    from semaug.ssl_methods.pretrain import pretrain
    from semaug.ssl_methods.testing import StripedPairs

    for seed in (1, 2):
        origin = build_encoder("small-cnn", input_size=16, projector=None, seed=seed)
        save_encoder(tmp_path / f"origin{seed}", origin, method="none", seed=seed, steps=0)

    def run(origin):
        encoder = build_encoder("small-cnn", input_size=16, projector=ProjectorSpec(out=8), seed=5)
        initialise(encoder, tmp_path / f"origin{origin}")
        optimizer = OptimizerSettings("sgd", lr=1e-12, weight_decay=0)
        return pretrain(SimCLR(encoder), StripedPairs(8), out=tmp_path / "run", steps=1, batch_size=8,
                        optimizer=optimizer, tensorboard=False)  # fmt: skip

    card = run(1)
    first = load_encoder(tmp_path / "origin1")
    assert card.inputs["init"] == first[1].weights_digest
    assert card.config["init"] == {"format": "semaug", "tensors": 24, "dropped": [], "resized": None}
    trained = load_encoder(tmp_path / "run")[0].backbone.state_dict()
    assert torch.equal(trained["0.0.weight"], first[0].backbone.state_dict()["0.0.weight"])
    assert run(1) == card
    with pytest.raises(ArtifactMismatch, match="init"):
        run(2)
