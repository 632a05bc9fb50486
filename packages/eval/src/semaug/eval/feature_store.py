"""Frozen features on the disk: the ``features`` artifact, read through memory maps, and its NPY and Parquet twins."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, MissingDependency
from semaug.artifacts.files import require_space, write_atomic, writing
from semaug.artifacts.joined import join_column, release_rows
from semaug.artifacts.outside import reading
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest, ShardCosts, ShardMarker
from semaug.artifacts.schemas.features import FeaturesConfig
from semaug.artifacts.shards import peak_memory
from semaug.artifacts.sources import ImageSource, inputs_of, labels_of
from semaug.artifacts.sources.base import DIGEST_SIZE
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter
from semaug.artifacts.tables import TableSource
from semaug.eval.features import (
    EmbeddedRows,
    Encode,
    Features,
    Preparation,
    embed_groups,
    enlarged_note,
    nothing_readable,
)
from semaug.eval.rows import embed_row_groups

SHARD_SIZE = 4096
"""A multiple of 1,024 rows, so that a shard fills whole pages and the artifact is read without a copy."""
NPY_RECORD = "features.json"
"""What a folder of NPY files says about itself; written last."""


@dataclass(frozen=True, slots=True)
class FeatureWork:
    """An encoder and how images are prepared for it (None: it reads the rows of a table).

    ``encode`` is as in ``features.embed``; ``encoder`` the digest of its weights. ``feature_dim`` and
    ``projection_dim`` (None without projections) are the widths of what it returns.
    """

    encode: Encode
    encoder: str
    preparation: Preparation | None
    feature_dim: int
    projection_dim: int | None = None

    def manifest(self, source: ImageSource | TableSource, shard_size: int = SHARD_SIZE) -> Manifest:
        """The identity of this encoder's features of a source."""
        config = FeaturesConfig(
            **({} if self.preparation is None else asdict(self.preparation)),
            feature_dim=self.feature_dim,
            projection_dim=self.projection_dim,
            class_names=source.class_names,
        )
        return Manifest(
            kind="features",
            items=len(source),
            shard_size=shard_size,
            config=config.model_dump(mode="json"),
            inputs={**inputs_of(source), "labels": labels_digest(source), "encoder": self.encoder},
            info={"spec": source.spec},
        )

    def embed_groups(
        self,
        source: ImageSource | TableSource,
        groups: Sequence[Sequence[int]],
        *,
        batch_size: int,
        workers: int,
        device: str,
        on_progress: OnProgress,
        done: int,
    ) -> Iterator[EmbeddedRows]:
        """Features of groups of images, or of rows of a table, a group at a time."""
        if self.preparation is None:
            table = cast("TableSource", source)
            return embed_row_groups(self.encode, table, groups, device=device, on_progress=on_progress, done=done)
        images = cast("ImageSource", source)
        return embed_groups(
            self.encode, images, groups, self.preparation, batch_size=batch_size, workers=workers, device=device,
            on_progress=on_progress, done=done,
        )  # fmt: skip

    @property
    def row_bytes(self) -> int:
        """Bytes that one image takes in an artifact, its key left out."""
        return 4 * (self.feature_dim + (self.projection_dim or 0)) + 12


def labels_digest(source: ImageSource | TableSource) -> str:
    """What identifies the labels of a source, 32 hex digits: a list may label the same images anew."""
    digest = hashlib.blake2b(json.dumps(source.class_names).encode(), digest_size=DIGEST_SIZE)
    digest.update(labels_of(source).tobytes())
    return digest.hexdigest()


def write_features(
    work: FeatureWork,
    source: ImageSource | TableSource,
    out: str | os.PathLike[str],
    *,
    shard_size: int = SHARD_SIZE,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Write a ``features`` artifact of every readable image of a source, or every row of a table, in its order.

    Rerunning resumes. A shard is written while the next one is computed, so memory holds two of them. ``workers``
    threads read images ahead. Raises ``ArtifactMismatch`` where ``out`` holds features of another encoder, source or
    preparation, ``OutputError`` where there is no room, ``EvaluationError`` where no image could be read.
    """
    manifest = work.manifest(source, shard_size)
    with ArtifactWriter.open(out, manifest, overwrite=overwrite) as writer:
        pending = writer.pending()
        left = sum(len(manifest.shard_range(shard)) for shard in pending)
        require_space(Path(out), left * work.row_bytes, f"{out}")
        groups = [manifest.shard_range(shard) for shard in pending]
        rows = work.embed_groups(
            source, groups, batch_size=batch_size, workers=workers, device=device, on_progress=on_progress,
            done=manifest.items - left,
        )  # fmt: skip
        _write_behind(writer, pending, rows, work)
        summary = writer.finish()
    if len(summary.skipped) == manifest.items:
        raise nothing_readable(source)
    return summary


def _write_behind(
    writer: ArtifactWriter, pending: list[int], groups: Iterator[EmbeddedRows], work: FeatureWork
) -> None:
    """Write each shard in a thread while the next one is embedded."""
    with ThreadPoolExecutor(1, thread_name_prefix="semaug-write") as pool:
        last: Future[ShardMarker] | None = None
        started = time.perf_counter()
        for shard, rows in zip(pending, groups, strict=True):
            costs = ShardCosts(seconds=time.perf_counter() - started, peak_memory=peak_memory())
            if last is not None:
                last.result()
            last = pool.submit(writer.write, shard, _columns(rows, work), skipped=rows.skipped, costs=costs)
            started = time.perf_counter()
        if last is not None:
            last.result()


def _columns(rows: EmbeddedRows, work: FeatureWork) -> dict[str, NDArray]:
    columns: dict[str, NDArray] = {
        **pack_strings("key", rows.keys),
        "feature": rows.features.reshape(-1, work.feature_dim),
        "label": rows.labels.astype(np.int32),
        "size": rows.sizes,
    }
    if work.projection_dim is not None:
        found = np.zeros((0, 0), np.float32) if rows.projections is None else rows.projections
        columns["projection"] = found.reshape(-1, work.projection_dim)
    return columns


def copy_features(artifact: Artifact, out: str | os.PathLike[str], *, overwrite: bool = False) -> ArtifactSummary:
    """The same artifact at another place, shard by shard; resumes and refuses as ``write_features``."""
    with ArtifactWriter.open(out, artifact.manifest, overwrite=overwrite) as writer:
        markers = {marker.shard: marker for marker in artifact.markers}
        for shard in writer.pending():
            marker = markers[shard]
            writer.write(shard, dict(artifact.shard(shard)), skipped=marker.skipped, costs=marker.costs)
        return writer.finish()


def open_features(path: str | os.PathLike[str], encoder: str | None = None) -> Features:
    """The features of an artifact, both matrices mapped from its files and not read.

    With ``encoder``, the digest of the weights they must be of. Raises ``ArtifactError``.
    """
    artifact = Artifact.open(path, "features")
    config, inputs = _config(artifact), artifact.manifest.inputs
    if encoder is not None and inputs.get("encoder") != encoder:
        raise ArtifactError(
            f"{path} holds features of the encoder {inputs.get('encoder')}, this run's is {encoder}; "
            "give the images themselves, or the artifact `semaug eval embed` writes for this run"
        )
    labels = artifact.column("label").astype(np.int64)
    if not len(labels):
        raise ArtifactError(f"{path} holds no row: none of its images could be read; check the images")
    with reading(path, "embed again"):
        projections = None
        if config.projection_dim is not None:
            projections = _matrix(artifact, "projection", config.projection_dim)
        return Features(
            _matrix(artifact, "feature", config.feature_dim), projections, labels, tuple(artifact.keys),
            config.class_names, artifact.skipped, notes_of(artifact),
        )  # fmt: skip


def _matrix(artifact: Artifact, name: str, width: int) -> NDArray[np.float32]:
    found, rows = join_column(artifact, name), sum(m.items for m in artifact.markers)
    if found.dtype != np.float32 or found.shape != (rows, width):
        raise ValueError(f"{name} is {found.dtype} {found.shape}, not float32 {(rows, width)}")
    return found


def notes_of(artifact: Artifact) -> tuple[str, ...]:
    """The notes of the features of an artifact: whether images were enlarged."""
    size = _config(artifact).input_size
    return () if size is None else enlarged_note(artifact.column("size"), size)


def _config(artifact: Artifact) -> FeaturesConfig:
    try:
        return FeaturesConfig.model_validate(artifact.manifest.config)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(
            f"the manifest of {artifact.path} is damaged at config.{first['loc'][0]}: {first['msg']}; embed again"
        ) from error


def describe_features(artifact: Artifact) -> dict[str, Any]:
    """What the features are of, as plain values: the record of the NPY and Parquet twins."""
    manifest = artifact.manifest
    return {
        "digest": artifact.digest,
        "rows": sum(m.items for m in artifact.markers),
        **manifest.inputs,
        **manifest.config,
    }


def export_npy(path: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """A folder of ``features.npy``, ``projections.npy``, ``labels.npy``, ``keys.json`` and ``features.json``.

    Matrices are float32 (n, d), labels int64 (n,); ``features.json`` holds class names, encoder and preparation. Does
    nothing where ``out`` holds these features already; raises ``ArtifactMismatch`` where it holds anything else,
    unless ``overwrite``.
    """
    artifact, out = Artifact.open(path, "features"), Path(out)
    if _is_done(out, _npy_record(out), artifact, overwrite):
        return out
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(out):
        partial.mkdir(parents=True)
        for column, name in (("feature", "features"), ("projection", "projections")):
            if column in artifact.shard(0):
                _save_rows(partial / f"{name}.npy", artifact, column)
        np.save(partial / "labels.npy", artifact.column("label").astype(np.int64))
        write_atomic(partial / "keys.json", json.dumps(artifact.keys, ensure_ascii=False).encode())
        write_atomic(partial / NPY_RECORD, json.dumps(describe_features(artifact), indent=1).encode())
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)
    return out


def _save_rows(file: Path, artifact: Artifact, column: str) -> None:
    values = join_column(artifact, column)
    target = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=values.shape)
    for start in range(0, len(values), SHARD_SIZE):
        target[start : start + SHARD_SIZE] = values[start : start + SHARD_SIZE]
        release_rows(values, start, start + SHARD_SIZE)
    target.flush()


def _npy_record(out: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads((out / NPY_RECORD).read_bytes()))
    except (OSError, ValueError):
        return {}


def _is_done(out: Path, record: Mapping[str, Any], artifact: Artifact, overwrite: bool) -> bool:
    if not out.exists() or (overwrite and record):
        return False
    if record.get("digest") == artifact.digest:
        return True
    held = f"features with digest {record['digest']}" if record else "something else"
    remedy = "choose another --out" + (", or start anew with --overwrite" if record else "")
    raise ArtifactMismatch(f"{out} holds {held}, these have digest {artifact.digest}; {remedy}")


def export_parquet(path: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """One Parquet file of the columns key, label, class, features and projections (fixed-size lists of float32).

    The file's metadata holds the record of ``describe_features`` under ``semaug``; a shard is a row group. Refuses as
    ``export_npy``; raises ``MissingDependency`` without pyarrow.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependency("Parquet needs pyarrow; pip install 'semaug-eval[parquet]'") from error
    artifact, out = Artifact.open(path, "features"), Path(out)
    if _is_done(out, _parquet_record(out), artifact, overwrite):
        return out
    partial = out.with_name(f".{out.name}.partial")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        schema = _parquet_schema(artifact)
        with parquet.ParquetWriter(partial, schema) as file:
            for marker in artifact.markers:
                if marker.items:
                    file.write_table(_parquet_table(artifact, marker.shard, schema))
        os.replace(partial, out)
    return out


def _parquet_record(out: Path) -> Mapping[str, Any]:
    import pyarrow
    import pyarrow.parquet as parquet

    if not out.is_file():
        return {}
    try:
        return dict(json.loads(parquet.read_schema(out).metadata[b"semaug"]))
    except (pyarrow.ArrowInvalid, KeyError, TypeError, ValueError):
        return {}


def _parquet_schema(artifact: Artifact) -> Any:
    import pyarrow

    config = _config(artifact)
    fields = [("key", pyarrow.string()), ("label", pyarrow.int32()), ("class", pyarrow.string())]
    for name, width in (("features", config.feature_dim), ("projections", config.projection_dim)):
        if width is not None:
            fields.append((name, pyarrow.list_(pyarrow.float32(), width)))
    return pyarrow.schema(fields, metadata={"semaug": json.dumps(describe_features(artifact))})


def _parquet_table(artifact: Artifact, shard: int, schema: Any) -> Any:
    import pyarrow

    from semaug.artifacts.ragged import unpack_strings

    columns, names = artifact.shard(shard), _config(artifact).class_names
    labels = columns["label"]
    arrays = [
        pyarrow.array(unpack_strings(columns, "key")),
        pyarrow.array(np.asarray(labels)),
        pyarrow.array(
            [names[label] if 0 <= label < len(names) else None for label in labels.tolist()], pyarrow.string()
        ),
    ]
    for name in ("feature", "projection"):
        if name in columns:
            flat = pyarrow.array(np.asarray(columns[name]).reshape(-1))
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, columns[name].shape[1]))
    return pyarrow.Table.from_arrays(arrays, schema=schema)
