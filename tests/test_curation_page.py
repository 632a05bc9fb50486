"""The curation page in a real browser: keys, tabs, reloads, a server that is killed, small screens, dark and light."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tests.headless_browser import CHROMIUM, Browser, wait_for

from semaug.artifacts.schemas import SemanticPair
from semaug.artifacts.sources import ScenesSource, open_folder
from semaug.pairs_dataset.curation.journal import Journal
from semaug.pairs_dataset.pair_table import PairTable, write_pairs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]
READY = "document.querySelector('#accept').getAttribute('aria-disabled') === 'false'"
CONTRAST = """(() => {
  const levels = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => levels(c).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; const l = levels(c);
    if (l.length === 3 || l[3] > 0) return c; } return "rgb(255, 255, 255)"; };
  const bad = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest("noscript, .skip-link, [aria-disabled=true]")) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${e.tagName} ${e.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return bad; })()"""


class Served:
    """``semaug pairs curate`` on scenes in two classes, started and killed at will on one port and token."""

    def __init__(self, folder) -> None:
        self.folder, self.journal = folder, folder / "verdicts.sqlite"
        self._process, self.url, self.port = None, "", "0"

    def start(self) -> str:
        words = [sys.executable, "-c", "from semaug.cli.main import main; main()", "pairs", "curate", "proposals.zarr"]
        words += ["--images", "images", "--journal", self.journal.name, "--per-class", "9", "--port", self.port]
        self._process = subprocess.Popen(
            [*words, "--token-file", "token", "--twice", "0"], cwd=self.folder, stderr=subprocess.PIPE, text=True
        )
        line = self._process.stderr.readline()
        self.url = re.search(r"http://\S+", line)[0]
        self.port = re.search(r":(\d+)/", self.url)[1]
        return self.url

    def hit(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def end(self, number: int = signal.SIGKILL) -> int:
        self.hit(number)
        code = self._process.wait()
        self._process.stderr.close()
        return code

    def verdicts(self) -> list[tuple[str, str, str, tuple[str, ...]]]:
        with Journal(self.journal) as journal:
            return [(j.pair_id, j.curator, j.verdict, j.tags) for j in journal.judgements()]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def served(tmp_path):
    scenes = ScenesSource("train", items=24)
    rows = []
    for i in range(24):
        path = tmp_path / "images" / ("long_class_name_of_a_bird" if i < 12 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(scenes.read(i))).save(path)
    source = open_folder(tmp_path / "images")
    for i in range(0, 24, 2):
        a, b = source.key(i), source.key(i + 1)
        rows.append(SemanticPair(f"p{i // 2:02d}", a.split("/")[0], a, b, scores={"context": i / 24}))
    write_pairs(PairTable.of(rows, "proposals", source.fingerprint), tmp_path / "proposals.zarr")
    served = Served(tmp_path)
    served.start()
    yield served
    served.end()


def sign_in(page, name="c1"):
    page.wait("document.querySelector('#start')?.disabled === false")
    page.run("document.querySelector('#name').focus()")
    page.write(name)
    page.press("Enter")
    page.wait(READY)


def judged(page, count):
    page.wait(f"document.querySelector('#summary').textContent.includes(', {count} judged') && {READY}")


def test_keys_alone_judge_undo_and_mark(browser, served):
    before = len(browser.complaints())
    page = browser.open(served.url, apart=True)
    sign_in(page)
    assert page.text("#class-name") == "dog"
    page.press("1", "4", "a")
    judged(page, 1)
    assert served.verdicts() == [("p00", "c1", "accept", ("background", "illumination"))]
    assert page.text("#status").startswith("Accepted a pair of dog. 1 of 9 accepted, 1 of 6 judged.")
    page.press("r")
    judged(page, 2)
    page.press("s")
    page.wait(f"document.querySelector('#skipped-count').textContent === '1' && {READY}")
    assert [v[:3] for v in served.verdicts()[1:]] == [("p01", "c1", "reject"), ("p02", "c1", "skip")]
    page.press("u")
    page.wait("document.querySelector('#status').textContent.startsWith('Took back: skipped')")
    page.wait(READY)
    page.press("u")
    judged(page, 1)
    page.press("u")
    judged(page, 0)
    pressed = "[...document.querySelectorAll('#tags [aria-pressed=true]')].map((b) => b.dataset.tag)"
    assert page.run(pressed) == ["background", "illumination"], "the tags come back with the pair"
    assert served.verdicts() == []
    page.press("u")
    page.wait("document.querySelector('#status').textContent === 'There is nothing to undo.'")
    assert browser.complaints()[before:] == []


def test_enter_on_the_buttons_judges_where_single_keys_are_off(browser, served):
    page = browser.open(served.url, apart=True)
    sign_in(page)
    page.run("document.querySelector('#single-keys').click()")
    page.press("a", "r", "1")
    time.sleep(0.3)
    assert served.verdicts() == []
    for _ in range(40):
        page.press("Tab")
        if page.run("document.activeElement.id") == "reject":
            break
    page.press("Enter")
    judged(page, 1)
    assert served.verdicts()[0][2] == "reject"


def test_a_key_that_is_held_down_judges_one_pair(browser, served):
    page = browser.open(served.url, apart=True)
    sign_in(page)
    for repeat in (False, True, True, True):
        page.send(
            "Input.dispatchKeyEvent", type="keyDown", key="a", text="a", autoRepeat=repeat, windowsVirtualKeyCode=65
        )
        time.sleep(0.15)
    judged(page, 1)
    assert len(served.verdicts()) == 1


def test_a_reload_keeps_name_pair_and_undo(browser, served):
    page = browser.open(served.url, apart=True)
    sign_in(page)
    page.press("a")
    judged(page, 1)
    pair = page.text("#side-a figcaption")
    page.run("window.old = true")
    page.send("Page.reload")
    page.wait(f"window.old === undefined && document.readyState === 'complete' && {READY}")
    assert page.text("#side-a figcaption") == pair
    assert page.text("#who") == "as c1"
    page.press("u")
    judged(page, 0)
    assert served.verdicts() == []


def test_two_tabs_and_a_second_curator_never_show_one_pair(browser, served):
    first = browser.open(served.url)
    sign_in(first)
    second = browser.open(served.url)
    sign_in(second, "")
    third = browser.open(served.url, apart=True)
    sign_in(third, "c2")
    pages = [first, second, third]
    for _ in range(2):
        shown = [page.text("#side-a figcaption") for page in pages]
        assert len(set(shown)) == 3
        before = len(served.verdicts())
        for page in pages:
            page.press("a")
        wait_for(lambda before=before: len(served.verdicts()) == before + 3, "three verdicts")
        for page in pages:
            page.wait(READY)
    assert len({v[0] for v in served.verdicts()}) == 6
    assert {v[1] for v in served.verdicts()} == {"c1", "c2"}


def test_a_server_that_is_killed_mid_verdict_gets_it_again(browser, served):
    page = browser.open(served.url, apart=True)
    sign_in(page)
    pair = page.text("#side-a figcaption")
    served.hit(signal.SIGSTOP)
    page.press("2", "a")
    time.sleep(0.3)  # the verdict is under way, nobody answers
    served.end(signal.SIGKILL)
    page.wait("document.querySelector('#problem').textContent.includes('held here and sent again')")
    assert page.text("#side-a figcaption") == pair, "no other pair shows before the verdict is kept"
    page.press("r", "a")  # dropped: the page is busy
    served.start()
    judged(page, 1)
    assert page.text("#problem") == ""
    assert [v[1:] for v in served.verdicts()] == [("c1", "accept", ("occlusion",))]


def test_ctrl_c_ends_in_a_summary(browser, served):
    page = browser.open(served.url, apart=True)
    sign_in(page)
    page.press("a")
    judged(page, 1)
    served.hit(signal.SIGINT)
    assert served._process.wait(timeout=20) == 0
    assert "Every verdict is kept" in served._process.stderr.read()
    served._process.stderr.close()
    served.start()


def test_choices_zoom_boxes_and_stopping(browser, served):
    page = browser.open(served.url, apart=True)
    sign_in(page)
    page.run("document.querySelector('#class-choice').value = 'long_class_name_of_a_bird'")
    page.run("document.querySelector('#choice').dispatchEvent(new Event('change'))")
    page.wait(f"document.querySelector('#class-name').textContent.startsWith('long') && {READY}")
    page.press("z")
    page.wait("document.querySelector('#side-a img').src.endsWith('?whole=1')")
    assert page.run("document.querySelector('#side-a .layer').style.transform").endswith("scale(3)")
    page.press("ArrowLeft")
    assert "translate(15%" in page.run("document.querySelector('#side-b .layer').style.transform")
    page.press("z", "b")
    assert page.run("document.querySelector('#side-a .layer').style.transform") == ""
    assert page.run("getComputedStyle(document.querySelector('#side-a svg')).display") == "none"
    page.run("document.querySelector('#stop').click()")
    page.wait("document.querySelector('#desk').hidden")
    with Journal(served.journal) as journal:
        assert journal.lease("c2", "t", count=99)[0].pair_id == "p00", "what the tab held is free again"


def test_scores_choose_and_agreement_is_told(browser, served):
    page = browser.open(served.url, apart=True)
    sign_in(page)
    with Journal(served.journal) as journal:
        for number, curator in enumerate(("c2", "cid", "dan")):
            for pair in ("p03", "p04", "p05"):
                verdict = "reject" if (pair, curator) == ("p05", "dan") else "accept"
                journal.judge(pair, curator, verdict, tab=curator, request=f"{number}{pair}")
    page.run("document.querySelector('#agreement-panel').open = true")
    page.wait("document.querySelectorAll('#agreement tr').length === 3")
    rows = page.run("[...document.querySelectorAll('#agreement tr')].map((row) => row.innerText)")
    assert rows[0].split("\t") == ["c2 and cid", "3", "100.0 %", "both gave one and the same verdict throughout"]
    assert rows[1].split("\t") == ["c2 and dan", "3", "66.7 %", "0.000"]
    page.run("document.querySelector('#score-choice').value = 'context'; document.querySelector('#low').value = 0.9")
    page.run("document.querySelector('#choice').dispatchEvent(new Event('change'))")
    page.wait(f"document.querySelector('#scores').textContent.startsWith('context 0.917') && {READY}")
    page.run("document.querySelector('#low').value = 2")
    page.run("document.querySelector('#choice').dispatchEvent(new Event('change'))")
    page.wait("document.querySelector('#nothing').textContent.startsWith('No pair fits this choice')")
    page.run("document.querySelector('#choice button').click()")
    page.wait(f"!document.querySelector('#class-name').textContent.startsWith('No pair') && {READY}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844), (320, 640)])
def test_it_fits_and_can_be_read(browser, served, width, height, scheme):
    page = browser.open(served.url, apart=True)
    page.show_as(width, height, scheme)
    assert page.run(CONTRAST) == []
    sign_in(page)
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    page.run("document.querySelector('#problem').textContent = 'Something to read'")
    page.press("1")
    assert page.run(CONTRAST) == []
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth"), "nothing to scroll sideways for"
    page.run("document.querySelector('#problem').textContent = ''; scrollTo(0, 0)")
    for name in ("#side-a img", "#side-b img", "#accept", "#undo"):
        box = page.run(
            f"(({{top, bottom}}) => [top, bottom])(document.querySelector('{name}').getBoundingClientRect())"
        )
        assert 0 <= box[0] < box[1] <= height + 1, f"{name} is on the first screen"


def test_what_a_screen_reader_is_told(browser, served):
    page = browser.open(served.url, apart=True)
    sign_in(page)
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    found = [
        (n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"] and "role" in n
    ]
    names = {role: [name for r, name in found if r == role] for role, _ in found}
    assert {"Accept A", "Reject R", "Skip S", "Undo U", "Zoom Z"} <= set(names["button"])
    assert all(
        name for role in ("button", "combobox", "spinbutton", "textbox", "image") for name in names.get(role, [])
    )
    assert names["image"] == ["Image A of dog, 0 boxes", "Image B of dog, 0 boxes"]
    assert {"Verdict", "What differs between the two", "View"} <= set(names["group"])
    assert "status" in names
    assert "alert" in names
    assert page.run("document.activeElement.id") == "class-name"
    assert page.run("document.documentElement.lang") == "en"
