"""Pictures of a study's report: of whom they are, kept until that changes, and no report without them fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semaug.artifacts.errors import SemaugError
from semaug.ssl_methods import build_encoder, save_encoder
from semaug.studies.protocols import figures
from semaug.studies.runner import RESULT
from semaug.studies.study.data import DataSet
from semaug.studies.study.pictures import DRAWN_OF, PICTURES, draw_study_pictures, picture_sections
from semaug.studies.study.plan import write_record
from semaug.studies.study.prepare import Prepared, Ready
from semaug.studies.study.report import write_study_report
from semaug.studies.study.running import plan_study

TRAIN, TEST = "scenes:train?items=30", "scenes:test?items=12"
SCORES = {"standard": (0.5, 0.6), "sdi": (0.6, 0.75), "random_box": (0.4, 0.5)}


def finished_study(out: Path, scale: str = "smoke") -> Ready:
    """A study's folder as a run leaves it: encoders with first weights, made-up scores, true boxes as guidance."""
    study = plan_study("sdi-table-3", scale, out, seeds=2)
    rows = []
    for variant, values in SCORES.items():
        for seed, value in enumerate(values):
            folder = out / "runs" / "all" / variant / str(seed)
            encoder = build_encoder("small-cnn", input_size=32, seed=seed + len(variant))
            save_encoder(folder, encoder, method="simclr", seed=seed, steps=0)
            result = {study.preset.primary: {"value": value, "n": 12}, "training/seconds": {"value": 2.0, "n": 1}}
            (folder / RESULT).write_text(json.dumps({"job": "-", "result": result}))
            rows.append(
                {"setting": "all", "variant": variant, "seed": seed, "name": f"{variant} {seed}", "steps": 20,
                 "out": str(folder.relative_to(out))}
            )  # fmt: skip
    write_record(study, {"jobs": rows, "artifacts": [], "longer": []})
    data = {name: replace(found, train=TRAIN, test=TEST) for name, found in study.data.items()}
    assert all(isinstance(found, DataSet) for found in data.values())
    names = [variant.guidance[1:] for variant in study.preset.variants.values() if variant.guidance]
    made = {(name, place): Prepared(name, place, true_boxes(out / "boxes.zarr")) for name in names for place in data}
    return Ready(data, made)


def true_boxes(path: Path) -> Path:
    """Guidance of the test scenes as an artifact."""
    from semaug.artifacts.guidance_table import guidance_columns
    from semaug.artifacts.schemas import Manifest
    from semaug.artifacts.sources import open_source
    from semaug.artifacts.store import ArtifactWriter

    if not path.exists():
        source: Any = open_source(TEST)
        inputs = {"source": source.fingerprint}
        manifest = Manifest(kind="guidance", items=len(source), shard_size=64, inputs=inputs)
        with ArtifactWriter.open(path, manifest) as writer:
            writer.write(0, guidance_columns([source.guidance(i) for i in range(len(source))]))
            writer.finish()
    return path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(picture, folder of the run) of everything that is drawn, in order."""
    calls: list[tuple[str, str]] = []
    real = figures.draw_pictures

    def watched(subject: Any, names: Any = None) -> Any:
        calls.extend((name, str(subject.run.relative_to(subject.run.parents[2]))) for name in names)
        return real(subject, names)

    monkeypatch.setattr(figures, "draw_pictures", watched)
    return calls


def test_the_best_variant_is_drawn_beside_its_control_and_kept(tmp_path: Path, drawn: list[tuple[str, str]]) -> None:
    ready = finished_study(tmp_path)
    draw_study_pictures(tmp_path, ready)
    assert drawn == [
        ("grad-cam", "all/sdi/0"),
        ("grad-cam", "all/standard/0"),
        ("guidance", "all/sdi/0"),
        ("failures", "all/sdi/0"),
    ]
    titles = [section.title for section in picture_sections(tmp_path)]
    assert titles == [figures.PICTURES[name][0] for name in ("map", "grad-cam", "guidance", "failures")]
    draw_study_pictures(tmp_path, ready)
    assert len(drawn) == 4, "what is drawn is not drawn again"
    write_study_report(tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "sdi, seed 0" in page
    assert "standard, seed 0" in page
    assert "Where the encoder looks" in page


def test_other_weights_or_another_winner_are_drawn_anew(tmp_path: Path, drawn: list[tuple[str, str]]) -> None:
    ready = finished_study(tmp_path)
    draw_study_pictures(tmp_path, ready)
    folder = tmp_path / "runs" / "all" / "sdi" / "0"
    save_encoder(folder, build_encoder("small-cnn", input_size=32, seed=77), method="simclr", seed=0, steps=0)
    draw_study_pictures(tmp_path, ready)
    assert len(drawn) == 8
    record = json.loads((tmp_path / PICTURES / DRAWN_OF).read_text())
    assert [row["variant"] for row in record] == ["sdi", "standard"]


def test_a_picture_that_cannot_be_drawn_leaves_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(subject: Any) -> Any:
        raise SemaugError("one point has no map")

    monkeypatch.setitem(figures.PICTURES, "grad-cam", ("Where the encoder looks", refused))
    draw_study_pictures(tmp_path, finished_study(tmp_path))
    second = picture_sections(tmp_path)[1]
    assert [block.text for block in second.blocks] == [  # type: ignore[union-attr]
        "sdi, seed 0: not drawn: one point has no map", "standard, seed 0: not drawn: one point has no map"
    ]  # fmt: skip


def test_too_few_generated_images_are_not_drawn(tmp_path: Path, drawn: list[tuple[str, str]]) -> None:
    draw_study_pictures(tmp_path, finished_study(tmp_path, "tiny"))
    assert not drawn
    assert not picture_sections(tmp_path)
