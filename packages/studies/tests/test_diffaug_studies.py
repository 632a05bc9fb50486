"""DiffAug's tables and figures as studies: their cells, what is refused, and small runs on a table and on images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.studies.study import running
from semaug.studies.study.catalogue import open_preset, printed_cells, read_preset, study_names
from semaug.studies.study.diffaug_jobs import KMEANS, LINEAR
from semaug.studies.study.kind_diffaug import options_of, protocol_of
from semaug.studies.study.paper import paper_table
from semaug.studies.study.running import plan_study, run_study

NAMES = [name for name in study_names() if name.startswith("diffaug-")]
NOT_RUN = {("T3", "MAE(LT)")}


def test_every_printed_cell_stands_beside_one_result_but_averages() -> None:
    for table in ("T2", "T3", "T4", "T5"):
        (preset,) = [p for p in map(open_preset, NAMES) if p.item == table]
        cells = {k: c for k, c in paper_table("P4", table).items() if not k[1].endswith("_AVE")}
        wanted = [c for (row, _), c in cells.items() if (table, row) not in NOT_RUN]
        found = printed_cells(preset)
        assert sorted((c.text, c.note) for c in found.values()) == sorted((c.text, c.note) for c in wanted)
        assert {metric for _, _, metric in found} <= {LINEAR, KMEANS}
    sam = printed_cells(open_preset("diffaug-table-2"))["SAM", "DiffAug", LINEAR]
    assert "84.7" in sam.note


@pytest.mark.parametrize("name", NAMES)
def test_options_of_every_scale_make_a_protocol(name: str) -> None:
    preset = open_preset(name)
    for scale in preset.scales:
        for setting in preset.settings:
            protocol = protocol_of(options_of(preset, scale, setting, {}))
            assert protocol.folds == (10 if scale in ("small", "paper") else {"tiny": 2, "smoke": 3}[scale])
    if "Gast" in preset.settings:
        gast = {scale: protocol_of(options_of(preset, scale, "Gast", {})) for scale in ("smoke", "paper")}
        assert gast["paper"].diffaug.weight_decay == 1e-3
        assert {scale: found.data.neighbours for scale, found in gast.items()} == {"smoke": 5, "paper": 500}


def _changed(name: str, **changes: Any) -> dict[str, Any]:
    return {**open_preset(name).model_dump(), **changes}


def test_what_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidOption, match="diffaug has no option 'fold'; it has folds"):
        read_preset(_changed("diffaug-table-5", options={"fold": 3}))
    variants = {"x": {"method": "Z9", "control": True, "cell": ""}}
    with pytest.raises(InvalidOption, match="Z9"):
        read_preset(_changed("diffaug-table-5", variants=variants))
    with pytest.raises(InvalidOption, match="alpha is 7"):
        read_preset(_changed("diffaug-table-5", options={"alpha": 7}))


def _run(
    monkeypatch: pytest.MonkeyPatch, name: str, out: Path, settings: tuple[str, ...], variants: tuple[str, ...]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Run some places of a preset at scale tiny; the measures of each by (setting, variant)."""
    whole = open_preset(name)
    part = whole.model_copy(
        update={
            "settings": {n: s for n, s in whole.settings.items() if n in settings},
            "variants": {n: v for n, v in whole.variants.items() if n in variants},
        }
    )
    monkeypatch.setattr(running, "open_preset", lambda name: part)
    done = run_study(plan_study(name, "tiny", out))
    assert done.failed == ()
    rows = json.loads((out / "study.json").read_text())["jobs"]
    return {
        (row["setting"], row["variant"]): json.loads((out / row["out"] / "result.json").read_text())["result"]
        for row in rows
    }


def test_a_table_is_scored_by_folds_and_the_report_marks_the_misprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _run(monkeypatch, "diffaug-table-2", tmp_path, ("SAM",), ("PCA", "DMTEV", "DiffAug"))
    assert found["SAM", "PCA"][LINEAR] == found["SAM", "PCA"]["svm/inductive"]
    assert found["SAM", "DiffAug"][LINEAR]["n"] == 2
    assert "nearest_training/ratio" in found["SAM", "DiffAug"]
    assert "saturated" in found["SAM", "DMTEV"]
    page = (tmp_path / "report.html").read_text()
    assert "imply 84.7" in page


def test_pictures_are_drawn_into_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(monkeypatch, "diffaug-figure-3", tmp_path, ("SAM",), ("PCA", "DiffAug"))
    page = (tmp_path / "report.html").read_text()
    assert "Scatter plots of SAM, one for each of PCA, DiffAug" in page


@pytest.mark.slow
def test_images_are_scored_by_frozen_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _run(monkeypatch, "diffaug-table-3", tmp_path, ("CF10",), ("BYOL", "BYOL+", "DiffAug"))
    for place, measures in found.items():
        assert measures[LINEAR] == measures["linear/top1"], place
        assert measures[KMEANS] == measures["kmeans/backbone/inductive/accuracy"], place
    assert "generator_loss" in found["CF10", "DiffAug"]
    assert found["CF10", "DiffAug"]["training/seconds"]["value"] > 0
