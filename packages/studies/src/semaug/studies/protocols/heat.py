"""Grad-CAM of the encoder of a run: heat over test images, and how much of it lies on their objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.studies.protocols.drawn import SHOWN, SIDE, Drawn, picture_of, short_key
from semaug.studies.protocols.subject import DoesNotFit, Subject

if TYPE_CHECKING:
    from PIL import Image

    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.sources import ImageSource
    from semaug.eval.features import Features
    from semaug.eval.figures.grad_cam import Layer, Score
    from semaug.eval.measures import Measure
    from semaug.eval.report import Block
    from semaug.ssl_methods.encoder import Encoder

ENERGY_IMAGES = 256
"""Images whose heat is held against boxes."""
_BATCH = 32


def grad_cam_pictures(subject: Subject) -> Drawn:
    from semaug.eval.figures.grad_cam import energy_in_boxes, overlay
    from semaug.eval.report import Card, Gallery, Paragraph

    source = subject.images("test", "Grad-CAM")
    batch = _prepared(subject, source)
    heat = {name: _heat(subject, batch, score) for name, score in _scores(subject, batch).items()}
    first = next(iter(heat))
    rows = _spread(len(batch.images), SHOWN)
    cards = tuple(
        Card(
            batch.told[i],
            (picture_of(batch.images[i]), *(_large(overlay(batch.images[i], h[i])) for h in heat.values())),
        )
        for i in rows
    )
    caption = "Grad-CAM on the last maps of the encoder: places in colour raise the score. " + " ".join(
        text for name, text in _SCORES_EXPLAINED.items() if name in heat
    )
    blocks: list[Block] = [Gallery(caption, ("image", *heat), cards)]
    empty = int((heat[first].max((1, 2)) == 0).sum())
    warnings = (f"{empty} of {len(batch.images)} heat maps are empty: no place raises the {first}",) if empty else ()
    try:
        measures = tuple(energy_in_boxes(heat[first], _regions(subject, batch)))
    except DoesNotFit as error:
        blocks.append(Paragraph(f"How much of the heat lies on objects was not measured: {error}", "note"))
        return Drawn(tuple(blocks), (), warnings)
    return Drawn((*blocks, _energy_table(measures, first)), measures, warnings)


_SCORES_EXPLAINED = {
    "class logit": "`class logit`: the linear probe's logit of the class that it predicts.",
    "class centroid": "`class centroid`: the cosine to the mean feature of that class.",
    "own embedding": "`own embedding`: half the squared length of the feature, which needs no label.",
}


def _energy_table(measures: Iterable[Measure], score: str) -> Block:
    from semaug.eval.report import Column, Missing, Table

    names = {
        "grad_cam/energy_in_box": f"inside the boxes, by the {score}",
        "grad_cam/energy_in_box/shuffled": "another image's heat inside the boxes",
        "grad_cam/energy_in_box/uniform": "even heat (the share of the area that the boxes cover)",
    }
    found = {m.metric: m for m in measures}
    rows = tuple(
        (text, Missing(found[key].reason) if found[key].value is None else found[key].value, found[key].n)
        for key, text in names.items()
    )
    columns = (Column("heat"), Column("share", unit="%", scale=100), Column("images", digits=0))
    note = (
        "Heat that knew nothing of the object would reach the last line; heat that always looks at the same place, "
        "the second."
    )
    return Table("Share of the heat inside the boxes", columns, rows, note)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Test images as the encoder sees them: pixels, sizes (height, width), keys, the probe's answers (None where there
    are no labels to fit one on) and captions."""

    images: list[NDArray[np.uint8]]
    sizes: list[tuple[int, int]]
    keys: list[str]
    predicted: NDArray[np.int64] | None
    told: list[str]


def _prepared(subject: Subject, source: ImageSource) -> _Prepared:
    """A seeded choice of the test images that have features, labelled ones where there are, in the source's order."""
    from semaug.eval.features import default_crop, prepare

    test, predicted, told = _answers(subject)
    size = subject.encoder.image_size
    rows = np.sort(generator(subject.seed, "figures").permutation(len(test))[:ENERGY_IMAGES])
    place = {source.key(i): i for i in range(len(source))}
    images, sizes = [], []
    for row in rows:
        image = source.read(place[test.keys[row]])
        images.append(prepare(image, size, default_crop(size)))
        sizes.append((image.shape[0], image.shape[1]))
    answers = None if predicted is None else predicted[rows]
    return _Prepared(images, sizes, [test.keys[i] for i in rows], answers, [told[i] for i in rows])


def _answers(subject: Subject) -> tuple[Features, NDArray[np.int64] | None, list[str]]:
    """Test features, the class that the linear probe gives each image, and what is to be said of it; without labels to
    fit a probe on, all test features, None, and the images' names."""
    from semaug.eval.errors import LabelsMissing, OneClass
    from semaug.eval.splits import labelled_pair

    try:
        test = labelled_pair(*subject.features).test
    except (LabelsMissing, OneClass):
        return subject.features[1], None, [short_key(key) for key in subject.features[1].keys]
    predicted, names = subject.linear.classifier.logits(test.features).argmax(1), subject.linear.class_names
    told = [
        f"{names[true]}, predicted {'rightly' if true == guess else f'**{names[guess]}**'}"
        for true, guess in zip(test.labels, predicted, strict=True)
    ]
    return test, predicted, told


def _scores(subject: Subject, batch: _Prepared) -> dict[str, Callable[[slice], Score]]:
    """Name of a score to the score of the images in a slice of the batch; the first is held against boxes."""
    from semaug.eval.figures.grad_cam import centroid_similarity, class_logit, own_embedding

    predicted = batch.predicted
    alone: dict[str, Callable[[slice], Score]] = {"own embedding": lambda part: own_embedding}
    if predicted is None:
        return alone
    probe, centroids = subject.linear.classifier, _centroids(subject)
    return {
        "class logit": lambda part: class_logit(probe.weight, probe.bias, predicted[part]),
        "class centroid": lambda part: centroid_similarity(centroids, predicted[part]),
        **alone,
    }


def _centroids(subject: Subject) -> NDArray[np.float32]:
    """Mean training feature of every class of the probe, (classes, d); zero without training images."""
    from semaug.eval.splits import labelled_pair

    train = labelled_pair(*subject.features).train
    sums = np.zeros((len(subject.linear.class_names), train.features.shape[1]), np.float64)
    np.add.at(sums, train.labels, train.features)
    counts = np.bincount(train.labels, minlength=len(sums))
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


def _heat(subject: Subject, batch: _Prepared, score: Callable[[slice], Score]) -> NDArray[np.float32]:
    """Heat of every image of the batch, (n, S, S), each from 0 to 1."""
    import torch

    from semaug.eval.figures.grad_cam import grad_cam, heat_map

    encoder = subject.encoder
    layer, spec = last_maps(encoder), encoder.spec
    mean, std = (torch.tensor(v, device=subject.device).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    found = []
    for start in range(0, len(batch.images), _BATCH):
        part = slice(start, start + _BATCH)
        pixels = torch.from_numpy(np.stack(batch.images[part])).to(subject.device).permute(0, 3, 1, 2)
        found.append(grad_cam(encoder, layer, (pixels.float() / 255 - mean) / std, score(part)))
    return heat_map(np.concatenate(found), encoder.image_size)


def last_maps(encoder: Encoder) -> Layer:
    """The layer whose maps Grad-CAM weighs: the last convolution's output, or, in a transformer whose features are the
    class token, the tokens that enter the last attention (after it only the class token counts).

    Raises ``DoesNotFit`` for a backbone whose maps are not known.
    """
    from semaug.eval.figures.grad_cam import Layer

    backbone: Any = encoder.backbone
    kind = type(backbone).__name__
    if kind in _LAST_MAPS:
        return _LAST_MAPS[kind](backbone)
    if kind != "TimmBackbone":
        raise DoesNotFit(f"the last maps of backbone {encoder.spec.backbone!r} are not known; choose another backbone")
    network = backbone.network
    if hasattr(network, "blocks") and hasattr(network, "num_prefix_tokens"):
        return Layer(network.blocks[-1].norm1, "tokens", int(network.num_prefix_tokens))
    known = getattr(network, "feature_info", None)
    if not known or getattr(network, "output_fmt", "NCHW") != "NCHW":
        raise DoesNotFit(f"timm's {backbone.name} names no maps of shape (B, C, h, w); choose another backbone")
    return Layer(network.get_submodule(known[-1]["module"]))


def _layer(name: str) -> Callable[[Any], Layer]:
    def find(backbone: Any) -> Layer:
        from semaug.eval.figures.grad_cam import Layer

        return Layer(backbone.get_submodule(name))

    return find


def _last_tokens(backbone: Any) -> Layer:
    from semaug.eval.figures.grad_cam import Layer

    return Layer(backbone.blocks[-1].norm1, "tokens", prefix=1)


def _last_block(backbone: Any) -> Layer:
    from semaug.eval.figures.grad_cam import Layer

    return Layer(backbone[-3])  # behind it: pooling and flattening


_LAST_MAPS: dict[str, Callable[[Any], Layer]] = {
    "SmallCNN": _last_block,
    "SpatialResNet": _layer("layer4"),
    "SpatialMobileNetV2": _layer("features"),
    "VisionTransformer": _last_tokens,
}
"""Class of a backbone -> its layer."""


def _regions(subject: Subject, batch: _Prepared) -> NDArray[np.bool_]:
    """Where the boxes of each image of the batch lie, (n, S, S): of the annotations, or else of the guidance."""
    from semaug.eval.features import default_crop
    from semaug.eval.figures.failures import boxes_of
    from semaug.eval.figures.grad_cam import box_region

    size, table = subject.encoder.image_size, _boxes_of_test(subject)
    regions = np.zeros((len(batch.images), size, size), bool)
    for i, (key, (height, width)) in enumerate(zip(batch.keys, batch.sizes, strict=True)):
        row = table.get(key)
        if row is not None and not row.fallback:
            boxes = boxes_of(row) * ([width / row.width, height / row.height] * 2)
            regions[i] = box_region(boxes, height, width, default_crop(size), size)
    return regions


def _boxes_of_test(subject: Subject) -> GuidanceTable:
    test = subject.images("test", "Grad-CAM")
    for find in (lambda: subject.truth_table, lambda: subject.guidance_table):
        try:
            table = find()
        except DoesNotFit:
            continue
        if table.source in ("", test.fingerprint):
            return table
    raise DoesNotFit("no boxes of the test images were given; pass --truth or --guidance made on them")


def _large(picture: Image.Image) -> Image.Image:
    """Heat as smooth as it is, also over an image of few pixels."""
    from PIL import Image

    return picture if picture.width >= SIDE else picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` places, evenly; all where there are fewer."""
    shown = min(wanted, count)
    return [i * count // shown for i in range(shown)]
