"""The time of ``semaug --help``, against a click program that does nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark import Benchmark

BARE = """
import click

@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quiet", is_flag=True)
def root(quiet): "A bare click program."

@root.command()
def verb(): "One verb."

root()
"""


def benchmarks() -> list[Benchmark]:
    """Both programs start in a fresh interpreter each time."""
    folder = Path(tempfile.mkdtemp(prefix="semaug-bench-"))
    bare, ours = folder / "bare.py", folder / "ours.py"
    bare.write_text(BARE)
    ours.write_text("from semaug.cli.main import main\nmain()\n")
    return [
        Benchmark(
            name="semaug --help",
            target="0.15 s",
            ours=lambda: show_help(ours),
            peers={"bare click program": lambda: show_help(bare)},
            target_seconds=0.15,
            unit="starts",
        )
    ]


def show_help(program: Path) -> None:
    """Run the program's ``--help`` in a fresh interpreter."""
    subprocess.run([sys.executable, program, "--help"], check=True, stdout=subprocess.DEVNULL)
