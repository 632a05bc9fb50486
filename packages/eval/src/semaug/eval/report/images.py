"""Images as data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass

from PIL import Image

from semaug.eval.errors import ReportError

LARGEST_SIDE = 256  # pixels of a contact sheet's image: twice its size on the page
SMALL_SIDE = 64  # up to here images are stored losslessly and shown with hard pixels
_JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True)
class Embedded:
    """A data URI with the image's width and height (pixels, or points for SVG)."""

    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether it should be enlarged without smoothing."""
        return max(self.width, self.height) <= SMALL_SIDE


def embed_photograph(image: Image.Image) -> Embedded:
    """A contact sheet's image: at most 256 pixels a side, JPEG, or PNG where small."""
    shown = image.convert("RGB")
    if max(shown.size) > LARGEST_SIDE:
        shown.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(shown.size) <= SMALL_SIDE:
        shown.save(buffer, "PNG", optimize=True)
        return Embedded(_uri(buffer.getvalue(), "image/png"), *shown.size)
    shown.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=True)
    return Embedded(_uri(buffer.getvalue(), "image/jpeg"), *shown.size)


def embed_figure(image: bytes) -> Embedded:
    """A figure's bytes, SVG or PNG. An SVG becomes an image of its own, in which no script runs."""
    if image.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(image)) as opened:
            return Embedded(_uri(image, "image/png"), *opened.size)
    found = re.search(rb'<svg[^>]*viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', image)
    if not found:
        raise ReportError(f"a figure that starts with {image[:12]!r} is neither PNG nor SVG with a viewBox; give one")
    width, height = (round(float(number)) for number in found.groups())
    return Embedded(_uri(image, "image/svg+xml"), width, height)


def _uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
