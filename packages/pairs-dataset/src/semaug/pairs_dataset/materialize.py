"""Guided crops on disk (spec S1.6): SDI's offline mode, by class, with overlays and a record of each.

Layout::

    out/train/{class}/{stem}__sdi.png        the expanded box, at the image's own resolution, lossless
    out/annotated/{class}/{stem}__sdi.jpg    the image with its guidance and the crop drawn
    out/metadata.zarr                        what each file is, and its hash
    out/report.json, out/skipped.csv

What is written is the whole region that online crops are drawn from (the box widened by the margin), so that a
RandomResizedCrop of the file is the crop that `inside` would have drawn.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, UnreadableImage
from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.guidance_table import GuidanceTable, guidance_columns
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact, read_manifest
from semaug.artifacts.schemas import Guidance, Manifest, QualityScore, Skipped
from semaug.artifacts.shards import ShardResult, Tick, Workers, process_shards
from semaug.artifacts.sources import ImageSource, inputs_of
from semaug.artifacts.store import ArtifactSummary, ArtifactWriter, write_skipped
from semaug.artifacts.verify import MATERIALIZED
from semaug.pairs_dataset.backgrounds import MaskMode, soften_background
from semaug.pairs_dataset.crops import CropRule, expanded_box, object_box
from semaug.pairs_dataset.materialized_source import SPLIT
from semaug.pairs_dataset.objects import ObjectRows, object_rows
from semaug.pairs_dataset.overlays import draw_guidance

ANNOTATED = "annotated"
REPORT = "report.json"
NO_CLASS = "_"
_OVERLAY_SIDE = 512
_LONGEST_STEM = 120
_QUALITY = ("quality", "resolution", "clarity", "diversity")


def materialize_crops(
    source: ImageSource,
    guidance: GuidanceTable,
    out: Path,
    *,
    rule: CropRule | None = None,
    mask_mode: MaskMode = "crop_only",
    quality: Mapping[str, QualityScore] | None = None,
    seed: int = 0,
    annotate: bool = True,
    workers: Workers = 1,
    shard_size: int = 64,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Write every image's guided crop below ``out``; run again, it resumes, and does nothing when all is done.

    ``rule`` gives the margin and which object is cut (default: the largest; `random` draws one by ``seed``). An image
    without objects is copied whole and flagged ``fallback``; one that cannot be read, or that the guidance's step
    skipped, is listed in ``skipped.csv``. ``quality`` is recorded where given.

    Raises ``ArtifactMismatch`` when ``out`` holds something else, ``ArtifactError`` for guidance of other images,
    ``OutputError`` when the disk is full or cannot be written.
    """
    guidance.require_source(source.fingerprint)
    rule = rule or CropRule(select="largest")
    names = file_names(source)
    manifest = Manifest(
        kind="materialized", items=len(source), shard_size=shard_size, seed=seed,
        config={"margin": rule.margin, "select": rule.select, "small": rule.small, "mask_mode": mask_mode,
                "annotate": annotate, "quality": quality is not None},
        inputs={**inputs_of(source), "guidance": guidance.digest},
        info={"spec": source.spec, "class_names": list(source.class_names)},
    )  # fmt: skip
    resumed = _prepare(out)
    with ArtifactWriter.open(out / MATERIALIZED, manifest, overwrite=overwrite) as writer:
        if resumed:
            _sweep(out, anew=len(writer.pending()) == writer.manifest.shards)
        work = CropWork(source, guidance, out, names, rule, mask_mode, quality, seed, annotate)
        process_shards(writer, work, stage="materialize", workers=workers, on_progress=on_progress)
        summary = writer.finish()
    write_skipped(out / "skipped.csv", summary.skipped)
    write_atomic(out / REPORT, json.dumps(_report(summary), indent=1).encode())
    return summary


def file_names(source: ImageSource) -> list[str]:
    """``{class}/{stem}__sdi`` of every image; keys that would share one get eight hex digits of their own hash."""
    plain = [_plain_name(source, i) for i in range(len(source))]
    uses = Counter(name.casefold() for name in plain)
    return [
        name + "__sdi" if uses[name.casefold()] == 1 else f"{name}~{_short_hash(source.key(i))}__sdi"
        for i, name in enumerate(plain)
    ]


def _plain_name(source: ImageSource, index: int) -> str:
    label, key = source.label(index), source.key(index)
    folder = NO_CLASS if label is None else _plain(source.class_names[label])
    stem = key.rsplit("/", 1)[-1]
    stem = _plain(stem.rsplit(".", 1)[0] or stem)
    if len(stem.encode()) > _LONGEST_STEM:
        stem = f"{stem.encode()[:_LONGEST_STEM].decode(errors='ignore')}~{_short_hash(key)}"
    return f"{folder}/{stem}"


def _plain(name: str) -> str:
    """A name as that of one file or folder."""
    plain = name.replace("/", "_").replace("\0", "_")
    return NO_CLASS if plain in ("", ".", "..") else plain


def _short_hash(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=4).hexdigest()


def _prepare(out: Path) -> bool:
    """Make the folder; whether an earlier run began to write there. Refuses a folder of something else."""
    ours = (out / MATERIALIZED).is_dir()
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactMismatch(f"{out} exists and holds no materialised crops; choose another --out")
    with writing(out):
        begun = (out / MATERIALIZED / "zarr.json").exists()
        if begun:
            _require_crops(out / MATERIALIZED)  # only what is ours is ever removed
        out.mkdir(parents=True, exist_ok=True)
    return begun


def _require_crops(path: Path) -> None:
    """Refuse another kind of artifact; one that is torn is the writer's to judge."""
    try:
        kind = read_manifest(path).kind
    except ArtifactError:
        return
    if kind != "materialized":
        raise ArtifactError(f"{path} is a {kind} artifact, a materialized artifact is needed here")


def _sweep(out: Path, *, anew: bool) -> None:
    """Remove what a killed run left half-written; where no shard is done (``anew``) all files of earlier runs.

    Called with the artifact's lock held, and after --overwrite has emptied its ledger: killed at any moment, a rerun
    never takes a removed file for one that is done.
    """
    for name in (SPLIT, ANNOTATED):
        if anew:
            shutil.rmtree(out / name, ignore_errors=True)
        for leftover in (out / name).glob("*/.*.partial"):
            leftover.unlink()


@dataclass(frozen=True, slots=True)
class CropWork:
    """What a worker needs; ``open`` builds nothing heavy."""

    source: ImageSource
    guidance: GuidanceTable
    out: Path
    names: list[str]
    rule: CropRule
    mask_mode: MaskMode
    quality: Mapping[str, QualityScore] | None
    seed: int
    annotate: bool

    def open(self) -> _Cropper:
        """The runner."""
        return _Cropper(self)


@dataclass(slots=True)
class _Rows:
    """The records of a shard, as they grow."""

    guidance: list[Guidance] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    crops: list[tuple[int, int, int, int]] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def columns(self, quality: Mapping[str, QualityScore] | None) -> dict[str, NDArray]:
        scores = [quality.get(g.key) if quality else None for g in self.guidance]
        return {
            **guidance_columns(self.guidance),
            **pack_strings("file", self.files),
            **pack_strings("file_hash", self.hashes),
            "crop": np.array(self.crops, np.int32).reshape(-1, 4),
            "copied_whole": np.array(self.whole, bool),
            "label": np.array(self.labels, np.int32),
            "quality": np.array(
                [[getattr(s, n) if s else np.nan for n in _QUALITY] for s in scores], np.float32
            ).reshape(-1, len(_QUALITY)),
        }


class _Cropper:
    def __init__(self, work: CropWork) -> None:
        self._work = work
        self._rule = work.rule.vector()

    def run(self, indices: range, tick: Tick) -> ShardResult:
        rows, skipped = _Rows(), []
        for index in indices:
            key = self._work.source.key(index)
            found = self._work.guidance.get(key)
            if found is None:
                skipped.append(Skipped(key=key, reason="its guidance was skipped"))
            else:
                try:
                    self._one(index, found, rows)
                except UnreadableImage as error:
                    skipped.append(Skipped(key=key, reason=str(error)))
            tick(1)
        return ShardResult(rows.columns(self._work.quality), skipped)

    def _one(self, index: int, guidance: Guidance, rows: _Rows) -> None:
        image = self._work.source.read(index)
        objects = object_rows([guidance.key], GuidanceTable.of([guidance]))
        crop, image_out = self._crop(image, guidance.key, objects)
        top, left, height, width = crop
        pixels = image_out[top : top + height, left : left + width]
        name = f"{SPLIT}/{self._work.names[index]}.png"
        data = _encode(pixels, "PNG", compress_level=3)
        _write(self._work.out / name, data)
        if self._work.annotate:
            overlay = draw_guidance(image, guidance, [crop], side=min(_OVERLAY_SIDE, max(image.shape[:2])))
            path = self._work.out / ANNOTATED / f"{self._work.names[index]}.jpg"
            _write(path, _encode(np.asarray(overlay), "JPEG", quality=88))
        rows.guidance.append(guidance)
        rows.files.append(name)
        rows.hashes.append(hashlib.blake2b(data, digest_size=16).hexdigest())
        rows.crops.append(crop)
        rows.whole.append(len(objects.boxes) == 0)
        label = self._work.source.label(index)
        rows.labels.append(-1 if label is None else label)

    def _crop(
        self, image: NDArray[np.uint8], key: str, objects: ObjectRows
    ) -> tuple[tuple[int, int, int, int], NDArray[np.uint8]]:
        """The region to cut, and the image to cut it from."""
        height, width = image.shape[:2]
        boxes, run_first, mask_size = objects.row(0)
        if len(boxes) == 0:
            return (0, 0, height, width), image
        chosen, box = object_box(np.uint64(draw_key(self._work.seed, "object", 0, key)), boxes, self._rule)
        x0, y0, x1, y1 = expanded_box(box, self._work.rule.margin, width, height)
        if self._work.mask_mode != "crop_only" and chosen >= 0:
            runs = objects.runs[run_first[chosen] : run_first[chosen + 1]]
            size = (int(mask_size[0]), int(mask_size[1]))
            image = soften_background(image, runs, size, fill=self._work.mask_mode == "bg_fill")
        return (y0, x0, y1 - y0, x1 - x0), image


def _encode(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def _report(summary: ArtifactSummary) -> dict[str, Any]:
    artifact = Artifact.open(summary.path)
    whole, crops, sizes = (artifact.column(n) for n in ("copied_whole", "crop", "size"))
    shares = crops[:, 2] * crops[:, 3] / np.maximum(sizes.prod(axis=1), 1) if len(crops) else np.zeros(0)
    quantiles = np.quantile(shares, [0.05, 0.5, 0.95]).round(4).tolist() if len(shares) else None
    return {
        "images": summary.manifest.items,
        "written": len(whole),
        "copied_whole": int(whole.sum()),
        "skipped": len(summary.skipped),
        "area_share_quantiles": quantiles,
        "digest": artifact.digest,
        "config": summary.manifest.config,
        "inputs": summary.manifest.inputs,
        "seconds_per_1000": summary.costs.seconds_per_1000,
        "peak_memory": summary.costs.peak_memory,
    }
