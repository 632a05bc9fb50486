"""The documentation says what is so: its Python blocks run, its commands parse, its links lead somewhere."""

import os
import re
import shlex
from pathlib import Path

import click
import pytest

from semaug.cli.main import root

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted(
    p
    for pattern in ("README.md", "docs/**/*.md", "packages/*/README.md", "apps/*/README.md", "examples/**/*.md")
    for p in REPOSITORY.glob(pattern)
)
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> list[str]:
    return [m[3] for m in BLOCK.finditer(page.read_text()) if m[1] == language and "not run" not in m[2]]


def ident(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=ident)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    names: dict[str, object] = {"__name__": "__docs__"}
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{ident(page)} block {number}", "exec"), names)


def commands(page: Path) -> list[str]:
    lines = [line for b in blocks(page, "sh") for line in b.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        for part in line.split("&&"):
            words = part.split("#")[0].strip()
            words = words.removeprefix("uv run ").strip()
            if words.startswith("semaug "):
                found.append(words)
    return found


@pytest.mark.parametrize(
    ("page", "line"), [pytest.param(p, c, id=f"{ident(p)}: {c[:60]}") for p in PAGES for c in commands(p)]
)
def test_commands_parse(page, line):
    words = shlex.split(line)[1:]
    context = click.Context(root, info_name="semaug", resilient_parsing=True)
    command: click.Command = root
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        child = command.get_command(context, words[0])
        assert child is not None, f"{line}: no command {words[0]!r}"
        command, words = child, words[1:]
    parser = command.make_parser(click.Context(command))
    parser.parse_args(list(words))


@pytest.mark.parametrize("page", PAGES, ids=ident)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{ident(page)} links to {target}, which is not there"


def test_no_machine_paths_in_tracked_text():
    suspicious = re.compile(r"(?<![\w.])/(work|root)/\w")
    for folder in ("docs", "packages", "apps", "tests", "tools", "examples"):
        for path in (REPOSITORY / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".toml", ".html"} and path != Path(__file__) and path.is_file():
                assert not suspicious.search(path.read_text()), path


def test_the_documented_exit_codes_are_in_the_root_help():
    text = root.get_help(click.Context(root, info_name="semaug"))
    assert re.search(r"0 done, 1\s+failed, 2\s+usage, 3\s+finished", text)
    assert os.linesep in text
