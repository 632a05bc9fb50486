"""What the verbs share: global options, configuration files, progress, output and errors."""

from __future__ import annotations

import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semaug.artifacts.errors import SemaugError
from semaug.artifacts.network import forbid_network
from semaug.artifacts.outside import parse_toml
from semaug.artifacts.progress import OnProgress, Progress, ignore_progress

if TYPE_CHECKING:
    from semaug.artifacts.store import ArtifactSummary

SKIPPED_SOME = 3


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The global options: how a command runs, never what it computes."""

    device: str = "auto"
    workers: int = 0
    threads: int = 0
    offline: bool = False
    quiet: bool = False
    debug: bool = False


_CURRENT = RunSettings()


def settings() -> RunSettings:
    """The global options of this run."""
    return _CURRENT


def store_global(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep one global option, wherever on the command line it stood."""
    global _CURRENT
    if value is None or ctx.resilient_parsing:
        return
    _CURRENT = replace(_CURRENT, **{str(param.name): value})
    if param.name == "threads" and value:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = str(value)
    if param.name == "offline" and value:
        forbid_network()


class GlobalOption(click.Option):
    """An option that every verb and the root accept."""

    def copy_for(self, callback: Callable[..., None]) -> click.Option:
        """A fresh option, since click options belong to one command."""
        return click.Option(
            [*self.opts], type=self.type, is_flag=self.is_flag, default=None, help=self.help,
            expose_value=False, callback=callback, show_default=False,
        )  # fmt: skip


GLOBAL_OPTIONS = (
    GlobalOption(["--device"], type=str, help="Where models run: auto, cpu, cuda, or several.", default=None),
    GlobalOption(["--workers"], type=click.IntRange(0), help="Worker processes (0: none).", default=None),
    GlobalOption(["--threads"], type=click.IntRange(0), help="Threads of each process (0: the libraries' own)."),
    GlobalOption(["--offline"], is_flag=True, default=None, help="Never reach for the network."),
    GlobalOption(["--quiet"], is_flag=True, default=None, help="No progress, no messages."),
    GlobalOption(["--debug"], is_flag=True, default=None, help="Show the traceback of an error."),
)


class Verb(click.Command):
    """A command that takes the global options and ``--config`` too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = click.Option(
            ["--config"], type=click.Path(exists=True, dir_okay=False), is_eager=True, expose_value=False,
            callback=load_config, help="TOML file of options; flags win.",
        )  # fmt: skip
        self.params += [config, *(option.copy_for(store_global) for option in GLOBAL_OPTIONS)]


class VerbGroup(click.Group):
    """A group of verbs: ``@click.group(cls=VerbGroup)``."""

    command_class = Verb


class LazyGroup(click.Group):
    """A group whose commands are imported on use: ``lazy`` maps a name to (module:attribute, short help).

    Modules are given below ``semaug.cli.commands``. The short helps come from the table, so that ``--help`` costs what
    click costs.
    """

    def __init__(self, name: str | None = None, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any):
        super().__init__(name, **kwargs)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, attribute = self.lazy[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(f"semaug.cli.commands.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Start anew where --out already exists.")


class Place(click.Path):
    """A path, and with ``store`` the URL of an artifact in an object store too, which arrives as a ``RemotePath``."""

    def __init__(self, *, store: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._store = store

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from semaug.artifacts.places import RemotePath, as_path

        place = as_path(value)
        if not isinstance(place, RemotePath):
            return super().convert(str(place), param, ctx)
        if not self._store:
            self.fail(
                f"{place} is in an object store, which takes artifacts alone; give a folder or a file", param, ctx
            )
        return place if self.type else str(place)


def out_option(what: str, *, file: bool = False, store: bool = False) -> Callable[..., Any]:
    """``--out``, the one place a verb writes to; it arrives as a ``Path``, or as a ``RemotePath`` with ``store``."""
    kind = Place(store=store, path_type=Path, dir_okay=not file)
    return click.option("--out", required=True, type=kind, help=f"Where to write {what}.")


def load_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Feed a TOML file to click's ``default_map``; refuses keys that no command knows."""
    if not value:
        return
    try:
        table = parse_toml(Path(value).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{value} is not TOML: {error}") from error
    root = ctx.find_root()
    _check_keys(value, table, root.command, root, "")
    defaults: Mapping[str, Any] = _by_name(table, root.command, root)
    path = ctx.command_path.split()[1:]
    own = defaults
    for name in path:
        own = own.get(name, {})
    if path:  # a file given behind a verb still holds the root's global options
        for option in GLOBAL_OPTIONS:
            if option.name in defaults:
                store_global(ctx, option, defaults[str(option.name)])
    ctx.default_map = dict(own)


def _options(command: click.Command) -> dict[str, str]:
    """Names a configuration file may use -> parameter names."""
    names = {}
    for parameter in command.params:
        for flag in parameter.opts:
            names[flag.lstrip("-")] = str(parameter.name)
            names[flag.lstrip("-").replace("-", "_")] = str(parameter.name)
    return names


def _check_keys(file: str, table: Mapping[str, Any], command: click.Command, ctx: click.Context, where: str) -> None:
    known = set(_options(command))
    if isinstance(command, click.Group):
        known |= set(command.list_commands(ctx))
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
            raise click.ClickException(f"{file}: unknown key {where + key!r}{hint}")
        child = command.get_command(ctx, key) if isinstance(command, click.Group) else None
        if child is not None:
            if not isinstance(value, dict):
                raise click.ClickException(f"{file}: {where + key!r} is a command; write it as a table [{where + key}]")
            _check_keys(file, value, child, ctx, f"{where}{key}.")


def _by_name(table: Mapping[str, Any], command: click.Command, ctx: click.Context) -> dict[str, Any]:
    names, result = _options(command), {}
    for key, value in table.items():
        child = command.get_command(ctx, key) if isinstance(command, click.Group) else None
        if child is not None:
            result[key] = _by_name(value, child, ctx)
        else:
            result[names[key]] = value
    return result


@contextmanager
def progress() -> Iterator[OnProgress]:
    """A progress bar on stderr for what takes over a second; silent when stderr is no terminal."""
    if settings().quiet or not sys.stderr.isatty():
        yield ignore_progress
        return
    bar = _Bar()
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    """Draws events; one line a stage, with rate and time left."""

    def __init__(self, patience: float = 0.7) -> None:
        self._from = time.monotonic() + patience
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __call__(self, event: Progress) -> None:
        if self._bar is None:
            if time.monotonic() < self._from:
                return
            self._bar = _rich_bar()
            self._bar.start()
        task = self._tasks.get(event.stage)
        if task is None:
            task = self._tasks[event.stage] = self._bar.add_task(event.stage, total=event.total, unit=event.unit)
        self._bar.update(task, completed=event.done, total=event.total, note=event.note)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {task.fields.get('unit', '')}/s" if speed else "", style="dim")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    # The rate of the last half hour: jobs of a study train, and then score without a step to count.
    bar = RichProgress(*columns, console=Console(stderr=True), transient=False, speed_estimate_period=1800.0)
    add = bar.add_task
    bar.add_task = lambda *a, **k: add(*a, note="", **k)  # type: ignore[method-assign]
    return bar


def note(message: str) -> None:
    """A message for the person, on stderr."""
    if not settings().quiet:
        click.echo(message, err=True)


def emit(result: Mapping[str, Any], as_json: bool, text: str | None = None) -> None:
    """Print the result on stdout: as JSON, as the given text, or as aligned ``key  value`` lines."""
    if as_json:
        click.echo(json.dumps(result, indent=1, default=_plain, allow_nan=True))
    else:
        click.echo(text if text is not None else _lines(result))


def _plain(value: Any) -> Any:
    for name in ("model_dump", "tolist"):
        if hasattr(value, name):
            return getattr(value, name)()
    return str(value)


def _lines(result: Mapping[str, Any], indent: str = "") -> str:
    width = max((len(str(k)) for k in result), default=0)
    rows = []
    for key, value in result.items():
        if isinstance(value, Mapping):
            rows += [f"{indent}{key}", _lines(value, indent + "  ")]
        else:
            rows.append(f"{indent}{str(key).ljust(width)}  {_shown(str(key), value)}")
    return "\n".join(r for r in rows if r)


def _shown(key: str, value: Any) -> str:
    """One value as a person reads it: bytes of memory as MB, four digits of a number, a list without brackets."""
    if key == "peak_memory" and value is not None:
        return f"{value / 1e6:,.0f} MB"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def finish(summary: ArtifactSummary) -> None:
    """Say what was left out, and end with exit code 3 when something was."""
    if summary.skipped:
        count, first = len(summary.skipped), summary.skipped[0]
        note(
            f"{count} {'input was' if count == 1 else 'inputs were'} skipped, listed in "
            f"{summary.path / 'skipped.csv'} (the first: {first.key}: {first.reason})"
        )
        click.get_current_context().exit(SKIPPED_SOME)


def pick_device() -> str:
    """The one device that ``--device`` names, or the best there is."""
    if "," in settings().device:
        raise click.UsageError(
            f"this works on one device, --device {settings().device} names several; give one of them"
        )
    if settings().device != "auto":
        return settings().device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def explain(error: Exception) -> int:
    """Print an error as one line (a traceback under ``--debug``); returns the exit code."""
    code = error.exit_code if isinstance(error, SemaugError) else 1
    if settings().debug:
        import traceback

        traceback.print_exception(error)
        return code
    text = " ".join(str(error).split())
    if not isinstance(error, SemaugError):
        text = f"unexpected {type(error).__name__}: {text}; run again with --debug for the traceback"
    click.echo(f"Error: {text}", err=True)
    return code
