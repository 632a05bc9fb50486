"""Write ``docs/reference/cli.md`` from the commands' own help; ``--check`` compares."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from semaug.cli.commands.pretrain import METHODS, recipe_line
from semaug.cli.main import COMMANDS, root

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
GLOBAL = {"device", "workers", "threads", "offline", "quiet", "debug", "config"}


def reference() -> str:
    """The whole page."""
    parts = ["# Command line\nMade from the commands' own help by `uv run python tools/cli_reference.py`.\n"]
    parts.append("Every verb also takes " + ", ".join(f"`--{n}`" for n in sorted(GLOBAL)) + ".\n")
    context = click.Context(root, info_name="semaug")
    for name, (_, text) in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            parts.append(f"## semaug {name}\n{text}\n")
            verbs = command.list_commands(context)
            if name == "pretrain":
                parts += _methods(command)
                verbs = [v for v in verbs if v not in METHODS]
            parts += [_verb(f"semaug {name} {v}", _child(command, v, context)) for v in verbs]
        else:
            parts.append(_verb(f"semaug {name}", command).removeprefix("#"))
    return "\n".join(parts)


def _child(group: click.Group, name: str, context: click.Context) -> click.Command:
    command = group.get_command(context, name)
    assert command is not None
    return command


def _methods(group: click.Group) -> list[str]:
    """What all methods take, once; then what is each one's own, and its recipes."""
    rows = {name: _rows(group.commands[name]) for name in METHODS}
    shared = [row for row in next(iter(rows.values())) if all(row in other for other in rows.values())]
    parts = ["### semaug pretrain METHOD FOLDER", "What every method takes; each one's own options follow.", ""]
    parts += ["| option | meaning |", "|---|---|", *shared, ""]
    for name, table in METHODS.items():
        own = [row for row in rows[name] if row not in shared]
        parts += [f"### semaug pretrain {name} FOLDER", f"{table['title']}: {table['about']}.", ""]
        parts += ["| option | meaning |", "|---|---|", *own, ""]
        parts += [f"- `--recipe {recipe}`: {recipe_line(values)}" for recipe, values in table["recipes"].items()]
        parts.append("")
    return parts


def _rows(command: click.Command) -> list[str]:
    return [_row(p) for p in command.params if isinstance(p, click.Option) and p.name not in GLOBAL]


def _verb(path: str, command: click.Command) -> str:
    arguments = " ".join(
        p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)
    )
    rows = _rows(command)
    help_text = " ".join((command.help or "").split("\b")[0].split())
    table = ["| option | meaning |", "|---|---|", *rows] if rows else []
    return "\n".join([f"### {path} {arguments}".rstrip(), help_text, "", *table, ""])


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{o}`" for o in (*option.opts, *option.secondary_opts))
    text = " ".join((option.help or "").split()).replace("|", "\\|")
    choices = getattr(option.type, "choices", None)
    if choices:
        text += " One of " + ", ".join(f"`{c}`" for c in choices) + "."
    default = option.default
    if default not in (None, False, ()) and not callable(default) and not repr(default).startswith("Sentinel"):
        text += f" Default `{default}`."
    return f"| {names} | {text} |"


if __name__ == "__main__":
    wanted = reference()
    if "--check" not in sys.argv:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(wanted)
    elif not PAGE.exists() or PAGE.read_text() != wanted:
        sys.exit("docs/reference/cli.md is out of date; run `uv run python tools/cli_reference.py`")
