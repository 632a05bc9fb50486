"""Writing an artifact into an object store: a shard's objects, and when all are there its marker. Nothing is renamed.

A store has no locks. Two runs of one artifact write the same bytes under the same names; a run that finds the artifact
started anew by another, with --overwrite, stops.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch
from semaug.artifacts.places import RemotePath, using
from semaug.artifacts.reader import read_manifest
from semaug.artifacts.schemas import Manifest, ShardMarker
from semaug.artifacts.zarr_files import column_contents, group_file

_MARKER = re.compile(r"ledger/(\d{6,})\.json")
_DATA = re.compile(r"shards/(\d{6,})/")


class RemotePlace:
    """A prefix of an object store. Picklable: each process opens its own connection."""

    def __init__(self, path: RemotePath, begun: str = "") -> None:
        self.path = path
        self._begun = begun
        """Which run began the artifact (``_beginning``): another one with --overwrite changes it."""

    def __reduce__(self) -> Any:
        return type(self), (self.path, self._begun)

    def claim(self, overwrite: bool) -> None:
        """Refuse what is not ours; removes first what is there if ``overwrite``."""
        with using(self.path):
            found = self._top()
        if found and not self._is_ours(found):
            raise ArtifactMismatch(f"{self.path} exists and is not a semaug artifact; choose another --out")
        if overwrite and found:
            self._disown()
            self._remove("ledger")  # nothing counts as done from here on
            self._remove("shards")
            self._remove("")

    def _disown(self) -> None:
        """Change the manifest first, so that a run that is still writing finds out before it writes a marker."""
        try:
            manifest = read_manifest(self.path)
        except ArtifactError:
            return
        gone = manifest.model_copy(update={"created": f"removed {uuid.uuid4().hex}"})
        self.write("zarr.json", group_file(gone))

    def release(self) -> None:
        """Nothing is held."""

    def begin(self, manifest: Manifest) -> None:
        """Write the manifest where there is none."""
        if not (self.path / "zarr.json").is_file():
            self._create(group_file(manifest))
        self._begun = _beginning(read_manifest(self.path))

    def _create(self, data: bytes) -> None:
        file = self.path / "zarr.json"
        try:
            with using(file):
                file.filesystem().pipe_file(file.key, data, mode="create")
        except FileExistsError:  # another run was faster, and is compared with this one
            return
        except (NotImplementedError, TypeError):  # a store that cannot tell
            file.write_bytes(data)

    def describe(self, manifest: Manifest) -> None:
        """Write the manifest; raises ``ArtifactMismatch`` where another run began the artifact anew."""
        self._require_own()
        self.write("zarr.json", group_file(manifest))
        self._begun = _beginning(manifest)

    def is_empty(self) -> bool:
        """Whether the ledger has no marker."""
        return not (self.path / "ledger").find()

    def clear_shards(self) -> None:
        """Remove the data of all shards."""
        self._remove("shards")

    def done(self, shards: range) -> set[int]:
        """Those of ``shards`` that have a marker and data."""
        marked = {int(found[1]) for name in self._names("ledger") if (found := _MARKER.fullmatch(name))}
        kept = {int(found[1]) for name in self._names("shards") if (found := _DATA.match(name))} if marked else set()
        return marked & kept & set(shards)

    def put_shard(self, shard: int, columns: Mapping[str, NDArray], marker: Callable[[], ShardMarker]) -> ShardMarker:
        """Write a shard's objects, and when the store has taken all of them its marker."""
        folder = self.path / "shards" / f"{shard:06d}"
        contents = {(folder / name).key: data for name, data in column_contents(columns).items()}
        with using(folder):
            folder.filesystem().pipe(contents)
        made = marker()
        self._require_own()
        self.write(f"ledger/{shard:06d}.json", made.model_dump_json().encode())
        return made

    def write(self, name: str, data: bytes) -> None:
        """Write a small object."""
        (self.path / name).write_bytes(data)

    def remove(self, name: str) -> None:
        """Remove a small object, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def _require_own(self) -> None:
        try:
            found = _beginning(read_manifest(self.path))
        except ArtifactError:
            found = ""
        if self._begun and found != self._begun:
            raise ArtifactMismatch(f"{self.path} was begun anew by another run meanwhile; run this command again")

    def _names(self, folder: str) -> list[str]:
        root = f"{self.path.key}/"
        return [key.removeprefix(root) for key in (self.path / folder).find()]

    def _top(self) -> set[str]:
        """The first part of the names of what is there."""
        try:
            entries = self.path.filesystem().ls(self.path.key, detail=False)
        except FileNotFoundError:
            return set()
        return {entry.rstrip("/").rpartition("/")[2] for entry in entries if entry.rstrip("/") != self.path.key}

    def _is_ours(self, found: set[str]) -> bool:
        if "zarr.json" not in found:
            return False
        if {"ledger", "shards"} <= found:
            return True
        try:
            read_manifest(self.path)
        except ArtifactError:
            return False
        return True

    def _remove(self, folder: str) -> None:
        place = self.path / folder if folder else self.path
        keys = sorted(place.find(), key=lambda key: key.endswith("/zarr.json"))
        with using(place):
            if keys:
                place.filesystem().rm(keys)


def _beginning(manifest: Manifest) -> str:
    """What tells one beginning of an artifact from another; notes are added later."""
    return f"{manifest.created} {json.dumps(manifest.identity(), sort_keys=True)}"
