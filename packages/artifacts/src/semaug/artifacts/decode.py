"""Bytes to pixels and back: one way to decode every image, whatever its mode (Pillow does the codecs)."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.Image import open as open_image  # bound early, since ultralytics patches Image.open

from semaug.artifacts.errors import UnreadableImage

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused as decompression bombs (Pillow's own warning limit: 256 MiB of RGB)."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
"""What is decoded; formats that run other programs (EPS, PDF) are not. Pillow knows a format once its plug-in is
imported."""
for _plugin in ("Jpeg", "Png", "Bmp", "Gif", "WebP", "Tiff", "Ppm", "Jpeg2K"):
    import_module(f"PIL.{_plugin}ImagePlugin")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2"}
)
_ORIENTATION = 0x0112


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
        return _on_black(image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _on_black(image: Image.Image) -> NDArray[np.uint8]:
    canvas = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return np.array(Image.alpha_composite(canvas, image).convert("RGB"))


def _from_wide_grey(values: NDArray) -> NDArray[np.uint8]:
    """Integers are 16-bit: 65535 is white. Floats are 0-1 where they fit, else 0-255."""
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise UnreadableImage("holds NaN or infinite pixels")
    if values.dtype.kind == "f":
        scaled = wide * 255 if wide.max(initial=0) <= 1 and wide.min(initial=0) >= 0 else wide
    else:
        scaled = wide / 257
    grey = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


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
