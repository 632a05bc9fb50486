"""`compare`: guidance against its controls on one's own images, with the views and the costs measured."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption, SemaugError
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.pack import pack_images
from semaug.artifacts.sources import ArraySource, ScenesSource, open_source
from semaug.eval.report import Table
from semaug.eval.statistics import holm, paired_difference
from semaug.oracles.catalogue import OracleSpec
from semaug.oracles.extract import extract_guidance
from semaug.pairs_dataset import make_pairs, measure_retention
from semaug.studies.runner import RESULT
from semaug.studies.study import kind_compare
from semaug.studies.study.catalogue import open_preset
from semaug.studies.study.completing import complete, guided_variants, named_guidance
from semaug.studies.study.data import held_out_share
from semaug.studies.study.jobs import ERROR, MEMORY, SECONDS
from semaug.studies.study.outside_encoder import ORIENTATIONS, hand_made_features, outside_encoders
from semaug.studies.study.plan import Study, read_record, write_record
from semaug.studies.study.prepare import Prepared
from semaug.studies.study.report import command_of, write_study_report
from semaug.studies.study.results import read_results
from semaug.studies.study.running import plan_study, run_study
from semaug.studies.study.splitting import Part, groups_of, held_out_rows, near_copies, split_of, with_test_images
from semaug.studies.study.tuning import tried, tuned, with_scale
from semaug.studies.study.view_measures import Sight, measure_views, pair_similarity, view_diversity

METRIC = "linear/top1"


# --- test images held out of the training images ------------------------------------------------------------------


def pictures(count: int, seed: int = 0, side: int = 24) -> list[np.ndarray]:
    """Smooth random pictures, no two alike."""
    rng = np.random.default_rng(seed)
    small = (Image.fromarray(rng.integers(0, 255, (5, 5, 3), np.uint8)) for _ in range(count))
    return [np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) for image in small]


def test_equal_and_resized_pictures_share_a_group() -> None:
    images = pictures(6)
    resized = np.asarray(Image.fromarray(images[1]).resize((40, 40), Image.Resampling.BICUBIC))
    groups = near_copies(ArraySource([*images, images[4].copy(), resized]))
    assert groups[6] == groups[4]
    assert groups[7] == groups[1]
    assert len(set(groups[:6].tolist())) == 6


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_groups_are_the_connected_parts(edges: list[tuple[int, int]]) -> None:
    found = groups_of(12, iter(edges))
    reach = np.eye(12, dtype=bool)
    for a, b in edges:
        reach[a, b] = reach[b, a] = True
    for _ in range(12):
        reach = reach @ reach
    np.testing.assert_array_equal(found[:, None] == found[None], reach)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=12, max_size=60))
def test_no_group_is_on_both_sides_and_no_class_is_used_up(rows: list[tuple[int, int]]) -> None:
    labels, groups = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    try:
        test = held_out_rows(labels, groups, 0.25)
    except InvalidOption:
        assert np.unique(groups).size < len(groups)  # only whole groups could have been spared
        return
    rest = np.setdiff1d(np.arange(len(labels)), test)
    assert not set(groups[test].tolist()) & set(groups[rest].tolist())
    assert len(test) <= sum(round(0.25 * count) for count in np.bincount(labels))
    assert len(rest) > 0


def test_every_class_gives_its_share_where_nothing_is_copied() -> None:
    labels = np.repeat(np.arange(3), (10, 20, 5))
    test = held_out_rows(labels, np.arange(35), 0.2)
    assert np.bincount(labels[test]).tolist() == [2, 4, 1]
    np.testing.assert_array_equal(test, held_out_rows(labels, np.arange(35), 0.2))
    with pytest.raises(InvalidOption, match="give --test"):
        held_out_rows(np.arange(4), np.arange(4), 0.2)  # one image a class


def test_a_part_keeps_keys_labels_and_the_fingerprint_that_guidance_asks_for(tmp_path: Path) -> None:
    whole = ArraySource(pictures(8), labels=[0, 1] * 4, class_names=("a", "b"))
    guidance = GuidanceTable.of([], source=whole.fingerprint)
    for rows in ([0, 3, 6], [1, 2]):
        pack_images(Part(whole, rows), path := tmp_path / f"{len(rows)}.zarr")
        part = open_source(path)
        assert [part.key(i) for i in range(len(part))] == [whole.key(row) for row in rows]
        assert [part.label(i) for i in range(len(part))] == [whole.label(row) for row in rows]
        np.testing.assert_array_equal(part.read(1), whole.read(rows[1]))
        guidance.require_source(part.fingerprint)
    assert Part(whole, [0, 3]).pixels != Part(whole, [0, 4]).pixels


def test_a_split_is_made_once_and_said(tmp_path: Path) -> None:
    images = pictures(20, seed=1)
    source = ArraySource([*images, images[0].copy()], labels=[i % 2 for i in range(21)], class_names=("a", "b"))
    pack_images(source, tmp_path / "all.zarr")
    study = plan_study("compare", "tiny", tmp_path / "s", data={"main.train": str(tmp_path / "all.zarr")})
    assert held_out_share(study.data["main"].test) == 0.2
    assert "main.test" not in command_of(study)
    found = with_test_images(study.data["main"], tmp_path / "artifacts")
    train, test = open_source(found.train), open_source(found.test)
    keys = [{part.key(i) for i in range(len(part))} for part in (train, test)]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == 21
    assert len({"000000", "000020"} & keys[1]) != 1  # the copies stay together
    split = split_of(open_source(tmp_path / "all.zarr"), 0.2, tmp_path / "artifacts/main-split.json")
    assert (split.copies, split.groups, len(split.test)) == (2, 20, len(keys[1]))


# --- what is compared ---------------------------------------------------------------------------------------------


def test_guidance_of_ones_own_joins_with_its_controls() -> None:
    preset = complete(open_preset("compare"), "", {}, {"mine": "g.zarr"}, "byol")
    assert preset.method == "byol"
    new = set(preset.variants) - set(complete(open_preset("compare"), "", {}, {}, None).variants)
    assert new == {"guided-mine", "random_box-mine", "shuffled_box-mine"}
    assert [preset.variants[n].control for n in sorted(new)] == [False, True, True]
    known = open_preset("compare").variants["guided-saliency"]
    assert preset.variants["guided-mine"].options == known.options
    shipped = guided_variants("saliency", open_preset("compare").options["guided"])
    assert shipped == {name: open_preset("compare").variants[name] for name in shipped}
    with pytest.raises(InvalidOption, match="'saliency' is there already"):
        complete(open_preset("compare"), "", {}, {"saliency": "g.zarr"}, None)
    with pytest.raises(InvalidOption, match="--guidance is for studies of kind compare"):
        complete(open_preset("sasi-table-1"), "", {}, {"mine": "g.zarr"}, None)
    with pytest.raises(InvalidOption, match="simklr"):
        complete(open_preset("compare"), "", {}, {}, "simklr")


def test_what_can_only_be_given_is_left_out_until_it_is() -> None:
    assert {"semantic", "synthetic", "diffusion"} <= set(open_preset("compare").variants)
    plain = complete(open_preset("compare"), "", {}, {}, None)
    assert not {"semantic", "synthetic", "diffusion"} & set(plain.variants)
    assert "synthetic" in complete(open_preset("compare"), "", {"synthetic": "s.zarr"}, {}, None).variants


def test_names_of_guidance(tmp_path: Path) -> None:
    (tmp_path / "a=b.zarr").mkdir()
    assert named_guidance([str(tmp_path / "a=b.zarr")]) == {"a=b": str(tmp_path / "a=b.zarr")}
    with pytest.raises(InvalidOption, match="name it otherwise"):
        named_guidance(["x/g.zarr", "y/g.zarr"])


def test_all_variants_take_the_scale_that_was_best_on_the_selection_part(tmp_path: Path) -> None:
    study = plan_study("compare", "tiny", tmp_path)
    assert tuned(study).preset.pair_options["scale"] == (0.2, 1.0)  # nothing was tried: the first
    for low, value in ((0.2, 0.3), (0.08, 0.5), (0.4, None)):
        folder = tmp_path / "tuning" / f"{low:g}-1"
        folder.mkdir(parents=True)
        if value is None:
            (folder / ERROR).write_text("RuntimeError: no memory")
        else:
            (folder / RESULT).write_text(json.dumps({"job": "-", "result": {"selection/linear": {"value": value}}}))
    assert tried(study) == {(0.2, 1.0): 0.3, (0.08, 1.0): 0.5, (0.4, 1.0): "RuntimeError: no memory"}
    assert tuned(study) == with_scale(study, (0.08, 1.0))


# --- views --------------------------------------------------------------------------------------------------------


def test_similarity_and_diversity_are_means_of_cosines() -> None:
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(5, 6, 7))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    pairs = [u[2 * i] @ u[2 * i + 1] for u in unit for i in range(3)]
    spread = [1 - u[i] @ u[j] for u in unit for i in range(6) for j in range(6) if i != j]
    assert pair_similarity(unit) == pytest.approx(np.mean(pairs))
    assert view_diversity(unit) == pytest.approx(np.mean(spread))


def test_whole_images_twice_are_wholly_alike_and_small_crops_less(tmp_path: Path) -> None:
    source = ArraySource(pictures(12, side=48))
    size = 16

    def encode(images: np.ndarray) -> np.ndarray:
        return images[:, ::4, ::4].reshape(len(images), -1).astype(np.float32)

    whole = encode(np.stack([np.asarray(Image.fromarray(source.read(i)).resize((size, size))) for i in range(12)]))
    sights = [Sight(encode, whole), Sight(lambda images: 3 * encode(images) + 1, 3 * whole + 1)]
    both = [
        measure_views(make_pairs("standard", source, size=size, preset=preset, scale=scale), sights, range(12), draws=2)
        for preset, scale in (("identity", (0.2, 1.0)), ("crop_flip", (0.6, 1.0)), ("crop_flip", (0.05, 0.1)))
    ]
    for one, other in both:  # the same pixels, and features that differ by a unit alone
        assert (one.similarity, one.diversity) == pytest.approx((other.similarity, other.diversity), abs=1e-5)
    found = [one for one, _ in both]
    assert found[0].similarity == pytest.approx(1)
    assert found[0].diversity == pytest.approx(0, abs=1e-9)
    assert 1 > found[1].similarity > found[2].similarity
    assert 0 < found[1].diversity < found[2].diversity


def test_hand_made_features_tell_gradients_and_colours_of_quarters_and_no_mirror_image() -> None:
    rows = np.arange(64)
    stripes = np.repeat((127 + 100 * np.sin(rows / 3))[:, None, None], 64, 1).repeat(3, 2).astype(np.uint8)
    red_left = np.zeros((64, 64, 3), np.uint8)
    red_left[:, :32, 0] = 200
    found = hand_made_features(np.stack([stripes, stripes.transpose(1, 0, 2), red_left]))
    assert found.shape == (3, 72)
    shape, colour = found[:, :36].reshape(3, 4, ORIENTATIONS), found[:, 36:].reshape(3, 4, 3, 3)
    across = round(ORIENTATIONS / 2)
    assert shape[0, :, across : across + 2].sum() > 0.9 * shape[0].sum()  # gradients down, between two directions
    assert shape[1, :, 0].sum() > 0.9 * shape[1].sum()
    np.testing.assert_allclose(colour[2, :, 0, 1], colour[2, 0, 0, 1])  # the mirror image has its red on the right
    assert colour[2, 0, 0, 1] > 10  # Lab's a is red
    images = np.stack(pictures(4, side=64))
    mirrored, larger = images[:, :, ::-1], np.stack([np.kron(i, np.ones((2, 2, 1), np.uint8)) for i in images])
    for other in (mirrored, larger):
        np.testing.assert_allclose(hand_made_features(images), hand_made_features(other), atol=2e-3)


def test_two_encoders_look_unless_a_run_takes_the_place_of_one() -> None:
    names = [encoder.name for encoder in outside_encoders()]
    assert names == ["hand-made features (gradients and colours)", "the trunk of the objectness network"]
    with pytest.raises(SemaugError, match="nowhere"):
        outside_encoders("nowhere")


# --- the report ---------------------------------------------------------------------------------------------------

VALUES = {
    "standard": [0.50, 0.52, 0.54, 0.53, 0.51], "random_box-saliency": [0.52, 0.51, 0.55, 0.54, 0.53],
    "guided-saliency": [0.53, 0.54, 0.56, 0.55, 0.53], "guided-objectness": [0.50, 0.53, 0.51, 0.52, 0.55],
}  # fmt: skip


def forged(out: Path, values: dict[str, list[float]], **given: Any) -> Study:
    """A study's folder with made-up results."""
    study = plan_study("compare", "smoke", out, only=tuple(values), **given)
    rows = []
    for variant, of in values.items():
        for seed, value in enumerate(of):
            folder = out / "runs/all" / variant / str(seed)
            folder.mkdir(parents=True)
            result = {METRIC: value, SECONDS: 2.0, MEMORY: 300.0}
            kept = {name: {"value": v, "n": 1} for name, v in result.items() if v is not None}
            (folder / RESULT).write_text(json.dumps({"job": "-", "result": kept}))
            name = f"{variant} {seed}"
            place = {"out": str(folder.relative_to(out)), "steps": 20}
            rows.append({"setting": "all", "variant": variant, "seed": seed, "name": name, **place})
    write_record(study, {"jobs": rows, "artifacts": [], "longer": []})
    return study


def test_the_verdict_is_the_best_variant_minus_the_best_control(tmp_path: Path) -> None:
    forged(tmp_path, VALUES)
    done = write_study_report(tmp_path)
    control, best, other = (VALUES[n] for n in ("random_box-saliency", "guided-saliency", "guided-objectness"))
    assert np.mean(control) > np.mean(VALUES["standard"])
    wanted = paired_difference(best, control)
    assert f"guided-saliency: {100 * wanted.mean:+.1f} points" in done.verdict
    assert wanted.low is not None
    assert f"95% interval {100 * wanted.low:+.1f}" in done.verdict
    p = holm([wanted.p_value, paired_difference(other, control).p_value])
    rows = {(r["variant"], r["metric"]): r for r in csv.DictReader((tmp_path / "results.csv").read_text().splitlines())}
    row = rows["guided-saliency", METRIC]
    assert row["control"] == "random_box-saliency"
    assert float(row["gain_p_holm"]) == pytest.approx(p[0])
    assert float(row["ours"]) == pytest.approx(100 * np.mean(best))
    assert float(row["gain"]) == pytest.approx(100 * wanted.mean)
    page = done.report.read_text()
    assert "not printed" not in page
    for part in ("Consistency, efficiency, diversity", "The crop scale of the baseline"):
        assert part in page


def test_seeds_of_one_variant_alone_have_no_pair(tmp_path: Path) -> None:
    """As after a call for more seeds that was stopped."""
    forged(tmp_path, {**VALUES, "standard": VALUES["standard"][:3], "random_box-saliency": [0.40, 0.41]})
    results, _ = read_results(tmp_path)
    gain = {g.variant: g for g in results.gains}["guided-saliency"]
    assert gain.control == "standard"
    wanted = paired_difference(VALUES["guided-saliency"][:3], VALUES["standard"][:3])
    assert gain.at_steps == wanted
    assert write_study_report(tmp_path).failed == ()


def test_what_trains_longer_is_settled_once_until_another_control_is_best(tmp_path: Path) -> None:
    from semaug.studies.study import running
    from semaug.studies.study.kinds import Kind, Longer

    study = forged(tmp_path, VALUES)
    rows = [Longer("all", "guided-saliency", "standard", 1.4, 1.4), Longer("all", "diffusion", "standard", 3.0, 3.0)]
    kept = [asdict(row) for row in rows]
    record = read_record(tmp_path)
    assert record is not None
    write_record(study, {"jobs": record["jobs"], "artifacts": [], "longer": kept})
    found: dict[tuple[str, str], list[Any]] = {("all", name): [] for name in VALUES}
    for asked, wanted in (
        ([], ["standard x1.40"]),  # it seems to cost no more now
        ([Longer("all", "guided-saliency", "standard", 1.5, 1.5)], ["standard x1.40"]),
        ([Longer("all", "guided-saliency", "center", 1.5, 1.5)], ["center x1.50"]),
    ):
        kind = Kind("", lambda preset: None, lambda study, ready: [], lambda *args, rows=asked: rows)
        assert [a.name for a in running._longer(study, None, kind, found)] == wanted  # type: ignore[arg-type]


def test_a_copy_of_views_already_measured_is_not_measured_again(tmp_path: Path) -> None:
    study = forged(tmp_path, VALUES)
    folder = tmp_path / "measurements/views"
    folder.mkdir(parents=True)
    rows: dict[str, dict[str, Any]] = {
        f"views/guided-saliency/{name}": {"value": value, "n": 9}
        for name, value in (("keeps", 0.5), ("same", 0.25), ("similarity", 0.75), ("diversity", 0.3))
    }
    rows["views/about"] = {"value": None, "n": 9, "encoder": "a network", "objects": "true boxes"}
    (folder / "record.json").write_text(json.dumps({"identity": "", "rows": rows}))
    results, ready = read_results(tmp_path)
    views, costs = next(s for s in kind_compare.sections(study, ready) if s.title.startswith("Consistency")).blocks
    assert isinstance(views, Table)
    assert isinstance(costs, Table)
    assert {row[0]: row[1:5] for row in views.rows}["guided-saliency"] == (0.5, 0.25, 0.75, 0.3)
    assert len(views.columns) == 5  # there was one encoder, and nothing has a dimension
    rows["views/about"] |= {"second": "the trunk of the objectness network"}
    rows["views/guided-saliency/second/similarity"] = {"value": 0.8, "n": 9}
    (folder / "record.json").write_text(json.dumps({"identity": "", "rows": rows}))
    twice = kind_compare.sections(study, ready)[0].blocks[0]
    assert isinstance(twice, Table)
    assert {row[0]: row[5] for row in twice.rows}["guided-saliency"] == 0.8
    assert "what it says of that variant is not independent of it" in twice.note
    training, _, cost, memory, _ = {row[0]: row[1:] for row in costs.rows}["guided-saliency"]
    assert (training, cost, memory) == (pytest.approx(2.0), pytest.approx(1.0), pytest.approx(300.0))
    assert kind_compare.verdict(results) is None  # the usual one, of accuracy


def test_a_report_says_what_the_models_of_artifacts_were_trained_on(tmp_path: Path) -> None:
    images = tmp_path / "images.zarr"
    pack_images(ArraySource(pictures(4)), images)
    plugin = tmp_path / "finder.py"
    plugin.write_text(
        "import numpy as np\n\n\nclass Finder:\n    trained_on = 'ten thousand cats'\n\n    def detect(self, images):\n"
        "        return [np.array([[0, 0, 9, 9]], np.float32) for _ in images]\n\n\n"
        "class Silent:\n    detect = Finder.detect\n"
    )
    made = {}
    for name, spec in (("finder", f"{plugin}:Finder"), ("silent", f"{plugin}:Silent"), ("saliency", "saliency")):
        made[name] = Prepared(name, "main", tmp_path / f"{name}.zarr")
        extract_guidance(
            open_source(str(images)), tmp_path / f"{name}.zarr", detector=OracleSpec(spec), granularity="object"
        )
    guidance = {name: str(made[name].path) for name in ("finder", "silent")}
    study = forged(tmp_path / "study", {"standard": [0.5]}, guidance=guidance, notes={"silent": "a secret"})
    artifacts = [one.record() for one in made.values()]
    write_record(study, {"jobs": [], "artifacts": artifacts, "longer": []})
    results, ready = read_results(tmp_path / "study")
    table = kind_compare.sections(results.study, ready)[-1].blocks[-1]
    assert isinstance(table, Table)
    known = {row[0]: row[2] for row in table.rows}
    assert known == {"finder": "ten thousand cats", "silent": "a secret", "saliency": "nothing"}
    assert "--guidance-note 'silent=a secret'" in command_of(results.study)
    assert kind_compare.trained_on({"detector": {"name": "finder.py:Silent"}}, {}) == "not known here"
    write_record(replace(study, notes={}), {"jobs": [], "artifacts": artifacts, "longer": []})
    assert read_results(tmp_path / "study")[0].study.notes == {"silent": "a secret"}  # said once


# --- whole runs ---------------------------------------------------------------------------------------------------

ONLY = ("standard", "guided-saliency", "random_box-saliency")


def test_a_comparison_runs_resumes_and_reuses(tmp_path: Path) -> None:
    out = tmp_path / "study"
    study = plan_study("compare", "tiny", out, only=ONLY)
    done = run_study(study)
    assert done.failed == ()
    assert len(list(out.glob("tuning/*/result.json"))) == 3
    record = read_record(out)
    assert record is not None
    names = {row["variant"] for row in record["jobs"]}
    assert set(ONLY) < names
    assert {name.split(" x")[0] for name in names} == set(ONLY)  # a control, as long as guidance costs
    rows = json.loads((out / "measurements/views/record.json").read_text())["rows"]
    scenes = ScenesSource("train", 40)
    truth = GuidanceTable.of([scenes.guidance(i) for i in range(40)])
    plain = make_pairs("standard", scenes, size=128, preset="crop_flip", scale=_scale(out))
    assert rows["views/standard/keeps"]["value"] == pytest.approx(measure_retention(plain, truth, draws=2).keeps)
    assert rows["views/about"]["objects"] == "true boxes"
    results, _ = read_results(out)
    assert {g.variant for g in results.gains} == {"guided-saliency"}
    assert all(run.value(MEMORY) for run in results.runs)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("encoder.safetensors")}
    table = (out / "results.csv").read_bytes()
    (out / "runs/all/guided-saliency/0" / RESULT).unlink()  # as if it had been stopped before
    run_study(study)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("encoder.safetensors")} == stamps
    assert (out / "results.csv").read_bytes() == table
    with pytest.raises(ArtifactMismatch, match="method"):
        run_study(plan_study("compare", "tiny", out, only=ONLY, method="byol"))


def _scale(out: Path) -> tuple[float, float]:
    card = json.loads((out / "runs/all/standard/0/encoder.json").read_text())
    low, high = card["config"]["pairs"]["recipes"][0]["scale"]
    return low, high


def test_images_without_labels_give_views_and_costs_and_no_accuracy(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(pictures(12, side=40)):  # fewer than a batch
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    guidance, out = tmp_path / "mine.zarr", tmp_path / "study"
    extract_guidance(open_source(folder), guidance, detector=OracleSpec("center"), granularity="object")
    given = {"data": {"main.train": str(folder)}, "guidance": {"mine": str(guidance)}}
    study = plan_study("compare", "tiny", out, only=("standard", "guided-mine"), **given)  # type: ignore[arg-type]
    assert study.preset.evaluations == {}
    done = run_study(study)
    assert done.failed == ()
    assert done.verdict.startswith("No labels, so no accuracy")
    assert "guided-mine" in done.verdict
    assert not (out / "tuning").exists()
    rows = json.loads((out / "measurements/views/record.json").read_text())["rows"]
    assert rows["views/about"]["objects"] == "boxes of mine"
    assert 0 <= rows["views/guided-mine/keeps"]["value"] <= 1
    assert "Crops take 0.2 to 1 of the image" in done.report.read_text()


def test_an_artifact_of_other_images_fails_alone(tmp_path: Path) -> None:
    out = tmp_path / "study"
    other = ScenesSource("test", 6)
    extract_guidance(other, tmp_path / "g.zarr", detector=OracleSpec("center"), granularity="object")
    only = ("standard", "center", "guided-other")
    study = plan_study("compare", "tiny", out, only=only, guidance={"other": str(tmp_path / "g.zarr")})
    done = run_study(replace(study, seeds=(0,)))
    assert [line.split(":")[0] for line in done.failed] == ["all guided-other seed 0"]
    assert "guided-other" in done.report.read_text()
    record = json.loads((out / "measurements/views/record.json").read_text())
    assert "views/guided-other/failed" in record["rows"]
    assert record["identity"] == ""  # to be measured again
    shutil.rmtree(tmp_path / "g.zarr")
    extract_guidance(
        ScenesSource("train", 40), tmp_path / "g.zarr", detector=OracleSpec("center"), granularity="object"
    )
    assert run_study(replace(study, seeds=(0,))).failed == ()  # the same command tries it again


def test_pairs_that_were_given_join_in(tmp_path: Path) -> None:
    from semaug.pairs_dataset.proposals import ProposalRule
    from semaug.studies.proposing import propose

    pairs = tmp_path / "pairs.zarr"
    propose("scenes:train?items=40&seed=0", pairs, rule=ProposalRule(4, 2))
    only = ("standard", "semantic")
    study = plan_study("compare", "tiny", tmp_path / "study", only=only, made={"semantic": str(pairs)})
    done = run_study(study)
    assert done.failed == ()
    rows = json.loads((tmp_path / "study/measurements/views/record.json").read_text())["rows"]
    assert (
        rows["views/semantic/similarity"]["value"] < rows["views/standard/similarity"]["value"]
    )  # two images, not one
    assert "views/semantic/keeps" not in rows  # an image's boxes say nothing of the other's
    results, _ = read_results(tmp_path / "study")
    assert {gain.variant for gain in results.gains} == {"semantic"}
    assert f"--artifact semantic={pairs}" in command_of(study)
