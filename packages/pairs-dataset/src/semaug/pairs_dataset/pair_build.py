"""From verdicts or proposals on disk to a pair artifact: what ``semaug pairs build`` does."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.schemas import PairForm
from semaug.artifacts.sources import ImageSource
from semaug.artifacts.store import ArtifactSummary
from semaug.pairs_dataset.curation.journal import Journal
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.pair_sets import Rule, TwinKind, chosen, make_twin, settle, short_classes
from semaug.pairs_dataset.pair_table import PairTable, write_pairs

_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Built:
    """What was written, and the classes with too few pairs."""

    summary: ArtifactSummary
    form: PairForm
    short: dict[str, int]


def build_pairs(
    verdicts: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rule: Rule = "all",
    per_class: int = 157,
    seed: int = 0,
    twin: TwinKind | None = None,
    pool: ImageSource | None = None,
    without: Collection[str] = (),
    overwrite: bool = False,
) -> Built:
    """Write the pairs of a journal, an artifact or a file, or a twin of them: at most ``per_class`` a class (0: all).

    Of judged pairs the first after a seeded shuffle are kept, of proposals that nobody judged the first in their order.

    Pairs that ``without`` names, by id or by an image, are left out first. Raises ``NoPairs`` where none is accepted,
    ``InvalidOption`` for a twin of a twin, and what ``write_pairs`` raises.
    """
    table, classes, info = _pairs_of(Path(verdicts), rule)
    if without:
        rest = table.without(without)
        table, info = rest, {**info, "left_out": len(table) - len(rest)}
    if per_class:
        table = table.subset(per_class, seed) if info["curated"] else table.first(per_class)
    if not len(table):
        raise NoPairs(f"{verdicts} has no accepted pairs; judge some with `semaug pairs curate`")
    short = short_classes(table, per_class, classes)
    config: dict[str, Any] = {"rule": rule, "per_class": per_class}
    inputs = {"pairs": table.digest}
    if twin is not None:
        config |= {"twin": twin, "pool": "pairs" if pool is None else "source"}
        inputs |= {} if pool is None else {"pool": pool.fingerprint}
        table = make_twin(table, twin, seed=seed, pool=pool)
    summary = write_pairs(table, out, config=config, inputs=inputs, seed=seed, info=info, overwrite=overwrite)
    return Built(summary, table.form, short)


def _pairs_of(path: Path, rule: Rule) -> tuple[PairTable, list[str], dict[str, Any]]:
    """The accepted pairs, all class names, and what is worth a note."""
    if _is_database(path):
        with Journal(path) as journal:
            settled = settle(journal, rule)
            names = [row.name for row in journal.progress()]
        counts = {"rejected": settled.rejected, "disputed": settled.disputed, "open": settled.open}
        return settled.table, names, {"curated": True, **counts}
    table = PairTable.open(path)
    if table.form not in ("proposals", "semantic"):
        raise InvalidOption(f"{path} holds {table.form} pairs; give the semantic pairs that they were made of")
    kept, judged = chosen(table)
    curated = table.form == "semantic" if table.manifest is None else table.manifest.info.get("curated", False)
    return kept, list(table.by_class), {"curated": judged or curated}


def _is_database(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
