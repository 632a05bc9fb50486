"""What oracles find on photographs, what crops in their boxes keep, and what they cost, as one Markdown table.

    python tools/oracle_table.py ../shared/data/coco128 --photographs ../shared/data/imagenet100 \\
        --fastestdet ../shared/models/fastestdet.onnx --folds folds --json oracles.json

- Recall and precision at IoU 0.5 on coco128 (``images/``, and ``boxes/`` in YOLO txt), at most five boxes an image;
  only true objects over 2% of the image count. The same recall on generated scenes.
- Agreement: the share of the ``--photographs`` whose best box overlaps FastestDet's best box at IoU 0.5 or more.
- Retention on coco128: crops by the default rule, every view guided, against the true boxes.
- Seconds of one core per 1,000 decoded photographs, and peak memory of a process of its own: ``oracle_costs.py``.

``objectness`` has seen coco128, so there each image is shown to the fold of ``--folds`` that has not seen it; without
the folds, its cells for coco128 stay empty.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import ImageSource, ScenesSource, open_source
from semaug.artifacts.store import package_versions
from semaug.oracles.annotations import AnnotationDetector, box_overlaps
from semaug.oracles.catalogue import BUILT_IN, OracleSpec, open_detector
from semaug.oracles.protocols import AnyDetector, Boxes, Image, KeyedDetector
from semaug.oracles.selection import box_areas, usable_boxes
from semaug.pairs_dataset import Retention, make_pairs, measure_retention

PLUGIN = Path(__file__).resolve().parents[1] / "examples" / "fastestdet" / "fastestdet_detector.py"
MIN_AREA = 0.02
"""Share of the image: smaller true objects do not count."""
MOST = 5
"""Boxes of an image that recall looks at."""


@dataclass(frozen=True, slots=True)
class Photographs:
    """Images with their true boxes over 2% of the area."""

    source: ImageSource
    images: Sequence[Image]
    truth: Sequence[Boxes]

    def keys(self) -> list[str]:
        """The images' keys, in order."""
        return [self.source.key(i) for i in range(len(self.source))]

    def table(self, boxes: Sequence[Boxes]) -> GuidanceTable:
        """Boxes as guidance; an image without any takes standard crops, as after ``semaug guide extract``."""
        rows = [
            Guidance(key, image.shape[0], image.shape[1], boxes=found, fallback=len(found) == 0)
            for key, image, found in zip(self.keys(), self.images, boxes, strict=True)
        ]
        return GuidanceTable.of(rows)


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall and precision at IoU 0.5 over ``objects`` true boxes, and the boxes an image that were looked at."""

    objects: int
    recall: float
    precision: float
    boxes_per_image: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one process with one thread: seconds per 1,000 images, and its largest resident memory in MB."""

    seconds: float
    memory: float


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; None where a number means nothing."""

    name: str
    trained_on: str
    recall: Recall | None = None
    scenes: Recall | None = None
    agreement: float | None = None
    retention: Retention | None = None
    costs: Costs | None = None


@dataclass(frozen=True, slots=True)
class Oracle:
    """An oracle of the table: its printed name, what it was trained on, and how to open it."""

    name: str
    trained_on: str
    spec: OracleSpec
    folds: Path | None = None
    """Weights to take on coco128 in place of those of ``spec``."""

    @property
    def has_seen_coco(self) -> bool:
        """Whether its figures on coco128 would be of images that it learned."""
        return self.spec.name == "objectness" and self.folds is None


class CrossFitDetector:
    """Shows each image to the ``objectness`` whose training held it out.

    ``folder`` has ``fold-*.safetensors``, each with the held-out images' names, separated by commas, as the metadata
    ``held_out``. Raises ``InvalidOption`` for a folder without folds and for an image that none or several held out.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._folder = folder
        self._by_image: dict[str, AnyDetector] = {}
        for path in sorted(folder.glob("fold-*.safetensors")):
            with safe_open(path, "numpy") as weights:
                held_out = ((weights.metadata() or {}).get("held_out") or "").split(",")
            detector = open_detector(OracleSpec("objectness", (("weights", str(path)),)))
            for stem in (Path(name.strip()).stem for name in held_out if name.strip()):
                if stem in self._by_image:
                    raise InvalidOption(f"{path} holds out {stem}, which another fold held out too; train folds apart")
                self._by_image[stem] = detector
        if not self._by_image:
            raise InvalidOption(f"{folder} has no fold-*.safetensors with held-out images; run tools/train_objectness")

    def detect_keyed(self, keys: Sequence[str], images: Sequence[Image]) -> list[Boxes]:
        """Boxes of shape (n, 4), xyxy, pixels, for every image."""
        return [self._detect_one(key, image) for key, image in zip(keys, images, strict=True)]

    def _detect_one(self, key: str, image: Image) -> Boxes:
        stem = Path(key).stem
        if stem not in self._by_image:
            raise InvalidOption(f"no fold of {self._folder} held out {key}; train the folds on these images")
        return detect_all(self._by_image[stem], [key], [image])[0]


def true_boxes(source: ImageSource, annotations: Path, min_area: float = MIN_AREA) -> tuple[list[Image], list[Boxes]]:
    """Every image with its true boxes over ``min_area`` of the image."""
    detector = AnnotationDetector(annotations)
    images = [source.read(i) for i in range(len(source))]
    boxes = detector.detect_keyed([source.key(i) for i in range(len(source))], images)
    large = [b[box_areas(b) > min_area * i.shape[0] * i.shape[1]] for b, i in zip(boxes, images, strict=True)]
    return images, large


def open_photographs(folder: Path) -> Photographs:
    """A folder with ``images/`` and, in YOLO txt, ``boxes/``."""
    source = open_source(str(folder / "images"))
    return Photographs(source, *true_boxes(source, folder / "boxes"))


def open_scenes(items: int = 300) -> Photographs:
    """Generated scenes with their true boxes."""
    source = ScenesSource("test", items)
    truth = [np.asarray(source.guidance(i).boxes, np.float32) for i in range(items)]
    return Photographs(source, [source.read(i) for i in range(items)], truth)


def detect_all(detector: AnyDetector, keys: Sequence[str], images: Sequence[Image]) -> list[Boxes]:
    """Usable boxes of every image, best first."""
    keyed = isinstance(detector, KeyedDetector)
    found = detector.detect_keyed(keys, images) if keyed else detector.detect(images)  # type: ignore[union-attr]
    return [usable_boxes(b, *i.shape[:2]) for b, i in zip(found, images, strict=True)]


def measure_recall(found: Sequence[Boxes], truth: Sequence[Boxes], most: int = MOST) -> Recall:
    """Share of the true boxes that one of the first ``most`` boxes overlaps at IoU 0.5 or more."""
    looked_at = [boxes[:most] for boxes in found]
    overlaps = [box_overlaps(t, f) >= 0.5 for t, f in zip(truth, looked_at, strict=True)]
    hits = sum(int(o.any(axis=1).sum()) for o in overlaps)
    right, given = sum(int(o.any(axis=0).sum()) for o in overlaps), sum(map(len, looked_at))
    objects = sum(map(len, truth))
    return Recall(objects, hits / max(1, objects), right / max(1, given), given / len(found))


def measure_agreement(found: Sequence[Boxes], reference: Sequence[Boxes]) -> float:
    """Share of all images whose first box overlaps the reference's first box at IoU 0.5 or more."""
    same = [bool((box_overlaps(a[:1], b[:1]) >= 0.5).any()) for a, b in zip(found, reference, strict=True)]
    return float(np.mean(same))


def placed_randomly(boxes: Sequence[Boxes], photographs: Photographs, seed: int = 0) -> list[Boxes]:
    """The same boxes at random places of their images."""
    moved = []
    for key, image, found in zip(photographs.keys(), photographs.images, boxes, strict=True):
        sides = found[:, 2:] - found[:, :2]
        room = np.array(image.shape[1::-1], np.float32) - sides
        start = (generator(seed, "oracle-table", key=key).random(sides.shape) * room).astype(np.float32)
        moved.append(np.concatenate([start, start + sides], axis=1))
    return moved


def costs_apart(spec: OracleSpec, photographs: Path | str) -> Costs:
    """Time and memory of an oracle in a process of its own (``oracle_costs.py``)."""
    command = [sys.executable, str(Path(__file__).with_name("oracle_costs.py")), str(photographs), spec.name]
    command += [word for name, value in spec.options for word in ("--option", f"{name}={value}")]
    return Costs(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def known_oracles(fastestdet: Path | None, folds: Path | None) -> list[Oracle]:
    """The oracles of the table; FastestDet only where its model is given."""
    oracles = [
        Oracle("center", "nothing", OracleSpec("center")),
        Oracle("saliency", "nothing", OracleSpec("saliency")),
    ]
    if "objectness" in BUILT_IN["detector"]:
        oracles.append(
            Oracle("objectness", "490 ImageNet photographs, labelled by FastestDet", OracleSpec("objectness"), folds)
        )
    if fastestdet is not None:
        oracles.append(Oracle("FastestDet", "COCO train2017, coco128 among it", fastestdet_spec(fastestdet)))
    return oracles


def fastestdet_spec(model: Path) -> OracleSpec:
    """The plug-in of ``examples/`` with its model."""
    return OracleSpec(f"{PLUGIN}:FastestDet", (("model", str(model)),))


@dataclass(frozen=True, slots=True)
class Measuring:
    """What every row is measured on."""

    coco: Photographs
    scenes: Photographs
    photographs: Photographs | None
    folder: Path | None
    draws: int

    def retention(self, pairs: str, boxes: Sequence[Boxes] | None) -> Retention:
        """Crops by the default rule in these boxes, against the true boxes of coco128."""
        guidance = None if boxes is None else self.coco.table(boxes)
        made = make_pairs(pairs, self.coco.source, guidance=guidance, seed=0)
        return measure_retention(made, self.coco.table(self.coco.truth), draws=self.draws)

    def rows_of(self, oracle: Oracle, reference: Sequence[Boxes] | None) -> Iterator[Row]:
        """The oracle's row, and the row of random boxes of its sizes."""
        detector = open_detector(oracle.spec)
        on_scenes = measure_recall(_found(detector, self.scenes), self.scenes.truth)
        agreement = costs = None
        if self.photographs is not None and reference is not None and oracle.name != "FastestDet":
            agreement = measure_agreement(_found(detector, self.photographs), reference)
        if self.folder is not None:
            costs = costs_apart(oracle.spec, self.folder)
        if oracle.has_seen_coco:
            yield Row(oracle.name, oracle.trained_on, None, on_scenes, agreement, None, costs)
            return
        found = _found(CrossFitDetector(oracle.folds) if oracle.folds else detector, self.coco)
        recall, kept = measure_recall(found, self.coco.truth), self.retention("guided", found)
        yield Row(oracle.name, oracle.trained_on, recall, on_scenes, agreement, kept, costs)
        if oracle.name != "center":
            yield self.control(oracle.name, found)

    def control(self, name: str, boxes: Sequence[Boxes]) -> Row:
        """Boxes of the same sizes at random places."""
        recall = measure_recall(placed_randomly(boxes, self.coco), self.coco.truth)
        return Row(f"random_box, sizes of {name}", "-", recall, retention=self.retention("random_box", boxes))


def _found(detector: AnyDetector, photographs: Photographs) -> list[Boxes]:
    return detect_all(detector, photographs.keys(), photographs.images)


def oracle_rows(
    folder: Path, photographs: Path | None, fastestdet: Path | None, folds: Path | None = None, *,
    draws: int = 20, scenes: int = 300, costs: bool = True,
) -> list[Row]:  # fmt: skip
    """The rows of the table; cells without their data, and costs where they are not asked for, stay empty."""
    seen, reference = None, None
    if photographs is not None:
        source = open_source(str(photographs))
        images = [source.read(i) for i in range(len(source))]
        seen = Photographs(source, images, [])
        if fastestdet is not None:
            reference = _found(open_detector(fastestdet_spec(fastestdet)), seen)
    coco = open_photographs(folder)
    measuring = Measuring(coco, open_scenes(scenes), seen, photographs if costs else None, draws)
    rows = [Row("standard", "-", retention=measuring.retention("standard", None))]
    for oracle in known_oracles(fastestdet, folds):
        rows += measuring.rows_of(oracle, reference)
    true = Row(
        "true boxes", "-", measure_recall(coco.truth, coco.truth), retention=measuring.retention("guided", coco.truth)
    )
    return [*rows, true, measuring.control("true boxes", coco.truth)]


def cells(row: Row) -> Mapping[str, str]:
    """A row as it is printed; a dash where a number means nothing."""
    return {
        "boxes": row.name,
        "trained on": row.trained_on,
        "recall": _print(row.recall, "recall"),
        "precision": _print(row.recall, "precision"),
        "boxes an image": _print(row.recall, "boxes_per_image", 1),
        "recall, scenes": _print(row.scenes, "recall"),
        "agreement": _print(row, "agreement"),
        "keeps": _print(row.retention, "keeps"),
        "filled": _print(row.retention, "filled"),
        "same": _print(row.retention, "same"),
        "s per 1,000": _print(row.costs, "seconds", 1),
        "memory, MB": _print(row.costs, "memory", 0),
    }


def _print(record: object, name: str, digits: int = 2) -> str:
    value = getattr(record, name, None)
    return "-" if value is None else f"{value:.{digits}f}"


def format_table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    printed = [cells(row) for row in rows]
    lines = ["| " + " | ".join(printed[0]) + " |", "|---" * len(printed[0]) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in printed])


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """The rows unrounded, and what they were measured with."""
    machine = {"platform": platform.platform(), "python": platform.python_version(), "packages": package_versions()}
    settings = {"min_area": MIN_AREA, "most_boxes": MOST}
    content = {"settings": settings, "machine": machine, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="coco128: images/ and boxes/")
    parser.add_argument("--photographs", type=Path, help="imagenet100, for agreement and costs")
    parser.add_argument("--fastestdet", type=Path, help="fastestdet.onnx")
    parser.add_argument("--folds", type=Path, help="cross-fit weights of objectness")
    parser.add_argument("--draws", type=int, default=20, help="pairs of each image for retention")
    parser.add_argument("--scenes", type=int, default=300, help="generated scenes for recall")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    given = options.folder, options.photographs, options.fastestdet, options.folds
    rows = oracle_rows(*given, draws=options.draws, scenes=options.scenes)
    print(format_table(rows))
    if options.json is not None:
        write_json(options.json, rows)


if __name__ == "__main__":
    main()
