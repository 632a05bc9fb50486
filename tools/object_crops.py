"""Cut the labelled objects out of annotated images, into class folders for training and for testing.

    python tools/object_crops.py "yolo:../shared/data/coco128/boxes?images=../shared/data/coco128/images" crops/

All crops of one image go to one side (``split`` draws the images, by seed 0), so that no scene is on both. A crop shows
the box and ``CONTEXT`` of its sides around it; small objects, crowds, and classes with too few images are left out.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import encode_png
from semaug.artifacts.draws import generator
from semaug.artifacts.files import write_atomic
from semaug.eval.detection.data import AnnotatedImage
from semaug.eval.detection.door import open_detection_set

CONTEXT = 0.5
"""What a crop shows around the box, as a share of the box's sides."""
SMALLEST = 32
"""Pixels of a box's shorter side."""
IMAGES = 4
"""Images that must show a class."""
TEST_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Crop:
    """One object: the image it is in, its number there, its class, and its box (x0, y0, x1, y1) in pixels."""

    image: AnnotatedImage
    number: int
    name: str
    box: NDArray[np.float32]


def crops_of(images: Sequence[AnnotatedImage], names: Sequence[str]) -> Iterator[Crop]:
    """The objects that are large enough and neither crowds nor difficult."""
    for image in images:
        objects = image.objects
        for i in range(len(objects)):
            low, high = objects.boxes[i, :2], objects.boxes[i, 2:]
            if (high - low).min() >= SMALLEST and not objects.crowd[i] and not objects.difficult[i]:
                yield Crop(image, i, names[int(objects.labels[i])], objects.boxes[i])


def split(crops: Sequence[Crop], share: float = TEST_SHARE) -> dict[str, list[Crop]]:
    """The crops of whole images for training and for testing, of the classes that both sides show.

    A class needs ``IMAGES`` images; images are drawn for testing until ``share`` of them are.
    """
    shown: dict[str, set[str]] = defaultdict(set)
    for crop in crops:
        shown[crop.name].add(crop.image.key)
    kept = [crop for crop in crops if len(shown[crop.name]) >= IMAGES]
    keys = sorted({crop.image.key for crop in kept})
    order = generator(0, "object-crops").permutation(len(keys))
    test = {keys[i] for i in order[: round(share * len(keys))]}
    parts = {"train": [c for c in kept if c.image.key not in test], "test": [c for c in kept if c.image.key in test]}
    both = set.intersection(*({crop.name for crop in part} for part in parts.values()))
    return {side: [crop for crop in part if crop.name in both] for side, part in parts.items()}


def cut(pixels: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The box with its context, uint8 (h, w, 3), inside the image."""
    height, width = pixels.shape[:2]
    margin = CONTEXT / 2 * (box[2:] - box[:2])
    x0, y0 = np.maximum(np.floor(box[:2] - margin), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(box[2:] + margin), (width, height)).astype(int)
    return np.ascontiguousarray(pixels[y0:y1, x0:x1])


def write_crops(crops: Sequence[Crop], folder: Path) -> None:
    """Each crop as CLASS/IMAGE-NUMBER.png."""
    for crop in crops:
        place = folder / crop.name.replace("/", "-").replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        picture = encode_png(cut(crop.image.read(), crop.box))
        write_atomic(place / f"{Path(crop.image.key).stem}-{crop.number}.png", picture)


def main() -> None:
    """Write the crops and say how many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", help="what `semaug eval detect --train` takes")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    found = open_detection_set(options.annotations)
    for side, crops in split(list(crops_of(found.images, found.class_names))).items():
        write_crops(crops, options.out / side)
        count = Counter(crop.name for crop in crops)
        images = len({crop.image.key for crop in crops})
        print(f"{side}: {len(crops)} crops of {images} images in {len(count)} classes")


if __name__ == "__main__":
    main()
