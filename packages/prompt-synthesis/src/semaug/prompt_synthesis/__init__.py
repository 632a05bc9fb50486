"""LMM-MPA and SASI: captions, rewrites, prompts and visual prompts; nothing here imports a model library."""

from semaug.prompt_synthesis.captions import Blip2Captioner, Caption, Captioner, CaptionSettings
from semaug.prompt_synthesis.diffusion_folders import open_generator
from semaug.prompt_synthesis.endpoint import ChatEndpoint, EndpointError, Patience
from semaug.prompt_synthesis.generators import Generated, GenerationSettings, Generator
from semaug.prompt_synthesis.mask_maps import Panoptic, PanopticMap, open_panoptic, palette_image
from semaug.prompt_synthesis.prompts import SEMANTIC_EXTRACTION_PROMPTS, clean_rewrite, rewriting_prompt
from semaug.prompt_synthesis.rewriting import CausalRewriter, EndpointRewriter, Rewrite, Rewriter, RewriteSettings
from semaug.prompt_synthesis.token_limits import open_clip_limit
from semaug.prompt_synthesis.visual_prompts import (
    VisualPrompt,
    VisualPromptSettings,
    make_visual_prompt,
    mix_with_mask,
    noise_prompt,
)

__all__ = [
    "SEMANTIC_EXTRACTION_PROMPTS",
    "Blip2Captioner",
    "Caption",
    "CaptionSettings",
    "Captioner",
    "CausalRewriter",
    "ChatEndpoint",
    "EndpointError",
    "EndpointRewriter",
    "Generated",
    "GenerationSettings",
    "Generator",
    "Panoptic",
    "PanopticMap",
    "Patience",
    "Rewrite",
    "RewriteSettings",
    "Rewriter",
    "VisualPrompt",
    "VisualPromptSettings",
    "clean_rewrite",
    "make_visual_prompt",
    "mix_with_mask",
    "noise_prompt",
    "open_clip_limit",
    "open_generator",
    "open_panoptic",
    "palette_image",
    "rewriting_prompt",
]
