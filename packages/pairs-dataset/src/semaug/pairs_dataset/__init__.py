"""Every source of positive pairs: guided and standard views, the controls, retention, materialised crops.

Names are loaded at their first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semaug.pairs_dataset.assembly import NEEDS_GUIDANCE, PAIR_SOURCES, VARIANTS, Variant, make_pairs
    from semaug.pairs_dataset.checks import check_pairs
    from semaug.pairs_dataset.crops import BOX_SELECTS, CROP_MODES, CropRule
    from semaug.pairs_dataset.materialize import materialize_crops
    from semaug.pairs_dataset.pair_build import build_pairs
    from semaug.pairs_dataset.pair_sets import make_twin
    from semaug.pairs_dataset.pair_table import PairTable, write_pairs
    from semaug.pairs_dataset.presets import PRESETS, Recipe, preset
    from semaug.pairs_dataset.retention import Retention, measure_retention
    from semaug.pairs_dataset.sheets import pair_sheet
    from semaug.pairs_dataset.sources import PairBatch, PairSource, collate_pairs

_HOMES = {
    "BOX_SELECTS": "crops",
    "CROP_MODES": "crops",
    "CropRule": "crops",
    "NEEDS_GUIDANCE": "assembly",
    "PAIR_SOURCES": "assembly",
    "PRESETS": "presets",
    "PairBatch": "sources",
    "PairSource": "sources",
    "PairTable": "pair_table",
    "Recipe": "presets",
    "Retention": "retention",
    "VARIANTS": "assembly",
    "Variant": "assembly",
    "build_pairs": "pair_build",
    "check_pairs": "checks",
    "collate_pairs": "sources",
    "make_pairs": "assembly",
    "make_twin": "pair_sets",
    "materialize_crops": "materialize",
    "measure_retention": "retention",
    "pair_sheet": "sheets",
    "preset": "presets",
    "write_pairs": "pair_table",
}

__all__ = [
    "BOX_SELECTS",
    "CROP_MODES",
    "NEEDS_GUIDANCE",
    "PAIR_SOURCES",
    "PRESETS",
    "VARIANTS",
    "CropRule",
    "PairBatch",
    "PairSource",
    "PairTable",
    "Recipe",
    "Retention",
    "Variant",
    "build_pairs",
    "check_pairs",
    "collate_pairs",
    "make_pairs",
    "make_twin",
    "materialize_crops",
    "measure_retention",
    "pair_sheet",
    "preset",
    "write_pairs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
