"""Tiny random-weight models of the real classes, written to disk as save_pretrained writes full ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = ["a photo of a red car", "two men posing with a fish on a boat", "Please describe the picture in detail."]


def tiny_tokenizer(size: int = 400) -> Any:
    """A byte-level BPE tokenizer trained in memory, with begin, end and padding tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet)
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def opt_config(vocabulary: int, width: int = 32, layers: int = 2, positions: int = 256) -> Any:
    from transformers import OPTConfig

    return OPTConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        word_embed_proj_dim=width,
        num_hidden_layers=layers,
        ffn_dim=4 * width,
        num_attention_heads=4,
        max_position_embeddings=positions,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        init_std=0.1,
    )


def save_blip2(folder: Path, seed: int = 0, text_config: Any = None, width: int = 32, layers: int = 2) -> Any:
    """A BLIP-2 with its processor in ``folder``; returns the model, float32, in evaluation."""
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessorPil,
    )

    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    processor = Blip2Processor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer, num_query_tokens=4)
    vision = Blip2VisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        initializer_range=0.2,  # the default, 1e-10, makes all images look alike
    )
    queries = Blip2QFormerConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        encoder_hidden_size=width,
        cross_attention_frequency=1,
        initializer_range=0.2,
    )
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=queries.to_dict(),
        text_config=(text_config or opt_config(len(tokenizer), width, layers)).to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.query_tokens.normal_()
        model.language_projection.weight.normal_()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
