"""What the views of a variant are like, before anything is trained: how alike a pair is, and how much views differ.

All variants are looked at alike: the same images and draws, crops and flips without changes of colour, one size, and
frozen encoders from outside the study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import SemaugError
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.sources import ImageSource, ScenesSource, open_source
from semaug.studies.study.catalogue import WHOLE, settings_of
from semaug.studies.study.outside_encoder import Encode, outside_encoders

if TYPE_CHECKING:
    from semaug.pairs_dataset.sources import PairSource
    from semaug.studies.study.measurements import Measured, Measuring

PLAIN = "crop_flip"
"""The recipe of the views that are compared: what is in a view, and not how its colours are changed."""
LIMIT, DRAWS = 500, 2
TRUTH = "truth"
"""The artifact of annotated boxes, where it is given."""
SECOND = "second"
"""What the measures of the second encoder are called by."""
OF_ONE_IMAGE = frozenset({"standard", "duplicated", "guided", "cross", "center", "random_box", "shuffled_box"})
"""Pairs whose views both show the image itself, so that its boxes fit them."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ViewMeasures:
    """Of features that are centred and scaled by those of the whole images: ``similarity``, the mean cosine of the two
    views of a pair; ``diversity``, the mean of 1 - cosine over all views of an image in several epochs; ``dimension``,
    the maximum-likelihood dimension of one view an image (None where there are too few)."""

    similarity: float
    diversity: float
    dimension: float | None
    images: int


@dataclass(frozen=True, slots=True)
class Sight:
    """An encoder, and its features (n, d) of the whole images."""

    encode: Encode
    whole: NDArray[np.float32]


def measure_views(
    pairs: PairSource, sights: Sequence[Sight], items: Sequence[int], draws: int = DRAWS
) -> list[ViewMeasures]:
    """Measure ``draws`` epochs of the views of some items by each encoder; all see the same pixels."""
    from semaug.eval.geometry.dimension import evaluate_dimension

    epoch, found = pairs.epoch, []
    seen: list[list[NDArray[np.float32]]] = [[] for _ in sights]
    for draw in range(draws):
        pairs.set_epoch(draw)
        pixels = _pixels(pairs, items)
        for features, sight in zip(seen, sights, strict=True):
            features.append(sight.encode(pixels).reshape(len(items), 2, -1))
    pairs.set_epoch(epoch)
    for features, sight in zip(seen, sights, strict=True):
        unit = _unit(np.concatenate(features, axis=1), sight.whole)  # (n, 2 * draws, d)
        rows = {m.metric: m.value for m in evaluate_dimension(unit[:, 0])}
        found.append(ViewMeasures(pair_similarity(unit), view_diversity(unit), rows["mle"], len(items)))
    return found


def _pixels(pairs: PairSource, items: Sequence[int]) -> NDArray[np.uint8]:
    """Both views of each item, one after the other."""
    from semaug.pairs_dataset.sheets import view_pixels

    return np.stack([view_pixels(view, pairs) for item in items for view in pairs[item][:2]])


def _unit(features: NDArray[np.float32], whole: NDArray[np.float32]) -> Floats:
    """Rows of length 1 after centring and scaling by the whole images' mean and deviation (constant ones left out)."""
    spread = whole.std(axis=0, dtype=np.float64)
    kept = spread > 1e-6
    scaled = (features[..., kept].astype(np.float64) - whole.mean(axis=0, dtype=np.float64)[kept]) / spread[kept]
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.asarray(scaled / np.maximum(length, 1e-12))


def pair_similarity(unit: Floats) -> float:
    """Mean cosine of views 2i and 2i + 1 of unit features (n, 2m, d).

    >>> pair_similarity(np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]))
    0.5
    """
    return float((unit[:, 0::2] * unit[:, 1::2]).sum(axis=-1).mean())


def view_diversity(unit: Floats) -> float:
    """Mean of 1 - cosine over the pairs of different views of each image, of unit features (n, v, d).

    >>> view_diversity(np.array([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]]))
    1.3333333333333333
    """
    views = unit.shape[1]
    total = (unit.sum(axis=1) ** 2).sum(axis=-1)  # all cosines, each view's own among them
    return float(1 - ((total - views) / (views * (views - 1))).mean())


def measured_views(measuring: Measuring) -> Measured:
    """Views and retention of every variant; one that cannot be measured says why, and is tried again next time."""
    from semaug.studies.study.measurements import Measured

    encoders, truth = outside_encoders(measuring.options.get("encoder")), objects_of(measuring)
    whole = _whole_images(measuring.images, encoders[0].size, _limit(measuring))
    sights = [Sight(encoder.encode, encoder.encode(whole)) for encoder in encoders]
    rows: dict[str, Any] = {}
    complete = True
    for variant in _variants(measuring):
        try:
            found = _of_variant(measuring, variant, encoders[0].size, sights, truth)
        except SemaugError as error:
            if error.exit_code != SemaugError.exit_code:  # asked to stop
                raise
            found, complete = {"failed": {"value": None, "n": 0, "reason": " ".join(str(error).split())}}, False
        rows |= {f"views/{variant}/{name}": row for name, row in found.items()}
    about = {"encoder": encoders[0].name, SECOND: encoders[1].name, "objects": truth[0] if truth else ""}
    rows["views/about"] = {"value": None, "n": len(whole), **about}
    return Measured(rows, (), complete)


def _variants(measuring: Measuring) -> tuple[str, ...]:
    return measuring.study.only or tuple(measuring.study.preset.variants)


def _limit(measuring: Measuring) -> int:
    given = measuring.study.scale.evaluations.get("views", {}).get("images")
    return int(given or measuring.options.get("images", LIMIT))


def _of_variant(
    measuring: Measuring, variant: str, size: int, sights: Sequence[Sight], truth: tuple[str, GuidanceTable] | None,
) -> dict[str, Any]:  # fmt: skip
    from semaug.pairs_dataset import measure_retention

    pairs, draws = plain_pairs(measuring, variant, size), int(measuring.options.get("draws", DRAWS))
    items = _some(len(pairs.images), _limit(measuring))
    first, second = (asdict(found) for found in measure_views(pairs, sights, items, draws))
    found = {**first, **{f"{SECOND}/{name}": value for name, value in second.items()}}
    rows = {name: {"value": value, "n": len(items)} for name, value in found.items() if not name.endswith("images")}
    if truth is not None and measuring.study.preset.variants[variant].pairs in OF_ONE_IMAGE:
        kept = measure_retention(pairs, truth[1], draws=draws)
        rows |= {name: {"value": getattr(kept, name), "n": kept.images} for name in ("keeps", "filled", "same", "area")}
    return rows


def plain_pairs(measuring: Measuring, variant: str, size: int) -> Any:
    """The pairs that a variant trains on, at the scale that was chosen, without changes of colour."""
    from semaug.studies.assemble import pairs_of
    from semaug.studies.study.kind_training import training_plan
    from semaug.studies.study.tuning import tuned

    setting = next(iter(settings_of(measuring.study.preset)), WHOLE)
    plan = training_plan(tuned(measuring.study), measuring.ready, setting, variant, 0, 1)
    return pairs_of(replace(plan, size=size, pair_options={**plan.pair_options, "preset": PLAIN}))


def _some(total: int, limit: int) -> list[int]:
    order = generator(0, "views").permutation(total)
    return sorted(order[:limit].tolist())


def _whole_images(source: ImageSource, size: int, limit: int) -> NDArray[np.uint8]:
    """Whole images, squeezed to a square: what all views are centred and scaled by."""
    import cv2

    images = (source.read(i) for i in _some(len(source), limit))
    return np.stack([cv2.resize(i, (size, size), interpolation=cv2.INTER_AREA) for i in images]).astype(np.uint8)


def objects_of(measuring: Measuring) -> tuple[str, GuidanceTable] | None:
    """The objects that views may keep, and who says so: annotations that were given, the generated images themselves,
    else the first guidance, that which was given before that which was made."""
    truth = measuring.study.made_already(TRUTH, measuring.place)
    if truth is not None:
        return "true boxes", GuidanceTable.open(truth)
    scenes = open_source(measuring.study.data[measuring.place].train)
    if isinstance(scenes, ScenesSource):
        return "true boxes", GuidanceTable.of([scenes.guidance(i) for i in range(len(scenes))])
    artifacts, given = measuring.study.preset.artifacts, measuring.study.made
    for name, artifact in sorted(artifacts.items(), key=lambda named: named[0] not in given):
        made = measuring.ready.artifacts.get((name, measuring.place))
        if made is not None and made.path is not None and _is_guidance(artifact.kind, made.path):
            return f"boxes of {name}", GuidanceTable.open(made.path)
    return None


def _is_guidance(kind: str, path: Any) -> bool:
    from semaug.artifacts.reader import read_manifest

    return kind == "guidance" or read_manifest(path).kind == "guidance"


def measured(rows: Mapping[str, Any], variant: str, name: str) -> float | None:
    """One number out of the record of a study's measurements."""
    found = rows.get(f"views/{variant}/{name}")
    return None if found is None else found["value"]
