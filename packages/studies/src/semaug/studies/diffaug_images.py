"""Images as DiffAug trains on them, and the one door to its samples: images or a table (DiffAug, spec S4.3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts.errors import InvalidOption, SourceError, UnreadableImage
from semaug.artifacts.sources import ImageSource, open_source
from semaug.artifacts.sources.base import Source
from semaug.artifacts.tables import is_table, open_table
from semaug.diffaug_core.augment import from_pixels
from semaug.diffaug_core.encoders import CENTRED
from semaug.diffaug_core.neighbours import NeighbourSettings
from semaug.diffaug_core.table_samples import TableSamples

if TYPE_CHECKING:
    from semaug.pairs_dataset import PairSource

PRESET = "diffaug"
"""The paper's hand-made augmentation of images."""
KEPT = 2**30
"""Bytes of prepared images up to which they are kept in memory."""
_PROBES = 32


class CentreSquares(Source):
    """The images of ``source`` at ``size`` pixels a side: the short side resized, then the centre square.

    One antialiased resampling does both (``eval.features.prepare``). Prepared images are kept in memory where all of
    them fit ``KEPT``. Keys, labels and fingerprint are those of ``source``.
    """

    def __init__(self, source: ImageSource, size: int) -> None:
        if size < 8:
            raise InvalidOption(f"size is {size} pixels; DiffAug takes images of 8 or more")
        self.source, self.size, self.spec = source, size, source.spec
        self.class_names = tuple(source.class_names)

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def label(self, index: int) -> int | None:
        return self.source.label(index)

    @cached_property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    @property
    def pixels(self) -> str:
        """As ``source`` has it."""
        return getattr(self.source, "pixels", "")

    def read(self, index: int) -> NDArray[np.uint8]:
        """The image: uint8 (size, size, 3); raises ``UnreadableImage``."""
        from semaug.eval.features import prepare

        kept = self._kept
        if kept is None:
            return prepare(self.source.read(index), self.size, 1.0)
        images, known = kept
        if not known[index]:
            images[index] = prepare(self.source.read(index), self.size, 1.0)
            known[index] = True
        return images[index]

    @cached_property
    def _kept(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        shape = (len(self), self.size, self.size, 3)
        if np.prod(shape) > KEPT:
            return None
        return np.empty(shape, np.uint8), np.zeros(len(self), np.bool_)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


class ImageSamples:
    """Images as DiffAug's samples (``diffaug_core.samples.Samples``): float32 (B, 3, S, S) in [-1, 1].

    ``clean`` gives the centre squares of ``size`` pixels, ``hand`` views of them by ``preset``, the same as those of
    ``StandardPairs`` over these squares. ``notes`` say what was resized.
    """

    def __init__(self, source: ImageSource, size: int, *, preset: str = PRESET, notes: Sequence[str] = ()) -> None:
        self.source, self.preset, self.notes = source, preset, tuple(notes)
        self.squares = CentreSquares(source, size)
        self._pairs: dict[int, PairSource] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, S, S)."""
        return (3, self.squares.size, self.squares.size)

    @cached_property
    def keys(self) -> Sequence[str]:
        """The images' keys."""
        return [self.source.key(i) for i in range(len(self.source))]

    @property
    def fingerprint(self) -> str:
        """The source's: what is made of these samples fits the images themselves."""
        return self.source.fingerprint

    @property
    def pixels(self) -> str:
        """What identifies the pixels of a resized pack, whose fingerprint is that of its origin."""
        return self.squares.pixels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that labels index."""
        return tuple(self.source.class_names)

    def __len__(self) -> int:
        return len(self.source)

    def clean(self, indices: NDArray[np.int64]) -> Tensor:
        """The images themselves; raises ``UnreadableImage``."""
        return from_pixels(np.stack([self.squares.read(i) for i in indices.tolist()]))

    def hand(self, indices: NDArray[np.int64], *, seed: int, epoch: int, view: int) -> Tensor:
        """View ``view`` (0 or 1) of the images in ``epoch``: a function of the arguments and the images' keys."""
        pairs = self._pairs_of(seed)
        pairs.set_epoch(epoch)
        views = torch.empty(len(indices), 2, *self.shape)
        for row, index in zip(views.numpy(), indices.tolist(), strict=True):
            pairs.write_views(index, [view], [row])
        return views[:, view].contiguous()

    def label(self, index: int) -> int | None:
        """The class of one image."""
        return self.source.label(index)

    def settings(self) -> dict[str, Any]:
        """What decides the samples beside the images, as plain values."""
        from semaug.pairs_dataset.presets import preset, recipe_dict

        own = {"pixels": self.pixels} if self.pixels else {}
        return {"size": self.squares.size, "recipes": [recipe_dict(r) for r in preset(self.preset)], **own}

    def _pairs_of(self, seed: int) -> PairSource:
        """The pairs whose views are the hand-made augmentations; one seed's are at hand."""
        from semaug.pairs_dataset import make_pairs

        if seed not in self._pairs:
            size = self.squares.size
            self._pairs = {
                seed: make_pairs(
                    "standard", self.squares, preset=self.preset, size=size, mean=CENTRED, std=CENTRED, seed=seed
                )
            }
        return self._pairs[seed]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pairs": {}}


def image_samples(source: ImageSource, size: int | None = None, *, preset: str = PRESET) -> ImageSamples:
    """The images of ``source`` as samples of ``size`` pixels a side; None takes images that are squares of one size.

    Raises ``InvalidOption`` for images of several sizes, or none squares, where no ``size`` is given.
    """
    shapes = _probed(source)
    found = sorted({f"{w} x {h}" for h, w in shapes}, key=lambda text: int(text.split()[0]))
    same = len(found) == 1 and shapes[0][0] == shapes[0][1]
    if size is None and not same:
        sizes = found[0] if len(found) == 1 else f"of {len(found)} sizes, {found[0]} to {found[-1]},"
        raise InvalidOption(
            f"images of {source.spec} are {sizes} and DiffAug takes squares of one; give --size, to which the short "
            "side is resized before the centre square is taken"
        )
    side = shapes[0][0] if size is None else size
    note = f"images of {', '.join(found[:3])} pixels: the short side is resized to {side}, then the centre square taken"
    return ImageSamples(source, side, preset=preset, notes=() if same and shapes[0][0] == side else (note,))


def _probed(source: ImageSource) -> list[tuple[int, int]]:
    """Heights and widths of at most 32 images, evenly spread, as far as they can be read."""
    if not len(source):
        raise InvalidOption(f"{source.spec} holds no images; check the folder")
    chosen = np.unique(np.linspace(0, len(source) - 1, _PROBES).astype(int)).tolist()
    found, failed = [], ""
    for index in chosen:
        try:
            height, width, _ = source.read(index).shape
            found.append((height, width))
        except UnreadableImage as error:
            failed = failed or f"{source.key(index)}: {error}"
    if not found:
        raise InvalidOption(f"{source.spec}: none of {len(chosen)} images can be read, the first: {failed}")
    return found


def samples_of(
    spec: str | os.PathLike[str],
    *,
    size: int | None = None,
    preset: str = PRESET,
    neighbours: NeighbourSettings = NeighbourSettings(),  # noqa: B008 (frozen)
    cache: Path | None = None,
) -> ImageSamples | TableSamples:
    """What DiffAug trains on: the images or the table that ``spec`` names.

    ``size`` and ``preset`` are for images (``image_samples``), ``neighbours`` and ``cache`` for tables. A ``.csv`` or
    ``.parquet`` file is a list of images where it names files, else a table. Raises what ``open_source``,
    ``open_table`` and ``image_samples`` raise, and ``InvalidOption`` for a size of a table.
    """
    text = os.fspath(spec)
    if (source := images_of(text)) is not None:
        return image_samples(source, size, preset=preset)
    if size is not None:
        raise InvalidOption(f"size {size} is for images and {text} is a table; leave --size out")
    return TableSamples(open_table(text), neighbours, cache=cache)


def images_of(spec: str) -> ImageSource | None:
    """The images of a spec; None where it names a table. Raises what ``open_source`` raises."""
    if is_table(spec):
        return None
    if Path(spec.partition("?")[0]).suffix.lower() not in (".csv", ".parquet"):
        return open_source(spec)
    try:
        return open_source(spec)
    except SourceError:
        return None
