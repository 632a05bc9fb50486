"""Processor seconds to a fixed kNN accuracy: SimCLR by ours (guided, standard), lightly and stable-pretraining.

    python tools/bench_accuracy.py --images CIFAR10_FOLDER [--target 0.35] [--train 2000] [--test 1000] [--repeats 5]
                                   [--most 20] [--out accuracy.json]

Each trains the same small CNN (32 px, batches of 64, SGD) on the same decoded images by its own loader and views, in a
process and an environment of its own with one thread. After every epoch in turn its backbone is judged by the 20
nearest neighbours; the time of judging is nobody's, the time of extracting guidance is ours. Who reaches the target
stops. The first step of each process warms up and counts for nobody.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench_methods import Process

from semaug.artifacts.sources import ImageSource, open_source

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours, guided": ("ours", {"pairs": "guided"}),
    "ours, standard": ("ours", {"pairs": "standard"}),
    "lightly": ("lightly", {}),
    "stable-pretraining": ("stable-pretraining", {}),
}
"""Name to the code base and what its loader is told."""
BATCH, LR = 64, 0.03


@dataclass(slots=True)
class Course:
    """One arm of one repeat: seconds before the first step and of training, and the accuracy after each epoch."""

    arm: str
    seed: int
    extraction: float = 0.0
    seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def to_reach(self, target: float) -> float | None:
        """Seconds until the accuracy first was ``target``; None where it never was."""
        hits = [s for s, a in zip(self.seconds, self.accuracy, strict=True) if a >= target]
        return self.extraction + hits[0] if hits else None


def main() -> int:
    """Run all arms in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder with train and test below it")
    parser.add_argument("--target", type=float, default=0.35)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=int, default=20, help="epochs")
    parser.add_argument("--out", type=Path, help="also write the courses as JSON to this file")
    options = parser.parse_args()
    images, judged = _files(Path(options.images), options.train, options.test)
    processes = {arm: Process(who, 1) for arm, (who, _) in ARMS.items()}
    courses: list[Course] = []
    for seed in range(options.repeats):
        courses += _race(processes, seed, images, judged, options.train // BATCH, options.most, options.target)
        print(table(courses, options.target), file=sys.stderr)
        if options.out:
            options.out.write_text(json.dumps([asdict(c) for c in courses], indent=1), "utf-8")
    print(table(courses, options.target))
    return 0


def _files(root: Path, train: int, test: int) -> tuple[str, str]:
    """The training images as an .npy, and both sets with their labels as an .npz; spread evenly over the folders."""
    folder = Path(tempfile.mkdtemp(prefix="semaug-accuracy-"))
    sets: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        sets[part], sets[f"{part}_labels"] = _some(open_source(root / part), count)
    np.save(folder / "images.npy", sets["train"])
    np.savez(folder / "judged.npz", **sets)
    return str(folder / "images.npy"), str(folder / "judged.npz")


def _some(source: ImageSource, count: int) -> tuple[Any, Any]:
    chosen = np.linspace(0, len(source) - 1, count).astype(int).tolist()
    return np.stack([source.read(i) for i in chosen]), np.array([source.label(i) for i in chosen])


def _race(
    processes: dict[str, Process], seed: int, images: str, judged: str, steps: int, most: int, target: float
) -> list[Course]:
    """One repeat: an epoch of each in turn, until all have reached the target or had ``most`` epochs."""
    work = {"method": "simclr", "backbone": "small-cnn", "batch": BATCH, "lr": LR, "seed": seed}
    courses = [Course(arm, seed) for arm in ARMS]
    for course in courses:
        process, load = processes[course.arm], {"images": images, "workers": 0, **ARMS[course.arm][1]}
        for _ in range(1 + (seed == 0)):  # compiling is not extraction: the first time is dropped
            process.ask(prepare=work)
            course.extraction = float(process.ask(load=load)["seconds"])
            process.ask(train=1)
    for _ in range(most):
        for course in (c for c in courses if c.to_reach(target) is None):
            process = processes[course.arm]
            spent = float(process.ask(train=steps)["seconds"])
            course.seconds.append(spent + (course.seconds[-1] if course.seconds else 0.0))
            course.accuracy.append(float(process.ask(accuracy=judged)["accuracy"]))
    return courses


def table(courses: list[Course], target: float) -> str:
    """Median and quartiles over the repeats, and the time over that of the first arm, paired by repeat."""
    lines = [
        f"| to kNN accuracy {target} | seconds | of these extraction | epochs | over ours, guided | reached |",
        "|---|---|---|---|---|---|",
    ]
    by_seed = {(c.arm, c.seed): c.to_reach(target) for c in courses}
    for arm in ARMS:
        own = [c for c in courses if c.arm == arm]
        times = [t for c in own if (t := c.to_reach(target)) is not None]
        pairs = [(by_seed[arm, c.seed], by_seed[next(iter(ARMS)), c.seed]) for c in own]
        ratios = [a / b for a, b in pairs if a is not None and b is not None]
        extraction = statistics.median(c.extraction for c in own)
        epochs = [len(c.seconds) for c in own if c.to_reach(target) is not None]
        cells = [_spread(times), f"{extraction:.1f}", _spread(epochs), _spread(ratios), f"{len(times)} of {len(own)}"]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float] | list[int]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "-"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
