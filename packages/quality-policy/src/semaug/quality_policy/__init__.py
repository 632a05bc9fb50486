"""Image quality scores, and the policies that choose a semantic scale by them (SDI)."""

from semaug.quality_policy.errors import InvalidImage, InvalidThresholds, InvalidWeights, UnknownName
from semaug.quality_policy.normalisers import CLARITY, DATASET, RESOLUTION, RobustRange
from semaug.quality_policy.policies import (
    GRANULARITIES,
    FixedPolicy,
    Granularity,
    RoutingPolicy,
    SmallSideRule,
    SoftPolicy,
    ThresholdPolicy,
    Thresholds,
    make_policy,
    routing_histogram,
    shuffled_routes,
)
from semaug.quality_policy.presets import PRESETS, Preset, find_preset
from semaug.quality_policy.scores import (
    ImageStatistics,
    PixelSums,
    batch_statistics,
    histogram_entropy,
    image_statistics,
    pixel_sums,
)
from semaug.quality_policy.scoring import Components, RawStatistics, Scoring, Weights
from semaug.quality_policy.table import QualityTable, quality_report, score_source, write_csv

__all__ = [
    "CLARITY",
    "DATASET",
    "GRANULARITIES",
    "PRESETS",
    "RESOLUTION",
    "Components",
    "FixedPolicy",
    "Granularity",
    "ImageStatistics",
    "InvalidImage",
    "InvalidThresholds",
    "InvalidWeights",
    "PixelSums",
    "Preset",
    "QualityTable",
    "RawStatistics",
    "RobustRange",
    "RoutingPolicy",
    "Scoring",
    "SmallSideRule",
    "SoftPolicy",
    "ThresholdPolicy",
    "Thresholds",
    "UnknownName",
    "Weights",
    "batch_statistics",
    "find_preset",
    "histogram_entropy",
    "image_statistics",
    "make_policy",
    "pixel_sums",
    "quality_report",
    "routing_histogram",
    "score_source",
    "shuffled_routes",
    "write_csv",
]
