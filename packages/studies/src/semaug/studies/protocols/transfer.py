"""Transfer: the frozen encoder of a run, scored by linear probe and kNN on several data sets (spec S1.9 c, S2.8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from semaug.artifacts.errors import InvalidOption, SemaugError
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.schemas import Skipped
from semaug.artifacts.sources.named import train_and_test

if TYPE_CHECKING:
    from semaug.eval.measures import Measure
    from semaug.eval.probes.knn import KnnResult
    from semaug.eval.probes.linear import LinearResult

METRICS = ("linear_top1", "linear_top5", "linear_mean_per_class", "knn_top1", "knn_selected_top1")


@dataclass(frozen=True, slots=True)
class TransferSet:
    """A data set by name, with what its training and its test images are opened from."""

    name: str
    train: str
    test: str


@dataclass(frozen=True, slots=True)
class Transferred:
    """The scores on one data set, or why there are none; ``skipped`` are its images that could not be read."""

    name: str
    linear: LinearResult | None
    knn: KnnResult | None
    reason: str = ""
    skipped: tuple[Skipped, ...] = ()

    def values(self) -> dict[str, tuple[float | None, str]]:
        """Metric -> value and, without one, the reason."""
        if self.linear is None or self.knn is None:
            return dict.fromkeys(METRICS, (None, self.reason))
        neighbours = {m.metric: (m.value, m.reason) for m in self.knn}
        top5 = self.linear.top5
        return {
            "linear_top1": (self.linear.top1, ""),
            "linear_top5": (top5, "" if top5 is not None else "five classes or fewer"),
            "linear_mean_per_class": (mean_per_class(self.linear), ""),
            "knn_top1": neighbours["knn/backbone/top1"],
            "knn_selected_top1": neighbours["knn/backbone/selected_top1"],
        }


@dataclass(frozen=True, slots=True)
class TransferResult:
    """Scores of every data set, in the order asked for; ``skipped`` also names the sets without scores."""

    sets: tuple[Transferred, ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measure]:
        """Every set's measures over its test images, then each metric's mean over the sets (n: number of sets)."""
        from semaug.eval.measures import Measure

        tables = [found.values() for found in self.sets]
        for found, table in zip(self.sets, tables, strict=True):
            n = found.linear.n if found.linear is not None else 0
            for metric, (value, reason) in table.items():
                yield Measure(f"transfer/{found.name}/{metric}", value, n, reason)
        for metric in ("linear_top1", "knn_top1"):
            values = [table[metric][0] for table in tables]
            known = [value for value in values if value is not None]
            whole = len(known) == len(values)
            mean = sum(known) / len(known) if whole else None
            reason = "" if whole else f"{len(values) - len(known)} of {len(values)} sets have no value"
            yield Measure(f"transfer/mean/{metric}", mean, len(values), reason)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read, and sets that could not be scored."""
        absent = (Skipped(key=found.name, reason=found.reason) for found in self.sets if found.linear is None)
        images = (Skipped(key=f"{f.name}/{s.key}", reason=s.reason) for f in self.sets for s in f.skipped)
        return (*absent, *images)


def transfer_sets(
    named: Iterable[str], pairs: Iterable[tuple[str, str, str]] = (), root: Path | None = None
) -> tuple[TransferSet, ...]:
    """The sets to transfer to: ``named`` as ``NAME?root=FOLDER&option=value``, ``pairs`` as (name, train, test).

    ``root`` is the folder of those that give none. Raises ``InvalidOption`` for no set or one name twice,
    ``SourceError`` for a name that is not known.
    """
    found = []
    for text in named:
        name, _, query = text.partition("?")
        if root is not None and not any(part.startswith("root=") for part in query.split("&")):
            from semaug.artifacts.sources.query import write_spec

            given = write_spec("", "", {"root": str(root.expanduser().resolve())}).partition("?")[2]
            text = f"{name}?{query}&{given}" if query else f"{name}?{given}"
        label = "-".join([name.rstrip(":"), *(part.replace("=", "") for part in query.split("&") if _tells(part))])
        found.append(TransferSet(label, *train_and_test(text)))
    found += [TransferSet(*pair) for pair in pairs]
    if not found:
        raise InvalidOption("no data set to transfer to; give --data NAME?root=FOLDER or --pair NAME TRAIN TEST")
    names = [given.name for given in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidOption(f"the data set {twice[0]!r} is given twice; name one of them otherwise with --pair")
    return tuple(found)


def _tells(option: str) -> bool:
    """Whether an option tells apart what is measured; where the files lie does not."""
    return bool(option) and option.split("=")[0] not in ("root", "boxes", "classes")


def run_transfer(
    run: Path,
    sets: Sequence[TransferSet],
    *,
    solver: str = "lbfgs",
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    keep: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> TransferResult:
    """Score the frozen encoder of a run on every set; one that is not there, or that no probe fits, says why.

    The penalty (or rate) of each probe and kNN's k and T are chosen on a selection split of that set's training images.
    """
    found, warnings = [], []
    for given in sets:
        try:
            done, notes = _transferred(run, given, solver, seed, device, workers, keep, on_progress)
        except SemaugError as error:
            done, notes = Transferred(given.name, None, None, " ".join(str(error).split())), ()
        found.append(done)
        warnings += [f"{given.name}: {note}" for note in notes]
    return TransferResult(tuple(found), tuple(warnings))


def _transferred(
    run: Path,
    given: TransferSet,
    solver: str,
    seed: int,
    device: str,
    workers: int,
    keep: bool,
    on_progress: OnProgress,
) -> tuple[Transferred, tuple[str, ...]]:
    from semaug.studies.evaluation import run_knn, run_linear
    from semaug.studies.protocols.features import features_of_run

    train, test = features_of_run(
        run, (given.train, given.test), device=device, workers=workers, keep=keep, on_progress=on_progress
    )
    linear = run_linear(train, test, solver=solver, device=device, seed=seed, on_progress=on_progress)
    knn = run_knn(train, test, device=device, seed=seed)
    notes = tuple(dict.fromkeys((*linear.warnings, *knn.warnings)))
    return Transferred(given.name, linear, knn, skipped=(*train.skipped, *test.skipped)), notes


def mean_per_class(linear: LinearResult) -> float:
    """The mean of the classes' accuracies, which Pets, Flowers and other uneven sets are reported by."""
    import numpy as np

    return float(np.nanmean(linear.per_class))
