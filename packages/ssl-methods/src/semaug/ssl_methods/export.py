"""Encoders for other programs: torchvision's and timm's names, and ONNX."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from semaug.artifacts.errors import InvalidOption, MissingDependency
from semaug.artifacts.files import write_atomic
from semaug.ssl_methods.backbones import VisionTransformer
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.names import Pairs, rename, timm_names, torchvision_names

FORMATS = ("torchvision", "timm", "onnx")


def export_encoder(encoder: Encoder, format: str, out: Path) -> tuple[str, ...]:
    """Write the backbone to the file ``out``; returns what must be known to use it, one sentence each.

    ``torchvision`` and ``timm`` are state dicts without classifier, as ``.safetensors``, ``.pth`` or ``.pt``; ``onnx``
    is a model from normalised images to features (see ``export_onnx``).
    Raises ``InvalidOption``, ``MissingDependency``, ``OutputError``.
    """
    if format not in FORMATS:
        raise InvalidOption(f"export format {format!r} is not known; choose one of {', '.join(FORMATS)}")
    if format == "onnx":
        return export_onnx(encoder, out)
    state = _EXPORTS[format](encoder)
    if out.suffix == ".safetensors":
        from safetensors.torch import save

        data = save(state)
    elif out.suffix in (".pth", ".pt"):
        buffer = BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
    else:
        raise InvalidOption(
            f"weights cannot be written as {out.suffix or out.name!r}; end --out in .safetensors or .pth"
        )
    write_atomic(out, data)
    return caveats(encoder)


def export_torchvision(encoder: Encoder) -> dict[str, Tensor]:
    """The backbone's state dict in torchvision's names, everything but the classifier.

    A vision transformer fits ``VisionTransformer(image_size, patch_size, 12, heads, 384, 1536)``. Raises
    ``InvalidOption`` for a backbone that torchvision does not have.
    """
    return _renamed(encoder, "torchvision", torchvision_names(encoder.spec.backbone))


def export_timm(encoder: Encoder) -> dict[str, Tensor]:
    """The backbone's state dict in timm's names (``resnet18``, ``mobilenetv2_100``, ``vit_small_patch16_224``, ...).

    Raises ``InvalidOption`` for a backbone that timm does not have.
    """
    return _renamed(encoder, "timm", timm_names(encoder.spec.backbone))


def _renamed(encoder: Encoder, origin: str, pairs: Pairs | None) -> dict[str, Tensor]:
    if pairs is None:
        raise InvalidOption(f"backbone {encoder.spec.backbone!r} is not one of {origin}'s; export it as onnx")
    state = {name: t.detach().cpu().clone().contiguous() for name, t in encoder.backbone.state_dict().items()}
    return rename(state, pairs)


_EXPORTS: dict[str, Callable[[Encoder], dict[str, Tensor]]] = {
    "torchvision": export_torchvision,
    "timm": export_timm,
}


def caveats(encoder: Encoder) -> tuple[str, ...]:
    """What a state dict does not say and the network that takes it must have."""
    spec, backbone = encoder.spec, encoder.backbone
    notes = [f"images are normalised by mean {spec.mean} and std {spec.std}"]
    if spec.small_stem and spec.backbone.startswith("resnet"):
        padding = dict(spec.options).get("stem_padding", 1)
        notes.append(f"conv1 is Conv2d(3, 64, 3, stride=1, padding={padding}, bias=False) and maxpool is Identity()")
    if dict(spec.options).get("stem_relu") is False:
        notes.append("there is no ReLU behind bn1")
    if spec.small_stem and spec.backbone == "mobilenetv2":
        notes.append("the first convolution and that of the first 24-channel block have stride 1")
    if isinstance(backbone, VisionTransformer):
        notes.append(
            f"the transformer has {backbone.heads} heads, positions for {spec.input_size} px, and no classifier"
        )
    return tuple(notes)


def export_onnx(encoder: Encoder, out: Path) -> tuple[str, ...]:
    """Write an ONNX model from ``images`` (batch, 3, S, S), normalised float32, to ``features`` (batch, feature_dim).

    The batch is free and the size fixed; an encoder of tables reads ``rows`` (batch, D). Mean, std and backbone stand
    in the model's metadata. Raises ``MissingDependency`` without onnx and onnxscript.
    """
    _require_onnx(out)
    spec = encoder.spec
    name = "images" if spec.input_size else "rows"
    shape = (3, spec.input_size, spec.input_size) if spec.input_size else (spec.input_features,)
    program = torch.onnx.export(
        encoder.backbone.cpu().eval(),
        (torch.zeros(2, *shape),),  # type: ignore[arg-type]
        input_names=[name],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for key, value in (("backbone", spec.backbone), ("mean", spec.mean), ("std", spec.std)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, str(value)
    write_atomic(out, model.SerializeToString())
    return (f"{name} (batch, {', '.join(map(str, shape))}) normalised by mean {spec.mean} and std {spec.std}",)


def _require_onnx(out: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"an ONNX export needs {error.name}; pip install onnx onnxscript") from error
    if out.suffix != ".onnx":
        raise InvalidOption(f"an ONNX model cannot be written as {out.name!r}; end --out in .onnx")
