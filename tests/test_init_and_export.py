"""A run that starts from weights of others and leaves for another program, by the command line."""

from __future__ import annotations

import json

import pytest
import torch
from torchvision import models

IMAGES = "scenes:train?items=8"
TINY = ("--steps", "1", "--batch-size", "4", "--size", "32", "--backbone", "resnet18", "--large-stem", "--lr", "1e-12")


@pytest.fixture
def weights(tmp_path):
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_weights_come_in_and_go_out(semaug, weights, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out.safetensors"
    done = semaug("pretrain", "simclr", IMAGES, *TINY, "--init", weights, "--out", run)
    assert done.code == 0, done.err
    assert "started from" in done.err
    assert "(torchvision): 120 tensors; left out fc.bias, fc.weight" in done.err
    card = json.loads((run / "encoder.json").read_text())
    assert card["config"]["init"]["dropped"] == ["fc.bias", "fc.weight"]
    again = semaug("pretrain", "simclr", IMAGES, *TINY, "--out", run)
    assert again.refuses("init")

    done = semaug("pretrain", "export", run, "--format", "torchvision", "--out", out, "--json")
    assert done.code == 0, done.err
    assert (done.json["backbone"], done.json["file"]) == ("resnet18", str(out))
    assert "normalised by mean (0.485, 0.456, 0.406)" in done.json["notes"][0]
    from safetensors.torch import load_file

    before, after = torch.load(weights, weights_only=True), load_file(out)
    torch.testing.assert_close(after["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"], rtol=0, atol=1e-6)
    assert {*before} - {*after} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--init", "none.pth"), ("none.pth does not exist",)),
     (("--init-format", "moco"), ("encoder_q. or base_encoder.", "conv1.weight")),
     (("--small-stem",), ("conv1.weight (64, 3, 7, 7) against (64, 3, 3, 3)", "stem")),
     (("--backbone", "vit-s16", "--backbone-option", "heads=7"), ("7 heads", "384")),
     (("--backbone-option", "stem_padding"), ("'stem_padding'", "name=value")),
     (("--backbone", "vit-s16", "--size", "24"), ("24", "16 pixels"))],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(semaug, weights, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    large = [word for word in TINY if word != "--large-stem" or "--small-stem" not in options]
    stem = [word for word in large if word != "--large-stem" or "--backbone" not in options]
    done = semaug("pretrain", "simclr", IMAGES, *stem, "--init", weights, *options, "--out", tmp_path / "run")
    assert done.refuses(*words), done.err
    assert not (tmp_path / "run").exists()
