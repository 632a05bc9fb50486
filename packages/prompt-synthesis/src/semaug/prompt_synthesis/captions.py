"""Semantic extraction (LMM-MPA, spec S2.1): what BLIP-2 says of an image when asked with one of the paper's prompts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption
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
from semaug.prompt_synthesis.prompts import SEMANTIC_EXTRACTION_PROMPTS
from semaug.prompt_synthesis.sampling import SeededSampling, check_sampling

if TYPE_CHECKING:
    from torch import Tensor

Image = NDArray[np.uint8]

FALLBACK_CAPTION = "a photo"
"""The flagged caption of an image of which the model says nothing."""
PART = "the captioner"


@dataclass(frozen=True, slots=True)
class Caption:
    """What a captioner says of an image.

    ``flagged`` marks ``FALLBACK_CAPTION``, ``truncated`` a text that ran into the limit of new tokens; ``attempts``
    counts how often the model was asked.
    """

    text: str
    flagged: bool
    truncated: bool
    attempts: int


class Captioner(Protocol):
    """Anything that captions images."""

    def caption(self, images: Sequence[Image], seed: int, keys: Sequence[str]) -> list[Caption]:
        """One caption an image: uint8 RGB of shape (height, width, 3), of any sizes."""

    def identity(self) -> dict[str, Any]:
        """What decides the captions."""

    def close(self) -> None:
        """Let go of the model."""


@dataclass(frozen=True, slots=True)
class CaptionSettings:
    """How BLIP-2 answers.

    The first answer takes the likeliest tokens. An empty one is asked for again, up to ``max_attempts`` answers in
    all, with tokens drawn at ``temperature`` from the likeliest ``top_p`` by the image's own random numbers.
    ``batch_size`` counts texts.
    """

    batch_size: int = 8
    max_new_tokens: int = 60
    max_attempts: int = 3
    temperature: float = 1.0
    top_p: float = 0.9

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens", "max_attempts"):
            if getattr(self, name) < 1:
                raise InvalidOption(f"{name} is {getattr(self, name)}; give 1 or more")
        check_sampling(self.temperature, self.top_p)


class _Blip2:
    """A loaded model with its processor's parts; the two halves of its ``generate``, apart."""

    def __init__(self, location: ModelLocation, device: str, dtype: Any) -> None:
        with loading(location, PART):
            from transformers import AutoImageProcessor, AutoTokenizer, Blip2ForConditionalGeneration

            options = location.options()
            model: Any = Blip2ForConditionalGeneration.from_pretrained(
                location.source, dtype=dtype, use_safetensors=True, **options
            )
            # one backend, so that captions do not depend on whether torchvision is installed
            self._processor = AutoImageProcessor.from_pretrained(location.source, backend="pil", **options)
            self._tokenizer = AutoTokenizer.from_pretrained(location.source, **options)
            check_vocabulary(self._tokenizer)
        self._model = model.to(device).eval()
        self._device, self._dtype = device, dtype
        generation = self._model.language_model.generation_config
        generation.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        self._ends = _ids(generation.eos_token_id)
        self._pad = generation.pad_token_id if generation.pad_token_id is not None else next(iter(self._ends), 0)

    def prepare(self, images: Sequence[Image]) -> Tensor:
        """The processor's pixels of the images, float32, on the CPU."""
        pixels = self._processor(images=list(images), input_data_format="channels_last", return_tensors="pt")
        return pixels["pixel_values"]

    def embed(self, pixels: Tensor) -> Tensor:
        """What the language model sees of the images: (images, queries, width), the projected Q-Former output."""
        import torch

        with torch.inference_mode():
            return self._model.get_image_features(pixels.to(self._device, self._dtype)).pooler_output

    def answer(
        self, embedded: Tensor, texts: Sequence[str], max_new_tokens: int, processors: list[Any]
    ) -> list[tuple[str, bool]]:
        """One (text, whether it came to its end) a row of ``embedded``; the prompt is not part of it."""
        import torch

        with torch.inference_mode():
            inputs, mask = self._inputs(embedded, texts)
            self._check_length(inputs.shape[1], max_new_tokens)
            tokens = self._model.language_model.generate(
                inputs_embeds=inputs,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                pad_token_id=self._pad,
                logits_processor=processors,
            )
        said = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        whole = [bool(self._ends.intersection(row)) for row in tokens.tolist()]
        return [(" ".join(text.split()), end) for text, end in zip(said, whole, strict=True)]

    def _inputs(self, embedded: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Image then prompt, padded on the left: (rows, length, width), and its mask (rows, length)."""
        import torch

        table = self._model.get_input_embeddings()
        ids = [torch.tensor(row, device=self._device) for row in self._tokenizer(list(texts)).input_ids]
        rows = [torch.cat([image, table(row).to(image.dtype)]) for image, row in zip(embedded, ids, strict=True)]
        length = max(len(row) for row in rows)
        inputs = torch.stack([torch.nn.functional.pad(row, (0, 0, length - len(row), 0)) for row in rows])
        places = torch.arange(length, device=self._device)
        starts = torch.tensor([length - len(row) for row in rows], device=self._device)
        return inputs, (places >= starts[:, None]).long()

    def _check_length(self, prompt: int, new: int) -> None:
        allowed = getattr(self._model.config.text_config, "max_position_embeddings", None)
        if allowed is not None and prompt + new > allowed:
            raise InvalidOption(
                f"{PART}: {prompt} tokens of image and prompt and {new} new ones, the language model has {allowed} "
                f"places; ask for at most {max(allowed - prompt, 0)} new tokens"
            )


class Blip2Captioner(HeldModel[_Blip2]):
    """Captions of a ``Blip2ForConditionalGeneration`` of transformers; the weights are read at the first image."""

    def __init__(
        self,
        model: str | Path,
        prompt: str = "describe",
        device: str = "cpu",
        dtype: str = "auto",
        settings: CaptionSettings | None = None,
        revision: str | None = None,
    ) -> None:
        """``model``: a folder, or a hub id; ``prompt``: a name in ``SEMANTIC_EXTRACTION_PROMPTS``.

        Raises ``InvalidOption`` for an unknown prompt or dtype, and for a model of another kind; ``MissingWeights``
        where there is no model.
        """
        self.prompt = _known(prompt)
        self.settings = settings or CaptionSettings()
        self._location = locate_model(model, PART, revision)
        kind = read_config(self._location, PART).model_type
        if kind != "blip-2":
            raise InvalidOption(f"{PART}: {self._location.name} is a {kind} model, expected blip-2; give a BLIP-2")
        self._device, self._dtype = device, resolve_dtype(dtype, device)

    def identity(self) -> dict[str, Any]:
        """The model, the prompt's text, the numbers' format and the settings that decide captions."""
        shown = self.settings
        return {
            **self._location.identity(),
            "prompt": SEMANTIC_EXTRACTION_PROMPTS[self.prompt],
            "dtype": str(self._dtype).removeprefix("torch."),
            "max_new_tokens": shown.max_new_tokens,
            "max_attempts": shown.max_attempts,
            "temperature": shown.temperature,
            "top_p": shown.top_p,
        }

    def caption(self, images: Sequence[Image], seed: int, keys: Sequence[str]) -> list[Caption]:
        """One caption an image, asked with the captioner's prompt (see ``caption_prompts``)."""
        return [captions[0] for captions in self.caption_prompts(images, (self.prompt,), seed, keys)]

    def caption_prompts(
        self, images: Sequence[Image], prompts: Sequence[str], seed: int, keys: Sequence[str]
    ) -> list[list[Caption]]:
        """For each image one caption a prompt, in the prompts' order; an image is encoded once for all of them.

        ``images``: uint8 RGB of shape (height, width, 3), of any sizes, with their ``keys``. The same images, seed and
        batch size give the same captions; a retry's random numbers depend on (seed, key, prompt, attempt) alone.
        Raises ``InvalidOption`` for unknown prompts, another number of keys, and a lack of device memory.
        """
        if len(keys) != len(images):
            raise InvalidOption(f"{len(images)} images and {len(keys)} keys; give one key an image")
        texts = [SEMANTIC_EXTRACTION_PROMPTS[_known(prompt)] for prompt in prompts]
        if not images or not texts:
            return [[] for _ in images]
        model = self._open()
        found: list[list[Caption]] = []
        size = self.settings.batch_size
        with guarding_memory(PART, size):
            for start, pixels in _prepared(model, images, size):
                found += self._chunk(model.embed(pixels), texts, seed, keys[start : start + size])
        return found

    def _chunk(self, embedded: Tensor, texts: list[str], seed: int, keys: Sequence[str]) -> list[list[Caption]]:
        """The captions of one chunk; rows of one prompt stand together, since they need no padding."""
        rows = [_Row(image, text, key) for text in texts for image, key in enumerate(keys)]
        captions = self._ask(embedded, rows, seed, 1)
        for attempt in range(2, self.settings.max_attempts + 1):
            empty = [i for i, caption in enumerate(captions) if caption.flagged]
            again = self._ask(embedded, [rows[i] for i in empty], seed, attempt)
            for i, caption in zip(empty, again, strict=True):
                captions[i] = caption
        return [captions[image :: len(keys)] for image in range(len(keys))]

    def _ask(self, embedded: Tensor, rows: Sequence[_Row], seed: int, attempt: int) -> list[Caption]:
        """Answers to rows, ``batch_size`` at a time: the likeliest at first, drawn ones in later attempts."""
        chosen, found = self.settings, []
        for start in range(0, len(rows), chosen.batch_size):
            batch = rows[start : start + chosen.batch_size]
            draws = [draw_key(seed, "caption-retry", attempt, f"{row.text}\x1f{row.key}") for row in batch]
            sampling = [] if attempt == 1 else [SeededSampling(draws, chosen.temperature, chosen.top_p)]
            images, texts = embedded[[row.image for row in batch]], [row.text for row in batch]
            answers = self._open().answer(images, texts, chosen.max_new_tokens, sampling)
            found += [_caption(text, whole, attempt) for text, whole in answers]
        return found

    def _read(self) -> _Blip2:
        return _Blip2(self._location, self._device, self._dtype)


def _caption(text: str, whole: bool, attempt: int) -> Caption:
    return Caption(text or FALLBACK_CAPTION, not text, bool(text) and not whole, attempt)


@dataclass(frozen=True, slots=True)
class _Row:
    """One text to generate: of image ``image`` in the chunk, asked with ``text``."""

    image: int
    text: str
    key: str


def _prepared(model: _Blip2, images: Sequence[Image], size: int) -> Iterator[tuple[int, Tensor]]:
    """(start, pixels) of each chunk of ``size`` images; the next is prepared while one is answered."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(model.prepare, images[:size])
        for start in range(0, len(images), size):
            pixels = coming.result()
            after = start + size
            if after < len(images):
                coming = pool.submit(model.prepare, images[after : after + size])
            yield start, pixels


def _known(prompt: str) -> str:
    if prompt in SEMANTIC_EXTRACTION_PROMPTS:
        return prompt
    near = difflib.get_close_matches(prompt, SEMANTIC_EXTRACTION_PROMPTS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SEMANTIC_EXTRACTION_PROMPTS)}"
    raise InvalidOption(f"unknown prompt {prompt!r}; {hint}")


def _ids(value: int | Sequence[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)
