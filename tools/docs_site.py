"""``make docs``: build the documentation site into ``site/``, strictly: a link that leads nowhere ends it.

    python tools/docs_site.py [--out site] [--stage-only]

The pages are those of ``docs/``, the packages' README files, what lies in ``examples/``, and one page for every public
module, made from its docstrings. They are laid out in ``.site/`` with ``mkdocs.yml``'s settings and its navigation
completed, where Zensical builds them. Links between files of the repository
become links between pages; a link to a file that is no page becomes its text with the file's path.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

REPOSITORY = Path(__file__).parent.parent
STAGE = REPOSITORY / ".site"
PACKAGES = (
    "artifacts", "quality-policy", "ssl-methods", "oracles", "pairs-dataset", "prompt-synthesis", "diffaug-core",
    "eval", "studies",
)  # fmt: skip
"""In the order of the navigation."""
LINK = re.compile(
    r"^```.*?^```|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)|`[^`\n]+`",
    re.MULTILINE | re.DOTALL,
)
"""A block of code, a link, or code in a line, whichever comes first; only links have a target."""
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


def main() -> int:
    """Lay the pages out, build them, check every link of the built pages; exit code 1 when one leads nowhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "site")
    parser.add_argument("--stage", type=Path, default=STAGE, help="where the pages are laid out")
    parser.add_argument("--stage-only", action="store_true", help="build nothing")
    options = parser.parse_args()
    config = stage(options.stage.absolute())
    if options.stage_only:
        return 0
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", str(config)]
    if subprocess.run(command, check=False, cwd=config.parent).returncode:
        return 1
    problems = [*check_site(config.parent / "site")]
    for problem in problems:
        print(problem, file=sys.stderr)
    shutil.rmtree(options.out, ignore_errors=True)
    shutil.copytree(config.parent / "site", options.out)
    return int(bool(problems))


def stage(folder: Path) -> Path:
    """Lay out all pages below ``folder``; returns the builder's settings."""
    shutil.rmtree(folder, ignore_errors=True)
    elsewhere = from_elsewhere()
    for place, content in _written(elsewhere).items():
        path = folder / "docs" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for file in (p for p in (REPOSITORY / "docs").rglob("*") if p.is_file() and p.suffix != ".md"):
        copy = folder / "docs" / file.relative_to(REPOSITORY / "docs")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    config = folder / "mkdocs.yml"
    config.write_text(yaml.safe_dump(settings(), sort_keys=False, allow_unicode=True))
    return config


def _written(elsewhere: Mapping[str, str]) -> dict[str, str]:
    """Path on the site -> Markdown of every page."""
    sources = {f"docs/{p.relative_to(REPOSITORY / 'docs').as_posix()}": "" for p in REPOSITORY.glob("docs/**/*.md")}
    places = {path: path.removeprefix("docs/") for path in sources} | dict(elsewhere)
    pages = {
        place: rewrite_links(_content(REPOSITORY / path), PurePosixPath(path), place, elsewhere)
        for path, place in places.items()
    }
    for package in PACKAGES:
        for module in modules(package):
            name = f"semaug.{package.replace('-', '_')}.{module}"
            pages[module_page(package, module)] = f"# {name}\n\n::: {name}\n"
    return pages


def from_elsewhere() -> dict[str, str]:
    """Path in the repository -> path on the site, of the files outside ``docs/`` that are pages."""
    found = {f"packages/{name}/README.md": f"reference/{name}/index.md" for name in PACKAGES}
    found["apps/cli/README.md"] = "reference/command-line.md"
    found["packages/oracles/src/semaug/oracles/objectness.md"] = "reference/oracles/objectness-card.md"
    for readme in sorted((REPOSITORY / "examples").glob("*/README.md")):
        found[f"examples/{readme.parent.name}/README.md"] = f"start/examples/{readme.parent.name}.md"
    for script in notebooks():
        found[f"examples/notebooks/{script.name}"] = f"start/examples/{script.stem}.md"
    return found


def notebooks() -> list[Path]:
    """The scripts that the example notebooks are made from."""
    return sorted((REPOSITORY / "examples" / "notebooks").glob("*.py"))


def modules(package: str) -> list[str]:
    """The public modules of a package by their dotted names below it."""
    source = REPOSITORY / "packages" / package / "src" / "semaug" / package.replace("-", "_")
    names = [path.relative_to(source).with_suffix("").parts for path in source.rglob("*.py")]
    shown = [parts[:-1] if parts[-1] == "__init__" else parts for parts in names]
    return sorted(".".join(p) for p in shown if p and not any(word.startswith("_") for word in p))


def settings() -> dict[str, Any]:
    """``mkdocs.yml`` with its navigation completed and its paths absolute."""
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    config |= {"docs_dir": "docs", "site_dir": "site", "nav": navigation(config["nav"])}
    handler = config["plugins"][1]["mkdocstrings"]["handlers"]["python"]
    handler["paths"] = [str(REPOSITORY / path) for path in handler["paths"]]
    handler["options"]["extensions"] = [str(REPOSITORY / path) for path in handler["options"]["extensions"]]
    return config


def navigation(written: list[Any]) -> list[Any]:
    """The navigation of ``mkdocs.yml`` without pages that are not there, and with those that are made here."""
    nav = _there(written, set(from_elsewhere().values()))
    for section in nav:
        if "Reference" in section:
            section["Reference"] += [{"Command line, package": "reference/command-line.md"}, *map(_package, PACKAGES)]
        if "Start" in section:
            section["Start"] += [{_title(p): p} for p in from_elsewhere().values() if p.startswith("start/")]
        if "Decisions" in section:
            section["Decisions"] += sorted(f"decisions/{p.name}" for p in REPOSITORY.glob("docs/decisions/0*.md"))
    return nav


def _there(nav: list[Any], elsewhere: set[str]) -> list[Any]:
    kept: list[Any] = []
    for entry in nav:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            inner = _there(value, elsewhere)
            kept += [{title: inner}] if inner else []
        elif value in elsewhere or (REPOSITORY / "docs" / value).is_file():
            kept.append(entry)
    return kept


def pages_of(nav: list[Any]) -> Iterator[str]:
    """The pages that a navigation names."""
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from pages_of(value)
        else:
            yield value


def _package(name: str) -> dict[str, Any]:
    cards = [{"Objectness": "reference/oracles/objectness-card.md"}] if name == "oracles" else []
    return {name: [f"reference/{name}/index.md", *cards, *({m: module_page(name, m)} for m in modules(name))]}


def module_page(package: str, module: str) -> str:
    """Where a module's page lies."""
    place = module.replace(".", "/")
    return f"reference/{package}/{place}{'-module' if place.endswith('index') else ''}.md"  # index.md is the package's


def _title(page: str) -> str:
    return PurePosixPath(page).stem.replace("_", " ").replace("-", " ").capitalize()


def _content(path: Path) -> str:
    return as_page(path.read_text(), path.name) if path.suffix == ".py" else path.read_text()


def as_page(script: str, name: str) -> str:
    """A notebook's script as Markdown: its text, and its code in blocks."""
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells(script)]
    last = f"This page is `examples/notebooks/{name}`; the notebook of the same name lies beside it."
    return "\n\n".join([*parts, last]) + "\n"


def cells(script: str) -> Iterator[tuple[str, str]]:
    """The cells of a script in the percent format: ``markdown`` or ``code``, and their text."""
    for part in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if "[markdown]" in head:
            yield "markdown", "\n".join(re.sub(r"^# ?", "", line) for line in body.strip().splitlines())
        elif body.strip():
            yield "code", body.strip()


def fence_doctests(docstring: str) -> str:
    """A docstring as Markdown: its doctests stand in code blocks."""
    return DOCTEST.sub(lambda found: f"{found['indent']}```pycon\n{found[0]}\n{found['indent']}```", docstring)


def rewrite_links(markdown: str, here: PurePosixPath, place: str, elsewhere: Mapping[str, str]) -> str:
    """Turn links between files of the repository into links between pages; ``here`` is the file, ``place`` its page."""
    return LINK.sub(lambda found: _link(found, here, place, elsewhere) if found["target"] else found[0], markdown)


def _link(found: re.Match[str], here: PurePosixPath, page: str, elsewhere: Mapping[str, str]) -> str:
    image, text, target, anchor = found["image"], found["text"], found["target"], found["anchor"] or ""
    if "://" in target or target.startswith(("mailto:", "/")):
        return found[0]
    path = os.path.normpath(here.parent / target)
    place = elsewhere.get(path, elsewhere.get(f"{path}/README.md"))
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        place = f"{inside}/index.md" if (REPOSITORY / path).is_dir() else inside
    if place is None:
        return f"{text} (`{path}`)" if (REPOSITORY / path).exists() else found[0]
    return f"{image}[{text}]({os.path.relpath(place, PurePosixPath(page).parent)}{anchor})"


class _Page(HTMLParser):
    """What a built page links to, what it loads, and the anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.loaded, self.anchors = list[str](), list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif "src" in found:
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") not in ("canonical", "prev", "next") and "href" in found:
            self.loaded.append(found["href"])


def check_site(out: Path) -> Iterator[str]:
    """A line for every link of the built pages that leads nowhere, and for whatever is loaded from elsewhere."""
    pages = {path: _Page(path.read_text()) for path in sorted(out.rglob("*.html")) if path.is_file()}
    for path, page in pages.items():
        name = path.relative_to(out).as_posix()
        yield from (f"{name} loads {source} from elsewhere" for source in page.loaded if urlsplit(source).netloc)
        if path.name == "404.html":  # its links start at the site's root
            continue
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{name} links to {link}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name} links to {link}: no such anchor"


if __name__ == "__main__":
    sys.exit(main())
