"""One parser of outside data, made ready to be given any bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzzing.guard import TooSlow, scratch, watched

from semaug.artifacts.errors import SemaugError

LONGEST_MESSAGE = 4000


class Finding(AssertionError):
    """A parser that broke its promise on some input."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser by name.

    ``prepare`` fills an empty folder with what is valid and returns inputs, the first of them valid; ``parse`` gives
    the folder one input in the place of a valid one, and reads it as a command does. ``allowed`` are the errors that
    say what is wrong.
    ``heavy`` targets take long to import or to run; what ``roams`` names files anywhere by design, and may read them;
    what ``reserves`` reads with a library that sets address space aside before it looks at what is there.
    """

    name: str
    prepare: Callable[[Path], tuple[bytes, ...]]
    parse: Callable[[bytes, Path], Any]
    form: str = "bytes"
    allowed: tuple[type[BaseException], ...] = (SemaugError,)
    heavy: bool = False
    roams: bool = False
    reserves: bool = False


@dataclass(slots=True)
class Bench:
    """A target with its folder; ``seeds`` are its inputs before they are spoiled."""

    target: Target
    place: Path = field(init=False)
    seeds: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.place = scratch(self.target.name)
        self.seeds = self.target.prepare(self.place)
        for number, seed in enumerate(self.seeds):  # what is imported at first use is imported here, unwatched
            try:
                self.target.parse(seed, self.place)
            except self.target.allowed:
                if not number:
                    raise

    def examine(self, data: bytes) -> BaseException | None:
        """Give the target ``data``; returns the error that it refused it with, raises ``Finding``."""
        refused: BaseException | None = None
        try:
            with watched(self.place) as watch:
                try:
                    self.target.parse(data, self.place)
                except self.target.allowed as error:
                    refused = error
        except TooSlow as error:
            raise Finding(f"{self.target.name}: {error}, on {data[:200]!r}") from error
        except Exception as error:
            raise Finding(f"{self.target.name}: {type(error).__name__}: {error}, on {data[:200]!r}") from error
        self._check(watch.seen, refused, data)
        return refused

    def examine_quietly(self, data: bytes) -> None:
        """As ``examine``, for what calls it with any bytes and wants nothing back."""
        self.examine(bytes(data))

    def _check(self, seen: list[str], refused: BaseException | None, data: bytes) -> None:
        seen = [event for event in seen if not (self.target.roams and event.startswith("open /"))]
        if seen:
            raise Finding(f"{self.target.name}: {seen[0]}, on {data[:200]!r}")
        if refused is None:
            return
        if len(str(refused)) > LONGEST_MESSAGE or not str(refused):
            raise Finding(f"{self.target.name}: a message of {len(str(refused))} characters, on {data[:200]!r}")
        cause: BaseException | None = refused
        while cause is not None and not self.target.reserves:
            if isinstance(cause, MemoryError):
                raise Finding(f"{self.target.name}: asked for too much memory, on {data[:200]!r}") from refused
            cause = cause.__cause__ or cause.__context__

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.place, ignore_errors=True)
