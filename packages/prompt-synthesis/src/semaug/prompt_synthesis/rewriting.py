"""Semantic rewriting (LMM-MPA's SRP, spec S2.2): a language model says a caption in other words.

A prompt shows five of a hundred examples, drawn from (seed, key, draw), so that each draw of an image gives another
text. The answer is cut to what the generator reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis.endpoint import ChatEndpoint, Sampling
from semaug.prompt_synthesis.held_model import HeldModel
from semaug.prompt_synthesis.model_folders import (
    ModelLocation,
    check_vocabulary,
    guarding_memory,
    loading,
    locate_model,
    read_config,
    resolve_dtype,
)
from semaug.prompt_synthesis.prompts import (
    EXAMPLES_A_CALL,
    REWRITING_HEADERS,
    RewritingKind,
    drawn_prompt,
    example_bank,
    read_rewrite,
)
from semaug.prompt_synthesis.sampling import LineEnds, SeededSampling, check_sampling
from semaug.prompt_synthesis.token_limits import EstimatedLimit, TokenLimit, fit

if TYPE_CHECKING:
    from torch import Tensor

PART = "the rewriter"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A caption in other words.

    ``truncated`` marks a text that was cut, by the language model's limit or by the generator's; ``examples`` are the
    numbers of the examples shown, which index ``example_bank``. ``flagged`` marks a caption that stands in for its
    rewrite because the model said nothing in ``attempts`` answers.
    """

    text: str
    truncated: bool
    examples: tuple[int, ...]
    flagged: bool = False
    attempts: int = 1


class Rewriter(Protocol):
    """Anything that rewrites captions."""

    def rewrite(self, captions: Sequence[str], keys: Sequence[str], draws: Sequence[int], seed: int) -> list[Rewrite]:
        """One text a row of (caption, the image's key, number of the draw)."""

    def identity(self) -> dict[str, Any]:
        """What decides the texts."""

    def close(self) -> None:
        """Let go of the model."""


@dataclass(frozen=True, slots=True)
class RewriteSettings:
    """How captions are rewritten.

    ``kind``: ``rewriting``, ``expansion``, or ``none`` (two or three sentences, no examples). Tokens are drawn at
    ``temperature`` from the likeliest ``top_p`` by the row's own random numbers; 0 takes the likeliest. An empty
    answer is asked for again, up to ``max_attempts`` answers in all. ``limit`` counts the generator's tokens.
    """

    kind: RewritingKind = "rewriting"
    examples: int = EXAMPLES_A_CALL
    max_new_tokens: int = 96
    max_attempts: int = 3
    temperature: float = 0.9
    top_p: float = 0.95
    limit: TokenLimit = field(default_factory=EstimatedLimit)

    def __post_init__(self) -> None:
        if self.kind not in REWRITING_HEADERS:
            raise InvalidOption(f"unknown kind {self.kind!r}; known are {', '.join(REWRITING_HEADERS)}")
        size = len(example_bank(self.kind))
        if size and not 0 <= self.examples <= size:
            raise InvalidOption(f"{self.examples} examples a prompt, the bank holds {size}; ask for 0 to {size}")
        for name in ("max_new_tokens", "max_attempts"):
            if getattr(self, name) < 1:
                raise InvalidOption(f"{name} is {getattr(self, name)}; give 1 or more")
        check_sampling(self.temperature, self.top_p)

    def identity(self) -> dict[str, Any]:
        """The settings as they are recorded, the header's text among them."""
        return {
            "kind": self.kind,
            "header": REWRITING_HEADERS[self.kind],
            "examples": self.examples if self.kind != "none" else 0,
            "max_new_tokens": self.max_new_tokens,
            "max_attempts": self.max_attempts,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "limit": self.limit.identity(),
        }


@dataclass(frozen=True, slots=True)
class _Row:
    """One text to make, and the prompt that asks for it."""

    caption: str
    address: str
    prompt: str
    examples: tuple[int, ...]


Answer = tuple[str, bool]
"""What a model said, and whether it came to its end."""
Ask = Callable[[list[str], list[int]], list[Answer]]
"""Answers to prompts, each with the draw key of its random numbers."""


def _rewrite(
    ask: Ask, chosen: RewriteSettings, captions: Sequence[str], keys: Sequence[str], draws: Sequence[int], seed: int
) -> list[Rewrite]:
    if not len(captions) == len(keys) == len(draws):
        raise InvalidOption(
            f"{len(captions)} captions, {len(keys)} keys and {len(draws)} draws; give one of each a text"
        )
    rows = []
    for caption, key, draw in zip(captions, keys, draws, strict=True):
        prompt, examples = drawn_prompt(chosen.kind, caption, key, draw, seed, chosen.examples)
        rows.append(_Row(caption, f"{draw}\x1f{key}", prompt, examples))
    found: list[Rewrite | None] = [None] * len(rows)
    for attempt in range(1, chosen.max_attempts + 1):
        open_rows = [i for i, text in enumerate(found) if text is None]
        if not open_rows:
            break
        numbers = [draw_key(seed, "rewrite", attempt, rows[i].address) for i in open_rows]
        answers = ask([rows[i].prompt for i in open_rows], numbers)
        for i, answer in zip(open_rows, answers, strict=True):
            found[i] = _finish(rows[i], answer, attempt, chosen.limit)
    return [text or _stand_in(row, chosen.max_attempts, chosen.limit) for row, text in zip(rows, found, strict=True)]


def _finish(row: _Row, answer: Answer, attempt: int, limit: TokenLimit) -> Rewrite | None:
    said, ended = answer
    text, line_ended = read_rewrite(said)
    if not text:
        return None
    text, cut = fit(text, limit)
    return Rewrite(text, cut or not (ended or line_ended), row.examples, False, attempt)


def _stand_in(row: _Row, attempts: int, limit: TokenLimit) -> Rewrite:
    text, cut = fit(row.caption, limit)
    return Rewrite(text, cut, row.examples, True, attempts)


class _CausalModel:
    """A loaded language model and its tokenizer, padded on the left."""

    def __init__(self, location: ModelLocation, device: str, dtype: Any) -> None:
        with loading(location, PART):
            from transformers import AutoModelForCausalLM, AutoTokenizer

            options = location.options()
            model: Any = AutoModelForCausalLM.from_pretrained(
                location.source, dtype=dtype, use_safetensors=True, **options
            )
            self._tokenizer = AutoTokenizer.from_pretrained(location.source, padding_side="left", **options)
            check_vocabulary(self._tokenizer)
        self._model = model.to(device).eval()
        self._device = device
        generation = self._model.generation_config
        generation.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        ends = generation.eos_token_id
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or [])
        if self._tokenizer.pad_token is None:
            ended = self._tokenizer.eos_token or self._tokenizer.unk_token
            self._tokenizer.pad_token = ended or self._tokenizer.convert_ids_to_tokens(0)

    def answer(self, prompts: list[str], max_new_tokens: int, sampling: SeededSampling) -> list[Answer]:
        """One answer a prompt, without the prompt."""
        import torch

        inputs, talks = self._inputs(prompts)
        length = inputs["input_ids"].shape[1]
        self._check_length(length, max_new_tokens)
        with torch.inference_mode():
            tokens = self._model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                logits_processor=[sampling],
                stopping_criteria=[] if talks else [LineEnds(self._tokenizer)],
            )[:, length:]
        said = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        if not talks:  # the second line is a continued list: the model's own source and target
            said = [text[: text.find("\n") + 1] or text for text in said]
        return [(text, bool(self._ends.intersection(row))) for text, row in zip(said, tokens.tolist(), strict=True)]

    def _inputs(self, prompts: list[str]) -> tuple[dict[str, Tensor], bool]:
        """Token ids and mask (rows, length), padded on the left, and whether the chat template shaped them."""
        talks = self._tokenizer.chat_template is not None
        texts = [self._as_message(prompt) for prompt in prompts] if talks else prompts
        encoded = self._tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not talks)
        return {name: encoded[name].to(self._device) for name in ("input_ids", "attention_mask")}, talks

    def _as_message(self, prompt: str) -> str:
        message = [{"role": "user", "content": prompt}]
        # a template that knows no thoughts ignores the last option
        return str(
            self._tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )

    def _check_length(self, prompt: int, new: int) -> None:
        allowed = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if allowed is not None and prompt + new > allowed:
            raise InvalidOption(
                f"{PART}: {prompt} tokens of prompt and {new} new ones, the model has {allowed} places; "
                "show fewer examples or ask for fewer new tokens"
            )


class CausalRewriter(HeldModel[_CausalModel]):
    """Rewrites by any causal language model of transformers (the paper's is LLaMA); read at the first caption.

    A model whose tokenizer has a chat template gets the prompt as the user's one message, another one as plain text.
    """

    def __init__(
        self,
        model: str | Path,
        settings: RewriteSettings | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        batch_size: int = 8,
        revision: str | None = None,
    ) -> None:
        """``model``: a folder, or a hub id.

        Raises ``InvalidOption`` for a model that is not causal and for bad options, ``MissingWeights`` where there is
        no model.
        """
        if batch_size < 1:
            raise InvalidOption(f"batch_size is {batch_size}; give 1 or more")
        self.settings, self._batch_size = settings or RewriteSettings(), batch_size
        self._location = locate_model(model, PART, revision)
        _check_causal(self._location)
        self._device, self._dtype = device, resolve_dtype(dtype, device)

    def identity(self) -> dict[str, Any]:
        """The model, the numbers' format and the settings."""
        dtype = str(self._dtype).removeprefix("torch.")
        return {**self._location.identity(), "dtype": dtype, **self.settings.identity()}

    def rewrite(self, captions: Sequence[str], keys: Sequence[str], draws: Sequence[int], seed: int) -> list[Rewrite]:
        """One text a row, batched over images and draws alike.

        The same rows, seed and batch size give the same texts; a row's random numbers depend on (seed, key, draw)
        alone. Raises ``InvalidOption`` for lists of different lengths, a prompt longer than the model reads, and a
        lack of device memory.
        """
        return _rewrite(self._ask, self.settings, captions, keys, draws, seed)

    def _ask(self, prompts: list[str], numbers: list[int]) -> list[Answer]:
        answers: list[Answer] = []
        with guarding_memory(PART, self._batch_size):
            for start in range(0, len(prompts), self._batch_size):
                rows = slice(start, start + self._batch_size)
                sampling = SeededSampling(numbers[rows], self.settings.temperature, self.settings.top_p)
                answers += self._open().answer(prompts[rows], self.settings.max_new_tokens, sampling)
        return answers

    def _read(self) -> _CausalModel:
        return _CausalModel(self._location, self._device, self._dtype)


def _check_causal(location: ModelLocation) -> None:
    config = read_config(location, PART)
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    named = config.architectures or []
    heads = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
    if not known or (named and not any(name.endswith(heads) for name in named)):
        kind = named[0] if named else config.model_type
        raise InvalidOption(
            f"{PART}: {location.name} is a {kind}, expected a causal language model; give a LLaMA or such"
        )


class EndpointRewriter:
    """Rewrites by a server with OpenAI's chat completions: vLLM, llama.cpp, Ollama and others."""

    def __init__(self, endpoint: ChatEndpoint, settings: RewriteSettings | None = None) -> None:
        self.settings, self._endpoint = settings or RewriteSettings(), endpoint

    def identity(self) -> dict[str, Any]:
        """The model's name at the server and the settings; neither the server's address nor its key."""
        return {**self._endpoint.identity(), **self.settings.identity()}

    def rewrite(self, captions: Sequence[str], keys: Sequence[str], draws: Sequence[int], seed: int) -> list[Rewrite]:
        """One text a row; the server is told a seed of (seed, key, draw), and whether it follows it is its own affair.

        Raises what ``ChatEndpoint.answer`` raises; what was answered by then is kept for the next call.
        """
        return _rewrite(self._ask, self.settings, captions, keys, draws, seed)

    def _ask(self, prompts: list[str], numbers: list[int]) -> list[Answer]:
        chosen = self.settings
        sampling = Sampling(chosen.temperature, chosen.top_p, chosen.max_new_tokens)
        answers = self._endpoint.answer(prompts, [number % 2**31 for number in numbers], sampling)
        return [(answer.text, answer.ended) for answer in answers]

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()
