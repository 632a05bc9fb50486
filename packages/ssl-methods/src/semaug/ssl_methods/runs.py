"""The folder of a training run: its record, its lock, its checkpoint.

Layout::

    run/run.json               what decides the weights; written before the first step
    run/last.ckpt              the last good checkpoint
    run/metrics.csv, events.*  learning curves
    run/guidance/epoch-*.zarr  of a run that refreshes its pairs: the guidance of each period
    run/generator.*            of DiffAug: its generator and the card; bank-*.safetensors, while it trains
    run/encoder.safetensors    the result, and encoder.json its card (written last: its presence means done)
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch
from semaug.artifacts.files import hash_file, write_atomic, writing
from semaug.artifacts.schemas import EncoderCard
from semaug.artifacts.store import package_versions, require_same, take_lock
from semaug.artifacts.verify import ENCODER_CARD, ENCODER_WEIGHTS

RECORD = "run.json"
CHECKPOINT = "last.ckpt"
METRICS = "metrics.csv"
GUIDANCE = "guidance"


class RunRecord(BaseModel):
    """What decides the weights of a run, and who started it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = "run"
    format_version: int = 1
    config: dict[str, Any]
    inputs: dict[str, str] = {}
    versions: dict[str, str] = {}
    created: str = ""

    def identity(self) -> dict[str, Any]:
        """What a rerun must share to resume."""
        return self.model_dump(mode="json", exclude={"versions", "created"})


class RunFolder(AbstractContextManager["RunFolder"]):
    """The one writer of a run: creates the folder, or resumes it when config and inputs are the same."""

    def __init__(self, path: Path, record: RunRecord, lock: int) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        overwrite: bool = False,
        primary: bool = True,
    ) -> RunFolder:
        """Create or resume the run at ``path``; only the ``primary`` of several processes locks and writes.

        Raises ``ArtifactMismatch`` when another config or input made it, ``ArtifactLocked`` while it is being
        trained, ``OutputError`` when the place cannot be written.
        """
        path = Path(path)
        plain = json.loads(json.dumps({"config": dict(config), "inputs": dict(inputs)}))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = RunRecord(**plain, versions=package_versions(), created=now)
        if not primary:
            return cls(path, record, -1)
        _require_ours(path)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path)
        try:
            return cls(path, _create_or_match(path, record, overwrite), lock)
        except BaseException:
            os.close(lock)
            raise

    @property
    def checkpoint(self) -> Path:
        """Where the last good checkpoint is, or will be."""
        return self.path / CHECKPOINT

    def finished(self) -> EncoderCard | None:
        """The card of a run that is done and whole, else None."""
        card, weights = self.path / ENCODER_CARD, self.path / ENCODER_WEIGHTS
        if not (card.exists() and weights.exists()):
            return None
        try:
            found = EncoderCard.model_validate_json(card.read_bytes())
        except ValidationError:  # damaged: the checkpoint gives it again
            return None
        return found if hash_file(weights) == found.weights_digest else None

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last good checkpoint (tensors and plain values only), or None. Raises ``ArtifactError`` if damaged."""
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:
            if found := re.search(r"GLOBAL (\S+)", str(error)):
                raise ArtifactError(
                    f"{self.checkpoint} holds a pickled {found[1]}, which could run code and is not loaded; delete it, "
                    "or start anew with --overwrite"
                ) from error
            raise ArtifactError(
                f"{self.checkpoint} cannot be read ({type(error).__name__}); delete it, or start anew with --overwrite"
            ) from error

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _require_ours(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ArtifactMismatch(f"{path} is a file, not a run; choose another --out")
    foreign = [p.name for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
    if foreign and not (path / RECORD).exists():
        raise ArtifactMismatch(f"{path} holds {foreign[0]!r} and is not a semaug run; choose another --out")


def _create_or_match(path: Path, record: RunRecord, overwrite: bool) -> RunRecord:
    with writing(path):
        for leftover in path.glob(".*.partial"):
            leftover.unlink()
    if overwrite:
        _clear(path)
    if not (path / RECORD).exists():
        write_atomic(path / RECORD, record.model_dump_json(indent=1).encode())
        return record
    try:
        found = RunRecord.model_validate_json((path / RECORD).read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{path / RECORD} is damaged: {error.errors()[0]['msg']}; use --overwrite") from error
    if found.identity() != record.identity() and not any((path / n).exists() for n in (CHECKPOINT, ENCODER_WEIGHTS)):
        write_atomic(path / RECORD, record.model_dump_json(indent=1).encode())  # it failed before its first checkpoint
        return record
    _require_same_method(path, found, record)
    require_same(path, found.identity(), record.identity())
    return found


def _require_same_method(path: Path, found: RunRecord, record: RunRecord) -> None:
    """Name the methods where they differ: of all that then differs too, no one would look for them."""
    made, wanted = (r.config.get("method", {}).get("name") for r in (found, record))
    if made != wanted:
        raise ArtifactMismatch(
            f"{path} is a run of method {made!r} and this one trains {wanted!r}; choose another --out, or start anew "
            "with --overwrite"
        )


def _clear(path: Path) -> None:
    """Remove what a run writes, the record last, and nothing else."""
    with writing(path):
        for name in (ENCODER_CARD, ENCODER_WEIGHTS, CHECKPOINT, METRICS):
            (path / name).unlink(missing_ok=True)
        for pattern in ("events.out.tfevents.*", "generator.json", "generator.safetensors", "bank-*.safetensors"):
            for written in path.glob(pattern):
                written.unlink()
        for guidance in (path / GUIDANCE).glob("epoch-*.zarr"):
            shutil.rmtree(guidance)
        (path / RECORD).unlink(missing_ok=True)
