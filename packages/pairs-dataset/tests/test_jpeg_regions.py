"""Parts of JPEG files: bit-equal to the full decode, or left to it."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.pack import pack_images
from semaug.artifacts.schemas import Guidance
from semaug.artifacts.sources import open_source
from semaug.pairs_dataset import PairSource, make_pairs
from semaug.pairs_dataset import jpeg_regions as regions
from semaug.pairs_dataset.jpeg_regions import JpegFile

SUBSAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours with noise and edges, so that all kinds of coefficients occur."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noise = rng.normal(0, 12, (height, width, 3))
    noise[: height // 2, : width // 2] = 0
    smooth[height // 3 : height // 2, width // 3 :] = rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def check_boxes(data: bytes, count: int, seed: int = 0) -> None:
    file = JpegFile.of(data)
    assert file is not None
    whole, rng = decode_image(data), np.random.default_rng(seed)
    assert (file.height, file.width) == whole.shape[:2]
    for _ in range(count):
        height, width = int(rng.integers(1, file.height + 1)), int(rng.integers(1, file.width + 1))
        top, left = int(rng.integers(0, file.height - height + 1)), int(rng.integers(0, file.width - width + 1))
        found = file.read((top, left, height, width))
        assert found is not None
        np.testing.assert_array_equal(found, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("sampling", SUBSAMPLING)
@pytest.mark.parametrize("size", [(97, 131), (128, 64), (17, 300), (33, 19)])
@pytest.mark.parametrize("optimize", [False, True])
def test_a_part_is_bit_equal_to_the_full_decode(sampling: str, size: tuple[int, int], optimize: bool) -> None:
    for quality in (30, 75, 100):
        data = encoded(picture(*size), quality=quality, subsampling=SUBSAMPLING[sampling], optimize=optimize)
        check_boxes(data, 12)


DATA = Path(os.environ.get("SEMAUG_TEST_DATA", Path(__file__).resolve().parents[4] / "shared")) / "data"
PHOTOGRAPHS = sorted(f for name in ("imagenet100", "coco128") for f in (DATA / name).rglob("*.[jJ][pP]*"))


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS, reason=f"no photographs in {DATA}; set SEMAUG_TEST_DATA")
def test_parts_of_photographs() -> None:
    """As they are (baseline, one of them grey), and encoded anew in other layouts."""
    for n, path in enumerate(PHOTOGRAPHS):
        data = path.read_bytes()
        check_boxes(data, 6, n)
        turned = Image.Exif()
        turned[0x0112] = 1 + n % 8
        with Image.open(io.BytesIO(data)) as image:
            layout = {"quality": 40 + n % 60, "subsampling": n % 3, "restart_marker_rows": n // 3 % 2}
            again = encoded(image, exif=turned, optimize=n % 2 == 0, **layout)
            assert JpegFile.of(encoded(image, progressive=True)) is None
        check_boxes(again, 6, n)


@pytest.mark.parametrize("restart", [1, 3, 7])
def test_with_restart_markers(restart: int) -> None:
    check_boxes(encoded(picture(90, 110), subsampling=2, restart_marker_blocks=restart), 20)


def test_in_grey() -> None:
    check_boxes(encoded(picture(90, 110).convert("L")), 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_by_exif(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    check_boxes(encoded(picture(60, 90), exif=exif), 8)


def test_a_table_without_the_differences_that_a_cut_brings_about() -> None:
    """Flat rows, darker from left to right: the file's own table has no code for the jump back to the left edge."""
    ramp = np.repeat(np.linspace(0, 255, 640).astype(np.uint8)[None], 64, axis=0)
    data = encoded(Image.fromarray(np.stack([ramp] * 3, axis=2)), quality=100, optimize=True, subsampling=0)
    check_boxes(data, 20)


@pytest.mark.parametrize(("mode", "progressive"), [("RGB", True), ("L", True), ("CMYK", False)])
def test_what_cannot_be_skipped_is_left_to_the_full_decode(mode: str, progressive: bool) -> None:
    assert JpegFile.of(encoded(picture(40, 40).convert(mode), progressive=progressive)) is None


def test_other_bytes_are_no_file() -> None:
    file = io.BytesIO()
    picture(20, 20).save(file, "PNG")
    assert JpegFile.of(file.getvalue()) is None
    assert JpegFile.of(b"") is None


def test_a_file_that_ends_early_is_left_to_the_full_decode() -> None:
    data = encoded(picture(200, 200))
    for length in range(2, len(data) - 1, 211):
        file = JpegFile.of(data[:length])
        assert file is None or file.read((0, 0, 8, 8)) is None


def test_a_box_outside_is_refused() -> None:
    file = JpegFile.of(encoded(picture(40, 50)))
    assert file is not None
    with pytest.raises(ValueError, match="does not lie in an image of 40 x 50"):
        file.read((0, 20, 10, 31))


DAMAGED = encoded(picture(64, 80), subsampling=2, optimize=True)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(2, len(DAMAGED) - 1), bits=st.integers(1, 255), top=st.integers(0, 40), left=st.integers(0, 60))
def test_a_changed_byte_gives_the_full_decode_or_nothing(at: int, bits: int, top: int, left: int) -> None:
    data = DAMAGED[:at] + bytes([DAMAGED[at] ^ bits]) + DAMAGED[at + 1 :]
    file = JpegFile.of(data)
    found = None if file is None or file.height < top + 9 or file.width < left + 9 else file.read((top, left, 9, 9))
    if found is None:
        return
    try:
        whole = decode_image(data)
    except UnreadableImage:
        pytest.fail("a part was read of a file that the full decode refuses")
    np.testing.assert_array_equal(found, whole[top : top + 9, left : left + 9])


def test_a_table_of_too_long_codes_is_left_out() -> None:
    counts = bytes([0] * 15 + [5])
    segment = regions._completed(0, counts, bytes(range(5)))
    assert segment == b""
    complete = regions._completed(1, bytes([0, 2] + [0] * 14), b"\x01\x05")
    assert struct.unpack(">H", complete[2:4])[0] == len(complete) - 2
    assert sorted(complete[21:]) == list(range(12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Large files of several kinds; one is a PNG, one progressive."""
    root = tmp_path / "images"
    root.mkdir()
    for n, sampling in enumerate((0, 1, 2)):
        picture(300, 400, n).save(root / f"{n}.jpg", quality=90, subsampling=sampling)
    picture(300, 400, 3).save(root / "3.jpg", progressive=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(300, 400, 4).save(root / "4.jpg", exif=exif)
    picture(300, 400, 5).save(root / "5.png")
    return root


def pairs_of(name: str, images: str | Path) -> PairSource:
    source = open_source(str(images))
    boxes = np.array([[40, 60, 170, 180]], np.float32)
    table = GuidanceTable.of([Guidance(source.key(i), 300, 300, boxes=boxes) for i in range(len(source))])
    return make_pairs(name, source, size=32, seed=3, guidance=table if name == "guided" else None)


def views_of(pairs: PairSource) -> NDArray[np.float32]:
    found = []
    for epoch in (0, 4, 8):  # in two of which both standard views of an image lie in a small part of it
        pairs.set_epoch(epoch)
        found += [np.stack([view.numpy() for view in pairs[item][:2]]) for item in range(len(pairs))]
    return np.stack(found)


@pytest.mark.parametrize("name", ["guided", "standard"])
@pytest.mark.parametrize("packed", [False, True])
def test_views_are_the_same_with_and_without(
    name: str, packed: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = folder
    if packed:
        images = tmp_path / "pack.zarr"
        pack_images(open_source(str(folder)), images, format="jpeg")
    read: list[regions.Box] = []
    original = JpegFile.read

    def counted(self: JpegFile, box: regions.Box) -> NDArray[np.uint8] | None:
        read.append(box)
        return original(self, box)

    monkeypatch.setattr(JpegFile, "read", counted)
    parts = views_of(pairs_of(name, images))
    assert read, "no part was decoded"
    monkeypatch.setattr(JpegFile, "of", classmethod(lambda cls, data: None))
    count = len(read)
    np.testing.assert_array_equal(parts, views_of(pairs_of(name, images)))
    assert len(read) == count


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(encoded(picture(300, 400))[:5000])
    pairs = make_pairs("standard", open_source(str(tmp_path)), size=32)
    with pytest.raises(UnreadableImage, match=r"bad\.jpg: .*semaug data pack"):
        pairs[0]
