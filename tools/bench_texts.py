"""Captions and rewrites against bare loops over transformers, at equal batch, on random models of the real classes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import Benchmark

from semaug.prompt_synthesis.captions import Blip2Captioner, CaptionSettings
from semaug.prompt_synthesis.prompts import SEMANTIC_EXTRACTION_PROMPTS, drawn_prompt
from semaug.prompt_synthesis.rewriting import CausalRewriter, RewriteSettings
from semaug.prompt_synthesis.tiny_language_models import save_blip2, save_llama

BATCH, TOKENS, WIDTH, LAYERS = 8, 16, 256, 4
IMAGES, TEXTS = 24, 16


def benchmarks() -> list[Benchmark]:
    """Captions by one prompt and by three, and rewrites."""
    scratch = Path(tempfile.mkdtemp(prefix="semaug-bench-"))
    save_blip2(scratch / "blip2", width=WIDTH, layers=LAYERS, side=224)
    save_llama(scratch / "llama", width=WIDTH, layers=LAYERS)
    prompts = tuple(SEMANTIC_EXTRACTION_PROMPTS)
    return [
        _captions(scratch / "blip2", ("describe",)),
        _captions(scratch / "blip2", prompts),
        _rewrites(scratch / "llama"),
    ]


def _captions(folder: Path, prompts: tuple[str, ...]) -> Benchmark:
    import torch
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    images = list(np.random.default_rng(0).integers(0, 256, (IMAGES, 300, 400, 3), dtype=np.uint8))
    keys = [str(i) for i in range(IMAGES)]
    ours = Blip2Captioner(folder, settings=CaptionSettings(batch_size=BATCH, max_new_tokens=TOKENS, max_attempts=1))
    processor: Any = Blip2Processor.from_pretrained(folder, backend="pil")
    processor.tokenizer.padding_side = "left"
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def bare() -> None:
        for text in (SEMANTIC_EXTRACTION_PROMPTS[prompt] for prompt in prompts):
            for start in range(0, IMAGES, BATCH):
                batch = images[start : start + BATCH]
                inputs = processor(images=batch, text=[text] * len(batch), padding=True, return_tensors="pt")
                tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
                processor.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)

    return Benchmark(
        name=f"captions, {len(prompts)} prompt{'s' * (len(prompts) > 1)} an image",
        target="within 10% of the bare loop",
        ours=lambda: ours.caption_prompts(images, prompts, 0, keys),
        peers={"bare transformers": bare},
        target_ratio=1 / 1.1,
        items=IMAGES * len(prompts),
        unit="captions",
        note=f"BLIP-2 of width {WIDTH}, {LAYERS} layers a part, random weights; batch {BATCH}, {TOKENS} new tokens",
        most_repeats=5,
    )


def _rewrites(folder: Path) -> Benchmark:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    captions, keys = ["a red car on a street"] * TEXTS, [str(i) for i in range(TEXTS)]
    draws = [1] * TEXTS
    settings = RewriteSettings(max_new_tokens=TOKENS, max_attempts=1)
    ours = CausalRewriter(folder, settings, batch_size=BATCH)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [drawn_prompt("rewriting", c, k, d, 0)[0] for c, k, d in zip(captions, keys, draws, strict=True)]

    def bare() -> None:
        for start in range(0, TEXTS, BATCH):
            inputs = tokenizer(prompts[start : start + BATCH], padding=True, return_tensors="pt")
            tokens = model.generate(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=TOKENS,
                do_sample=True, temperature=0.9, top_p=0.95, top_k=0, pad_token_id=0,
            )  # fmt: skip
            tokenizer.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)

    return Benchmark(
        name="rewrites, five examples a prompt",
        target="within 10% of the bare loop",
        ours=lambda: ours.rewrite(captions, keys, draws, 0),
        peers={"bare transformers": bare},
        target_ratio=1 / 1.1,
        items=TEXTS,
        unit="texts",
        note=f"LLaMA of width {WIDTH}, {LAYERS} layers, random weights; batch {BATCH}, {TOKENS} new tokens, sampled",
        most_repeats=5,
    )
