"""What guidance by oracles without a download is worth: SimCLR on scenes and on CIFAR-10, against its controls.

    python tools/own_oracle_study.py --out study --fastestdet ../shared/models/fastestdet.onnx --cifar cifar10

``--cifar`` is a folder with ``train/CLASS/*`` and ``test/CLASS/*``; without it only the scenes run. Every variant sees
the same images, first weights, order and colours under each seed; only where crops are cut differs. Each job takes
one core (``--jobs 2`` runs two at once) and is resumed when the same command is given again. After every seed, tables
go to ``study/tables.md`` and all numbers to ``study/results.json``.

On Linux, ``MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000`` before the command saves a quarter of
the time: freed memory is kept for the next step.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semaug.artifacts.progress import Progress
    from semaug.studies.comparison import Compared
    from semaug.studies.jobs import TrainAndScore

PLUGIN = Path(__file__).resolve().parents[1] / "examples" / "fastestdet" / "fastestdet_detector.py"
LINEAR, KNN = "linear/top1", "knn/backbone/top1"
CROPS = {"scale": (0.2, 1.0), "box_scale": (0.25, 1.0), "p_guided": 0.7, "box_select": "largest"}
"""The crops of every variant: shares of the image, of the box, and of the views that are guided."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What a variant's pairs are, and whose boxes guide them."""

    pairs: str
    oracle: str | None = None
    trained_on: str = "-"
    is_control: bool = False


VARIANTS: Mapping[str, Variant] = {
    "standard": Variant("standard", is_control=True),
    "random_box": Variant("random_box", "objectness", is_control=True),
    "shuffled_box": Variant("shuffled_box", "objectness", is_control=True),
    "saliency": Variant("guided", "saliency", "nothing"),
    "objectness": Variant("guided", "objectness", "ImageNet photographs, labelled by FastestDet"),
    "self": Variant("self", None, "these images, by the run itself"),
    "fastestdet": Variant("guided", "fastestdet", "COCO train2017"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One set of images and how long to train on it."""

    title: str
    preset: str
    size: int
    small_stem: bool
    steps: int
    batch_size: int
    optimizer: str
    lr: float
    seeds: int
    images: Mapping[str, int] = field(default_factory=dict)
    """Images a split: of scenes in all, of CIFAR-10 in each class."""


SETTINGS: Mapping[str, Setting] = {
    "scenes": Setting(
        "Generated scenes", "symmetric_weak", 64, False, 240, 128, "paper", 0.25, 5, {"train": 2000, "test": 1000}
    ),
    "cifar10": Setting(
        "CIFAR-10", "asymmetric_cifar", 32, True, 500, 256, "adamw", 1e-3, 3, {"train": 2000, "test": 1000}
    ),
}


@dataclass(frozen=True, slots=True)
class Study:
    """What is run: the sets of images, the variants, where to, and the model of FastestDet."""

    out: Path
    cifar: Path | None
    fastestdet: Path | None
    variants: Mapping[str, Variant]
    settings: Mapping[str, Setting]
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """The packs of a setting, the guidance of each oracle, and its seconds per 1,000 images."""

    train: str
    test: str
    guidance: Mapping[str, str]
    seconds: Mapping[str, float]


def run_study(study: Study) -> dict[str, Any]:
    """Prepare, train and compare every setting, seed by seed; the tables are written anew after each seed."""
    results: dict[str, Any] = {"machine": machine()}
    for name, setting in study.settings.items():
        prepared = prepare(study, name, setting)
        for count in range(1, setting.seeds + 1):
            scores = train_seeds(study, name, setting, prepared, range(count))
            results[name] = result_of(study, setting, prepared, scores)
            write_results(study, results)
    return results


def prepare(study: Study, name: str, setting: Setting) -> Prepared:
    """Pack the images and extract the guidance of every oracle that a variant needs."""
    from semaug.artifacts.pack import pack_images
    from semaug.artifacts.sources import open_source
    from semaug.oracles.extract import costs_per_1000, extract_guidance

    folder = study.out / name
    folder.mkdir(parents=True, exist_ok=True)
    packs = {}
    for split in ("train", "test"):
        packs[split] = folder / f"{split}.zarr"
        pack_images(open_source(source_spec(study, name, split, setting)), packs[split], format="raw")
    guidance, seconds = {}, {}
    images = open_source(packs["train"])
    for oracle in dict.fromkeys(v.oracle for v in study.variants.values() if v.oracle):
        out = folder / f"{oracle}.zarr"
        extract_guidance(images, out, detector=oracle_spec(oracle, study.fastestdet), granularity="object")
        guidance[oracle], seconds[oracle] = str(out), costs_per_1000(out)["seconds"]
        print(f"{name}: boxes of {oracle}, {seconds[oracle]:.1f} s per 1,000 images", file=sys.stderr)
    return Prepared(str(packs["train"]), str(packs["test"]), guidance, seconds)


def source_spec(study: Study, name: str, split: str, setting: Setting) -> str:
    """Scenes by name; of CIFAR-10 a list of the first images of each class."""
    count = setting.images[split]
    if name == "scenes":
        return f"scenes:{split}?items={count}"
    assert study.cifar is not None
    listed = study.out / name / f"{split}.csv"
    root = (study.cifar / split).resolve()
    with listed.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label"))
        for folder in sorted(p for p in root.iterdir() if p.is_dir()):
            table.writerows((str(path), folder.name) for path in sorted(folder.iterdir())[:count])
    return str(listed)


def oracle_spec(oracle: str, fastestdet: Path | None) -> Any:
    """The detector behind a variant; raises ``InvalidOption`` for FastestDet without its model."""
    from semaug.artifacts.errors import InvalidOption
    from semaug.oracles.catalogue import OracleSpec

    if oracle != "fastestdet":
        return OracleSpec(oracle)
    if fastestdet is None:
        raise InvalidOption("fastestdet needs its model; give --fastestdet FILE, or leave it out of --variants")
    return OracleSpec(f"{PLUGIN}:FastestDet", (("model", str(fastestdet.resolve())),))


def train_seeds(
    study: Study, name: str, setting: Setting, prepared: Prepared, seeds: Sequence[int]
) -> dict[str, Compared]:
    """Every variant's scores over the seeds; jobs that are done are not run again."""
    from semaug.studies.comparison import compare
    from semaug.studies.runner import run_jobs

    jobs = [job_of(study, name, setting, prepared, v, seed) for seed in seeds for v in study.variants]
    outcomes = run_jobs(jobs, workers=study.jobs, stage=name, on_progress=_Teller(name))
    for outcome in outcomes:
        if outcome.error:
            print(f"{outcome.name} failed: {outcome.error}", file=sys.stderr)
    count = len(study.variants)
    return {v: compare(outcomes[i::count], (LINEAR, KNN)) for i, v in enumerate(study.variants)}


def job_of(study: Study, name: str, setting: Setting, prepared: Prepared, variant: str, seed: int) -> TrainAndScore:
    """One run: seeds are paired over the variants."""
    from semaug.studies.assemble import TrainingPlan
    from semaug.studies.jobs import TrainAndScore

    chosen = study.variants[variant]
    options = {"preset": setting.preset, **CROPS}
    if chosen.pairs == "standard":
        options = {"preset": setting.preset, "scale": CROPS["scale"]}
    plan = TrainingPlan(
        prepared.train, pairs=chosen.pairs, guidance=prepared.guidance.get(chosen.oracle or ""), pair_options=options,
        backbone="small-cnn", size=setting.size, small_stem=setting.small_stem, steps=setting.steps,
        batch_size=setting.batch_size, optimizer=setting.optimizer, lr=setting.lr, warmup=setting.steps // 20,
        seed=seed,
    )  # fmt: skip
    out = study.out / name / "runs" / f"{variant}-{seed}"
    return TrainAndScore(f"{name} {variant} seed {seed}", out, plan, prepared.train, prepared.test)


class _Teller:
    """Says on stderr how far a set of images is, every twentieth of the way."""

    def __init__(self, name: str) -> None:
        self._name, self._told = name, -1

    def __call__(self, event: Progress) -> None:
        part = 20 * event.done // max(1, event.total)
        if part != self._told:
            self._told = part
            print(f"{self._name}: {event.done:,} of {event.total:,} {event.unit} ({event.note})", file=sys.stderr)


def result_of(study: Study, setting: Setting, prepared: Prepared, scores: Mapping[str, Compared]) -> dict[str, Any]:
    """Everything about a setting as plain JSON values: seeds' values, best controls, differences with intervals."""
    from semaug.eval.statistics import holm
    from semaug.studies.comparison import best_control

    finished = {name: score for name, score in scores.items() if score.n}
    controls = [name for name, v in study.variants.items() if v.is_control]
    result: dict[str, Any] = {"setting": asdict(setting), "crops": CROPS, "seconds_per_1000": dict(prepared.seconds)}
    result["values"] = {name: dict(score.values) for name, score in scores.items()}
    for metric in (LINEAR, KNN):
        best = best_control(finished, controls, metric)
        rows = {n: _difference(s, finished[best], metric) for n, s in finished.items() if best and n != best}
        tested = [n for n in rows if n not in controls]
        adjusted = holm([rows[n]["p_value"] for n in tested])
        for n, p in zip(tested, adjusted, strict=True):
            rows[n]["p_holm"] = p
        result[metric] = {"best_control": best, "differences": rows}
    return result


def _difference(score: Compared, control: Compared, metric: str) -> dict[str, Any]:
    return asdict(score.against(control, metric))


def write_results(study: Study, results: Mapping[str, Any]) -> None:
    """``results.json`` and ``tables.md``, whole or not at all."""
    from semaug.artifacts.files import write_atomic

    write_atomic(study.out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    parts = [format_table(study, study.settings[n], r) for n, r in results.items() if n in study.settings]
    write_atomic(study.out / "tables.md", ("\n\n".join(parts) + "\n").encode())


def format_table(study: Study, setting: Setting, result: Mapping[str, Any]) -> str:
    """One setting as Markdown: means over the seeds, and paired differences to the best control."""
    from semaug.eval.statistics import summarise

    lines = [
        f"{setting.title}, {len(next(iter(result['values'].values()))[LINEAR])} seeds",
        "",
        "| variant | oracle trained on | linear, % | kNN, % | linear - best control | kNN - best control | p (Holm) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in result["values"].items():
        kept = {m: [v for v in values[m] if v is not None] for m in (LINEAR, KNN)}
        means = [_mean(summarise(kept[m])) if kept[m] else "failed" for m in (LINEAR, KNN)]
        differences = [_interval(name, result[m]) for m in (LINEAR, KNN)]
        p = result[LINEAR]["differences"].get(name, {}).get("p_holm")
        cells = [name, study.variants[name].trained_on, *means, *differences, "-" if p is None else f"{p:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(summary: Any) -> str:
    spread = "" if summary.sd is None else f" ± {100 * summary.sd:.2f}"
    return f"{100 * summary.mean:.2f}{spread}"


def _interval(name: str, compared: Mapping[str, Any]) -> str:
    if name == compared["best_control"]:
        return "best control"
    row = compared["differences"].get(name)
    if row is None:
        return "-"
    text = f"{100 * row['mean']:+.2f}"
    return text if row["low"] is None else f"{text} [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"


def machine() -> dict[str, Any]:
    """What the study ran on."""
    from semaug.artifacts.store import package_versions

    return {"platform": platform.platform(), "python": platform.python_version(), "packages": package_versions()}


def chosen_variants(names: str, controls_of: str) -> dict[str, Variant]:
    """The variants that were asked for; controls that need boxes take those of ``controls_of``."""
    chosen = {name: VARIANTS[name] for name in names.split(",")}
    return {n: replace(v, oracle=controls_of) if v.is_control and v.oracle else v for n, v in chosen.items()}


def chosen_settings(names: str | None, seeds: int | None, steps: int | None, cifar: Path | None) -> dict[str, Setting]:
    """The sets of images that were asked for (by default, all that there are), with their seeds and steps."""
    asked = names.split(",") if names else [n for n in SETTINGS if n != "cifar10" or cifar is not None]
    if "cifar10" in asked and cifar is None:
        raise SystemExit("cifar10 needs its images; give --cifar FOLDER with train/CLASS/* and test/CLASS/*")
    changes = {k: v for k, v in (("seeds", seeds), ("steps", steps)) if v is not None}
    return {name: replace(SETTINGS[name], **changes) for name in asked}  # type: ignore[arg-type]


def main() -> None:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cifar", type=Path, help="folder with train/ and test/, classes as folders")
    parser.add_argument("--fastestdet", type=Path, help="fastestdet.onnx")
    parser.add_argument("--sets", help=f"which sets of images, separated by commas: {', '.join(SETTINGS)}")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="which variants, separated by commas")
    parser.add_argument("--controls-of", default="objectness", help="whose boxes random_box and shuffled_box take")
    parser.add_argument("--seeds", type=int, help="seeds of each set (default: as set)")
    parser.add_argument("--steps", type=int, help="steps of each run (default: as set)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one core each")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which the jobs do
    if unknown := sorted({*given.variants.split(",")} - {*VARIANTS}):
        parser.error(f"no variant is called {unknown[0]!r}; choose among {', '.join(VARIANTS)}")
    if unknown := sorted({*(given.sets.split(",") if given.sets else SETTINGS)} - {*SETTINGS}):
        parser.error(f"no set is called {unknown[0]!r}; choose among {', '.join(SETTINGS)}")
    settings = chosen_settings(given.sets, given.seeds, given.steps, given.cifar)
    variants = chosen_variants(given.variants, given.controls_of)
    run_study(Study(given.out.resolve(), given.cifar, given.fastestdet, variants, settings, given.jobs))
    print((given.out / "tables.md").read_text(), end="")


if __name__ == "__main__":
    main()
