"""Named sets whose images lie in a few large files: CIFAR-10, CIFAR-100, STL-10, PathMNIST."""

from __future__ import annotations

import codecs
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources.named.layout import ArrayRows, Request
from semaug.artifacts.sources.query import whole_number

PATHMNIST_CLASSES = (
    "adipose",
    "background",
    "debris",
    "lymphocytes",
    "mucus",
    "smooth muscle",
    "normal colon mucosa",
    "cancer-associated stroma",
    "colorectal adenocarcinoma epithelium",
)
PATHMNIST_SIZES = (28, 64, 128, 224)
UNPACKED_LIMIT = 4 << 30
"""Compressed arrays up to this many bytes are unpacked into memory."""
_CIFAR_PIXELS = 3 * 32 * 32
_STL_SIDE = 96


def open_cifar10(request: Request) -> ArrayRows:
    """CIFAR-10 in its Python or its binary version."""
    train = request.split == "train"
    if (folder := _folder(request, "data_batch_1.bin", "cifar-10-batches-bin")) is not None:
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
        pixels, labels = _records(request, [folder / name for name in names], before=1)
        return _cifar(request, pixels, labels, request.lines(folder / "batches.meta.txt"))
    folder = request.base("batches.meta", "cifar-10-batches-py")
    names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
    parts = [_pickled(request, folder / name, "data", "labels") for name in names]
    (classes,) = _pickled(request, folder / "batches.meta", "label_names")
    return _cifar(request, _joined(p for p, _ in parts), _joined(y for _, y in parts), _texts(classes))


def open_cifar100(request: Request) -> ArrayRows:
    """CIFAR-100 in its Python or its binary version, with its 100 (fine) classes."""
    if (folder := _folder(request, f"{request.split}.bin", "cifar-100-binary")) is not None:
        pixels, labels = _records(request, [folder / f"{request.split}.bin"], before=2)
        return _cifar(request, pixels, labels, request.lines(folder / "fine_label_names.txt"))
    folder = request.base("meta", "cifar-100-python")
    pixels, labels = _pickled(request, folder / request.split, "data", "fine_labels")
    (classes,) = _pickled(request, folder / "meta", "fine_label_names")
    return _cifar(request, pixels, labels, _texts(classes))


def open_stl10(request: Request) -> ArrayRows:
    """STL-10's binary files, through a memory map; the split ``unlabeled`` has no labels."""
    folder = request.base("train_X.bin", "stl10_binary")
    path = request.require(folder / f"{request.split}_X.bin")
    size, each = path.stat().st_size, 3 * _STL_SIDE**2
    if size == 0 or size % each:
        raise request.broken(path, f"has {size} bytes, not a multiple of the {each} of one image")
    columns = np.memmap(path, np.uint8, "r").reshape(-1, 3, _STL_SIDE, _STL_SIDE)
    images = columns.transpose(0, 3, 2, 1)  # written column by column
    if request.split == "unlabeled":
        return ArrayRows(request, images, None, ())
    labels = np.fromfile(request.require(folder / f"{request.split}_y.bin"), np.uint8).astype(np.int64) - 1
    return ArrayRows(request, images, labels, request.lines(folder / "class_names.txt"))


def open_pathmnist(request: Request) -> ArrayRows:
    """MedMNIST's ``pathmnist.npz`` or, for ``size=`` 64, 128 or 224, ``pathmnist_SIZE.npz``; or either unpacked."""
    size = whole_number(request.spec, dict(request.options), "size") or PATHMNIST_SIZES[0]
    if size not in PATHMNIST_SIZES:
        raise SourceError(f"{request.spec}: size={size}; PathMNIST comes in {', '.join(map(str, PATHMNIST_SIZES))}")
    stem = "pathmnist" if size == PATHMNIST_SIZES[0] else f"pathmnist_{size}"
    folder = _folder(request, f"{stem}.npz", "medmnist")
    if folder is None:
        folder = _folder(request, stem, "medmnist")
    if folder is None:
        raise SourceError(f"{request.spec}: no {stem}.npz in {request.root}; expected there: {request.layout}")
    place = folder / f"{stem}.npz" if (folder / f"{stem}.npz").exists() else folder / stem
    images, labels = (_member(request, place, f"{request.split}_{what}") for what in ("images", "labels"))
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
        raise request.broken(place, f"holds {request.split}_images {images.dtype} {images.shape}, not {size} px RGB")
    return ArrayRows(request, images, labels.reshape(-1).astype(np.int64), PATHMNIST_CLASSES)


def _folder(request: Request, marker: str, name: str) -> Path | None:
    return next((f for f in (request.root, request.root / name) if (f / marker).exists()), None)


def _cifar(request: Request, pixels: Any, labels: Any, classes: Sequence[str]) -> ArrayRows:
    pixels, labels = np.asarray(pixels), np.asarray(labels, np.int64)
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _CIFAR_PIXELS:
        raise SourceError(f"{request.spec} holds {pixels.dtype} {pixels.shape}, not uint8 (n, {_CIFAR_PIXELS})")
    return ArrayRows(request, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, classes)


def _records(request: Request, paths: Sequence[Path], before: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels and labels of binary records: ``before`` label bytes, of which the last counts, then the pixels."""
    rows = []
    for path in paths:
        data = np.fromfile(request.require(path), np.uint8)
        if not len(data) or len(data) % (before + _CIFAR_PIXELS):
            raise request.broken(path, f"has {len(data)} bytes, not whole records of {before + _CIFAR_PIXELS}")
        rows.append(data.reshape(-1, before + _CIFAR_PIXELS))
    table = np.concatenate(rows)
    return table[:, before:], table[:, before - 1]


def _joined(parts: Any) -> NDArray[Any]:
    return np.concatenate([np.asarray(part) for part in parts])


def _texts(names: Sequence[Any]) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _pickled(request: Request, path: Path, *fields: str) -> list[Any]:
    """Fields of one of CIFAR's pickled dictionaries, read without the power to run anything."""
    try:
        found = _ArraysOnly(io.BytesIO(request.require(path).read_bytes()), encoding="bytes").load()
        return [found[name.encode()] if name.encode() in found else found[name] for name in fields]
    except SourceError:
        raise
    except Exception as error:  # pickle raises whatever the bytes make it do
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise request.broken(path, f"is not one of CIFAR's files ({reason})") from error


class _ArraysOnly(pickle.Unpickler):
    """Loads numbers, texts, lists, dictionaries and numpy arrays, and refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        place = (module.replace("numpy.core.", "numpy._core."), name)
        if place not in _HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code and is not loaded")
        return _HARMLESS[place]


_REBUILD = np.zeros(0).__reduce__()[0]  # numpy's function that begins an unpickled array
_HARMLESS: dict[tuple[str, str], Any] = {
    ("numpy._core.multiarray", "_reconstruct"): _REBUILD,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # how Python 3 writes bytes for Python 2
}


def _member(request: Request, place: Path, name: str) -> NDArray[Any]:
    """One array of an .npz file or of the folder it was unpacked to; through a memory map unless it is compressed."""
    try:
        if place.is_dir():
            return np.load(request.require(place / f"{name}.npy"), mmap_mode="r", allow_pickle=False)
        return _zipped(request, place, f"{name}.npy")
    except SourceError:
        raise
    except Exception as error:  # zip files and headers of arrays raise whatever the bytes make them do
        raise request.broken(place, f"has no readable {name} ({' '.join(str(error).split())[:120]})") from error


def _zipped(request: Request, place: Path, member: str) -> NDArray[Any]:
    with zipfile.ZipFile(place) as archive:
        entry = archive.getinfo(member)
        if entry.compress_type == zipfile.ZIP_STORED:
            return _mapped(place, entry.header_offset)
        if entry.file_size > UNPACKED_LIMIT:
            raise SourceError(
                f"{request.spec}: {member} in {place} unpacks to {entry.file_size / 1e9:.1f} GB; unpack it once: "
                f"python -m zipfile -e {place} {place.with_suffix('')}, then move the .npz away"
            )
        with archive.open(entry) as file:
            shape, _, dtype = _header(file)
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"it is called {dtype} {shape} and has {entry.file_size} bytes")
        with archive.open(entry) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype of the NPY array that begins here; raises ``ValueError`` for one of Python objects."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read(file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"it holds {dtype} {shape}")
    return shape, fortran, dtype


def _mapped(place: Path, offset: int) -> NDArray[Any]:
    """The array that begins after the local header at ``offset`` of a zip file, as a memory map."""
    with open(place, "rb") as file:
        file.seek(offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), io.SEEK_CUR)  # the entry's name and extra field
        shape, fortran, dtype = _header(file)
        return np.memmap(place, dtype, "r", file.tell(), shape, "F" if fortran else "C")
