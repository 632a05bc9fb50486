"""The pictures of a run: each joins its features, its encoder or its guidance with a figure of ``semaug.eval``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import SemaugError, UnreadableImage
from semaug.artifacts.progress import Progress
from semaug.studies.protocols.drawn import Drawn
from semaug.studies.protocols.guidance_pictures import failure_pictures, guidance_pictures
from semaug.studies.protocols.heat import grad_cam_pictures
from semaug.studies.protocols.subject import DoesNotFit, Subject

if TYPE_CHECKING:
    from semaug.eval.measures import Measure
    from semaug.eval.report import Section

QUALITY_IMAGES = 2000
"""Test images that are scored where no quality artifact was given."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """All pictures of a subject, a section each; ``missing`` says why one was left out. Iterates over measures."""

    sections: Mapping[str, Section]
    measures: tuple[Measure, ...]
    warnings: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Any:
        return iter(self.measures)


def draw_pictures(subject: Subject, names: Iterable[str] | None = None) -> Pictures:
    """Draw the pictures called ``names`` (all by default); one that lacks what it needs is left out with its reason."""
    from semaug.eval.report import Paragraph, Section

    chosen = list(PICTURES) if names is None else list(names)
    sections, measures, warnings, missing = {}, list[Any](), list[str](), dict[str, str]()
    for done, name in enumerate(chosen):
        title, draw = PICTURES[name]
        try:
            drawn = draw(subject)
        except SemaugError as error:
            missing[name] = str(error)
        else:
            beware = (Paragraph(text, "warning") for text in drawn.warnings)
            sections[name] = Section(title, (*beware, *drawn.blocks))
            measures += drawn.measures
            warnings += drawn.warnings
        subject.on_progress(Progress("figures", done + 1, len(chosen), "pictures", name))
    return Pictures(sections, tuple(measures), tuple(dict.fromkeys(warnings)), missing)


def _maps(subject: Subject) -> Drawn:
    from semaug.eval.figures.embedding import embedding_map, tsne_map
    from semaug.eval.report import Figure

    test = subject.features[1]
    points, labels = tsne_map(test, seed=subject.seed)
    image = embedding_map([("test images", points, labels)], test.class_names)
    caption = f"Backbone features of {len(labels):,} test images by t-SNE; colours are classes, axes mean nothing."
    return Drawn((Figure(image, caption, "t-SNE map, one colour a class"),))


def knn_pictures(subject: Subject) -> Drawn:
    """Accuracy over k and temperature, backbone and projector: the grid, and two cuts through it."""
    from semaug.eval.figures.knn import knn_curves, knn_heatmap, knn_temperature_curves
    from semaug.eval.report import Figure

    found = subject.knn
    grids = [(grid.space, grid) for grid in (found.backbone, found.projector) if grid is not None]
    grid = "kNN accuracy in per cent over k and temperature."
    temperature = (
        "kNN accuracy over the temperature. Towards T = 0 the nearest neighbour decides (dotted), towards large T "
        "every neighbour has one vote. Near 100% at small T, falling as T grows: test images lie in the training set."
    )
    blocks = (
        Figure(knn_heatmap(grids), grid, "grid of kNN accuracy over k and T", wide=len(grids) > 1),
        Figure(knn_temperature_curves(grids), temperature, "kNN accuracy over temperature"),
        Figure(knn_curves(grids), "kNN accuracy over k at T = 0.07.", "kNN accuracy over k"),
    )
    return Drawn(blocks, warnings=found.warnings)


def _quality(subject: Subject) -> Drawn:
    from semaug.eval.figures.bars import routing_histogram
    from semaug.eval.figures.quality import quality_curve, quality_sensitivity
    from semaug.eval.report import Figure
    from semaug.eval.splits import labelled_pair
    from semaug.quality_policy import PRESETS, make_policy
    from semaug.quality_policy import routing_histogram as routes_of

    table = _quality_of_test(subject)
    pair = labelled_pair(*subject.features)
    rows = np.asarray([i for i, key in enumerate(pair.test.keys) if table.get(key) is not None], np.intp)
    if not len(rows):
        raise DoesNotFit("the quality artifact scores none of the test images; make it on these")
    test = pair.test.take(rows)
    scores = np.asarray([table.get(key).quality for key in test.keys])  # type: ignore[union-attr]
    correct = subject.linear.classifier.logits(test.features).argmax(1) == test.labels
    found = quality_sensitivity(scores, correct)
    default = PRESETS["default"].thresholds
    routes = {
        name: routes_of(_rescored(table, name).routes(make_policy("threshold", thresholds=preset.thresholds)))
        for name, preset in PRESETS.items()
    }
    curve = quality_curve(found, {"t_low": default.t_low, "t_high": default.t_high})
    caption = (
        f"Accuracy of the linear probe over the quality of {found.n:,} test images, in bins of equal number: mean, 95% "
        f"interval (Wilson), and the bin's width. Dashed: all images. {_told_tau(found.tau)}"
    )
    blocks = (
        Figure(curve, caption, "linear accuracy over quality score", {"tau": found.tau}),
        Figure(routing_histogram(routes), _PRESETS_CAPTION, "routes under each configuration", routes),
    )
    return Drawn(blocks, tuple(found))


def _told_tau(tau: float | None) -> str:
    if tau is None:
        return "Quality, or being right, is the same for all."
    return f"Kendall's tau-b between quality and being right: {tau:+.3f}."


_PRESETS_CAPTION = (
    "The routes that each configuration of weights and thresholds (Tables 10 and 11 of the paper) sends the test "
    "images on, by the threshold policy. Where all bars look alike, the configuration cannot matter."
)


def _rescored(table: Any, preset: str) -> Any:
    from dataclasses import replace

    from semaug.quality_policy import find_preset

    return table.rescored(replace(table.scoring, weights=find_preset(preset).weights))


def _quality_of_test(subject: Subject) -> Any:
    """The quality artifact, or the scores of a seeded choice of the test images."""
    from semaug.quality_policy import QualityTable, RawStatistics, Scoring, image_statistics

    source = subject.images("test", "the quality picture")
    if subject.quality is not None:
        table = QualityTable.open(subject.quality)
        table.require_source(source)
        return table
    keys, rows = [], []
    for index in np.sort(generator(subject.seed, "figures-quality").permutation(len(source))[:QUALITY_IMAGES]).tolist():
        try:
            rows.append(image_statistics(source.read(index)))
        except UnreadableImage:
            continue
        keys.append(source.key(index))
    return QualityTable(tuple(keys), RawStatistics.of(rows), Scoring())


def _similarity(subject: Subject) -> Drawn:
    from semaug.eval.figures.similarity import fit_similarities, similarity_histogram
    from semaug.eval.report import Figure

    if subject.similarities is None:
        raise DoesNotFit(
            "no similarities were given; pass --similarities FILE (.npy, or .csv with a column similarity)"
        )
    values = read_similarities(subject.similarities)
    fit = fit_similarities(values)
    caption = (
        f"Similarity of {fit.n:,} original and synthetic images: mean {fit.mean:.3f}, standard deviation {fit.sd:.3f}. "
        f"{fit.below:.1%} lie below {fit.threshold:g}, where the original stands in for the synthetic image."
    )
    return Drawn(
        (Figure(similarity_histogram(values), caption, "histogram of similarities with a normal"),), tuple(fit)
    )


def read_similarities(path: Path) -> NDArray[np.float64]:
    """Numbers of an ``.npy`` array, or of the column ``similarity`` of a ``.csv``; raises ``InvalidOption``."""
    import csv

    from semaug.artifacts.errors import InvalidOption

    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float64).ravel()
        with path.open(newline="") as file:
            return np.asarray([float(row["similarity"]) for row in csv.DictReader(file)])
    except KeyError as error:
        raise InvalidOption(f"{path} has no column {error}; name the column of numbers similarity") from error
    except (OSError, ValueError, TypeError) as error:
        raise InvalidOption(f"{path} holds no similarities ({error}); give an .npy array or a .csv") from error


PICTURES: dict[str, tuple[str, Callable[[Subject], Drawn]]] = {
    "map": ("Map of the features", _maps),
    "knn": ("kNN over k and temperature", knn_pictures),
    "grad-cam": ("Where the encoder looks", grad_cam_pictures),
    "quality": ("Results over image quality", _quality),
    "guidance": ("Guidance, before and after", guidance_pictures),
    "failures": ("Where the guidance fails", failure_pictures),
    "similarity": ("Original against synthetic images", _similarity),
}
"""Name of a picture -> its title, and what draws it."""
