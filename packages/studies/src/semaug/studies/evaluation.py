"""The protocols of ``semaug eval`` over the features of a run, and their results as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from semaug.eval.features import Features
    from semaug.eval.measures import Measure
    from semaug.eval.probes.knn import KnnResult
    from semaug.eval.probes.linear import LinearResult


def run_knn(
    train: Features, test: Features, *, exclude_self: bool = False, device: str = "cpu", seed: int = 0
) -> KnnResult:
    """Weighted kNN over k and temperature, backbone and projector (spec S1.9 b)."""
    from semaug.eval.probes.knn import KnnSettings, evaluate_knn

    return evaluate_knn(train, test, KnnSettings(exclude_self=exclude_self, device=device), seed=seed)


def run_linear(
    train: Features,
    test: Features,
    *,
    solver: str = "lbfgs",
    device: str = "cpu",
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> LinearResult:
    """The linear probe (spec S1.9 a): ``lbfgs`` full batch, or ``sgd``, the papers' setting."""
    from semaug.eval.probes.linear import LbfgsSettings, SgdSettings, evaluate_linear

    settings = {"lbfgs": LbfgsSettings, "sgd": SgdSettings}[solver]()
    return evaluate_linear(train, test, settings, device=device, seed=seed, on_progress=on_progress)


def measures(result: Iterable[Measure]) -> dict[str, Any]:
    """``{metric: {"value", "n"[, "reason"]}}``, in order."""
    rows: dict[str, Any] = {}
    for m in result:
        rows[m.metric] = {"value": m.value, "n": m.n} | ({"reason": m.reason} if m.reason else {})
    return rows


def headline(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics a person reads first: the whole grid over k and T is left to the file."""
    return {name: row for name, row in rows.items() if "/k=" not in name}


def write_results(folder: Path, name: str, rows: Mapping[str, Any]) -> Path:
    """Write one protocol's results as JSON; returns the file."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_atomic(path, json.dumps(rows, indent=1).encode())
    return path
