"""Shards on the actors of a Ray cluster: of this machine, or of one that runs already.

An actor is a process with a worker of its own, which loads its models once and writes whole shards. Only shard numbers
travel. All nodes see the working folder of the caller under the same path: a shared disk, where there are several. The
ledger is the only truth: what an actor or a node that dies was working on, another actor does again.
"""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import InvalidOption, MissingDependency, WorkerDied
from semaug.artifacts.network import OFFLINE, SILENT, forbid_telemetry, keep_offline
from semaug.artifacts.shards import Task, TaskWorker, Tick

_POLL = 0.5
"""Seconds between two looks at how far the actors are."""
_OBJECT_STORE = 96 * 2**20
"""Bytes of shared memory; shards never go through it."""
_PASSED_ON = (
    *SILENT, *OFFLINE, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
    "OMP_WAIT_POLICY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE",
    "SEMAUG_CACHE", "SEMAUG_CACHE_GB",
)  # fmt: skip
"""Variables of the environment that say how to run; a secret is never among them."""


class RayEngine:
    """An engine of ``shards.process_shards``: ``workers`` actors, each with ``gpus_per_actor`` of a GPU (0.5: two
    share one).

    Without an ``address`` it starts a cluster of this machine, which ends with ``close``; with one, say `auto` or
    `10.0.0.1:6379`, it joins that cluster, of which this machine must be a node. A shard may take down ``attempts``
    actors before it counts as the cause. A context manager; the cluster is started or joined for the first shard.
    """

    def __init__(
        self, workers: int = 1, address: str | None = None, gpus_per_actor: float = 0.0, attempts: int = 3
    ) -> None:
        """Raises ``InvalidOption`` for numbers that make no sense, ``MissingDependency`` without Ray."""
        if workers < 1 or attempts < 1:
            raise InvalidOption(f"{workers} workers and {attempts} attempts; give at least 1 of each")
        if not 0 <= gpus_per_actor < math.inf or (gpus_per_actor > 1 and gpus_per_actor % 1):
            raise InvalidOption(f"gpus_per_actor is {gpus_per_actor}; give a share from 0 to 1, or a whole number")
        if find_spec("ray") is None:
            raise MissingDependency("the engine ray needs ray; pip install 'semaug-artifacts[ray]'")
        self._workers, self._address, self._gpus, self._attempts = workers, address, gpus_per_actor, attempts
        self._folder: Path | None = None
        self._joined = False

    def run(self, worker: TaskWorker, tasks: Sequence[Task], tick: Tick, what: str) -> None:
        """Call a copy of ``worker`` on every task, with as many actors as the cluster has room for.

        Raises ``InvalidOption`` where no node has room for one, ``WorkerDied`` for a shard that takes its actors down,
        and what the work raises.
        """
        if not tasks:
            return
        self.start()
        _check_room(self._gpus)
        crew = _Crew(_Starter(worker, self._cpus(), self._gpus), tasks, tick, self._attempts, what)
        try:
            crew.work(min(self._workers, len(tasks)))
        finally:
            crew.dismiss()

    def _cpus(self) -> int:
        """Cores of one actor: its share of this machine, or one of a cluster that others use too."""
        return 1 if self._address else max(1, (os.cpu_count() or 1) // self._workers)

    def start(self) -> None:
        """Start or join the cluster now; ``run`` does it where it was not done, and keeps to one that Ray is part of.

        Raises ``InvalidOption`` where there is none.
        """
        _prepare_environment(alone=self._address is None)
        try:
            _require_listener(self._address)
            if not _ray().is_initialized():
                self._init()
                self._joined = True
        except Exception as error:  # Ray raises bare ones too, as where it does not start within half a minute
            raise InvalidOption(
                f"no Ray cluster can be used at {self._address or 'this machine'}: {_line(error)}; "
                "give the --ray-address of one that this machine is a node of, or none"
            ) from error

    def _init(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
        if self._address is None:
            # of a short name, since the paths of its sockets may have 107 characters
            self._folder = Path(tempfile.mkdtemp(prefix="sr"))
            options |= {
                "num_cpus": max(os.cpu_count() or 1, self._workers), "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE, "_node_ip_address": "127.0.0.1", "_temp_dir": str(self._folder),
            }  # fmt: skip
        with _own_signals():
            _ray().init(self._address or "local", **options)

    def close(self) -> None:
        """Leave the cluster; end it where it is this engine's own."""
        if self._joined:
            _ray().shutdown()
            self._joined = False
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _prepare_environment(alone: bool) -> None:
    """What Ray reads once, when it is imported: quiet, no telemetry; and nobody else gets into a cluster of its own."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    if "ray" in sys.modules:
        return
    forbid_telemetry()
    wanted = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` it would copy the folder and resolve it on each node
    }
    if alone:
        wanted |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on the loopback alone
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # otherwise one is left in the home folder
        }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _ray() -> Any:
    import ray

    return ray


def _require_listener(address: str | None) -> None:
    """Raise ``OSError`` where nobody answers: Ray would go on trying for ten minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or "")
    if found is not None:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM, where it may (in the main thread); the caller's stays."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_room(gpus: float) -> None:
    """Raise ``InvalidOption`` where no node has the GPUs that an actor asks for: it would wait for ever."""
    nodes = [node["Resources"].get("GPU", 0) for node in _ray().nodes() if node["Alive"]]
    if gpus > max(nodes, default=0):
        raise InvalidOption(
            f"an actor asks for {gpus:g} GPU and the cluster's largest node has {max(nodes, default=0):g}; "
            "give another --gpus-per-actor, or --device cpu"
        )


class _Actor:
    """A process of the cluster. ``done`` answers while ``run`` works, since they run in threads of their own."""

    def __init__(self, folder: str, environment: dict[str, str], path: list[str], worker: bytes) -> None:
        from ray import cloudpickle

        os.environ.update(environment)
        keep_offline()
        os.chdir(folder)
        sys.path += [entry for entry in path if entry not in sys.path]
        self._worker: TaskWorker = cloudpickle.loads(worker)
        self._shard, self._done = -1, 0

    def run(self, task: Task) -> int:
        """Do one shard; returns how many items it ticked."""
        self._done, self._shard = 0, task[0]
        self._worker(task, self._tick)
        return self._done

    def _tick(self, count: int) -> None:
        self._done += count

    def done(self, shard: int) -> int:
        """Items of ``shard`` that are done."""
        return self._done if self._shard == shard else 0


class _Starter:
    """Starts actors, anywhere in the cluster."""

    def __init__(self, worker: TaskWorker, cpus: int, gpus: float) -> None:
        ray = _ray()
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._arguments = (os.getcwd(), environment, sys.path, ray.cloudpickle.dumps(worker))
        remote: Any = ray.remote(concurrency_groups={"look": 1})(_Actor)
        self._actor = remote.options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD", max_restarts=0)

    def __call__(self) -> Any:
        return self._actor.remote(*self._arguments)


@dataclass(slots=True)
class _Job:
    """What an actor was asked for: a shard, how often it was tried before and how many items were counted so far; or,
    without a task, whether it is there, since a cluster without room starts it later or never."""

    actor: Any
    task: Task | None = None
    tried: int = 0
    counted: int = 0

    @property
    def shard(self) -> int:
        """The shard's number; -1 without one."""
        return -1 if self.task is None else self.task[0]


class _Crew:
    """Actors at work on shards; a shard whose actor dies goes to another one."""

    def __init__(self, start: _Starter, tasks: Sequence[Task], tick: Tick, attempts: int, what: str) -> None:
        self._start, self._tick, self._attempts, self._what = start, tick, attempts, what
        self._waiting = deque((task, 0) for task in tasks)
        self._jobs: dict[Any, _Job] = {}
        self._actors: list[Any] = []
        self._lost_at_start = 0

    def work(self, actors: int) -> None:
        """Do all shards with so many actors, as far as there is room for them."""
        ray = _ray()
        for _ in range(actors):
            self._hire()
        while self._waiting or any(job.task for job in self._jobs.values()):
            finished, _ = ray.wait(list(self._jobs), timeout=_POLL)
            for call in finished:
                self._settle(call, self._jobs.pop(call))
            if not finished:
                self._look()

    def _hire(self) -> None:
        actor = self._start()
        self._actors.append(actor)
        self._jobs[actor.done.remote(0)] = _Job(actor)

    def _give(self, actor: Any) -> None:
        """Hand the next shard, if there is one left, to an actor that is there."""
        if self._waiting:
            task, tried = self._waiting.popleft()
            self._jobs[actor.run.remote(task)] = _Job(actor, task, tried)

    def _settle(self, call: Any, job: _Job) -> None:
        from ray.exceptions import RayError, RayTaskError

        try:
            self._count(job, _ray().get(call))
        except RayTaskError as error:
            raise error.cause or error from None
        except RayError as error:  # the actor is gone, or cannot be reached
            self._replace(job, error)
        else:
            self._give(job.actor)

    def _replace(self, job: _Job, error: Exception) -> None:
        self._count(job, 0)
        _ray().kill(job.actor)
        self._actors.remove(job.actor)
        if job.task is None:
            self._lost_at_start += 1
            given_up = self._lost_at_start >= self._attempts
            if getattr(error, "actor_init_failed", False) or (given_up and not self._jobs):
                raise WorkerDied(f"Ray cannot start its actors for {self._what}: {_line(error)}") from error
            if given_up:
                return  # the others do the work
            time.sleep(_POLL)  # a node that died is known to be dead a moment later
        elif job.tried + 1 >= self._attempts:
            raise WorkerDied(
                f"shard {job.shard} of {self._what} took down {job.tried + 1} Ray actors (the last: {_line(error)}); "
                "mend it, or give fewer --workers, and run the same command again: it resumes"
            ) from error
        else:
            self._waiting.appendleft((job.task, job.tried + 1))
        self._hire()

    def _look(self) -> None:
        """Ask the actors how far they are; one that dies gives no answer."""
        ray = _ray()
        asked = {
            job.actor.done.options(concurrency_group="look").remote(job.shard): job
            for job in self._jobs.values()
            if job.task is not None
        }
        if not asked:
            return
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_POLL)
        for call in answered:
            try:
                self._count(asked[call], ray.get(call))
            except ray.exceptions.RayError:
                continue

    def _count(self, job: _Job, done: int) -> None:
        if done != job.counted:
            self._tick(done - job.counted)
            job.counted = done

    def dismiss(self) -> None:
        """End all actors, whatever they are doing."""
        for actor in self._actors:
            _ray().kill(actor)
        self._actors.clear()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
