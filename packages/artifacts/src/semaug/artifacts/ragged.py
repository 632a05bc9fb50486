"""Ragged columns: lists of arrays, strings or byte strings as one flat array and its offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray]
OFFSETS = "_offsets"


def pack_arrays(name: str, arrays: Sequence[NDArray], empty: NDArray) -> Columns:
    """Columns ``name`` (the arrays end to end) and ``name_offsets`` (int64, len + 1).

    ``empty`` is a zero-length array that fixes the dtype and the trailing shape when there is nothing to join.
    """
    lengths = np.array([len(a) for a in arrays], dtype=np.int64)
    flat = np.concatenate([empty, *arrays]).astype(empty.dtype, copy=False)
    return {name: flat, name + OFFSETS: np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)}


def pack_bytes(name: str, values: Sequence[bytes]) -> Columns:
    """Byte strings as a flat uint8 column and its offsets."""
    return pack_arrays(name, [np.frombuffer(v, dtype=np.uint8) for v in values], np.zeros(0, np.uint8))


def pack_strings(name: str, values: Sequence[str]) -> Columns:
    """Strings as UTF-8 in a flat uint8 column and its offsets."""
    return pack_bytes(name, [v.encode() for v in values])


def slice_of(columns: Mapping[str, NDArray], name: str, row: int) -> NDArray:
    """Row ``row`` of the ragged column ``name``, without a copy."""
    offsets = columns[name + OFFSETS]
    return columns[name][int(offsets[row]) : int(offsets[row + 1])]


def unpack_bytes(columns: Mapping[str, NDArray], name: str) -> list[bytes]:
    """Every row of a ragged uint8 column as bytes."""
    blob = np.ascontiguousarray(columns[name]).tobytes()
    offsets = columns[name + OFFSETS].tolist()
    return [blob[a:b] for a, b in pairwise(offsets)]


def unpack_strings(columns: Mapping[str, NDArray], name: str) -> list[str]:
    """Every row of a ragged UTF-8 column.

    >>> unpack_strings(pack_strings("key", ["a", "", "né"]), "key")
    ['a', '', 'né']
    """
    return [v.decode() for v in unpack_bytes(columns, name)]
