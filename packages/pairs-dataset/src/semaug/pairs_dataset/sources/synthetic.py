"""Synthetic positives: how real images and those generated from them meet in a pair (LMM-MPA, spec S2.4 to S2.6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import draw_key, uniform, uniforms
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.sources import ImageSource
from semaug.artifacts.synthetic_table import SimilarityTable, SyntheticTable
from semaug.pairs_dataset.crops import CropRule
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.presets import TRANSFORMS, Recipe
from semaug.pairs_dataset.sources.base import PairSource, Plan, Raw, ViewSettings
from semaug.pairs_dataset.sources.semantic import side_by_side

REAL = -1
"""Stands for the real image among the numbers of synthetic ones."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One view of an item: of the real image, of the ``number``-th synthetic one drawn, or of ``either`` by chance.

    Different numbers are different synthetic images. Without ``augmented`` the view is the whole image, unaltered.
    """

    picture: Literal["real", "synthetic", "either"]
    augmented: bool = True
    number: int = 0


@dataclass(frozen=True, slots=True)
class UsageMode:
    """How views meet: one tuple of streams for each item of an image, and which views of an item are positives.

    No ``pairing`` leaves that to the method, as it does for two views. The items of a mode augment alike.
    """

    items: tuple[tuple[Stream, ...], ...]
    text: str
    pairing: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if len({tuple(s.augmented for s in item) for item in self.items}) != 1 or len(self.items[0]) < 2:
            raise ValueError(f"the items of a mode need the same two or more augmentations each, got {self.items}")

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams of the first item."""
        return self.items[0]

    @property
    def compute(self) -> float:
        """Views that are encoded, as a multiple of plain training's two."""
        return len(self.streams) / 2

    @property
    def needed(self) -> int:
        """Different synthetic images that an item takes."""
        return max((s.number + 1 for item in self.items for s in item if s.picture != "real"), default=0)


_X, _RAW_X = Stream("real"), Stream("real", augmented=False)
_S, _RAW_S = Stream("synthetic"), Stream("synthetic", augmented=False)
_ANY = Stream("either")

MODES: Mapping[str, UsageMode] = {
    "a": UsageMode(((_X, _S),), "real against synthetic, both augmented"),
    "b": UsageMode(((_X, _RAW_S),), "real against synthetic, only the real one augmented"),
    "c": UsageMode(((_RAW_X, _RAW_S),), "real against synthetic, neither augmented"),
    "d": UsageMode(((_X, _X, _S),), "two views of the real image and one of the synthetic", ((0, 2), (0, 1), (1, 2))),
    "e": UsageMode(((_X, _X),), "two views of the real image: plain training"),
    "f": UsageMode(((_S, _S),), "two views of the synthetic image in place of the real one"),
    "g": UsageMode(((_RAW_X, _X),), "the real image itself against a view of it"),
    "h": UsageMode(((_RAW_S, _S),), "the synthetic image itself against a view of it"),
    "g-pool": UsageMode(((_ANY, _ANY),), "another reading of g: two views of the real or the synthetic image"),
    "h-distinct": UsageMode(((_S, Stream("synthetic", number=1)),), "another reading of h: two synthetic images"),
    "mix": UsageMode(((_X, _X), (_S, _S)), "real and synthetic images as items of their own (Table 4)"),
}
"""The paper's uses (a) to (h) (Table 12), of which (b), (g) and (h) are readings, since its figure shows them and its
text does not say; two other readings; and the Mix control of 2N items."""


def usage_mode(name: str, direct_views: int = 2) -> UsageMode:
    """A mode by name; ``direct`` is the direct-generation control: views of ``direct_views`` images of one caption.

    Raises ``InvalidOption`` naming the modes there are.
    """
    if name == "direct":
        if direct_views < 2:
            raise InvalidOption(f"direct_views is {direct_views}; a positive pair takes 2 or more")
        streams = tuple(Stream("synthetic", number=k) for k in range(direct_views))
        return UsageMode((streams,), f"{direct_views} images generated from one caption (Table 8)")
    if direct_views != 2:
        raise InvalidOption(f"direct_views {direct_views} is for mode 'direct' and this is {name!r}; leave it out")
    if name not in MODES:
        raise InvalidOption(f"no mode is called {name!r}; choose one of {', '.join(MODES)}, direct")
    return MODES[name]


def stream_recipes(mode: UsageMode, recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """The recipe of every stream: the preset's two in turn, and nothing but the resize where it is not augmented."""
    chosen = (recipes[place % len(recipes)] for place in range(len(mode.streams)))
    return tuple(
        recipe if stream.augmented else recipe.without(*TRANSFORMS)
        for stream, recipe in zip(mode.streams, chosen, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Choices:
    """The synthetic images of every image: those of image i are ``rows[offsets[i]:offsets[i + 1]]``, int64, with
    ``REAL`` where the real image takes a synthetic one's place."""

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]

    def of(self, position: int) -> NDArray[np.int64]:
        """The synthetic images of one image."""
        return self.rows[self.offsets[position] : self.offsets[position + 1]]

    @property
    def replaced(self) -> int:
        """How many the real image stands in for."""
        return int((self.rows == REAL).sum())


def plan_choices(
    source: ImageSource,
    images: NDArray[np.int64],
    table: SyntheticTable,
    similarity: SimilarityTable | None = None,
    least: float | None = None,
) -> tuple[NDArray[np.int64], Choices]:
    """The images that have synthetic ones, and which; below the cosine ``least`` the real image takes their place.

    Raises ``ArtifactError`` for synthetic images or similarities of others, ``InvalidOption`` where only one of
    ``similarity`` and ``least`` is given, ``NoPairs`` when no image has any.
    """
    if (similarity is None) != (least is None):
        raise InvalidOption("--similarity and --min-similarity go together; give both, or neither")
    table.require_source(source.fingerprint)
    if similarity is not None:
        similarity.require_images(table)
    of = table.by_origin()
    kept = np.array([i for i in images.tolist() if source.key(i) in of], np.int64)
    if not len(kept):
        raise NoPairs(f"none of {len(images)} images has a synthetic one; run `semaug synth run` on this folder")
    lists = [[_judged(table, place, similarity, least) for place in of[source.key(i)]] for i in kept.tolist()]
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return kept, Choices(offsets, np.array([row for rows in lists for row in rows], np.int64))


def _judged(table: SyntheticTable, place: int, similarity: SimilarityTable | None, least: float | None) -> int:
    if similarity is None or least is None:
        return place
    return place if similarity.keeps(table.rows[place].key, least) else REAL


class SyntheticPairs(PairSource):
    """Views of a real image and of images generated from it, as ``mode`` says.

    Each epoch one synthetic image (as many as the mode needs) is drawn uniformly for every item. All draws are keyed by
    the real image, so that a view of it is that of ``StandardPairs``: mode `e` is plain training bit for bit. Local
    views take the pictures of the global ones in turn. The index of an item is the real image's.
    """

    def __init__(
        self,
        source: ImageSource,
        images: NDArray[np.int64],
        generated: ImageSource,
        choices: Choices,
        mode: UsageMode,
        views: ViewSettings,
        *,
        seed: int,
        rule: CropRule,
    ) -> None:
        if len(views.recipes) != len(mode.streams):
            raise InvalidOption(f"{len(views.recipes)} recipes for {len(mode.streams)} streams; give one a stream")
        super().__init__(source, images, views, seed=seed, rule=rule)
        self.generated, self.choices, self.mode = generated, choices, mode
        self.copies, self.pairing = len(mode.items), mode.pairing
        self.digests: dict[str, str] = {}
        counts = np.diff(choices.offsets)
        if (fewest := int(counts.min())) < mode.needed:
            key = source.key(int(images[counts.argmin()]))
            raise InvalidOption(
                f"{mode.text} takes {mode.needed} synthetic images of each real one, {key!r} has {fewest}; "
                "generate more (--n-sem, --n-vp, --repeats)"
            )

    def inputs(self) -> dict[str, str]:
        """Fingerprints of the real images, the synthetic ones and their similarity."""
        return super().inputs() | self.digests

    def pictures(self, item: int) -> list[int]:
        """What the global views of ``item`` show in this epoch: the numbers of synthetic images, or ``REAL``."""
        position, copy = self._item(self._checked(item))
        return self._pictures(position, copy, self._name(position))

    def raw(self, item: int) -> Raw:
        """As of one image: what the views need of every picture, side by side."""
        position, copy = self._item(self._checked(item))
        name, index = self._name(position), int(self.images[position])
        parts: list[NDArray[np.uint8]] = []
        crops, left = np.empty((len(self._rules), 4), np.int64), 0
        for image, views in self._by_picture(position, copy, name):
            own = self._plan(position, copy, name, image.shape[0], image.shape[1]).crops[views]
            top, start = own[:, :2].min(axis=0)
            bottom, end = (own[:, :2] + own[:, 2:]).max(axis=0)
            parts.append(image[top:bottom, start:end])
            crops[views] = own - [top, start - left, 0, 0]
            left += end - start
        return index, side_by_side(parts), crops, self._keys("photometric", name, copy), self._recipes

    def _pictures(self, position: int, copy: int, name: str) -> list[int]:
        streams = self.mode.items[copy]
        key = draw_key(self.seed, "synthetic-pick", self.epoch, name)
        drawn = _distinct(self.choices.of(position), self.mode.needed, key)
        return [self._picture(stream, drawn, name) for stream in streams]

    def _picture(self, stream: Stream, drawn: Sequence[int], name: str) -> int:
        if stream.picture == "either":
            coin = uniform(draw_key(self.seed, "synthetic-either", self.epoch, name), 0)
            return REAL if coin < 0.5 else drawn[stream.number]
        return REAL if stream.picture == "real" else drawn[stream.number]

    def _by_picture(self, position: int, copy: int, name: str) -> Iterator[tuple[NDArray[np.uint8], list[int]]]:
        """Each picture of an item once, with the numbers of its views."""
        pictures = self._pictures(position, copy, name)
        views: dict[int, list[int]] = {}
        for view in range(len(self._rules)):
            views.setdefault(pictures[view % len(pictures)], []).append(view)
        for picture, own in views.items():
            real = picture == REAL
            image = self._read(int(self.images[position])) if real else self.generated.read(picture)
            yield np.ascontiguousarray(image), own

    def _write(self, item: int, out: Sequence[NDArray[np.float32]]) -> int:
        position, copy = self._item(item)
        name = self._name(position)
        keys = self._keys("photometric", name, copy)
        places = [(group, slot) for group in out for slot in range(len(group))]
        for image, views in self._by_picture(position, copy, name):
            plan: Plan = self._plan(position, copy, name, image.shape[0], image.shape[1])
            for view in views:
                group, slot = places[view]
                self._render(position, image, plan, keys, slice(view, view + 1), group[slot : slot + 1])
        return int(self.images[position])


def _distinct(rows: NDArray[np.int64], count: int, key: int) -> list[int]:
    """``count`` of ``rows`` at different places, in drawn order; every ordered choice is equally likely."""
    order = rows.tolist()
    for place, number in enumerate(uniforms(key, count).tolist()):
        chosen = place + int(number * (len(order) - place))
        order[place], order[chosen] = order[chosen], order[place]
    return order[:count]


def stream_views(views: ViewSettings, mode: UsageMode) -> ViewSettings:
    """The settings of plain views, for the streams of ``mode``."""
    return replace(views, recipes=stream_recipes(mode, views.recipes))
