"""Features of images by the encoder of a run: embedded once, kept beside the run, read again by every probe."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from semaug.artifacts.errors import ArtifactError, ArtifactLocked, InvalidOption, OutputError, SourceError
from semaug.artifacts.places import as_path, is_remote
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.reader import Artifact, read_manifest
from semaug.artifacts.sources import ImageSource

if TYPE_CHECKING:
    from semaug.artifacts.schemas import EncoderCard, Manifest
    from semaug.artifacts.store import ArtifactSummary
    from semaug.artifacts.tables import Table
    from semaug.eval.feature_store import FeatureWork
    from semaug.eval.features import Features, Preparation

Layout = Literal["artifact", "npy", "parquet", "anndata"]
CACHE = Path("eval", "features")
"""Where a run keeps features, below its folder."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What an embedding wrote: the summary and the digest of its artifact, and the notes of its features."""

    summary: ArtifactSummary
    digest: str
    notes: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Plain values: counts, widths, what the features are of, costs."""
        manifest, costs = self.summary.manifest, self.summary.costs
        return {
            "images": manifest.items - len(self.summary.skipped),
            "skipped": len(self.summary.skipped),
            **{name: manifest.config.get(name) for name in ("feature_dim", "projection_dim", "input_size")},
            "encoder": manifest.inputs["encoder"],
            "source": manifest.inputs["source"],
            "digest": self.digest,
            "seconds_per_1000": costs.seconds_per_1000,
            "peak_memory": costs.peak_memory,
            "notes": list(self.notes),
        }


def _embedded(summary: ArtifactSummary) -> Embedded:
    from semaug.eval.feature_store import notes_of

    artifact = Artifact.open(summary.path, "features")
    return Embedded(summary, artifact.digest, notes_of(artifact))


@dataclass(frozen=True)
class Embedder:
    """The encoder of a run, ready to embed: its weights are loaded at the first image.

    ``workers`` threads read images ahead; 0 takes one, and on a GPU as many as there are cores up to 16. With
    ``keep`` features are written below the run and found there again; a run that cannot be written to is embedded in
    memory.
    """

    run: Path
    device: str = "cpu"
    workers: int = 0
    keep: bool = True
    on_progress: OnProgress = ignore_progress

    @cached_property
    def card(self) -> EncoderCard:
        """The card of the run."""
        from semaug.ssl_methods import load_card

        return load_card(self.run)

    @cached_property
    def work(self) -> FeatureWork:
        """What is written for this run."""
        from semaug.eval.feature_store import FeatureWork
        from semaug.eval.features import Preparation

        card = self.card
        preparation = None if card.input_size is None else Preparation.of(card.input_size, card.mean, card.std)
        encode = _encode(self.run, self.device)
        return FeatureWork(encode, card.weights_digest, preparation, card.feature_dim, card.projector_dim)

    @property
    def preparation(self) -> Preparation:
        """How images are prepared; raises ``InvalidOption`` for an encoder of tables."""
        found = self.work.preparation
        if found is None:
            raise InvalidOption(
                f"{self.run} holds an encoder of tables ({self.card.backbone}); it has no features of images"
            )
        return found

    def open(self, spec: str) -> ImageSource | Table:
        """The images of a spec, or the table, where the encoder reads tables.

        Raises ``InvalidOption`` for a table of other columns or preprocessing than the encoder's.
        """
        from semaug.studies.tables import open_inputs, require_columns

        rows = self.card.input_size is None
        try:
            source = open_inputs(spec, rows)
        except SourceError as error:
            if not rows:
                raise
            raise InvalidOption(f"{self.run} holds an encoder of tables ({self.card.backbone}): {error}") from error
        if rows:
            require_columns(self.card, source)
        return source

    @property
    def readers(self) -> int:
        """Threads that read ahead."""
        return self.workers or (1 if self.device == "cpu" else min(16, os.cpu_count() or 1))

    def features(self, spec: str) -> Features:
        """Features of an image source, or those that a ``features`` artifact of this encoder holds.

        Raises ``ArtifactError`` for an artifact of another encoder's features.
        """
        from semaug.eval.feature_store import open_features

        if is_features(spec):
            return open_features(spec, self.card.weights_digest)
        source = self.open(spec)
        return (self._kept(source) if self.keep else None) or self._in_memory(source)

    def _kept(self, source: ImageSource | Table) -> Features | None:
        """Features from the run's own store, written first where they are not there; None where that cannot be."""
        from semaug.eval.feature_store import open_features

        path = self.kept_at(source)
        try:
            return open_features(path)
        except ArtifactError:  # not there yet, unfinished, or damaged
            pass
        try:
            self._forget_other_encoders()
            self._write(source, path)
            try:
                return open_features(path)
            except ArtifactError:
                self._write(source, path, overwrite=True)
                return open_features(path)
        except (ArtifactLocked, OutputError):
            return None

    def _write(
        self, source: ImageSource | Table, path: Path, *, shard_size: int | None = None, overwrite: bool = False
    ) -> ArtifactSummary:
        from semaug.eval.feature_store import SHARD_SIZE, write_features

        return write_features(
            self.work, source, path, shard_size=shard_size or SHARD_SIZE, workers=self.readers, device=self.device,
            overwrite=overwrite, on_progress=self.on_progress,
        )  # fmt: skip

    def _in_memory(self, source: ImageSource | Table) -> Features:
        from semaug.eval.features import embed
        from semaug.eval.rows import embed_rows

        work = self.work
        if work.preparation is None:
            table = cast("Table", source)
            return embed_rows(work.encode, table, device=self.device, on_progress=self.on_progress)
        prepared, images = work.preparation, cast("ImageSource", source)
        return embed(
            work.encode, images, input_size=prepared.input_size, mean=prepared.mean, std=prepared.std,
            workers=self.readers, device=self.device, on_progress=self.on_progress,
        )  # fmt: skip

    def kept_at(self, source: ImageSource | Table) -> Path:
        """Where the features of a source are kept: named after encoder, images, labels and preparation."""
        identity = json.dumps(self.work.manifest(source).identity(), sort_keys=True)
        return self.run / CACHE / f"{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}.zarr"

    def _forget_other_encoders(self) -> None:
        """Remove what was kept of weights that the run no longer has."""
        for path in (self.run / CACHE).glob("*.zarr"):
            try:
                stale = read_manifest(path).inputs.get("encoder") != self.card.weights_digest
            except ArtifactError:
                continue
            if stale:
                shutil.rmtree(path, ignore_errors=True)

    def embed_to(
        self,
        spec: str,
        out: Path,
        *,
        layout: Layout = "artifact",
        shard_size: int | None = None,
        overwrite: bool = False,
    ) -> Embedded:
        """Write the features of a source to ``out`` as an artifact, a folder of NPY files, or one Parquet file.

        In the layout ``anndata`` they go into a copy of the AnnData file that the table is from, or into that file, as
        ``obsm["X_METHOD"]``, and the projections as ``obsm["X_METHOD_projection"]``. What the run keeps already is
        copied, not computed again. Rerunning resumes. Raises as ``write_features``, ``export_npy``, ``export_parquet``
        and ``write_embeddings``.
        """
        from semaug.eval.feature_store import copy_features, export_npy, export_parquet

        if layout != "artifact" and is_remote(out):
            raise InvalidOption(f"{out} is in an object store, which takes artifacts alone; give a folder or a file")
        source = self.open(spec)
        kept = self.kept_at(source)
        if layout == "artifact":
            found = _finished(kept, self.work.manifest(source, shard_size) if shard_size else None)
            if found is not None:
                return _embedded(copy_features(found, out, overwrite=overwrite))
            return _embedded(self._write(source, out, shard_size=shard_size, overwrite=overwrite))
        staging = kept if self.keep else out.with_name(f".{out.name}.zarr")
        written = _embedded(self._write(source, staging))
        if layout == "anndata":
            self._into_anndata(spec, staging, out, overwrite)
        else:
            export = export_npy if layout == "npy" else export_parquet
            export(staging, out, overwrite=overwrite)
        if staging != kept:
            shutil.rmtree(staging, ignore_errors=True)
        return written

    def _into_anndata(self, spec: str, staging: Path, out: Path, overwrite: bool) -> None:
        from semaug.artifacts.tables import table_file, write_embeddings
        from semaug.eval.feature_store import open_features

        if self.card.input_size is not None:
            raise InvalidOption(f"{self.run} holds an encoder of images ({self.card.backbone}); AnnData is for tables")
        found, name = open_features(staging), f"X_{self.card.method.replace('-', '_')}"
        matrices = {name: found.features}
        if found.projections is not None:
            matrices[f"{name}_projection"] = found.projections
        write_embeddings(table_file(spec), out, matrices, found.keys, overwrite=overwrite)


def _finished(path: Path, wanted: Manifest | None) -> Artifact | None:
    """The artifact at ``path`` where it is whole (and of this identity); else None."""
    try:
        artifact = Artifact.open(path, "features")
    except ArtifactError:
        return None
    return artifact if wanted is None or artifact.manifest.identity() == wanted.identity() else None


def is_features(spec: str) -> bool:
    """Whether a spec is the path of a features artifact."""
    path = as_path(spec).expanduser()
    return (path / "zarr.json").is_file() and read_manifest(path).kind == "features"


def features_of_run(
    run: Path,
    specs: Sequence[str],
    *,
    device: str = "cpu",
    workers: int = 0,
    keep: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> list[Features]:
    """Features of several sources or features artifacts by the encoder of a run (see ``Embedder``)."""
    embedder = Embedder(run, device, workers, keep, on_progress)
    found = {spec: embedder.features(spec) for spec in dict.fromkeys(specs)}
    return [found[spec] for spec in specs]


def _encode(run: Path, device: str) -> Callable[[Any], tuple[Any, Any]]:
    """Features and projections of a batch by the run's encoder, which is loaded at the first call."""

    @cache
    def encoder() -> Any:
        from semaug.ssl_methods import load_encoder

        return load_encoder(run)[0].to(device).eval()

    def encode(images: Any) -> tuple[Any, Any]:
        features = encoder()(images)
        return features, encoder().project(features) if encoder().projector is not None else None

    return encode
