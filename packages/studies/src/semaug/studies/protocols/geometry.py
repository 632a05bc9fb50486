"""The shape of a run's embedding, and what its features keep of a changed image (spec S1.9 g to j, l)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption, UnreadableImage
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.schemas import Skipped
from semaug.artifacts.sources import open_source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from semaug.eval.features import Features
    from semaug.eval.geometry.invariance import InvarianceResult
    from semaug.eval.geometry.results import GeometryResult
    from semaug.pairs_dataset.sources import PairSource

VIEWS = "symmetric"
"""The preset of the two views that alignment is taken on, whatever a run was trained with."""
PAIR_LIMIT, VIEW_LIMIT, INVARIANCE_LIMIT = 50_000, 2000, 500
_VIEW_EPOCH = -1  # so that no training has seen these very views
_BATCH = 128


@dataclass(frozen=True, slots=True)
class TwoViews:
    """Features of two views of each image: space -> two arrays float32 (n, d); and the images left out."""

    spaces: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    skipped: tuple[Skipped, ...] = ()


def run_geometry(
    features: Features,
    views: TwoViews | str,
    *,
    limit: int | None = PAIR_LIMIT,
    loops: bool = False,
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> GeometryResult:
    """Dimension, uniformity, Betti curves, alignment and InfoNCE bound, in backbone and in projector space.

    ``views`` is what ``two_views`` makes, or the reason why there is none. Every pair of at most ``limit`` images is
    looked at, drawn at random from more (a warning says so). ``loops`` adds beta_1 (extra `tda`).
    """
    import numpy as np

    from semaug.eval.geometry.results import GeometryResult, joined

    total, notes = len(features), tuple(features.notes)
    if limit is not None and limit < total:
        features = features.take(np.asarray(_chosen(total, limit, seed), dtype=np.intp))
        notes += (f"measured on {limit:,} of {total:,} images, drawn at random",)
    spaces = {"backbone": features.features, "projector": features.projections}
    found = [
        _of_space(values, views if isinstance(views, str) else views.spaces[space], loops, device, seed, on_progress)
        .under(space)
        for space, values in spaces.items()
        if values is not None
    ]  # fmt: skip
    result = joined(found).under("geometry")
    return GeometryResult(result.measures, notes + result.warnings)


def _of_space(
    values: NDArray[np.float32], views: Any, loops: bool, device: str, seed: int, on_progress: OnProgress
) -> GeometryResult:
    from semaug.eval.geometry.betti import evaluate_betti
    from semaug.eval.geometry.dimension import evaluate_dimension
    from semaug.eval.geometry.infonce import METRICS, evaluate_infonce
    from semaug.eval.geometry.results import joined, undefined
    from semaug.eval.geometry.uniformity import evaluate_alignment, evaluate_uniformity

    results = [
        evaluate_dimension(values, device=device, seed=seed, on_progress=on_progress),
        evaluate_uniformity(values, device=device, on_progress=on_progress),
        evaluate_betti(values, loops=loops, seed=seed, on_progress=on_progress),
    ]
    if isinstance(views, str):
        return joined([*results, undefined(["alignment", *METRICS], 0, views)])
    return joined([*results, evaluate_alignment(*views), evaluate_infonce(*views, seed=seed)])


def two_views(
    run: Path,
    images: str,
    *,
    limit: int | None = VIEW_LIMIT,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> TwoViews | str:
    """Features of two views of at most ``limit`` images, drawn by the preset ``symmetric`` whatever the run's own pairs
    were; or why there are none (a features artifact holds no images). Unreadable images are listed.
    """
    import numpy as np
    import torch

    from semaug.studies.protocols.features import Embedder, is_features

    if is_features(images):
        return "a features artifact holds no images to make views of"
    embedder = Embedder(run, device, workers)
    if embedder.card.input_size is None:
        return "the encoder reads rows of a table, and the views are of images"
    encode, pairs = embedder.work.encode, _standard_pairs(embedder, images, seed)
    collected: dict[str, tuple[list[Any], list[Any]]] = {"backbone": ([], []), "projector": ([], [])}
    skipped: list[Skipped] = []
    chosen = _chosen(len(pairs), limit, seed)
    for views, left_out, done in _view_batches(pairs, chosen, embedder.readers):
        skipped += left_out
        for side in range(2) if len(views) else ():
            with torch.inference_mode():
                outputs = encode(views[:, side].to(device))
            for space, output in zip(collected, outputs, strict=True):
                if output is not None:
                    collected[space][side].append(output.float().cpu().numpy())
        on_progress(Progress("two views", done, len(chosen)))
    if not collected["backbone"][0]:
        return f"none of {len(chosen)} images could be read"
    joined = {space: (np.concatenate(a), np.concatenate(b)) for space, (a, b) in collected.items() if a}
    return TwoViews(joined, tuple(skipped))


def _standard_pairs(embedder: Any, images: str, seed: int) -> PairSource:
    from semaug.pairs_dataset import make_pairs

    prepared = embedder.preparation
    pairs = make_pairs(
        "standard", open_source(images), preset=VIEWS, size=prepared.input_size, mean=prepared.mean, std=prepared.std,
        seed=seed,
    )  # fmt: skip
    pairs.set_epoch(_VIEW_EPOCH)
    return pairs


def _chosen(total: int, limit: int | None, seed: int) -> list[int]:
    from semaug.artifacts.draws import generator

    if limit is not None and limit < 1:
        raise InvalidOption(f"a limit of {limit} images; give at least 1")
    if limit is None or limit >= total:
        return list(range(total))
    return sorted(generator(seed, "geometry-limit").permutation(total)[:limit].tolist())


def _view_batches(
    pairs: PairSource, items: list[int], readers: int
) -> Iterator[tuple[torch.Tensor, list[Skipped], int]]:
    """Views float32 (b, 2, 3, s, s), the images left out, and how many are done; a batch is made while one is used."""
    import torch

    def make(batch: list[int]) -> tuple[torch.Tensor, list[Skipped]]:
        made, skipped = [], []
        for item in batch:
            try:
                made.append(torch.stack(pairs[item][:2]))
            except UnreadableImage as error:
                skipped.append(Skipped(key=pairs.source.key(int(pairs.images[item])), reason=str(error)))
        return torch.stack(made) if made else torch.empty(0), skipped

    batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
    with ThreadPoolExecutor(readers) as pool:
        waiting = [pool.submit(make, batch) for batch in batches[:readers]]
        for place in range(len(batches)):
            views, skipped = waiting.pop(0).result()
            if place + readers < len(batches):
                waiting.append(pool.submit(make, batches[place + readers]))
            yield views, skipped, min((place + 1) * _BATCH, len(items))


def run_invariance(
    run: Path,
    images: str,
    *,
    draws: int = 3,
    limit: int | None = INVARIANCE_LIMIT,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> InvarianceResult:
    """Mean cosine of the features of an image and of its fixed changes (``transforms.TRANSFORMS``), by family.

    Raises ``InvalidOption`` for a features artifact, which holds no images.
    """
    from semaug.eval.geometry.invariance import evaluate_invariance
    from semaug.studies.protocols.features import Embedder, is_features
    from semaug.studies.protocols.transforms import TRANSFORMS

    if is_features(images):
        raise InvalidOption(f"{images} holds features, and invariance changes images; give --images the images")
    embedder = Embedder(run, device, workers)
    prepared = embedder.preparation
    return evaluate_invariance(
        embedder.work.encode, open_source(images), TRANSFORMS, input_size=prepared.input_size,
        mean=prepared.mean, std=prepared.std, draws=draws, limit=limit, workers=embedder.readers,
        device=device, seed=seed, on_progress=on_progress,
    )  # fmt: skip
