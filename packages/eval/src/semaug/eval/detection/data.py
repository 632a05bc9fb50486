"""Images with annotated objects, as detectors learn from and are judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.schemas import Rle
from semaug.eval.errors import EvaluationError


class DetectionDataError(EvaluationError):
    """Annotations or images that no detector can be trained or judged on."""


Polygon = NDArray[np.float64]
"""float64, shape (points, 2): x, y in pixels."""

Outline = tuple[Polygon, ...] | Rle
"""The shape of one object: polygons that together cover it, or a run-length mask of the image's size."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The n objects of an image.

    ``boxes`` is float32 (n, 4): xyxy, pixels, exclusive end; ``labels`` int64 (n,) indexes the class names;
    ``difficult`` (VOC) objects are trained on and never judged; ``crowd`` (COCO) regions are not trained on, and
    detections inside them are not judged. ``areas`` is float64 (n,), square pixels: of the outlines where there are
    some, else of the boxes. ``outlines`` holds one for each object, or nothing.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    outlines: tuple[Outline, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.bool_]) -> Objects:
        """The objects where the mask ``rows``, shape (n,), is true."""
        outlines = tuple(o for o, kept in zip(self.outlines, rows, strict=True) if kept) if self.outlines else ()
        return Objects(
            self.boxes[rows], self.labels[rows], self.difficult[rows], self.crowd[rows], self.areas[rows], outlines
        )


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image by its path, its (height, width) as annotated, and its objects."""

    key: str
    path: Path
    size: tuple[int, int]
    objects: Objects

    def read(self) -> NDArray[np.uint8]:
        """The pixels, uint8 (height, width, 3); raises ``DetectionDataError`` where they are not what was annotated."""
        try:
            image = decode_image(self.path.read_bytes())
        except (OSError, UnreadableImage) as error:
            raise DetectionDataError(f"{self.path} cannot be read: {error}; mend it or leave it out") from error
        if image.shape[:2] != self.size:
            found = f"{image.shape[0]}x{image.shape[1]}"
            raise DetectionDataError(
                f"{self.path} is {found} pixels (height x width) and was annotated at {self.size[0]}x{self.size[1]}; "
                "use the images that were annotated"
            )
        return image


@dataclass(frozen=True, slots=True)
class DetectionSet:
    """Annotated images of one list of classes; ``notes`` say what a reader of a result must know."""

    spec: str
    images: tuple[AnnotatedImage, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def objects(self) -> int:
        """Objects that are judged: neither difficult nor crowds."""
        return sum(int((~(i.objects.difficult | i.objects.crowd)).sum()) for i in self.images)

    @property
    def fingerprint(self) -> str:
        """blake2b (32 hex digits) over keys, sizes and annotations, and the images' sizes in bytes."""
        digest = hashlib.blake2b("\x1f".join(self.class_names).encode(), digest_size=16)
        for image in self.images:
            digest.update(f"\x1e{image.key}\x1f{image.size}\x1f{image.path.stat().st_size}".encode())
            objects = image.objects
            for values in (objects.boxes, objects.labels, objects.difficult, objects.crowd, objects.areas):
                digest.update(np.ascontiguousarray(values).tobytes())
            for outline in objects.outlines:
                parts = [outline.counts] if isinstance(outline, Rle) else [p.tobytes() for p in outline]
                for part in parts:
                    digest.update(part)
        return digest.hexdigest()


def join(sets: Sequence[DetectionSet]) -> DetectionSet:
    """One set of several (VOC's trainval of 2007 and 2012), classes matched by name.

    Keys are led by the place of their set where there are several.
    """
    if len(sets) == 1:
        return sets[0]
    names = _union([s.class_names for s in sets])
    images = []
    for place, part in enumerate(sets):
        images += [replace(i, key=f"{place}/{i.key}") for i in _renumbered(part, names).images]
    notes = tuple(note for part in sets for note in part.notes)
    return DetectionSet(" + ".join(s.spec for s in sets), tuple(images), names, notes)


def match_classes(train: DetectionSet, test: DetectionSet) -> tuple[DetectionSet, DetectionSet, tuple[str, ...]]:
    """Both sets on one list of class names (the training set's, then what only the test set has), and notes.

    Raises ``DetectionDataError`` where a set has no object to learn from or to judge.
    """
    for part, role in ((train, "train"), (test, "test")):
        if not part.objects:
            raise DetectionDataError(f"{part.spec} has {len(part)} images and no object to {role} on; check the labels")
    names = _union([train.class_names, test.class_names])
    train, test = _renumbered(train, names), _renumbered(test, names)
    learned, judged = _present(train), _present(test)
    unseen = [names[label] for label in sorted(judged - learned)]
    if not unseen:
        return train, test, ()
    told = ", ".join(unseen[:3]) + (", ..." if len(unseen) > 3 else "")
    return train, test, (f"{len(unseen)} classes of the test images have no training objects ({told}): AP counts them",)


def _present(data: DetectionSet) -> set[int]:
    found = (i.objects.labels[~(i.objects.difficult | i.objects.crowd)] for i in data.images)
    return {int(label) for labels in found for label in np.unique(labels)}


def _union(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _renumbered(data: DetectionSet, names: tuple[str, ...]) -> DetectionSet:
    if data.class_names == names:
        return data
    place = {name: index for index, name in enumerate(names)}
    numbers = np.asarray([place[name] for name in data.class_names], dtype=np.int64)
    images = (replace(i, objects=replace(i.objects, labels=numbers[i.objects.labels])) for i in data.images)
    return replace(data, images=tuple(images), class_names=names)
