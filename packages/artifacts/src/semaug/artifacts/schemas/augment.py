"""Generated positives: what each is a positive of, and the noise it was made from (DiffAug, spec S4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from semaug.artifacts.draws import draw_key

AugmentForm = Literal["images", "rows"]
AUGMENT_FORMS: tuple[AugmentForm, ...] = get_args(AugmentForm)
"""What positives are: images, uint8, or rows of a table, float32."""


@dataclass(frozen=True, slots=True)
class AugmentRow:
    """One generated positive: ``number`` counts those of the real item ``origin`` from 0, ``seed`` is its noise's."""

    key: str
    origin: str
    number: int
    seed: int


def augment_key(origin: str, number: int) -> str:
    """The key of the ``number``-th positive generated of the item ``origin``; no two positives share one."""
    return f"{origin}/{number}"


def augment_row(seed: int, origin: str, number: int) -> AugmentRow:
    """The ``number``-th positive of ``origin``, whose noise is 63 bits of (seed, origin, number) and of nothing else.

    >>> augment_row(0, "a.jpg", 1).key, augment_row(0, "a.jpg", 1) == augment_row(0, "a.jpg", 1)
    ('a.jpg/1', True)
    >>> augment_row(0, "a.jpg", 1).seed == augment_row(0, "a.jpg", 0).seed
    False
    """
    noise = draw_key(seed, "augment", 0, origin, number) & (2**63 - 1)
    return AugmentRow(augment_key(origin, number), origin, number, noise)
