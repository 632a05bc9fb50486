"""Every detector that needs no download, on images that nobody took: usable boxes, or an image marked as a miss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.sources import ArraySource
from semaug.oracles.annotations import box_overlaps
from semaug.oracles.catalogue import BUILT_IN, OracleSpec, open_detector
from semaug.oracles.extract import extract_guidance
from semaug.oracles.protocols import AnyDetector, Detector
from semaug.oracles.selection import MIN_SIDE, box_areas

OFFLINE = [name for name in ("saliency", "center", "objectness") if name in BUILT_IN["detector"]]
LOOKS_AT_PIXELS = [name for name in OFFLINE if name != "center"]


def of_one_colour(level: int = 128) -> np.ndarray:
    return np.full((90, 120, 3), level, np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_007 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)


def panorama(height: int, width: int) -> np.ndarray:
    """A bright square on a dark strip."""
    image = np.full((height, width, 3), 40, np.uint8)
    side = min(height, width) // 2
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = (220, 180, 60)
    return image


def salt(count: int = 4000) -> np.ndarray:
    """Thousands of bright dots of 2 x 2 pixels on black."""
    image = np.zeros((480, 640, 3), np.uint8)
    rng = np.random.default_rng(5)
    for y, x in zip(rng.integers(0, 478, count), rng.integers(0, 638, count), strict=True):
        image[y : y + 2, x : x + 2] = 255
    return image


def grey() -> np.ndarray:
    """A picture without colour: three equal channels, a bright disc on a ramp."""
    ramp = np.tile(np.linspace(30, 90, 160), (120, 1))
    y, x = np.mgrid[:120, :160]
    ramp[(y - 60) ** 2 + (x - 100) ** 2 < 30**2] = 230
    return np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=2)


BAD_IMAGES = {
    "one colour": of_one_colour(),
    "black": of_one_colour(0),
    "white": of_one_colour(255),
    "8 px": noise(8, 8),
    "8 px of one colour": of_one_colour()[:8, :8],
    "1 px": noise(1, 1),
    "1:20 panorama": panorama(1200, 60),
    "20:1 panorama": panorama(60, 1200),
    "one row": noise(1, 400),
    "thousands of objects": salt(),
    "grey": grey(),
    "noise": noise(200, 300),
    "checkerboard": np.kron(np.indices((60, 80)).sum(0) % 2, np.ones((4, 4)))[..., None].repeat(3, 2).astype(np.uint8)
    * 255,
}


@pytest.fixture(scope="module", params=OFFLINE)
def detector(request: pytest.FixtureRequest) -> AnyDetector:
    return open_detector(OracleSpec(request.param))


def boxes_of(detector: AnyDetector, *images: np.ndarray) -> list[np.ndarray]:
    assert isinstance(detector, Detector)
    return detector.detect(list(images))


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_boxes_keep_to_the_protocol(detector: AnyDetector, name: str) -> None:
    image = BAD_IMAGES[name]
    before = image.copy()
    found = boxes_of(detector, image)
    assert len(found) == 1
    assert found[0].dtype == np.float32
    assert found[0].ndim == 2
    assert found[0].shape[1] == 4
    assert np.isfinite(found[0]).all()
    assert len(found[0]) <= 20
    assert (box_areas(found[0]) > 0).all()
    assert (found[0][:, :2] >= -0.5).all()
    assert (found[0][:, 2:] <= np.array(image.shape[1::-1]) + 0.5).all()
    np.testing.assert_array_equal(image, before)


def test_the_same_boxes_come_again_and_in_any_company(detector: AnyDetector) -> None:
    images = list(BAD_IMAGES.values())
    together = boxes_of(detector, *images)
    for image, found in zip(images[::-1], together[::-1], strict=True):
        alone = boxes_of(detector, image)[0]
        assert alone.shape == found.shape
        np.testing.assert_allclose(alone, found, rtol=1e-4, atol=0.05)


def test_no_images_give_no_boxes(detector: AnyDetector) -> None:
    assert boxes_of(detector) == []


@pytest.mark.parametrize("shape", [(1200, 60), (60, 1200)])
def test_the_object_of_a_panorama_is_found_by_saliency(shape: tuple[int, int]) -> None:
    found = boxes_of(open_detector(OracleSpec("saliency")), panorama(*shape))[0]
    middle = np.tile(np.array(shape[::-1]) / 2, 2)
    assert box_overlaps(middle[None] + (-15, -15, 15, 15), found[:1]).max() >= 0.5


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("name", LOOKS_AT_PIXELS)
def test_an_image_of_one_colour_is_a_miss_that_takes_standard_views(name: str, level: int, tmp_path: Path) -> None:
    source = ArraySource(np.stack([of_one_colour(level)] * 2))
    extract_guidance(source, tmp_path / "g.zarr", detector=OracleSpec(name), granularity="object")
    table = GuidanceTable.open(tmp_path / "g.zarr")
    rows = [table.get(source.key(i)) for i in range(2)]
    assert [row is not None and row.fallback and not len(row.boxes) for row in rows] == [True, True]


@pytest.mark.parametrize("name", OFFLINE)
def test_bad_images_become_guidance_and_none_is_lost(name: str, tmp_path: Path) -> None:
    source = ArraySource(list(BAD_IMAGES.values()))
    summary = extract_guidance(source, tmp_path / "g.zarr", detector=OracleSpec(name), granularity="object")
    table = GuidanceTable.open(tmp_path / "g.zarr")
    assert (len(table), summary.skipped) == (len(BAD_IMAGES), ())
    for i, image in enumerate(BAD_IMAGES.values()):
        row = table.get(source.key(i))
        assert row is not None
        assert (row.height, row.width) == image.shape[:2]
        assert row.fallback == (len(row.boxes) == 0)
        assert (row.boxes[:, 2:] - row.boxes[:, :2] >= MIN_SIDE).all()
        assert (row.boxes[:, :2] >= 0).all()
        assert (row.boxes[:, 2:] <= np.array(image.shape[1::-1])).all()
