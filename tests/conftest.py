"""The command line run in this process: importing torch once, not once a command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from semaug.cli import console
from semaug.cli.main import main


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refuses(self, *words: str) -> bool:
        """Whether it failed with one line that holds all of the words."""
        one_line = len(self.err.strip().splitlines()) == 1 and self.err.startswith("Error: ")
        return self.code == 1 and one_line and "unexpected" not in self.err and all(w in self.err for w in words)


@pytest.fixture
def semaug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``semaug(*words)`` runs a command line to its end."""

    def run(*words: object) -> Done:
        monkeypatch.setattr(console, "_CURRENT", console.RunSettings())
        monkeypatch.setattr(sys, "argv", ["semaug", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, said.out, said.err)

    return run
