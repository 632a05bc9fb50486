"""Schemas of what crosses packages: pydantic where it meets a disk or a user, frozen dataclasses in memory."""

from semaug.artifacts.schemas.encoder import EncoderCard
from semaug.artifacts.schemas.guidance import SCALES, Guidance, GuidanceRecord, Rle, Scale
from semaug.artifacts.schemas.manifest import (
    SCHEMA_VERSION,
    ArtifactKind,
    Costs,
    Manifest,
    ShardCosts,
    ShardMarker,
    Skipped,
)
from semaug.artifacts.schemas.pairs import (
    FORMS,
    TAGS,
    VERDICTS,
    PairForm,
    PairRecord,
    SemanticPair,
    Tag,
    Verdict,
    pair_id_of,
)
from semaug.artifacts.schemas.quality import QualityScore

__all__ = [
    "FORMS",
    "SCALES",
    "SCHEMA_VERSION",
    "TAGS",
    "VERDICTS",
    "ArtifactKind",
    "Costs",
    "EncoderCard",
    "Guidance",
    "GuidanceRecord",
    "Manifest",
    "PairForm",
    "PairRecord",
    "QualityScore",
    "Rle",
    "Scale",
    "SemanticPair",
    "ShardCosts",
    "ShardMarker",
    "Skipped",
    "Tag",
    "Verdict",
    "pair_id_of",
]
