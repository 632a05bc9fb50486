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

from oracle_table import PLUGIN, OracleRecall, measure_recall, true_boxes

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import ImageSource, open_source
from semaug.oracles.catalogue import OracleSpec, open_detector
from semaug.oracles.protocols import Boxes, Detector, Image
from semaug.oracles.selection import usable_boxes
from semaug.pairs_dataset import Retention, make_pairs, measure_retention

SCALE = (0.3, 1.0)
"""Share of the image (standard) or of the box (guided) that a crop takes."""


@dataclass(frozen=True, slots=True)
class CropRow:
    """One row: where crops are cut, what the oracle behind them finds, and what the crops keep."""

    crops: str
    recall: OracleRecall | None
    retention: Retention


@dataclass(frozen=True, slots=True)
class Photographs:
    """Images with their true boxes over 2% of the area."""

    source: ImageSource
    images: Sequence[Image]
    truth: Sequence[Boxes]

    def table(self, boxes: Sequence[Boxes]) -> GuidanceTable:
        """Boxes as guidance; an image without any takes standard crops, as after ``semaug guide extract``."""
        rows = [
            Guidance(self.source.key(i), *image.shape[:2], boxes=found, fallback=len(found) == 0)
            for i, (image, found) in enumerate(zip(self.images, boxes, strict=True))
        ]
        return GuidanceTable.of(rows)

    def retention(self, pairs: str, guidance: GuidanceTable | None, draws: int) -> Retention:
        made = make_pairs(pairs, self.source, guidance=guidance, scale=SCALE, margin=0.0, seed=0)
        return measure_retention(made, self.table(self.truth), draws=draws)


def open_photographs(folder: Path) -> Photographs:
    """A folder with ``images/`` and, in YOLO txt, ``boxes/``."""
    source = open_source(str(folder / "images"))
    return Photographs(source, *true_boxes(source, folder / "boxes"))


def oracle_row(photographs: Photographs, crops: str, detector: Detector, draws: int) -> tuple[CropRow, GuidanceTable]:
    """Recall of the detector's first five boxes, and retention of crops drawn in any of its boxes."""
    recall = measure_recall(crops, "", detector, photographs.images, photographs.truth)
    found = [usable_boxes(detector.detect([i])[0], *i.shape[:2]) for i in photographs.images]
    table = photographs.table(found)
    return CropRow(crops, recall, photographs.retention("guided", table, draws)), table


def crop_rows(folder: Path, fastestdet: Path | None, draws: int = 20) -> list[CropRow]:
    """The rows of the table; those of FastestDet are left out where its model is not given."""
    photographs = open_photographs(folder)
    truth = photographs.table(photographs.truth)
    specs = {"saliency": OracleSpec("saliency")}
    if fastestdet is not None:
        specs["FastestDet"] = OracleSpec(f"{PLUGIN}:FastestDet", (("model", str(fastestdet)),))
    rows = [CropRow("standard", None, photographs.retention("standard", None, draws))]
    rows.append(oracle_row(photographs, "centre box", _open(OracleSpec("center")), draws)[0])
    for name, spec in specs.items():
        row, table = oracle_row(photographs, f"guided by {name}", _open(spec), draws)
        control = photographs.retention("random_box", table, draws)
        rows += [row, CropRow(f"random boxes, sizes of {name}", None, control)]
    rows.append(CropRow("guided by the true boxes", None, photographs.retention("guided", truth, draws)))
    control = photographs.retention("random_box", truth, draws)
    return [*rows, CropRow("random boxes, sizes of the true", None, control)]


def _open(spec: OracleSpec) -> Detector:
    detector = open_detector(spec)
    assert isinstance(detector, Detector)
    return detector


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
