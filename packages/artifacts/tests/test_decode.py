import io
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from semaug.artifacts import decode
from semaug.artifacts.decode import decode_image, encode_jpeg, encode_png, image_size, resize_short_side
from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.testing import READABLE, UNREADABLE, bomb_png, images, ramp, write_difficult_folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return write_difficult_folder(tmp_path_factory.mktemp("zoo"))


@given(images(max_side=20))
@settings(max_examples=40, deadline=None)
def test_png_round_trip(image):
    assert np.array_equal(decode_image(encode_png(image)), image)


@pytest.mark.parametrize("name", READABLE)
def test_every_mode_becomes_rgb(zoo, name):
    data = (zoo / name).read_bytes()
    image = decode_image(data)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.flags.writeable
    assert image_size(data) == image.shape[:2]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bomb.png", "decompression bomb"),
        ("empty.jpg", "0 bytes"),
        ("text.jpg", "not an image"),
        ("truncated.jpg", "(?i)truncated"),
    ],
)
def test_what_cannot_be_decoded_says_why(zoo, name, reason):
    with pytest.raises(UnreadableImage, match=reason) as caught:
        decode_image((zoo / name).read_bytes())
    assert "\n" not in str(caught.value)


def test_the_zoo_is_covered(zoo):
    assert {p.name for p in zoo.iterdir()} == {*READABLE, *UNREADABLE}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(zoo, orientation):
    upright = ramp(24, 32).astype(int)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, 1),
    }[orientation]
    image = decode_image((zoo / f"exif{orientation}.jpg").read_bytes())
    assert image.shape == turned.shape
    assert np.abs(image - turned).mean() < 4


def test_sixteen_bit_is_scaled_not_clipped(zoo):
    image = decode_image((zoo / "sixteen bit.png").read_bytes())
    expected = np.rint(np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16) / 257)
    assert np.array_equal(image[:, :, 1], expected)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 128), (200.0, 100)])
def test_float_greys(scale, expected):
    file = io.BytesIO()
    values = np.full((4, 4), 0.5 * scale, np.float32)
    values[0, 0] = scale
    Image.fromarray(values).save(file, "TIFF")
    assert decode_image(file.getvalue())[2, 2, 0] == expected


def test_nan_is_refused():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(file, "TIFF")
    with pytest.raises(UnreadableImage, match="NaN"):
        decode_image(file.getvalue())


def test_alpha_is_composited_on_black(zoo):
    image = decode_image((zoo / "alpha.png").read_bytes()).astype(int)
    assert np.abs(image - ramp(24, 32) * (128 / 255)).max() <= 1


def test_cmyk_keeps_its_colours(zoo):
    image = decode_image((zoo / "cmyk.jpg").read_bytes()).astype(int)
    assert np.abs(image - ramp(24, 32)).mean() < 4


def test_bomb_limit_is_ours(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 99)
    with pytest.raises(UnreadableImage, match="10 x 10 is more than the 99"):
        decode_image(encode_png(np.zeros((10, 10, 3), np.uint8)))
    assert decode_image(encode_png(np.zeros((9, 11, 3), np.uint8))).shape == (9, 11, 3)


def test_no_warning_leaks_from_any_thread():
    """A bomb between Pillow's two limits warns inside Pillow; nothing of it comes out, and filters are restored."""
    before = list(warnings.filters)
    data = bomb_png(10_000, 12_000)
    reasons = []

    def work():
        for _ in range(10):
            try:
                decode_image(data)
            except UnreadableImage as error:
                reasons.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reasons) == 40
    assert list(warnings.filters) == before


def test_encode_jpeg_is_close():
    image = ramp(40, 60)
    assert np.abs(decode_image(encode_jpeg(image)).astype(int) - image).max() < 12


@pytest.mark.parametrize(("shape", "size", "expected"), [
    ((100, 50), 25, (50, 25)), ((50, 100), 25, (25, 50)), ((33, 100), 10, (10, 30)), ((10, 10), 20, (20, 20)),
    ((1, 300), 2, (2, 600)),
])  # fmt: skip
def test_resize_moves_the_short_side(shape, size, expected):
    assert resize_short_side(ramp(*shape), size).shape == (*expected, 3)


def test_resize_never_crops():
    """The corners' colours stay: a crop would lose the ends of the ramp."""
    image = ramp(200, 400)
    small = resize_short_side(image, 50).astype(int)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert np.abs(small[corner] - image[corner]).max() < 6


def test_resize_refuses_what_would_be_a_bomb(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 10_000)
    with pytest.raises(UnreadableImage, match="resized"):
        resize_short_side(ramp(1, 5000), 100)
