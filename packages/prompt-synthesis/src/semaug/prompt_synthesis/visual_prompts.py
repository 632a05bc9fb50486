"""Visual prompts: what a generator starts from or is held to (LMM-MPA, spec S2.3).

A real image, its mask map, both mixed, or random noise; varied by Gaussian noise or by a crop, which takes the same
place of the image and its map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import draw_key, generator, uniforms
from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis.ade20k import snap

Image = NDArray[np.uint8]
Kind: TypeAlias = Literal["real", "mask", "mixing", "noise"]
Augmentation: TypeAlias = Literal["none", "noise", "crop"]

GENERATOR_OF: Mapping[str, str] = {
    "real": "img2img",
    "mask": "controlnet",
    "mixing": "controlnet-img2img",
    "noise": "text2img",
}
"""kind of visual prompt -> the kind of generator that takes it (``generators.KINDS``)."""


@dataclass(frozen=True, slots=True)
class VisualPrompt:
    """What one image is generated from: ``init`` is repainted, ``control`` holds the layout; None for neither.

    Both are uint8 (height, width, 3) RGB of one size. ``control_is_map`` says that the control is in ADE20K's colours
    and is resized without mixing them.
    """

    init: Image | None = None
    control: Image | None = None
    control_is_map: bool = True

    def __post_init__(self) -> None:
        if self.init is not None and self.control is not None and self.init.shape != self.control.shape:
            raise ValueError(f"the image is {self.init.shape}, its control {self.control.shape}; make both of one size")


@dataclass(frozen=True, slots=True)
class VisualPromptSettings:
    """Which visual prompts are made. Raises ``InvalidOption`` for a kind or a number that cannot be honoured."""

    kind: Kind = "real"
    augmentation: Augmentation = "none"
    alpha: float = 0.5
    """Share of the mask map in ``mixing``."""
    sigma: float = 0.1
    """Spread of the noise, as a share of the range 0 to 255."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Least and greatest share of the area that a crop keeps."""
    mask_noise: Literal["skip", "snap"] = "skip"
    """What noise does to a mask map: nothing, or it is added and each pixel snapped to the nearest class colour."""
    mixing_control: Literal["map", "mix"] = "map"
    """What a ControlNet is held to under ``mixing``: the clean map, or the mixed image."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("visual prompt", self.kind, get_args(Kind)),
            ("augmentation", self.augmentation, get_args(Augmentation)),
            ("mask_noise", self.mask_noise, ("skip", "snap")),
            ("mixing_control", self.mixing_control, ("map", "mix")),
        ):
            if value not in known:
                raise InvalidOption(f"{name} is {value!r}; use {', '.join(known)}")
        least, most = self.crop_scale
        if not 0 < least <= most <= 1:
            raise InvalidOption(f"crop_scale is ({least}, {most}); give 0 < least <= greatest <= 1")
        if not 0 <= self.alpha <= 1:
            raise InvalidOption(f"alpha is {self.alpha}; give a share from 0 to 1")
        if not 0 <= self.sigma < float("inf"):
            raise InvalidOption(f"sigma is {self.sigma}; give 0 or more")

    @property
    def needs_image(self) -> bool:
        """Whether the real image is used."""
        return self.kind in ("real", "mixing")

    @property
    def needs_mask_map(self) -> bool:
        """Whether a mask map is used."""
        return self.kind in ("mask", "mixing")


def make_visual_prompt(
    settings: VisualPromptSettings, image: Image | None, mask_map: Image | None, seed: int, key: str, draw: int = 0
) -> VisualPrompt:
    """The visual prompt of one image; a pure function of its arguments.

    ``image`` and ``mask_map`` are uint8 (height, width, 3) of one size, the map in ADE20K's colours. Draw 0 is the
    prompt itself; later ones are varied as ``augmentation`` says. Raises ``ValueError`` where a part is missing.
    """
    if (settings.needs_image and image is None) or (settings.needs_mask_map and mask_map is None):
        raise ValueError(f"the visual prompt {settings.kind!r} needs {_parts(settings)} of {key!r}; give them")
    if draw and settings.augmentation == "crop":
        image, mask_map = joint_crop(image, mask_map, settings.crop_scale, seed, key, draw)
    noisy = bool(draw) and settings.augmentation == "noise"
    if image is not None and noisy:
        image = noise_prompt(image, settings.sigma, seed, key, draw)
    if mask_map is not None and noisy and settings.mask_noise == "snap":
        mask_map = snap(noise_prompt(mask_map, settings.sigma, seed, f"{key}\x1fmap", draw))
    return _assembled(settings, image, mask_map)


def _parts(settings: VisualPromptSettings) -> str:
    return {"real": "the image", "mask": "a mask map"}.get(settings.kind, "an image and a mask map")


def _assembled(settings: VisualPromptSettings, image: Image | None, mask_map: Image | None) -> VisualPrompt:
    if settings.kind == "real":
        return VisualPrompt(init=image)
    if settings.kind == "mask":
        return VisualPrompt(control=mask_map)
    if settings.kind == "noise" or image is None or mask_map is None:
        return VisualPrompt()
    mixed = mix_with_mask(image, mask_map, settings.alpha)
    if settings.mixing_control == "mix":
        return VisualPrompt(init=mixed, control=mixed, control_is_map=False)
    return VisualPrompt(init=mixed, control=mask_map)


def mix_with_mask(image: Image, mask_map: Image, alpha: float = 0.5) -> Image:
    """The image superimposed with its mask map: ``(1 - alpha) * image + alpha * mask_map``, rounded.

    Both are uint8 of one shape (height, width, 3). Raises ``ValueError`` on other shapes or an alpha outside [0, 1].
    """
    if image.shape != mask_map.shape:
        raise ValueError(f"the image is {image.shape}, its mask map {mask_map.shape}; make the map at the image's size")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, expected 0 <= alpha <= 1")
    mixed = (1 - alpha) * image.astype(np.float64) + alpha * mask_map.astype(np.float64)
    return np.rint(mixed).astype(np.uint8)


def noise_prompt(image: Image, sigma: float, seed: int, key: str, draw: int = 0) -> Image:
    """The image with Gaussian noise of ``sigma`` (share of the range 0 to 255) added, clipped; a pure function."""
    noise = generator(seed, "visual-prompt-noise", draw, key).standard_normal(image.shape)
    return np.clip(np.rint(image + noise * sigma * 255), 0, 255).astype(np.uint8)


def joint_crop(
    image: Image | None, mask_map: Image | None, scale: tuple[float, float], seed: int, key: str, draw: int
) -> tuple[Image | None, Image | None]:
    """One crop of both, of the image's own shape: its share of the area is uniform in ``scale``, as is its place.

    Raises ``ValueError`` where the two differ in size.
    """
    shapes = [part.shape for part in (image, mask_map) if part is not None]
    if not shapes:
        return None, None
    if shapes[0] != shapes[-1]:
        raise ValueError(f"the image is {shapes[0]}, its mask map {shapes[-1]}; make the map at the image's size")
    area, down, right = uniforms(draw_key(seed, "visual-prompt-crop", draw, key), 3)
    side = np.sqrt(scale[0] + area * (scale[1] - scale[0]))
    height, width = (max(1, round(length * float(side))) for length in shapes[0][:2])
    top, left = int(down * (shapes[0][0] - height + 1)), int(right * (shapes[0][1] - width + 1))
    place = np.s_[top : top + height, left : left + width]
    return None if image is None else image[place], None if mask_map is None else mask_map[place]


def resize_image(image: Image, size: tuple[int, int], exact_colours: bool = False) -> Image:
    """The image at ``size`` (height, width): Lanczos, or the nearest pixel where ``exact_colours`` must be kept."""
    if image.shape[:2] == size:
        return image
    from PIL import Image as Pillow

    method = Pillow.Resampling.NEAREST if exact_colours else Pillow.Resampling.LANCZOS
    return np.array(Pillow.fromarray(image).resize((size[1], size[0]), method))
