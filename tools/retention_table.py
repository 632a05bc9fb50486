"""What oracles find on photographs and what crops keep of the true objects, as one Markdown table.

    python tools/retention_table.py ../shared/data/coco128 --fastestdet ../shared/models/fastestdet.onnx

Left, the recall and precision of an oracle's boxes (``oracle_table.py``); right, the retention of crops that follow
these boxes. All crops take the same share, 0.3 to 1 of the image or of the box, without a margin. Only true objects
over 2% of the image count, and only images that have one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oracle_table import (
    Photographs,
    Recall,
    detect_all,
    fastestdet_spec,
    measure_recall,
    open_photographs,
)

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.oracles.catalogue import OracleSpec, open_detector
from semaug.pairs_dataset import Retention, make_pairs, measure_retention

SCALE = (0.3, 1.0)
"""Share of the image (standard) or of the box (guided) that a crop takes."""


@dataclass(frozen=True, slots=True)
class CropRow:
    """One row: where crops are cut, what the oracle behind them finds, and what the crops keep."""

    crops: str
    recall: Recall | None
    retention: Retention


def retention(photographs: Photographs, pairs: str, guidance: GuidanceTable | None, draws: int) -> Retention:
    """What crops of these pairs keep of the true objects."""
    made = make_pairs(pairs, photographs.source, guidance=guidance, scale=SCALE, margin=0.0, seed=0)
    return measure_retention(made, photographs.table(photographs.truth), draws=draws)


def oracle_row(photographs: Photographs, crops: str, spec: OracleSpec, draws: int) -> tuple[CropRow, GuidanceTable]:
    """Recall of the oracle's first five boxes, and retention of crops drawn in any of its boxes."""
    found = detect_all(open_detector(spec), photographs.keys(), photographs.images)
    table = photographs.table(found)
    recall = measure_recall(found, photographs.truth)
    return CropRow(crops, recall, retention(photographs, "guided", table, draws)), table


def crop_rows(folder: Path, fastestdet: Path | None, draws: int = 20) -> list[CropRow]:
    """The rows of the table; those of FastestDet are left out where its model is not given."""
    photographs = open_photographs(folder)
    truth = photographs.table(photographs.truth)
    specs = {"saliency": OracleSpec("saliency")}
    if fastestdet is not None:
        specs["FastestDet"] = fastestdet_spec(fastestdet)
    rows = [CropRow("standard", None, retention(photographs, "standard", None, draws))]
    rows.append(oracle_row(photographs, "centre box", OracleSpec("center"), draws)[0])
    for name, spec in specs.items():
        row, table = oracle_row(photographs, f"guided by {name}", spec, draws)
        control = retention(photographs, "random_box", table, draws)
        rows += [row, CropRow(f"random boxes, sizes of {name}", None, control)]
    rows.append(CropRow("guided by the true boxes", None, retention(photographs, "guided", truth, draws)))
    control = retention(photographs, "random_box", truth, draws)
    return [*rows, CropRow("random boxes, sizes of the true", None, control)]


def cells(row: CropRow) -> Mapping[str, str]:
    """A row as it is printed; a dash where a number means nothing."""
    found, kept = row.recall, row.retention
    return {
        "crops": row.crops,
        "recall": f"{found.recall:.2f}" if found else "-",
        "precision": f"{found.precision:.2f}" if found else "-",
        "keeps": f"{kept.keeps:.2f}",
        "filled": f"{kept.filled:.2f}",
        "same": f"{kept.same:.2f}",
        "share of the image": f"{kept.area:.2f}",
    }


def format_table(rows: Sequence[CropRow]) -> str:
    """The rows as Markdown."""
    printed = [cells(row) for row in rows]
    lines = ["| " + " | ".join(printed[0]) + " |", "|---" * len(printed[0]) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in printed])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fastestdet", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    rows = crop_rows(options.folder, options.fastestdet, options.draws)
    print(f"{rows[0].retention.images} images with an object over 2% of the area, {options.draws} pairs of each\n")
    print(format_table(rows))


if __name__ == "__main__":
    main()
