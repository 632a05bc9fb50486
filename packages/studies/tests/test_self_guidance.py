"""Runs guided by their own encoder, from the plan to the weights: stopped anywhere, with workers, on two processes."""

from __future__ import annotations

import csv
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import open_source
from semaug.artifacts.verify import verify
from semaug.oracles.self_localisation import SelfLocaliser
from semaug.pairs_dataset import make_pairs
from semaug.ssl_methods import build_encoder, load_encoder
from semaug.ssl_methods.pretrain import Hardware
from semaug.studies.assemble import SelfOptions, TrainingPlan, train
from semaug.studies.self_guidance import SelfGuidance

SCENES = "scenes:train?items=40"
PLAN = TrainingPlan(
    SCENES, pairs="self", self_options=SelfOptions(warmup=1, every=1), pair_options={"centre_beta": 0.6},
    backbone="small-cnn", size=32, batch_size=8, steps=14, optimizer="adamw", checkpoint_every=4, log_every=1,
)  # fmt: skip
"""Five steps an epoch; refreshes before steps 5 and 10."""
NAMES = ["epoch-0001.zarr", "epoch-0002.zarr"]


class Stop(Exception):
    """The power goes out."""


def run(folder, plan=PLAN, **changes):
    torch.set_num_threads(1)
    return train(plan, folder, **changes)


def guidance(folder):
    return {p.name: Artifact.open(p, "guidance").digest for p in sorted((folder / "guidance").iterdir())}


def losses(folder):
    with open(folder / "metrics.csv") as file:
        return [row["loss"] for row in csv.DictReader(file)]


def stop_when(stage, done):
    def listen(event):
        if (event.stage, event.done) == (stage, done):
            raise Stop

    return listen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    return folder, run(folder)


def test_every_refresh_leaves_its_guidance_in_the_run(undisturbed) -> None:
    folder, card = undisturbed
    assert list(guidance(folder)) == NAMES
    encoders = {Artifact.open(folder / "guidance" / name).manifest.inputs["encoder"] for name in NAMES}
    assert len(encoders) == 2
    assert card.config["refresh"] == {"warmup": 1, "every": 1, "threshold": 0.1}
    assert card.config["pairs"]["pairs"] == "self"
    named = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"]["GuidanceRecord"]
    assert named == {"name": NAMES[1], "epoch": 2, "digest": guidance(folder)[NAMES[1]]}


def test_guidance_is_that_of_the_weights_after_the_step_before_it(tmp_path, undisturbed) -> None:
    with pytest.raises(Stop):  # in the refresh before step 5, whose weights are then the checkpoint's
        run(tmp_path, on_progress=stop_when("self guidance", 40))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    prefix = "method.encoder."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    encoder = load_encoder(undisturbed[0])[0]
    encoder.load_state_dict(weights)
    source = open_source(SCENES)
    found = np.concatenate(SelfLocaliser(encoder).detect([source.read(i) for i in range(len(source))]))
    table = GuidanceTable.open(undisturbed[0] / "guidance" / NAMES[0])
    assert checkpoint["global_step"] == 5
    assert np.array_equal(found, np.concatenate([table.rows[source.key(i)].boxes for i in range(len(source))]))
    assert len(np.unique(found, axis=0)) > 3


def test_the_warm_up_trains_as_standard_pairs_do(tmp_path, undisturbed) -> None:
    standard = replace(PLAN, pairs="standard", self_options=SelfOptions())
    run(tmp_path, standard)
    ours, theirs = losses(undisturbed[0]), losses(tmp_path)
    assert ours[:5] == theirs[:5]
    assert ours[5] != theirs[5]


# Steps 4 and 8 are checkpoints, 5 and 10 begin periods; 40 images are one shard of guidance.
@pytest.mark.parametrize(("stage", "done"), [("pretrain", 3), ("pretrain", 5), ("pretrain", 7), ("pretrain", 11),
                                             ("self guidance", 40)])  # fmt: skip
def test_a_stopped_run_ends_with_the_same_weights_and_guidance(tmp_path, undisturbed, stage, done) -> None:
    with pytest.raises(Stop):
        run(tmp_path, on_progress=stop_when(stage, done))
    torch.rand(3)
    assert run(tmp_path).weights_digest == undisturbed[1].weights_digest
    assert guidance(tmp_path) == guidance(undisturbed[0])
    assert losses(tmp_path) == losses(undisturbed[0])


def test_options_of_self_are_refused_elsewhere_and_left_out_of_other_plans(tmp_path) -> None:
    other = replace(PLAN, pairs="standard")
    with pytest.raises(InvalidOption, match=r"is for pairs .self. and this run has .standard.; give --pairs self"):
        run(tmp_path / "run", other)
    assert "self_options" not in other.describe()
    assert PLAN.describe()["self_options"] == {"warmup": 1, "every": 1, "threshold": 0.1}
    with pytest.raises(InvalidOption, match="a warm-up of 3 epochs is 15 steps and the run has 14"):
        run(tmp_path / "run", replace(PLAN, self_options=SelfOptions(warmup=3)))
    assert not (tmp_path / "run").exists()


def test_an_encoder_without_spatial_maps_is_refused() -> None:
    encoder = build_encoder("small-cnn", input_size=32)
    encoder.backbone = torch.nn.Flatten()
    pairs = make_pairs("self", open_source(SCENES), size=32)
    with pytest.raises(InvalidOption, match="has no spatial maps"):
        SelfGuidance(pairs).check(encoder)


@pytest.mark.slow
def test_workers_do_not_change_weights_or_guidance(tmp_path, undisturbed) -> None:
    with pytest.raises(Stop):
        run(tmp_path, hardware=Hardware(workers=2), on_progress=stop_when("pretrain", 12))
    assert run(tmp_path, hardware=Hardware(workers=2)).weights_digest == undisturbed[1].weights_digest
    assert guidance(tmp_path) == guidance(undisturbed[0])


def pause(event):
    time.sleep(0.02)


def killed(folder, after, delay, workers):
    """Run in a process of its own and kill it ``delay`` seconds after the file ``after`` is there."""
    changes = {"on_progress": pause, "hardware": Hardware(workers=workers)}
    process = multiprocessing.get_context("spawn").Process(target=run, args=(folder,), kwargs=changes)
    process.start()
    while not (folder / after).exists() and process.is_alive():
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL and not (folder / "encoder.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_kills_at_random_moments_and_within_refreshes_leave_the_undisturbed_run(tmp_path, undisturbed, workers) -> None:
    moments, hits = random.Random(workers), 0
    for k in range(3):
        folder = tmp_path / f"killed{k}"
        after = ("run.json", f"guidance/{NAMES[0]}", f"guidance/{NAMES[1]}")[k % 3]
        hits += killed(folder, after, moments.uniform(0, 0.1), workers)
        run(folder)
        assert verify(folder).digest == verify(undisturbed[0]).digest
        assert guidance(folder) == guidance(undisturbed[0])
    assert hits >= 2


SCRIPT = """
import os, signal, sys, torch
from dataclasses import replace
from semaug.ssl_methods.pretrain import Hardware
from semaug.studies.assemble import SelfOptions, TrainingPlan, train
torch.set_num_threads(1)
plan = TrainingPlan({scenes!r}, pairs="self", self_options=SelfOptions(1, 1), backbone="small-cnn", size=32,
                    batch_size=8, steps=14, optimizer="adamw", checkpoint_every=4, log_every=1)
stage, done = sys.argv[2], int(sys.argv[3])
def listen(event):
    if (event.stage, event.done) == (stage, done):
        os.kill(os.getpid(), signal.SIGKILL)
train(plan, sys.argv[1], hardware=Hardware(devices=2), on_progress=listen)
"""


@pytest.mark.slow
def test_two_processes_resume_to_the_same_weights_and_guidance(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(scenes="scenes:train?items=40"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]

    def start(name, stage="never", done=0):
        words = [*launch, str(tmp_path / name), stage, str(done)]
        return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)

    whole = start("whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    for stage, done in (("pretrain", 12), ("self guidance", 40)):
        name = f"{stage}{done}"
        assert start(name, stage, done).returncode != 0
        again = start(name)
        assert again.returncode == 0, again.stderr[-2000:]
        assert verify(tmp_path / name).digest == verify(tmp_path / "whole").digest
        assert guidance(tmp_path / name) == guidance(tmp_path / "whole")
    assert list(guidance(tmp_path / "whole")) == NAMES
