"""Whether proposed pairs have other contexts than random pairs of the same class whose objects are as alike.

    python tools/judge_proposals.py scenes proposals.zarr --images "scenes:train?items=600"
    python tools/judge_proposals.py coco128-list --images ../shared/data/coco128 --list list.csv
    python tools/judge_proposals.py coco128 proposals.zarr --images ../shared/data/coco128 --list list.csv

The judge knows the truth and shares nothing with the score that ranked the pairs: no histogram, no gradient, no
guidance. Objects and backgrounds are cut at the true masks. Objects are compared by how far their colours lie apart
(first Wasserstein distance of the three channels of CIELAB) and by the energies of five octaves of detail. Backgrounds
are compared in the same way on scenes, and on coco128 by people's labels: half the L1 distance between the shares of
the panoptic categories behind the object. Each proposal is set against the five random pairs of its class whose objects
are nearest to as alike; what is printed is the mean difference and its 95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from semaug.artifacts.draws import generator
from semaug.artifacts.sources import ImageSource, open_source
from semaug.artifacts.sources.scenes import ScenesSource
from semaug.pairs_dataset.pair_table import PairTable

Mask = NDArray[np.bool_]
QUANTILES = np.linspace(0.015, 0.985, 33)
OCTAVES = 5
NEAREST = 5
DRAWS = 60
"""Random pairs of its class that a proposal's neighbours are sought among, for each proposal."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one region looks like: quantiles of its CIELAB values (33, 3), log energies of its detail (5,)."""

    colours: NDArray[np.float64]
    detail: NDArray[np.float64]

    def distance(self, other: Look) -> float:
        """Colours in units of a hundred, detail in natural logarithms."""
        colours = np.abs(self.colours - other.colours).mean() / 100
        return float(colours + np.abs(self.detail - other.detail).mean() / 10)


@dataclass(frozen=True, slots=True)
class Seen:
    """One image as the judge sees it: the look of its object, and its background as a look or as category shares."""

    name: str
    look: Look
    background: Any


def look(image: NDArray[np.uint8], region: Mask) -> Look:
    """Of the pixels of ``image`` in ``region``."""
    colours = np.quantile(cielab(image[region]), QUANTILES, axis=0)
    picture, energies = Image.fromarray(image).convert("L"), []
    last = np.asarray(picture, np.float64)
    for octave in range(OCTAVES):
        blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(2.0**octave)), np.float64)
        energies.append(np.log(((last - blurred)[region] ** 2).mean() + 1))
        last = blurred
    return Look(colours, np.array(energies))


def cielab(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB uint8 (n, 3) to CIELAB under D65."""
    c = pixels / 255.0
    linear = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def seen_scenes(source: ImageSource) -> dict[str, Seen]:
    """Scenes by key, cut at their true masks."""
    assert isinstance(source, ScenesSource)
    rows = {}
    for i in range(len(source)):
        image, mask = source.read(i), source.plan(i).mask()
        name = source.class_names[source.label(i)]
        rows[source.key(i)] = Seen(name, look(image, mask), look(image, ~mask))
    return rows


def seen_coco(folder: Path, source: ImageSource) -> dict[str, Seen]:
    """The photographs of ``source`` by key; what is behind the largest thing, as shares of panoptic categories."""
    panoptic = json.loads((folder / "panoptic.json").read_text())
    segments = {Path(a["file_name"]).stem: a["segments_info"] for a in panoptic["annotations"]}
    rows = {}
    for i in range(len(source)):
        stem, image = Path(source.key(i)).stem, source.read(i)
        code = np.asarray(Image.open(folder / "panoptic" / f"{stem}.png").convert("RGB")).astype(np.int64)
        ids = code @ np.array([1, 256, 256**2])
        thing = largest_thing(panoptic, segments[stem])
        mask = ids == thing["id"]
        shares: Counter[int] = Counter()
        for segment in segments[stem]:
            if segment["id"] != thing["id"]:
                shares[segment["category_id"]] += int((ids == segment["id"]).sum())
        total = sum(shares.values())
        label = source.label(i)
        assert label is not None
        rows[source.key(i)] = Seen(
            source.class_names[label], look(image, mask), {c: n / total for c, n in shares.items() if total}
        )
    return rows


def largest_thing(panoptic: Any, segments: Sequence[Any]) -> Any:
    """The largest countable object of an image, None without one."""
    things = {c["id"] for c in panoptic["categories"] if c["isthing"]}
    return max((s for s in segments if s["category_id"] in things), key=lambda s: s["area"], default=None)


def write_coco_list(folder: Path, out: Path, name: str) -> int:
    """A .csv of the photographs with the category of their largest thing as their label, where it occurs four times or
    more; ``name`` is ``name`` for COCO's categories, ``supercategory`` for its coarser ones."""
    panoptic = json.loads((folder / "panoptic.json").read_text())
    names = {c["id"]: c[name] for c in panoptic["categories"]}
    found = {
        Path(a["file_name"]).stem: names[thing["category_id"]]
        for a in panoptic["annotations"]
        if (thing := largest_thing(panoptic, a["segments_info"])) is not None
    }
    often = {label for label, count in Counter(found.values()).items() if count >= 4}
    with out.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        kept = sorted((stem, label) for stem, label in found.items() if label in often)
        rows.writerows((str((folder / "images" / f"{stem}.jpg").resolve()), label) for stem, label in kept)
    return len(kept)


def background_distance(a: Seen, b: Seen) -> float:
    """Of looks, or of category shares."""
    if isinstance(a.background, Look):
        return a.background.distance(b.background)
    keys = {*a.background, *b.background}
    return sum(abs(a.background.get(k, 0) - b.background.get(k, 0)) for k in keys) / 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """Means over the proposals and over their matches, the mean difference with its 95% interval, and the means of all
    random pairs."""

    pairs: int
    object_proposed: float
    object_random: float
    context_proposed: float
    context_random: float
    gain: float
    low: float
    high: float
    share: float
    object_at_large: float
    context_at_large: float

    def line(self) -> str:
        return (
            f"{self.pairs} pairs | object distance {self.object_proposed:.3f} vs {self.object_random:.3f} | context "
            f"{self.context_proposed:.3f} vs {self.context_random:.3f} | gain {self.gain:+.3f} "
            f"({self.low:+.3f} to {self.high:+.3f}) | larger in {self.share:.0%} | random pairs at large: object "
            f"{self.object_at_large:.3f}, context {self.context_at_large:.3f}"
        )


def judge(table: PairTable, seen: dict[str, Seen], seed: int = 0) -> Verdict:
    """Compare proposals with random pairs of the same class, matched by the distance of their objects."""
    members: dict[str, list[str]] = {}
    for key, row in seen.items():
        members.setdefault(row.name, []).append(key)
    pools = {name: _random_pool(keys, seen, seed) for name, keys in members.items()}
    rows = []
    for pair in table.rows:
        a, b = seen[pair.image_a], seen[pair.image_b]
        own = a.look.distance(b.look)
        objects, contexts = pools[pair.class_name]
        near = np.argsort(np.abs(objects - own), kind="stable")[:NEAREST]
        rows.append((own, objects[near].mean(), background_distance(a, b), contexts[near].mean()))
    found = np.array(rows)
    gains = found[:, 2] - found[:, 3]
    draws = generator(seed, "judge-bootstrap").integers(0, len(gains), (2000, len(gains)))
    low, high = np.quantile(gains[draws].mean(axis=1), [0.025, 0.975])
    large = [float(np.mean(np.concatenate([pool[k] for pool in pools.values()]))) for k in (0, 1)]
    larger = float((gains > 0).mean())
    means = found.mean(axis=0).tolist()
    return Verdict(
        len(rows), means[0], means[1], means[2], means[3], float(gains.mean()), float(low), float(high), larger,
        large[0], large[1],
    )  # fmt: skip


def _random_pool(keys: Sequence[str], seen: dict[str, Seen], seed: int) -> tuple[NDArray[np.float64], ...]:
    """Object and context distances of random pairs of one class."""
    count = len(keys)
    first, second = np.triu_indices(count, 1)
    chosen = generator(seed, "judge", key=keys[0]).permutation(len(first))[: DRAWS * count]
    pairs = [(seen[keys[first[i]]], seen[keys[second[i]]]) for i in chosen]
    return np.array([a.look.distance(b.look) for a, b in pairs]), np.array(
        [background_distance(a, b) for a, b in pairs]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["scenes", "coco128", "coco128-list"])
    parser.add_argument("proposals", nargs="*", type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--list", type=Path, help="The .csv of coco128's photographs with labels.")
    parser.add_argument("--labels", choices=["name", "supercategory"], default="name", help="Of coco128-list.")
    given = parser.parse_args()
    if given.kind == "coco128-list":
        print(f"{given.list}: {write_coco_list(Path(given.images), given.list, given.labels)} photographs")
        return
    readers: dict[str, Callable[[], dict[str, Seen]]] = {
        "scenes": lambda: seen_scenes(open_source(given.images)),
        "coco128": lambda: seen_coco(Path(given.images), open_source(given.list)),
    }
    seen = readers[given.kind]()
    for path in given.proposals:
        print(f"{path.name}: {judge(PairTable.open(path), seen).line()}")


if __name__ == "__main__":
    main()
