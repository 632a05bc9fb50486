"""What others call the same weights: pairs of (our prefix, their prefix) that turn one state dict into the other.

Our ResNets and MobileNetV2 have torchvision's names, our vision transformers timm's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from semaug.ssl_methods.backbones import TIMM_PREFIX
from semaug.ssl_methods.backbones.vit import DEPTH

Pairs = Sequence[tuple[str, str]]


def rename(state: Mapping[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
    """``state`` with the first matching prefix of every name replaced; other names stay.

    >>> list(rename({"a.b": Tensor(), "c": Tensor()}, [("a.", "x.y.")]))
    ['x.y.b', 'c']
    """
    renamed = {}
    for name, tensor in state.items():
        ours, theirs = next((pair for pair in pairs if name.startswith(pair[0])), ("", ""))
        renamed[theirs + name[len(ours) :]] = tensor
    return renamed


def reverse(pairs: Pairs) -> Pairs:
    """The pairs the other way round."""
    return [(theirs, ours) for ours, theirs in pairs]


def torchvision_names(backbone: str) -> Pairs | None:
    """Our prefixes and torchvision's, None for a backbone that torchvision does not have."""
    if backbone.startswith("resnet") or backbone == "mobilenetv2":
        return []
    return _vit_of_torchvision() if backbone.startswith("vit-") else None


def timm_names(backbone: str) -> Pairs | None:
    """Our prefixes and timm's, None for a backbone that timm does not have."""
    if backbone.startswith(TIMM_PREFIX):
        return [("network.", "")]
    if backbone.startswith(("resnet", "vit-")):
        return []
    return _mobilenet_of_timm() if backbone == "mobilenetv2" else None


def _vit_of_torchvision() -> Pairs:
    pairs = [
        ("cls_token", "class_token"),
        ("pos_embed", "encoder.pos_embedding"),
        ("patch_embed.proj.", "conv_proj."),
        ("norm.", "encoder.ln."),
    ]
    for block in range(DEPTH):
        ours, theirs = f"blocks.{block}.", f"encoder.layers.encoder_layer_{block}."
        pairs += [
            (ours + "norm1.", theirs + "ln_1."),
            (ours + "attn.qkv.", theirs + "self_attention.in_proj_"),
            (ours + "attn.proj.", theirs + "self_attention.out_proj."),
            (ours + "norm2.", theirs + "ln_2."),
            (ours + "mlp.fc1.", theirs + "mlp.0."),
            (ours + "mlp.fc2.", theirs + "mlp.3."),
        ]
    return pairs


_REPEATS = (1, 2, 3, 4, 3, 3, 1)
"""Blocks of MobileNetV2's seven stages (Sandler et al. 2018, table 2)."""
_FIRST = {"conv.0.0.": "conv_dw.", "conv.0.1.": "bn1.", "conv.1.": "conv_pw.", "conv.2.": "bn2."}
_OTHERS = {
    "conv.0.0.": "conv_pw.", "conv.0.1.": "bn1.", "conv.1.0.": "conv_dw.", "conv.1.1.": "bn2.",
    "conv.2.": "conv_pwl.", "conv.3.": "bn3.",
}  # fmt: skip


def _mobilenet_of_timm() -> Pairs:
    pairs = [("features.0.0.", "conv_stem."), ("features.0.1.", "bn1.")]
    places = [(stage, block) for stage, repeats in enumerate(_REPEATS) for block in range(repeats)]
    for index, (stage, block) in enumerate(places, start=1):
        parts = _FIRST if index == 1 else _OTHERS
        pairs += [(f"features.{index}.{a}", f"blocks.{stage}.{block}.{b}") for a, b in parts.items()]
    last = len(places) + 1
    return [*pairs, (f"features.{last}.0.", "conv_head."), (f"features.{last}.1.", "bn2.")]
