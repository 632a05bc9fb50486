"""Recall of oracles' boxes against the true boxes of coco128, as a Markdown table.

    python tools/oracle_table.py ../shared/data/coco128 --fastestdet ../shared/models/fastestdet.onnx

The images are the folder's ``images/``, the true boxes its ``boxes/`` in YOLO txt; only objects over 2% of the image
count, and at most five boxes an image are looked at.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from semaug.artifacts.sources import ImageSource, open_source
from semaug.oracles.annotations import AnnotationDetector, box_overlaps
from semaug.oracles.catalogue import OracleSpec, open_detector
from semaug.oracles.protocols import Boxes, Detector, Image
from semaug.oracles.selection import box_areas, usable_boxes

PLUGIN = Path(__file__).resolve().parents[1] / "examples" / "fastestdet" / "fastestdet_detector.py"


@dataclass(frozen=True, slots=True)
class OracleRecall:
    """Recall and precision at IoU 0.5, over objects above the area, with at most ``most`` boxes an image."""

    oracle: str
    trained_on: str
    most: int
    objects: int
    recall: float
    precision: float
    boxes_per_image: float
    ms_per_image: float


def true_boxes(source: ImageSource, annotations: Path, min_area: float = 0.02) -> tuple[list[Image], list[Boxes]]:
    """Every image with its true boxes over ``min_area`` of the image."""
    detector = AnnotationDetector(annotations)
    images = [source.read(i) for i in range(len(source))]
    boxes = detector.detect_keyed([source.key(i) for i in range(len(source))], images)
    large = [b[box_areas(b) > min_area * i.shape[0] * i.shape[1]] for b, i in zip(boxes, images, strict=True)]
    return images, large


def measure_recall(
    name: str, trained_on: str, detector: Detector, images: Sequence[Image], truth: Sequence[Boxes], most: int = 5
) -> OracleRecall:
    """Share of the true boxes that one of the first ``most`` boxes overlaps at IoU 0.5 or more."""
    detector.detect(images[:1])
    started = time.perf_counter()
    found = [detector.detect([image])[0] for image in images]
    milliseconds = (time.perf_counter() - started) / len(images) * 1000
    found = [usable_boxes(b, *i.shape[:2])[:most] for b, i in zip(found, images, strict=True)]
    overlaps = [box_overlaps(t, f) >= 0.5 for t, f in zip(truth, found, strict=True)]
    hits = sum(int(o.any(axis=1).sum()) for o in overlaps)
    right, given = sum(int(o.any(axis=0).sum()) for o in overlaps), sum(map(len, found))
    objects = sum(map(len, truth))
    return OracleRecall(
        name, trained_on, most, objects, hits / objects, right / max(1, given), given / len(images), milliseconds
    )


def oracle_rows(folder: Path, fastestdet: Path | None) -> list[OracleRecall]:
    """The rows of the table; FastestDet is left out where its model is not given."""
    images, truth = true_boxes(open_source(str(folder / "images")), folder / "boxes")
    oracles: list[tuple[str, str, Callable[[], object]]] = [
        ("`center` (0.7 of each side)", "nothing", lambda: open_detector(OracleSpec("center"))),
        ("`saliency`", "nothing", lambda: open_detector(OracleSpec("saliency"))),
    ]
    if fastestdet is not None:
        spec = OracleSpec(f"{PLUGIN}:FastestDet", (("model", str(fastestdet)),))
        oracles.append(("FastestDet (plug-in)", "COCO train2017, these images among them", lambda: open_detector(spec)))
    rows = []
    for name, trained_on, build in oracles:
        detector = build()
        assert isinstance(detector, Detector)
        rows.append(measure_recall(name, trained_on, detector, images, truth))
        if "FastestDet" in name:
            rows.append(measure_recall(f"{name}, every box", trained_on, detector, images, truth, most=1000))
    return rows


def format_table(rows: Sequence[OracleRecall]) -> str:
    """The rows as Markdown."""
    lines = [
        "| oracle | trained on | recall | precision | boxes an image | ms an image |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.oracle} | {r.trained_on} | {r.recall:.2f} | {r.precision:.2f} | {r.boxes_per_image:.1f} "
        f"| {r.ms_per_image:.0f} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fastestdet", type=Path)
    options = parser.parse_args()
    rows = oracle_rows(options.folder, options.fastestdet)
    print(f"{rows[0].objects} objects over 2% of the image area\n")
    print(format_table(rows))


if __name__ == "__main__":
    main()
