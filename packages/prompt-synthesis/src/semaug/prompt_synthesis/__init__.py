"""LMM-MPA and SASI: prompts, their post-processing, and visual prompts."""

from semaug.prompt_synthesis.prompts import SEMANTIC_EXTRACTION_PROMPTS, clean_rewrite, rewriting_prompt
from semaug.prompt_synthesis.visual_prompts import mix_with_mask, noise_prompt

__all__ = ["SEMANTIC_EXTRACTION_PROMPTS", "clean_rewrite", "mix_with_mask", "noise_prompt", "rewriting_prompt"]
