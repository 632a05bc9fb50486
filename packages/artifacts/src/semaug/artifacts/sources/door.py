"""``open_source``: from what a user writes to an image source."""

from __future__ import annotations

import os

from semaug.artifacts.sources.array import open_array
from semaug.artifacts.sources.folder import open_folder
from semaug.artifacts.sources.protocol import ImageSource


def open_source(spec: str | os.PathLike[str]) -> ImageSource:
    """Open images by path or by spec.

    Raises ``SourceError`` (what is there cannot be opened) or ``ArtifactError``.
    """
    text = os.fspath(spec)
    if text.startswith("array:"):
        return open_array(text)
    return open_folder(text)
