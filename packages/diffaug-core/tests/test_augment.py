"""``augment``: positives of rows and of images as an artifact, and what their noise depends on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from semaug.artifacts.augment_table import AugmentTable
from semaug.artifacts.draws import normal_rows
from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption, UnreadableImage
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import augment_row
from semaug.artifacts.sources import open_source
from semaug.artifacts.tables import is_table, open_table
from semaug.artifacts.verify import verify
from semaug.diffaug_core.augment import (
    Augmenter,
    AugmentPlan,
    AugmentWork,
    TrainedRun,
    augment,
    from_pixels,
    to_pixels,
)
from semaug.diffaug_core.nearest import describe_nearest, nearest_of
from semaug.diffaug_core.neighbours import NeighbourSettings
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.table_samples import TableSamples
from semaug.diffaug_core.training import train_diffaug

ROWS, FEATURES, SIDE = 40, 6, 8


class Blobs:
    """Samples around two centres, of any shape; ``broken`` ones cannot be read."""

    class_names = ("low", "high")

    def __init__(self, shape=(FEATURES,), count=ROWS, seed=0, broken=()) -> None:
        rng = np.random.default_rng(seed)
        self._labels = np.arange(count) % 2
        centre = np.where(self._labels, 0.6, -0.6).reshape(-1, *[1] * len(shape))
        self.values = (centre + 0.1 * rng.standard_normal((count, *shape))).astype(np.float32)
        self.shape, self.broken = shape, broken
        self.keys = [f"set/{i}" for i in range(count)]
        self.fingerprint = f"{seed:032x}"

    def __len__(self) -> int:
        return len(self.values)

    def clean(self, indices):
        for index in indices.tolist():
            if index in self.broken:
                raise UnreadableImage(f"cannot decode {index}")
        return torch.from_numpy(self.values[indices])

    def hand(self, indices, *, seed, epoch, view):
        noise = np.random.default_rng([seed, epoch, view]).standard_normal((len(self), *self.shape))[indices]
        return self.clean(indices) + 0.05 * torch.from_numpy(noise).float()

    def label(self, index):
        return int(self._labels[index])


SMALL = DiffAugSettings(
    generator_epochs=1, warmup_epochs=0, timesteps=20, sampler_steps=4, refresh_every=4,
    encoder={"widths": (12, 8), "head": (8,)}, generator={"widths": (16, 16), "embedding": 8},
)  # fmt: skip
IMAGES = replace(
    SMALL, encoder={"backbone": "small-cnn", "head": (8,)}, generator={"channels": (8, 8), "attention": ()}
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "run"
    train_diffaug(Blobs(), path, SMALL, epochs=2, batch_size=20)
    return path


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "run"
    train_diffaug(Blobs((3, SIDE, SIDE), 12), path, IMAGES, epochs=1, batch_size=6)
    return path


def read_rows(path) -> np.ndarray:
    table = AugmentTable.open(path)
    return table.require_rows().take(np.arange(len(table)))


def test_rows_are_kept_with_their_origins_numbers_and_labels(run, tmp_path) -> None:
    samples = Blobs()
    summary = augment(samples, run, tmp_path / "a.zarr", AugmentPlan(k=3), seed=5, shard_size=16)
    table, artifact = AugmentTable.open(tmp_path / "a.zarr"), Artifact.open(tmp_path / "a.zarr")
    assert (len(table), table.k, table.form, table.require_rows().features) == (3 * ROWS, 3, "rows", FEATURES)
    assert list(table.origins) == samples.keys
    table.require_source(samples.fingerprint)
    assert artifact.keys[4] == "set/1/1"
    assert artifact.column("number").tolist() == [0, 1, 2] * ROWS
    assert artifact.column("label").tolist() == [i % 2 for i in range(ROWS) for _ in range(3)]
    assert artifact.column("seed").tolist() == [augment_row(5, k, n).seed for k in samples.keys for n in range(3)]
    assert np.isfinite(read_rows(tmp_path / "a.zarr")).all()
    assert len(np.unique(read_rows(tmp_path / "a.zarr"), axis=0)) == 3 * ROWS
    config = summary.manifest.config
    assert config["sampler"] == {"name": "ddim", "steps": 4, "eta": 0.0, "clip": None}
    assert config["condition"] == "y"
    assert set(summary.manifest.inputs) == {"source", "encoder", "generator"}
    assert verify(tmp_path / "a.zarr").problems == ()


def test_a_positive_is_the_samplers_answer_to_its_own_noise(run) -> None:
    """By hand, for one sample: noise from its seed, y of the encoder, DDIM along the schedule."""
    samples, trained = Blobs(), TrainedRun.open(run)
    encoder, generator = trained.load()
    work = AugmentWork(samples, trained, trained.settings, 2, 7, 64)
    rows = [augment_row(7, samples.keys[i], number) for i in (3, 3, 9) for number in (1,)]
    made = Augmenter(work, encoder, generator).generate(rows, samples.clean(np.array([3, 3, 9])), [1, 1, 1])
    for row, index, positive in zip(rows, (3, 3, 9), made, strict=True):
        noise = torch.from_numpy(normal_rows(np.array([row.seed], np.uint64), FEATURES).astype(np.float32))
        with torch.no_grad():
            x, y = noise, encoder(samples.clean(np.array([index])))
            products = [*trained.generator.schedule.alpha_bar[[19, 14, 9, 4]], 1.0]
            for t, now, before in zip((19, 14, 9, 4), products, products[1:], strict=False):
                estimate = generator(x, torch.tensor([t]), y)
                clean = (x - (1 - now) ** 0.5 * estimate) / now**0.5
                x = before**0.5 * clean + (1 - before) ** 0.5 * estimate
        assert torch.allclose(positive, x[0], atol=1e-5)
    assert torch.allclose(made[0], made[1], atol=1e-5)
    assert not torch.allclose(made[0], made[2], atol=1e-2)


@pytest.mark.parametrize("sampler", [{}, {"sampler": "ddpm"}, {"eta": 1.0}])
def test_neither_batch_nor_shard_nor_workers_nor_company_change_a_positive(run, tmp_path, sampler) -> None:
    whole = Blobs()
    plan = AugmentPlan(k=2, **sampler)
    augment(whole, run, tmp_path / "a.zarr", plan)
    augment(whole, run, tmp_path / "b.zarr", plan, batch_size=3, shard_size=7)
    assert np.allclose(read_rows(tmp_path / "a.zarr"), read_rows(tmp_path / "b.zarr"), atol=1e-5)
    few = Blobs(count=10)
    few.values[:] = whole.values[30:]
    few.keys = whole.keys[30:]
    augment(few, run, tmp_path / "c.zarr", plan)
    assert np.allclose(read_rows(tmp_path / "c.zarr"), read_rows(tmp_path / "a.zarr")[60:], atol=1e-5)
    augment(whole, run, tmp_path / "d.zarr", plan, seed=1)
    assert not np.allclose(read_rows(tmp_path / "a.zarr"), read_rows(tmp_path / "d.zarr"), atol=1e-2)


@pytest.mark.slow
def test_workers_write_the_same_artifact(run, tmp_path) -> None:
    one = augment(Blobs(), run, tmp_path / "one.zarr", AugmentPlan(k=2), shard_size=10)
    two = augment(Blobs(), run, tmp_path / "two.zarr", AugmentPlan(k=2), shard_size=10, workers=2)
    assert Artifact.open(one.path).digest == Artifact.open(two.path).digest


def test_a_rerun_writes_what_is_missing_and_refuses_other_settings(run, tmp_path) -> None:
    path, whole = tmp_path / "a.zarr", tmp_path / "whole.zarr"
    augment(Blobs(), run, whole, AugmentPlan(k=2), shard_size=10)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        augment(Blobs(), run, path, AugmentPlan(k=2), shard_size=10, on_progress=lambda p: stop_after(p, seen))
    assert 0 < len(Artifact.open(path, partial=True).markers) < 4
    augment(Blobs(), run, path, AugmentPlan(k=2), shard_size=10)
    assert Artifact.open(path).digest == Artifact.open(whole).digest
    with pytest.raises(ArtifactMismatch, match=r"config\.k = 2, this run has 3"):
        augment(Blobs(), run, path, AugmentPlan(k=3), shard_size=10)
    with pytest.raises(ArtifactMismatch, match=r"config\.sampler\.steps = 4, this run has 5"):
        augment(Blobs(), run, path, AugmentPlan(k=2, steps=5), shard_size=10)


def stop_after(progress, seen) -> None:
    seen.append(progress.done)
    if progress.done >= 40:
        raise KeyboardInterrupt


def test_images_are_kept_as_pixels_and_are_a_source(image_run, tmp_path) -> None:
    samples = Blobs((3, SIDE, SIDE), 12)
    summary = augment(samples, image_run, tmp_path / "a.zarr", AugmentPlan(k=2), shard_size=5, batch_size=4)
    source = open_source(tmp_path / "a.zarr")
    assert len(source) == 24
    assert source.read(3).shape == (SIDE, SIDE, 3)
    assert source.key(3) == "set/1/1"
    assert source.label(3) == 1
    assert source.class_names == ("low", "high")
    assert summary.manifest.config["sampler"]["clip"] == 1.0
    work = AugmentWork(samples, TrainedRun.open(image_run), TrainedRun.open(image_run).settings, 2, 0, 4)
    made = Augmenter(work, *work.trained.load()).generate(
        [augment_row(0, "set/1", 1)], samples.clean(np.array([1])), [1]
    )
    assert np.abs(to_pixels(made)[0].astype(int) - source.read(3)).max() <= 1


def test_pixels_go_to_minus_one_and_one_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    values = from_pixels(pixels)
    assert values.shape == (4, 3, 5, 5)
    assert (to_pixels(values) == pixels).all()
    assert values[1, 2, 3, 4] == pytest.approx(pixels[1, 3, 4, 2] / 127.5 - 1, abs=1e-6)
    assert to_pixels(torch.tensor([-3.0, 3.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).view(1, 3, 2, 2)).max() == 255


def test_samples_that_cannot_be_read_are_skipped_with_all_their_positives(run, tmp_path) -> None:
    summary = augment(Blobs(broken=(2, 11)), run, tmp_path / "a.zarr", AugmentPlan(k=2), shard_size=8)
    assert [(s.key, s.reason) for s in summary.skipped] == [(f"set/{i}", f"cannot decode {i}") for i in (2, 11)]
    table = AugmentTable.open(tmp_path / "a.zarr")
    assert list(table.origins) == [f"set/{i}" for i in range(ROWS) if i not in (2, 11)]
    whole = tmp_path / "whole.zarr"
    augment(Blobs(), run, whole, AugmentPlan(k=2), shard_size=8)
    kept = [2 * i + n for i in range(ROWS) if i not in (2, 11) for n in range(2)]
    assert np.allclose(read_rows(tmp_path / "a.zarr"), read_rows(whole)[kept], atol=1e-5)


@pytest.mark.parametrize("condition", ["z", "label", "random"])
def test_every_condition_of_training_can_be_generated_from(condition, tmp_path) -> None:
    samples = Blobs()
    train_diffaug(samples, tmp_path / "run", replace(SMALL, condition=condition), epochs=1, batch_size=20)
    augment(samples, tmp_path / "run", tmp_path / "a.zarr", AugmentPlan(k=1), batch_size=40)
    augment(samples, tmp_path / "run", tmp_path / "b.zarr", AugmentPlan(k=1), batch_size=7)
    assert np.allclose(read_rows(tmp_path / "a.zarr"), read_rows(tmp_path / "b.zarr"), atol=1e-5)
    if condition == "label":
        samples._labels = np.full(ROWS, 5)
        with pytest.raises(InvalidOption, match="conditioned on 2 classes and 'set/0' is of none"):
            augment(samples, tmp_path / "run", tmp_path / "c.zarr")


def test_what_does_not_fit_is_refused_in_one_line(run, tmp_path) -> None:
    with pytest.raises(InvalidOption, match=r"was trained on samples \(6,\), these are \(4,\)"):
        augment(Blobs((4,)), run, tmp_path / "a.zarr")
    with pytest.raises(InvalidOption, match="k is 0"):
        AugmentPlan(k=0)
    with pytest.raises(InvalidOption, match="21 sampler steps do not fit into 20 timesteps"):
        augment(Blobs(), run, tmp_path / "a.zarr", AugmentPlan(steps=21))
    with pytest.raises(InvalidOption, match="sampler 'euler' is not known"):
        augment(Blobs(), run, tmp_path / "a.zarr", AugmentPlan(sampler="euler"))
    train_diffaug(Blobs(), tmp_path / "bare", replace(SMALL, generate=False), epochs=1, batch_size=20)
    with pytest.raises(InvalidOption, match="without a generator; train one"):
        augment(Blobs(), tmp_path / "bare", tmp_path / "a.zarr")


def test_the_note_on_the_nearest_samples_is_that_of_brute_force(run, tmp_path) -> None:
    samples = Blobs()
    summary = augment(samples, run, tmp_path / "a.zarr", AugmentPlan(k=2), shard_size=16)
    found = summary.manifest.info["nearest"]
    made, real = read_rows(tmp_path / "a.zarr").astype(np.float64), samples.values.astype(np.float64)
    distances = np.sqrt(((made[:, None] - real[None]) ** 2).sum(2))
    own = np.repeat(np.arange(ROWS), 2)
    between = np.sqrt(((real[:, None] - real[None]) ** 2).sum(2)) + np.diag(np.full(ROWS, np.inf))
    assert found["positives"] == 2 * ROWS
    assert found["positive"] == pytest.approx(lower_median(distances.min(1)))
    assert found["origin"] == pytest.approx(lower_median(distances[np.arange(2 * ROWS), own]))
    assert found["real"] == pytest.approx(lower_median(between.min(1)[own]))
    assert found["own"] == pytest.approx((distances.argmin(1) == own).mean())
    distances[np.arange(2 * ROWS), own] = np.inf
    assert found["class"] == pytest.approx((distances.argmin(1) % 2 == own % 2).mean())
    assert found["class_real"] == pytest.approx((between.argmin(1)[own] % 2 == own % 2).mean())
    assert found["class_chance"] == pytest.approx(19 / 39)
    assert found["reference"] == "the samples of training"
    other = Blobs(seed=3)
    other.label = lambda index: None
    found = augment(other, run, tmp_path / "b.zarr").manifest.info["nearest"]
    assert found["reference"] == "these samples"
    assert not any(name.startswith("class") for name in found)


def lower_median(values: np.ndarray) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])


def test_copies_of_samples_are_told_from_new_ones() -> None:
    samples = Blobs((3, SIDE, SIDE), 30)
    copies = to_pixels(samples.clean(np.arange(30)))
    found = describe_nearest([copies[:10], copies[10:]], samples.keys, samples, trained=True, most=8)
    assert found["own"] == 1.0
    assert found["positive"] == pytest.approx(found["origin"])
    assert found["origin"] < 0.1 * found["real"]
    points = samples.clean(np.array([4])).reshape(1, -1).double()
    everyone = np.arange(30)
    assert nearest_of(points, samples, everyone)[1].item() == 4
    assert nearest_of(points, samples, everyone, skip=np.array([4]))[1].item() != 4
    assert nearest_of(points, samples, everyone[10:])[1].item() >= 10


def test_the_noise_of_a_seed_is_normal_independent_and_addressed_by_its_place() -> None:
    keys = np.arange(1, 201, dtype=np.uint64)
    drawn = normal_rows(keys, 51)
    assert drawn.shape == (200, 51)
    assert stats.kstest(drawn.reshape(-1), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.25
    assert abs(np.corrcoef(drawn[:-1].reshape(-1), drawn[1:].reshape(-1))[0, 1]) < 0.05
    assert (normal_rows(keys[3:5], 7, 20) == drawn[3:5, 20:27]).all()
    with pytest.raises(ValueError, match="give an even number"):
        normal_rows(keys, 3, 1)


def test_the_manifest_is_plain_json(run, tmp_path) -> None:
    manifest = augment(Blobs(), run, tmp_path / "a.zarr").manifest
    assert json.loads(manifest.model_dump_json())["info"]["nearest"]["positives"] == ROWS


def test_generated_rows_are_a_table_like_their_origins(tmp_path) -> None:
    rng = np.random.default_rng(2)
    lines = [f"cell{i},{'ab'[i % 2]},{','.join(f'{v:.4f}' for v in rng.random(3))}" for i in range(20)]
    (tmp_path / "cells.csv").write_text("cell,type,g1,g2,g3\n" + "\n".join(lines) + "\n")
    table = open_table(f"{tmp_path / 'cells.csv'}?key=cell&label=type&steps=standardise")
    samples = TableSamples(table, NeighbourSettings(3))
    train_diffaug(samples, tmp_path / "run", SMALL, epochs=1, batch_size=10)
    augment(samples, tmp_path / "run", tmp_path / "a.zarr", AugmentPlan(k=2))
    assert is_table(str(tmp_path / "a.zarr"))
    made = open_table(tmp_path / "a.zarr")
    assert made.feature_names == table.feature_names
    assert made.steps == table.steps
    assert made.class_names == table.class_names == ("a", "b")
    assert made.labels.tolist() == np.repeat(table.labels, 2).tolist()
    assert made.obs["origin"].tolist() == [k for k in table.keys for _ in range(2)]
    assert made.fingerprint == AugmentTable.open(tmp_path / "a.zarr").require_rows().fingerprint
    assert (made.features == read_rows(tmp_path / "a.zarr")).all()


def test_an_artifact_of_images_is_no_table(image_run, tmp_path) -> None:
    augment(Blobs((3, SIDE, SIDE), 12), image_run, tmp_path / "a.zarr")
    assert not is_table(str(tmp_path / "a.zarr"))
    with pytest.raises(ArtifactError, match="the positives are images and rows are needed"):
        open_table(tmp_path / "a.zarr")
