"""The simulation behind the plan for millions of images: closed forms, what it conserves, and the plan's tables."""

from __future__ import annotations

import importlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.shards import LocalPool, ShardResult, Tick, process_shards
from semaug.artifacts.store import ArtifactWriter

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        return importlib.import_module("scale_simulation")


def test_one_actor_takes_the_sum_of_all(simulation):
    shards = [simulation.Shard(3.0, read_requests=4, read_bytes=100, write_requests=2, write_bytes=50)] * 10
    store = simulation.Store(bandwidth=50, requests=2)
    found = simulation.simulate(shards, simulation.Actors(1, load=7), store)
    assert found.seconds == pytest.approx(7 + 10 * (3 + 4 / 2 + 100 / 50 + 2 / 2 + 50 / 50))
    assert (found.requests, found.read_bytes, found.written_bytes) == (60, 1000, 500)
    assert found.done == list(range(10))


def test_without_a_store_actors_take_their_turns(simulation):
    found = simulation.simulate([simulation.Shard(2.0)] * 11, simulation.Actors(4, load=1))
    assert found.seconds == pytest.approx(1 + math.ceil(11 / 4) * 2)


@pytest.mark.parametrize("actors", [8, 64])
def test_a_saturated_store_gives_bytes_over_bandwidth_and_requests_over_rate(simulation, actors):
    by_bytes = simulation.simulate(
        [simulation.Shard(0.01, read_bytes=1e6)] * 640, simulation.Actors(actors), simulation.Store(bandwidth=1e6)
    )
    assert by_bytes.seconds == pytest.approx(640, rel=0.01)
    by_requests = simulation.simulate(
        [simulation.Shard(0.01, read_requests=50)] * 640, simulation.Actors(actors), simulation.Store(requests=100)
    )
    assert by_requests.seconds == pytest.approx(640 * 50 / 100, rel=0.01)


def test_an_actors_own_limit_holds_where_the_store_has_more(simulation):
    store = simulation.Store(bandwidth=100, actor_bandwidth=10)
    assert simulation.simulate([simulation.Shard(0, read_bytes=50)] * 4, simulation.Actors(4), store).seconds == 5
    # Twenty want ten each and share a hundred.
    assert simulation.simulate([simulation.Shard(0, read_bytes=50)] * 20, simulation.Actors(20), store).seconds == 10


def test_a_straggler_holds_up_the_end_by_at_most_its_own_shard(simulation):
    even = simulation.simulate([simulation.Shard(1.0)] * 400, simulation.Actors(10)).seconds
    slow = simulation.simulate([simulation.Shard(1.0)] * 400, simulation.Actors(10, slow=0.1, slowness=5)).seconds
    assert even == pytest.approx(40)
    assert 400 / 9.2 <= slow <= 400 / 9.2 + 5


def test_failures_cost_what_an_exponential_lifetime_costs_and_every_shard_is_done_once(simulation):
    work, lifetime, shards = 10.0, 40.0, 4000
    actors = simulation.Actors(16, lifetime=lifetime, attempts=100)
    found = simulation.simulate([simulation.Shard(work)] * shards, actors, seed=1)
    assert sorted(found.done) == list(range(shards))
    assert found.compute == pytest.approx(work * shards)
    # The mean time of a task that starts anew at each failure: (exp(work / lifetime) - 1) * lifetime.
    expected = (math.exp(work / lifetime) - 1) * lifetime * shards
    assert found.compute + found.wasted == pytest.approx(expected, rel=0.03)
    assert found.failures == pytest.approx((math.exp(work / lifetime) - 1) * shards, rel=0.08)


def test_a_shard_that_always_fails_is_given_up(simulation):
    found = simulation.simulate([simulation.Shard(1e9)] * 3, simulation.Actors(2, lifetime=1.0))
    assert found.given_up is not None
    assert (found.done, found.failures >= 3) == ([], True)


SHARDS = st.tuples(*[st.floats(0, 20).map(lambda x: round(x, 3)) for _ in range(5)])
STORES = st.tuples(*[st.one_of(st.just(math.inf), st.floats(0.5, 50).map(lambda x: round(x, 2))) for _ in range(4)])


@settings(max_examples=150, deadline=None)
@given(st.lists(SHARDS, min_size=1, max_size=25), st.integers(1, 8), STORES, st.floats(0, 5))
def test_work_is_conserved_and_bounds_hold(simulation, rows, count, limits, load):
    shards, store = [simulation.Shard(*row) for row in rows], simulation.Store(*limits)
    found = simulation.simulate(shards, simulation.Actors(count, load=load), store)
    assert sorted(found.done) == list(range(len(shards)))
    assert found.compute == pytest.approx(sum(s.compute for s in shards))
    moved = sum(s.read_bytes + s.write_bytes for s in shards)
    asked = sum(s.read_requests + s.write_requests for s in shards)
    assert found.read_bytes + found.written_bytes == pytest.approx(moved)
    assert found.requests == pytest.approx(asked)
    least = max(
        load + found.compute / count, load + max(s.compute for s in shards), moved / store.bandwidth,
        asked / store.requests,
    )  # fmt: skip
    alone = simulation.simulate(shards, simulation.Actors(1, load=load), store).seconds
    assert least * (1 - 1e-9) <= found.seconds <= alone * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=25), st.integers(1, 8))
def test_more_devices_are_never_slower(simulation, seconds, count):
    shards = [simulation.Shard(s) for s in seconds]
    fewer, more = (simulation.simulate(shards, simulation.Actors(n)).seconds for n in (count, count + 1))
    assert more <= fewer * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(SHARDS, st.integers(1, 40), st.integers(1, 8), STORES)
def test_more_devices_are_never_slower_at_a_store_but_for_the_last_shards(simulation, row, items, count, limits):
    shards, store = [simulation.Shard(*row)] * items, simulation.Store(*limits)
    fewer, more = (simulation.simulate(shards, simulation.Actors(n), store).seconds for n in (count, count + 1))
    alone = simulation.simulate(shards[:1], simulation.Actors(1), store).seconds
    assert more <= fewer + alone + 1e-6  # how the ends of transfers fall may cost part of a shard


@pytest.fixture(scope="module")
def plan() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        return importlib.import_module("scale_plan")


def test_the_plan_names_every_input_it_uses_and_where_it_is_from(plan):
    kinds = {plan.MEASURED, plan.PRINTED, plan.ASSUMED}
    assert all(i.kind in kinds and i.value > 0 and i.source for i in plan.INPUTS.values())
    text = (ROOT / "tools" / "scale_plan.py").read_text()
    unused = [n for n in plan.INPUTS if not any(f'{call}("{n}")' in text for call in ("value", "v"))]
    assert unused == ["subset", "load cpu", "load gpu"]  # the first is part of two others, these are named by stages
    assert all(stage.load in plan.INPUTS for stage in plan.stages())


def test_stages_come_to_their_closed_forms(plan):
    by_name = {stage.name: stage for stage in plan.stages()}
    images = plan.SIZES["1.28M"]
    slow = plan.estimate(by_name["generate"], images, 1)
    assert slow.seconds == pytest.approx(images * plan.value("generate"), rel=0.06)  # and deaths, loading, reading
    assert slow.limit == "devices"
    many = plan.estimate(by_name["materialize"], images, 4096, size=64)
    moved = images * (plan.value("image") + plan.value("crop bytes"))
    asked = many.outcome.requests / plan.value("requests")
    assert many.outcome.seconds >= max(moved / plan.value("store"), asked)
    assert many.limit in ("requests", "driver", "bandwidth")
    assert len(many.outcome.done) == plan.shards_of(images, 64)
    listed = plan.estimate(by_name["index files"], images, 64)
    assert listed.driver == pytest.approx(images * plan.value("file"), rel=0.02)  # before any actor starts
    assert listed.limit == "driver"


def test_more_gpus_train_no_slower_and_the_store_has_the_last_word(plan):
    runs = [plan.pretraining(plan.SIZES["1.28M"], gpus, cached=False) for gpus in (1, 8, 64, 512, 4096)]
    rates = [run.rate for run in runs]
    assert rates == sorted(rates)
    assert runs[-1].limit == "store"
    assert runs[-1].rate == pytest.approx(plan.value("store") / plan.value("image"))
    assert runs[0].rate == plan.value("train")


def test_the_documented_tables_are_those_of_the_tool(plan):
    page = (ROOT / "docs" / "guide" / "scale.md").read_text()
    for part in (plan.inputs_table(), plan.artifacts_table(), plan.pretraining_table()):
        assert part in page
    first = plan.stages_table("1.28M", (8,)).splitlines()
    lines = page.partition("| 100M images |")[0].splitlines()
    documented = {line.split(" | ")[0]: line.split(" | ")[3] for line in lines if line.count(" | ") == 5}
    for line in first[2:]:
        name, _, cell = line.strip("| ").split(" | ")
        assert documented[f"| {name}"] == cell


@dataclass(frozen=True)
class Sleep:
    """Work that takes a device and no processor: ``seconds`` a shard. All workers begin when ``workers`` are there."""

    folder: str
    seconds: tuple[float, ...]
    workers: int

    def open(self) -> Sleep:
        Path(self.folder, f"here-{os.getpid()}").touch()
        while len(list(Path(self.folder).glob("here-*"))) < self.workers:
            time.sleep(0.005)
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        began = time.time()
        time.sleep(self.seconds[indices.start])
        Path(self.folder, f"shard-{indices.start}").write_text(str(began))
        tick(1)
        return ShardResult(pack_strings("key", [str(i) for i in indices]))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_simulation_foretells_a_run_of_the_local_pool(simulation, tmp_path, workers):
    seconds = tuple(0.2 + 0.3 * (i % 4) for i in range(14))
    manifest = Manifest(kind="features", items=len(seconds), shard_size=1, config={}, inputs={})
    with ArtifactWriter.open(tmp_path / "a.zarr", manifest) as writer:
        process_shards(writer, Sleep(str(tmp_path), seconds, workers), stage="sleep", workers=LocalPool(workers))
        writer.finish()
    began = [float((tmp_path / f"shard-{i}").read_text()) for i in range(len(seconds))]
    ended = [(tmp_path / "a.zarr" / "ledger" / f"{i:06d}.json").stat().st_mtime for i in range(len(seconds))]
    shards = [simulation.Shard(b - a) for a, b in zip(began, ended, strict=True)]  # asleep, then written
    assert all(shard.compute > asleep for shard, asleep in zip(shards, seconds, strict=True))
    took, foretold = max(ended) - min(began), simulation.simulate(shards, simulation.Actors(workers)).seconds
    print(f"{workers} workers: {took:.2f} s, simulated {foretold:.2f} s")
    assert 0.98 * foretold - 0.1 <= took <= 1.1 * foretold + 0.5
