"""Targets: encoded images, lists of images, specs, and the files of named data sets."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tests.fuzzing.target import Target

from semaug.artifacts.decode import decode_image, image_size
from semaug.artifacts.errors import UnreadableImage
from semaug.artifacts.sources import open_source
from semaug.artifacts.testing import write_image_folder

PIXELS = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
_KINDS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")


def encoded(pixels: np.ndarray, kind: str, mode: str = "", **options: object) -> bytes:
    """An image file."""
    file, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def image_files() -> tuple[bytes, ...]:
    """Small valid files of every format, and of the odd modes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    wide = np.arange(48, dtype=np.uint16).reshape(8, 6) * 1000
    return (
        *(encoded(PIXELS, kind) for kind in _KINDS),
        encoded(PIXELS, "JPEG", exif=exif),
        encoded(PIXELS, "JPEG", progressive=True),
        encoded(PIXELS, "JPEG", "CMYK"),
        encoded(PIXELS, "PNG", "P"),
        encoded(PIXELS, "PNG", "RGBA"),
        encoded(PIXELS, "PNG", "1"),
        encoded(wide, "PNG"),
        encoded(wide, "TIFF"),
        encoded(PIXELS[..., 0].astype(np.float32), "TIFF"),
        encoded(PIXELS, "TIFF", compression="tiff_deflate"),
        encoded(PIXELS, "WEBP", lossless=True),
        animated.getvalue(),
    )


def _parse_image(data: bytes, place: Path) -> None:
    try:
        size = image_size(data)
    except UnreadableImage:
        size = None
    pixels = decode_image(data)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape == (*(size or pixels.shape[:2]), 3), (pixels.shape, size)


def _read_all(spec: str | Path) -> None:
    source = open_source(spec)
    assert source.fingerprint
    for index in range(min(len(source), 20)):
        source.key(index)
        source.label(index)
        try:
            source.read(index)
        except UnreadableImage:
            continue


def _prepare_list(place: Path) -> tuple[bytes, ...]:
    write_image_folder(place, 2, side=8)
    return (
        b"path,label\ncat/image000.png,cat\ndog/image001.png,dog\n",
        b"path\ndog/image001.png\n",
        b'\xef\xbb\xbflabel,path\r\n3,"cat/image000.png"\r\n',
    )


def _parse_csv_list(data: bytes, place: Path) -> None:
    (place / "list.csv").write_bytes(data)
    _read_all(place / "list.csv")


def _prepare_parquet_list(place: Path) -> tuple[bytes, ...]:
    import pyarrow
    import pyarrow.parquet as parquet

    write_image_folder(place, 2, side=8)
    table = pyarrow.table({"path": ["cat/image000.png", "dog/image001.png"], "label": [0, 1]})
    file = io.BytesIO()
    parquet.write_table(table, file)
    return (file.getvalue(),)


def _parse_parquet_list(data: bytes, place: Path) -> None:
    (place / "list.parquet").write_bytes(data)
    _read_all(place / "list.parquet")


def _prepare_specs(place: Path) -> tuple[bytes, ...]:
    root = write_image_folder(place, 2, side=8)
    named = (f"{name}:train?root={root / 'none'}" for name in ("cifar10", "stl10", "pets", "imagenet100", "food101"))
    return (f"{root}".encode(), b"scenes:train?items=3&seed=1", *(spec.encode() for spec in named))


def _parse_spec(data: bytes, place: Path) -> None:
    text = data.decode("utf-8", "surrogateescape")
    if not text.startswith(("hf:", "torchvision:")):  # libraries of others, which take seconds to import
        source = open_source(text)
        source.key(0)
        source.read(0)


def _prepare_cifar(place: Path) -> tuple[bytes, ...]:
    rows = np.zeros((2, 3072), np.uint8)
    meta = {b"label_names": [b"cat", b"dog"]}
    (place / "batches.meta").write_bytes(pickle.dumps(meta, 2))
    return pickle.dumps({b"data": rows, b"labels": [0, 1]}, 2), pickle.dumps({"data": rows, "labels": [0, 1]}, 5)


def _parse_cifar(data: bytes, place: Path) -> None:
    (place / "test_batch").write_bytes(data)
    _read_all(f"cifar10:test?root={place}")


def _prepare_npz(place: Path) -> tuple[bytes, ...]:
    found = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, test_images=np.zeros((2, 28, 28, 3), np.uint8), test_labels=np.zeros((2, 1), np.uint8))
        found.append(file.getvalue())
    return tuple(found)


def _parse_npz(data: bytes, place: Path) -> None:
    (place / "pathmnist.npz").write_bytes(data)
    _read_all(f"pathmnist:test?root={place}")


def _prepare_mat(place: Path) -> tuple[bytes, ...]:
    from scipy.io import savemat

    (place / "jpg").mkdir()
    for number in (1, 2):
        (place / "jpg" / f"image_{number:05d}.jpg").write_bytes(encoded(PIXELS, "JPEG"))
    split = io.BytesIO()
    savemat(split, {"trnid": [1], "valid": [1], "tstid": [1, 2]})
    (place / "setid.mat").write_bytes(split.getvalue())
    found = []
    for compressed in (False, True):
        file = io.BytesIO()
        savemat(file, {"labels": [1, 2]}, do_compression=compressed)
        found.append(file.getvalue())
    return tuple(found)


def _parse_mat(data: bytes, place: Path) -> None:
    (place / "imagelabels.mat").write_bytes(data)
    _read_all(f"flowers102:test?root={place}")


def _prepare_names(place: Path) -> tuple[bytes, ...]:
    for folder in ("annotations", "images"):
        (place / folder).mkdir()
    (place / "images" / "Abyssinian_1.jpg").write_bytes(encoded(PIXELS, "JPEG"))
    return (b"#comment\nAbyssinian_1 1 1 1\nBeagle_2 2 2 1\n",)


def _parse_names(data: bytes, place: Path) -> None:
    (place / "annotations" / "test.txt").write_bytes(data)
    _read_all(f"pets:test?root={place}")


def zipped(**members: bytes) -> bytes:
    """A zip file of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def gzipped(data: bytes) -> bytes:
    """``data`` in gzip, the same bytes every time."""
    return gzip.compress(data, mtime=0)


TARGETS = (
    Target("image", lambda place: image_files(), _parse_image),
    Target("image-list-csv", _prepare_list, _parse_csv_list, roams=True),
    Target("image-list-parquet", _prepare_parquet_list, _parse_parquet_list, roams=True),
    Target("source-spec", _prepare_specs, _parse_spec, roams=True),
    Target("cifar-pickle", _prepare_cifar, _parse_cifar),
    Target("npz", _prepare_npz, _parse_npz),
    Target("mat", _prepare_mat, _parse_mat, reserves=True),
    Target("named-list", _prepare_names, _parse_names),
)
