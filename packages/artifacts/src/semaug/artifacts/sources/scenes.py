"""The generated ``scenes:`` set: textured shapes on cluttered backgrounds, with their true boxes and masks.

A stand-in for photographs that needs no download. A class has its own shape and surface pattern, and nothing else:
colours, sizes, places, backgrounds and clutter are drawn without looking at it. Three looks make the quality score
(spec S1.1) vary enough for every route of the default policy: *crisp* (larger, sharp, grainy), *soft* (out of focus)
and *hazy* (small, out of focus, of low contrast). Every image is a pure function of (seed, split, index).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import SourceError
from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources.base import Source, content_hash
from semaug.artifacts.sources.shapes import OUTLINES
from semaug.artifacts.sources.textures import TEXTURES, Grid

VERSION = 1
"""Raised whenever the pixels of some scene change."""
SPLITS = {"train": 2000, "test": 500}
"""Split to its default number of images."""
Look = Literal["crisp", "soft", "hazy"]
LOOKS: tuple[Look, ...] = ("crisp", "soft", "hazy")
LOOK_SHARES = (0.55, 0.35, 0.10)
SIDES: dict[Look, tuple[int, int]] = {"crisp": (120, 176), "soft": (104, 160), "hazy": (96, 108)}
"""The range of the shorter side, in pixels."""
AREA_SHARES = (0.10, 0.34)
"""The object's share of the image area."""


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """What one scene shows: its size in pixels, its class and look, and the object's outline (n, 2) in pixels."""

    height: int
    width: int
    name: str
    look: Look
    outline: NDArray[np.float64]

    def mask(self) -> NDArray[np.bool_]:
        """The object's pixels: bool, shape (height, width)."""
        return np.array(self.stencil(), bool)

    def stencil(self) -> Image.Image:
        """The same as a Pillow mask of 0 and 255."""
        image = Image.new("L", (self.width, self.height))
        ImageDraw.Draw(image).polygon([(x, y) for x, y in self.outline.tolist()], fill=255)
        return image


class ScenesSource(Source):
    """``items`` scenes of one split, classes in equal numbers.

    >>> source = ScenesSource("train", items=20)
    >>> source.read(0).dtype, source.guidance(0).boxes.shape
    (dtype('uint8'), (1, 4))
    """

    class_names = tuple(OUTLINES)

    def __init__(self, split: str = "train", items: int | None = None, seed: int = 0) -> None:
        if split not in SPLITS:
            raise SourceError(f"scenes: has no split {split!r}; choose one of {', '.join(SPLITS)}")
        self.split, self.seed = split, seed
        self.items = SPLITS[split] if items is None else items
        if self.items < 1:
            raise SourceError(f"scenes:{split} needs at least 1 image, not items={items}")
        self.spec = f"scenes:{split}?items={self.items}&seed={seed}"
        order = np.arange(self.items) % len(OUTLINES)
        self._labels = generator(seed, "scenes-labels", key=split).permutation(order)

    def __len__(self) -> int:
        return self.items

    def key(self, index: int) -> str:
        return f"{self.split}/{range(self.items)[index]:06d}"

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def plan(self, index: int) -> ScenePlan:
        """Size, look and outline of one scene."""
        rng = generator(self.seed, "scenes-plan", key=self.key(index))
        look = LOOKS[int(np.searchsorted(np.cumsum(LOOK_SHARES[:-1]), rng.random(), side="right"))]
        height, width = _draw_size(rng, *SIDES[look])
        name = self.class_names[self.label(index)]
        return ScenePlan(height, width, name, look, _place(rng, OUTLINES[name], height, width))

    def read(self, index: int) -> NDArray[np.uint8]:
        return render(self.plan(index), generator(self.seed, "scenes-pixels", key=self.key(index)))

    def guidance(self, index: int) -> Guidance:
        """The true box (tight around the mask, exclusive end) and mask of one scene."""
        plan = self.plan(index)
        mask = plan.mask()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
        size = (plan.height, plan.width)
        return Guidance(self.key(index), *size, scale="hybrid", boxes=box, masks=(encode_mask(mask),))

    def content_hash(self, index: int) -> bytes:
        """Of what decides the pixels: drawing them all to name the set would take minutes."""
        return content_hash(f"scenes|{VERSION}|{self.seed}|{self.key(index)}|{self.label(index)}".encode())


def _draw_size(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    short = int(rng.integers(low, high + 1))
    long = round(short * rng.uniform(1, 4 / 3))
    return (short, long) if rng.random() < 0.5 else (long, short)


def _place(rng: np.random.Generator, shape: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Turn, stretch and scale an outline of area one, and put it wholly inside the image."""
    angle, stretch = rng.uniform(-0.5, 0.5), math.exp(rng.uniform(-0.15, 0.15))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline = shape * (stretch, 1 / stretch) @ turn
    outline *= math.sqrt(rng.uniform(*AREA_SHARES) * height * width)
    room = np.array([width - 3, height - 3])
    outline *= min(1.0, float((room / np.ptp(outline, axis=0)).min()))
    low, high = 1 - outline.min(0), room + 1 - outline.max(0)
    return outline + low + (high - low) * rng.random(2)


def render(plan: ScenePlan, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one scene: uint8, shape (height, width, 3)."""
    size = (plan.width, plan.height)
    ground = rng.integers(40, 216, 3)
    scene = _blotches(rng, size, ground, spread=70, cells=int(rng.integers(3, 7)))
    scene = Image.blend(scene, _blotches(rng, size, ground, spread=90, cells=int(rng.integers(14, 30))), 0.4)
    _clutter(rng, scene)
    scene.paste(_surface(rng, plan, _contrasting(rng, ground)), mask=plan.stencil())
    return _focus(rng, scene, plan.look)


def _blotches(rng: np.random.Generator, size: tuple[int, int], colour: NDArray, spread: int, cells: int) -> Image.Image:
    noise = colour + rng.integers(-spread, spread + 1, (cells, cells, 3))
    return Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _contrasting(rng: np.random.Generator, ground: NDArray) -> NDArray:
    """A colour more than 110 levels (Euclidean) from the ground, or the farthest of sixteen."""
    colours = rng.integers(0, 256, (16, 3))
    distance = np.linalg.norm(colours - ground, axis=1)
    far = np.flatnonzero(distance > 110)
    return colours[far[0] if len(far) else int(distance.argmax())]


def _surface(rng: np.random.Generator, plan: ScenePlan, colour: NDArray) -> Image.Image:
    """The class's pattern in two shades of a colour."""
    field = TEXTURES[plan.name](Grid.draw(rng, plan.height, plan.width))
    shade = rng.uniform(60, 90)
    steps = np.where(field > 0, shade, -shade)[:, :, None]
    return Image.fromarray(np.clip(colour + steps, 0, 255).astype(np.uint8))


def _clutter(rng: np.random.Generator, scene: Image.Image) -> None:
    """Lines, irregular blobs and patches of noise; none of them is a class's shape."""
    draw, (width, height) = ImageDraw.Draw(scene), scene.size
    for _ in range(int(rng.integers(2, 5))):
        ends = (rng.random(4) * (width, height, width, height)).tolist()
        draw.line(ends, fill=_colour(rng), width=int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(2, 5))):
        radii = rng.uniform(0.02, 0.07, 7) * min(scene.size)
        angles = np.sort(rng.uniform(0, 2 * math.pi, 7))
        centre = rng.random(2) * (width, height)
        corners = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        draw.polygon([(x, y) for x, y in corners.tolist()], fill=_colour(rng))
    for _ in range(int(rng.integers(1, 4))):
        side = int(rng.integers(6, max(7, min(scene.size) // 7)))
        patch = rng.integers(0, 256, (side, side, 3), np.uint8)
        scene.paste(Image.fromarray(patch), (int(rng.integers(width - side)), int(rng.integers(height - side))))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return (red, green, blue)


def _focus(rng: np.random.Generator, scene: Image.Image, look: Look) -> NDArray[np.uint8]:
    """Blur, contrast and grain of the look."""
    grain = int(rng.integers(6, 12))
    if look != "crisp":
        scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 1.6)))
        grain = 2
    if look == "hazy":
        contrast, grain = rng.uniform(0.11, 0.17), 0
        scene = scene.point([round(150 + (level - 128) * contrast) for level in range(256)] * 3)
    noise = rng.integers(-grain, grain + 1, (scene.height, scene.width), np.int8)
    pixels = np.asarray(scene).astype(np.int16)
    pixels += noise[:, :, None]
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
