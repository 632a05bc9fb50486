"""A pass of another library in its own environment, as a ``Run`` of a benchmark (see ``steps/passes.py``)."""

from __future__ import annotations

import atexit
import json
import subprocess
from pathlib import Path
from typing import Any

from benchmark import Run
from peer_environment import peer_python

WORKER = Path(__file__).parent / "steps" / "passes.py"


def peer_pass(environment: str, name: str, images: Path, size: int = 0, batch: int = 1) -> Run:
    """The seconds of processor time of one pass; the process is started and made ready at the first call.

    Raises ``RuntimeError`` with what went wrong there.
    """
    held: list[subprocess.Popen[str]] = []

    def ask(**request: Any) -> dict[str, Any]:
        process = held[0]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"exit code {process.wait()}"}
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']}")
        return answer

    def run() -> float:
        if not held:
            held.append(_started(environment))
            ask(prepare=name, images=str(images), size=size, batch=batch)
        return float(ask(run=1)["seconds"])

    return run


def _started(environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [str(peer_python(environment)), str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    atexit.register(process.kill)
    return process
