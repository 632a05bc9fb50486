"""``semaug doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semaug.cli.console import Verb, json_option

if TYPE_CHECKING:
    from semaug.studies.doctor import Diagnosis, Finding

MARKS = {"ok": ("ok", "green"), "off": ("off", "dim"), "note": ("note", "yellow"), "broken": ("BROKEN", "bold red")}
"""state -> the word that stands for it, and its style: without colours the word is enough."""
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("doctor", cls=Verb)
@click.option("--weights", multiple=True, type=FOLDER, help="Look for models in this folder too; repeatable.")
@click.option("--data", multiple=True, type=FOLDER, help="Look for data sets in this folder too; repeatable.")
@click.option("--missing", is_flag=True, help="Show only what cannot run or wants a word, with its remedy.")
@click.option("--quick", is_flag=True, help="Leave out devices and studies, which take torch and some seconds.")
@click.option("--imports", is_flag=True, help="Import every library, each in a process of its own (minutes).")
@json_option
def command(
    weights: tuple[Path, ...], data: tuple[Path, ...], missing: bool, quick: bool, imports: bool, as_json: bool
) -> None:
    """Say what is installed, what can run here, what is missing, and the remedy for each.

    Weights are looked for in ./models, ./weights, the caches of Hugging Face and torch, and --weights; data sets in
    the working directory, ./data, ./datasets, and --data. Nothing is downloaded. Ends with exit code 1 where
    something that is installed is broken.
    """
    from semaug.cli.console import emit
    from semaug.studies.doctor import Surroundings, diagnose

    found = diagnose(Surroundings(weights=weights, data=data), quick=quick, imports=imports)
    if as_json:
        emit(found.described(), as_json)
    else:
        _draw(found, missing)
    if found.broken:
        click.get_current_context().exit(1)


def _draw(found: Diagnosis, missing: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    for section in found.sections:
        shown = [f for f in section.findings if not missing or f.state != "ok"]
        if shown:
            console.print(f"[bold]{section.title}[/bold]")
            console.print(_table(shown, console.width))
            console.print()
    count = sum(f.state == "off" for s in found.sections for f in s.findings)
    broken = ", ".join(f.name for f in found.broken)
    fine = "[green]Nothing that is installed is broken.[/green]"
    verdict = f"[bold red]Broken: {broken}.[/bold red]" if broken else fine
    console.print(f"{verdict} {count} optional things are off" + ("." if missing else "; --missing shows them alone."))


def _table(findings: list[Finding], width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 1))
    table.add_column(width=6, no_wrap=True)
    names = max(10, min(22, width // 4))
    table.add_column(min_width=names, max_width=names)
    table.add_column(ratio=1, overflow="fold")
    for finding in findings:
        word, style = MARKS[finding.state]
        detail = Text().append(finding.detail, style="dim" if finding.state == "off" else None)
        if finding.remedy:
            detail.append(f"\n→ {finding.remedy}" if finding.detail else f"→ {finding.remedy}", style="cyan")
        table.add_row(Text(word, style=style), Text(finding.name), detail)
    return table
