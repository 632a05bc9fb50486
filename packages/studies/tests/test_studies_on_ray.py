"""Studies on Ray: jobs as tasks of its actors, with the results of the local queue, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import Progress
from semaug.studies.runner import RESULT, TRIES, Outcome, run_jobs

if find_spec("ray") is None:
    pytest.skip("ray is not installed", allow_module_level=True)

from semaug.artifacts.ray_engine import RayEngine


@dataclass(frozen=True)
class Square:
    """Squares a number. ``deaths`` of its tries kill their process; each leaves a line with what GPUs it was given."""

    name: str
    out: Path
    number: int
    deaths: int = 0
    steps: int = 3

    def describe(self) -> dict[str, Any]:
        return {key: str(value) for key, value in asdict(self).items() if key != "deaths"}

    def run(self, on_progress: Any) -> dict[str, Any]:
        if self.number < 0:
            raise InvalidOption(f"number is {self.number}, expected 0 or more")
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / "tries", "a") as file:
            file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "") + "\n")
        on_progress(Progress("square", 2, 3, "steps"))
        if self.tries() <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        on_progress(Progress("square", 3, 3, "steps"))
        return {"square": self.number**2}

    def tries(self) -> int:
        return len((self.out / "tries").read_text().splitlines())


def jobs(folder: Path) -> list[Square]:
    """One that is well, one that dies once, one that always does, one that fails."""
    known = {"well": (3, 0), "dies": (4, 1), "deadly": (5, 99), "fails": (-1, 0)}
    return [Square(name, folder / name, number, deaths) for name, (number, deaths) in known.items()]


@pytest.mark.slow
def test_a_dead_actors_job_is_taken_over_and_a_deadly_one_leaves_the_others(tmp_path: Path) -> None:
    events: list[Progress] = []
    with RayEngine(workers=1) as engine:
        found = run_jobs(jobs(tmp_path), workers=engine, on_progress=events.append)
        wanted = [Outcome("well", {"square": 9}), Outcome("dies", {"square": 16})]
        assert found[:2] == wanted == run_jobs(jobs(tmp_path)[:2])  # what is done is reused, wherever it was done
        assert found[2].error == f"it took down {TRIES} workers (killed, or out of memory)"
        assert found[3].error == "InvalidOption: number is -1, expected 0 or more"
        assert [job.tries() for job in jobs(tmp_path)[:3]] == [1, 2, TRIES]
        assert (events[-1].done, events[-1].total) == (12, 12)
        again = run_jobs(jobs(tmp_path), workers=engine)  # a new call tries again, but for what is done
    assert again[:2] == wanted
    assert [job.tries() for job in jobs(tmp_path)[:3]] == [1, 2, 2 * TRIES]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deadly", "dies", "well"]
    assert not (tmp_path / "deadly" / RESULT).exists()


ENTRY = (sys.executable, "-c", "from semaug.cli.main import main; main()")


def study(out: Path, *words: str) -> None:
    """Three variants of a study with artifacts, by the command line."""
    only = ("--only", "e", "--only", "a", "--only", "d")
    command = [
        *ENTRY,
        "study",
        "run",
        "sasi-table-12",
        "--scale",
        "tiny",
        *only,
        "--threads",
        "1",
        "--out",
        out,
        *words,
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_study_on_ray_is_the_local_one_to_the_bit(tmp_path: Path) -> None:
    study(tmp_path / "local")
    study(tmp_path / "ray", "--engine", "ray", "--workers", "2")
    local, ray = (
        {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("encoder.safetensors"))}
        for out in (tmp_path / "local", tmp_path / "ray")
    )
    assert len(local) >= 5
    assert local == ray
    assert (tmp_path / "local/results.csv").read_text() == (tmp_path / "ray/results.csv").read_text()


@pytest.mark.slow
def test_two_jobs_share_one_gpu_of_a_cluster(tmp_path: Path) -> None:
    """A cluster of this machine that says it has one GPU: two actors of a half each run, a third waits for room."""
    lines = """
import sys
from pathlib import Path
from ray.cluster_utils import Cluster
from packages.studies.tests.test_studies_on_ray import *

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 1})
with RayEngine(workers=3, address=cluster.address, gpus_per_actor=0.5) as engine:
    squares = [Square(str(n), Path(sys.argv[1]) / str(n), n) for n in range(6)]
    assert [o.result for o in run_jobs(squares, workers=engine)] == [{"square": n * n} for n in range(6)]
cluster.shutdown()
"""
    root = next(p for p in Path(__file__).parents if (p / "packages").is_dir())
    home = {**os.environ, "HOME": str(tmp_path)}  # where Ray may leave a token
    command = [sys.executable, "-c", lines, str(tmp_path / "jobs")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=home, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.read_text() for path in tmp_path.glob("jobs/*/tries")} == {"0\n"}
