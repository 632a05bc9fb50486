"""Runs whose pairs are refreshed: when, from which weights, and bit-equal however they are stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field

import pytest
import torch

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption
from semaug.artifacts.files import write_atomic
from semaug.artifacts.reader import hash_columns
from semaug.ssl_methods.batches import BatchOrder
from semaug.ssl_methods.periods import PeriodLoader, RefreshTimes, evaluating
from semaug.ssl_methods.testing import StripedPairs, small_method, small_run

ORDER = BatchOrder(items=40, batch_size=8, seed=0)


class Stop(Exception):
    """The power goes out."""


@dataclass
class SeedFromWeights:
    """Pairs whose seed is a digest of the encoder's weights, kept in one file a period."""

    times: RefreshTimes = RefreshTimes(warmup=1, every=2)  # noqa: RUF009 (frozen)
    fail_in: str = ""
    written: list = field(default_factory=list)

    def settings(self):
        return {"kind": "seed"}

    def check(self, encoder):
        if encoder.spec.backbone == "mlp":
            raise InvalidOption("no")

    def write(self, encoder, out, ranks):
        assert not any(part.training for part in encoder.modules())
        assert not torch.is_grad_enabled()
        digest = hash_columns({k: v.numpy() for k, v in encoder.state_dict().items()})
        out.mkdir(parents=True, exist_ok=True)
        if out.name == self.fail_in:
            raise Stop
        write_atomic(out / "seed.json", json.dumps(digest).encode())
        self.written.append((out.name, digest))
        return digest

    def pairs(self, guidance):
        digest = json.loads((guidance / "seed.json").read_text())
        return StripedPairs(40, seed=int(digest[:6], 16)), digest


def run(folder, refresh=None, **changes):
    return small_run(folder, refresh=refresh or SeedFromWeights(), **changes)


def stop_at(step):
    def listen(event):
        if event.done == step:
            raise Stop

    return listen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder, refresh = tmp_path_factory.mktemp("run") / "whole", SeedFromWeights()
    return folder, run(folder, refresh), refresh.written


def test_times_are_whole_epochs_and_a_fifth_of_the_run_by_default() -> None:
    assert RefreshTimes(0, 1).steps(ORDER, 12) == (0, 5, 10)
    assert RefreshTimes(2, 3).steps(ORDER, 26) == (10, 25)
    assert RefreshTimes().steps(ORDER, 500) == (100, 200, 300, 400)
    assert RefreshTimes().steps(ORDER, 7) == (5,)
    with pytest.raises(InvalidOption, match="a warm-up of 2 epochs is 10 steps and the run has 10; give more steps"):
        RefreshTimes(2).steps(ORDER, 10)
    with pytest.raises(InvalidOption, match="a refresh every 0"):
        RefreshTimes(1, 0)


def test_refreshes_come_at_their_times_from_changing_weights(undisturbed) -> None:
    folder, card, written = undisturbed
    assert [name for name, _ in written] == ["epoch-0001.zarr", "epoch-0003.zarr"]
    assert written[0][1] != written[1][1]
    assert card.config["refresh"] == {"warmup": 1, "every": 2, "kind": "seed"}
    named = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"]["GuidanceRecord"]
    assert named == {"name": "epoch-0003.zarr", "epoch": 3, "digest": written[1][1]}


def test_a_refresh_sees_the_weights_after_the_step_before_it(tmp_path, undisturbed) -> None:
    with pytest.raises(Stop):  # the checkpoint of step 5, with which the first period ends
        run(tmp_path, SeedFromWeights(fail_in="epoch-0001.zarr"))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 5
    prefix = "method.encoder."
    weights = {k.removeprefix(prefix): v.numpy() for k, v in state["state_dict"].items() if k.startswith(prefix)}
    assert hash_columns(weights) == undisturbed[2][0][1]


def test_the_warm_up_is_that_of_a_run_without_refreshes(tmp_path) -> None:
    losses = []
    for name, refresh in (("with", SeedFromWeights()), ("without", None)):
        small_run(tmp_path / name, refresh=refresh, log_every=1, steps=7)
        rows = (tmp_path / name / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("loss")
        losses.append([row.split(",")[column] for row in rows[1:]])
    assert losses[0][:5] == losses[1][:5]
    assert losses[0][5] != losses[1][5]


# 5 and 15 begin periods, 6 and 16 are their first steps, 3 and 12 are checkpoints in between.
@pytest.mark.parametrize("step", [3, 5, 6, 12, 15, 16, 23])
def test_a_stopped_run_ends_with_the_same_weights_and_guidance(tmp_path, undisturbed, step) -> None:
    with pytest.raises(Stop):
        run(tmp_path, on_progress=stop_at(step))
    torch.rand(3)
    refresh = SeedFromWeights()
    assert run(tmp_path, refresh).weights_digest == undisturbed[1].weights_digest
    assert set(refresh.written) <= set(undisturbed[2])
    names = sorted(p.name for p in (tmp_path / "guidance").iterdir())
    assert names == ["epoch-0001.zarr", "epoch-0003.zarr"]


@pytest.mark.parametrize("name", ["epoch-0001.zarr", "epoch-0003.zarr"])
def test_a_run_stopped_within_a_refresh_goes_on_from_that_step(tmp_path, undisturbed, name) -> None:
    with pytest.raises(Stop):
        run(tmp_path, SeedFromWeights(fail_in=name))
    steps = []
    assert run(tmp_path, on_progress=lambda e: steps.append(e.done)).weights_digest == undisturbed[1].weights_digest
    assert steps[0] == {"epoch-0001.zarr": 6, "epoch-0003.zarr": 16}[name]


def test_workers_do_not_read_past_a_refresh(tmp_path, undisturbed) -> None:
    with pytest.raises(Stop):
        run(tmp_path, on_progress=stop_at(13))
    assert run(tmp_path, workers=2).weights_digest == undisturbed[1].weights_digest


def test_guidance_that_is_gone_or_changed_is_refused(tmp_path) -> None:
    with pytest.raises(Stop):
        run(tmp_path, on_progress=stop_at(9))
    kept = tmp_path / "guidance" / "epoch-0001.zarr"
    (kept / "seed.json").write_text('"ffffffff"')
    with pytest.raises(ArtifactError, match=r"has digest ffffffff, the checkpoint names .*restore it"):
        run(tmp_path)
    shutil.rmtree(kept)
    with pytest.raises(ArtifactError, match="is gone and the checkpoint reads it; restore it"):
        run(tmp_path)


def test_other_times_are_another_run_and_overwriting_clears_the_guidance(tmp_path, undisturbed) -> None:
    run(tmp_path)
    other = SeedFromWeights(RefreshTimes(1, 3))
    with pytest.raises(ArtifactMismatch, match=r"refresh\.every = 2, this run has 3"):
        run(tmp_path, other)
    run(tmp_path, other, overwrite=True)
    assert sorted(p.name for p in (tmp_path / "guidance").iterdir()) == ["epoch-0001.zarr", "epoch-0004.zarr"]


def test_an_unfit_encoder_or_too_short_a_run_leaves_nothing_behind(tmp_path) -> None:
    with pytest.raises(InvalidOption, match="a warm-up of 9 epochs is 45 steps and the run has 24"):
        run(tmp_path / "run", SeedFromWeights(RefreshTimes(9)))
    assert not (tmp_path / "run").exists()


def test_parts_go_back_into_the_mode_they_were_in() -> None:
    encoder = small_method().encoder
    encoder.backbone[1].eval()
    before = [m.training for m in encoder.modules()]
    with evaluating(encoder):
        assert not any(m.training for m in encoder.modules())
    assert [m.training for m in encoder.modules()] == before


def test_a_periods_loader_is_made_when_its_first_batch_is_asked_for() -> None:
    made = []

    def load(start, stop):
        made.append(start)
        return range(start, stop)

    loader = PeriodLoader([(0, 2), (2, 3)], load)
    batches = iter(loader)
    assert (len(loader), made) == (3, [])
    assert (next(batches), next(batches), made) == (0, 1, [0])
    assert (list(batches), made) == ([2], [0, 2])
