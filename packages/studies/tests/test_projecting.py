"""Comparisons of projections: nothing leaks from held-out rows, finished fits are kept, absent methods are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from semaug.artifacts.errors import InvalidOption, SourceError
from semaug.artifacts.tables import Table, open_table
from semaug.diffaug_core.projections import PROJECTIONS, Baseline
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.table_samples import TableSamples
from semaug.eval.features import Features
from semaug.eval.projection_scores import fold_rows, score_inductive, score_transductive
from semaug.studies import projecting
from semaug.studies.diffaug import Course, train_run
from semaug.studies.projecting import (
    Compared,
    Fit,
    Protocol,
    compare_methods,
    fit_steps_on,
    method_names,
    place_by_projection,
    table_of,
    write_rows,
)

SMALL = Protocol(
    folds=3,
    diffaug=DiffAugSettings(
        sampler_steps=2, timesteps=20, encoder={"widths": (8, 4), "head": (4,)}, generator={"widths": (8,)},
        generator_epochs=1,
    ),
    course=Course(epochs=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three clusters of 20 rows with 6 columns, as a file."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    rows = 2 * np.eye(3, 6)[labels] + 0.5 * rng.normal(size=(60, 6))
    path = tmp_path_factory.mktemp("table") / "cells.csv"
    lines = [",".join(["kind", *(f"g{i}" for i in range(6))])]
    lines += [",".join(["abc"[label], *map(repr, row.tolist())]) for label, row in zip(labels, rows, strict=True)]
    path.write_text("\n".join(lines))
    return f"{path}?label=kind"


def test_pca_scores_equal_those_by_hand(table: str, tmp_path: Path) -> None:
    (row,) = compare_methods(table, tmp_path, ["pca"], SMALL, seeds=[0, 1])
    opened = open_table(table)
    wanted: dict[str, list[float]] = {"inductive": [], "transductive": []}
    for seed in (0, 1):
        folds = fold_rows(opened.labels, 3, seed)

        def features(fit: np.ndarray) -> Features:
            placed = PCA(2, svd_solver="full").fit(opened.features[fit]).transform(opened.features)
            return Features(placed.astype(np.float32), None, opened.labels, opened.keys, opened.class_names)

        for fold in folds:
            own = features(fold.fit)
            score = score_inductive(own.take(fold.fit), own.take(fold.held), fold, seed=seed)
            wanted["inductive"].append(score.values["svm"])
        everything = features(np.arange(60))
        wanted["transductive"] += [s.values["svm"] for s in score_transductive(everything, folds, seed=seed)]
    for setting, values in wanted.items():
        assert row.measures[f"svm/{setting}"]["value"] == pytest.approx(np.mean(values), abs=1e-12)
        assert row.measures[f"svm/{setting}"]["n"] == 6
        assert row.measures[f"svm/{setting}_std"]["value"] == pytest.approx(np.std(values, ddof=1))


def test_steps_and_networks_see_the_training_rows_alone(table: str, tmp_path: Path) -> None:
    opened = open_table(table)
    fit, held = np.arange(40), np.arange(40, 60)
    spoilt = opened.features.copy()
    spoilt[held] += 100
    other = replace(opened, features=spoilt)
    ours, theirs = fit_steps_on(opened, fit, "standardise,pca:3"), fit_steps_on(other, fit, "standardise,pca:3")
    assert np.array_equal(ours.features[fit], theirs.features[fit])
    assert not np.allclose(ours.features[held], theirs.features[held])
    assert ours.steps[-1] == "pca:3 (fitted on 40 rows)"
    places = [
        projecting.place_by_diffaug(t, fit, tmp_path / name, SMALL.diffaug, SMALL, seed=0)
        for t, name in ((opened, "a"), (other, "b"))
    ]
    np.testing.assert_allclose(places[0].embedding[fit], places[1].embedding[fit], atol=1e-6)  # rows share batches
    assert places[0].measures["saturated"] == places[1].measures["saturated"]
    assert places[1].measures["nearest_training/held_out"] > 100
    assert {"nearest_training/ratio", "generator_loss"} <= set(places[0].measures)


def test_finished_fits_are_kept_and_failed_ones_are_named(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(rows: Any, seed: int) -> Any:
        raise ValueError("the library gave up")

    monkeypatch.setitem(PROJECTIONS, "broken", Baseline("Broken", breaks))
    monkeypatch.setitem(PROJECTIONS, "absent", Baseline("Absent", breaks, package="no_such", remedy="pip install it"))
    methods = ["B2", "pca", "tsne", "absent", "broken"]
    first = compare_methods(table, tmp_path, methods, SMALL, seeds=[0])
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    again = compare_methods(table, tmp_path, methods, SMALL, seeds=[0])
    assert [r.measures for r in again] == [r.measures for r in first]
    assert kept == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert len(kept) == 4 + 4 + 1  # t-SNE has no inductive fits
    assert not list(tmp_path.rglob("run"))  # networks are gone once they are scored
    rows = {r.method: r for r in first}
    assert rows["absent"].reason == "not run: pip install it"
    assert "ValueError: the library gave up" in rows["broken"].reason
    assert "saturated" in rows["B2"].measures
    assert "nearest_training/ratio" not in rows["B2"].measures
    shown = table_of(first)
    assert shown[3][2] == "-"
    assert shown[4][1] == "not run: pip install it"
    write_rows(first, tmp_path)
    assert [r["method"] for r in json.loads((tmp_path / "results.json").read_text())] == methods
    assert "absent,,,,not run: pip install it" in (tmp_path / "results.csv").read_text()


def test_what_decides_a_fit_is_its_identity(table: str, tmp_path: Path) -> None:
    digest = open_table(table).fingerprint
    made = {m: Fit(table, digest, m, 0, 0, SMALL, tmp_path).describe() for m in ("A3", "B2", "pca", "alpha-0.3")}
    assert len({json.dumps(d, sort_keys=True) for d in made.values()}) == 4
    longer = replace(SMALL, course=Course(epochs=3))
    changed = {m: Fit(table, digest, m, 0, 0, longer, tmp_path).describe() for m in made}
    assert changed["A3"] != made["A3"]
    assert changed["pca"] == made["pca"]  # no network, no course
    other = replace(SMALL, settings=("inductive",))
    assert Fit(table, digest, "A3", 0, 0, other, tmp_path).describe() == made["A3"]


def test_what_other_settings_left_unfinished_is_begun_anew(table: str, tmp_path: Path) -> None:
    digest = open_table(table).fingerprint
    fit = Fit(table, digest, "B2", 0, 0, replace(SMALL, course=Course(steps=3)), tmp_path / "fit")
    wanted = replace(fit, out=tmp_path / "other").run(lambda event: None)
    train_run(TableSamples(open_table(table)), fit.out / "run", SMALL.diffaug, Course(steps=1))
    found = fit.run(lambda event: None)
    assert found["scores"] == wanted["scores"]
    assert not (fit.out / "run").exists()


def test_a_seed_is_one_job_of_a_study(table: str, tmp_path: Path) -> None:
    job = Compared(table, "tsne", 0, replace(SMALL, settings=("transductive",)), tmp_path)
    assert job.steps == 1
    measures = job.run(lambda event: None)
    assert measures["failed_fits"]["value"] == 0
    assert 0 < measures["svm/transductive"]["value"] <= 1
    with pytest.raises(projecting.ComparisonFailed, match="tsne has no setting"):
        replace(job, protocol=replace(SMALL, settings=("inductive",))).run(lambda event: None)


def test_tables_and_names_that_cannot_be_compared(tmp_path: Path) -> None:
    assert method_names() == ("A1", "A2", "A3", "B1", "B2", "B3", "B4", "B5")
    assert method_names(alphas=[0.25]) == ("alpha-0.25",)
    with pytest.raises(InvalidOption, match="no method is called 'Z9'; choose from A1"):
        method_names(["Z9"])
    with pytest.raises(InvalidOption, match=r"alpha 1.5 is no probability"):
        method_names(alphas=[1.5])
    path = tmp_path / "bare.csv"
    path.write_text("a,b\n" + "\n".join(f"{i},{i * i}" for i in range(9)))
    with pytest.raises(SourceError, match="no labels and scoring needs two or more"):
        compare_methods(str(path), tmp_path, ["pca"], SMALL)
    rows = Table.of(np.eye(5), labels=[0, 1, 0, 1, 0])
    with pytest.raises(InvalidOption, match="needs 31"):
        place_by_projection("tsne", rows, np.arange(4), 0)
