"""Tiny random-weight panoptic models of transformers, written to disk as save_pretrained writes full ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LABELS = ["wall", "road, route", "window ", "tree-merged", "giraffe", "skis"]
_NAMES: dict[str, Any] = {
    "num_labels": len(LABELS),
    "id2label": dict(enumerate(LABELS)),
    "label2id": {name: number for number, name in enumerate(LABELS)},
}
_SWIN: dict[str, Any] = {
    "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2],
    "window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
_DECODER: dict[str, Any] = {
    "hidden_dim": 32, "mask_feature_size": 32, "feature_size": 32, "encoder_feedforward_dim": 16, "encoder_layers": 1,
    "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16, "num_queries": 8,
}  # fmt: skip


def _spread(model: Any) -> Any:
    """Weights large enough that every query finds something of its own."""
    import torch

    for name, parameter in model.named_parameters():
        if "class_predictor" in name or "mask_embedder" in name or "mask_head" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def save_mask2former(folder: Path) -> None:
    """A Mask2Former on a small Swin transformer, with its image processor."""
    import torch
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessorPil,
        SwinConfig,
    )

    torch.manual_seed(0)
    config = Mask2FormerConfig(backbone_config=SwinConfig(**_SWIN).to_dict(), **_DECODER, **_NAMES)
    _spread(Mask2FormerForUniversalSegmentation(config)).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 128}
    Mask2FormerImageProcessorPil(size=size, size_divisor=32).save_pretrained(folder)


def save_oneformer(folder: Path, tokenizer: Any) -> None:
    """A OneFormer on a small Swin transformer; its processor names the file of classes that published ones name."""
    import torch
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation, OneFormerImageProcessorPil, SwinConfig

    torch.manual_seed(0)
    config = OneFormerConfig(
        backbone_config=SwinConfig(**_SWIN).to_dict(), hidden_dim=32, mask_dim=32, conv_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=3, query_dec_layers=1, num_attention_heads=2,
        dim_feedforward=16, num_queries=8, text_encoder_width=32, text_encoder_vocab_size=400,
        text_encoder_num_layers=1, text_encoder_n_ctx=4, **_NAMES,
    )  # fmt: skip
    _spread(OneFormerForUniversalSegmentation(config)).save_pretrained(folder)
    images: Any = OneFormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}, num_text=4)
    images.class_info_file, images.repo_path = "ade20k_panoptic.json", "shi-labs/oneformer_demo"  # as published ones
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_eomt(folder: Path) -> None:
    """An EoMT, with its image processor."""
    import torch
    from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessorPil

    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=16, mlp_ratio=2,
        num_upscale_blocks=2, num_blocks=1, num_queries=8, **_NAMES,
    )  # fmt: skip
    _spread(EomtForUniversalSegmentation(config)).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 64}
    EomtImageProcessorPil(size=size, do_pad=True, do_split_image=False).save_pretrained(folder)
