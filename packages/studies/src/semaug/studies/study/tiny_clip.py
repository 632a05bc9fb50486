"""A tiny random-weight CLIP, written to disk as save_pretrained writes full ones."""

from __future__ import annotations

from pathlib import Path


def save_clip(folder: Path, seed: int = 0) -> None:
    """A CLIP of one layer that sees 16 patches of 32 pixels, and its image processor."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=small, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
