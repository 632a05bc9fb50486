"""`eval all` and `eval figures`: what is run, reused, left out and drawn; Grad-CAM's layer of every backbone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semaug.artifacts.errors import InvalidOption, SourceError
from semaug.artifacts.guidance_table import guidance_columns
from semaug.artifacts.schemas import Guidance, Manifest
from semaug.artifacts.sources import open_source
from semaug.artifacts.store import ArtifactWriter
from semaug.eval.figures.grad_cam import grad_cam, own_embedding
from semaug.ssl_methods import build_encoder, save_encoder
from semaug.studies import run_report
from semaug.studies.protocols.heat import last_maps
from semaug.studies.protocols.subject import DoesNotFit, Subject
from semaug.studies.run_page import label_of, measures_tables, write_pictures
from semaug.studies.run_report import PROTOCOLS, Findings, Protocol, chosen_protocols, evaluate_run

TRAIN, TEST = "scenes:train?items=60", "scenes:test?items=40"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with first weights, as a run."""
    folder = tmp_path_factory.mktemp("run")
    save_encoder(folder, build_encoder("small-cnn", input_size=32), method="none", seed=0, steps=0)
    return folder


@pytest.fixture(scope="module")
def guidance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Guidance of the test scenes: true boxes, but for a miss and two boxes in a corner."""
    source: Any = open_source(TEST)
    rows = [source.guidance(i) for i in range(len(source))]
    corner = np.asarray([[0, 0, 4, 4]], np.float32)
    rows[3] = Guidance(rows[3].key, rows[3].height, rows[3].width, fallback=True)
    rows[5], rows[7] = (replace(rows[i], boxes=corner, masks=(), scale="object") for i in (5, 7))
    out = tmp_path_factory.mktemp("guidance") / "guidance.zarr"
    manifest = Manifest(kind="guidance", items=len(rows), shard_size=64, inputs={"source": source.fingerprint})
    with ArtifactWriter.open(out, manifest) as writer:
        writer.write(0, guidance_columns(rows))
        writer.finish()
    return out


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the protocols that really ran, in order."""
    ran: list[str] = []

    def watch(name: str, protocol: Protocol) -> Protocol:
        def run(subject: Subject) -> Findings:
            ran.append(name)
            return protocol.run(subject)

        return replace(protocol, run=run)

    monkeypatch.setattr(run_report, "PROTOCOLS", {n: watch(n, p) for n, p in PROTOCOLS.items()})
    return ran


def test_what_ran_is_written_shown_and_reused(run: Path, guidance: Path, tmp_path: Path, counted: list[str]) -> None:
    only = ("knn", "kmeans", "failures", "similarity")
    subject = Subject(run, TRAIN, TEST, guidance=guidance)
    first = evaluate_run(subject, tmp_path, only=only)
    assert counted == list(only)
    assert {o.name: o.state for o in first.outcomes} == {
        "knn": "done", "kmeans": "done", "failures": "done", "similarity": "left out"
    }  # fmt: skip
    assert "pass --similarities" in first.outcomes[3].reason
    page = first.page.read_text()
    for words in ("Nearest neighbours", "k-means", "Where the guidance fails", "Left out", "pass --similarities"):
        assert words in page
    kept = json.loads((tmp_path / "knn.json").read_text())
    assert kept["ran_on"]["encoder"] == subject.card.weights_digest
    assert kept["ran_on"]["sources"]["test"]["spec"] == TEST
    assert kept["measures"]["knn/backbone/top1"] == first.rows["knn/backbone/top1"]
    assert not (tmp_path / "similarity.json").exists()

    again = evaluate_run(Subject(run, TRAIN, TEST, guidance=guidance), tmp_path, only=only)
    assert counted == [*only, "similarity"]
    assert [o.state for o in again.outcomes] == ["reused", "reused", "reused", "left out"]
    assert again.rows == first.rows
    assert [o.seconds for o in again.outcomes][:3] == [o.seconds for o in first.outcomes][:3]
    body = page.split("<section")
    assert [part for part in body if "k-means" in part][-1] in again.page.read_text()

    other = evaluate_run(Subject(run, TRAIN, TEST, guidance=guidance, seed=1), tmp_path, only=("kmeans",))
    assert other.outcomes[0].state == "done"
    fresh = evaluate_run(Subject(run, TRAIN, TEST), tmp_path, only=("knn",), fresh=True)
    assert fresh.outcomes[0].state == "done"
    unguided = evaluate_run(Subject(run, TRAIN, TEST), tmp_path, only=("failures",))
    assert unguided.outcomes[0].state == "left out"


def test_other_weights_images_or_labels_are_run_again(run: Path, tmp_path: Path, counted: list[str]) -> None:
    evaluate_run(Subject(run, TRAIN, TEST), tmp_path / "out", only=("map",))
    evaluate_run(Subject(run, TRAIN, "scenes:test?items=39"), tmp_path / "out", only=("map",))
    other = tmp_path / "other"
    save_encoder(other, build_encoder("small-cnn", input_size=32, seed=1), method="none", seed=1, steps=0)
    evaluate_run(Subject(other, TRAIN, TEST), tmp_path / "out", only=("map",))
    assert counted == ["map"] * 3


def test_a_damaged_section_is_made_again(run: Path, tmp_path: Path, counted: list[str]) -> None:
    evaluate_run(Subject(run, TRAIN, TEST), tmp_path, only=("map",))
    figure = next((tmp_path / "sections" / "map").glob("*.svg"))
    figure.unlink()
    assert evaluate_run(Subject(run, TRAIN, TEST), tmp_path, only=("map",)).outcomes[0].state == "done"
    assert figure.exists()


def test_one_failure_does_not_take_the_others_along(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(subject: Subject) -> Findings:
        raise RuntimeError("out of <memory>")

    broken = {**PROTOCOLS, "knn": replace(PROTOCOLS["knn"], run=explode)}
    monkeypatch.setattr(run_report, "PROTOCOLS", broken)
    found = evaluate_run(Subject(run, TRAIN, TEST), tmp_path, only=("knn", "map"))
    assert [o.state for o in found.outcomes] == ["failed", "done"]
    assert [o.name for o in found.failed] == ["knn"]
    assert "RuntimeError: out of &lt;memory&gt;" in found.page.read_text()
    monkeypatch.setattr(run_report, "PROTOCOLS", PROTOCOLS)
    mended = evaluate_run(Subject(run, TRAIN, TEST), tmp_path, only=("knn", "map"))
    assert [o.state for o in mended.outcomes] == ["done", "reused"]


def test_what_a_verb_wrote_of_this_encoder_is_shown(run: Path, tmp_path: Path) -> None:
    digest = Subject(run, TRAIN, TEST).card.weights_digest
    measures = {
        "detect/voc07/AP50": {"value": 0.513, "n": 12},
        "detect/voc07/AP75": {"value": None, "n": 0, "reason": "no boxes"},
    }
    kept = {"measures": measures, "warnings": ["few images"], "ran_on": {"encoder": digest, "sources": {}}}
    (tmp_path / "detect.json").write_text(json.dumps(kept))
    found = evaluate_run(Subject(run, TRAIN, TEST), tmp_path, only=("similarity",))
    assert [o.name for o in found.outcomes] == ["similarity"]
    monkey = {name: PROTOCOLS[name] for name in ("similarity", "detect", "segment")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_report, "PROTOCOLS", monkey)
        found = evaluate_run(Subject(run, TRAIN, TEST), tmp_path)
        assert [(o.name, o.state) for o in found.outcomes] == [("similarity", "left out"), ("detect", "found")]
        page = found.page.read_text()
        assert "51.3" in page
        assert "no boxes" in page
        assert "few images" in page
        kept["ran_on"] = {"encoder": "another"}
        (tmp_path / "detect.json").write_text(json.dumps(kept))
        assert len(evaluate_run(Subject(run, TRAIN, TEST), tmp_path).outcomes) == 1
        asked = evaluate_run(Subject(run, TRAIN, TEST), tmp_path, extra=("segment",))
        assert "run `semaug eval segment" in asked.outcomes[-1].reason


def test_protocols_are_chosen_by_name(run: Path, tmp_path: Path) -> None:
    assert chosen_protocols(only=("knn", "linear")) == ["linear", "knn"]
    assert chosen_protocols(only=("knn",), extra=("finetune",)) == ["knn", "finetune"]
    assert chosen_protocols() == list(PROTOCOLS)
    with pytest.raises(InvalidOption, match="no protocol is called 'lineer'"):
        chosen_protocols(("lineer",))
    with pytest.raises(SourceError, match="does not exist"):
        evaluate_run(Subject(run, "nowhere", TEST), tmp_path, only=("knn",))


def test_pictures_are_files_and_one_page(run: Path, guidance: Path, tmp_path: Path) -> None:
    values = tmp_path / "similarities.csv"
    values.write_text("key,similarity\na,0.5\nb,0.7\nc,0.8\n")
    subject = Subject(run, TRAIN, TEST, guidance=guidance, similarities=values)
    names = ["grad-cam", "quality", "guidance", "failures", "similarity"]
    pictures, page, files = write_pictures(subject, tmp_path / "pictures", names)
    assert pictures.missing == {}
    assert page.name == "index.html"
    assert {path.suffix for path in files} == {".svg", ".png"}
    assert all(path.stat().st_size > 60 for path in files)
    rows = {m.metric: m for m in pictures}
    assert rows["guidance/miss_rate"].value == 1 / 40
    assert rows["guidance/error_rate"].value == 2 / 40
    assert rows["similarity/mean"].value == pytest.approx(2 / 3)
    assert rows["grad_cam/energy_in_box"].n <= 40
    text = page.read_text()
    assert "semaug eval figures" in text
    assert "overlap (IoU) with a true box 0.00" in text
    bare, _, _ = write_pictures(Subject(run, TRAIN, TEST), tmp_path / "pictures", ["guidance", "failures"])
    assert list(bare.missing) == ["guidance", "failures"]
    assert not (tmp_path / "pictures" / "failures").exists()


def test_heat_needs_no_labels(run: Path, tmp_path: Path) -> None:
    scenes: Any = open_source(TEST)
    (tmp_path / "photos").mkdir()
    for index in range(5):
        Image.fromarray(scenes.read(index)).save(tmp_path / "photos" / f"{index}.png")
    photos = str(tmp_path / "photos")
    pictures, _, _ = write_pictures(Subject(run, photos, photos), tmp_path / "pictures", ["grad-cam", "map"])
    gallery, note = pictures.sections["grad-cam"].blocks
    assert gallery.headings == ("image", "own embedding")
    assert [card.text for card in gallery.cards] == [f"`{index}.png`" for index in range(5)]
    assert "no boxes of the test images" in note.text
    assert "0 labelled images" in pictures.missing["map"]


@pytest.mark.slow
def test_every_protocol_runs_on_a_small_set(run: Path, tmp_path: Path) -> None:
    subject = Subject(run, "scenes:train?items=200", "scenes:test?items=150")
    found = evaluate_run(subject, tmp_path)
    states = {o.name: o.state for o in found.outcomes}
    assert {name for name, state in states.items() if state == "left out"} == {"guidance", "failures", "similarity"}
    assert set(states.values()) == {"done", "left out"}
    assert set(states) == {name for name, protocol in PROTOCOLS.items() if not protocol.trains}
    for name, state in states.items():
        assert state != "done" or (tmp_path / "sections" / name / "section.json").exists()


def test_artifacts_of_other_images_are_refused(run: Path, guidance: Path) -> None:
    subject = Subject(run, TRAIN, "scenes:test?items=39", guidance=guidance)
    with pytest.raises(DoesNotFit, match="the guidance was made on images"):
        subject.source_of(subject.guidance_table, "guidance")


@pytest.mark.parametrize(
    "backbone", ["small-cnn", "resnet18", "mobilenetv2", pytest.param("timm:resnet10t", marks=pytest.mark.slow)]
)
def test_heat_of_convolutions_is_that_of_their_spatial_maps(backbone: str) -> None:
    """Features are the means of the maps, so the own embedding weighs each map by its mean."""
    encoder = build_encoder(backbone, input_size=32).eval()
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))
    found = grad_cam(encoder, last_maps(encoder), images, own_embedding)
    with torch.no_grad():
        maps = encoder.spatial(images).double()
    cells = maps.shape[2] * maps.shape[3]
    expected = (maps.mean((2, 3), keepdim=True) / cells * maps).sum(1).clamp(min=0).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * expected.max())


@pytest.mark.parametrize("backbone", ["vit-s4", pytest.param("timm:vit_tiny_patch16_224", marks=pytest.mark.slow)])
def test_heat_of_transformers_lies_on_their_patches(backbone: str) -> None:
    size = 16 if backbone == "vit-s4" else 224
    encoder = build_encoder(backbone, input_size=size).eval()
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32))
    found = grad_cam(encoder, last_maps(encoder), images, lambda features: features[:, 0])
    assert found.shape == (2, size // 4, size // 4) if backbone == "vit-s4" else (2, 14, 14)
    assert found.max() > 0
    assert not np.allclose(found[0], found[1])


@pytest.mark.slow
def test_backbones_without_known_maps_are_refused() -> None:
    with pytest.raises(DoesNotFit, match="no maps of shape"):
        last_maps(build_encoder("timm:swin_tiny_patch4_window7_224", input_size=224))


def test_tables_put_spreads_beside_their_metric() -> None:
    def row(value: float | None) -> dict[str, Any]:
        return {"value": value, "n": 9} | ({} if value is not None else {"reason": "few"})

    rows = {
        "x/backbone/top1": row(0.5), "x/backbone/top1_std": row(0.1), "x/projector/top1": row(0.4),
        "x/top1": row(0.7), "x/top1_interval_low": row(0.6), "x/top1_interval_high": row(0.8), "x/none": row(None),
        "x/top1/k=1/T=1": row(0.1), "x/1pct/labelled": row(60.0),
    }  # fmt: skip
    plain, spaces, raw = measures_tables(rows, PROTOCOLS["linear"])
    assert [c.name for c in plain.columns] == ["metric", "value", "low", "high", "n"]
    assert plain.rows[0] == ("top-1", 0.7, 0.6, 0.8, 9)
    assert [c.name for c in spaces.columns] == ["metric", "backbone", "projector", "n"]
    assert spaces.rows[0][1].sd == 0.1
    assert spaces.rows[0][2] == 0.4
    assert raw.rows == (("1pct, labelled images", 60, 9),)
    assert raw.columns[1].scale == 1
    assert label_of("knn/gap") == "gap"
