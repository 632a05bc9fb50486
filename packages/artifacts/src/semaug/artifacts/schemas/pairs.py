"""Semantic pairs: two images of one class in different contexts, and what curators said of them (spec S3.1)."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Tag = Literal["background", "occlusion", "pattern", "illumination"]
TAGS: tuple[Tag, ...] = get_args(Tag)
"""What differs between the images of a pair, in the order of the stored bits."""
Verdict = Literal["", "accept", "reject", "skip"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""No verdict yet, or a curator's, in the order of the stored codes."""
PairForm = Literal["proposals", "semantic", "augmented", "all-images", "random-same-class"]
FORMS: tuple[PairForm, ...] = get_args(PairForm)
"""What a set of pairs is: candidates, semantic pairs (SP), or one of the controls that are made of SP."""

_SCORE_NAME = re.compile(r"[a-z][a-z0-9_]*")


def pair_id_of(image_a: str, image_b: str) -> str:
    """The id of an unordered pair of image keys: 16 hex digits, the same in every proposal of these two images.

    >>> pair_id_of("a.jpg", "b.jpg") == pair_id_of("b.jpg", "a.jpg")
    True
    """
    first, second = sorted((image_a, image_b))
    return hashlib.blake2b(f"{first}\x1f{second}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class SemanticPair:
    """One pair of images of ``class_name``, by key.

    ``tags`` say what differs, in the order of ``TAGS``; ``time`` is ISO 8601 (UTC) of the verdict; ``scores`` are the
    parts of a proposal's score, finite numbers by name. ``image_a == image_b`` makes an augmented pair.
    Raises ``ValueError`` for anything else.
    """

    pair_id: str
    class_name: str
    image_a: str
    image_b: str
    tags: tuple[Tag, ...] = ()
    verdict: Verdict = ""
    curator: str = ""
    time: str = ""
    provenance: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("pair_id", "class_name", "image_a", "image_b"):
            if not getattr(self, name):
                raise ValueError(f"pair {self.pair_id!r} has no {name}; give one")
        if self.tags != tuple(tag for tag in TAGS if tag in self.tags):
            raise ValueError(f"pair {self.pair_id!r} has the tags {self.tags}; give each once, in the order {TAGS}")
        if self.verdict not in VERDICTS:
            raise ValueError(f"pair {self.pair_id!r} has the verdict {self.verdict!r}; give one of {VERDICTS[1:]}")
        for name, value in self.scores.items():
            if not _SCORE_NAME.fullmatch(name) or not math.isfinite(value):
                raise ValueError(
                    f"pair {self.pair_id!r} has the score {name!r} = {value}; names are lower case, values finite"
                )


class PairRecord(BaseModel):
    """A pair as one line of JSON or one row of CSV (interchange); a missing ``pair_id`` follows from the images."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    pair_id: str = ""
    class_name: str = Field(alias="class")
    image_a: str
    image_b: str
    tags: tuple[Tag, ...] = ()
    verdict: Verdict = ""
    curator: str = ""
    time: str = ""
    provenance: str = ""
    scores: dict[str, float] = {}

    @classmethod
    def of(cls, pair: SemanticPair) -> PairRecord:
        """The record of a pair."""
        fields: dict[str, Any] = {name: getattr(pair, name) for name in cls.model_fields}
        return cls(**{**fields, "scores": dict(pair.scores)})

    def pair(self) -> SemanticPair:
        """The pair of this record; raises ``ValueError``."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        fields["pair_id"] = self.pair_id or pair_id_of(self.image_a, self.image_b)
        fields["tags"] = tuple(tag for tag in TAGS if tag in self.tags)
        return SemanticPair(**fields)
