"""Where artifacts are: folders of this machine, or prefixes of an object store that fsspec reaches.

A place in a store is written as a URL, ``s3://bucket/images.zarr``, and is a ``RemotePath`` in the code: it has the
part of ``pathlib.Path`` that artifacts need. ``file://`` URLs are folders of this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

from semaug.artifacts.errors import InvalidOption, MissingDependency, StoreError

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]+):(//?)(?!/)")
_PATTERN: Final = re.compile(r"[*?\[\]]")
_NOT_STORES: Final = {"hf", "torchvision", "array", "scenes", "table", "scanpy", "sklearn", "http", "https"}
"""Schemes of sources and tables, and of what cannot be listed."""
_S3: Final = {"s3", "s3a"}
_S3_OPTIONS: Final[dict[str, Any]] = {
    "use_listings_cache": False,
    "max_concurrency": 1,
    "config_kwargs": {
        "connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 4},
    },
}  # fmt: skip
"""Endpoint, region and credentials come from the usual variables and files of AWS; a store that does not answer is
given up after about half a minute."""


class RemotePath(PurePosixPath):
    """A place in a store: what ``pathlib.Path`` is to a disk, as far as artifacts need it.

    Methods raise ``FileNotFoundError`` where there is nothing, and ``StoreError`` where the store cannot be used.

    >>> RemotePath("s3://bucket/sets") / "images.zarr"
    RemotePath('s3://bucket/sets/images.zarr')
    """

    __slots__ = ()

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest.lstrip('/')}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @property
    def protocol(self) -> str:
        """The URL's scheme."""
        return self.parts[0].removesuffix(":")

    def filesystem(self) -> Any:
        """fsspec's file system of this process; never keep one across a fork."""
        return filesystem(self.protocol)

    @property
    def key(self) -> str:
        """The path as the store's file system names it, without the scheme."""
        return str(self.filesystem()._strip_protocol(str(self)))

    def exists(self) -> bool:
        """Whether there is an object of this name, or any below it."""
        with using(self):
            return bool(self.filesystem().exists(self.key))

    def is_dir(self) -> bool:
        """Whether there is any object below it."""
        with using(self):
            return bool(self.filesystem().isdir(self.key))

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        with using(self):
            return bool(self.filesystem().isfile(self.key))

    def read_bytes(self) -> bytes:
        """The object's bytes."""
        with using(self):
            return bytes(self.filesystem().cat_file(self.key))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> int:
        """Write an object: the old one or wholly the new one is there, whatever happens."""
        with using(self):
            self.filesystem().pipe_file(self.key, data)
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove one object."""
        try:
            with using(self):
                self.filesystem().rm_file(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def find(self) -> dict[str, dict[str, Any]]:
        """Every object below this one, whose names start with ``key``: what the store says of each."""
        with using(self):
            return dict(self.filesystem().find(self.key, detail=True))

    def resolve(self, strict: bool = False) -> RemotePath:
        """Itself: a URL has no links."""
        return self

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def expanduser(self) -> RemotePath:
        """Itself."""
        return self


AnyPath = Path | RemotePath


def as_path(place: str | os.PathLike[str]) -> AnyPath:
    """The folder or the place in a store that ``place`` names; raises ``InvalidOption`` for a URL that is none.

    ``pathlib`` makes one slash of a URL's two; that is understood too.

    >>> as_path("s3://bucket/a.zarr")
    RemotePath('s3://bucket/a.zarr')
    >>> as_path("file:///data/a.zarr").as_posix()
    '/data/a.zarr'
    """
    if isinstance(place, RemotePath):
        return place
    text = os.fspath(place)
    scheme = _scheme(text)
    if scheme is None:
        return place if isinstance(place, Path) else Path(text)
    if scheme in ("file", "local"):
        return Path("/" + text.partition(":")[2].lstrip("/"))
    if _PATTERN.search(text):
        raise InvalidOption(f"{text} is a pattern, and one artifact is meant; give a URL without * ? [ ]")
    return RemotePath(text)


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Whether this names a place in a store."""
    return isinstance(place, RemotePath) or isinstance(as_path(place), RemotePath)


def _scheme(text: str) -> str | None:
    found = _URL.match(text)
    if found is None and text.startswith(("file:///", "local:///", "file:/", "local:/")):
        return text.partition(":")[0]
    if found is None or found[1] in _NOT_STORES:
        return None
    if found[2] == "//":
        return found[1]
    return found[1] if found[1] in _protocols() and not Path(text).exists() else None


def _protocols() -> list[str]:
    try:
        from fsspec import available_protocols
    except ImportError:
        return []
    return list(available_protocols())


def filesystem(protocol: str) -> Any:
    """fsspec's file system for a scheme; one a process, since its connections do not survive a fork.

    Raises ``InvalidOption`` for a scheme nobody knows, ``MissingDependency`` where its package is not installed.
    """
    try:
        import fsspec

        return fsspec.filesystem(protocol, **(_S3_OPTIONS if protocol in _S3 else {}))
    except ImportError as error:
        remedy = "pip install 'semaug-artifacts[s3]'" if protocol in _S3 else "install its fsspec package"
        raise MissingDependency(f"{protocol}:// needs a package that is not installed ({error}); {remedy}") from error
    except ValueError as error:
        raise InvalidOption(
            f"{protocol}:// is no store that fsspec knows; give a folder, or s3://BUCKET/NAME"
        ) from error


@contextmanager
def using(path: RemotePath) -> Iterator[None]:
    """Turn a store's errors into ``StoreError``, one line with the remedy; ``FileNotFoundError`` passes."""
    try:
        yield
    except Exception as error:
        found = _explain(path, error)
        if found is None:
            raise
        raise StoreError(found) from error


def _explain(path: RemotePath, error: BaseException) -> str | None:
    """What went wrong and what to do; None for what is no trouble of the store."""
    causes = list(_causes(error))
    names, text = {type(e).__name__ for e in causes}, " ".join(str(causes[-1]).split())[:200]
    bucket = path.parts[1] if len(path.parts) > 1 else ""
    if "NoSuchBucket" in str(causes):
        return f"there is no bucket {bucket!r} ({path}); make it, or check the name and AWS_ENDPOINT_URL"
    if isinstance(error, FileNotFoundError | FileExistsError | StoreError | InvalidOption | MissingDependency):
        return None
    if names & _NO_CREDENTIALS:
        return f"{path} needs credentials and none were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if names & _UNREACHABLE:
        where = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "its default endpoint"
        return f"the store of {path} does not answer at {where}; check AWS_ENDPOINT_URL and the network, then run again"
    if isinstance(error, PermissionError):
        return f"{path}: access denied ({text}); check the credentials and what they may do with {bucket!r}"
    if isinstance(error, OSError) or names & {"ClientError", "BotoCoreError"}:
        return f"{path}: the store failed ({text}); run the same command again, it resumes"
    return None


_NO_CREDENTIALS: Final = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound"}
_UNREACHABLE: Final = {
    "EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ReadTimeoutError", "TimeoutError",
    "FSTimeoutError", "ConnectionRefusedError", "ClientConnectorError", "gaierror",
}  # fmt: skip


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
