"""Every parser of outside data given spoiled input: refused in one line or read, in bounded time and memory, with
nothing opened outside its folder. ``tools/fuzz.py`` does the same for as long as one likes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzzing.catalogue import TARGETS
from tests.fuzzing.guard import PROCESSOR_SECONDS, watched
from tests.fuzzing.mutation import mutated
from tests.fuzzing.target import Bench, Finding, Target

REPOSITORY = Path(__file__).parents[1]
NONSENSE = (
    b"", b"\0", b"\n", b"\xff\xfe", b"null", b"[]", b"{}", b"0", b'"\\ud800"', b"[" * 100_000, b'{"a":' * 50_000,
    b"<a>" * 50_000, b"9" * 10_000, b"a=" + b"[" * 50_000, b",\n" * 1000,
    b"\x80\x04" + b"(" * 1000, b"\x93NUMPY\x01\x00",
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore")  # what libraries think of damaged files


_open: dict[str, Bench] = {}


def opened(name: str) -> Bench:
    """A target's bench, which the tests of this file share."""
    if name not in _open:
        _open[name] = Bench(TARGETS[name])
    return _open[name]


@pytest.fixture(scope="module", autouse=True)
def _closed():
    yield
    for made in _open.values():
        made.close()


@pytest.mark.parametrize("name", [n for n, t in TARGETS.items() if not t.heavy])
def test_spoiled_input_is_refused_or_read(name):
    made = opened(name)

    @settings(max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(made.seeds), st.randoms(use_true_random=False))
    def examine(seed: bytes, random: Random) -> None:
        made.examine(mutated(seed, made.target.form, random))

    examine()


@pytest.mark.parametrize("name", [n for n, t in TARGETS.items() if not t.heavy])
def test_nonsense_is_refused_or_read(name):
    for data in NONSENSE:
        opened(name).examine(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_input_for_some_seconds(name):
    made, random = opened(name), Random(name)
    for _ in range(1500):
        made.examine(mutated(random.choice(made.seeds), made.target.form, random))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs uv sync --group fuzz")
@pytest.mark.parametrize("name", ["voc", "run-lengths", "pairs-csv", "image", "artifact-manifest", "chat-answer"])
def test_coverage_guided_fuzzing_for_some_seconds(name, tmp_path):
    words = [sys.executable, "tools/fuzz.py", name, "--seconds", "5", "--findings", str(tmp_path)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stat::number_of_executed_units" in done.stderr


def a_target(parse) -> Bench:
    return Bench(Target("a test's own", lambda place: (b"fine",), lambda data, place: data == b"fine" or parse(place)))


@pytest.mark.parametrize(
    ("parse", "found"),
    [
        (lambda place: {}["missing"], "KeyError"),
        (lambda place: Path("/etc/passwd").read_bytes(), "open /etc/passwd"),
        (lambda place: (place.parent / "outside-of-its-folder").write_bytes(b""), "for writing"),
        (lambda place: bytearray(2 << 30), "MemoryError"),
        (lambda place: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda place: __import__("pickle").loads(b"cos\ngetcwd\n."), "pickle.find_class"),
    ],
)
def test_the_watch_itself_sees_what_must_not_be(parse, found):
    made = a_target(parse)
    with pytest.raises(Finding, match=found):
        made.examine(b"spoiled")
    (made.place.parent / "outside-of-its-folder").unlink(missing_ok=True)
    made.close()


def test_the_watch_itself_ends_a_hang(monkeypatch):
    monkeypatch.setattr("tests.fuzzing.guard.PROCESSOR_SECONDS", 0.05)
    assert PROCESSOR_SECONDS > 1

    def hang(place):
        while True:
            try:
                sum(range(1000))
            except Exception:  # no parser's own handler may take it
                continue

    made = a_target(hang)
    with pytest.raises(Finding, match="processor"):
        made.examine(b"spoiled")
    made.close()


def test_nothing_is_watched_outside_of_a_watch(tmp_path):
    with watched(tmp_path) as watch:
        pass
    (tmp_path / "later").write_bytes(b"")
    assert not watch.seen
