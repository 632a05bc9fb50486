"""The tutorial on one's own folder works: its commands run one after another, at a small size."""

import re
import shlex

import pytest
from PIL import Image
from tests.test_docs import REPOSITORY, commands

from semaug.artifacts.sources import open_source

PAGE = REPOSITORY / "docs" / "start" / "own-folder.md"
SMALLER = {
    "--size": {"256": "40", "96": "24"},
    "--steps": {"500": "2"},
    "--backbone": {"resnet18": "small-cnn"},
    "--scale": {"smoke": "tiny"},
}
"""option -> what the page says -> what the test takes."""


def smaller(words: list[str]) -> list[str]:
    return [SMALLER.get(before, {}).get(word, word) for before, word in zip(["", *words], words, strict=False)]


def write_folder(folder, split: str, items: int) -> None:
    source = open_source(f"scenes:{split}?items={items}")
    for i in range(items):
        path = folder / split / source.class_names[source.label(i)] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(i)).save(path)


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_in_order(semaug, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path, "train", 300)
    write_folder(tmp_path, "test", 60)
    lines = commands(PAGE)
    assert len(lines) >= 14
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "doctor":
            words.append("--quick")
        done = semaug(*smaller(words))
        assert done.code == 0, f"{line}: {done.err}"
    for report in ("runs/guided/eval/report.html", "study/report.html"):
        assert (tmp_path / report).stat().st_size > 10_000, report
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("guidance.png", "views.png"))


def test_what_the_test_makes_smaller_is_on_the_page():
    text = PAGE.read_text()
    for option, changes in SMALLER.items():
        for value in changes:
            assert re.search(rf"{option} {value}\b", text), f"{option} {value} is no longer in the tutorial"
