"""What a parser of outside data must never do, watched while it runs.

An audit hook sees Python's own opening of files, starting of programs, connecting and unpickling; native libraries
open files unseen. Limits of processor time, of wall-clock time and of the address space make a hang or a huge
allocation an error.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HEADROOM = 1 << 30
"""Bytes of address space that a parser may take on top of what the process has."""
PROCESSOR_SECONDS = 5.0
WALL_SECONDS = 300.0

_REPOSITORY = str(Path(__file__).parents[2])
_READABLE = tuple(
    os.path.realpath(p)
    for p in (
        sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *filter(None, sys.path), "/proc", "/sys",
        "/usr", "/lib", "/etc/localtime", "/etc/ssl", "/etc/mime.types", "/dev/null", "/dev/urandom",
    )
    if os.path.realpath(p) not in (_REPOSITORY, os.path.realpath(os.getcwd()), "/")
) + tuple(f"{_REPOSITORY}/{name}" for name in ("packages", "apps", "tools", "tests"))  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {
    "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "shutil.rmtree": 1, "shutil.move": 2,
}  # fmt: skip
_NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "socket.connect"}


class TooSlow(BaseException):
    """A parser that ran into a time limit; no ``except Exception`` takes it."""


class Watch:
    """What was seen that must not be; ``place`` is the folder that may be read and written."""

    def __init__(self, place: Path) -> None:
        self.place = os.path.realpath(place)
        self.seen: list[str] = []

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an audit event that must not be."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, int) and path is not None:
                self._path(event, path, bool(flags & _WRITES))
        elif event in _PATHS:
            for path in arguments[: _PATHS[event]]:
                self._path(event, path, True)
        elif event in _NEVER:
            self.seen.append(f"{event} {str(arguments)[:120]}")

    def _path(self, event: str, path: Any, writes: bool) -> None:
        found = os.path.realpath(os.fsdecode(path))
        if _is_below(found, (self.place,)) or (writes and ("__pycache__" in found or found == "/dev/null")):
            return
        if writes or not _is_below(found, _READABLE):
            self.seen.append(f"{event} {'for writing ' if writes else ''}{found}")


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root + os.sep) for root in roots)


_current: Watch | None = None
_thread = threading.local()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is None or getattr(_thread, "busy", False):
        return
    _thread.busy = True
    try:
        _current.see(event, arguments)
    finally:
        _thread.busy = False


_installed = False


@contextmanager
def watched(place: Path) -> Iterator[Watch]:
    """Note what is done outside ``place`` meanwhile; raises ``TooSlow`` past a time limit.

    An audit hook stays for the life of the process; it does nothing outside of this.
    """
    global _current, _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    watch = Watch(place)
    with _limited_memory(), _limited_time():
        _current = watch
        try:
            yield watch
        finally:
            _current = None


@contextmanager
def _limited_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if not status.is_file():  # no such limit on other systems
        yield
        return
    now = int(status.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + HEADROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _limited_time() -> Iterator[None]:
    kept = signal.signal(signal.SIGPROF, _raise), signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)  # processor time, since a loaded machine is no hang
    alarm = signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, *alarm)
        signal.signal(signal.SIGPROF, kept[0])
        signal.signal(signal.SIGALRM, kept[1])


def _raise(number: int, frame: Any) -> None:
    raise TooSlow(f"over {PROCESSOR_SECONDS:g} s of processor or {WALL_SECONDS:g} s of wall-clock time")


def scratch(name: str) -> Path:
    """A fresh folder for a target, resolved."""
    return Path(tempfile.mkdtemp(prefix=f"semaug-fuzz-{name}-")).resolve()
