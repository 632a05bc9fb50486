"""Every source of positive pairs: guided and standard views, the controls, retention, materialised crops.

Names are loaded at their first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semaug.pairs_dataset.assembly import NEEDS_GUIDANCE, PAIR_SOURCES, VARIANTS, Variant, make_pairs
    from semaug.pairs_dataset.crops import BOX_SELECTS, CROP_MODES, CropRule
    from semaug.pairs_dataset.materialize import materialize_crops
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
    "Recipe": "presets",
    "Retention": "retention",
    "VARIANTS": "assembly",
    "Variant": "assembly",
    "collate_pairs": "sources",
    "make_pairs": "assembly",
    "materialize_crops": "materialize",
    "measure_retention": "retention",
    "pair_sheet": "sheets",
    "preset": "presets",
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
    "Recipe",
    "Retention",
    "Variant",
    "collate_pairs",
    "make_pairs",
    "materialize_crops",
    "measure_retention",
    "pair_sheet",
    "preset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
