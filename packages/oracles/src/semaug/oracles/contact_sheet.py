"""A sheet of images with their guidance drawn on them, coloured by route: a picture, or one HTML page."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption, UnreadableImage
from semaug.artifacts.files import write_atomic
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.masks import decode_mask
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import ImageSource

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "object": (255, 159, 28),
    "pixel": (46, 196, 182),
    "hybrid": (240, 70, 150),
    "fallback": (150, 154, 166),
}
"""What an image was routed to -> the colour of its boxes, its masks and its tag."""
_LEGEND = {"object": "boxes", "pixel": "masks", "hybrid": "masks in boxes", "fallback": "nothing found"}
_PAPER: Colour = (250, 250, 252)
_INK: Colour = (36, 38, 48)
_GAP, _CAPTION, _HEADER = 14, 30, 64


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of the sheet, fitted into a square, with its guidance drawn on it."""

    key: str
    route: str
    boxes: int
    masks: int
    picture: Picture.Image


def route_of(row: Guidance) -> str:
    """The scale that was used, or ``fallback``."""
    return "fallback" if row.fallback else row.scale


def draw_guidance(image: NDArray[np.uint8], row: Guidance, side: int = 240) -> Picture.Image:
    """The image scaled to fit ``side`` pixels, its masks tinted and its boxes outlined, the best box widest."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Picture.fromarray(image).resize(size, Picture.Resampling.LANCZOS)
    colour = COLOURS[route_of(row)]
    if row.masks:
        picture = _tint(picture, row, colour)
    pen = ImageDraw.Draw(picture)
    factors = np.array([size[0] / row.width, size[1] / row.height] * 2)
    for rank in reversed(range(len(row.boxes))):
        x1, y1, x2, y2 = (row.boxes[rank] * factors).tolist()
        edges = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        line = 3 if rank == 0 else 1
        pen.rectangle(edges, outline=(20, 20, 24), width=line + 2)
        inner = (x1 + 1, y1 + 1, x2 - 2, y2 - 2) if min(x2 - x1, y2 - y1) > 6 else edges
        pen.rectangle(inner, outline=colour, width=line)
    return picture


def _tint(picture: Picture.Image, row: Guidance, colour: Colour) -> Picture.Image:
    """Colour the masks, grey what is outside them, and trace their edge."""
    mask = np.logical_or.reduce([decode_mask(rle) for rle in row.masks])
    small = np.asarray(Picture.fromarray(mask).convert("L").resize(picture.size, Picture.Resampling.BILINEAR)) > 127
    pixels = np.asarray(picture, np.float32)
    grey = pixels.mean(axis=2, keepdims=True) * 0.55 + 90
    pixels = np.where(
        small[..., None], pixels * 0.72 + np.array(colour, np.float32) * 0.28, pixels * 0.35 + grey * 0.65
    )
    inner = small.copy()
    inner[1:-1, 1:-1] = small[1:-1, 1:-1] & small[:-2, 1:-1] & small[2:, 1:-1] & small[1:-1, :-2] & small[1:-1, 2:]
    pixels[small & ~inner] = colour
    return Picture.fromarray(pixels.clip(0, 255).astype(np.uint8))


def choose_tiles(
    source: ImageSource, table: GuidanceTable, items: int = 24, seed: int = 0, side: int = 240
) -> list[Tile]:
    """Tiles of up to ``items`` images drawn without replacement, in the source's order.

    Images without guidance are left out.
    Raises ``ArtifactError`` for guidance of other images and ``InvalidOption`` where nothing can be shown.
    """
    table.require_source(source.fingerprint)
    order = generator(seed, "contact-sheet").permutation(len(source))
    tiles: dict[int, Tile] = {}
    for index in order.tolist():
        if len(tiles) == items:
            break
        tile = _tile(source, table.get(source.key(index)), index, side)
        if tile is not None:
            tiles[index] = tile
    if not tiles:
        raise InvalidOption(f"none of the {len(source)} images of {source.spec} has guidance; extract it first")
    return [tiles[index] for index in sorted(tiles)]


def _tile(source: ImageSource, row: Guidance | None, index: int, side: int) -> Tile | None:
    if row is None:
        return None
    try:
        picture = draw_guidance(source.read(index), row, side)
    except UnreadableImage:
        return None
    return Tile(row.key, route_of(row), len(row.boxes), len(row.masks), picture)


def draw_sheet(tiles: Sequence[Tile], title: str, columns: int = 6, side: int = 240) -> Picture.Image:
    """One picture of all tiles under a header with the legend."""
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width = max(columns * (side + _GAP) + _GAP, 560)
    sheet = Picture.new("RGB", (width, _HEADER + rows * (side + _CAPTION + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_header(pen, title, tiles)
    for i, tile in enumerate(tiles):
        x, y = _GAP + i % columns * (side + _GAP), _HEADER + i // columns * (side + _CAPTION + _GAP)
        pen.rectangle((x, y, x + side - 1, y + side - 1), fill=(236, 237, 242))
        sheet.paste(tile.picture, (x + (side - tile.picture.width) // 2, y + (side - tile.picture.height) // 2))
        pen.rectangle((x, y + side, x + side - 1, y + side + 3), fill=COLOURS[tile.route])
        pen.text((x, y + side + 8), _fit(pen, tile.key, side, _font(13)), fill=_INK, font=_font(13))
    return sheet


def _draw_header(pen: ImageDraw.ImageDraw, title: str, tiles: Sequence[Tile]) -> None:
    pen.text((_GAP, 10), title, fill=_INK, font=_font(18))
    x = float(_GAP)
    for route, colour in COLOURS.items():
        text = f"{route}: {_LEGEND[route]} ({sum(t.route == route for t in tiles)})"
        pen.rounded_rectangle((x, 41, x + 12, 53), 3, fill=colour)
        pen.text((x + 18, 39), text, fill=_INK, font=_font(13))
        x += 18 + pen.textlength(text, font=_font(13)) + 18


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(pen: ImageDraw.ImageDraw, text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of a text, which tells keys apart, as far as it fits."""
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength("…" + text, font=font) > width:
        text = text[1:]
    return "…" + text


def sheet_page(tiles: Sequence[Tile], title: str) -> str:
    """One self-contained HTML page of all tiles, with the legend."""
    return _PAGE.format(title=html.escape(title), legend="".join(_chips(tiles)), figures="\n".join(map(_figure, tiles)))


def _chips(tiles: Sequence[Tile]) -> Iterator[str]:
    for route, colour in COLOURS.items():
        count = sum(tile.route == route for tile in tiles)
        yield f'<span style="--c:rgb{colour}">{route} <small>{_LEGEND[route]}, {count}</small></span>'


def _figure(tile: Tile) -> str:
    stream = io.BytesIO()
    tile.picture.save(stream, "JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode()
    key = html.escape(tile.key)
    counts = " · ".join(f"{n} {w if n == 1 else w + ends}" for n, w, ends in _counted(tile) if n) or "standard views"
    return (
        f'<figure style="--c:rgb{COLOURS[tile.route]}"><div><img alt="{key}" src="data:image/jpeg;base64,{data}"></div>'
        f'<figcaption title="{key}"><b>{key}</b>{counts}</figcaption></figure>'
    )


def _counted(tile: Tile) -> tuple[tuple[int, str, str], ...]:
    return (tile.boxes, "box", "es"), (tile.masks, "mask", "s")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ margin: 2rem auto; max-width: 1500px; padding: 0 1.2rem; font: 15px/1.4 system-ui, sans-serif;
  color: #24262f; background: #fafafc; }}
h1 {{ font-size: 1.3rem; margin: 0 0 .6rem; }}
nav span {{ display: inline-block; margin: 0 1.2rem .6rem 0; padding-left: .5rem; border-left: .8rem solid var(--c); }}
small, figcaption {{ color: #666a78; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 1rem; }}
figure {{ margin: 0; background: #fff; border-bottom: 4px solid var(--c); border-radius: 6px; overflow: hidden;
  box-shadow: 0 1px 4px #0002; }}
figure div {{ aspect-ratio: 1; display: grid; place-items: center; background: #ecedf2; }}
img {{ width: 100%; height: 100%; object-fit: contain; }}
figcaption {{ padding: .4rem .6rem; font-size: 12.5px; }}
figcaption b {{ display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; direction: rtl;
  text-align: left; font-weight: 500; color: #24262f; }}
</style></head><body><h1>{title}</h1><nav>{legend}</nav><main>
{figures}
</main></body></html>
"""


def write_sheet(tiles: Sequence[Tile], out: str | os.PathLike[str], title: str, columns: int = 6) -> Path:
    """Write the sheet as ``.html`` or as a picture (``.png``, ``.jpg``, ``.webp``).

    Raises ``InvalidOption`` for another ending.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if suffix in (".html", ".htm"):
        write_atomic(path, sheet_page(tiles, title).encode())
        return path
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    if suffix not in formats:
        raise InvalidOption(f"cannot write a sheet to {path}; end --out with .png, .jpg, .webp or .html")
    stream = io.BytesIO()
    side = max(max(tile.picture.size) for tile in tiles)
    draw_sheet(tiles, title, columns, side).save(stream, formats[suffix])
    write_atomic(path, stream.getvalue())
    return path
