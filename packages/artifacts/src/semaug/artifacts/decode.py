"""Bytes to pixels and back: one way to decode every image, whatever its mode (Pillow does the codecs)."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.Image import open as open_image  # bound early, since ultralytics patches Image.open

from semaug.artifacts.errors import InvalidOption, UnreadableImage

LIMIT_VARIABLE = "SEMAUG_MAX_PIXELS"


def _most_pixels() -> int:
    """Pillow's own warning limit, 256 MiB of RGB, or what the environment says."""
    text = os.environ.get(LIMIT_VARIABLE) or "89478485"
    if not text.isdecimal() or not 0 < int(text) < 1 << 40:
        raise InvalidOption(f"{LIMIT_VARIABLE} is {text[:40]!r}; give the number of pixels an image may have")
    return int(text)


MAX_PIXELS = _most_pixels()
"""Images, masks and maps with more pixels are refused as decompression bombs; ``SEMAUG_MAX_PIXELS`` sets another
limit."""
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, MAX_PIXELS)
FREE_PIXELS = 1 << 24
PIXELS_PER_BYTE = 2000
"""Images of more than ``FREE_PIXELS`` are refused where their files have less than a byte for so many pixels: a scan of
a printed page has one for some hundred, a bomb one for a million."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
"""What is decoded; formats that run other programs (EPS, PDF) are not. Pillow knows a format once its plug-in is
imported."""
for _plugin in ("Jpeg", "Png", "Bmp", "Gif", "WebP", "Tiff", "Ppm", "Jpeg2K"):
    import_module(f"PIL.{_plugin}ImagePlugin")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2"}
)
_ORIENTATION = 0x0112
_BAND = 1 << 20
"""Pixels that are converted at once."""


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an encoded image: uint8, shape (height, width, 3), RGB, EXIF orientation applied.

    16-bit and float greys are scaled to 0-255, not clipped; transparency is composited on black; of an animation the
    first frame is taken. Raises ``UnreadableImage`` with a one-line reason.

    >>> int(decode_image(encode_png(np.full((2, 3, 3), 7, np.uint8))).max())
    7
    """
    with _opened(data) as image:
        try:
            return to_rgb(image)
        except UnreadableImage:
            raise
        except Exception as error:  # codecs raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
            raise UnreadableImage(_reason(error)) from error


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the decoded image, read from the header alone; raises ``UnreadableImage``."""
    with _opened(data) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def image_orientation(data: bytes) -> int:
    """The EXIF orientation, 1 to 8, that ``decode_image`` applies; raises ``UnreadableImage``."""
    with _opened(data) as image:
        found = _orientation(image)
    return found if 1 <= found <= 8 else 1


def encode_jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """JPEG of a uint8 (height, width, 3) image; no chroma subsampling from quality 90 up.

    Raises ``UnreadableImage`` for a side over 65,535 pixels, which JPEG cannot hold.
    """
    if max(image.shape[:2]) > 65_535:
        raise UnreadableImage(f"{image.shape[1]} x {image.shape[0]} is more than the 65,535 pixels a side of JPEG")
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return file.getvalue()


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG of a uint8 (height, width, 3) image."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def resize_short_side(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize so that the shorter side is ``size`` pixels (bicubic, antialiased); nothing is cropped.

    Raises ``UnreadableImage`` where a very long image would grow past ``MAX_PIXELS``.

    >>> resize_short_side(np.zeros((100, 50, 3), np.uint8), 25).shape
    (50, 25, 3)
    """
    height, width = image.shape[:2]
    if min(height, width) == size:
        return image
    scale = size / min(height, width)
    target = (max(size, round(width * scale)), max(size, round(height * scale)))
    if target[0] * target[1] > MAX_PIXELS:
        raise UnreadableImage(f"{width} x {height} resized to {target[0]} x {target[1]} is over {MAX_PIXELS:,} pixels")
    return np.array(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    if not data:
        raise UnreadableImage("the file is empty (0 bytes)")
    with _no_warnings():
        try:
            image = open_image(io.BytesIO(data), formats=FORMATS)
        except (Image.UnidentifiedImageError, ImportError) as error:  # a patched opener may look for a plugin first
            raise UnreadableImage("not an image in a known format") from error
        except Image.DecompressionBombError as error:
            raise UnreadableImage(f"more than the {MAX_PIXELS:,} pixels allowed (decompression bomb)") from error
        except Exception as error:
            raise UnreadableImage(_reason(error)) from error
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImage(
                    f"{width} x {height} is more than the {MAX_PIXELS:,} pixels allowed (decompression bomb)"
                )
            if width * height > max(FREE_PIXELS, PIXELS_PER_BYTE * len(data)):
                raise UnreadableImage(
                    f"{width} x {height} pixels in {len(data):,} bytes, over {PIXELS_PER_BYTE:,} a byte "
                    "(decompression bomb)"
                )
            yield image


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"cannot be decoded: {text}"[:200]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF: the pixels are still good
        return 1


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a Pillow image, whatever its mode: as ``decode_image`` gives them.

    Raises ``UnreadableImage`` for NaN or infinite pixels, and what Pillow's codecs raise.
    """
    image.load()
    if _orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide_grey(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_black(image)
    return np.array(image.convert("RGB"))


def _on_black(image: Image.Image) -> NDArray[np.uint8]:
    out = np.empty((image.height, image.width, 3), np.uint8)
    for top, bottom in _bands(image.width, image.height):
        band = image.crop((0, top, image.width, bottom)).convert("RGBA")
        canvas = Image.new("RGBA", band.size, (0, 0, 0, 255))
        out[top:bottom] = np.asarray(Image.alpha_composite(canvas, band).convert("RGB"))
    return out


def _bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First and last row of parts of an image that are worked on one at a time, so that memory stays near its size."""
    rows = max(1, _BAND // max(1, width))
    return ((top, min(height, top + rows)) for top in range(0, height, rows))


def _from_wide_grey(values: NDArray) -> NDArray[np.uint8]:
    """Integers are 16-bit: 65535 is white. Floats are 0-1 where they fit, else 0-255."""
    low, high = (float(v) for v in (values.min(initial=0), values.max(initial=0)))
    if not np.isfinite((low, high)).all():
        raise UnreadableImage("holds NaN or infinite pixels")
    divisor = 1.0 if values.dtype.kind == "f" else 257.0
    factor = 255.0 if values.dtype.kind == "f" and low >= 0 and high <= 1 else 1.0
    out = np.empty((*values.shape, 3), np.uint8)
    for top, bottom in _bands(values.shape[1], values.shape[0]):
        wide = values[top:bottom].astype(np.float64)
        out[top:bottom] = np.clip(np.rint(wide * factor / divisor), 0, 255).astype(np.uint8)[:, :, None]
    return out


_silence = threading.Lock()
_silenced = 0
_filters: warnings.catch_warnings | None = None


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings; counted, because ``catch_warnings`` alone is not safe among threads."""
    global _silenced, _filters
    with _silence:
        _silenced += 1
        if _silenced == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
    try:
        yield
    finally:
        with _silence:
            _silenced -= 1
            if _silenced == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None
