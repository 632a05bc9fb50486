"""What the readers of named data sets share: what was asked for, where the files lie, and images out of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.errors import MissingDependency, SourceError
from semaug.artifacts.sources.base import Source, clean_key, require_unique
from semaug.artifacts.sources.files import FileSource


@dataclass(frozen=True, slots=True)
class Request:
    """One split of a named set as a user asked for it; ``root`` is absolute, ``spec`` opens the same again."""

    spec: str
    root: Path
    split: str
    layout: str
    options: Mapping[str, str] = field(default_factory=dict)

    def base(self, marker: str, *names: str) -> Path:
        """The folder that holds ``marker``: the root itself, or one of ``names`` below it.

        Raises ``SourceError`` that shows the expected layout.
        """
        for folder in (self.root, *(self.root / name for name in names)):
            if (folder / marker).exists():
                return folder
        raise SourceError(f"{self.spec}: no {marker} in {self.root}; expected there: {self.layout}")

    def require(self, path: Path) -> Path:
        """``path``, which must exist; raises ``SourceError`` that shows the expected layout."""
        if not path.exists():
            raise SourceError(f"{self.spec}: {path} is missing; expected in {self.root}: {self.layout}")
        return path

    def lines(self, path: Path) -> list[str]:
        """The lines of a text file that are not empty; raises ``SourceError``."""
        try:
            found = [line.strip() for line in self.require(path).read_text("utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{self.spec}: cannot read {path} ({error}); copy it again") from error
        if not any(found):
            raise SourceError(f"{self.spec}: {path} is empty; copy it again")
        return [line for line in found if line]

    def broken(self, path: Path, why: str) -> SourceError:
        """The error for a file that is there and not what it should be."""
        return SourceError(f"{self.spec}: {path} {why}; copy it again")

    def files(self, folder: Path, names: Sequence[str], labels: Sequence[int], classes: Sequence[str]) -> FileSource:
        """The source of the files ``names`` below ``folder``, whose keys are these names."""
        if not names:
            raise SourceError(f"{self.spec}: {folder} holds no images of this split; expected: {self.layout}")
        keys = [clean_key(name) for name in names]
        require_unique(keys, names, self.spec)
        return FileSource(self.spec, folder, names, keys, labels, classes)


class ArrayRows(Source):
    """Images that are the rows of one array, uint8 (n, height, width, 3) or a view of a memory map of that shape.

    Keys are ``split/index``, as torchvision's sets have them; a label below 0 is none.
    """

    def __init__(
        self, request: Request, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, class_names: Sequence[str]
    ) -> None:
        if len(images) == 0:
            raise SourceError(f"{request.spec} holds no images; expected: {request.layout}")
        if labels is not None and len(labels) != len(images):
            raise SourceError(f"{request.spec} has {len(images)} images and {len(labels)} labels; copy its files again")
        if labels is not None and labels.max() >= len(class_names):
            raise SourceError(
                f"{request.spec} has label {labels.max()} and {len(class_names)} class names; copy its files again"
            )
        self.spec, self._split = request.spec, request.split
        self._images, self._labels = images, labels
        self.class_names = tuple(class_names)

    def __reduce__(self) -> Any:
        from semaug.artifacts.sources.door import open_source

        return open_source, (self.spec,)

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return f"{self._split}/{range(len(self))[index]:06d}"

    def label(self, index: int) -> int | None:
        if self._labels is None or self._labels[index] < 0:
            return None
        return int(self._labels[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.array(self._images[index], order="C")


def held_out(labels: Sequence[int], share: float, seed: int, purpose: str) -> tuple[list[int], list[int]]:
    """Rows for training and rows held out, class by class: ``round(share * count)`` of each class are held out.

    A class keeps at least one image for training. Both lists are sorted; the same seed gives the same lists.

    >>> [len(rows) for rows in held_out([0] * 10 + [1] * 5, 0.2, 0, "example")]
    [12, 3]
    """
    rng, codes = generator(seed, purpose), np.asarray(labels)
    out: list[int] = []
    for label in np.unique(codes):
        rows = rng.permutation(np.flatnonzero(codes == label))
        out += rows[: min(len(rows) - 1, round(share * len(rows)))].tolist()
    kept = np.setdiff1d(np.arange(len(codes)), out)
    return kept.tolist(), sorted(out)


def read_mat(request: Request, path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file; raises ``SourceError``, and ``MissingDependency`` without scipy."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingDependency(
            f"{request.spec} reads .mat files with scipy; pip install 'semaug-artifacts[mat]'"
        ) from error
    try:
        return dict(loadmat(request.require(path), squeeze_me=True))
    except SourceError:
        raise
    except Exception as error:  # scipy raises ValueError, TypeError, zlib.error, NotImplementedError, ...
        raise request.broken(path, f"is not a MATLAB file ({' '.join(str(error).split())[:80]})") from error


def take(rows: Sequence[int], *columns: Sequence[Any]) -> Iterator[list[Any]]:
    """Each column at ``rows``."""
    return ([column[row] for row in rows] for column in columns)


Open = Callable[[Request], Source]
"""From what was asked for to the images."""
