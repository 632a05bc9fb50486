"""Counter-based randomness: every draw is a pure function of what it is for.

A draw is addressed by ``(seed, purpose, epoch, key, copy, view)``. Its 64-bit *draw key* is the blake2b hash of
that address; the numbers of the draw are the SplitMix64 sequence started at the draw key (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014), so number ``slot`` can be computed without the others.
The same views therefore come out whatever the number of workers, ranks, engines or restarts.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15
TO_UNIT = 2.0**-53


def _address(seed: int, purpose: str, epoch: int, key: str, copy: int, view: int) -> bytes:
    return f"{seed}\x1f{purpose}\x1f{epoch}\x1f{copy}\x1f{view}\x1f{key}".encode()


def draw_key(seed: int, purpose: str, epoch: int, key: str, copy: int = 0, view: int = 0) -> int:
    """The 64-bit key of one draw.

    >>> draw_key(0, "crop", 0, "a.jpg") == draw_key(0, "crop", 0, "a.jpg")
    True
    >>> draw_key(0, "crop", 0, "a.jpg", view=0) == draw_key(0, "crop", 0, "a.jpg", view=1)
    False
    """
    digest = hashlib.blake2b(_address(seed, purpose, epoch, key, copy, view), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def draw_keys(seed: int, draws: tuple[tuple[str, int], ...], epoch: int, key: str, copy: int = 0) -> NDArray[np.uint64]:
    """The draw keys of several (purpose, view): uint64 (n,). Quicker than one by one, since ``key`` is hashed last.

    >>> int(draw_keys(0, (("crop", 0), ("crop", 1)), 0, "a.jpg")[1]) == draw_key(0, "crop", 0, "a.jpg", view=1)
    True
    """
    name, found = key.encode(), bytearray()
    for begun in _begun(seed, draws, epoch, copy):
        digest = begun.copy()
        digest.update(name)
        found += digest.digest()
    return np.frombuffer(found, "<u8")


@lru_cache(256)
def _begun(seed: int, draws: tuple[tuple[str, int], ...], epoch: int, copy: int) -> tuple[hashlib.blake2b, ...]:
    """Hashes that have seen all of an address but the key."""
    return tuple(hashlib.blake2b(_address(seed, purpose, epoch, "", copy, v), digest_size=8) for purpose, v in draws)


def uniform(key: int, slot: int) -> float:
    """Number ``slot`` (from 0) of the draw ``key``: float64, uniform on [0, 1)."""
    z = (key + (slot + 1) * GOLDEN_GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * TO_UNIT


def uniforms(key: int, count: int, start: int = 0) -> NDArray[np.float64]:
    """Numbers ``start`` to ``start + count - 1`` of the draw ``key``: float64, shape (count,), on [0, 1).

    >>> bool(uniforms(7, 3)[2] == uniform(7, 2))
    True
    """
    return uniform_rows(np.array([key], np.uint64), count, start)[0]


def uniform_rows(keys: NDArray[np.uint64], count: int, start: int = 0) -> NDArray[np.float64]:
    """Numbers ``start`` to ``start + count - 1`` of each of the draws ``keys`` (n,): float64 (n, count), on [0, 1).

    >>> bool(uniform_rows(np.array([7, 9], np.uint64), 3)[1, 2] == uniform(9, 2))
    True
    """
    slots = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = keys[:, None] + slots * np.uint64(GOLDEN_GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * TO_UNIT


def normal_rows(keys: NDArray[np.uint64], count: int, start: int = 0) -> NDArray[np.float64]:
    """The same numbers as draws from N(0, 1), by Box and Muller: float64 (n, count).

    ``start`` is even, so that a draw is the same however it is cut; number 2i and 2i + 1 come from the same uniforms.

    >>> keys = np.array([7, 9], np.uint64)
    >>> bool((normal_rows(keys, 4)[:, 2:] == normal_rows(keys, 2, 2)).all())
    True
    """
    if start % 2:
        raise ValueError(f"start is {start}; give an even number")
    numbers = uniform_rows(keys, count + count % 2, start).reshape(len(keys), -1, 2)
    radius, angle = np.sqrt(-2 * np.log1p(-numbers[..., 0])), 2 * np.pi * numbers[..., 1]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return both.reshape(len(keys), -1)[:, :count]


def generator(seed: int, purpose: str, epoch: int = 0, key: str = "") -> np.random.Generator:
    """A numpy generator for bulk draws (permutations, scenes), addressed like every other draw."""
    digest = hashlib.blake2b(_address(seed, purpose, epoch, key, 0, 0), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
