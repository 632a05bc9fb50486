"""``semaug data verify``: recompute every digest of an artifact, a materialised folder or a training run."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.files import hash_file
from semaug.artifacts.places import AnyPath, RemotePath, as_path
from semaug.artifacts.ragged import unpack_strings
from semaug.artifacts.reader import Artifact, hash_columns
from semaug.artifacts.roots import stays_inside
from semaug.artifacts.schemas import EncoderCard, ShardMarker
from semaug.artifacts.sources.artifact import MATERIALIZED

ENCODER_WEIGHTS = "encoder.safetensors"
ENCODER_CARD = "encoder.json"


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome: a digest without costs and times, and every problem found (empty when all is well)."""

    path: AnyPath
    kind: str
    items: int
    digest: str
    problems: tuple[str, ...]


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check an artifact, a materialised folder or a training run; raises ``ArtifactError`` when it is none of them."""
    path = as_path(path)
    if isinstance(path, RemotePath):
        return _verify_artifact(path)
    if (path / ENCODER_CARD).exists():
        return _verify_run(path)
    if (path / MATERIALIZED).exists():
        return _verify_artifact(path / MATERIALIZED)
    return _verify_artifact(path)


def _verify_artifact(path: AnyPath) -> Verification:
    artifact = Artifact.open(path, partial=True, straight=True)
    problems = []
    missing = artifact.manifest.shards - len(artifact.markers)
    if missing:
        problems.append(f"{missing} of {artifact.manifest.shards} shards are missing; run the command again")
    for marker in artifact.markers:
        problems += _check_shard(artifact, marker)
    return Verification(path, artifact.manifest.kind, artifact.manifest.items, artifact.digest, tuple(problems))


def _check_shard(artifact: Artifact, marker: ShardMarker) -> list[str]:
    try:
        columns = artifact.shard(marker.shard)
        if hash_columns(columns) != marker.digest or len(columns["key_offsets"]) != marker.items + 1:
            return [f"shard {marker.shard} does not match its digest; make the artifact again with --overwrite"]
    except (ArtifactError, FileNotFoundError, KeyError) as error:
        return [f"shard {marker.shard}: {error}"]
    if "file_hash" not in columns:  # an index names files too, which are the user's own
        return []
    names, hashes = unpack_strings(columns, "file"), unpack_strings(columns, "file_hash")
    if len(names) != len(hashes):
        return [f"shard {marker.shard} names {len(names)} files and {len(hashes)} hashes; make the artifact again"]
    return [p for n, h in zip(names, hashes, strict=True) if (p := _check_named(artifact.path.parent, n, h))]


def _check_named(folder: AnyPath, name: str, expected: str) -> str | None:
    if not stays_inside(name):
        return f"{name!r} is not below {folder}; make the artifact again with --overwrite"
    if isinstance(folder, RemotePath):
        return f"{folder / name} is a file beside an artifact in a store, which is not read; copy both to a folder"
    return _check_file(folder / name, expected)


def _check_file(path: Path, expected: str) -> str | None:
    if not path.exists():
        return f"{path} is missing"
    return None if path.is_file() and hash_file(path) == expected else f"{path} has changed"


def _verify_run(path: Path) -> Verification:
    try:
        card = EncoderCard.model_validate_json((path / ENCODER_CARD).read_bytes())
    except (ValidationError, OSError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ArtifactError(f"{path / ENCODER_CARD} is damaged: {reason}; train again") from error
    problem = _check_file(path / ENCODER_WEIGHTS, card.weights_digest)
    digest = hashlib.blake2b(json.dumps(card.identity(), sort_keys=True).encode(), digest_size=16).hexdigest()
    return Verification(path, "encoder", card.steps, digest, (problem,) if problem else ())
