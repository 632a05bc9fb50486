"""The same seed gives the same artifact: whatever the workers, the engine, the threads, and where it was stopped.

docs/guide/determinism.md names the tests of the stages that are not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.index import index_source
from semaug.artifacts.pack import pack_images
from semaug.artifacts.progress import Progress
from semaug.artifacts.shards import Workers
from semaug.artifacts.sources import open_source
from semaug.artifacts.verify import verify
from semaug.oracles.extract import extract_guidance
from semaug.pairs_dataset.materialize import materialize_crops
from semaug.quality_policy.table import score_source
from semaug.studies.proposing import propose

ROOT = Path(__file__).resolve().parents[1]
Make = Callable[..., object]


class Stopped(Exception):
    """A stage was stopped on purpose."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fourteen small images of two classes: a block on a slope, each in its own place and colours, with noise."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(14):
        draws = np.random.default_rng(number)
        pixels = np.linspace(40, 160, 96)[None, :, None] + draws.uniform(-30, 30, (1, 1, 3)) + np.zeros((80, 1, 1))
        top, left = draws.integers(8, 30, 2)
        pixels[top : top + 34, left : left + 40] = draws.uniform(0, 255, 3)
        pixels += draws.normal(0, 6, pixels.shape)
        place = folder / "ab"[number % 2] / f"{number:02d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place)
    return str(folder)


def _propose(source, out, **running):
    return propose(source.spec, out, **running)


def _materialize(source, out, **running):
    guidance = out.with_name("guidance.zarr")
    if not guidance.exists():
        extract_guidance(source, guidance, granularity="object", shard_size=4)
    return materialize_crops(source, GuidanceTable.open(guidance), out, shard_size=4, **running)


STAGES: dict[str, Make] = {
    "index": index_source,
    "pack": lambda source, out, **running: pack_images(source, out, size=48, format="jpeg", shard_size=4, **running),
    "quality": lambda source, out, **running: score_source(source, out, shard_size=4, **running),
    "extract": lambda source, out, **running: extract_guidance(source, out, shard_size=4, **running),
    "materialize": _materialize,
    "propose": _propose,
}
"""Stages that need no weights, each on the same images."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """``count`` threads in every library that computes."""
    import cv2
    import numba
    import torch

    before = cv2.getNumThreads(), numba.get_num_threads(), torch.get_num_threads()
    for use, number in zip(
        (cv2.setNumThreads, numba.set_num_threads, torch.set_num_threads), (count,) * 3, strict=True
    ):
        use(min(number, numba.config.NUMBA_NUM_THREADS) if use is numba.set_num_threads else number)
    try:
        yield
    finally:
        for use, number in zip((cv2.setNumThreads, numba.set_num_threads, torch.set_num_threads), before, strict=True):
            use(number)


def digest(images: str, folder: Path, stage: str, name: str, workers: Workers = 1) -> str:
    """The digest of a stage's artifact, made in a place of its own from the same images."""
    where = folder / name
    where.mkdir()
    STAGES[stage](open_source(images), where / stage, workers=workers)
    found = verify(where / stage)
    assert found.problems == ()
    return found.digest


@pytest.mark.parametrize("stage", STAGES)
def test_threads_and_a_stop_do_not_change_an_artifact(tmp_path, images, stage):
    def stop(event: Progress) -> None:
        if event.done >= 5:
            raise Stopped

    with threads(1):
        expected = digest(images, tmp_path, stage, "one")
    with threads(2):
        assert digest(images, tmp_path, stage, "two") == expected
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    with pytest.raises(Stopped):
        STAGES[stage](open_source(images), stopped / stage, on_progress=stop)
    STAGES[stage](open_source(images), stopped / stage)
    assert verify(stopped / stage).digest == expected


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_workers_and_engines_write_the_bytes_of_one_process(tmp_path, images, engine, request):
    if engine == "ray" and find_spec("ray") is None:
        pytest.skip("ray is not installed")
    for stage in STAGES:
        expected = digest(images, tmp_path, stage, f"{stage}-one")
        assert (
            digest(images, tmp_path, stage, f"{stage}-many", request.getfixturevalue(f"{engine}_workers")) == expected
        ), stage


@pytest.fixture
def local_workers() -> int:
    return 3


@pytest.fixture
def ray_workers():
    from semaug.artifacts.ray_engine import RayEngine

    with RayEngine(workers=2) as engine:
        yield engine


def test_every_test_that_the_page_names_is_there():
    page = (ROOT / "docs" / "guide" / "determinism.md").read_text()
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    files = [*ROOT.glob("tests/test_*.py"), *ROOT.glob("packages/*/tests/test_*.py")]
    texts = "\n".join(path.read_text() for path in files)
    assert [name for name in named if f"def {name}(" not in texts] == []
