"""Train the objectness network that ships with semaug-oracles, or one of your own. It takes an hour on one core.

    python tools/train_objectness.py --photos ../shared/data/imagenet490 \\
        --teacher 'examples/fastestdet/fastestdet_detector.py:FastestDet?model=../shared/models/fastestdet.onnx' \\
        --labelled ../shared/data/coco128/images --boxes ../shared/data/coco128/boxes \\
        --polygons ../shared/data/coco128/polygons --work work/ \\
        --out packages/oracles/src/semaug/oracles

Stages, each of which goes on where a stopped run was (``--only`` picks some, so that two can run side by side):

``samples``   24,000 crops and mosaics of the photographs, and 10,000 crops that show most of one, labelled by the
              teacher
``labelled``  9,600 crops, mosaics and pastes of the photographs with true polygons (when given)
``base``      the network, trained on the teacher's opinion of the photographs
``sharp``     ``base`` trained on, more for the order of boxes than for the teacher's shades
``fold-K``    the mask, trained on three quarters of the labelled photographs: for measuring it on the last quarter
``final``     the mask, trained on all of them: the network that ships, written to ``--out``; without labelled
              photographs the result is ``sharp.safetensors`` in ``--work``, whose mask has learned nothing

Boxes learn nothing from the labelled photographs: tuning them on the true boxes of 96 photographs lowered the recall on
the other 32 (two folds of coco128: 0.43 from 0.45), so the boxes of every fold are those of ``final``.
The teacher is any detector of ours (``semaug guide extract --detector``); one that has a method ``dense`` is asked for
the opinion of every cell, others for their boxes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from objectness_samples import BoxTeacher, DenseTeacher, photographs, read_samples, write_samples
from objectness_training import Arrays, Schedule, State, train

from semaug.artifacts.sources import open_source
from semaug.oracles.catalogue import OracleSpec, open_detector

FOLDS = 4
SHARES = {
    "base": {"samples": 1.0},
    "sharp": {"wide": 0.6, "samples": 0.4},
    "masks": {"labelled": 1.0},
}
"""What a stage's batches are made of, by folder of samples."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything; the defaults made the weights that ship."""

    samples: int = 24_000
    wide: int = 10_000
    labelled: int = 9_600
    base: Schedule = Schedule(2400)  # noqa: RUF009 (frozen)
    sharp: Schedule = Schedule(800, rate=2e-3, warmup=50, sharp=True)  # noqa: RUF009 (frozen)
    masks: Schedule = Schedule(300, rate=3e-3, warmup=20, average=0.98)  # noqa: RUF009 (frozen)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the photographs are, and where work and results go."""

    photos: str
    labelled: str | None
    boxes: Path | None
    polygons: Path | None
    work: Path
    out: Path


def make_samples(paths: Paths, recipe: Recipe, teacher: DenseTeacher) -> None:
    """The samples that the teacher alone labels."""
    photos = photographs(open_source(paths.photos), None, None)
    write_samples(paths.work / "samples", photos, [], teacher, recipe.samples, recipe.seed, 0)
    write_samples(paths.work / "wide", photos, [], teacher, recipe.wide, recipe.seed + 2, 0, wide=True)


def make_labelled(paths: Paths, recipe: Recipe, teacher: DenseTeacher) -> None:
    """The samples that show labelled photographs; their objects are also pasted onto the others."""
    assert paths.labelled is not None
    others = photographs(open_source(paths.photos), None, None)
    photos = photographs(open_source(paths.labelled), paths.boxes, paths.polygons)
    write_samples(paths.work / "labelled", photos, others, teacher, recipe.labelled, recipe.seed + 1, len(photos))


def train_boxes(paths: Paths, schedule: Schedule, name: str, after: str | None, seed: int) -> None:
    """One of the stages ``base`` and ``sharp``."""
    start = paths.work / f"{after}.pt" if after else None
    sets = _sets(paths.work, SHARES[name], None)
    state = train(sets, schedule, paths.work / f"{name}.pt", seed=seed, start_from=start)
    export(state, paths.work / f"{name}.safetensors", {})


def train_masks(paths: Paths, recipe: Recipe, fold: int | None) -> None:
    """The mask of the last stage's network, from the labelled photographs, those of one fold left out."""
    name = "final" if fold is None else f"fold-{fold}"
    sets = _sets(paths.work, SHARES["masks"], fold)
    start = paths.work / "sharp.pt"
    checkpoint = paths.work / f"{name}.pt"
    state = train(sets, recipe.masks, checkpoint, seed=recipe.seed, start_from=start, masks_only=True)
    if fold is None:
        export(state, paths.out / "objectness.safetensors", {})
        return
    assert paths.labelled is not None
    source = open_source(paths.labelled)
    names = ",".join(source.key(i) for i in range(len(source)) if i % FOLDS == fold)
    export(state, paths.work / f"{name}.safetensors", {"held_out": names})


def _sets(work: Path, shares: dict[str, float], fold: int | None) -> list[tuple[Arrays, NDArray[np.int64], float]]:
    """Samples, the rows that show no photograph of the fold, and their share of a batch."""
    sets = []
    for folder, share in shares.items():
        arrays = read_samples(work / folder)
        rows, shown = np.arange(len(arrays["images"])), np.asarray(arrays["shows"])
        if fold is not None and folder.startswith("labelled"):
            held = np.arange(shown.shape[1]) % FOLDS == fold
            rows = rows[~shown[:, held].any(axis=1)]
        sets.append((arrays, rows, share))
    return sets


def export(state: State, path: Path, metadata: dict[str, str]) -> None:
    """The averaged weights as float16 safetensors; prints the digest that ``objectness.py`` checks."""
    from safetensors.torch import save

    weights = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in state.averaged.network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    content = save(weights, {"steps": str(state.step), "seconds": f"{state.seconds:.0f}", **metadata})
    path.write_bytes(content)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    print(json.dumps({"weights": path.name, "bytes": len(content), "digest": f"blake2b:{digest}", **metadata}))


def open_teacher(text: str) -> DenseTeacher:
    """A detector as teacher."""
    detector: Any = open_detector(OracleSpec.parse(text))
    return detector if hasattr(detector, "dense") else BoxTeacher(detector)


def stages(paths: Paths, recipe: Recipe, teacher: str) -> dict[str, Any]:
    """Stage name -> what runs it, in order."""
    found: dict[str, Any] = {"samples": lambda: make_samples(paths, recipe, open_teacher(teacher))}
    if paths.labelled is not None:
        found["labelled"] = lambda: make_labelled(paths, recipe, open_teacher(teacher))
    seed = recipe.seed
    found["base"] = lambda: train_boxes(paths, recipe.base, "base", None, seed)
    found["sharp"] = lambda: train_boxes(paths, recipe.sharp, "sharp", "base", seed + 1)
    if paths.labelled is None:
        return found
    for fold in range(FOLDS):
        found[f"fold-{fold}"] = lambda fold=fold: train_masks(paths, recipe, fold)
    return found | {"final": lambda: train_masks(paths, recipe, None)}


def main(arguments: list[str] | None = None) -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, help="photographs to train on: a folder, or any image source")
    parser.add_argument("--teacher", required=True, help="a detector, as `semaug guide extract --detector` takes it")
    parser.add_argument("--labelled", help="photographs with true objects")
    parser.add_argument("--boxes", type=Path, help="their boxes, YOLO text")
    parser.add_argument("--polygons", type=Path, help="their polygons, YOLO-seg text with COCO category ids")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="STAGE")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies samples and steps, to try the tool")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    o = options
    paths = Paths(o.photos, o.labelled, o.boxes, o.polygons, o.work, o.out)
    todo = stages(paths, scaled(Recipe(), options.scale), options.teacher)
    for name in options.only or todo:
        if name not in todo:
            parser.error(f"no stage is called {name!r}; choose from {', '.join(todo)}")
        todo[name]()


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with ``scale`` times the samples and steps."""

    def less(schedule: Schedule) -> Schedule:
        steps = max(1, round(schedule.steps * scale))
        return replace(schedule, steps=steps, warmup=min(schedule.warmup, steps // 4))

    def fewer(samples: int) -> int:
        return max(64, round(samples * scale))

    return replace(
        recipe,
        samples=fewer(recipe.samples),
        wide=fewer(recipe.wide),
        labelled=fewer(recipe.labelled),
        base=less(recipe.base),
        sharp=less(recipe.sharp),
        masks=less(recipe.masks),
    )


if __name__ == "__main__":
    main()
