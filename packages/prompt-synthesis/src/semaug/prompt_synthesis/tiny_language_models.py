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


def save_blip2(
    folder: Path, seed: int = 0, text_config: Any = None, width: int = 32, layers: int = 2, side: int = 32
) -> Any:
    """A BLIP-2 that sees 16 patches of images of ``side`` pixels, and its processor; returns the model, float32."""
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
    processor = Blip2Processor(
        BlipImageProcessorPil(size={"height": side, "width": side}), tokenizer, num_query_tokens=4
    )
    vision = Blip2VisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=side,
        patch_size=side // 4,
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


CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save_llama(folder: Path, seed: int = 0, chat: bool = False, width: int = 32, layers: int = 2) -> Any:
    """A LLaMA with its tokenizer, with a chat template on demand; returns the model, float32, in evaluation."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=4096,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_fixed_opt(folder: Path, favoured: dict[int, float]) -> Any:
    """An OPT language model whose logits are 0 everywhere but at the ``favoured`` tokens; returns the model."""
    import torch
    from transformers import OPTForCausalLM

    tokenizer = tiny_tokenizer()
    model = OPTForCausalLM(opt_config(len(tokenizer), positions=2048)).eval()
    with torch.no_grad():
        fix_logits(model, favoured)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def fix_logits(opt: Any, favoured: dict[int, float]) -> None:
    """Make an OPT language model say the same everywhere: logits of 0, but for the ``favoured`` tokens."""
    norm, table = opt.model.decoder.final_layer_norm, opt.get_output_embeddings().weight
    norm.weight.zero_()
    norm.bias.fill_(1.0)
    table.zero_()
    for token, logit in favoured.items():
        table[token] = logit / table.shape[1]


def save_clip_tokenizer(folder: Path, length: int = 77) -> Any:
    """A CLIP tokenizer whose tokens are letters, in ``folder/tokenizer`` as a generator keeps it; returns it."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
    tokenizer.save_pretrained(folder / "tokenizer")
    return tokenizer
