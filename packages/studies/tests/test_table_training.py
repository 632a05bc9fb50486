"""Encoders of tables: trained on rows mixed with their neighbours, resumed to the same weights, evaluated."""

from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.errors import ArtifactMismatch, InvalidOption, SourceError
from semaug.artifacts.tables import open_table
from semaug.eval.probes.knn import knn_accuracy
from semaug.ssl_methods.pretrain import Hardware
from semaug.studies.assemble import OnlineKnn, TrainingPlan, embed_run, pairs_of, train
from semaug.studies.protocols.features import Embedder

CLASSES, WIDTH = 4, 30


class Stop(Exception):
    """The power goes out."""


def write_blobs(folder: Path, width: int, apart: float) -> Path:
    """240 rows of four classes, told apart by three of the columns."""
    rng = np.random.default_rng(0)
    labels, rows = rng.integers(0, CLASSES, 240), rng.standard_normal((240, width))
    rows[:, :3] += rng.standard_normal((CLASSES, 3))[labels] * apart
    np.save(folder / "blobs.npy", rows.astype(np.float32))
    np.save(folder / "blobs_labels.npy", labels)
    return folder / "blobs.npy"


@pytest.fixture(scope="module")
def blobs(tmp_path_factory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("table"), WIDTH, 6)


def plan(table, **changes):
    settings = {"backbone": "mlp", "steps": 12, "batch_size": 32, "checkpoint_every": 3, "log_every": 2}
    options = {"backbone_options": {"widths": (32, 16)}, "pair_options": {"neighbours": 3, "components": 5}}
    return TrainingPlan(f"{table}?split=train", **{**settings, **options, **changes})


@pytest.mark.parametrize("method", ["simclr", "byol", "dlme"])
def test_every_kind_of_method_trains_on_rows(blobs, tmp_path, method):
    card = train(plan(blobs, method=method), tmp_path / "run")
    assert (card.input_features, card.input_size, card.feature_dim) == (WIDTH, None, 16)
    assert card.config["pairs"]["augmentation"] == {"neighbours": 3, "components": 5}
    assert card.config["pairs"]["table"]["steps"] == []
    assert card.inputs == {"source": open_table(f"{blobs}?split=train").fingerprint}
    features = embed_run(tmp_path / "run", open_table(f"{blobs}?split=test"))
    assert features.features.shape == (48, 16)
    assert np.isfinite(features.features).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["moco-v2", "moco-v2plus", "moco-v3", "simsiam", "barlow-twins", "vicreg", "swav", "supcon"]
)
def test_the_other_methods_train_on_rows(blobs, tmp_path, method):
    own = {"queue": 64} if method in ("moco-v2", "moco-v2plus") else {}
    card = train(plan(blobs, method=method, hyperparameters=own), tmp_path / "run")
    assert card.input_features == WIDTH


def stop_at(step):
    def listen(event):
        if event.done == step:
            raise Stop

    return listen


@pytest.mark.parametrize("step", [4, 9])
def test_a_stopped_run_ends_with_the_same_weights(blobs, tmp_path, step):
    whole = train(plan(blobs, method="byol"), tmp_path / "whole")
    with pytest.raises(Stop):
        train(plan(blobs, method="byol"), tmp_path / "stopped", on_progress=stop_at(step))
    assert train(plan(blobs, method="byol"), tmp_path / "stopped").weights_digest == whole.weights_digest


@pytest.mark.slow
def test_workers_do_not_change_the_weights(blobs, tmp_path):
    alone = train(plan(blobs), tmp_path / "alone")
    shared = train(plan(blobs), tmp_path / "shared", hardware=Hardware(workers=2))
    assert shared.weights_digest == alone.weights_digest


def test_another_table_or_augmentation_is_another_run(blobs, tmp_path):
    first = train(plan(blobs), tmp_path / "run")
    with pytest.raises(ArtifactMismatch):
        train(plan(blobs, pair_options={"neighbours": 4}), tmp_path / "run")
    other = train(plan(blobs, seed=1), tmp_path / "other")
    assert other.weights_digest != first.weights_digest


def test_training_tells_faint_classes_apart(tmp_path):
    table = write_blobs(tmp_path, 60, 3)
    train_rows, test_rows = (open_table(f"{table}?split={split}") for split in ("train", "test"))
    accuracy = []
    for steps, name in ((1, "fresh"), (150, "trained")):
        chosen = plan(table, steps=steps, batch_size=64, optimizer="adamw", lr=3e-3)
        train(chosen, tmp_path / name)
        accuracy.append(knn_accuracy(*(embed_run(tmp_path / name, rows) for rows in (train_rows, test_rows))))
    assert accuracy[1] >= 0.9  # 0.71 at the start
    assert accuracy[1] > accuracy[0] + 0.15


def test_a_run_is_watched_while_it_trains(blobs, tmp_path):
    watch = OnlineKnn(f"{blobs}?split=train", f"{blobs}?split=test", every=6)
    train(plan(blobs, online_knn=watch), tmp_path / "run")
    assert "knn" in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]


def test_features_are_kept_below_the_run_and_found_again(blobs, tmp_path):
    train(plan(blobs), tmp_path / "run")
    spec = f"{blobs}?split=test"
    first = Embedder(tmp_path / "run").features(spec)
    (kept,) = (tmp_path / "run" / "eval" / "features").glob("*.zarr")
    changed = kept.stat().st_mtime_ns
    again = Embedder(tmp_path / "run").features(spec)
    assert kept.stat().st_mtime_ns == changed
    assert np.array_equal(first.features, again.features)
    assert np.array_equal(first.projections, again.projections)
    assert (first.keys, first.class_names) == (again.keys, again.class_names)
    in_memory = Embedder(tmp_path / "run", keep=False).features(spec)
    assert np.array_equal(in_memory.features, first.features)
    assert np.array_equal(first.labels, open_table(spec).labels)


def test_tables_that_an_encoder_was_not_trained_on_are_refused(blobs, tmp_path):
    train(plan(f"{blobs}"), tmp_path / "run")
    embedder = Embedder(tmp_path / "run", keep=False)
    with pytest.raises(InvalidOption, match=r"went through the steps standardise.* trained on through \(none\)"):
        embedder.features(f"{blobs}?steps=standardise")
    with pytest.raises(InvalidOption, match="has 2 columns and the encoder reads 30"):
        embedder.features(f"{blobs}?features=x0,x1")
    np.save(tmp_path / "same.npy", np.zeros((3, WIDTH)))
    assert len(embedder.features(f"{tmp_path}/same.npy")) == 3
    (tmp_path / "other.csv").write_text(",".join(f"g{i}" for i in range(WIDTH)) + "\n" + ",".join("1" * WIDTH) + "\n")
    with pytest.raises(InvalidOption, match="30 columns of other names"):
        embedder.features(f"{tmp_path}/other.csv")


@pytest.mark.parametrize(("changes", "message"), [
    ({"pairs": "guided"}, "--pairs guided: for images"),
    ({"views": "device"}, "--views device: for images"),
    ({"pair_options": {"preset": "symmetric"}}, "--preset: for views of images"),
    ({"pairs": "diffusion"}, "'diffusion' without generated rows"),
    ({"pair_options": {"augment": "a.zarr"}}, "'standard' with generated rows"),
    ({"pair_options": {"neighbours": 192}}, "192 neighbours among 192 rows; give at most 191"),
    ({"backbone": "small-cnn"}, "is a table and the encoder reads images"),
])  # fmt: skip
def test_plans_that_are_refused(blobs, changes, message):
    with pytest.raises(InvalidOption, match=message):
        pairs_of(plan(blobs, **({"pair_options": {}} | changes)))


def test_rows_and_images_are_not_mixed_up(tmp_path):
    with pytest.raises(SourceError, match="unknown option 'items'"):
        pairs_of(TrainingPlan("scenes:train?items=20", backbone="mlp"))
    with pytest.raises(InvalidOption, match="--neighbours is for rows of a table"):
        pairs_of(TrainingPlan("scenes:train?items=20", backbone="small-cnn", pair_options={"neighbours": 4}))
