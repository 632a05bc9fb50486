"""A whole run of DiffAug: what it writes, that it resumes to the same bits, and how it fails."""

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption
from semaug.artifacts.files import hash_file
from semaug.artifacts.verify import verify
from semaug.diffaug_core import ABLATIONS, DiffAugSettings, ablate, load_diffaug, train_diffaug
from semaug.diffaug_core.curves import require_finite_weights
from semaug.diffaug_core.testing import MixtureSamples
from semaug.ssl_methods import load_card, load_encoder
from semaug.ssl_methods.errors import RunStopped, TrainingDiverged
from semaug.ssl_methods.metrics import read_rows

SAMPLES = MixtureSamples(count=24, features=4)
SMALL = DiffAugSettings(
    encoder={"widths": (6, 5), "head": (4,)},
    generator={"widths": (7,), "embedding": 4},
    timesteps=20,
    sampler_steps=3,
    warmup_epochs=1,
    generator_epochs=2,
    refresh_every=2,
    alpha=0.5,
)
COURSE = {"epochs": 5, "batch_size": 8, "checkpoint_every": 4, "log_every": 2}


class Killed(Exception):
    pass


def killer(stage, done):
    """A listener that ends the run at once when ``done`` of ``stage`` are through."""

    def listen(event):
        if (event.stage, event.done) == (stage, done):
            raise Killed

    return listen


def digests(run):
    return [hash_file(run / name) for name in ("encoder.safetensors", "generator.safetensors")]


def train(out, settings=SMALL, **options):
    return train_diffaug(SAMPLES, out, settings, **{**COURSE, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    found = {}
    for schedule in ("joint", "em"):
        found[schedule] = tmp_path_factory.mktemp(schedule) / "run"
        train(found[schedule], replace(SMALL, schedule=schedule))
    return found


def test_a_run_is_read_back(whole):
    run = load_diffaug(whole["joint"])
    assert run.settings == SMALL
    assert (run.card.method, run.card.steps, run.card.input_features) == ("diffaug", 15, 4)
    assert run.schedule.steps == 20
    rows = SAMPLES.clean(torch.arange(6).numpy())
    y = run.encoder(rows)
    assert run.encoder.project(y).shape == (6, 2)
    assert run.generator(rows, torch.zeros(6, dtype=torch.int64), y).shape == (6, 4)
    encoder, _ = load_encoder(whole["joint"])
    assert torch.equal(encoder(rows), y)
    assert not verify(whole["joint"]).problems
    assert load_card(whole["joint"]).inputs == {"samples": SAMPLES.fingerprint}


def test_the_generator_kept_is_the_average(tmp_path):
    train(tmp_path / "fast", replace(SMALL, ema_decay=0.0))
    train(tmp_path / "slow", replace(SMALL, ema_decay=0.9999))
    assert hash_file(tmp_path / "fast/generator.safetensors") != hash_file(tmp_path / "slow/generator.safetensors")
    state = torch.load(tmp_path / "fast/last.ckpt", weights_only=True)["state"]
    kept = load_diffaug(tmp_path / "fast").generator.state_dict()
    assert all(torch.equal(v, state["generator"][k]) for k, v in kept.items())


def test_curves_say_what_the_views_were(whole):
    rows = [{k: float(v) for k, v in row.items()} for row in read_rows(whole["joint"] / "metrics.csv")]
    assert [r["step"] for r in rows] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 21]
    assert all("generator_loss" not in r for r in rows if r["step"] <= 2)
    assert all("loss" not in r for r in rows if 6 <= r["step"] <= 8)
    late = [r for r in rows if r["step"] > 10]
    assert all(r["alpha"] == 0.5 and 0 <= r["saturated"] <= 1 and r["bank_age"] < 2 for r in late)
    assert 0.3 < sum(r["generated"] for r in late) / len(late) < 0.7
    assert all(r["stage"] == 2 for r in late)


PLACES = [("diffaug", 2), ("diffaug", 6), ("generated views", 24), ("diffaug", 11), ("diffaug", 17), ("diffaug", 21)]


@pytest.mark.parametrize("schedule", ["joint", "em"])
@pytest.mark.parametrize("place", PLACES, ids=[f"{stage} {done}" for stage, done in PLACES])
def test_a_run_that_died_ends_with_the_same_bits(whole, tmp_path, schedule, place):
    settings = replace(SMALL, schedule=schedule)
    with pytest.raises(Killed):
        train(tmp_path, settings, on_progress=killer(*place))
    train(tmp_path, settings)
    assert digests(tmp_path) == digests(whole[schedule])
    assert table(tmp_path) == table(whole[schedule])


def table(run):
    """The curves without the rate, which is measured."""
    with open(run / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if k != "samples_per_second"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("place", [("diffaug", 10), ("generated views", 24)])
def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(whole, tmp_path, place):
    def listen(event):
        if (event.stage, event.done) == place:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStopped, match=r"SIGTERM stopped the run at step \d+ of 21, and a checkpoint was written;"):
        train(tmp_path, on_progress=listen, checkpoint_every=1000)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "last.ckpt").exists()
    train(tmp_path, checkpoint_every=1000)
    assert digests(tmp_path) == digests(whole["joint"])


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_diffaug_training as t
from dataclasses import replace
def die(event):
    if (event.stage, event.done) == ("diffaug", int(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGKILL)
t.train(Path(sys.argv[1]), on_progress=die)
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 7, 13, 20])
def test_kill_9_at_any_stage_ends_with_the_same_bits(whole, tmp_path, step):
    here = os.path.dirname(__file__)
    found = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), str(step), here], check=False)
    assert found.returncode == -signal.SIGKILL
    train(tmp_path)
    assert digests(tmp_path) == digests(whole["joint"])


def test_a_finished_run_is_not_trained_again(whole):
    def fail(event):
        raise AssertionError(event)

    assert train(whole["joint"], on_progress=fail) == load_card(whole["joint"])


def test_other_settings_are_refused_and_overwrite_leaves_nothing_of_the_old_run(tmp_path):
    train(tmp_path)
    with pytest.raises(ArtifactMismatch, match=r"config.method.alpha = 0.5, this run has 0.2"):
        train(tmp_path, replace(SMALL, alpha=0.2))
    train(tmp_path, replace(SMALL, generate=False), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "encoder.json",
        "encoder.safetensors",
        "last.ckpt",
        "metrics.csv",
        "run.json",
    ]
    assert load_diffaug(tmp_path).generator is None


def test_a_seed_decides_everything(whole, tmp_path):
    train(tmp_path / "again", checkpoint_every=7, log_every=5)
    train(tmp_path / "other", seed=1)
    assert digests(tmp_path / "again") == digests(whole["joint"])
    assert digests(tmp_path / "other")[0] != digests(whole["joint"])[0]


def test_a_bank_lives_in_one_file_while_the_run_does(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, on_progress=killer("diffaug", 17))
    assert [p.name for p in tmp_path.glob("bank-*")] == ["bank-00001.safetensors"]
    train(tmp_path)
    assert not list(tmp_path.glob("bank-*"))


def test_a_bank_that_is_gone_is_named(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, on_progress=killer("diffaug", 17))
    (tmp_path / "bank-00001.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"bank-00001.safetensors has digest none.*restore it, or start anew"):
        train(tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, on_progress=killer("diffaug", 5))
    torch.save({"step": 3}, tmp_path / "last.ckpt")
    with pytest.raises(ArtifactMismatch, match="no checkpoint of a DiffAug run"):
        train(tmp_path)


@pytest.mark.parametrize("name", [n for n in ABLATIONS if not n.startswith("alpha")])
def test_every_ablation_trains(tmp_path, name):
    train(tmp_path, ablate(SMALL, name), epochs=3)
    run = load_diffaug(tmp_path)
    assert run.settings == ablate(SMALL, name)
    assert (run.generator is None) == (name in ("B1", "B2"))
    assert all(torch.isfinite(t).all() for t in run.encoder.state_dict().values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 1e20}, "the encoder's loss is no longer finite at step"),
        ({"generator_lr": 1e30}, "the generator's loss is no longer finite at step"),
    ],
)
def test_divergence_names_network_and_remedy(tmp_path, changes, message):
    with pytest.raises(TrainingDiverged, match=message):
        train(tmp_path, replace(SMALL, **changes))


def test_views_that_are_not_finite_never_reach_the_encoder(tmp_path):
    settings = replace(SMALL, generator_lr=1e18, ema_decay=0.0)
    with pytest.raises(TrainingDiverged, match=r"generated views of bank 0 are not finite|generator's loss"):
        train(tmp_path, settings, log_every=1000, checkpoint_every=1000)


def test_weights_that_are_not_finite_are_named():
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias[1] = torch.nan
    with pytest.raises(TrainingDiverged, match="bias of the encoder is no longer finite at step 7, though the loss is"):
        require_finite_weights({"generator": None, "encoder": layer}, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5}, "epochs 5 and steps 5: give one of both"),
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 25}, "a batch of 25 from 24 samples"),
        ({"device": "tpu"}, "device 'tpu' is not known"),
    ],
)
def test_a_course_that_cannot_be_run(tmp_path, options, message):
    with pytest.raises(InvalidOption, match=message):
        train(tmp_path, **options)


def test_a_small_set_is_one_batch(tmp_path):
    card = train_diffaug(SAMPLES, tmp_path, SMALL, epochs=3, log_every=1)
    assert card.config["training"] == {"steps": 3, "batch_size": 24}
