"""Train the objectness network that ships with semaug-oracles, or one of your own. It takes two hours on one core.

    python tools/train_objectness.py --photos ../shared/data/imagenet490 \\
        --teacher 'examples/fastestdet/fastestdet_detector.py:FastestDet?model=../shared/models/fastestdet.onnx' \\
        --labelled ../shared/data/coco128/images --boxes ../shared/data/coco128/boxes \\
        --polygons ../shared/data/coco128/polygons --work work/ --out packages/oracles/src/semaug/oracles

Stages, each of which goes on where a stopped run was (``--only`` picks some, so that two can run side by side):

``samples``   24,000 crops and mosaics of the photographs, labelled by the teacher
``labelled``  9,600 crops, mosaics and pastes of the photographs with true boxes or polygons (when given)
``base``      the network, trained on the teacher's opinion of the photographs alone
``fold-K``    ``base`` trained on with three quarters of the labelled photographs: for measuring on the last quarter
``final``     ``base`` trained on with all of them: the network that ships

The teacher is any detector of ours (``semaug guide extract --detector``); one that has a method ``dense`` is asked for
the opinion of every cell, others for their boxes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
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
LABELLED_SHARE = 0.5
"""Of a batch, once there are labelled photographs; the rest shows the teacher's."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything; the defaults made the weights that ship."""

    samples: int = 24_000
    labelled: int = 9_600
    base: Schedule = Schedule(2400)  # noqa: RUF009 (frozen)
    tuned: Schedule = Schedule(500, rate=1e-3, warmup=50)  # noqa: RUF009 (frozen)
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


def make_labelled(paths: Paths, recipe: Recipe, teacher: DenseTeacher) -> None:
    """The samples that show labelled photographs; their objects are also pasted onto the others."""
    assert paths.labelled is not None
    backgrounds = photographs(open_source(paths.photos), None, None)
    photos = photographs(open_source(paths.labelled), paths.boxes, paths.polygons)
    folder = paths.work / "labelled"
    write_samples(folder, photos, backgrounds, teacher, recipe.labelled, recipe.seed + 1, len(photos))


def train_base(paths: Paths, recipe: Recipe) -> None:
    """The network on the teacher's opinion."""
    state = train([_all(paths.work / "samples", 1.0)], recipe.base, paths.work / "base.pt", seed=recipe.seed)
    export(state, paths.work / "base.safetensors", {"trained_on": "photographs and teacher"})


def tune(paths: Paths, recipe: Recipe, fold: int | None) -> None:
    """Train ``base`` on with the labelled photographs, those of one fold left out."""
    arrays, rows, share = _all(paths.work / "labelled", LABELLED_SHARE)
    shown = np.asarray(arrays["shows"])
    held = np.arange(shown.shape[1]) % FOLDS == fold if fold is not None else np.zeros(shown.shape[1], bool)
    rows = rows[~shown[:, held].any(axis=1)]
    name = "final" if fold is None else f"fold-{fold}"
    sets = [(arrays, rows, share), _all(paths.work / "samples", 1 - share)]
    state = train(
        sets, recipe.tuned, paths.work / f"{name}.pt", seed=recipe.seed + 1, start_from=paths.work / "base.pt"
    )
    if fold is None:
        export(state, paths.out / "objectness.safetensors", {})
        return
    assert paths.labelled is not None
    source = open_source(paths.labelled)
    names = ",".join(source.key(i) for i in range(len(source)) if held[i])
    export(state, paths.work / f"{name}.safetensors", {"held_out": names})


def _all(folder: Path, share: float) -> tuple[Arrays, NDArray[np.int64], float]:
    arrays = read_samples(folder)
    return arrays, np.arange(len(arrays["images"])), share


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
    if paths.labelled is None:
        return found | {"base": lambda: train_base(paths, recipe)}
    found["labelled"] = lambda: make_labelled(paths, recipe, open_teacher(teacher))
    found["base"] = lambda: train_base(paths, recipe)
    for fold in range(FOLDS):
        found[f"fold-{fold}"] = lambda fold=fold: tune(paths, recipe, fold)
    return found | {"final": lambda: tune(paths, recipe, None)}


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
    paths = Paths(options.photos, options.labelled, options.boxes, options.polygons, options.work, options.out)
    todo = stages(paths, scaled(Recipe(), options.scale), options.teacher)
    for name in options.only or todo:
        if name not in todo:
            parser.error(f"no stage is called {name!r}; choose from {', '.join(todo)}")
        todo[name]()


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with ``scale`` times the samples and steps."""
    from dataclasses import replace

    def less(schedule: Schedule) -> Schedule:
        steps = max(1, round(schedule.steps * scale))
        return replace(schedule, steps=steps, warmup=min(schedule.warmup, steps // 4))

    samples, labelled = (max(64, round(n * scale)) for n in (recipe.samples, recipe.labelled))
    return replace(recipe, samples=samples, labelled=labelled, base=less(recipe.base), tuned=less(recipe.tuned))


if __name__ == "__main__":
    main()
