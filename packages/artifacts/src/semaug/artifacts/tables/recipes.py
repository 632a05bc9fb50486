"""The tables of cells that DiffAug is measured on, prepared as its authors do, from files on this machine (spec S4.6).

What their loaders do and these do not: reading the Activity table in place of Samusik's; fitting scaling and
components on test rows as well where a split is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named table: its file below the root, and the options of ``open_table`` it stands for.

    ``columns`` is how many features the paper reports, None where it reports none.
    """

    title: str
    file: str
    options: Mapping[str, str] = field(default_factory=dict)
    columns: int | None = None


RECIPES: Mapping[str, Recipe] = {
    "hcl": Recipe(
        "Human Cell Landscape, 60,000 cells",
        "HCL60kafter-elis-all.h5ad",
        {"label": "louvain", "min_class": "500", "steps": "pca:500,range"},
    ),
    "gast": Recipe(
        "gastrulation, 10,000 cells",
        "gast10kwithcelltype.h5ad",
        {"label": "celltype", "min_class": "50", "steps": "divide:8"},
        columns=1457,
    ),
    "sam": Recipe(
        "Samusik 01, mass cytometry of mouse bone marrow",
        "samusik_01.csv",
        {"labels": "samusik01_labelnr.csv", "key": "", "steps": "fill,unit"},
    ),
    "mca": Recipe(
        "Mouse Cell Atlas",
        "mca_data/mca_data_dim_34947.npy",
        {"labels": "mca_data/mca_label_dim_34947.npy", "nonzero": "3000", "min_class": "100", "steps": "divide:8"},
        columns=1374,
    ),
}
"""By name. ``labels`` is a file below the root; an empty ``key`` is the first column, whatever it is called."""
