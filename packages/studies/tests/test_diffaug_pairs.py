"""From images (or rows) to DiffAug's positives to an encoder trained on them, through the plans of the verbs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semaug.artifacts.augment_table import AugmentTable
from semaug.artifacts.sources import open_source
from semaug.diffaug_core.augment import AugmentPlan, augment
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.training import train_diffaug
from semaug.ssl_methods.pretrain import Hardware
from semaug.studies.assemble import TrainingPlan, train
from semaug.studies.diffaug_images import samples_of

IMAGES = "scenes:train?items=12"
TABLE = "sklearn:wine?steps=standardise"
COURSE = DiffAugSettings(generator_epochs=1, warmup_epochs=0, timesteps=20, sampler_steps=3, refresh_every=9)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An artifact of two positives of each scene, of 16 pixels."""
    folder, samples = tmp_path_factory.mktemp("images"), samples_of(IMAGES, size=16)
    settings = replace(COURSE, encoder={"head": (8,)}, generator={"channels": (8, 8), "attention": ()})
    train_diffaug(samples, folder / "run", settings, epochs=1, batch_size=6)
    return augment(samples, folder / "run", folder / "augment.zarr", AugmentPlan(k=2), shard_size=5).path


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """An artifact of two positives of each of 178 wines."""
    folder, samples = tmp_path_factory.mktemp("rows"), samples_of(TABLE)
    settings = replace(COURSE, encoder={"widths": (12, 8), "head": (8,)}, generator={"widths": (16,)})
    train_diffaug(samples, folder / "run", settings, epochs=1, batch_size=60)
    return augment(samples, folder / "run", folder / "augment.zarr", AugmentPlan(k=2)).path


def image_plan(images, **options) -> TrainingPlan:
    given = {"augment": str(images), **options}
    return TrainingPlan(
        IMAGES, "diffusion", pair_options=given, backbone="small-cnn", size=16, steps=3, batch_size=4,
        checkpoint_every=1,
    )  # fmt: skip


def row_plan(rows, **options) -> TrainingPlan:
    given = {"augment": str(rows), "neighbours": 3, **options}
    return TrainingPlan(TABLE, "diffusion", pair_options=given, backbone="mlp", steps=3, batch_size=32)


def weights(plan: TrainingPlan, out, **options) -> str:
    return train(plan, out, **options).weights_digest


def test_positives_change_an_encoder_and_alpha_0_does_not(images, tmp_path) -> None:
    plain = weights(replace(image_plan(images), pairs="standard", pair_options={}), tmp_path / "plain")
    assert weights(image_plan(images, alpha=0.0), tmp_path / "zero") == plain
    others = [
        weights(image_plan(images, **options), tmp_path / str(n))
        for n, options in enumerate(({}, {"positives": "enlarged"}, {"positives": "mixed"}, {"raw_positives": True}))
    ]
    assert len({plain, *others}) == 5


def test_a_run_names_the_positives_it_read(images, tmp_path) -> None:
    plan = replace(image_plan(images, alpha=0.5), method="byol")
    card = train(plan, tmp_path / "run")
    assert card.inputs["augment"] == AugmentTable.open(images).digest
    assert card.inputs["source"] == open_source(IMAGES).fingerprint
    found = card.config["pairs"]
    assert (found["pairs"], found["alpha"], found["positives"], found["k"]) == ("diffusion", 0.5, "drawn", 2)


def test_a_stopped_run_ends_with_the_same_weights_with_workers_too(images, tmp_path) -> None:
    plan, whole = image_plan(images, positives="enlarged", alpha=0.7), tmp_path / "whole"

    def stop(progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    undisturbed = weights(plan, whole)
    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "stopped", on_progress=stop)
    assert weights(plan, tmp_path / "stopped", hardware=Hardware(workers=2)) == undisturbed


def test_views_made_on_the_device_are_the_same_pairs(images, tmp_path) -> None:
    plan = replace(image_plan(images, alpha=0.5), views="device")
    assert train(plan, tmp_path / "run").config["pairs"]["views"] == "device"


def test_an_artifact_feeds_generative_inflation(images, tmp_path) -> None:
    options = {"generated": str(images), "real_copies": 2, "preset": "adainf_symmetric"}
    plan = replace(image_plan(images), pairs="adainf", pair_options=options)
    card = train(plan, tmp_path / "run")
    assert card.inputs["generated"] == open_source(images).fingerprint


def test_rows_train_on_generated_rows(rows, tmp_path) -> None:
    plain = replace(row_plan(rows), pairs="standard", pair_options={"neighbours": 3})
    unchanged = weights(plain, tmp_path / "plain")
    assert weights(row_plan(rows, alpha=0.0), tmp_path / "zero") == unchanged
    others = {
        weights(row_plan(rows), tmp_path / "drawn"),
        weights(row_plan(rows, positives="enlarged"), tmp_path / "k"),
    }
    assert len(others | {unchanged}) == 3
    assert weights(row_plan(rows), tmp_path / "workers", hardware=Hardware(workers=1)) in others
