"""The 150 classes of ADE20K, their published colours, and the way between class maps and colour images.

ControlNet-seg expects a segmentation in these colours. The names and colours are those of the ADE20K benchmark (Zhou
et al., "Scene Parsing through ADE20K Dataset", 2017) as its common toolkits print them; ``coco_panoptic.csv`` says
which class, if any, stands for each of COCO's 133 panoptic categories.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption

Colours = NDArray[np.uint8]
Classes = NDArray[np.uint8]

UNLABELLED = 255
"""The class of a pixel that belongs to none; its colour is black, which no class has."""
TWINS = {48: 6}
"""Classes that share a colour: the palette draws a skyscraper as a road, so it is read back as one."""


def _rows(name: str) -> list[dict[str, str]]:
    text = files("semaug.prompt_synthesis").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def class_names() -> tuple[str, ...]:
    """The 150 names, in the order of the class numbers.

    >>> class_names()[0], class_names()[149]
    ('wall', 'flag')
    """
    return tuple(row["name"] for row in _rows("ade20k.csv"))


@cache
def palette() -> Colours:
    """The colour of every class, RGB: uint8, shape (256, 3), row ``UNLABELLED`` and those without a class black."""
    colours = np.zeros((256, 3), np.uint8)
    for number, row in enumerate(_rows("ade20k.csv")):
        colours[number] = int(row["red"]), int(row["green"]), int(row["blue"])
    colours.flags.writeable = False
    return colours


@cache
def coco_panoptic_names() -> tuple[str, ...]:
    """COCO's 133 panoptic categories, things first, in the order of their contiguous numbers."""
    return tuple(row["name"] for row in _rows("coco_panoptic.csv"))


@cache
def _numbers() -> Mapping[str, int]:
    """A known label -> its class: ADE20K's names, their other names in use, and COCO's panoptic categories."""
    found = {name: number for number, name in enumerate(class_names())}
    found |= {row["also"]: found[row["name"]] for row in _rows("ade20k.csv") if row["also"]}
    return found | {
        row["name"]: found[row["ade20k"]] if row["ade20k"] else UNLABELLED for row in _rows("coco_panoptic.csv")
    }


def class_of(label: str, more: Mapping[str, str] | None = None) -> int:
    """The class a label stands for, ``UNLABELLED`` for a COCO category that has no counterpart.

    A label with synonyms ("road, route") counts by its first. ``more`` maps further labels to ADE20K's names. Raises
    ``InvalidOption`` for a label nobody knows.

    >>> class_of("road, route"), class_of("tree-merged"), class_of("skis") == UNLABELLED
    (6, 4, True)
    """
    text = label.strip().lower()
    text = (more or {}).get(label, (more or {}).get(text, text)).split(",")[0].strip().lower()
    try:
        return _numbers()[text]
    except KeyError:
        raise InvalidOption(
            f"{label!r} is neither a class of ADE20K nor a panoptic category of COCO; map it to one of ADE20K's names"
        ) from None


def to_colours(classes: NDArray[Any]) -> Colours:
    """The colour image of a class map: (height, width) of class numbers -> uint8 (height, width, 3)."""
    known = (classes >= 0) & ((classes < len(class_names())) | (classes == UNLABELLED))
    if not known.all():
        raise InvalidOption(f"the class map holds {classes[~known][0]}, expected 0 to 149, or {UNLABELLED} for none")
    return palette()[classes]


def to_classes(colours: Colours) -> Classes:
    """The class map of a colour image, exactly: uint8 (height, width, 3) -> uint8 (height, width).

    Where two classes share a colour the lower number is returned (``TWINS``). Raises ``InvalidOption`` for a colour
    outside the palette, as a resized or compressed image has: ``snap`` it first.
    """
    codes, numbers = _codes()
    asked = _code(colours)
    place = np.minimum(np.searchsorted(codes, asked), len(codes) - 1)
    strange = codes[place] != asked
    if strange.any():
        first = colours[strange][0].tolist()
        raise InvalidOption(
            f"{int(strange.sum())} pixels, the first {first}, are not of ADE20K's palette; snap it first"
        )
    return numbers[place]


def snap(image: Colours) -> Colours:
    """The image with each pixel replaced by the nearest colour of the palette, black included (squared distance)."""
    colours, back = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    known = _known_colours().astype(np.int32)
    nearest = np.empty(len(colours), np.intp)
    for start in range(0, len(colours), 4096):
        part = colours[start : start + 4096].astype(np.int32)
        nearest[start : start + 4096] = ((part[:, None] - known) ** 2).sum(-1).argmin(1)
    return known[nearest].astype(np.uint8)[back].reshape(image.shape)


def check_labels(labels: Sequence[str], more: Mapping[str, str] | None = None) -> NDArray[np.uint8]:
    """The class of every label of a model: uint8, shape (labels,). Raises what ``class_of`` raises."""
    return np.array([class_of(label, more) for label in labels], np.uint8)


def _code(colours: Colours) -> NDArray[np.int64]:
    channels = colours.astype(np.int64)
    return (channels[..., 0] << 16) | (channels[..., 1] << 8) | channels[..., 2]


def _known_colours() -> Colours:
    return palette()[[*range(len(class_names())), UNLABELLED]]


@cache
def _codes() -> tuple[NDArray[np.int64], Classes]:
    """The distinct colours as sorted numbers, and the lowest class of each."""
    codes, first = np.unique(_code(_known_colours()), return_index=True)
    return codes, np.array([*range(len(class_names())), UNLABELLED], np.uint8)[first]
