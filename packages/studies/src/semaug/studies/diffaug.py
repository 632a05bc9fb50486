"""DiffAug from a table or images to a run, its generated positives and its embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from semaug.artifacts.schemas import EncoderCard
    from semaug.artifacts.shards import Workers
    from semaug.artifacts.sources import ImageSource
    from semaug.artifacts.store import ArtifactSummary
    from semaug.artifacts.tables import Table
    from semaug.artifacts.tables.writing import Written
    from semaug.diffaug_core.augment import AugmentPlan
    from semaug.diffaug_core.settings import DiffAugSettings
    from semaug.diffaug_core.table_samples import TableSamples
    from semaug.eval.features import Features
    from semaug.studies.diffaug_images import ImageSamples

    Samples = ImageSamples | TableSamples

EMBEDDING = "X_diffaug"
"""Where the two dimensions go in ``obsm``; the latent y goes beside it."""
LATENT = "X_diffaug_latent"
EPOCHS = 400
"""Of the encoder, where none are asked for."""


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How what DiffAug trains on is opened: ``size`` and ``preset`` of images, ``neighbours`` of a table and the
    ``components`` among which they are found (0: all columns)."""

    size: int | None = None
    preset: str | None = None
    neighbours: int = 5
    components: int = 50

    def open(self, spec: str, *, cache: Path | None = None) -> Samples:
        """The samples of a spec; raises what ``samples_of`` raises."""
        from semaug.diffaug_core.neighbours import NeighbourSettings
        from semaug.studies.diffaug_images import PRESET, samples_of

        near = NeighbourSettings(self.neighbours, self.components or None)
        return samples_of(spec, size=self.size, preset=self.preset or PRESET, neighbours=near, cache=cache)


@dataclass(frozen=True, slots=True)
class Course:
    """How long a run trains: ``epochs`` or ``steps`` of the encoder; ``batch_size`` None is 500, or a smaller set."""

    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    checkpoint_every: int = 200
    log_every: int = 10


def train_run(
    samples: Samples,
    out: Path,
    settings: DiffAugSettings,
    course: Course,
    *,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> EncoderCard:
    """Train on ``samples``, or go on; raises what ``train_diffaug`` raises."""
    from dataclasses import asdict

    from semaug.diffaug_core.training import train_diffaug

    return train_diffaug(
        samples, out, settings, **asdict(course), seed=seed, device=device, config=identity_of(samples),
        overwrite=overwrite, on_progress=on_progress,
    )  # fmt: skip


def identity_of(samples: Samples) -> dict[str, Any]:
    """What of the samples decides a run beside their content; tables are checked by it when they are embedded."""
    from semaug.artifacts.tables import names_digest

    found: dict[str, Any] = {"source": "diffaug", "augmentation": samples.settings()}
    if len(samples.shape) == 1:
        table = cast("Table", source_of(samples))
        names = table.feature_names
        found["table"] = {"columns": len(names), "names": names_digest(names), "steps": list(table.steps)}
    return {"pairs": found}


def describe_run(out: Path, card: EncoderCard) -> dict[str, Any]:
    """The last value of every curve of a run, and the digests of its networks."""
    from semaug.diffaug_core.generator_cards import GENERATOR_CARD, load_generator_card
    from semaug.ssl_methods.metrics import read_rows

    last: dict[str, float] = {}
    for row in read_rows(out / "metrics.csv"):
        last |= {name: float(value) for name, value in row.items() if value not in ("", None)}
    shown = ("loss", "saturated", "generator_loss", "alpha", "generated", "samples_per_second")
    generator = load_generator_card(out).weights_digest if (out / GENERATOR_CARD).exists() else None
    return {
        "out": str(out),
        "steps": card.steps,
        **{name: last[name] for name in shown if name in last},
        "encoder": card.weights_digest,
        "generator": generator,
    }


def open_for(run: Path, spec: str) -> Samples:
    """The samples of ``spec`` as the run in the folder ``run`` reads them: at its size, of its columns.

    Raises ``InvalidOption`` for a run of another method and where the samples do not fit, and what ``load_card`` and
    ``samples_of`` raise.
    """
    from semaug.artifacts.tables import open_table
    from semaug.diffaug_core.table_samples import TableSamples
    from semaug.diffaug_core.training import METHOD
    from semaug.ssl_methods.cards import load_card
    from semaug.studies.diffaug_images import image_samples, images_of
    from semaug.studies.tables import require_columns

    card = load_card(run)
    if card.method != METHOD:
        raise InvalidOption(f"{run} is a run of {card.method}; give the folder of a `semaug diffaug train` run")
    images, reads_images = images_of(spec), card.input_size is not None
    if (images is not None) != reads_images:
        kinds = ("a table", "images") if reads_images else ("images", "a table")
        raise InvalidOption(f"{spec} holds {kinds[0]} and {run} was trained on {kinds[1]}; give data of that kind")
    if images is not None:
        return image_samples(images, card.input_size)
    table = open_table(spec)
    require_columns(card, table)
    return TableSamples(table)


def source_of(samples: Samples) -> Table | ImageSource:
    """The table or the images behind samples."""
    found: Any = samples
    return cast("Table | ImageSource", found.table if len(samples.shape) == 1 else found.source)


def augment_with(
    spec: str,
    run: Path,
    out: Path,
    plan: AugmentPlan,
    *,
    seed: int = 0,
    device: str = "cpu",
    workers: Workers = 1,
    batch_size: int | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ArtifactSummary:
    """Generate positives of ``spec`` by a run; raises what ``open_for`` and ``augment`` raise."""
    from semaug.diffaug_core.augment import augment

    return augment(
        open_for(run, spec), run, out, plan, seed=seed, device=device, workers=workers, batch_size=batch_size,
        shard_size=shard_size, overwrite=overwrite, on_progress=on_progress,
    )  # fmt: skip


def features_of(
    spec: str, run: Path, *, device: str = "cpu", workers: int = 0, on_progress: OnProgress = ignore_progress
) -> Features:
    """y as features and z as projections of every sample of ``spec``, by the encoder of ``run``."""
    from semaug.studies.assemble import embed_run

    return embed_run(run, source_of(open_for(run, spec)), device=device, workers=workers, on_progress=on_progress)


def write_features(spec: str, features: Features, out: Path, *, latent: bool, overwrite: bool = False) -> Written:
    """Hand z, and y with ``latent``, to ``out``: ``.h5ad`` (a copy of the table's file), ``.csv`` or ``.npy``.

    Raises what ``table_file`` and ``write_embeddings`` raise, and ``InvalidOption`` for an encoder without z.
    """
    from semaug.artifacts.tables.writing import write_embeddings

    if features.projections is None:
        raise InvalidOption("this encoder has no projector and so no embedding; give a run of `semaug diffaug train`")
    matrices: Mapping[str, Any] = {EMBEDDING: features.projections} | ({LATENT: features.features} if latent else {})
    source = _file_of(spec) if out.suffix == ".h5ad" else None
    return write_embeddings(source, out, matrices, features.keys, overwrite=overwrite)


def _file_of(spec: str) -> Path:
    """The file that a spec of a table reads; of anything else, what it names."""
    from semaug.artifacts.tables import is_table, table_file

    name = Path(spec.partition("?")[0]).expanduser()
    return (table_file(spec) if is_table(spec) and name.suffix != ".zarr" else None) or name
