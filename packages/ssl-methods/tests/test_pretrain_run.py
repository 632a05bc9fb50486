from __future__ import annotations

import csv
import json
import warnings

import pytest
import torch

from semaug.artifacts.errors import ArtifactError, ArtifactLocked, ArtifactMismatch, InvalidOption, OutputError
from semaug.artifacts.verify import verify
from semaug.ssl_methods import OptimizerSettings, SimCLR, load_encoder
from semaug.ssl_methods.errors import TrainingDiverged
from semaug.ssl_methods.testing import StripedPairs, small_method, small_run


class Stop(Exception):
    """The power goes out."""


def stop_at(step):
    def listen(event):
        if event.done == step:
            raise Stop

    return listen


def curves(folder, *, without=("images_per_second",)):
    with open(folder / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    return folder, small_run(folder)


def test_card_and_files(undisturbed):
    folder, card = undisturbed
    found = verify(folder)
    assert (found.kind, found.items, found.problems) == ("encoder", 24, ())
    assert (card.backbone, card.input_size, card.small_stem, card.method) == ("small-cnn", 16, True, "simclr")
    assert card.config["method"] == {"name": "simclr", "temperature": 0.2}
    assert card.config["training"]["steps"] == 24
    encoder, loaded = load_encoder(folder)
    assert loaded == card
    assert {name.split(".")[0] for name in encoder.state_dict()} == {"backbone", "projector"}
    assert [int(row["step"]) for row in curves(folder)] == list(range(2, 25, 2))
    assert json.loads((folder / "run.json").read_text())["config"]["seed"] == 0


def test_no_pickle_is_needed_to_read_the_checkpoint(undisturbed):
    checkpoint = torch.load(undisturbed[0] / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 24


# Step 4 is in the first epoch (5 steps), 5 ends it, 13 and 23 lie between checkpoints, 3 and 24 are checkpoints.
@pytest.mark.parametrize("step", [1, 3, 4, 5, 13, 23, 24])
def test_resuming_gives_the_undisturbed_digest_and_curves(tmp_path, undisturbed, step):
    with pytest.raises(Stop):
        small_run(tmp_path, on_progress=stop_at(step))
    torch.rand(3)
    small_run(tmp_path)
    assert verify(tmp_path).digest == verify(undisturbed[0]).digest
    assert curves(tmp_path) == curves(undisturbed[0])


def test_stopping_after_the_last_checkpoint_needs_no_more_training(tmp_path, undisturbed):
    small_run(tmp_path)
    (tmp_path / "encoder.safetensors").unlink()
    (tmp_path / "encoder.json").unlink()
    seen = []
    small_run(tmp_path, on_progress=seen.append)
    assert seen == []
    assert verify(tmp_path).digest == verify(undisturbed[0]).digest


def test_a_method_that_draws_numbers_resumes_alike(tmp_path):
    class Noisy(SimCLR):
        def forward(self, views):
            return super().forward([v + torch.randn_like(v) for v in views])

    def run(folder, **changes):
        return _pretrain(StripedPairs(40), folder, method=Noisy(small_method().encoder), **changes)

    with pytest.raises(Stop):
        run(tmp_path / "stopped", on_progress=stop_at(8))
    torch.rand(3)
    whole = run(tmp_path / "whole")
    assert run(tmp_path / "stopped").weights_digest == whole.weights_digest
    assert run(tmp_path / "again").weights_digest == whole.weights_digest


def test_workers_do_not_change_the_weights(tmp_path, undisturbed):
    with pytest.raises(Stop):
        small_run(tmp_path, workers=2, on_progress=stop_at(8))
    assert small_run(tmp_path, workers=2).weights_digest == undisturbed[1].weights_digest


def test_seed_changes_the_weights(tmp_path, undisturbed):
    assert small_run(tmp_path, seed=1).weights_digest != undisturbed[1].weights_digest


def test_a_finished_run_is_returned_at_once(undisturbed):
    folder, card = undisturbed
    before = (folder / "encoder.json").stat().st_mtime_ns
    assert small_run(folder) == card
    assert (folder / "encoder.json").stat().st_mtime_ns == before


def test_another_config_or_input_is_refused_by_name(tmp_path, undisturbed):
    small_run(tmp_path, steps=2, inputs={"source": "aa"})
    with pytest.raises(ArtifactMismatch, match=r"optimizer\.lr = 0\.3, this run has 0\.5.*--overwrite"):
        small_run(tmp_path, steps=2, inputs={"source": "aa"}, optimizer=_lars(0.5))
    with pytest.raises(ArtifactMismatch, match=r"inputs\.source = 'aa', this run has 'bb'"):
        small_run(tmp_path, steps=2, inputs={"source": "bb"})
    card = small_run(tmp_path, overwrite=True)
    assert card.weights_digest == undisturbed[1].weights_digest


def _lars(lr):
    return OptimizerSettings("lars", lr=lr, eta=0.02, exclude_norms=True)


def test_a_loss_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    class Poisoned(StripedPairs):
        def __getitem__(self, index):
            first, second, index = super().__getitem__(index)
            return first * (float("nan") if int(self._epoch) == 2 else 1.0), second, index

    with pytest.raises(TrainingDiverged, match="no longer finite at step 11; lower the learning rate"):
        _pretrain(Poisoned(40), tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 9
    assert all(torch.isfinite(t).all() for t in checkpoint["state_dict"].values())
    assert not (tmp_path / "encoder.json").exists()


def _pretrain(pairs, out, method=None, **changes):
    from semaug.ssl_methods.pretrain import pretrain

    settings = {"steps": 24, "batch_size": 8, "checkpoint_every": 3, "log_every": 4, "tensorboard": False, **changes}
    return pretrain(method or small_method(), pairs, out=out, **settings)


def test_bad_calls_are_refused_in_one_line(tmp_path):
    from semaug.ssl_methods.pretrain import Hardware

    with pytest.raises(InvalidOption, match="batch of 64 is larger than the 40 items"):
        _pretrain(StripedPairs(40), tmp_path / "a", batch_size=64)
    with pytest.raises(InvalidOption, match="steps 0"):
        _pretrain(StripedPairs(40), tmp_path / "a", steps=0)
    with pytest.raises(InvalidOption, match="device 'tpu' is not known"):
        Hardware(device="tpu")
    assert not (tmp_path / "a").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(ArtifactMismatch, match=r"holds 'cat\.jpg' and is not a semaug run"):
        _pretrain(StripedPairs(40), tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactMismatch, match="is a file"):
        _pretrain(StripedPairs(40), tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        _pretrain(StripedPairs(40), tmp_path / "file" / "below")


def test_a_damaged_card_is_written_again_from_the_checkpoint(tmp_path, undisturbed):
    small_run(tmp_path)
    (tmp_path / "encoder.json").write_text('{"kind": ')
    assert small_run(tmp_path).weights_digest == undisturbed[1].weights_digest
    assert verify(tmp_path).digest == verify(undisturbed[0]).digest


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(Stop):
        small_run(tmp_path, on_progress=stop_at(4))
    (tmp_path / "last.ckpt").write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match=r"last\.ckpt cannot be read.*--overwrite"):
        small_run(tmp_path)


def test_one_run_has_one_trainer(tmp_path):
    def second(event):
        with pytest.raises(ArtifactLocked, match="is being written by another process"):
            small_run(tmp_path)
        raise Stop

    with pytest.raises(Stop):
        small_run(tmp_path, on_progress=second)


def test_the_callers_random_state_and_warning_filters_are_left_alone(tmp_path):
    torch.manual_seed(7)
    before, filters = torch.get_rng_state(), list(warnings.filters)
    small_run(tmp_path, steps=2)
    assert torch.equal(before, torch.get_rng_state())
    assert warnings.filters == filters


def test_online_evaluation_is_logged_and_disturbs_nothing(tmp_path, undisturbed):
    from semaug.ssl_methods.callbacks import OnlineEvaluation

    def evaluate(encoder):
        assert not encoder.training
        return {"knn": float(encoder(torch.rand(2, 3, 16, 16)).shape[1])}

    knn = [OnlineEvaluation(evaluate, every=5)]
    with pytest.raises(Stop):
        small_run(tmp_path, callbacks=knn, on_progress=stop_at(11))
    assert small_run(tmp_path, callbacks=knn).weights_digest == undisturbed[1].weights_digest
    rows = curves(tmp_path)
    assert [int(r["step"]) for r in rows if r["knn"]] == [5, 10, 15, 20, 24]
    assert [r["loss"] for r in rows if r["loss"]] == [r["loss"] for r in curves(undisturbed[0])]


def test_tensorboard_has_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stop):
        small_run(tmp_path, tensorboard=True, on_progress=stop_at(5))
    small_run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(2, 25, 2))
    expected = [float(row["loss"]) for row in curves(tmp_path)]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(expected, rel=1e-6)


def test_training_learns_the_stripes(tmp_path):
    pairs = StripedPairs(64)
    optimizer = OptimizerSettings("adamw", lr=2e-3, exclude_norms=True)
    method = small_method()
    untrained = _neighbours(method.encoder, pairs)
    card = _pretrain(pairs, tmp_path, steps=60, batch_size=32, optimizer=optimizer)
    losses = [float(row["loss"]) for row in curves(tmp_path)]
    assert losses[-1] < losses[0] - 0.8
    encoder, _ = load_encoder(tmp_path)
    trained = _neighbours(encoder, pairs)
    assert card.steps == 60
    assert trained > untrained + 0.15


def _neighbours(encoder, pairs):
    """Share of fresh views whose nearest neighbour by cosine has their label."""
    encoder.eval()
    bank, queries = (torch.stack([pairs.view(i, 99, v) for i in range(len(pairs))]) for v in range(2))
    with torch.no_grad():
        a, b = (torch.nn.functional.normalize(encoder(x), dim=1) for x in (queries, bank))
    labels = torch.tensor([pairs.label(i) for i in range(len(pairs))])
    similarity = (a @ b.T).fill_diagonal_(-1)  # another image, not the query's own other view
    return (labels[similarity.argmax(1)] == labels).float().mean().item()
