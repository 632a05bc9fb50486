"""Shards on Ray actors: the bytes of the local pool, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption, WorkerDied
from semaug.artifacts.progress import Progress
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.store import ArtifactWriter

if find_spec("ray") is None:
    pytest.skip("ray is not installed", allow_module_level=True)

from semaug.artifacts.ray_engine import RayEngine


@dataclass(frozen=True)
class Work:
    """Numbers of each item; leaves a line in ``log`` for each model that is opened and each shard that is begun.

    ``deadly`` shards kill their process: once, or always. ``failing`` shards raise.
    """

    log: Path
    deadly: tuple[int, ...] = ()
    always: bool = False
    failing: tuple[int, ...] = ()
    seconds: float = 0.0

    def open(self) -> Work:
        self._note(f"open {os.getpid()}")
        return self

    def run(self, indices: range, tick: Tick) -> ShardResult:
        shard = indices.start // 3
        self._note(f"run {shard} {os.getpid()}")
        tick(1)
        time.sleep(self.seconds)
        if shard in self.failing:
            raise InvalidOption(f"shard {shard} is not to be had")
        if shard in self.deadly and (self.always or self.lines().count(f"run {shard}") == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        tick(len(indices) - 1)
        numbers = np.random.default_rng(shard).random((len(indices), 4)).astype(np.float32)
        return ShardResult({**pack_strings("key", [f"item{i}" for i in indices]), "numbers": numbers})

    def _note(self, line: str) -> None:
        with open(self.log, "a") as file:
            file.write(line + "\n")

    def lines(self) -> list[str]:
        """The log without the processes."""
        return [line.rsplit(" ", 1)[0] for line in self.log.read_text().splitlines()]


def process(path: Path, work: Work, workers: Workers, shards: int = 5) -> list[Progress]:
    """Run ``work`` into the artifact at ``path``; returns the progress that was told."""
    manifest = Manifest(kind="features", items=3 * shards - 1, shard_size=3, config={}, inputs={})
    events: list[Progress] = []
    with ArtifactWriter.open(path, manifest) as writer:
        process_shards(writer, work, stage="work", workers=workers, on_progress=events.append)
        writer.finish()
    return events


@pytest.fixture(scope="module")
def engine():
    with RayEngine(workers=2) as found:
        yield found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("local")
    process(folder / "a.zarr", Work(folder / "log"), 2)
    return Artifact.open(folder / "a.zarr").digest


def test_a_cluster_that_is_not_there_is_one_line_at_once():
    with pytest.raises(InvalidOption, match=r"no Ray cluster can be used at 127\.0\.0\.1:1: .*refused.*--ray-address"):
        RayEngine(address="127.0.0.1:1").start()


def test_actors_write_the_local_pools_bytes_and_load_once_each_though_one_is_killed(
    engine, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    work = Work(Path("log"), deadly=(1,), seconds=0.7)  # a relative path is meant from the caller's folder
    events = process(Path("a.zarr"), work, engine)
    assert Artifact.open("a.zarr").digest == expected
    assert work.lines().count("open") <= 3
    assert [work.lines().count(f"run {i}") for i in range(5)] == [1, 2, 1, 1, 1]
    assert [events[0].done, events[-1].done, events[-1].total] == [0, 14, 14]
    assert any(event.done % 3 for event in events[:-1])  # a shard's items are told before it is done
    assert any(b.done < a.done for a, b in pairwise(events))  # and taken back when they are lost
    process(Path("a.zarr"), work, engine)  # all is done: nothing is opened
    assert len(work.lines()) <= 3 + 6


def test_what_the_work_raises_is_raised_here_at_once(engine, tmp_path):
    work = Work(tmp_path / "log", failing=(0, 1))
    with pytest.raises(InvalidOption, match=r"^shard [01] is not to be had$"):
        process(tmp_path / "a.zarr", work, engine)
    assert work.lines().count("run 1") <= 1


def test_nobody_else_gets_in_nothing_is_sent_and_what_has_no_room_is_refused(engine, tmp_path):
    engine.start()
    import ray

    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    with pytest.raises(InvalidOption, match=r"asks for 64 GPU and the cluster's largest node has"):
        process(tmp_path / "b.zarr", Work(tmp_path / "log"), RayEngine(gpus_per_actor=64))
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("options", [{"workers": 0}, {"attempts": 0}, {"gpus_per_actor": -1}, {"gpus_per_actor": 1.5}])
def test_numbers_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidOption, match="give"):
        RayEngine(**options)


@pytest.mark.slow
def test_a_shard_that_kills_every_actor_is_given_up_and_the_rerun_resumes(engine, expected, tmp_path):
    work = Work(tmp_path / "log", deadly=(2,), always=True)
    with pytest.raises(WorkerDied, match=r"^shard 2 of .*a\.zarr took down 3 Ray actors .* it resumes$"):
        process(tmp_path / "a.zarr", work, engine)
    assert work.lines().count("run 2") == 3
    process(tmp_path / "a.zarr", Work(tmp_path / "log"), engine)
    assert Artifact.open(tmp_path / "a.zarr").digest == expected


@pytest.mark.slow
def test_more_actors_than_there_is_room_for_are_fewer(engine, expected, tmp_path):
    engine.start()
    process(tmp_path / "a.zarr", Work(tmp_path / "log"), RayEngine(workers=5))
    assert Artifact.open(tmp_path / "a.zarr").digest == expected


def run_script(text: str, *words: object) -> subprocess.Popen[str]:
    """A process of its own at the root of the repository, where this module can be imported from."""
    root = next(p for p in Path(__file__).parents if (p / "uv.lock").exists() or (p / "packages").is_dir())
    lines = "from packages.artifacts.tests.test_ray_engine import *\n" + textwrap.dedent(text)
    command = [sys.executable, "-c", lines, *map(str, words)]
    environment = {**os.environ, "HOME": str(words[0])}  # where Ray may leave a token
    return subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_the_shards_of_a_node_that_dies_are_done_by_the_other(expected, tmp_path):
    """Two nodes of one place each on this machine; the second is taken away while it works on its first shard."""
    found = run_script(
        """
        import threading
        from ray.cluster_utils import Cluster

        folder = Path(sys.argv[1])
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        second = cluster.add_node(num_cpus=1)
        work = Work(folder / "log", seconds=1.5)

        def take_away() -> None:
            while not (folder / "log").exists() or work.lines().count("open") < 2:
                time.sleep(0.05)
            cluster.remove_node(second, allow_graceful=False)

        threading.Thread(target=take_away).start()
        with RayEngine(workers=2, address=cluster.address) as engine:
            process(folder / "a.zarr", work, engine)
        cluster.shutdown()
        """,
        tmp_path,
    )
    _, errors = found.communicate(timeout=200)
    assert found.returncode == 0, errors[-3000:]
    assert Artifact.open(tmp_path / "a.zarr").digest == expected
    lines = Work(tmp_path / "log").lines()
    assert lines.count("open") == 2  # the cluster has no room for a third
    assert sum(line.startswith("run") for line in lines) == 6  # five shards, one of them twice


@pytest.mark.slow
def test_a_killed_caller_takes_its_cluster_along_and_the_rerun_finishes(engine, expected, tmp_path):
    caller = run_script(
        """
        with RayEngine(workers=2) as engine:
            process(Path(sys.argv[1]) / "a.zarr", Work(Path(sys.argv[1]) / "log", seconds=1.0), engine)
        """,
        tmp_path,
    )
    while not list(tmp_path.glob("a.zarr/ledger/*.json")):
        assert caller.poll() is None
        time.sleep(0.02)
    caller.kill()
    caller.communicate()
    workers = {int(line.rsplit(" ", 1)[1]) for line in (tmp_path / "log").read_text().splitlines()}
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    process(tmp_path / "a.zarr", Work(tmp_path / "log"), engine)
    assert Artifact.open(tmp_path / "a.zarr").digest == expected
    assert not list(tmp_path.rglob("*.partial"))
