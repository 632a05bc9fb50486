"""Proposing with each kind of features: none, a run of ours, a model of timm; quality scores; what is reused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.guidance_table import guidance_columns
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.sources import ScenesSource, inputs_of
from semaug.artifacts.store import ArtifactWriter
from semaug.pairs_dataset.descriptors import Descriptors
from semaug.pairs_dataset.pair_table import PairTable
from semaug.pairs_dataset.proposals import ProposalRule
from semaug.quality_policy import score_source
from semaug.ssl_methods import ProjectorSpec, build_encoder, save_encoder
from semaug.studies.proposing import EncoderChoice, propose, region_encoder

SCENES = "scenes:train?items=40"


@pytest.fixture(scope="module")
def guidance(tmp_path_factory) -> str:
    """The true masks of the scenes."""
    source, path = ScenesSource("train", 40), tmp_path_factory.mktemp("guidance") / "g.zarr"
    manifest = Manifest(kind="guidance", items=40, shard_size=40, inputs=inputs_of(source))
    with ArtifactWriter.open(path, manifest) as writer:
        writer.write(0, guidance_columns([source.guidance(i) for i in range(40)]))
        writer.finish()
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """A small encoder on disk, as a run leaves it."""
    folder = tmp_path_factory.mktemp("run")
    encoder = build_encoder("small-cnn", input_size=24, projector=ProjectorSpec(hidden=16, out=8))
    save_encoder(folder, encoder, method="simclr", seed=0, steps=0)
    return str(folder)


def test_proposals_are_an_artifact_of_pairs_with_their_scores(guidance, tmp_path) -> None:
    rule = ProposalRule(per_class=2, min_similarity=0.0)
    made = propose(SCENES, tmp_path / "p.zarr", guidance=guidance, rule=rule)
    table = PairTable.open(tmp_path / "p.zarr")
    assert table.form == "proposals"
    assert len(table) == len(made.proposals.rows) == 20
    assert made.found == 40
    assert {count.name: count.proposed for count in made.proposals.counts} == dict.fromkeys(table.by_class, 2)
    assert set(table.rows[0].scores) == {"score", "similarity", "context", "illumination", "scale"}
    assert table.rows[0].provenance == "proposed by colour and texture statistics"
    assert not any(row.verdict or row.tags for row in table.rows)


def test_descriptors_are_made_once_for_every_rule(guidance, tmp_path) -> None:
    first = propose(SCENES, tmp_path / "a.zarr", guidance=guidance, rule=ProposalRule(per_class=2))
    kept = tmp_path / "a-descriptors.zarr"
    times = {p: p.stat().st_mtime_ns for p in kept.glob("shards/**/c/*")}
    options = {"guidance": guidance, "descriptors": kept}
    second = propose(SCENES, tmp_path / "b.zarr", rule=ProposalRule(per_class=1), **options)
    assert {p: p.stat().st_mtime_ns for p in kept.glob("shards/**/c/*")} == times
    assert {row.pair_id for row in second.proposals.rows} <= {row.pair_id for row in first.proposals.rows}
    with pytest.raises(ArtifactError, match="per_class"):
        propose(SCENES, tmp_path / "b.zarr", rule=ProposalRule(per_class=2), **options)


def test_an_encoder_of_ours_compares_and_is_named(guidance, run, tmp_path) -> None:
    made = propose(SCENES, tmp_path / "p.zarr", guidance=guidance, encoder=EncoderChoice(run))
    assert made.proposals.features.startswith("simclr small-cnn at 24 pixels (weights ")
    d = Descriptors.open(made.described.path)
    assert d.object_features is not None
    assert d.object_features.shape == (40, 128)
    assert np.isfinite(d.object_features).all()
    assert d.object_features.std(0).max() > 0
    assert run not in str(Artifact.open(made.described.path).manifest)


def test_a_timm_encoder_needs_its_weights(guidance, tmp_path) -> None:
    timm = pytest.importorskip("timm")
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), weights)
    with pytest.raises(InvalidOption, match="give --weights"):
        region_encoder(EncoderChoice("timm:resnet10t"))
    choice = EncoderChoice("timm:resnet10t", str(weights), 32)
    made = propose(SCENES, tmp_path / "p.zarr", guidance=guidance, encoder=choice, rule=ProposalRule(per_class=1))
    assert made.proposals.features.startswith("timm:resnet10t at 32 pixels")
    encode = region_encoder(choice).open()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    features = encode(images)
    assert features.shape == (3, 512)
    np.testing.assert_allclose(encode(images[1:2])[0], features[1], atol=1e-4)


def test_quality_scores_are_taken_from_an_artifact_or_computed_alike(guidance, tmp_path) -> None:
    score_source(ScenesSource("train", 40), tmp_path / "q.zarr")
    known = propose(SCENES, tmp_path / "a.zarr", guidance=guidance, quality=str(tmp_path / "q.zarr"))
    computed = propose(SCENES, tmp_path / "b.zarr", guidance=guidance)
    a, b = (Descriptors.open(made.described.path) for made in (known, computed))
    np.testing.assert_allclose(a.light, b.light, atol=1e-6)
    np.testing.assert_array_equal(a.side, b.side)
    assert [r.pair_id for r in known.proposals.rows] == [r.pair_id for r in computed.proposals.rows]
    assert a.digest != b.digest  # they say what they were made from


def test_weights_without_an_encoder_and_of_a_run_are_refused(run, tmp_path) -> None:
    (tmp_path / "w.pth").touch()
    with pytest.raises(InvalidOption, match="without an encoder"):
        region_encoder(EncoderChoice(None, str(tmp_path / "w.pth")))
    with pytest.raises(InvalidOption, match="weights of its own"):
        region_encoder(EncoderChoice(run, str(tmp_path / "w.pth")))


def test_images_without_classes_are_refused_before_they_are_read(tmp_path) -> None:
    from PIL import Image

    folder = Path(tmp_path / "flat")
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (20, 20)).save(folder / f"{name}.png")
    with pytest.raises(InvalidOption, match="no classes"):
        propose(str(folder), tmp_path / "p.zarr")
    assert not (tmp_path / "p-descriptors.zarr").exists()
