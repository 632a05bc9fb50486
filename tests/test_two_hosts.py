"""``semaug pretrain`` under torchrun: two processes, and two hosts with a network between them.

A host is a Linux network namespace with a host name of its own; a pair of virtual cards joins the two. Runs are in
float64, so that two processes can be held against one with the whole batch to nine digits, batch norm included.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from semaug.artifacts.verify import verify
from semaug.ssl_methods.batches import BatchOrder

ITEMS, BATCH, STEPS, SHARD = 24, 8, 7, 5
RECORDER = """
import os, sys
from semaug.artifacts.sources import packed
log = open(os.path.join(sys.argv[1], "reads-" + os.environ.get("RANK", "alone")), "a", buffering=1)
def noting(name):
    original = getattr(packed.PackedSource, name)
    def method(self, index):
        found = original(self, index)
        if found is not None:  # a pack of pixels has no encoded images
            log.write(" ".join(map(str, (index, *self._locate(index)))) + "\\n")
        return found
    setattr(packed.PackedSource, name, method)
noting("read")
noting("encoded")
sys.argv = ["semaug", *sys.argv[2:]]
from semaug.cli.main import main
main()
"""
"""The command line, with a line in ``reads-RANK`` for every image that is read off the store."""
METHODS = {
    "simclr": ("simclr",),  # everyone's outputs are candidates, with gradients
    "moco": ("moco-v2", "--queue", "8", "--momentum", "0.9"),  # a momentum encoder, shuffled batch norm, a queue
    "byol": ("byol", "--momentum", "0.9"),  # a predictor, batch norm in the heads
}
SETTINGS = (
    "--backbone", "small-cnn", "--size", "16", "--batch-size", BATCH, "--precision", "fp64", "--log-every", 1,
    "--threads", 1, "--device", "cpu", "--lr", "0.1",
)  # fmt: skip
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("store") / "images.zarr"
    words = ("data", "pack", f"scenes:train?items={ITEMS}", "--size", 16, "--format", "raw", "--shard-size", SHARD)
    entry = (sys.executable, "-c", "from semaug.cli.main import main; main()")
    subprocess.run([*map(str, (*entry, *words, "--out", out))], check=True, capture_output=True, timeout=300)
    return out


def command(folder: Path, images: Path, method: str, steps: int = STEPS, *more: object) -> list[str]:
    """The recorder's words for one run into ``folder / "run"``."""
    folder.mkdir(exist_ok=True)
    script = folder / "recorder.py"
    script.write_text(RECORDER)
    name, *own = METHODS[method]
    words = (script, folder, "pretrain", name, images, *own, *SETTINGS, "--steps", steps, *more)
    return [*map(str, words), "--out", str(folder / "run")]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **more}


def finish(*processes: subprocess.Popen[str]) -> None:
    """Wait until all have ended well; where one has not, none of them stays."""
    try:
        for process in processes:
            said, _ = process.communicate(timeout=900)
            assert process.returncode == 0, said[-2000:]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def start(words: list[str], **more: str) -> subprocess.Popen[str]:
    """A process in a group of its own, with what it starts."""
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=environment(**more),
    )  # fmt: skip


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, momentum networks, queues, running statistics and the optimizer's momentum after the last step."""
    checkpoint = torch.load(folder / "run" / "last.ckpt", weights_only=True)
    found = dict(checkpoint["state_dict"])
    for index, values in checkpoint["optimizer_states"][0]["state"].items():
        found |= {f"optimizer {index} {name}": torch.as_tensor(v) for name, v in values.items() if v is not None}
    return found


def losses(folder: Path) -> list[float]:
    with open(folder / "run" / "metrics.csv") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def reads(folder: Path, rank: object) -> list[tuple[int, int, int]]:
    """(image, shard, row) of each read of a process, in order."""
    lines = (folder / f"reads-{rank}").read_text().splitlines()
    return [(int(a), int(b), int(c)) for a, b, c in map(str.split, lines)]


def require_equal(one: Path, two: Path) -> None:
    """Losses of every step and all that is kept after the last are those of one process, to nine digits."""
    assert len(losses(one)) == STEPS
    assert losses(two) == pytest.approx(losses(one), rel=1e-9, abs=1e-9)
    alone, shared = state(one), state(two)
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        assert value.dtype != torch.float32, name
        torch.testing.assert_close(shared[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def require_own_reads(folder: Path, seed: int = 0) -> None:
    """Each process has read the images of its own share of every batch, each once a step, and nothing else."""
    everyone: Counter[tuple[int, int]] = Counter()
    for rank in (0, 1):
        order = BatchOrder(ITEMS, BATCH, seed, rank, world=2)
        wanted = [index for step in range(STEPS) for _, index in order.batch(step)]
        found = reads(folder, rank)
        assert [index for index, _, _ in found] == wanted
        assert all((shard, row) == divmod(index, SHARD) for index, shard, row in found)
        everyone.update((shard, row) for _, shard, row in found)
    whole = BatchOrder(ITEMS, BATCH, seed)
    drawn = Counter(divmod(index, SHARD) for step in range(STEPS) for _, index in whole.batch(step))
    assert everyone == drawn  # by shard and offset: nothing is read twice, nothing is left out


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_what_one_does_and_read_their_own_images(tmp_path, images, method):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = start([sys.executable, *command(one, images, method)])
    shared = start([*TORCHRUN, "2", "--standalone", *command(two, images, method)])
    finish(alone, shared)
    require_equal(one, two)
    require_own_reads(two)
    assert sorted(reads(one, "alone")) == sorted(reads(two, 0) + reads(two, 1))


class Hosts:
    """Two network namespaces, `a` and `b`, joined by a pair of virtual cards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = {host: f"semaug{os.getpid()}{host}" for host in "ab"}
        self.cards = {host: f"sm{os.getpid() % 10**6}{host}" for host in "ab"}
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def build(self) -> None:
        """Raises ``subprocess.CalledProcessError`` or ``OSError`` where that is not permitted."""
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n10.79.0.1 host-a\n10.79.0.2 host-b\n")
        for name in self.names.values():
            _ip("netns", "add", name)
        _ip("link", "add", self.cards["a"], "type", "veth", "peer", "name", self.cards["b"])
        for number, host in enumerate("ab", 1):
            card, name = self.cards[host], self.names[host]
            _ip("link", "set", card, "netns", name)
            _ip("-n", name, "addr", "add", f"10.79.0.{number}/24", "dev", card)
            _ip("-n", name, "link", "set", "lo", "up")
        self.join(True)
        self._on("a", "true")

    def join(self, up: bool) -> None:
        """Plug the cable in, or pull it: then nothing arrives any more, not even that somebody has gone."""
        for host in "ab":
            _ip("-n", self.names[host], "link", "set", self.cards[host], "up" if up else "down")

    def torchrun(self, words: list[str]) -> None:
        """Start one process on each host; they meet on host-a."""
        meeting = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "run", "--rdzv-endpoint", "host-a:29500")
        for host in "ab":
            inside = self._inside(host, *TORCHRUN, "1", *meeting, *words)
            self.processes[host] = start(inside, GLOO_SOCKET_IFNAME=self.cards[host])

    def kill(self, host: str) -> None:
        """End all that runs on a host at once."""
        for pid in _ip("netns", "pids", self.names[host]).split():
            os.kill(int(pid), signal.SIGKILL)
        if host in self.processes:
            self.processes[host].communicate()

    def _inside(self, host: str, *words: str) -> list[str]:
        own = f'mount --bind {self.folder / "hosts"} /etc/hosts && hostname host-{host} && exec "$@"'
        inside = ("ip", "netns", "exec", self.names[host], "unshare", "--mount", "--uts", "sh", "-c", own, "sh")
        return [*inside, *words]

    def _on(self, host: str, *words: str) -> None:
        subprocess.run(self._inside(host, *words), check=True, capture_output=True, text=True)

    def remove(self) -> None:
        for host, name in self.names.items():
            try:
                self.kill(host)
                _ip("netns", "del", name)
            except (subprocess.CalledProcessError, OSError):
                continue


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def hosts(tmp_path) -> Iterator[Hosts]:
    if not all(map(shutil.which, ("ip", "unshare"))):
        pytest.skip("two hosts need the programs ip and unshare")
    found = Hosts(tmp_path)
    try:
        found.build()
    except (subprocess.CalledProcessError, OSError) as error:
        found.remove()
        pytest.skip(f"two hosts need network namespaces, which are not permitted here: {error}")
    yield found
    found.remove()


def wait_for(path: Path, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.slow
def test_two_hosts_learn_what_one_process_does_and_read_their_own_images(tmp_path, images, hosts):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = start([sys.executable, *command(one, images, "moco")])
    hosts.torchrun(command(two, images, "moco"))
    finish(alone, *hosts.processes.values())
    require_equal(one, two)
    require_own_reads(two)


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True], ids=["killed", "cut off"])
def test_a_lost_host_is_named_in_time_and_the_rerun_ends_with_the_same_bits(tmp_path, images, hosts, silent):
    whole = tmp_path / "whole"
    whole.mkdir()
    more = (400, "--checkpoint-every", 4, "--peer-timeout", 20)
    undisturbed = start([*TORCHRUN, "2", "--standalone", *command(whole, images, "simclr", *more)])
    cut = tmp_path / "cut"
    hosts.torchrun(command(cut, images, "simclr", *more))
    wait_for(cut / "run" / "last.ckpt")
    if silent:
        hosts.join(False)
    hosts.kill("b")
    lost = time.monotonic()
    said, _ = hosts.processes["a"].communicate(timeout=300)
    took = time.monotonic() - lost
    print(f"{took:.1f} s until host-a had ended")
    assert hosts.processes["a"].returncode != 0
    assert not (cut / "run" / "encoder.json").exists()
    assert [line for line in said.splitlines() if line.startswith("Error: process 0 of 2 lost another one")]
    assert took < (20 if silent else 0) + 100  # the time allowed, and that of processes to end on a busy machine
    hosts.join(True)
    hosts.torchrun(command(cut, images, "simclr", *more))
    finish(*hosts.processes.values(), undisturbed)
    assert verify(cut / "run").digest == verify(whole / "run").digest
