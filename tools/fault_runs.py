"""Commands for ``faults.py``, each a process of its own, forked from one that has imported what they need.

Importing torch takes longer than the commands that are tested; a fork starts where the imports end, and is an ordinary
process from there on: its own session, arguments, files and signals. Run as a script this is the process that forks.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

BLINK = 0.03
"""Seconds between two looks at a process."""
LONG = 900.0
"""Seconds after which a command that has not ended counts as hanging."""
SHIM = Path(__file__).parent / "clock_shim"
"""What moves the clock of spawned workers, as ``sitecustomize``."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code (-9: by signal 9), and what it said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it said on stderr."""
        return [line for line in self.err.splitlines() if line.strip()]


class Running:
    """A command at work."""

    def __init__(self, starter: Starter, pid: int, said: Path) -> None:
        self.starter, self.pid, self._said = starter, pid, said

    @property
    def at_work(self) -> bool:
        """Whether it has not ended."""
        return state_of(self.pid) not in ("Z", "")

    def seconds(self) -> float:
        """The processor time of it and its workers so far."""
        return sum(map(processor_seconds, (self.pid, *children(self.pid))))

    def until(self, seconds: float) -> bool:
        """Wait for an amount of processor time; False where the command ended first."""
        began = time.monotonic()
        while self.at_work:
            if self.seconds() >= seconds:
                return True
            if time.monotonic() - began > LONG:
                return True
            time.sleep(BLINK)
        return False

    def workers(self) -> list[int]:
        """The worker processes that it started: spawned interpreters, not Python's tracker of resources."""
        return [pid for pid in children(self.pid) if b"spawn_main" in command_of(pid)]

    def send(self, number: int) -> None:
        """A signal to the command alone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> Ended:
        """Wait for its end; a command that hangs is killed, and its code is None's stand-in -999."""
        code = self.starter.wait(self.pid, self._said, LONG)
        out, err = (self._said.with_suffix(suffix).read_text(errors="replace") for suffix in (".out", ".err"))
        return Ended(code, out, err)

    def orphans(self, patience: float = 60.0) -> list[int]:
        """Processes of its session that go on after it has ended and ``patience`` seconds have gone by."""
        stop = time.monotonic() + patience
        while (left := [pid for pid in members(self.pid) if pid != self.pid]) and time.monotonic() < stop:
            time.sleep(0.05)
        return left


def members(session: int) -> list[int]:
    """The living processes of a session."""
    every = {int(name): stat_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return [pid for pid, fields in every.items() if fields and int(fields[3]) == session and fields[0] != "Z"]


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    try:
        text = " ".join(path.read_text() for path in Path(f"/proc/{parent}/task").glob("*/children"))
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(pid) for pid in text.split()]


def stat_of(pid: int) -> list[str]:
    """State, parent, group, session and so on of a process; nothing where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rfind(")") + 2 :].split()


def state_of(pid: int) -> str:
    """R, S, D, T, Z ...; nothing where the process is gone."""
    return (stat_of(pid) or [""])[0]


def command_of(pid: int) -> bytes:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def processor_seconds(pid: int) -> float:
    """The processor time of a process, of all its threads."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) gives
    except OSError:
        return 0.0


class Starter:
    """Starts commands, and says how they ended."""

    def __init__(self, modules: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._count = folder, 0
        command = [sys.executable, __file__, *modules]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, *words: object, clock: Path | None = None) -> Running:
        """Start ``semaug WORDS``; ``clock`` is a file with the seconds that its clock is ahead, read at every look."""
        self._count += 1
        said = self._folder / f"{self._count}"
        request = {"words": [str(word) for word in words], "said": str(said), "clock": str(clock or "")}
        return Running(self, int(self._ask(request)), said)

    def run(self, *words: object) -> Ended:
        """``semaug WORDS`` to its end."""
        return self.start(*words).end()

    def wait(self, pid: int, said: Path, seconds: float) -> int:
        """The exit code of a command; one that takes longer is killed: -999."""
        return int(self._ask({"wait": pid, "said": str(said), "seconds": seconds}))

    def close(self) -> None:
        """End the process that forks."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def serve(modules: Sequence[str]) -> None:
    """Fork a command, or wait for one, for every line on stdin."""
    for name in modules:
        importlib.import_module(name)
    answers, sys.stdout = sys.stdout, sys.stderr
    for request in _requests():
        if "words" in request:
            pid = os.fork()
            if pid == 0:
                _become(request["words"], Path(request["said"]), request["clock"])
            answer = pid
        else:
            answer = _waited(request["wait"], request["seconds"])
            _import(Path(request["said"]).with_suffix(".modules"))
        print(json.dumps(answer), file=answers, flush=True)


def _requests() -> Iterator[Any]:
    while line := sys.stdin.readline():
        yield json.loads(line)


def _import(file: Path) -> None:
    """What a command has imported, so that the next one need not."""
    if file.exists():
        for name in file.read_text().split():
            with suppress(Exception):
                importlib.import_module(name)
        gc.freeze()  # what is imported is never collected, so a fork need not look at it


def _waited(pid: int, seconds: float) -> int:
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(BLINK)
    for member in members(pid):
        os.kill(member, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -999


def _become(words: Sequence[str], said: Path, clock: str) -> NoReturn:
    """Be ``semaug WORDS``, from its main function to the end of its process."""
    os.setsid()
    if clock:
        _move_clock(clock)
    with open(os.devnull) as nothing, open(f"{said}.out", "w") as out, open(f"{said}.err", "w") as err:
        for number, file in enumerate((nothing, out, err)):
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    sys.modules["__main__"] = ModuleType("__main__")  # spawned workers import what is main
    sys.argv = ["semaug", *words]
    from semaug.cli.main import main

    code, before = 1, set(sys.modules)  # type: Any, set[str]
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    finally:
        Path(f"{said}.modules").write_text("\n".join(name for name in sys.modules if name not in before))
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def _move_clock(file: str) -> None:
    sys.path.insert(0, str(SHIM))
    os.environ.update(MOVED_CLOCK=file, PYTHONPATH=os.pathsep.join((str(SHIM), os.environ.get("PYTHONPATH", ""))))
    importlib.import_module("moved_clock").move(file)


if __name__ == "__main__":
    serve(sys.argv[1:])
