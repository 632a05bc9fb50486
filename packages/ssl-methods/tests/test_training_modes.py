"""Accumulation, precisions, spoilt gradients and signals of a run."""

from __future__ import annotations

import os
import signal
import stat

import pytest
import torch
from torch import nn

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.verify import verify
from semaug.ssl_methods import hardware, load_encoder
from semaug.ssl_methods.encoder import Encoder, EncoderSpec
from semaug.ssl_methods.errors import RunStopped, TrainingDiverged
from semaug.ssl_methods.hardware import Hardware
from semaug.ssl_methods.heads import ProjectorSpec, seeded
from semaug.ssl_methods.methods import Method
from semaug.ssl_methods.momentum import follow, momentum_copy
from semaug.ssl_methods.optimizers import OptimizerSettings
from semaug.ssl_methods.pretrain import pretrain
from semaug.ssl_methods.testing import StripedPairs, small_run


class Stop(Exception):
    pass


def stop_at(step):
    def listen(event):
        if event.done == step:
            raise Stop

    return listen


class Flat(nn.Module):
    """A linear map of all pixels: no batch norm, so that a batch may be cut."""

    feature_dim = 8

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3 * 16 * 16, 8)

    def forward(self, images):
        return self.map(images.flatten(1))


class Distil(Method):
    """Views approach a momentum copy's of the other: a mean over rows, without negatives; records what it draws."""

    name = "distil"

    def __init__(self):
        with seeded(0, "flat"):
            spec = EncoderSpec("small-cnn", 16, False, ProjectorSpec(hidden=8, out=4))
            encoder = Encoder(spec, Flat(), nn.Linear(8, 4))
        super().__init__(encoder)
        self.teacher = momentum_copy(encoder)
        self.drawn = []
        self.updates = 0

    def scalars(self, views):
        self.drawn.append(float(torch.rand(())))
        online = self.encoder.project(self.encoder(views[0]))
        target = self.teacher.project(self.teacher(views[1]))
        return {"loss": (online - target).square().sum(1).mean()}

    def after_step(self, step, steps):
        self.updates += 1
        follow(self.teacher, self.encoder, 0.9)


def distil(out, **changes):
    method = Distil()
    settings = {
        "steps": 6, "batch_size": 8, "checkpoint_every": 2, "log_every": 2, "tensorboard": False,
        "optimizer": OptimizerSettings("sgd", lr=0.05), "hardware": Hardware(precision="fp64"),
    }  # fmt: skip
    pretrain(method, StripedPairs(20), out=out, **{**settings, **changes})
    return method


def test_accumulated_parts_make_the_large_batch(tmp_path):
    whole = distil(tmp_path / "whole")
    for parts in (2, 4):
        cut = distil(tmp_path / str(parts), accumulate=parts)
        assert cut.updates == whole.updates == 6  # the teacher follows once a step
        assert len(cut.drawn) == len(set(cut.drawn)) == 6 * parts  # every part has random numbers of its own
        for a, b in zip(cut.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines()[1:] for name in ("whole", "4")]
    losses = [[float(row.split(",")[2]) for row in table] for table in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_an_accumulating_run_resumes_to_the_same_weights(tmp_path):
    whole = small_run(tmp_path / "whole", accumulate=2)
    with pytest.raises(Stop):
        small_run(tmp_path / "stopped", accumulate=2, on_progress=stop_at(11))
    assert small_run(tmp_path / "stopped", accumulate=2).weights_digest == whole.weights_digest
    assert whole.weights_digest != small_run(tmp_path / "plain").weights_digest  # fewer negatives a forward


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match=r"batch of 8 .* from 3 equal parts; give --batch-size a multiple of 3"):
        small_run(tmp_path / "a", accumulate=3)
    with pytest.raises(InvalidOption, match=r"a batch of 1 .* leaves 1 row for batch norm"):
        small_run(tmp_path / "a", accumulate=8)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_other_precisions_resume_to_the_same_weights(tmp_path, precision):
    if precision == "fp16" and not hardware._halves_on_cpu():
        pytest.skip("this torch has no fp16 kernels for the CPU")
    where = Hardware(precision=precision)
    whole = small_run(tmp_path / "whole", steps=9, hardware=where)
    with pytest.raises(Stop):
        small_run(tmp_path / "stopped", steps=9, hardware=where, on_progress=stop_at(5))
    scale = torch.load(tmp_path / "stopped" / "last.ckpt", weights_only=True).get("MixedPrecision", {})
    assert (scale.get("scale", 0) > 0) == (precision == "fp16")
    assert small_run(tmp_path / "stopped", steps=9, hardware=where).weights_digest == whole.weights_digest
    assert next(load_encoder(tmp_path / "whole")[0].parameters()).dtype == torch.float32


def test_fp16_is_refused_where_the_cpu_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "_halves_on_cpu", lambda: False)
    with pytest.raises(InvalidOption, match=r"precision 'fp16' on the cpu: .* take --precision bf16"):
        small_run(tmp_path, hardware=Hardware(precision="fp16"))
    with pytest.raises(InvalidOption, match="precision 'fp8' is not known; choose one of fp32, bf16, fp16, fp64"):
        Hardware(precision="fp8")


class SpoiltGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, loss):
        return loss.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("nan")


class Spoilt(Distil):
    def scalars(self, views):
        found = super().scalars(views)
        return {"loss": SpoiltGradient.apply(found["loss"])} if self.step == 3 else found


def test_a_bad_gradient_under_a_good_loss_never_reaches_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "Distil", Spoilt)
    with pytest.raises(TrainingDiverged, match=r"no longer finite at step 4, though the loss is"):
        distil(tmp_path)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2
    assert all(torch.isfinite(t).all() for t in kept["state_dict"].values())


def signal_at(step, number):
    def listen(event):
        if event.done == step:
            os.kill(os.getpid(), number)

    return listen


def test_a_termination_saves_at_the_step_and_the_rerun_ends_alike(tmp_path):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(RunStopped, match="SIGTERM stopped the run at step 7 of 24") as stopped:
        small_run(tmp_path / "run", on_progress=signal_at(7, signal.SIGTERM))
    assert stopped.value.exit_code == 75
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 7
    small_run(tmp_path / "run")
    small_run(tmp_path / "whole")
    assert verify(tmp_path / "run").digest == verify(tmp_path / "whole").digest


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A program of that name that writes down what it is asked; ``code`` says how it ends."""
    (tmp_path / "bin").mkdir()
    program, heard = tmp_path / "bin" / "scontrol", tmp_path / "heard"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    def place(code=0):
        program.write_text(f'#!/bin/sh\necho "$@" >> {heard}\necho no such job >&2\nexit {code}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return heard

    return place


def test_a_job_of_slurm_is_requeued_by_its_warning_signal(tmp_path, monkeypatch, scontrol):
    heard = scontrol()
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with pytest.raises(RunStopped, match=r"SIGUSR1 stopped the run at step 5 .* and SLURM job 4711 was requeued"):
        small_run(tmp_path / "run", on_progress=signal_at(5, signal.SIGUSR1))
    with pytest.raises(RunStopped, match="SIGTERM stopped the run at step 9"):  # scancel: not back into the queue
        small_run(tmp_path / "run", on_progress=signal_at(9, signal.SIGTERM))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(RunStopped, match="job 12_3 was requeued"):
        small_run(tmp_path / "run", on_progress=signal_at(11, signal.SIGUSR1))
    assert heard.read_text().splitlines() == ["requeue 4711", "requeue 12_3"]
    scontrol(code=1)
    with pytest.raises(RunStopped, match=r"`scontrol requeue 12_3` failed \(no such job\)"):
        small_run(tmp_path / "run", on_progress=signal_at(13, signal.SIGUSR1))


def test_torchrun_says_how_many_processes_there_are(monkeypatch):
    assert Hardware().launched() == Hardware()
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert Hardware().launched() == Hardware(devices=4, nodes=2)
    assert Hardware(devices=8).launched() == Hardware(devices=4, nodes=2)
    with pytest.raises(InvalidOption, match=r"3 devices on 1 nodes were asked for and torchrun started 8"):
        Hardware(devices=3).launched()


def test_deterministic_holds_while_the_run_trains_and_changes_no_weights_of_a_cpu(tmp_path):
    seen = []
    before = torch.are_deterministic_algorithms_enabled()
    plain = small_run(tmp_path / "plain", steps=4)
    listen = {"on_progress": lambda event: seen.append(torch.are_deterministic_algorithms_enabled())}
    strict = small_run(tmp_path / "strict", steps=4, hardware=Hardware(deterministic=True), **listen)
    assert seen
    assert all(seen)
    assert torch.are_deterministic_algorithms_enabled() == before
    assert strict.weights_digest == plain.weights_digest
