"""Give a parser of outside data spoiled input for some seconds: ``python tools/fuzz.py TARGET --seconds 60``.

``--engine atheris`` (the default where it is installed: ``uv run --group fuzz``) follows the coverage of semaug's own
code and stops at the first finding, whose input it writes to ``--findings``. ``--engine random`` needs nothing, counts
processor seconds and goes on, one finding a place. ``--list`` names the targets. Exit code 1 says that something was
found.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

MOST_MEMORY = 6144
"""Megabytes of a whole fuzzing process; a single input may add 1 GiB of address space."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one target, or list them."""
    options = _options(words)
    modules = _modules(options.engine)
    if options.list:
        print("\n".join(modules.catalogue.TARGETS))
        return 0
    if options.target not in modules.catalogue.TARGETS:
        print(f"no target is called {options.target!r}; --list names them", file=sys.stderr)
        return 2
    bench = modules.target.Bench(modules.catalogue.TARGETS[options.target])
    try:
        if options.engine == "random":
            return _run_random(bench, options, modules)
        return _run_atheris(bench, options, modules)
    finally:
        bench.close()


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    has_atheris = importlib.util.find_spec("atheris") is not None
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("target", nargs="?", default="", help="the parser, by name")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("atheris", "random"), default="atheris" if has_atheris else "random")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where inputs are written")
    return parser.parse_args(words)


class _Modules:
    def __init__(self) -> None:
        from tests.fuzzing import catalogue, mutation, target

        self.catalogue, self.mutation, self.target = catalogue, mutation, target


def _modules(engine: str) -> _Modules:
    """The targets; imported under instrumentation, so that atheris sees which branches of semaug were taken."""
    watching: Any = nullcontext()
    if engine == "atheris":
        import atheris

        watching = atheris.instrument_imports(include=["semaug"])
    with watching:
        return _Modules()


def _run_random(bench: Any, options: argparse.Namespace, modules: _Modules) -> int:
    runs, refused, found = 0, 0, dict[str, str]()
    end, started = time.process_time() + options.seconds, time.process_time()
    while time.process_time() < end:
        random = Random(f"{options.seed} {runs}")
        data = modules.mutation.mutated(random.choice(bench.seeds), bench.target.form, random)
        runs += 1
        try:
            refused += bench.examine(data) is not None
        except modules.target.Finding as finding:
            where = _place(finding)
            if where not in found:
                found[where] = str(finding)
                _keep(options.findings, bench.target.name, len(found), data)
    spent = time.process_time() - started
    rate = runs / max(spent, 1e-9)
    print(f"{bench.target.name}: {runs} executions ({rate:.0f} a second), {refused} refused, {len(found)} findings")
    for where, text in found.items():
        print(f"  {where}: {text[:300]}")
    return bool(found)


def _place(finding: BaseException) -> str:
    """The last line of semaug's own code that a finding came through."""
    cause = finding.__cause__ or finding
    own = [f for f in traceback.extract_tb(cause.__traceback__) if "/semaug/" in f.filename]
    return f"{own[-1].filename.rsplit('/semaug/', 1)[1]}:{own[-1].lineno}" if own else type(cause).__name__


def _keep(folder: Path, target: str, number: int, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{target}-{number}").write_bytes(data)


def _run_atheris(bench: Any, options: argparse.Namespace, modules: _Modules) -> int:
    import atheris

    options.findings.mkdir(parents=True, exist_ok=True)
    corpus = Path(tempfile.mkdtemp(prefix="semaug-corpus-"))
    for number, seed in enumerate(bench.seeds):
        (corpus / f"{number:04d}").write_bytes(seed)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, most))
        return bytes(modules.mutation.mutated(data, bench.target.form, Random(seed))[:most])

    flags = [
        f"-max_total_time={options.seconds:.0f}", f"-seed={options.seed + 1}", f"-rss_limit_mb={MOST_MEMORY}",
        "-handle_alrm=0", f"-artifact_prefix={options.findings}/{bench.target.name}-", "-print_final_stats=1",
        "-use_value_profile=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags, str(corpus)], bench.examine_quietly, custom_mutator=mutate)
    atheris.Fuzz()  # ends the process: 0 when the time is over, 77 at a finding
    return 0


if __name__ == "__main__":
    sys.exit(main())
