"""Maps of features in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Features
from semaug.eval.figures.style import ImageFormat, colour, new_figure, render, styled
from semaug.eval.splits import require_finite
from semaug.eval.subsets import all_equal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_LIMIT = 1500


def tsne_map(
    features: Features, *, perplexity: float = 30.0, limit: int = MAP_LIMIT, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """t-SNE (van der Maaten and Hinton 2008; perplexity 30, PCA start) of at most ``limit`` labelled images.

    Features are scaled to length 1 first, as kNN sees them. Returns coordinates float32 (m, 2) and labels (m,).
    Raises ``EvaluationError`` with fewer than 8 images or one direction, ``NonFiniteFeatures`` for NaN or infinity.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    labelled = features.labelled()
    if len(labelled) < 8:
        raise EvaluationError(f"{len(labelled)} labelled images; a map needs at least 8")
    if len(labelled) > limit:
        rows = np.sort(generator(seed, "tsne").permutation(len(labelled))[:limit])
        labelled = labelled.take(rows)
    require_finite(labelled, "mapped")
    lengths = np.linalg.norm(labelled.features, axis=1, keepdims=True)
    unit = labelled.features / np.maximum(lengths, 1e-12)
    if all_equal(unit):
        raise EvaluationError(f"all {len(unit)} features point one way, so there is no map: the encoder has collapsed")
    perplexity = min(perplexity, (len(labelled) - 1) / 3)
    init = "pca" if unit.shape[1] > 1 else "random"
    solver = TSNE(perplexity=perplexity, init=init, random_state=seed, learning_rate="auto")
    with threadpool_limits(1, "openmp"):  # so few points gain nothing from threads, and lose much on a busy machine
        return solver.fit_transform(unit).astype(np.float32), labelled.labels


def embedding_map(
    maps: Sequence[tuple[str, NDArray[np.float32], NDArray[np.int64]]],
    class_names: Sequence[str],
    image_format: ImageFormat = "svg",
) -> bytes:
    """Scatter plots side by side, one a variant: (name, coordinates (m, 2), labels (m,)); axes carry no meaning."""
    present = sorted({int(label) for _, _, labels in maps for label in np.unique(labels)})
    with styled():
        width = 3.0 * len(maps) if len(maps) > 1 else 5.0
        figure, axes = new_figure(width, 3.0 + 0.24 * -(-len(present) // 5) if len(maps) > 1 else 5.4, len(maps))
        for plot, (name, points, labels) in zip(axes, maps, strict=True):
            for place, label in enumerate(present):
                chosen = points[labels == label]
                plot.scatter(chosen[:, 0], chosen[:, 1], s=7, color=_class_colour(place, len(present)), linewidths=0)
            plot.set_title(name)
            plot.set(xticks=[], yticks=[])
            plot.set_aspect("equal", adjustable="datalim")
            plot.spines[:].set_visible(False)
        _legend(figure, class_names, present)
        return render(figure, image_format)


def _class_colour(place: int, count: int) -> Any:
    if count <= 10:
        return colour(place)
    import matplotlib

    return matplotlib.colormaps["hsv"](place / count)


def _legend(figure: Figure, class_names: Sequence[str], present: Sequence[int]) -> None:
    """Names under the maps, where there are few enough to tell apart."""
    from matplotlib.lines import Line2D

    if len(present) > 20:
        return
    handles = [
        Line2D([], [], marker="o", ls="", color=_class_colour(place, len(present)), ms=5, label=class_names[label])
        for place, label in enumerate(present)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(5, len(handles)), handletextpad=0.2, columnspacing=1.2
    )
