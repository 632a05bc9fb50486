"""Encoders of tables: pairs of rows to train them on, and the features they give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from semaug.artifacts.errors import InvalidOption

if TYPE_CHECKING:
    from semaug.artifacts.schemas import EncoderCard
    from semaug.artifacts.sources import ImageSource
    from semaug.artifacts.tables import Table
    from semaug.pairs_dataset.sources.rows import RowPairs
    from semaug.studies.assemble import TrainingPlan

ROW_OPTIONS = ("neighbours", "components")
"""Options of pairs that are for rows alone: how many near rows one is mixed with, and among how many principal
components they are found (0: all columns)."""
POSITIVE_OPTIONS = ("augment", "positives", "alpha")
"""Options of pairs `diffusion`, which rows have too."""
ROW_PAIRS = ("standard", "diffusion")
"""The pairs there are of rows."""


def reads_rows(backbone: str) -> bool:
    """Whether a backbone reads rows of a table."""
    from semaug.ssl_methods.backbones import backbone_kind

    return backbone_kind(backbone).reads == "rows"


def row_pairs(table: Table, options: Mapping[str, Any], *, seed: int, cache: Path | None = None) -> RowPairs:
    """Pairs of rows mixed with near rows of the same table (spec S4.3); ``cache`` is a folder to keep the graph in.

    With the option ``augment``, an artifact of generated rows, the second view is one of those, with probability
    ``alpha`` (1), in the use ``positives`` (`drawn`). Raises ``InvalidOption`` for options of images.
    """
    from semaug.artifacts.augment_table import AugmentTable
    from semaug.artifacts.tables import names_digest
    from semaug.diffaug_core.neighbours import NeighbourSettings
    from semaug.diffaug_core.table_samples import TableSamples
    from semaug.pairs_dataset.sources.diffusion import PositiveUse
    from semaug.pairs_dataset.sources.diffusion_rows import DiffusionRowPairs
    from semaug.pairs_dataset.sources.rows import RowPairs, refuse_image_options

    given = {name: value for name, value in options.items() if name in (*ROW_OPTIONS, *POSITIVE_OPTIONS)}
    refuse_image_options({name: value for name, value in options.items() if name not in given})
    settings = NeighbourSettings(given.get("neighbours", 5), given.get("components", 50) or None)
    samples = TableSamples(table, settings, cache=cache)
    columns = {"columns": len(table.feature_names), "names": names_digest(table.feature_names)}
    config = {"augmentation": samples.settings(), "table": {**columns, "steps": list(table.steps)}}
    samples.mixing  # noqa: B018 (found before loaders copy it)
    if "augment" not in given:
        return RowPairs(table, samples, seed=seed, config=config)
    positives = AugmentTable.open(given["augment"])
    use = PositiveUse(positives.k, given.get("positives", "drawn"), given.get("alpha", 1.0))
    return DiffusionRowPairs(table, samples, positives, use, seed=seed, config=config)


def row_pairs_of(plan: TrainingPlan) -> RowPairs:
    """The pairs of a plan whose backbone reads rows; raises ``InvalidOption`` for what only images have."""
    from semaug.artifacts.tables import open_table

    refused = {"pairs": plan.pairs not in ROW_PAIRS, "guidance": plan.guidance, "views": plan.views == "device"}
    for name in [name for name, given in refused.items() if given]:
        raise InvalidOption(
            f"--{name} {getattr(plan, name)}: for images, and backbone {plan.backbone!r} reads rows of a table, whose "
            f"pairs are {' or '.join(ROW_PAIRS)}; leave it out"
        )
    if (plan.pairs == "diffusion") != ("augment" in plan.pair_options):
        raise InvalidOption(
            f"pairs {plan.pairs!r} {'without' if plan.pairs == 'diffusion' else 'with'} generated rows; give both "
            "--pairs diffusion and --augment, made by `semaug diffaug augment`, or neither"
        )
    return row_pairs(open_table(plan.images), plan.pair_options, seed=plan.seed)


def refuse_row_options(options: Mapping[str, Any]) -> None:
    """Refuse options of rows where images are read; raises ``InvalidOption``."""
    if extra := [name for name in ROW_OPTIONS if name in options]:
        raise InvalidOption(
            f"--{extra[0]} is for rows of a table and this run reads images; give --backbone mlp and a table"
        )


@overload
def open_inputs(spec: str, rows: Literal[True]) -> Table: ...
@overload
def open_inputs(spec: str, rows: bool) -> Any: ...
def open_inputs(spec: str, rows: bool) -> ImageSource | Table:
    """The table of a spec where an encoder reads ``rows``, else its images."""
    from semaug.artifacts.sources import open_source
    from semaug.artifacts.tables import open_table

    if rows:
        return open_table(spec)
    refuse_table(spec)
    return open_source(spec)


def refuse_table(spec: str) -> None:
    """Refuse a table where images are read; raises ``InvalidOption``."""
    from semaug.artifacts.tables import is_table

    if is_table(spec):
        raise InvalidOption(
            f"{spec} is a table and the encoder reads images; give images, or train with --backbone mlp"
        )


def require_columns(card: EncoderCard, table: Table) -> None:
    """Refuse a table whose columns or preprocessing are not those an encoder was trained on: ``InvalidOption``."""
    from semaug.artifacts.tables import names_digest

    count, width = card.input_features, len(table.feature_names)
    known = card.config.get("pairs", {}).get("table")
    if known is not None and list(table.steps) != known["steps"]:
        trained, given = (",".join(steps) for steps in (known["steps"], table.steps))
        raise InvalidOption(
            f"{table.spec} went through the steps {given or '(none)'}, what the encoder was trained on through "
            f"{trained or '(none)'}; {f'give steps={trained}' if trained else 'leave steps out'}"
        )
    if count != width:
        raise InvalidOption(f"{table.spec} has {width} columns and the encoder reads {count}; open the same columns")
    if known is not None and names_digest(table.feature_names) != known["names"]:
        raise InvalidOption(
            f"{table.spec} has {width} columns of other names, or in another order, than the encoder was trained on; "
            "choose them with features=..."
        )
