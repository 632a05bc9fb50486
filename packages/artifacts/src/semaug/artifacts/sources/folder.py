"""A folder of images, with or without class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from semaug.artifacts.decode import SUFFIXES
from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources.base import clean_key, require_unique
from semaug.artifacts.sources.files import FileSource


def open_folder(path: str | os.PathLike[str]) -> FileSource:
    """The images below ``path``, in key order.

    The first folder on an image's way is its class; deeper folders only structure it. Images that lie directly in
    ``path`` have no label, also where others have one; when all lie there, the set has no classes. Hidden files and
    folders, and files that do not end like an image, are left out; links are followed, a link back to a folder above
    itself is not. Raises ``SourceError`` for no folder, no images, or two names that normalise to one key.
    """
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise SourceError(f"{path} is not a folder; check the path")
    found = sorted((clean_key(name), name) for name in _walk(root, "", ()))
    if not found:
        raise SourceError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}); check the path")
    keys, names = [key for key, _ in found], [name for _, name in found]
    require_unique(keys, names, str(path))
    class_names = sorted({key.split("/")[0] for key in keys if "/" in key})
    number = {name: i for i, name in enumerate(class_names)}
    labels = [number[key.split("/")[0]] if "/" in key else -1 for key in keys]
    return FileSource(str(root), root, names, keys, labels, class_names)


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}; check its permissions") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = prefix + entry.name
        if _is_folder(entry):
            yield from _walk(folder / entry.name, f"{name}/", (*above, here))
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield name  # a broken link too: reading it lists it as skipped


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
