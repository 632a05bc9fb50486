"""Image sources and the one door to them."""

from semaug.artifacts.sources.array import ArraySource
from semaug.artifacts.sources.base import inputs_of, labels_of
from semaug.artifacts.sources.door import open_source
from semaug.artifacts.sources.files import FileSource
from semaug.artifacts.sources.folder import open_folder
from semaug.artifacts.sources.packed import PackedSource
from semaug.artifacts.sources.protocol import ImageSource
from semaug.artifacts.sources.scenes import ScenesSource

__all__ = [
    "ArraySource",
    "FileSource",
    "ImageSource",
    "PackedSource",
    "ScenesSource",
    "inputs_of",
    "labels_of",
    "open_folder",
    "open_source",
]
