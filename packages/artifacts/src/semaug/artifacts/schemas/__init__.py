"""Schemas of what crosses packages: pydantic where it meets a disk or a user, frozen dataclasses in memory."""

from semaug.artifacts.schemas.augment import AUGMENT_FORMS, AugmentForm, AugmentRow, augment_key, augment_row
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
from semaug.artifacts.schemas.synthetic import (
    COUNTINGS,
    VISUAL_KINDS,
    Counting,
    Slot,
    SyntheticRow,
    VisualKind,
    plan_slots,
    synthetic_key,
)

__all__ = [
    "AUGMENT_FORMS",
    "COUNTINGS",
    "FORMS",
    "SCALES",
    "SCHEMA_VERSION",
    "TAGS",
    "VERDICTS",
    "VISUAL_KINDS",
    "ArtifactKind",
    "AugmentForm",
    "AugmentRow",
    "Costs",
    "Counting",
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
    "Slot",
    "SyntheticRow",
    "Tag",
    "Verdict",
    "VisualKind",
    "augment_key",
    "augment_row",
    "pair_id_of",
    "plan_slots",
    "synthetic_key",
]
