"""For tests: hypothesis strategies of images, boxes and guidance, and a folder of difficult image files.

Needs hypothesis, which semaug itself does not.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from semaug.artifacts.masks import encode_mask
from semaug.artifacts.schemas import SCALES, Guidance
from semaug.artifacts.sources.scenes import ScenesSource


def images(min_side: int = 1, max_side: int = 48) -> st.SearchStrategy[NDArray[np.uint8]]:
    """uint8 images of shape (height, width, 3)."""
    sides = st.integers(min_side, max_side)
    shapes = st.tuples(sides, sides, st.just(3))
    return shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape))


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int, max_boxes: int = 4) -> NDArray[np.float32]:
    """float32 xyxy boxes of shape (n, 4) inside an image, at least one pixel a side."""
    rows = []
    for _ in range(draw(st.integers(0, max_boxes))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        rows.append((x, y, draw(st.integers(x + 1, width)), draw(st.integers(y + 1, height))))
    return np.array(rows, np.float32).reshape(-1, 4)


@st.composite
def guidance(draw: st.DrawFn, max_side: int = 24) -> Guidance:
    """Guidance with any number of boxes and masks, ``fallback`` where there is neither."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    found = draw(boxes(height, width))
    masks = draw(st.lists(hnp.arrays(bool, (height, width)), max_size=3))
    return Guidance(
        draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
        height,
        width,
        scale=draw(st.sampled_from(SCALES)),
        boxes=found,
        masks=tuple(encode_mask(m) for m in masks),
        fallback=not len(found) and not masks,
    )


def write_image_folder(
    root: Path, count: int = 12, classes: Sequence[str] = ("cat", "dog"), *, side: int | None = None
) -> Path:
    """Write ``count`` small PNG scenes into class folders (or into ``root`` itself without classes); returns ``root``.

    ``side`` crops all of them to one square size, in pixels (at most 96).
    """
    source = ScenesSource("train", count)
    for i in range(count):
        folder = root / classes[i % len(classes)] if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(i)[:side, :side]).save(folder / f"image{i:03d}.png")
    return root


READABLE: tuple[str, ...] = (
    "cmyk.jpg",
    "sixteen bit.png",
    "palette.png",
    "palette with transparency.png",
    "alpha.png",
    "grey.jpg",
    "grey with alpha.png",
    "one.png",
    "tall.png",
    "wide.png",
    "été 写真 🌸.png",
    *(f"exif{i}.jpg" for i in range(1, 9)),
)
"""Files of ``write_difficult_folder`` that can be decoded."""
UNREADABLE: tuple[str, ...] = ("bomb.png", "empty.jpg", "text.jpg", "truncated.jpg")
"""Files of ``write_difficult_folder`` that cannot."""


def write_difficult_folder(root: Path) -> Path:
    """Write every kind of file that readers stumble over (``READABLE`` and ``UNREADABLE``); returns ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    picture = ramp(24, 32)
    rgb = Image.fromarray(picture)
    rgb.convert("CMYK").save(root / "cmyk.jpg", quality=95)
    Image.fromarray(np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)).save(root / "sixteen bit.png")
    rgb.quantize(16).save(root / "palette.png")
    rgb.quantize(16).save(root / "palette with transparency.png", transparency=bytes(range(0, 256, 16)))
    rgba = np.dstack([picture, np.full((24, 32), 128, np.uint8)])
    Image.fromarray(rgba).save(root / "alpha.png")
    rgb.convert("L").save(root / "grey.jpg")
    Image.fromarray(rgba).convert("LA").save(root / "grey with alpha.png")
    for name, shape in (("one.png", (1, 1)), ("tall.png", (5000, 1)), ("wide.png", (1, 5000))):
        Image.fromarray(ramp(*shape)).save(root / name)
    rgb.save(root / "été 写真 🌸.png")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        rgb.save(root / f"exif{orientation}.jpg", exif=exif, quality=95)
    _write_unreadable(root, rgb)
    return root


def _write_unreadable(root: Path, picture: Image.Image) -> None:
    file = io.BytesIO()
    picture.save(file, "JPEG")
    (root / "truncated.jpg").write_bytes(file.getvalue()[: len(file.getvalue()) * 2 // 3])
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.jpg").write_text("this is no image\n")
    (root / "bomb.png").write_bytes(bomb_png(50_000, 50_000))


def ramp(height: int, width: int) -> NDArray[np.uint8]:
    """A colour ramp of shape (height, width, 3) without any symmetry: red grows to the right, green downwards."""
    red = np.linspace(10, 240, width).astype(np.uint8)
    green = np.linspace(20, 200, height).astype(np.uint8)[:, None]
    return np.dstack(np.broadcast_arrays(red, green, np.uint8(60)))


def bomb_png(height: int, width: int) -> bytes:
    """A PNG of a few bytes whose header promises height x width pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
