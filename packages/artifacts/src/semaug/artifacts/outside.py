"""What comes from outside, read within limits: JSON, TOML, XML, files, and columns that may be damaged."""

from __future__ import annotations

import json
import os
import stat
import struct
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from semaug.artifacts.errors import ArtifactError, SemaugError

DEEPEST_XML = 100
"""Elements of XML that may lie in each other."""
DAMAGE = (
    ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError, AssertionError,
    struct.error, zlib.error,
)  # fmt: skip
"""What damaged columns and records make of a reader."""


def parse_json(text: str | bytes) -> Any:
    """What JSON says; raises ``ValueError`` for anything else, also where it nests too deeply to be read.

    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: it nests too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """What TOML says; raises ``ValueError`` for anything else, also where it nests too deeply to be read."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def parse_xml(data: bytes) -> Element:
    """The root of an XML document. Raises ``ValueError`` for anything else, for one that declares entities (they can
    grow without bounds, or stand for files), and for elements nested over ``DEEPEST_XML`` deep.

    >>> parse_xml(b"<a><b>1</b></a>").findtext("b")
    '1'
    """
    builder, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST_XML:
            raise ValueError(f"its elements nest over {DEEPEST_XML} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(name: str, *_: object) -> None:
        raise ValueError(f"it declares the entity {name[:40]!r}")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
    return builder.close()


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file; raises ``OSError`` for what is none (a device, a pipe), which might never end."""
    if "\0" in os.fspath(path):
        raise OSError("its name holds a NUL")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("is not a regular file")
    return Path(path).read_bytes()


def refuse_expanded(state: Any) -> None:
    """Refuse tensors that claim more values than are stored for them: one number can be a tensor of any size.

    ``state`` is what a file of weights holds. Raises ``ValueError``.
    """
    if isinstance(state, Mapping):
        for name, value in state.items():
            if hasattr(value, "untyped_storage") and value.nbytes > value.untyped_storage().nbytes():
                raise ValueError(f"{str(name)[:80]} claims the shape {tuple(value.shape)} and holds less")
            refuse_expanded(value)


@contextmanager
def reading(path: str | os.PathLike[str], remedy: str = "make it again with --overwrite") -> Iterator[None]:
    """Turn what damaged columns and records make of a reader into an ``ArtifactError`` that names the artifact."""
    try:
        yield
    except SemaugError:
        raise
    except DAMAGE as error:
        raise damaged(path, error, remedy) from error


def damaged(
    path: str | os.PathLike[str], error: BaseException, remedy: str = "make it again with --overwrite"
) -> ArtifactError:
    """The error for an artifact, or another file of ours, that made a reader fail with one of ``DAMAGE``."""
    text = " ".join(str(error).split())[:160]
    return ArtifactError(f"{path} is damaged ({type(error).__name__}: {text}); {remedy}")
