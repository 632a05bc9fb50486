"""Targets: cards and weights of encoders, generators and oracles, checkpoints, exported models."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.fuzzing.images import zipped
from tests.fuzzing.target import Target

from semaug.artifacts.files import hash_file
from semaug.artifacts.verify import ENCODER_CARD, ENCODER_WEIGHTS, verify
from semaug.diffaug_core.diffusion import NoiseSchedule
from semaug.diffaug_core.generator_cards import GENERATOR_CARD, GENERATOR_WEIGHTS, load_generator, save_generator
from semaug.diffaug_core.generators import build_generator
from semaug.eval.detection.detectron2 import export_detectron2, read_detectron2
from semaug.oracles.objectness import open_network
from semaug.oracles.sam import open_sam
from semaug.prompt_synthesis.exported_panoptic import open_exported
from semaug.prompt_synthesis.model_folders import locate_model
from semaug.ssl_methods.cards import load_encoder, load_predictor, save_encoder
from semaug.ssl_methods.encoder import build_encoder
from semaug.ssl_methods.initialise import read_checkpoint
from semaug.ssl_methods.runs import RunFolder

STATE = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2)}


def safetensors_file(state: dict[str, torch.Tensor] | None = None) -> bytes:
    """A safetensors file."""
    from safetensors.torch import save

    return bytes(save(state or STATE))


def torch_file(state: Any = None, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(STATE if state is None else state, file, **options)
    return file.getvalue()


def header_of(text: bytes, body: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    return struct.pack("<Q", len(text)) + text + body


def _prepare_encoder(place: Path) -> tuple[bytes, ...]:
    save_encoder(place, build_encoder("small-cnn", input_size=16), method="simclr", seed=0, steps=1)
    return ((place / ENCODER_CARD).read_bytes(),)


def _parse_card(data: bytes, place: Path) -> None:
    (place / ENCODER_CARD).write_bytes(data)
    load_encoder(place)
    load_predictor(place)
    verify(place)


def _prepare_encoder_weights(place: Path) -> tuple[bytes, ...]:
    _prepare_encoder(place)
    return ((place / ENCODER_WEIGHTS).read_bytes(),)


def _parse_encoder_weights(data: bytes, place: Path) -> None:
    (place / ENCODER_WEIGHTS).write_bytes(data)
    _fit_digest(place / ENCODER_CARD, place / ENCODER_WEIGHTS)
    load_encoder(place)


def _fit_digest(card: Path, weights: Path) -> None:
    """A card and weights from the same hand: the digest fits."""
    plain = json.loads(card.read_text())
    card.write_text(json.dumps(plain | {"weights_digest": hash_file(weights)}))


def _prepare_generator(place: Path) -> tuple[bytes, ...]:
    schedule = NoiseSchedule.linear(10)
    generator = build_generator("mlp", (3,), None, schedule=schedule, widths=[8])
    save_generator(place, generator, schedule, seed=0, steps=1)
    return ((place / GENERATOR_CARD).read_bytes(),)


def _parse_generator(data: bytes, place: Path) -> None:
    (place / GENERATOR_CARD).write_bytes(data)
    load_generator(place)


def _parse_generator_weights(data: bytes, place: Path) -> None:
    (place / GENERATOR_WEIGHTS).write_bytes(data)
    _fit_digest(place / GENERATOR_CARD, place / GENERATOR_WEIGHTS)
    load_generator(place)


def _generator_weights(place: Path) -> tuple[bytes, ...]:
    _prepare_generator(place)
    return ((place / GENERATOR_WEIGHTS).read_bytes(),)


def _objectness_seeds(place: Path) -> tuple[bytes, ...]:
    from semaug.oracles.objectness_network import ObjectnessNetwork

    return (safetensors_file(dict(ObjectnessNetwork().state_dict())),)


def _parse_objectness(data: bytes, place: Path) -> None:
    (place / "own.safetensors").write_bytes(data)
    open_network(place / "own.safetensors")


def _weight_seeds(place: Path) -> tuple[bytes, ...]:
    return torch_file(), torch_file(_use_new_zipfile_serialization=False), pickle.dumps({"state_dict": {}}), b""


def _parse_weights(data: bytes, place: Path) -> None:
    (place / "weights.pth").write_bytes(data)
    read_checkpoint(place / "weights.pth")


def _parse_safetensors(data: bytes, place: Path) -> None:
    (place / "weights.safetensors").write_bytes(data)
    read_checkpoint(place / "weights.safetensors")


def _sam_seeds(place: Path) -> tuple[bytes, ...]:
    from semaug.oracles.sam import _assemble

    shape = {
        "img_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
        "window_size": 2, "global_attn_indexes": [1], "out_chans": 16, "mask_mlp_dim": 16, "iou_hidden": 16,
        "mask_in_chans": 16,
    }  # fmt: skip
    return torch_file(_assemble(shape).state_dict()), torch_file()


def _parse_sam(data: bytes, place: Path) -> None:
    (place / "sam.pth").write_bytes(data)
    open_sam(place / "sam.pth")


def _prepare_run(place: Path) -> tuple[bytes, ...]:
    with RunFolder.open(place / "run", {"method": {"name": "simclr"}}, {}):
        pass
    return (torch_file({"step": 1, "state": STATE}),)


def _parse_run(data: bytes, place: Path) -> None:
    (place / "run" / "last.ckpt").write_bytes(data)
    with RunFolder.open(place / "run", {"method": {"name": "simclr"}}, {}) as run:
        run.load_checkpoint()


def _prepare_record(place: Path) -> tuple[bytes, ...]:
    _prepare_run(place)
    return ((place / "run" / "run.json").read_bytes(),)


def _parse_record(data: bytes, place: Path) -> None:
    (place / "run" / "run.json").write_bytes(data)
    (place / "run" / "last.ckpt").write_bytes(b"kept")
    with RunFolder.open(place / "run", {"method": {"name": "simclr"}}, {}):
        pass


def _onnx_seeds(place: Path) -> tuple[bytes, ...]:
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["out"])], "g", [images], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return (bytes(model.SerializeToString()),)


def _parse_onnx(data: bytes, place: Path) -> None:
    (place / "model.onnx").write_bytes(data)
    open_exported(place / "model.onnx")


def _torchscript_seeds(place: Path) -> tuple[bytes, ...]:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 1, 1), torch.zeros(1, 3, 2, 2)), file)
    return file.getvalue(), zipped(**{"m/constants.pkl": pickle.dumps(()), "m/code/a.py": b"x"})


def _parse_torchscript(data: bytes, place: Path) -> None:
    (place / "model.pt").write_bytes(data)
    open_exported(place / "model.pt")


def _detectron2_seeds(place: Path) -> tuple[bytes, ...]:
    resnet = build_encoder("resnet18", input_size=64, small_stem=False).backbone
    export_detectron2(resnet, place / "whole.pkl")
    arrays = {"model": {"a": np.ones(2, np.float32).tolist()}, "__author__": "semaug"}
    return (pickle.dumps(arrays, 4),)


def _parse_detectron2(data: bytes, place: Path) -> None:
    (place / "model.pkl").write_bytes(data)
    read_detectron2(place / "model.pkl")


def _prepare_folder(place: Path) -> tuple[bytes, ...]:
    (place / "config.json").write_text("{}")
    (place / "a.safetensors").write_bytes(safetensors_file())
    return (json.dumps({"metadata": {}, "weight_map": {"conv.weight": "a.safetensors"}}).encode(),)


def _parse_folder(data: bytes, place: Path) -> None:
    (place / "model.safetensors.index.json").write_bytes(data)
    locate_model(place, "the model")


TARGETS = (
    Target("encoder-card", _prepare_encoder, _parse_card, "json"),
    Target("encoder-weights", _prepare_encoder_weights, _parse_encoder_weights),
    Target("generator-card", _prepare_generator, _parse_generator, "json"),
    Target("generator-weights", _generator_weights, _parse_generator_weights),
    Target("objectness-weights", _objectness_seeds, _parse_objectness),
    Target("torch-weights", _weight_seeds, _parse_weights, reserves=True),
    Target("safetensors", lambda place: (safetensors_file(),), _parse_safetensors),
    Target("sam-weights", _sam_seeds, _parse_sam, heavy=True, reserves=True),
    Target("checkpoint", _prepare_run, _parse_run, reserves=True),
    Target("run-record", _prepare_record, _parse_record, "json"),
    Target("onnx", _onnx_seeds, _parse_onnx, heavy=True),
    Target("torchscript", _torchscript_seeds, _parse_torchscript, heavy=True),
    Target("detectron2", _detectron2_seeds, _parse_detectron2),
    Target("model-folder", _prepare_folder, _parse_folder, "json"),
)
