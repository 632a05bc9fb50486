"""SDI's studies: presets against the printed tables, and what they prepare and measure against closed forms."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.sources import ScenesSource, open_source
from semaug.pairs_dataset import VARIANTS
from semaug.quality_policy import PRESETS, QualityTable, make_policy
from semaug.studies.runner import RESULT
from semaug.studies.study import sdi_measurements as sdi
from semaug.studies.study.availability import available
from semaug.studies.study.catalogue import open_preset, printed_cells, study_names
from semaug.studies.study.guidance_makers import guidance_roles, oracle_spec
from semaug.studies.study.makers import MAKERS, Making
from semaug.studies.study.measurements import MEASUREMENTS, Measuring
from semaug.studies.study.paper import paper_table
from semaug.studies.study.prepare import Ready, prepare
from semaug.studies.study.results import not_comparable, read_results
from semaug.studies.study.running import plan_study, run_study, weight_roles
from semaug.studies.study.weights import Weights

ITEMS = [*(f"T{i}" for i in range(1, 19)), "Fig2", "Fig5", "Fig6"]
NAMES = [name for name in study_names() if name.startswith("sdi-")]
IMAGES = 12


@pytest.mark.parametrize("item", ITEMS)
def test_every_printed_cell_of_sdi_stands_beside_exactly_one_result(item: str) -> None:
    own = [open_preset(name) for name in NAMES if open_preset(name).item == item]
    assert len(own) == 1
    wanted = {key: c for key, c in paper_table("P0", item).items() if not key[1].endswith("_std")}
    found = printed_cells(own[0])
    assert sorted(c.text for c in found.values()) == sorted(c.text for c in wanted.values())


def test_variants_lead_to_the_cells_of_their_own_names() -> None:
    table = printed_cells(open_preset("sdi-table-2"))
    assert table["TinyImageNet/MoCoV2+", "sdi", "linear/top1"].value == 49.97
    assert table["CIFAR-10/BYOL", "gen_inflation", "linear/top1"].value == 92.87
    geometry = printed_cells(open_preset("sdi-table-17"))
    assert geometry["all", "sdi", "geometry/backbone/twonn"].value == 48.7
    assert geometry["all", "standard", "invariance/backbone/colour"].value == 0.89
    sweep = printed_cells(open_preset("sdi-table-15"))
    assert sweep["all", "SDI-YOLO+SAM", "knn/projector/top1/k=20/T=0.05"].value == 95.23
    gaps = printed_cells(open_preset("sdi-table-12"))
    assert [gaps["all", f"V{i}", f"gap_recovery/V{i}"].value for i in range(7)] == [0, 33, 38, 70, 57, 49, 100]


def test_v0_to_v6_are_the_readings_of_pairs_dataset() -> None:
    preset = open_preset("sdi-table-12")
    for name, known in VARIANTS.items():
        variant = preset.variants[name]
        assert variant.pairs == known.pairs
        if known.granularity is None:
            assert variant.guidance is None
            continue
        options = preset.artifacts[(variant.guidance or "").removeprefix("@")].options
        assert options.get("granularity", "auto") == known.granularity
        assert (options.get("detector") == "truth") == (known.oracle == "annotations")
        assert ("segmenter" in options) == (known.segmenter is not None)


@pytest.mark.parametrize("name", [n for n in NAMES if open_preset(n).kind == "training"])
def test_a_guided_variant_has_a_control_of_its_crop_sizes(name: str) -> None:
    preset = open_preset(name)
    controls = {v.pairs for v in preset.variants.values() if v.control}
    assert "standard" in controls
    assert name in ("sdi-table-8", "sdi-table-9") or "random_box" in controls
    assert not any(v.control for v in preset.variants.values() if v.pairs in ("cross", "inflated", "adainf"))


def test_figure_2_holds_every_control_beside_the_forms_of_sdi() -> None:
    pairs = {v.pairs: v.control for v in open_preset("sdi-figure-2").variants.values()}
    controls = {"standard", "duplicated", "center", "random_box", "shuffled_box"}
    assert {name for name, control in pairs.items() if control} == controls
    assert set(pairs) - controls == {"guided", "cross", "inflated", "adainf"}


def test_the_settings_of_table_9_are_those_of_table_11() -> None:
    preset = open_preset("sdi-table-9")
    for name in ("default", "res", "cla", "loose", "strict"):
        assert preset.artifacts[name].options["preset"] == name
        assert preset.variants[f"config_{name}"].guidance == f"@{name}"


# --- oracles and what they make ----------------------------------------------------------------------------------


def test_oracles_are_asked_for_by_route_and_filled_by_files_folders_and_names(tmp_path: Path) -> None:
    assert guidance_roles({"detector": "paper", "segmenter": "paper", "granularity": "object"}) == ("detector",)
    assert guidance_roles({"detector": "paper", "segmenter": "paper", "granularity": "pixel"}) == ("segmenter",)
    assert guidance_roles({"detector": "saliency"}) == ()
    assert set(weight_roles(open_preset("sdi-table-12"))) == {"detector", "segmenter", "annotations"}
    assert weight_roles(open_preset("sdi-table-12"), ["V0", "V1"]) == ("detector",)
    (tmp_path / "y.pt").touch()
    assert str(oracle_spec("detector", str(tmp_path / "y.pt"))) == f"yolo?weights={tmp_path / 'y.pt'}"
    assert oracle_spec("segmenter", str(tmp_path / "y.pt")).name == "sam"
    assert oracle_spec("segmenter", str(tmp_path)).name == "sam-hf"
    assert str(oracle_spec("detector", "objectness?max_boxes=2")) == "objectness?max_boxes=2"


def test_small_scales_take_stand_ins_and_say_so_and_large_ones_ask(tmp_path: Path) -> None:
    told = " ".join(not_comparable(plan_study("sdi-table-12", "tiny", tmp_path)))
    assert "saliency stands in for YOLOv8" in told
    assert "grabcut stands in for SAM" in told
    missing = " ".join(available("sdi-table-12").missing["paper"])
    for part in ("--weights detector=PATH, or another detector's id", "--weights annotations=PATH", "main.train=SPEC"):
        assert part in missing
    given = {"detector": "saliency", "segmenter": "grabcut", "annotations": "boxes.json"}
    assert not any("--weights" in line for line in available("sdi-table-12", weights=given).missing["paper"])


def making(folder: Path, name: str, **options: Any) -> Making:
    """A maker's order for a few scenes."""
    spec = f"scenes:train?items={IMAGES}&seed=3"
    weights = {
        role: Weights(role, model, "stand-in")
        for role, model in (("detector", "saliency"), ("segmenter", "grabcut"), ("annotations", "scenes"))
    }
    scenes = open_source(spec)
    assert isinstance(scenes, ScenesSource)
    return Making(spec, folder, name, options, weights, scenes)


def made(order: Making, kind: str) -> Path:
    """The artifact of an order."""
    return MAKERS[kind].make(order)[0]


def test_true_boxes_are_those_of_the_scenes(tmp_path: Path) -> None:
    order = making(tmp_path, "truth", detector="truth", granularity="object")
    found = GuidanceTable.open(made(order, "guidance"))
    assert order.scenes is not None
    for i in range(IMAGES):
        row = found.get(order.scenes.key(i))
        assert row is not None
        np.testing.assert_allclose(row.boxes, order.scenes.guidance(i).boxes, atol=1e-3)
        assert row.scale == "object"


def test_true_boxes_of_given_images_must_be_given(tmp_path: Path) -> None:
    order = replace(making(tmp_path, "truth", detector="truth", granularity="object"), scenes=None)
    with pytest.raises(InvalidOption, match="--weights annotations=PATH"):
        made(order, "guidance")


def test_dealt_routes_keep_the_proportions_of_the_policy(tmp_path: Path) -> None:
    quality = made(making(tmp_path, "quality"), "quality")
    order = making(tmp_path, "dealt", quality=str(quality), routes="shuffled", detector="center", segmenter="grabcut")
    table = QualityTable.open(quality)
    wanted = table.routes(make_policy("soft"))
    dealt = _dealt(order, table)
    assert Counter(dealt) == Counter(wanted)
    assert dealt != wanted
    with pytest.raises(InvalidOption, match="give 'shuffled' and scores"):
        made(replace(order, options={"routes": "shuffled"}), "guidance")


def _dealt(order: Making, table: QualityTable) -> list[str]:
    from semaug.quality_policy import Scoring
    from semaug.studies.study.guidance_makers import DealtRoutes, _policy

    policy = _policy(order.options, table, Scoring())
    assert isinstance(policy, DealtRoutes)
    assert policy.identity()["of"] == make_policy("soft").identity()
    return [policy.route(key, table.score(i)) for i, key in enumerate(table.keys)]


def test_a_preset_of_thresholds_decides_the_routes(tmp_path: Path) -> None:
    quality = made(making(tmp_path, "quality"), "quality")
    for name in ("loose", "strict"):
        order = making(tmp_path, name, quality=str(quality), preset=name, policy="threshold", detector="center")
        found = GuidanceTable.open(made(order, "guidance"))
        table, limits = QualityTable.open(quality), PRESETS[name].thresholds
        for i, key in enumerate(table.keys):
            q, row = table.score(i).quality, found.get(key)
            assert row is not None
            wanted = "object" if q < limits.t_low else "hybrid" if q > limits.t_high else "pixel"
            assert row.scale == wanted or (wanted, row.scale) == ("hybrid", "object")  # no mask in the box


def test_crops_made_beforehand_are_read_as_inflated_pairs(tmp_path: Path) -> None:
    from semaug.pairs_dataset import make_pairs

    guidance = made(making(tmp_path, "boxes", detector="center", granularity="object"), "guidance")
    order = making(tmp_path, "crops", guidance=str(guidance))
    pairs = make_pairs("inflated", open_source(order.images), size=16, materialized=made(order, "crops"))
    assert len(pairs) == 2 * IMAGES


# --- measurements ------------------------------------------------------------------------------------------------


def test_gap_recovery_is_of_paired_seeds_and_says_why_there_is_none(tmp_path: Path) -> None:
    study = plan_study("sdi-table-6", "smoke", tmp_path, seeds=3)
    values: dict[str, list[float | None]] = {
        "V0": [0.50, 0.52, 0.51], "V1": [0.53, 0.55, None], "V3": [0.56, 0.60, 0.58], "V6": [0.60, 0.62, 0.61]
    }  # fmt: skip
    for variant, of in values.items():
        for seed, value in enumerate(of):
            folder = tmp_path / "runs" / "all" / variant.lower() / str(seed)
            folder.mkdir(parents=True)
            if value is not None:
                rows = {"linear/top1": {"value": value, "n": 40}}
                (folder / RESULT).write_text(json.dumps({"job": "-", "result": rows}))
    options = {"floor": "V0", "ceiling": "V6"}
    found = sdi.gap(Measuring(study, Ready(study.data), options, "main"))
    assert found.rows["gap_recovery/V0"]["value"] == pytest.approx(0)
    assert found.rows["gap_recovery/V6"]["value"] == pytest.approx(1)
    assert found.rows["gap_recovery/V3"]["value"] == pytest.approx((0.58 - 0.51) / 0.10)
    assert found.rows["gap_recovery/V1"]["value"] == pytest.approx(0.3)
    assert [found.rows[f"gap_recovery/{v}"]["n"] for v in ("V1", "V3")] == [2, 3]
    assert found.rows["gap_recovery/V5"]["value"] is None
    upside_down = sdi.gap(Measuring(study, Ready(study.data), {"floor": "V6", "ceiling": "V0"}, "main"))
    assert "not above" in upside_down.rows["gap_recovery/V3"]["reason"]
    with pytest.raises(InvalidOption, match="no variant 'V9'"):
        sdi.gap(Measuring(study, Ready(study.data), {"floor": "V0", "ceiling": "V9"}, "main"))


def run_tiny(name: str, out: Path, only: tuple[str, ...] = (), **changes: Any) -> Any:
    """A study at scale tiny with fewer steps."""
    study = plan_study(name, "tiny", out, only=only)
    scale = study.scale.model_copy(update={"steps": 2} | changes)
    preset = study.preset.model_copy(update={"scales": {**study.preset.scales, "tiny": scale}})
    return run_study(replace(study, preset=preset))


def test_weights_and_thresholds_stand_beside_the_printed_ones_with_their_routes(tmp_path: Path) -> None:
    assert run_tiny("sdi-table-11", tmp_path).failed == ()
    results, _ = read_results(tmp_path)
    assert len(results.lines) == 30
    assert all(line.difference == pytest.approx(0) for line in results.lines)
    assert not (tmp_path / "runs").exists()
    rows = results.measured
    table = QualityTable.open(tmp_path / "artifacts/main/quality.zarr")
    for variant in results.study.preset.variants:
        shares = [rows[f"routing/{variant}/{scale}"]["value"] for scale in ("object", "pixel", "hybrid")]
        assert sum(shares) == pytest.approx(1)
    hybrid = np.mean([table.score(i).quality > 0.60 for i in range(len(table))])  # loose: the default weights
    assert rows["routing/config_loose/hybrid"]["value"] == pytest.approx(hybrid)
    assert rows["routing/config_default/changed"]["value"] == 0


def test_minutes_are_preparation_and_views(tmp_path: Path) -> None:
    study = plan_study("sdi-table-1", "tiny", tmp_path, only=["standard", "sdi"])
    variants = {name: study.preset.variants[name] for name in ("standard", "sdi")}
    preset = study.preset.model_copy(update={"variants": variants})
    study = replace(study, preset=preset, only=())
    ready = prepare(study)
    options = {"fast": "standard", "slow": "sdi"}
    rows = MEASUREMENTS["minutes"].run(Measuring(study, ready, options, "main")).rows
    assert rows["minutes/standard/preparation"]["value"] == 0
    count = len(open_source(ready.data["main"].train))
    made_in = ready.seconds(["quality", "adaptive"], "main")
    assert rows["minutes/sdi/preparation"]["value"] == pytest.approx(made_in / count * 1000 / 60)
    for variant in variants:
        parts = rows[f"minutes/{variant}/preparation"]["value"] + rows[f"minutes/{variant}/views"]["value"]
        assert rows[f"minutes/{variant}"]["value"] == pytest.approx(parts)
    ratio = rows["minutes/sdi"]["value"] / rows["minutes/standard"]["value"]
    assert rows["minutes/speedup"]["value"] == pytest.approx(ratio)


def test_variants_of_oracles_run_paired_and_say_what_the_oracles_found(tmp_path: Path) -> None:
    assert run_tiny("sdi-table-12", tmp_path, ("V0", "V1", "V6")).failed == ()
    results, _ = read_results(tmp_path)
    assert {gain.variant for gain in results.gains} == {"V1", "V6"}
    lines = {(line.variant, line.metric): line for line in results.lines}
    assert lines["V1", "linear/top1"].ours is not None
    assert lines["V2", "linear/top1"].reason == "this variant was left out"
    recovered = lines["V1", "gap_recovery/V1"]
    assert recovered.ours is not None or "not above V0" in recovered.reason
    page = (tmp_path / "report.html").read_text()
    assert "What the oracles found, and by which route" in page
    assert results.measured["routes/main/masks-in-true-boxes/fallback"]["value"] == 0


def test_generated_images_are_trained_on_and_named_in_the_run(tmp_path: Path) -> None:
    assert run_tiny("sdi-table-7", tmp_path, ("standard", "gen_inflation")).failed == ()
    card = json.loads((tmp_path / "runs/all/gen_inflation/0/encoder.json").read_text())
    generated = open_source(str(tmp_path / "artifacts/main/generated.zarr"))
    assert len(generated) == 40  # one of each training image
    assert card["inputs"]["generated"] == generated.fingerprint
    results, _ = read_results(tmp_path)
    assert {(g.variant, g.control) for g in results.gains} == {("gen_inflation", "standard")}


@dataclass(frozen=True)
class Holds:
    """Work that fills an array of so many megabytes while it runs."""

    megabytes: int

    def open(self) -> Holds:
        return self

    def run(self, indices: range, tick: Callable[[int], None]) -> None:
        np.ones(self.megabytes * 125_000)


def test_memory_is_what_work_holds_at_its_height(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdi, "_guidance_work", lambda measuring: Holds(32))
    monkeypatch.setattr(sdi, "_generation_work", lambda measuring: Holds(128))
    study = plan_study("sdi-figure-6", "tiny", tmp_path)
    rows = sdi.memory(Measuring(study, Ready(study.data), {}, "main")).rows
    if rows["memory/guidance_mb"]["value"] is None:
        pytest.skip("this system does not tell the height of memory")
    assert rows["memory/guidance_mb"]["value"] == pytest.approx(32, rel=0.2)
    assert rows["memory/generation_mb"]["value"] == pytest.approx(128, rel=0.2)
    assert rows["memory/reduction"]["value"] == pytest.approx(4, rel=0.3)
    monkeypatch.setattr(sdi, "_guidance_work", lambda measuring: Holds(0))
    nothing = sdi.memory(Measuring(study, Ready(study.data), {}, "main")).rows["memory/reduction"]
    assert nothing["value"] is not None or "nothing shows" in nothing["reason"]


def test_steps_and_batch_are_those_of_the_runs(tmp_path: Path) -> None:
    assert run_tiny("sdi-table-13", tmp_path, steps=3, batch_size=8).failed == ()
    results, _ = read_results(tmp_path)
    lines = {(line.variant, line.metric): line for line in results.lines}
    for variant in ("standard", "sdi"):
        assert lines[variant, f"course/{variant}/steps"].ours.mean == 3  # type: ignore[union-attr]
        assert lines[variant, f"course/{variant}/batch_size"].ours.mean == 8  # type: ignore[union-attr]
    assert (tmp_path / "artifacts/main/crops/train").is_dir()
    assert results.gains == ()
