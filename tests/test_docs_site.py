"""The documentation site: every page is in the navigation, links survive the move, and the built site is whole."""

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tools"))

import docs_site  # noqa: E402


def test_every_page_is_in_the_navigation_once():
    named = list(docs_site.pages_of(docs_site.settings()["nav"]))
    assert len(named) == len(set(named))
    written = {p.relative_to(REPOSITORY / "docs").as_posix() for p in (REPOSITORY / "docs").rglob("*.md")}
    missing = written - set(named)
    assert not missing, f"not in the navigation of mkdocs.yml: {sorted(missing)}"
    assert set(named) - written == {*docs_site.from_elsewhere().values(), *modules()}


def modules() -> set[str]:
    return {docs_site.module_page(p, m) for p in docs_site.PACKAGES for m in docs_site.modules(p)}


def test_every_package_is_on_the_site():
    assert {p.parent.name for p in REPOSITORY.glob("packages/*/pyproject.toml")} == set(docs_site.PACKAGES)


@pytest.mark.parametrize(
    ("here", "text", "wanted"),
    [
        ("docs/guide/a.md", "[x](oracles.md#top)", "[x](oracles.md#top)"),
        ("docs/guide/a.md", "[x](../../packages/eval/README.md)", "[x](../reference/eval/index.md)"),
        ("packages/eval/README.md", "[x](../../docs/guide/evaluate.md)", "[x](evaluate.md)"),
        ("docs/guide/a.md", "[x](../../LICENSE)", "x (`LICENSE`)"),
        ("docs/guide/a.md", "[x](../decisions)", "[x](../decisions/index.md)"),
        ("docs/guide/a.md", "[x](https://example.org/a.md)", "[x](https://example.org/a.md)"),
        ("docs/guide/a.md", "`[x](../../LICENSE)`", "`[x](../../LICENSE)`"),
        ("docs/guide/a.md", "[`x`](../../LICENSE)", "`x` (`LICENSE`)"),
        ("docs/guide/a.md", "`a` [x](../../LICENSE) `b`", "`a` x (`LICENSE`) `b`"),
        ("docs/guide/a.md", "```\n[x](../../LICENSE)\n```", "```\n[x](../../LICENSE)\n```"),
        ("docs/guide/a.md", "![x](../images/report.png)", "![x](../images/report.png)"),
        ("docs/guide/a.md", "[x](nowhere.md)", "[x](nowhere.md)"),
    ],
)
def test_links_between_files_become_links_between_pages(here, text, wanted):
    page = PurePosixPath("guide/a.md")
    assert docs_site.rewrite_links(text, PurePosixPath(here), str(page), docs_site.from_elsewhere()) == wanted


def test_a_script_becomes_a_page():
    page = docs_site.as_page("# %% [markdown]\n# # Title\n# Text.\n\n# %%\nx = 1\n", "a.py")
    assert page.startswith("# Title\nText.\n\n```python\nx = 1\n```\n")


def test_doctests_are_fenced():
    text = docs_site.fence_doctests("One line.\n\n>>> 1 + 1\n2\n\nMore.")
    assert text == "One line.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."


def test_the_check_finds_what_leads_nowhere_and_what_comes_from_elsewhere(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<h1 id="there">B</h1>')
    good = '<a href="b/#there">b</a><a href="https://example.org">out</a>'
    bad = '<a href="b/#lost">x</a><a href="c/">x</a><script src="https://cdn.example.org/x.js"></script>'
    (tmp_path / "index.html").write_text(good)
    assert list(docs_site.check_site(tmp_path)) == []
    (tmp_path / "index.html").write_text(good + bad)
    problems = "\n".join(docs_site.check_site(tmp_path))
    assert "b/#lost: no such anchor" in problems
    assert "c/, which is not there" in problems
    assert "loads https://cdn.example.org/x.js from elsewhere" in problems


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    """Every page, every module's docstrings, every link and anchor."""
    pytest.importorskip("zensical", reason="needs the group docs: uv run --group docs pytest -m slow")
    words = [sys.executable, "tools/docs_site.py", "--out", str(tmp_path / "site"), "--stage", str(tmp_path / "stage")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    built = {p.relative_to(tmp_path / "site").as_posix() for p in (tmp_path / "site").rglob("index.html")}
    for page in docs_site.pages_of(docs_site.settings()["nav"]):
        place = PurePosixPath(page).with_suffix("")
        folder = place.parent if place.name == "index" else place
        assert (folder / "index.html").as_posix() in built, page
