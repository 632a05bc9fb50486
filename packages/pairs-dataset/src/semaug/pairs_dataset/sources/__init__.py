"""The sources of positive pairs of the spine."""

from semaug.pairs_dataset.sources.adainf import InflatedByGeneration
from semaug.pairs_dataset.sources.base import PairBatch, PairSource, Plan, ViewSettings, collate_pairs
from semaug.pairs_dataset.sources.diffusion import DiffusionPairs
from semaug.pairs_dataset.sources.duplicated import DuplicatedPairs
from semaug.pairs_dataset.sources.guided import GuidedPairs
from semaug.pairs_dataset.sources.inflated import InflatedPairs
from semaug.pairs_dataset.sources.self_guided import SelfGuidedPairs
from semaug.pairs_dataset.sources.semantic import SemanticPairs
from semaug.pairs_dataset.sources.standard import StandardPairs
from semaug.pairs_dataset.sources.synthetic import SyntheticPairs

__all__ = [
    "DiffusionPairs",
    "DuplicatedPairs",
    "GuidedPairs",
    "InflatedByGeneration",
    "InflatedPairs",
    "PairBatch",
    "PairSource",
    "Plan",
    "SelfGuidedPairs",
    "SemanticPairs",
    "StandardPairs",
    "SyntheticPairs",
    "ViewSettings",
    "collate_pairs",
]
