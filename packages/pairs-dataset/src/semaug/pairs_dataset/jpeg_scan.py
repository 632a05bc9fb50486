# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions carry no annotations: numba infers their types; docstrings say what they take.
"""The entropy-coded data of a sequential JPEG: walking over its blocks, and copying some of them into a new scan.

Walking needs no coefficients: a table gives, for the bits at hand, how many of them the next codes and their values
take and how many coefficients they stand for. Of the DC coefficients the values are needed, since each is stored as the
difference to the block before: where the first block of a row comes to stand behind another one, its difference is
written anew. All other bits are copied as they are. (ITU-T T.81, F.2.2 and annex C.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True}
_PEEK = 12
"""Bits that the first lookup sees; longer codes are found by their length."""
_LONG = 1 << _PEEK
"""Where the long codes' part of a table starts: for each of 13 to 16 bits the first code, the code behind the last and
where its symbols start, then up to 256 symbols."""
_SYMBOLS = _LONG + 12
_SEVERAL = _SYMBOLS + 256
"""Where the entries for several codes at once start, as many as the bits at hand show."""
TABLE_LENGTH = _SEVERAL + _LONG
NO_TABLE = 0xFFFF
"""First entry of a table that the file does not give, or that is not valid."""
_RUN = 8
"""Coefficients that all codes but the last of an entry for several stand for, at most."""
_WHOLE_BLOCK = 128
"""Advance of the code that ends a block: past any place a coefficient can have."""
_MOST_BITS = 31
"""The longest code and value together."""
_COEFFICIENTS, _MOST_BLOCKS = 64, 10
PADDING = _MOST_BLOCKS * _COEFFICIENTS * _MOST_BITS // 8 + 16
"""Bytes behind a scan that walking one unit may read before its damage is seen."""
CATEGORIES = 12
"""Of DC differences, in the 8-bit images that are read here."""

_U, _I = np.uint64, np.int64
_0, _1, _2, _3, _7, _8, _15, _32, _52, _56 = (_U(n) for n in (0, 1, 2, 3, 7, 8, 15, 32, 52, 56))
_63, _64, _128, _255 = _U(63), _U(64), _U(128), _U(255)
_SINGLE_FROM = _U(_COEFFICIENTS - _RUN)
_ONES, _TOPS = _U(0x0101010101010101), _U(0x8080808080808080)


@intrinsic
def _eight_bytes(typing_context, data, at):
    """Bytes ``at`` to ``at + 8`` of a uint8 array as one big-endian number; the caller sees to the bounds."""

    def generate(context, builder, signature, arguments):
        wide = ir.IntType(64)
        start = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(start, [arguments[1]]), wide.as_pointer())
        return builder.bswap(builder.load(place, align=1))

    return types.uint64(data, at), generate


@intrinsic
def _put_eight_bytes(typing_context, data, at, word):
    """Store a number as bytes ``at`` to ``at + 8``, big-endian; the caller sees to the bounds."""

    def generate(context, builder, signature, arguments):
        wide = ir.IntType(64)
        start = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(start, [arguments[1]]), wide.as_pointer())
        builder.store(builder.bswap(arguments[2]), place, align=1)
        return context.get_dummy_value()

    return types.void(data, at, types.uint64), generate


@njit(**_OPTIONS)
def _has_255(word):
    return (~word - _ONES) & word & _TOPS != _0


@njit(**_OPTIONS)
def unstuff(data, start, clean, starts):
    """Copy the scan that begins at ``start`` of ``data`` (uint8) to ``clean`` without its stuffing and markers.

    ``clean`` is as long as the scan and ``PADDING``; ``starts`` int64 takes where each restart interval begins, one
    entry without restarts. Returns the scan's length; -1 where a marker is missing, or stands where none belongs.
    """
    at, to, stop, interval = _U(start), _0, _U(data.size), 0
    starts[0] = 0
    while at + _8 <= stop:
        word = _eight_bytes(data, at)
        if not _has_255(word):
            _put_eight_bytes(clean, to, word)
            at, to = at + _8, to + _8
            continue
        for _ in range(8):
            byte = data[at]
            after = data[at + _1] if at + _1 < stop else np.uint8(255)
            if byte != 255 or after == 0:
                clean[to] = byte
                at, to = at + (_2 if byte == 255 else _1), to + _1
            elif after == 0xD9:
                return _I(to) if interval == starts.size - 1 else -1
            elif interval < starts.size - 1 and after == 0xD0 + interval % 8:
                interval += 1
                starts[interval] = _I(to)
                at += _2
            else:
                return -1
            if at >= stop:
                return -1
    while at + _1 < stop:
        if data[at] == 255 and data[at + _1] == 0xD9:
            return _I(to) if interval == starts.size - 1 else -1
        if data[at] == 255 and data[at + _1] != 0:
            return -1
        clean[to] = data[at]
        at, to = at + (_2 if data[at] == 255 else _1), to + _1
    return -1


@njit(**_OPTIONS)
def _entry(symbol, length, is_ac):
    """Coefficients advanced << 8 | bits of code and value; for DC the value's bits << 8 | bits of the code."""
    run, size = symbol >> 4, symbol & 15
    if not is_ac:
        return (symbol << 8) | length
    if size == 0:
        return ((16 if run == 15 else _WHOLE_BLOCK) << 8) | length
    return ((run + 1) << 8) | (length + size)


@njit(**_OPTIONS)
def fill_lookup(counts, symbols, is_ac, table):
    """Fill ``table`` uint16 (TABLE_LENGTH,) from the number of codes of 1 to 16 bits and their symbols (uint8).

    The first entry becomes ``NO_TABLE`` for codes that do not fit their length and for DC categories above 15.
    """
    table[:] = 0
    seen = np.zeros(_LONG, np.uint8)
    code, at = 0, 0
    for length in range(1, 17):
        long = _LONG + 3 * max(length - _PEEK - 1, 0)
        if length > _PEEK:
            table[long], table[long + 2] = code, at
        for _ in range(counts[length - 1]):
            if code >= (1 << length) - 1 or (not is_ac and symbols[at] > 15) or at > 255:  # all ones is no code
                table[0] = NO_TABLE
                return
            entry = _entry(_I(symbols[at]), length, is_ac)
            table[_SYMBOLS + at] = entry
            if length <= _PEEK:
                first, behind = code << (_PEEK - length), (code + 1) << (_PEEK - length)
                table[first:behind], seen[first:behind] = entry, length
            code, at = code + 1, at + 1
        if length > _PEEK:
            table[long + 1] = code
        code <<= 1
    if is_ac:
        _fill_several(table, seen)


@njit(**_OPTIONS)
def _fill_several(table, code_lengths):
    """Add the entries for several AC codes, made of those for one: of the last, the code is seen but maybe no value."""
    for bits in range(_LONG):
        entry = _I(table[bits])
        advance, length = entry >> 8, entry & 255
        while 0 < advance <= _RUN and length < _PEEK:
            rest = (bits << length) & (_LONG - 1)
            entry = _I(table[rest])
            if entry == 0 or length + code_lengths[rest] > _PEEK or length + (entry & 255) > _MOST_BITS:
                break
            advance, length = advance + (entry >> 8), length + (entry & 255)
        table[_SEVERAL + bits] = (advance << 8) | length


# The reader is (at, bits, count): the next byte, and ``count`` bits from the top of ``bits`` down. At least 32 are
# there before each lookup, which is as many as a code and its value have.


@njit(**_OPTIONS)
def _refill(data, at, bits, count):
    """At least 56 bits."""
    return at + ((_63 - count) >> _3), bits | (_eight_bytes(data, at) >> count), count | _56


@njit(**_OPTIONS)
def _long_entry(lookups, table, bits, damage):
    """The entry of a code of more than ``_PEEK`` bits; damage where there is none."""
    for length in range(_PEEK + 1, 17):
        long = table + _U(_LONG + 3 * (length - _PEEK - 1))
        code = bits >> _U(64 - length)
        if _U(lookups[long]) <= code < _U(lookups[long + _1]):
            return _U(lookups[table + _U(_SYMBOLS) + _U(lookups[long + _2]) + code - _U(lookups[long])])
    damage[0] = 1
    return _U(_WHOLE_BLOCK << 8)


@njit(**_OPTIONS)
def _difference(data, at, bits, count, lookups, table, damage):
    """Read a DC difference; returns the reader and the value."""
    if count < _32:
        at, bits, count = _refill(data, at, bits, count)
    entry = _U(lookups[table + (bits >> _52)])
    if entry == _0:
        entry = _long_entry(lookups, table, bits, damage)
    size, length = (entry >> _8) & _15, entry & _63
    bits, value = bits << length, _I(0)
    if size > _0:
        value = _I(bits >> (_64 - size))
        if value < (1 << (_I(size) - 1)):
            value += 1 - (1 << _I(size))
        bits <<= size
    return at, bits, count - length - size, value


@njit(**_OPTIONS)
def _skip_block(data, at, bits, count, lookups, table, damage):
    """Pass the AC coefficients of a block; returns the reader."""
    place, several = _1, table + _U(_SEVERAL)
    while place < _64:
        if count < _32:
            at, bits, count = _refill(data, at, bits, count)
        entry = _U(lookups[(several if place < _SINGLE_FROM else table) + (bits >> _52)])
        if entry == _0:
            entry = _long_entry(lookups, table, bits, damage)
        place += entry >> _8
        bits <<= entry & _63
        count -= entry & _63
    damage[0] |= _64 < place < _128
    return at, bits, count


# The writer is (place, held, number): the next byte, and ``number`` < 32 bits at the bottom of ``held`` that wait. What
# writes returns it.


@njit(**_OPTIONS)
def _put(out, place, held, number, value, length):
    """Write the ``length`` (at most 32) bits of ``value``."""
    held, number = (held << length) | value, number + length
    if number >= _32:
        number -= _32
        for shift in range(4):
            byte = np.uint8((held >> (number + _U(24 - 8 * shift))) & _255)
            out[place] = byte
            place += _1
            if byte == 255:
                out[place] = 0
                place += _1
    return place, held, number


@njit(**_OPTIONS)
def _put_bits(out, place, held, number, data, first, behind):
    """Copy the bits from ``first`` to ``behind``."""
    while behind - first >= _32:
        word = (_eight_bytes(data, first >> _3) << (first & _7)) >> _32
        place, held, number = _put(out, place, held, number, word, _32)
        first += _32
    if behind > first:
        word = (_eight_bytes(data, first >> _3) << (first & _7)) >> (_64 - (behind - first))
        place, held, number = _put(out, place, held, number, word, behind - first)
    return place, held, number


@njit(**_OPTIONS)
def _put_difference(out, place, held, number, value, codes, damage):
    """Write a DC difference by ``codes`` int64 (CATEGORIES, 2), each category's code and length."""
    size, left = _I(0), abs(value)
    while left > 0:
        size, left = size + 1, left >> 1
    if size >= CATEGORIES:
        damage[0] = 1
        return place, held, number
    low = value if value >= 0 else value + (1 << size) - 1
    return _put(out, place, held, number, _U((codes[size, 0] << size) | low), _U(codes[size, 1] + size))


@njit(**_OPTIONS)
def _finish(out, place, held, number):
    """Write the bits that wait, with ones up to a whole byte; returns the scan's length."""
    missing = -_I(number) % 8
    held, number = (held << _U(missing)) | _U((1 << missing) - 1), number + _U(missing)
    while number > _0:
        number -= _8
        out[place] = np.uint8((held >> number) & _255)
        place += _1
        if out[place - _1] == 255:
            out[place] = 0
            place += _1
    return _I(place)


@njit(**_OPTIONS)
def copy_region(data, limit, starts, lookups, tables, codes, order, units, out):
    """Copy the minimum coded units of a rectangle into a scan of their own; returns its length, -1 for damaged data.

    ``data`` uint8, the scan without stuffing, of ``limit`` bytes and ``PADDING``; ``starts`` as ``unstuff`` fills it;
    ``lookups`` as ``fill_lookup`` fills them, end to end; ``tables`` uint64 (components, 2), where in them the DC and
    the AC table of each start; ``codes`` int64 (components, CATEGORIES, 2), as ``_put_difference`` takes them;
    ``order`` int64, the component of each block of a unit; ``units``: first and last row, first and last column,
    columns, units between restarts (as many as there are: none).
    """
    first_row, last_row, first, last, columns, restart = units
    before, written = np.zeros(len(tables), np.int64), np.zeros(len(tables), np.int64)
    damage = np.zeros(1, np.int64)
    at, bits, count = _0, _0, _0
    place, held, number, done = _0, _0, _0, _0
    for unit in range(first_row * columns // restart * restart, last_row * columns - (columns - last)):
        row, column = unit // columns, unit % columns
        inside = row >= first_row and first <= column < last
        if unit % restart == 0:
            if inside and column > first:
                place, held, number = _put_bits(out, place, held, number, data, done, (at << _3) - count)
            at, bits, count = _U(starts[unit // restart]), _0, _0
            before[:] = 0
            done = at << _3
        renew = inside and (column == first or unit % restart == 0)
        fresh = 0
        for b in range(order.size):
            c = order[b]
            start = (at << _3) - count
            at, bits, count, value = _difference(data, at, bits, count, lookups, tables[c, 0], damage)
            before[c] += value
            if renew and not (fresh >> c) & 1:
                fresh |= 1 << c
                if b > 0:
                    place, held, number = _put_bits(out, place, held, number, data, done, start)
                value = before[c] - written[c]
                place, held, number = _put_difference(out, place, held, number, value, codes[c], damage)
                done = (at << _3) - count
            at, bits, count = _skip_block(data, at, bits, count, lookups, tables[c, 1], damage)
            if inside:
                written[c] = before[c]
        here = (at << _3) - count
        if damage[0] or here > _U(limit) << _3:
            return -1
        if inside and column == last - 1:
            place, held, number = _put_bits(out, place, held, number, data, done, here)
    return _finish(out, place, held, number)
