"""Ragged columns: lists of arrays, strings or byte strings as one flat array and its offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError

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
    """Row ``row`` of the ragged column ``name``, without a copy; raises ``ArtifactError`` where it is not in it."""
    flat, offsets = columns[name], columns[name + OFFSETS]
    start, stop = int(offsets[row]), int(offsets[row + 1])
    if not 0 <= start <= stop <= len(flat):
        raise ArtifactError(
            f"row {row} of the column {name!r} is at {start} to {stop} of {len(flat)} values; make the artifact again"
        )
    return flat[start:stop]


def unpack_bytes(columns: Mapping[str, NDArray], name: str) -> list[bytes]:
    """Every row of a ragged uint8 column as bytes; raises ``ArtifactError`` where the offsets are not of it."""
    flat, offsets = columns[name], columns[name + OFFSETS]
    _require_ragged(name, flat, offsets)
    blob = np.ascontiguousarray(flat).tobytes()
    return [blob[a:b] for a, b in pairwise(offsets.tolist())]


def _require_ragged(name: str, flat: NDArray, offsets: NDArray) -> None:
    typed = flat.dtype == np.uint8 and flat.ndim == 1 and offsets.dtype.kind in "iu" and offsets.ndim == 1
    if typed and len(offsets) and offsets[0] == 0 and offsets[-1] == len(flat) and bool((np.diff(offsets) >= 0).all()):
        return
    raise ArtifactError(
        f"the column {name!r} is {flat.dtype} {flat.shape}, and its offsets {offsets.dtype} {offsets.shape} do not "
        "divide it; make the artifact again"
    )


def unpack_strings(columns: Mapping[str, NDArray], name: str) -> list[str]:
    """Every row of a ragged UTF-8 column; raises ``ArtifactError`` for what is none.

    >>> unpack_strings(pack_strings("key", ["a", "", "né"]), "key")
    ['a', '', 'né']
    """
    try:
        return [v.decode() for v in unpack_bytes(columns, name)]
    except UnicodeDecodeError as error:
        raise ArtifactError(f"the column {name!r} holds what is not UTF-8; make the artifact again") from error
