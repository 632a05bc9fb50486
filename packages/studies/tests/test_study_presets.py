"""The presets in the package: what they say is complete and leads to printed cells; what cannot be is refused."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.studies.study import catalogue
from semaug.studies.study.availability import available, list_studies
from semaug.studies.study.catalogue import open_preset, printed_cells, read_preset, study_names
from semaug.studies.study.data import DATA_ROOT, resolve_data
from semaug.studies.study.kind_training import steps_of
from semaug.studies.study.paper import paper_cell, paper_table
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import Ready, artifact_order
from semaug.studies.study.running import plan_study, weight_roles

P1_TABLES = [f"T{i}" for i in range(1, 15)] + ["AppA"]
COUNTS_AND_DIFFERENCES = {"classes", "time", "improvement_printed", "drop", "SP_minus_AP"}
"""Columns of P2's tables that are no accuracy of a run."""


@pytest.mark.parametrize("name", study_names())
def test_a_preset_says_what_it_is_and_how_to_run_it(name: str) -> None:
    preset = open_preset(name)
    assert preset.name == name
    assert set(preset.scales) == {"tiny", "smoke", "small", "paper"}
    assert f"semaug study run {name} --scale" in preset.text
    assert "Tiny takes" in preset.text
    assert preset.reasons, "what even scale paper does not share with the paper"
    assert all(preset.scales[s].train_items for s in ("tiny", "smoke"))
    assert preset.scales["paper"].backbone is None
    printed = printed_cells(preset)
    assert all(cell.value is not None or re.fullmatch(r"\d+-\d+", cell.text) for cell in printed.values())


@pytest.mark.parametrize(("paper", "tables"), [("P1", P1_TABLES), ("P2", ["T1", "T2", "T3", "T4", "T5"])])
def test_every_printed_cell_stands_beside_exactly_one_result(paper: str, tables: list[str]) -> None:
    presets = [open_preset(name) for name in study_names()]
    for table in tables:
        own = [p for p in presets if (p.paper, p.item) == (paper, table)]
        assert len(own) == 1, f"{paper} {table}"
        wanted = {key: c for key, c in paper_table(paper, table).items() if key[1] not in COUNTS_AND_DIFFERENCES}
        found = list(printed_cells(own[0]).values())
        assert sorted((c.text, c.note) for c in found) == sorted((c.text, c.note) for c in wanted.values())


def test_a_cell_carries_its_note_and_a_range_has_no_number() -> None:
    assert "4.15" in paper_cell("P2", "T1", "800ep", "improvement_printed").note
    assert paper_cell("P0", "T1", "SDI", "aug_time").value is None
    with pytest.raises(InvalidOption, match="its columns linear, knn"):
        paper_cell("P1", "T12", "a", "svm")
    with pytest.raises(InvalidOption, match="T12"):
        paper_table("P1", "T99")


def whole(name: str = "sasi-table-12") -> dict[str, Any]:
    """A preset's merged table, to be spoilt."""
    return copy.deepcopy(catalogue._merged(catalogue.FOLDER / f"{name}.toml", ()))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("epoch",), 3, "epoch: Extra inputs"),
        (("variants", "a", "option"), {}, "variants.a.option"),
        (("scales", "tiny", "seeds"), 0, "scales.tiny.seeds"),
        (("kind",), "trainings", "no kind of study is called 'trainings'"),
        (("variants", "a", "options", "synthetic"), "@nothing", "variant 'a' uses @nothing"),
        (("variants", "a", "cell"), "z", "has no cell ('z', 'linear')"),
        (("variants", "e", "control"), False, "need a control"),
        (("evaluations", "linaer"), {}, "no evaluation is called 'linaer'"),
        (("evaluations", "linear", "solvr"), 1, "has no option 'solvr'"),
        (("evaluations", "linear", "on"), ["elsewhere"], "reads data 'elsewhere'"),
        (("artifacts", "sasi", "options"), {"n_smem": 1}, "has no option 'n_smem'"),
        (("artifacts", "sasi", "kind"), "sintetic", "of kind 'sintetic'"),
        (("settings", "S"), {"data": "elsewhere"}, "takes data 'elsewhere'"),
        (("settings",), {"A b": {}, "a-b": {}}, "would share a folder"),
        (("measurements", "hostory"), {}, "no measurement is called 'hostory'"),
        (("paper",), "P9", "paper 'P9' is not known"),
    ],
)  # fmt: skip
def test_what_a_preset_cannot_say_is_one_line(place: tuple[str, ...], value: object, said: str) -> None:
    table = whole()
    inner: Any = table
    for key in place[:-1]:
        inner = inner.setdefault(key, {})
    inner[place[-1]] = value
    with pytest.raises(InvalidOption) as refused:
        read_preset(table)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_misspelt_study_names_the_nearest_and_ones_own_file_extends_a_shared_part(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="did you mean 'sasi-table-12'"):
        open_preset("sasi-table12")
    own = tmp_path / "mine.toml"
    own.write_text('extends = "sasi-table-4"\nname = "mine"\n[scales.tiny]\nsteps = 7\n')
    preset = open_preset(str(own))
    assert (preset.name, preset.item, preset.scales["tiny"].steps) == ("mine", "T4", 7)
    assert preset.scales["smoke"] == open_preset("sasi-table-4").scales["smoke"]
    own.write_text('extends = "mine"\n')
    with pytest.raises(InvalidOption, match="extends itself"):
        open_preset(str(own))


def test_steps_follow_the_settings_epochs(tmp_path: Path) -> None:
    study = plan_study("sasi-figure-4", "smoke", tmp_path)
    per_setting = [steps_of(study, Ready(study.data), name, "sasi") for name in study.preset.settings]
    assert per_setting == [round(study.scale.steps * e / 200) for e in (100, 200, 300, 400, 500, 600)]
    assert steps_of(study, Ready(study.data), "200 epochs", "base", 2.5) == round(2.5 * per_setting[1])


def test_an_artifact_that_another_reads_is_made_before_it() -> None:
    preset = open_preset("sasi-appendix-a")
    assert artifact_order(preset) == ["sasi", "alike"]
    assert artifact_order(preset, ["sasi"], measured=False) == ["sasi"]
    assert artifact_order(open_preset("sasi-table-12"), ["e"]) == []


def test_models_are_asked_for_by_what_is_made() -> None:
    assert weight_roles(open_preset("sasi-table-12")) == ("captioner", "generator")
    assert set(weight_roles(open_preset("sasi-table-10"))) == {
        "captioner", "generator", "map-generator", "controlnet", "panoptic"
    }  # fmt: skip
    assert "rewriter" in weight_roles(open_preset("sasi-table-14"))
    assert weight_roles(open_preset("sasi-table-12"), ["e"]) == ()
    assert weight_roles(open_preset("sasi-table-12"), made=["sasi"]) == ()


def test_a_scale_that_lacks_data_or_weights_says_what_and_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(DATA_ROOT, raising=False)
    found = available("sasi-table-1")
    assert found.runs_at == ("tiny", "smoke")
    told = " ".join(found.missing["paper"])
    for part in ("main.train=SPEC", "$SEMAUG_DATA/imagenet100", "--weights captioner=FOLDER", "--weights generator="):
        assert part in told
    (tmp_path / "imagenet100").mkdir()
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    given = available("sasi-table-1", weights={"captioner": "b", "generator": "g"})
    assert given.runs_at == ("tiny", "smoke", "small", "paper")
    with pytest.raises(InvalidOption, match="no model is called 'captoner'"):
        available("sasi-table-1", weights={"captoner": "b"})
    names = [one.preset.name for one in list_studies("P1")]
    assert names[:2] == ["sasi-table-1", "sasi-table-2"]
    assert names.index("sasi-table-10") > names.index("sasi-table-9")


def test_data_roles_are_given_found_or_generated(tmp_path: Path) -> None:
    preset = open_preset("sasi-table-6")
    tiny = resolve_data(preset, preset.scales["tiny"], {"dtd.train": "a", "dtd.test": "b"})
    assert (tiny["dtd"].train, tiny["dtd"].origin) == ("a", "given")
    assert tiny["main"].train != tiny["cars"].train  # other generated images for every role
    assert {d.origin for name, d in tiny.items() if name != "dtd"} == {"stand-in"}
    (tmp_path / "dtd").mkdir()
    paper = resolve_data(preset, preset.scales["paper"], root=tmp_path)
    assert paper["dtd"].train == f"dtd:trainval?root={tmp_path / 'dtd'}"
    assert paper["cars"].origin == "missing"
    with pytest.raises(InvalidOption, match="alone; give both"):
        resolve_data(preset, preset.scales["tiny"], {"dtd.train": "a"})
    with pytest.raises(InvalidOption, match=r"has no data 'dtdd.train'"):
        resolve_data(preset, preset.scales["tiny"], {"dtdd.train": "a"})


def test_only_knows_the_variants(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="has no variant 'z'"):
        plan_study("sasi-table-12", "tiny", tmp_path, only=["z"])
    with pytest.raises(InvalidOption, match="has no artifact 'z'"):
        plan_study("sasi-table-12", "tiny", tmp_path, made={"z": "z.zarr"})
    assert isinstance(plan_study("sasi-table-12", "tiny", tmp_path, only=["e"]), Study)


def test_shared_parts_are_no_studies() -> None:
    assert not any(name.startswith("_") for name in study_names())
    assert "semantic-pairs" not in study_names()  # the table of items that the kind reads
    assert tomllib.loads((catalogue.FOLDER / "_common.toml").read_text())["scales"].keys() == {
        "tiny", "smoke", "small", "paper"
    }  # fmt: skip
