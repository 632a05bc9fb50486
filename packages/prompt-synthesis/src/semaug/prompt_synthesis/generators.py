"""Images from prompts and visual prompts, through the pipelines of diffusers (LMM-MPA, spec S2.3).

Each image has a random generator of its own on the CPU, so that its noise depends on its seed alone, whatever the
device and the batch. Images of one seed and one batch size are equal bit for bit; another batch size moves single
pixels by the last bit of the arithmetic.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis.model_folders import free_device_memory
from semaug.prompt_synthesis.visual_prompts import VisualPrompt, resize_image

Image = NDArray[np.uint8]

_KEPT_PROMPTS = 128
_KEPT_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Uses:
    """Which parts of a visual prompt a kind of generator takes."""

    init: bool
    control: bool


KINDS: Mapping[str, Uses] = {
    "text2img": Uses(init=False, control=False),
    "img2img": Uses(init=True, control=False),
    "controlnet": Uses(init=False, control=True),
    "controlnet-img2img": Uses(init=True, control=True),
}
"""kind of generator -> what it takes."""


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How images are generated. Raises ``InvalidOption`` for what no pipeline could honour."""

    steps: int = 50
    strength: float = 0.7
    """Share of the steps that repaint the image of img2img: 1 ignores it."""
    guidance: float = 7.5
    """Classifier-free guidance; 1 or less turns it off, as turbo models want."""
    size: int = 512
    """Side of the square that is generated, pixels; visual prompts are stretched to it."""
    control_scale: float = 1.0
    """How strongly a ControlNet is heeded."""
    negative_prompt: str = ""
    scheduler: str | None = None
    """A scheduler class of diffusers in place of the model's own, with the model's noise schedule."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidOption(f"steps is {self.steps}; give 1 or more")
        if not 0 < self.strength <= 1:
            raise InvalidOption(f"strength is {self.strength}; give more than 0 and at most 1")
        if not 0 <= self.guidance < math.inf:
            raise InvalidOption(f"guidance is {self.guidance}; give 0 or more")
        if not 0 <= self.control_scale < math.inf:
            raise InvalidOption(f"control_scale is {self.control_scale}; give 0 or more")
        if self.size < 8 or self.size % 8:
            raise InvalidOption(f"size is {self.size} pixels; give a multiple of 8")

    def check_steps(self) -> None:
        """Raise ``InvalidOption`` where img2img would take no step at all."""
        if int(self.steps * self.strength) < 1:
            raise InvalidOption(
                f"{self.steps} steps at strength {self.strength} leave {int(self.steps * self.strength)} to take; "
                f"give {math.ceil(1 / self.strength)} steps or more"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """One image, uint8 (size, size, 3).

    ``flagged``: the safety checker painted it black, and the real image should stand in. ``truncated``: the prompt
    was longer than the text encoder reads, and its end was not heeded.
    """

    image: Image
    flagged: bool = False
    truncated: bool = False


class Generator(Protocol):
    """Makes images; the pipeline of semaug asks for nothing else."""

    def generate(
        self, prompts: Sequence[str], visual_prompts: Sequence[VisualPrompt], seeds: Sequence[int]
    ) -> list[Generated]:
        """One image a prompt, in order."""

    def identity(self) -> dict[str, Any]:
        """What decides the images: models, revisions, digests, settings."""

    def close(self) -> None:
        """Let go of the model and its memory."""


class DiffusionGenerator:
    """A pipeline of diffusers behind ``Generator``; ``open_generator`` makes one from a path."""

    def __init__(
        self,
        pipeline: Any,
        kind: str,
        settings: GenerationSettings,
        batch_size: int = 4,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """``batch_size``: images that go through the model together. ``identity``: what the pipeline was made of.

        Raises ``InvalidOption`` for a kind, setting or pipeline that do not fit each other.
        """
        if kind not in KINDS:
            raise InvalidOption(f"the kind of generator is {kind!r}; use {', '.join(KINDS)}")
        if batch_size < 1:
            raise InvalidOption(f"the batch size is {batch_size}; give 1 or more")
        self._uses, self._settings, self._batch_size = KINDS[kind], settings, batch_size
        if self._uses.init:
            settings.check_steps()
        _check_pipeline(pipeline, kind, settings)
        self._pipeline: Any = pipeline
        self._encodings = _Encodings(getattr(pipeline, "vae", None))
        self._accepted = set(inspect.signature(pipeline.__call__).parameters)
        self._texts = _Texts(pipeline, self._accepted, settings)
        self._identity = {**(identity or {}), "kind": kind, "batch_size": batch_size, "settings": asdict(settings)}

    def generate(
        self, prompts: Sequence[str], visual_prompts: Sequence[VisualPrompt], seeds: Sequence[int]
    ) -> list[Generated]:
        """One image a prompt, in order; equal bit for bit on a rerun at the same batch size.

        Raises ``ValueError`` for unequal counts or a visual prompt that lacks what the kind takes, ``InvalidOption``
        where the device's memory or number format does not suffice.
        """
        if not len(prompts) == len(visual_prompts) == len(seeds):
            raise ValueError(
                f"{len(prompts)} prompts, {len(visual_prompts)} visual prompts and {len(seeds)} seeds; give one of each"
            )
        if self._pipeline is None:
            raise ValueError("the generator is closed; open it again")
        made: list[Generated] = []
        for start in range(0, len(prompts), self._batch_size):
            part = slice(start, start + self._batch_size)
            made += self._generate_batch(prompts[part], visual_prompts[part], seeds[part])
        return made

    def _generate_batch(
        self, prompts: Sequence[str], visual_prompts: Sequence[VisualPrompt], seeds: Sequence[int]
    ) -> list[Generated]:
        import torch

        arguments = self._fixed_arguments() | self._image_arguments(visual_prompts)
        arguments["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with torch.inference_mode(), _quiet(), _memory(len(prompts), self._settings.size), self._encodings.kept():
            out = self._pipeline(**arguments, **self._texts.arguments(prompts), output_type="np")
        images = _to_bytes(out.images)
        flags = getattr(out, "nsfw_content_detected", None) or [False] * len(images)
        cut = [self._texts.is_truncated(prompt) for prompt in prompts]
        return [Generated(i, bool(f), t) for i, f, t in zip(images, flags, cut, strict=True)]

    def _fixed_arguments(self) -> dict[str, Any]:
        settings = self._settings
        found: dict[str, Any] = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
        if self._uses.init:
            found["strength"] = settings.strength
        else:
            found |= {"height": settings.size, "width": settings.size}
        if self._uses.control:
            found["controlnet_conditioning_scale"] = float(settings.control_scale)
        return found

    def _image_arguments(self, visual_prompts: Sequence[VisualPrompt]) -> dict[str, Any]:
        """The visual prompts as float32 tensors (batch, 3, size, size) in 0..1, by the pipeline's argument names."""
        found = {}
        control = "control_image" if "control_image" in self._accepted else "image"
        for used, part, name in (
            (self._uses.init, "init", "image"),
            (self._uses.control, "control", control),
        ):
            if used:
                resized = {id(prompt): self._part(prompt, part) for prompt in visual_prompts}
                found[name] = self._stack([resized[id(prompt)] for prompt in visual_prompts])
        return found

    def _part(self, prompt: VisualPrompt, part: str) -> Image:
        image = getattr(prompt, part)
        if image is None:
            raise ValueError(f"a visual prompt has no {part} image, which this kind of generator takes; give one")
        size = self._settings.size
        return resize_image(image, (size, size), exact_colours=part == "control" and prompt.control_is_map)

    def _stack(self, images: Sequence[Image]) -> Any:
        import torch

        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255

    def identity(self) -> dict[str, Any]:
        """Models, revisions, digests and settings; never a path."""
        return dict(self._identity)

    def close(self) -> None:
        """Let go of the pipeline and give its memory back."""
        self._pipeline, self._texts, self._encodings = None, _Texts(None, set(), self._settings), _Encodings(None)
        free_device_memory()


class _Encodings:
    """What the autoencoder makes of the last few images, so that one goes through it once for all of its prompts.

    The pipelines encode images one by one, and draw each latent from what comes out by the image's own generator; that
    draw is not kept. Nothing changes, to the bit.
    """

    def __init__(self, autoencoder: Any) -> None:
        self._autoencoder = autoencoder
        self._kept: deque[tuple[Any, Any]] = deque(maxlen=_KEPT_IMAGES)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, the autoencoder's ``encode`` looks first among what it has encoded."""
        if not hasattr(self._autoencoder, "encode"):
            yield
            return
        encode = self._autoencoder.encode
        self._autoencoder.encode = lambda images, *options, **more: self._look(encode, images, *options, **more)
        try:
            yield
        finally:
            del self._autoencoder.encode

    def _look(self, encode: Callable[..., Any], images: Any, *options: Any, **more: Any) -> Any:
        import torch

        if options or more or len(images) != 1:
            return encode(images, *options, **more)
        for seen, found in self._kept:
            if seen.dtype == images.dtype and torch.equal(seen, images):
                return found
        found = encode(images)
        self._kept.append((images, found))
        return found


class _Texts:
    """Prompts as the pipeline's arguments: each distinct prompt goes through the text encoder once, by itself.

    By itself, because a text's embedding depends, in its last bits, on the batch that it is encoded in; and what a
    prompt gives must not depend on which prompts came before.
    """

    def __init__(self, pipeline: Any, accepted: set[str], settings: GenerationSettings) -> None:
        self._pipeline, self._settings = pipeline, settings
        self._names = _embedding_names(pipeline, accepted)
        self._kept: OrderedDict[str, tuple[Any, ...]] = OrderedDict()
        self._negative: tuple[Any, ...] | None = None

    @cached_property
    def _device(self) -> Any:
        return self._pipeline._execution_device  # which looks through all parts of the pipeline

    @property
    def _guided(self) -> bool:
        return self._settings.guidance > 1

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        import torch

        if not self._names:
            negative = [self._settings.negative_prompt] * len(prompts)
            return {"prompt": list(prompts)} | ({"negative_prompt": negative} if self._settings.negative_prompt else {})
        encoded = {prompt: self._encode(prompt) for prompt in dict.fromkeys(prompts)}
        rows = [encoded[prompt] for prompt in prompts]
        found = {name: torch.cat([row[i] for row in rows]) for i, name in enumerate(self._names)}
        if self._guided:
            if self._negative is None:
                self._negative = self._call("", guided=True)[len(self._names) :]
            for name, part in zip(self._names, self._negative, strict=True):
                found[f"negative_{name}"] = part.expand(len(prompts), *part.shape[1:])
        return found

    def _encode(self, prompt: str) -> tuple[Any, ...]:
        found = self._kept.get(prompt)
        if found is None:
            found = self._kept[prompt] = self._call(prompt, guided=False)[: len(self._names)]
            if len(self._kept) > _KEPT_PROMPTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(prompt)
        return found

    def _call(self, prompt: str, guided: bool) -> tuple[Any, ...]:
        """The embeddings of a prompt, in the order of the names, then those of the negative prompt."""
        out = self._pipeline.encode_prompt(
            prompt=prompt,
            device=self._device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=self._settings.negative_prompt or None,
        )
        return tuple(out[0::2]) + tuple(out[1::2])

    def is_truncated(self, prompt: str) -> bool:
        """Whether the prompt has more tokens than the (first) text encoder reads."""
        tokenizer = getattr(self._pipeline, "tokenizer", None)
        if tokenizer is None:
            return False
        return len(tokenizer(prompt, verbose=False).input_ids) > tokenizer.model_max_length


def _embedding_names(pipeline: Any, accepted: set[str]) -> tuple[str, ...]:
    """The embeddings that ``encode_prompt`` gives, each followed by its negative; () where it works otherwise."""
    encode = getattr(pipeline, "encode_prompt", None)
    needed = {"prompt_embeds", "negative_prompt_embeds"}
    if encode is None or not needed <= accepted or any("attention_mask" in name for name in accepted):
        return ()
    asked = set(inspect.signature(encode).parameters)
    if not {"prompt", "device", "num_images_per_prompt", "do_classifier_free_guidance", "negative_prompt"} <= asked:
        return ()
    if {"pooled_prompt_embeds", "negative_pooled_prompt_embeds"} <= accepted:
        return ("prompt_embeds", "pooled_prompt_embeds")
    return ("prompt_embeds",)


def _check_pipeline(pipeline: Any, kind: str, settings: GenerationSettings) -> None:
    """Raise ``InvalidOption`` where the pipeline cannot do what the kind asks for."""
    uses, name = KINDS[kind], type(pipeline).__name__
    accepted = set(inspect.signature(pipeline.__call__).parameters)
    asked = {"prompt", "generator", "num_inference_steps", "guidance_scale", "output_type"}
    asked |= {"image", "strength"} if uses.init else {"height", "width"}
    asked |= {"image", "controlnet_conditioning_scale"} if uses.control else set()
    asked |= {"negative_prompt"} if settings.negative_prompt else set()
    missing = sorted(asked - accepted)
    if missing or uses.control != hasattr(pipeline, "controlnet"):
        why = f"takes no {missing[0]}" if missing else "has a ControlNet" if not uses.control else "has no ControlNet"
        raise InvalidOption(f"{name} {why}, so it cannot serve as {kind}; choose another kind or model")
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    if settings.size % scale:
        raise InvalidOption(f"size is {settings.size} pixels, {name} needs a multiple of {scale}; change the size")


def _to_bytes(images: NDArray[np.float32]) -> list[Image]:
    if not np.isfinite(images).all():
        raise InvalidOption("the model gave values that are no numbers; give dtype float32 or bfloat16")
    return list(np.rint(images * 255).astype(np.uint8))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' messages on what is recorded here anyhow: cut prompts, flagged images."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _memory(batch: int, size: int) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InvalidOption(
            f"{batch} images of {size} pixels do not fit into the device's memory; lower the batch size or the size"
        ) from error
