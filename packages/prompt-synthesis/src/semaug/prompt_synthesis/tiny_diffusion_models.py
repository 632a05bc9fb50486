"""Tiny random-weight pipelines of diffusers, written to disk as save_pretrained writes full ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIDE = 32
"""Pixels of the images that the tiny pipelines make."""
CHANNELS = 8, 16
"""Channels of their two levels."""


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={s: i for i, s in enumerate(symbols)}, merges=[], model_max_length=77)


def _text_encoder(width: int, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=200, hidden_size=width, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=width, bos_token_id=188, eos_token_id=189, pad_token_id=189,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _unet(width: int, channels: tuple[int, int] = CHANNELS, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=channels, layers_per_block=1, sample_size=SIDE // 2, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=4, norm_num_groups=4, **more,
    )  # fmt: skip


def _vae(channels: tuple[int, int] = CHANNELS) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=channels, in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, sample_size=SIDE,
    )  # fmt: skip


def _scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )


def _safety_checker() -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    config = CLIPConfig(
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        vision_config={
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        },
        projection_dim=16,
    )  # fmt: skip
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return StableDiffusionSafetyChecker(config), processor


def save_stable_diffusion(
    folder: Path, width: int = 32, seed: int = 0, safety: str = "none", channels: tuple[int, int] = CHANNELS
) -> None:
    """A Stable Diffusion; ``safety`` is none, or a checker that always or never finds something."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(seed)
    checker, processor = _safety_checker() if safety != "none" else (None, None)
    if checker is not None:
        bound = {"always": -2.0, "never": 2.0}[safety]  # cosines lie between
        for name in ("concept_embeds_weights", "special_care_embeds_weights"):
            getattr(checker, name).data.fill_(bound)
        checker.concept_embeds.data.normal_()
        checker.special_care_embeds.data.normal_()
    pipeline: Any = StableDiffusionPipeline(
        vae=_vae(channels), text_encoder=_text_encoder(width), tokenizer=_tokenizer(), unet=_unet(width, channels),
        scheduler=_scheduler(), safety_checker=checker, feature_extractor=processor,
        requires_safety_checker=checker is not None,
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def save_sdxl(folder: Path, seed: int = 0) -> None:
    """A Stable Diffusion XL with its two text encoders."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(seed)
    unet = _unet(
        64, addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip
    pipeline: Any = StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=_text_encoder(32), text_encoder_2=_text_encoder(32, projected=True),
        tokenizer=_tokenizer(), tokenizer_2=_tokenizer(), unet=unet, scheduler=_scheduler(),
        add_watermarker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def save_controlnet(folder: Path, width: int = 32, seed: int = 0, channels: tuple[int, int] = CHANNELS) -> None:
    """A ControlNet for the tiny Stable Diffusion, its last layers random instead of zero, so that it acts."""
    import torch
    from diffusers import ControlNetModel

    torch.manual_seed(seed)
    net: Any = ControlNetModel(
        block_out_channels=channels, layers_per_block=1, in_channels=4, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=width,
        conditioning_embedding_out_channels=(4, 8),
    )  # fmt: skip
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder)


def save_latent_diffusion(folder: Path, seed: int = 0) -> None:
    """The older latent diffusion, whose pipeline encodes prompts in a way of its own."""
    import torch
    from diffusers import LDMTextToImagePipeline
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    torch.manual_seed(seed)
    config = LDMBertConfig(
        vocab_size=200, max_position_embeddings=77, encoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=2,
        head_dim=8, d_model=32,
    )  # fmt: skip
    pipeline: Any = LDMTextToImagePipeline(_vae(), LDMBertModel(config), _tokenizer(), _unet(32), _scheduler())
    pipeline.save_pretrained(folder)
