"""What every source of positive pairs shares: items, draws, views written in place, epochs, batches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from semaug.artifacts.decode import decode_image
from semaug.artifacts.draws import draw_keys
from semaug.artifacts.errors import InvalidOption, UnreadableImage
from semaug.artifacts.sources import ImageSource, inputs_of
from semaug.pairs_dataset.crops import CropRule, plan_crops
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.jpeg_regions import Box, JpegFile
from semaug.pairs_dataset.local_views import LocalViews
from semaug.pairs_dataset.photometrics import normalisation, render_views, scratch_length
from semaug.pairs_dataset.presets import Recipe

Pair = tuple[Any, ...]
"""(view_1, view_2, local views ..., index)."""
Triple = tuple[float, float, float]

_NO_BOXES = np.zeros((0, 4))
_NO_RUNS = np.zeros((0, 2), np.int32)
_ZERO_OFFSET = np.zeros(1, np.int64)
_UNIT_SIZE = np.ones(2, np.int64)
_LEAST_BYTES = 4096
"""Smaller files are decoded whole, without a look at their layout."""


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """How views look: one recipe a global view, ``size`` pixels a side, normalised by ``mean`` and ``std`` (values 0 to
    1); and the local views, if any.
    """

    recipes: tuple[Recipe, ...]
    size: int
    mean: Triple
    std: Triple
    local: LocalViews | None = None

    def __post_init__(self) -> None:
        if self.size < 2:
            raise InvalidOption(f"view size is {self.size}; give 2 pixels or more")
        if min(self.std) <= 0:
            raise InvalidOption(f"std is {self.std}; give three numbers above 0")

    @property
    def local_count(self) -> int:
        """Number of local views."""
        return self.local.count if self.local else 0

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """The shapes of an item's views: the global ones together, then the local ones."""
        groups = ((len(self.recipes), self.size), *([(self.local.count, self.local.size)] if self.local else []))
        return tuple((count, 3, size, size) for count, size in groups)


Raw = tuple[int, NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The crops of an item's V views, the global two first: ``crops`` int64 (V, 4) top, left, height, width; ``chosen``
    int64 (V,), the object's number, -1 for the union of all, -2 for a standard crop."""

    crops: NDArray[np.int64]
    chosen: NDArray[np.int64]


class PairBatch(list[Pair]):
    """The items of a batch, whose views are slices of ``views``, float32 (B, V, 3, S, S) of mostly 2 views, and, with
    multi-crop, of ``local_views``, float32 (B, n, 3, s, s)."""

    def __init__(self, pairs: list[Pair], views: torch.Tensor, local_views: torch.Tensor | None = None) -> None:
        super().__init__(pairs)
        self.views = views
        self.local_views = local_views


def collate_pairs(batch: Sequence[Pair]) -> tuple[torch.Tensor, ...]:
    """``collate_fn`` that hands a ``PairBatch`` on without copying: view 1, view 2 (B, 3, S, S), the local views
    (B, 3, s, s), index int64 (B,)."""
    if not isinstance(batch, PairBatch):  # a loader that fetches item by item
        return tuple(torch.utils.data.default_collate(list(batch)))
    index = torch.tensor([pair[-1] for pair in batch], dtype=torch.int64)
    local = batch.local_views.unbind(1) if batch.local_views is not None else ()
    return (*batch.views.unbind(1), *local, index)


def _batch_buffer(shape: tuple[int, ...]) -> torch.Tensor:
    """Room for a batch: shared memory in a loader's worker (no copy on its way out), else numpy's, which asks for
    huge pages and so costs a third of torch's first touch."""
    if torch.utils.data.get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, np.float32))
    storage = torch.UntypedStorage._new_shared(4 * int(np.prod(shape)))
    return torch.empty(0, dtype=torch.float32).set_(storage, 0, shape)  # type: ignore[call-overload]


class PairSource(Dataset[Pair]):
    """Two views of one image an item: ``(view_1, view_2, index)``, views float32 (3, S, S), index into ``source``; with
    ``views.local`` the local views, float32 (3, s, s), stand before the index.

    A plain map-style Dataset: it works in any loop, with forked and spawned workers, and needs no care under DDP,
    since each item's draws depend on nothing but (seed, epoch, key, copy, view): local views change no global one. Call
    ``set_epoch`` before each epoch; workers that persist see it too. This base class gives standard views; subclasses
    change ``_item`` and ``_plan``.
    """

    copies = 1
    pairing: tuple[tuple[int, int], ...] = ()
    """Which views of an item are positives, where the source and not the method says it (``Method.pairing``)."""
    _needs_whole = False
    """Whether views need more of an image than their crops."""
    collate = staticmethod(collate_pairs)

    def __init__(
        self, source: ImageSource, images: NDArray[np.int64], views: ViewSettings, *, seed: int, rule: CropRule
    ) -> None:
        if len(images) == 0:
            raise NoPairs("no image is left to make pairs of; check the folder and its guidance")
        self.source, self.images, self.views, self.seed, self.rule = source, images, views, seed, rule
        self.config: dict[str, Any] = {}
        self.guidance_digest = ""  # also of pairs that guidance only filters
        self.names: Sequence[str] | None = None  # what the draws are of, in place of the images' keys
        self._recipes, self._rules = _vectors(views, rule)
        self._shares = np.zeros(len(self._rules))
        self._norm = normalisation(views.mean, views.std)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._epoch_now = self._epoch.numpy()  # the same memory, quicker to read
        self._local = threading.local()
        self._has_files = hasattr(source, "encoded")
        self._draws = {p: tuple((p, v) for v in range(len(self._rules))) for p in ("crop", "photometric")}

    def __len__(self) -> int:
        return len(self.images) * self.copies

    def set_epoch(self, epoch: int) -> None:
        """Draw the views of this epoch from now on, in every worker."""
        self._epoch[0] = epoch

    @property
    def epoch(self) -> int:
        """The epoch whose views are drawn."""
        return int(self._epoch_now[0])

    def inputs(self) -> dict[str, str]:
        """Fingerprints of what the pairs are made from, by role."""
        found = inputs_of(self.source)
        return found | {"guidance": self.guidance_digest} if self.guidance_digest else found

    def __getitem__(self, item: int) -> Pair:
        """One pair; raises ``UnreadableImage`` naming the image and the remedy."""
        groups = [torch.empty(shape) for shape in self.views.shapes]
        index = self._write(self._checked(item), [g.numpy() for g in groups])
        return (*(view for group in groups for view in group), index)

    def __getitems__(self, items: Sequence[int]) -> PairBatch:
        """A batch in one buffer, and one of local views (``torch.utils.data`` calls this by itself)."""
        groups = [_batch_buffer((len(items), *shape)) for shape in self.views.shapes]
        out = [g.numpy() for g in groups]
        index = [self._write(self._checked(item), [o[k] for o in out]) for k, item in enumerate(items)]
        return PairBatch([(*(view for g in groups for view in g[k]), i) for k, i in enumerate(index)], *groups)

    def plan(self, item: int, height: int, width: int) -> Plan:
        """Where the views of ``item`` would be cut in this epoch, from an image of ``height`` x ``width`` pixels."""
        position, copy = self._item(self._checked(item))
        return self._plan(position, copy, self._name(position), height, width)

    def raw(self, item: int) -> Raw:
        """What the views of ``item`` are made from in this epoch: the number of its image, the pixels uint8 (H, W, 3),
        of a JPEG file maybe only the part that the crops need, the crops in them int64 (V, 4), the photometric keys
        uint64 (V,) and the recipes float64 (V, RECIPE_FIELDS)."""
        position, copy = self._item(self._checked(item))
        key = self._name(position)
        image, plan = self._cut(position, copy, key, range(len(self._rules)))
        return int(self.images[position]), image, plan.crops, self._keys("photometric", key, copy), self._recipes

    def _checked(self, item: int) -> int:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of {len(self)} pairs")
        return item % len(self)

    def _item(self, item: int) -> tuple[int, int]:
        """Position in ``images``, and the copy's number."""
        return item % len(self.images), item // len(self.images)

    def _name(self, position: int) -> str:
        """What the draws of an item are of."""
        return self.source.key(int(self.images[position])) if self.names is None else self.names[position]

    def _read(self, index: int) -> NDArray[np.uint8]:
        try:
            return np.ascontiguousarray(self.source.read(index))
        except UnreadableImage as error:
            raise self._unreadable(index, error) from error

    def _unreadable(self, index: int, error: UnreadableImage) -> UnreadableImage:
        return UnreadableImage(
            f"{self.source.key(index)}: {error}; remove it, or train on a pack (`semaug data pack`), "
            "which leaves unreadable images out"
        )

    def _cut(self, position: int, copy: int, key: str, which: Sequence[int]) -> tuple[NDArray[np.uint8], Plan]:
        """The pixels of an item and its plan, whose crops lie in those pixels: of a large JPEG file only the part that
        the views ``which`` are cut from, with the same pixels as the whole."""
        index = int(self.images[position])
        data = self._encoded(index)
        if data is None:
            image = self._read(index)
        elif (part := self._part(data, position, copy, key, which)) is not None:
            return part
        else:
            try:
                image = decode_image(data)
            except UnreadableImage as error:
                raise self._unreadable(index, error) from error
        return image, self._plan(position, copy, key, image.shape[0], image.shape[1])

    def _encoded(self, index: int) -> bytes | None:
        """The image's file, where a part of it may do."""
        if not self._has_files or self._needs_whole:
            return None
        try:
            data: bytes | None = cast("Any", self.source).encoded(index)
        except UnreadableImage as error:
            raise self._unreadable(index, error) from error
        self._has_files = data is not None  # a source has files or has none
        return data

    def _part(
        self, data: bytes, position: int, copy: int, key: str, which: Sequence[int]
    ) -> tuple[NDArray[np.uint8], Plan] | None:
        """As ``_cut``, where decoding a part pays and can be done."""
        file = JpegFile.of(data) if len(data) >= _LEAST_BYTES else None
        if file is None:
            return None
        plan = self._plan(position, copy, key, file.height, file.width)
        box = _around(plan.crops[list(which)])
        image = file.read(box) if file.is_worth(box) else None
        return None if image is None else (image, Plan(plan.crops - np.array([box[0], box[1], 0, 0]), plan.chosen))

    def _write(self, item: int, out: Sequence[NDArray[np.float32]]) -> int:
        position, copy = self._item(item)
        key = self._name(position)
        image, plan = self._cut(position, copy, key, range(len(self._rules)))
        keys, first = self._keys("photometric", key, copy), 0
        for group in out:
            views = slice(first, first + len(group))
            self._render(position, image, plan, keys, views, group)
            first += len(group)
        return int(self.images[position])

    def write_views(self, item: int, which: Sequence[int], out: Sequence[NDArray[np.float32]]) -> None:
        """Write some views of ``item`` where they belong in ``out``, an array (n, 3, s, s) a size of views."""
        position, copy = self._item(item)
        key = self._name(position)
        image, plan = self._cut(position, copy, key, which)
        keys = self._keys("photometric", key, copy)
        places = [(group, slot) for group in out for slot in range(len(group))]
        for view in which:
            group, slot = places[view]
            self._render(position, image, plan, keys, slice(view, view + 1), group[slot : slot + 1])

    def _keys(self, purpose: str, key: str, copy: int) -> NDArray[np.uint64]:
        return draw_keys(self.seed, self._draws[purpose], int(self._epoch_now[0]), key, copy)

    def _plan(self, position: int, copy: int, key: str, height: int, width: int) -> Plan:
        keys = self._keys("crop", key, copy)
        crops, chosen = np.empty((len(keys), 4), np.int64), np.empty(len(keys), np.int64)
        plan_crops(
            height, width, keys, keys, self._shares, _NO_BOXES, _NO_RUNS, _ZERO_OFFSET, _UNIT_SIZE, self._rules,
            crops, chosen,
        )  # fmt: skip
        return Plan(crops, chosen)

    def _render(
        self, position: int, image: NDArray[np.uint8], plan: Plan, keys: NDArray[np.uint64], views: slice,
        out: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """Write ``views`` of the item, all of one size, to ``out``."""
        render_views(image, plan.crops[views], keys[views], self._recipes[views], self._norm, self._scratch(), out)

    def _scratch(self) -> NDArray[np.float32]:
        found = getattr(self._local, "scratch", None)
        if found is None:
            largest = max(size for *_, size in self.views.shapes)
            found = self._local.scratch = np.empty(scratch_length(largest), np.float32)
        return cast("NDArray[np.float32]", found)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_local", "_epoch_now")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local(), _epoch_now=state["_epoch"].numpy())


def _around(crops: NDArray[np.int64]) -> Box:
    """The box that holds all crops (V, 4)."""
    top, left = crops[:, :2].min(axis=0).tolist()
    bottom, right = (crops[:, :2] + crops[:, 2:]).max(axis=0).tolist()
    return top, left, bottom - top, right - left


def _vectors(views: ViewSettings, rule: CropRule) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recipes and crop rules, one row a view."""
    recipes = list(views.recipes)
    rules = [replace(rule, scale=r.scale, whole=not r.crop) for r in recipes]
    if views.local is not None:
        recipes += [views.local.recipe] * views.local.count
        rules += [views.local.rule(rule)] * views.local.count
    return np.stack([r.vector() for r in recipes]), np.stack([r.vector() for r in rules])
