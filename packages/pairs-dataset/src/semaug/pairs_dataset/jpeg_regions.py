"""Decoding a part of a JPEG file: the pixels that a full decode gives there, at the cost of about that part.

The coefficients of the blocks that the part needs are cut out of the file without decoding them (as a lossless crop
does), and the small JPEG that they make is decoded like any other image. Chroma that is stored at half the size is
smoothed with its neighbours, so a pixel or two around the part are cut out as well. What has no way to skip
(progressive files, several scans, arithmetic coding) and what is damaged is left to the full decode.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import decode_image, image_orientation
from semaug.artifacts.errors import UnreadableImage
from semaug.pairs_dataset.jpeg_scan import (
    CATEGORIES,
    NO_TABLE,
    PADDING,
    TABLE_LENGTH,
    copy_region,
    fill_lookup,
    unstuff,
)

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels."""

_SOI, _EOI, _SOS, _DQT, _DHT, _DRI, _COM, _APP0, _APP1, _APP14, _APP15 = (
    0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xFE, 0xE0, 0xE1, 0xEE, 0xEF,
)  # fmt: skip
_SEQUENTIAL = (0xC0, 0xC1)
_KEPT = (_APP0, _APP14, _DQT, _DHT)  # what decides how the coefficients become colours
_MIRRORED, _UPSIDE_DOWN, _TRANSPOSED = (2, 3, 6, 7), (3, 4, 7, 8), 5
"""EXIF orientations: after transposing those from 5 on, which are mirrored left to right, and which top to bottom."""
_LARGE = 1 << 22
"""Files of more pixels are opened as for a full decode, which may refuse them as decompression bombs."""
_BLOCK = 8
_MOST_BLOCKS = 10
"""Blocks in a minimum coded unit, by the standard."""
_TABLES = 4
"""Huffman tables of a kind."""
_EXTRA = 4
"""Bits that the codes which a file lacks are longer than its longest: the code of all ones is free, by the standard."""

_WALK, _START, _GAIN = 0.33, 15_000, 0.75
"""Walking over a pixel and starting at all, in the time of decoding a pixel (photographs of 4 bits a pixel), and the
share of a full decode that a partial one may take by this reckoning: parts hold more detail than the rest."""


@dataclass(frozen=True, slots=True)
class _Component:
    identity: int
    across: int
    down: int
    dc: int
    ac: int


@dataclass(frozen=True, slots=True)
class _Tables:
    """The Huffman tables of a file: ``lookups`` uint16 (8, TABLE_LENGTH), those for DC first, ``codes`` int64 (4,
    CATEGORIES, 2) of the DC categories, and the segments that give the file's DC tables the categories they lack."""

    lookups: NDArray[np.uint16]
    codes: NDArray[np.int64]
    segments: bytes


@dataclass(frozen=True, slots=True)
class JpegFile:
    """A file whose parts can be decoded alone: its size as ``decode_image`` gives it, and how it is laid out."""

    height: int
    width: int
    orientation: int
    _data: bytes
    _kept: bytes
    _frame: bytes
    _components: tuple[_Component, ...]
    _tables: _Tables
    _restart: int
    _scan: int

    @classmethod
    def of(cls, data: bytes) -> JpegFile | None:
        """The file, from its header; None where parts of it cannot be decoded alone."""
        try:
            return _parsed(data) if data[:3] == b"\xff\xd8\xff" else None
        except (IndexError, struct.error, UnreadableImage):  # the full decode says what is wrong
            return None

    def read(self, box: Box) -> NDArray[np.uint8] | None:
        """The pixels of ``box``, uint8 (height, width, 3), bit-equal to those of the full decode.

        None where the file turns out to be damaged. Raises ``ValueError`` for a box that is not in the image.
        """
        top, left, height, width = self._stored(box)
        tall, wide = self._stored_size
        if min(top, left) < 0 or not (0 < height <= tall - top and 0 < width <= wide - left):
            raise ValueError(f"box {box} does not lie in an image of {self.height} x {self.width} pixels")
        rows, columns = self._units(top, left, height, width)
        small = self._cut(rows, columns)
        if small is None:
            return None
        try:
            pixels = decode_image(small)
        except UnreadableImage:
            return None
        top, left = top - rows[0] * self._unit_height, left - columns[0] * self._unit_width
        return _oriented(pixels[top : top + height, left : left + width], self.orientation)

    def is_worth(self, box: Box) -> bool:
        """Whether decoding ``box`` alone is quicker than decoding everything, by the pixels that each step passes."""
        top, _, height, width = self._stored(box)
        tall, wide = self._stored_size
        passed = _WALK * wide * (top + height) + height * width + _START
        return passed < _GAIN * tall * wide

    @property
    def _stored_size(self) -> tuple[int, int]:
        return (self.width, self.height) if self.orientation >= _TRANSPOSED else (self.height, self.width)

    @property
    def _unit_height(self) -> int:
        return _BLOCK * max(c.down for c in self._components)

    @property
    def _unit_width(self) -> int:
        return _BLOCK * max(c.across for c in self._components)

    def _stored(self, box: Box) -> Box:
        """Where ``box`` of the turned image lies in the file's own rows and columns."""
        top, left, height, width = box
        if self.orientation in _MIRRORED:
            left = self.width - left - width
        if self.orientation in _UPSIDE_DOWN:
            top = self.height - top - height
        return (left, top, width, height) if self.orientation >= _TRANSPOSED else (top, left, height, width)

    def _units(self, top: int, left: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The minimum coded units that a box needs: first row and the one behind the last, and the same of columns."""
        (tall, wide), down, across = self._stored_size, self._unit_height, self._unit_width
        above, beside = (down // _BLOCK if down > _BLOCK else 0), (across // _BLOCK if across > _BLOCK else 0)
        rows = max(top - above, 0) // down, -(-min(top + height + above, tall) // down)
        first, last = max(left - beside, 0) // across, -(-min(left + width + beside, wide) // across)
        if last - first == 1:  # chroma of two columns would not be smoothed
            first = max(first - 1, 0)
        return rows, (first, last)

    def _cut(self, rows: tuple[int, int], columns: tuple[int, int]) -> bytes | None:
        """A file of some of the minimum coded units; None for damaged data."""
        tall, wide = self._stored_size
        down, across = -(-tall // self._unit_height), -(-wide // self._unit_width)
        restart = self._restart or down * across
        starts = np.zeros(-(-down * across // restart), np.int64)
        data = np.frombuffer(self._data, np.uint8)
        scan = len(data) - self._scan + PADDING
        clean, out = np.split(_scratch(3 * scan + 64 * (rows[1] - rows[0])), [scan])
        limit = unstuff(data, self._scan, clean, starts)
        if limit < 0:
            return None
        tables = np.array([(c.dc, _TABLES + c.ac) for c in self._components], np.uint64) * np.uint64(TABLE_LENGTH)
        codes = self._tables.codes[[c.dc for c in self._components]]
        order = np.array([n for n, c in enumerate(self._components) for _ in range(c.across * c.down)])
        units = np.array([*rows, *columns, across, restart])
        length = copy_region(clean, limit, starts, self._tables.lookups.reshape(-1), tables, codes, order, units, out)
        if length < 0:
            return None
        height = min(rows[1] * self._unit_height, tall) - rows[0] * self._unit_height
        width = min(columns[1] * self._unit_width, wide) - columns[0] * self._unit_width
        return b"".join([self._kept, *self._headers(height, width), out[:length].data, b"\xff\xd9"])

    def _headers(self, height: int, width: int) -> list[bytes]:
        frame = self._frame[:5] + struct.pack(">HH", height, width) + self._frame[9:]
        chosen = b"".join(bytes([c.identity, c.dc << 4 | c.ac]) for c in self._components)
        scan = b"\xff\xda" + struct.pack(">HB", 6 + len(chosen), len(self._components)) + chosen + b"\x00\x3f\x00"
        return [self._tables.segments, frame, scan]


_local = threading.local()


def _scratch(length: int) -> NDArray[np.uint8]:
    """A thread's own bytes, at least so many: fresh memory for every image would cost more than the cut."""
    found: NDArray[np.uint8] | None = getattr(_local, "scratch", None)
    if found is None or len(found) < length:
        found = _local.scratch = np.empty(length, np.uint8)
    return found


def _parsed(data: bytes) -> JpegFile | None:
    segments, scan = _segments(data)
    frames = [s for s in segments if s[1] in _SEQUENTIAL]
    if not scan or len(frames) != 1:
        return None
    frame = frames[0]
    precision, height, width = struct.unpack(">BHH", frame[4:9])
    components = _components(frame, segments[-1])
    if precision != 8 or height * width == 0 or not components:
        return None
    tables = _tables(b"".join(s[4:] for s in segments if s[1] == _DHT))
    used = {c.dc for c in components} | {_TABLES + c.ac for c in components}
    if any(tables.lookups[n, 0] == NO_TABLE for n in used):
        return None
    restarts = [struct.unpack(">H", s[4:6])[0] for s in segments if s[1] == _DRI]
    opened = height * width > _LARGE or any(s[1] == _APP1 for s in segments)
    turned = image_orientation(data) if opened else 1
    size = (width, height) if turned >= _TRANSPOSED else (height, width)
    kept = b"\xff\xd8" + b"".join(s for s in segments if s[1] in _KEPT)
    return JpegFile(*size, turned, data, kept, frame, components, tables, restarts[-1] if restarts else 0, scan)


def _segments(data: bytes) -> tuple[list[bytes], int]:
    """The segments up to the first scan, marker and length included, and where its data starts; 0 for a marker that
    is out of the ordinary."""
    found: list[bytes] = []
    at = 2
    while True:
        if data[at] != 0xFF:
            return found, 0
        marker, (length,) = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])
        ordinary = marker in _SEQUENTIAL or marker in (_SOS, _DQT, _DHT, _DRI, _COM) or _APP0 <= marker <= _APP15
        if not ordinary or length < 2 or at + 2 + length > len(data):
            return found, 0
        found.append(data[at : at + 2 + length])
        at += 2 + length
        if marker == _SOS:
            return found, at


def _components(frame: bytes, scan: bytes) -> tuple[_Component, ...]:
    """One or three components that are stored together, in the frame's order; none for anything else."""
    count = frame[9]
    ordinary = count in (1, 3) and len(frame) == 10 + 3 * count and len(scan) == 8 + 2 * count
    if not ordinary or scan[4] != count or scan[-3:] != b"\x00\x3f\x00":
        return ()
    found: list[_Component] = []
    for n in range(count):
        identity, sampling = frame[10 + 3 * n], frame[11 + 3 * n]
        chosen, tables = scan[5 + 2 * n], scan[6 + 2 * n]
        across, down = (sampling >> 4, sampling & 15) if count == 3 else (1, 1)  # alone, blocks stand row by row
        inside = 1 <= across <= 4 and 1 <= down <= 4 and tables >> 4 < _TABLES and tables & 15 < _TABLES
        if chosen != identity or not inside:
            return ()
        found.append(_Component(identity, across, down, tables >> 4, tables & 15))
    if len({c.identity for c in found}) < count or sum(c.across * c.down for c in found) > _MOST_BLOCKS:
        return ()
    return tuple(found)


@lru_cache(256)
def _tables(data: bytes) -> _Tables:
    """The tables that the segments' contents define; raises ``IndexError`` where one ends early."""
    lookups = np.full((2 * _TABLES, TABLE_LENGTH), NO_TABLE, np.uint16)
    codes = np.zeros((_TABLES, CATEGORIES, 2), np.int64)
    segments, at = {}, 0
    while at < len(data):
        kind, counts = data[at], data[at + 1 : at + 17]
        symbols = data[at + 17 : at + 17 + sum(counts)]
        if len(counts) < 16 or len(symbols) < sum(counts) or kind >> 4 > 1 or kind & 15 >= _TABLES:
            raise IndexError("a Huffman table ends early")
        table = lookups[_TABLES * (kind >> 4) + (kind & 15)]
        fill_lookup(np.frombuffer(counts, np.uint8), np.frombuffer(symbols + b"\0", np.uint8), kind >> 4 == 1, table)
        at += 17 + len(symbols)
        if kind < _TABLES and table[0] != NO_TABLE:
            segments[kind] = _completed(kind, counts, symbols)
            if segments[kind]:
                codes[kind] = _codes(segments[kind])
            else:
                table[0] = NO_TABLE
    return _Tables(lookups, codes, b"".join(segments.values()))


def _completed(kind: int, counts: bytes, symbols: bytes) -> bytes:
    """The segment of a DC table with all categories; empty where the codes would get too long.

    A cut brings about differences that the file does not have, and its table may have no code for them.
    """
    missing = bytes(sorted(set(range(CATEGORIES)) - set(symbols)))
    longest = max((n for n in range(16) if counts[n]), default=-1)
    filled = bytearray(counts)
    if missing:
        if longest < 0 or longest + _EXTRA > 15:
            return b""
        filled[longest + _EXTRA] = len(missing)
    content = bytes([kind, *filled]) + symbols + missing
    return b"\xff\xc4" + struct.pack(">H", 2 + len(content)) + content


def _codes(segment: bytes) -> NDArray[np.int64]:
    """Code and length of each category by the table of a segment."""
    found, code, symbols = np.zeros((CATEGORIES, 2), np.int64), 0, iter(segment[21:])
    for length, count in enumerate(segment[5:21], 1):
        for _ in range(count):
            symbol = next(symbols)
            if symbol < CATEGORIES:
                found[symbol] = code, length
            code += 1
        code <<= 1
    return found


def _oriented(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The pixels turned as EXIF's orientation 1 to 8 says, contiguous."""
    if orientation >= _TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in _MIRRORED:
        pixels = pixels[:, ::-1]
    if orientation in _UPSIDE_DOWN:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
