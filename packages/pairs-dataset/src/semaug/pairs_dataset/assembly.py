"""``make_pairs``: the one place where a pair source is put together from names and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.augment_table import AugmentTable
from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.schemas import Scale
from semaug.artifacts.sources import ImageSource, open_source
from semaug.artifacts.synthetic_table import SimilarityTable, SyntheticTable
from semaug.pairs_dataset import presets
from semaug.pairs_dataset.backgrounds import MaskMode
from semaug.pairs_dataset.crops import BoxSelect, CropMode, CropRule
from semaug.pairs_dataset.local_views import LocalViews
from semaug.pairs_dataset.local_views import local_views as plan_local_views
from semaug.pairs_dataset.materialized_source import open_materialized
from semaug.pairs_dataset.objects import ObjectRows, centre_rows, object_rows, shuffled_rows, without_masks
from semaug.pairs_dataset.pair_table import PairTable
from semaug.pairs_dataset.presets import Recipe, recipe_dict
from semaug.pairs_dataset.sources import (
    DiffusionPairs,
    DuplicatedPairs,
    GuidedPairs,
    InflatedByGeneration,
    InflatedPairs,
    PairSource,
    SelfGuidedPairs,
    SemanticPairs,
    StandardPairs,
    SyntheticPairs,
    ViewSettings,
)
from semaug.pairs_dataset.sources.base import Triple
from semaug.pairs_dataset.sources.diffusion import PositiveUse, Usage, plan_positives
from semaug.pairs_dataset.sources.guided import BoxScope, GuidedViews
from semaug.pairs_dataset.sources.semantic import pair_images
from semaug.pairs_dataset.sources.synthetic import plan_choices, stream_views, usage_mode

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class _Synthetic:
    """What pairs `synthetic` take beside images."""

    table: SyntheticTable | None
    mode: str
    direct_views: int
    similarity: SimilarityTable | None
    least: float | None


@dataclass(frozen=True, slots=True)
class _Diffusion:
    """What pairs `diffusion` take beside images."""

    table: AugmentTable | None
    usage: Usage
    alpha: float
    augmented: bool


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the builders below choose from."""

    source: ImageSource
    images: NDArray[np.int64]
    views: ViewSettings
    seed: int
    rule: CropRule
    guidance: GuidanceTable | None
    p_guided: float
    guided_views: GuidedViews
    box_scope: BoxScope
    mask_mode: MaskMode
    copies: int
    materialized: str | Path | None
    semantic: PairTable | None
    synthetic: _Synthetic
    diffusion: _Diffusion
    generated: ImageSource | None
    real_copies: int

    def objects(self) -> ObjectRows:
        return object_rows([self.source.key(int(i)) for i in self.images], self.guidance)

    def guided(self, objects: ObjectRows, kind: type[GuidedPairs] = GuidedPairs, **changes: Any) -> GuidedPairs:
        p = replace(self, **changes)
        return kind(
            p.source, p.images, p.views, seed=p.seed, rule=p.rule, objects=objects, p_guided=p.p_guided,
            guided_views=p.guided_views, box_scope=p.box_scope, mask_mode=p.mask_mode,
        )  # fmt: skip


def _standard(p: _Parts) -> PairSource:
    return StandardPairs(p.source, p.images, p.views, seed=p.seed, rule=p.rule)


def _duplicated(p: _Parts) -> PairSource:
    return DuplicatedPairs(p.source, p.images, p.views, seed=p.seed, rule=p.rule, copies=p.copies)


def _inflated(p: _Parts) -> PairSource:
    if p.materialized is None:
        raise InvalidOption("pairs `inflated` need materialised crops; make them with `semaug views materialize`")
    crops, positions, images = open_materialized(Path(p.materialized), p.source, p.images)
    return InflatedPairs(p.source, images, crops, positions, p.views, seed=p.seed, rule=p.rule)


def _semantic(p: _Parts) -> PairSource:
    if p.semantic is None:
        raise InvalidOption("pairs `semantic` need a set of pairs; make one with `semaug pairs build`")
    first, second, names = pair_images(p.semantic, p.source, p.images)
    parts = [replace(p, images=images) for images in (first, second)]
    sources = [_standard(q) if q.guidance is None else q.guided(q.objects()) for q in parts]
    pairs = SemanticPairs(sources[0], sources[1], names, p.views, seed=p.seed, rule=p.rule)
    pairs.pair_digest = p.semantic.digest
    return pairs


def _synthetic(p: _Parts) -> PairSource:
    given = p.synthetic
    if given.table is None:
        raise InvalidOption("pairs 'synthetic' need synthetic images; make them with `semaug synth run`")
    mode = usage_mode(given.mode, given.direct_views)
    images, choices = plan_choices(p.source, p.images, given.table, given.similarity, given.least)
    views = stream_views(p.views, mode)
    pairs = SyntheticPairs(p.source, images, given.table.images, choices, mode, views, seed=p.seed, rule=p.rule)
    pairs.digests["synthetic"] = given.table.digest
    if given.similarity is not None:
        pairs.digests["similarity"] = given.similarity.digest
    return pairs


def _diffusion(p: _Parts) -> PairSource:
    given = p.diffusion
    if given.table is None:
        raise InvalidOption("pairs 'diffusion' need generated positives; make them with `semaug diffaug augment`")
    use, positives = PositiveUse(given.table.k, given.usage, given.alpha), given.table.require_images()
    images, first = plan_positives(p.source, p.images, given.table)
    pairs = DiffusionPairs(
        p.source, images, positives, first, use, p.views, seed=p.seed, rule=p.rule, augmented=given.augmented
    )
    pairs.digests["augment"] = given.table.digest
    return pairs


def _adainf(p: _Parts) -> PairSource:
    if p.generated is None:
        raise InvalidOption("pairs 'adainf' need generated images; give --generated, any source of images")
    return InflatedByGeneration(
        p.source, p.images, p.generated, p.views, seed=p.seed, rule=p.rule, copies=p.real_copies
    )


def _random_box(p: _Parts) -> PairSource:
    return p.guided(without_masks(p.objects()), rule=replace(p.rule, place_randomly=True))


PAIR_SOURCES: Mapping[str, Callable[[_Parts], PairSource]] = {
    "standard": _standard,
    "duplicated": _duplicated,
    "guided": lambda p: p.guided(p.objects()),
    "cross": lambda p: p.guided(p.objects(), guided_views="one"),
    "inflated": _inflated,
    "center": lambda p: p.guided(centre_rows(len(p.images)), guidance=None),
    "random_box": _random_box,
    "shuffled_box": lambda p: p.guided(shuffled_rows(p.objects(), p.seed)),
    "self": lambda p: p.guided(replace(p, guidance=None).objects(), SelfGuidedPairs),
    "semantic": _semantic,
    "synthetic": _synthetic,
    "diffusion": _diffusion,
    "adainf": _adainf,
}
"""Every form of pairs, by name: three forms of SDI, the baselines, the controls without meaning, `self`, whose boxes
come from the encoder in training, `semantic`: pairs of two images, and its controls, which are sets of pairs;
`synthetic`: a real image and images generated from it; `diffusion`: a real image and positives that DiffAug generated
of it; and `adainf`: real and generated images in one set."""

NEEDS_GUIDANCE = frozenset({"guided", "cross", "random_box", "shuffled_box"})


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the paper's variants: the pair source it is, and the oracle and granularity its guidance needs."""

    pairs: str
    oracle: str | None
    segmenter: str | None
    granularity: Scale | str | None
    text: str


VARIANTS: Mapping[str, Variant] = {
    "V0": Variant("standard", None, None, None, "no guidance"),
    "V1": Variant("guided", "detector", None, "object", "detector boxes"),
    "V2": Variant("guided", None, "segmenter", "pixel", "segmenter masks without boxes"),
    "V3": Variant("guided", "detector", "segmenter", "auto", "the adaptive policy over boxes, masks and both"),
    "V4": Variant("guided", "detector", "segmenter", "hybrid", "masks clipped to the detector's boxes"),
    "V5": Variant("guided", "annotations", None, "object", "true boxes"),
    "V6": Variant("guided", "annotations", "segmenter", "hybrid", "masks within true boxes"),
}
"""Table 12's variants as spec S1.5 resolves them; ``oracle`` and ``segmenter`` are roles that a study fills."""


def make_pairs(
    name: str,
    source: ImageSource,
    *,
    preset: str | tuple[Recipe, Recipe] = "symmetric",
    without: tuple[str, ...] = (),
    transforms: str = "full",
    rotation: tuple[float, float] | None = None,
    size: int = 224,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    seed: int = 0,
    guidance: GuidanceTable | None = None,
    crop: CropMode = "inside",
    scale: tuple[float, float] | None = None,
    box_scale: tuple[float, float] | None = None,
    margin: float = 0.1,
    tau: float = 0.5,
    tau_mask: float = 0.3,
    centre_beta: float | None = None,
    p_guided: float = 1.0,
    guided_views: GuidedViews = "both",
    box_select: BoxSelect = "random",
    box_scope: BoxScope = "image",
    mask_mode: MaskMode = "crop_only",
    copies: int = 2,
    materialized: str | Path | None = None,
    semantic: PairTable | str | Path | None = None,
    synthetic: SyntheticTable | str | Path | None = None,
    mode: str | None = None,
    direct_views: int = 2,
    similarity: SimilarityTable | str | Path | None = None,
    min_similarity: float | None = None,
    augment: AugmentTable | str | Path | None = None,
    positives: Usage | None = None,
    alpha: float | None = None,
    raw_positives: bool | None = None,
    generated: ImageSource | str | Path | None = None,
    real_copies: int | None = None,
    local_views: int = 0,
    local_size: int | None = None,
    local_scale: tuple[float, float] | None = None,
    guided_locals: bool = False,
) -> PairSource:
    """Put a pair source together; ``pairs.config`` is everything that decides its views, as plain JSON values.

    ``name`` is one of ``PAIR_SOURCES``. ``scale`` (a crop's share of the image) stands in for the preset's,
    ``box_scale`` (its share of the box) for ``scale``; ``rotation`` (probability, degrees) for its rotation.
    ``transforms`` (one of ``REMOVALS``) and ``without`` take transforms out. Where ``guidance`` is given, images that
    its step skipped are left out, also of `standard`, so that variants see the same images; an image it marks
    ``fallback`` takes the standard views. ``semantic`` is the set of pairs for pairs `semantic`, whose views are guided
    where there is guidance. Pairs `synthetic` take ``synthetic`` images in one ``mode`` of ``MODES`` (`a`; or `direct`:
    ``direct_views`` of one caption), where the real image stands in for those of a ``similarity`` below
    ``min_similarity``; pairs `diffusion` take the ``augment`` artifact's ``positives`` in one of ``USAGES`` (`drawn`)
    for the second view, with probability ``alpha`` (1), unaltered for ``raw_positives``; pairs `adainf` take
    ``generated`` images beside ``real_copies`` (10) of each real one. None of these
    is guided: ``guidance`` only leaves images out. Options as for ``CropRule`` and ``GuidedPairs``; ``local_views``
    asks for as many small views beside the two (multi-crop), of ``local_size`` pixels and ``local_scale`` of the image,
    inside the object's box for ``guided_locals`` (see ``LocalViews``); the global views are the same without them.

    Raises ``InvalidOption`` for a name, option or missing guidance, ``ArtifactError`` for guidance of other images,
    ``NoPairs`` when nothing is left.
    """
    if name not in PAIR_SOURCES:
        raise InvalidOption(f"no pairs are called {name!r}; choose one of {', '.join(PAIR_SOURCES)}")
    if name in NEEDS_GUIDANCE and guidance is None:
        raise InvalidOption(f"pairs {name!r} need guidance; make it with `semaug guide extract` and give --guidance")
    if guidance is not None and guidance.source:  # a table made in memory may not say
        guidance.require_source(source.fingerprint)
    recipes = _recipes(preset, (*without, *presets.removal(transforms)), scale, rotation)
    local = plan_local_views(local_views, recipes, size, local_size=local_size, scale=local_scale, guided=guided_locals)
    views = ViewSettings(recipes, size, mean, std, local)
    first = views.recipes[0].scale
    rule = CropRule(
        crop, first, box_scale or first, margin=margin, tau=tau, tau_mask=tau_mask, select=box_select,
        centre_beta=centre_beta,
    )  # fmt: skip
    parts = _Parts(
        source, _images(source, guidance), views, seed, rule, guidance, p_guided, guided_views, box_scope, mask_mode,
        copies, materialized, _pair_table(name, semantic),
        _given_synthetic(name, synthetic, mode, direct_views, similarity, min_similarity),
        _given_diffusion(name, augment, positives, alpha, raw_positives),
        _given_generated(name, generated, real_copies), 10 if real_copies is None else real_copies,
    )  # fmt: skip
    pairs = PAIR_SOURCES[name](parts)
    pairs.config = _config(name, preset, parts, pairs)
    pairs.guidance_digest = guidance.digest if guidance else ""
    return pairs


def _recipes(
    chosen: str | tuple[Recipe, Recipe],
    without: tuple[str, ...],
    scale: tuple[float, float] | None,
    rotation: tuple[float, float] | None,
) -> tuple[Recipe, Recipe]:
    changes: dict[str, Any] = {} if scale is None else {"scale": scale}
    if rotation is not None:
        changes |= {"rotation_p": rotation[0], "degrees": rotation[1]}
    first, second = presets.preset(chosen) if isinstance(chosen, str) else chosen
    return replace(first, **changes).without(*without), replace(second, **changes).without(*without)


def _pair_table(name: str, pairs: PairTable | str | Path | None) -> PairTable | None:
    if pairs is not None and name != "semantic":
        raise InvalidOption(f"a set of pairs is for pairs 'semantic' and these are {name!r}; leave one of them out")
    return pairs if pairs is None or isinstance(pairs, PairTable) else PairTable.open(pairs)


def _given_synthetic(
    name: str,
    synthetic: SyntheticTable | str | Path | None,
    mode: str | None,
    direct_views: int,
    similarity: SimilarityTable | str | Path | None,
    least: float | None,
) -> _Synthetic:
    given = {"synthetic": synthetic, "mode": mode, "similarity": similarity, "min_similarity": least}
    _refuse_others(name, "synthetic", given)
    table = SyntheticTable.open(synthetic) if isinstance(synthetic, str | Path) else synthetic
    alike = SimilarityTable.open(similarity) if isinstance(similarity, str | Path) else similarity
    return _Synthetic(table, mode or "a", direct_views, alike, least)


def _given_diffusion(
    name: str, augment: AugmentTable | str | Path | None, usage: Usage | None, alpha: float | None, raw: bool | None
) -> _Diffusion:
    given = {"augment": augment, "positives": usage, "alpha": alpha, "raw_positives": raw or None}
    _refuse_others(name, "diffusion", given)
    table = AugmentTable.open(augment) if isinstance(augment, str | Path) else augment
    return _Diffusion(table, usage or "drawn", 1.0 if alpha is None else alpha, not raw)


def _given_generated(name: str, images: ImageSource | str | Path | None, copies: int | None) -> ImageSource | None:
    _refuse_others(name, "adainf", {"generated": images, "real_copies": copies})
    return open_source(images) if isinstance(images, str | Path) else images


def _refuse_others(name: str, wanted: str, given: Mapping[str, Any]) -> None:
    """Refuse what only the pairs ``wanted`` take where these are other pairs."""
    extra = [option for option, value in given.items() if value is not None]
    if extra and name != wanted:
        raise InvalidOption(
            f"{', '.join(extra)}: for pairs {wanted!r}, and these are {name!r}; give --pairs {wanted}, or leave it out"
        )


def _images(source: ImageSource, guidance: GuidanceTable | None) -> NDArray[np.int64]:
    """Indices of the images that take part: all, or those that the guidance's step did not skip."""
    count = len(source)
    if guidance is None:
        return np.arange(count)
    return np.array([i for i in range(count) if guidance.get(source.key(i)) is not None], np.int64)


def _config(name: str, chosen: str | tuple[Recipe, Recipe], p: _Parts, pairs: PairSource) -> dict[str, Any]:
    rule = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(pairs.rule).items()}
    if pairs.rule.centre_beta is None:  # runs made before there was one go on
        del rule["centre_beta"]
    config: dict[str, Any] = {
        "pairs": name,
        "preset": chosen if isinstance(chosen, str) else "custom",
        "recipes": [recipe_dict(r) for r in pairs.views.recipes],
        "size": p.views.size,
        "mean": list(p.views.mean),
        "std": list(p.views.std),
        "seed": p.seed,
        "crop": rule,
        "copies": pairs.copies,
    }
    if p.semantic is not None:
        config["form"] = p.semantic.form
    if isinstance(pairs, SyntheticPairs):
        config |= {"mode": p.synthetic.mode, "compute": pairs.mode.compute, "replaced": pairs.choices.replaced}
        config |= {"direct_views": p.synthetic.direct_views} if p.synthetic.mode == "direct" else {}
        config |= {} if p.synthetic.least is None else {"min_similarity": p.synthetic.least}
    if isinstance(pairs, DiffusionPairs):
        config |= {"positives": pairs.use.usage, "alpha": pairs.use.alpha, "k": pairs.use.k}
        config |= {} if pairs.augmented else {"raw_positives": True}
    if isinstance(pairs, GuidedPairs) or (isinstance(pairs, SemanticPairs) and p.guidance is not None):
        config |= {
            "p_guided": p.p_guided,
            "guided_views": "one" if name == "cross" else p.guided_views,
            "box_scope": p.box_scope,
            "mask_mode": p.mask_mode,
        }
    if p.views.local is not None:
        config["local"] = _local_config(p.views.local)
    return config


def _local_config(local: LocalViews) -> dict[str, Any]:
    return {
        "count": local.count,
        "size": local.size,
        "scale": list(local.scale),
        "recipe": recipe_dict(local.recipe),
        "guided": local.guided,
    }
