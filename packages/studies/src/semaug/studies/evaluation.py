"""The protocols of ``semaug eval`` over the features of a run, and their results as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
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


def write_results(
    folder: Path, name: str, rows: Mapping[str, Any], *, ran_on: Mapping[str, Any], warnings: Sequence[str] = ()
) -> Path:
    """Write one protocol's ``{"measures", "warnings", "ran_on"}`` as JSON; returns the file."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    kept = {"measures": rows, "warnings": list(warnings), "ran_on": ran_on}
    write_atomic(path, (json.dumps(kept, indent=1, default=str) + "\n").encode())
    return path


def ran_on(
    run: Path, sources: Mapping[str, str], *, settings: Mapping[str, Any] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """What a result is of: the encoder's digest, the images and labels of each role, settings, versions, device, time.

    ``sources`` maps a role (``train``, ``test``) to what ``open_source`` takes.
    """
    from semaug.ssl_methods import load_card

    plain = json.loads(json.dumps(dict(settings or {}), default=str))
    return {
        "encoder": load_card(run).weights_digest,
        "sources": {role: {"spec": spec, **content_of(spec, run)} for role, spec in sources.items()},
        "settings": plain,
        "device": device,
        "versions": _versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def content_of(spec: str, run: Path | None = None) -> dict[str, str]:
    """What identifies the images of a spec (or of a features artifact) and, since a list may label the same images
    anew, their labels; the rows of a table, where the encoder of ``run`` reads tables."""
    from semaug.artifacts.reader import Artifact
    from semaug.artifacts.sources import inputs_of
    from semaug.eval.feature_store import labels_digest
    from semaug.ssl_methods import load_card
    from semaug.studies.protocols.features import is_features
    from semaug.studies.tables import open_inputs

    if is_features(spec):
        inputs = Artifact.open(spec, "features").manifest.inputs
        return {role: inputs[role] for role in ("source", "pixels", "labels") if role in inputs}
    source = open_inputs(spec, run is not None and load_card(run).input_size is None)
    return {**inputs_of(source), "labels": labels_digest(source)}


def _versions() -> dict[str, str]:
    """semaug's versions and those of the libraries that evaluators compute with."""
    from importlib.metadata import version

    from semaug.artifacts.store import package_versions

    return {**package_versions(), **{name: version(name) for name in ("scikit-learn", "scipy", "torchvision")}}
