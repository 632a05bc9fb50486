"""What is measured of a study's artifacts rather than of its runs: costs, similarity, retention, pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption, SemaugError
from semaug.artifacts.files import write_atomic
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import open_source
from semaug.studies.study import sdi_measurements as sdi
from semaug.studies.study.catalogue import references
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import NotPrepared, Ready, artifact_seconds
from semaug.studies.study.schema import Preset

if TYPE_CHECKING:
    from semaug.eval.report import Block, Section

RECORD = "record.json"
HOUR = 3600.0
SHOWN = 6


@dataclass(frozen=True, slots=True)
class Measuring:
    """What a measurement is given: the study, what is ready, and its options with artifacts as paths."""

    study: Study
    ready: Ready
    options: Mapping[str, Any]
    place: str

    @property
    def images(self) -> Any:
        """The training images of the data role."""
        return open_source(self.ready.data[self.place].train)


@dataclass(frozen=True, slots=True)
class Measured:
    """Metrics as ``{"value", "n"}``, and what the report shows. What is not ``complete`` is measured anew next time."""

    rows: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement; ``after`` the runs are done where it reads them."""

    title: str
    run: Callable[[Measuring], Measured]
    knows: frozenset[str] = frozenset()
    after: bool = False


def check_measurements(preset: Preset) -> None:
    """Raise ``InvalidOption`` for a measurement or an option that is not there."""
    for name, options in preset.measurements.items():
        if name not in MEASUREMENTS:
            raise InvalidOption(f"{preset.name}: no measurement is called {name!r}; choose {', '.join(MEASUREMENTS)}")
        known = MEASUREMENTS[name].knows
        if unknown := sorted(set(options) - known):
            raise InvalidOption(f"{preset.name}: measurement {name!r} has no option {unknown[0]!r}; it has {known}")
        if absent := sorted(set(references(options)) - set(preset.artifacts)):
            raise InvalidOption(f"{preset.name}: measurement {name!r} reads @{absent[0]}, which is no artifact")


def run_measurements(study: Study, ready: Ready) -> None:
    """Measure what is not measured yet, each into a folder of its own; what fails is written down as such."""
    place = next(iter(study.data), "main")
    for name, options in study.preset.measurements.items():
        if all((artifact, place) in ready.artifacts for artifact in references(options)):
            _measure(study, ready, name, options, place)


def _measure(study: Study, ready: Ready, name: str, options: Mapping[str, Any], place: str) -> None:
    from semaug.eval.report import Paragraph, Section, store_section

    folder, measurement = folder_of(study, name), MEASUREMENTS[name]
    identity = _identity(ready, options, place)
    if not measurement.after and _kept(folder, identity) is not None:
        return
    try:
        found = measurement.run(Measuring(study, ready, ready.resolved(options, place), place))
        section, rows = Section(measurement.title, found.blocks), dict(found.rows)
        identity = identity if found.complete else ""
    except SemaugError as error:
        if error.exit_code != SemaugError.exit_code:
            raise
        text = Paragraph(f"Not measured: {' '.join(str(error).split())}", "warning")
        section, rows, identity = Section(measurement.title, (text,)), {}, ""
    store_section(section, folder)
    write_atomic(folder / RECORD, json.dumps({"identity": identity, "rows": rows}, indent=1).encode())


def _identity(ready: Ready, options: Mapping[str, Any], place: str) -> str:
    made = {}
    for name in references(options):
        found = ready.artifacts[name, place]
        made[name] = None if found.path is None else Artifact.open(found.path).digest
    text = json.dumps([dict(options), made], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _kept(folder: Path, identity: str) -> Mapping[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if record["identity"] == identity else None


def folder_of(study: Study, name: str) -> Path:
    """Where a measurement is kept."""
    return study.out / "measurements" / name


def measured_rows(study: Study) -> dict[str, Any]:
    """The metrics of all measurements that are there."""
    rows: dict[str, Any] = {}
    for name in study.preset.measurements:
        path = folder_of(study, name) / RECORD
        if path.is_file():
            rows |= json.loads(path.read_text("utf-8"))["rows"]
    return rows


def measurement_sections(study: Study, ready: Ready) -> list[Section]:
    """The parts of the report that measurements wrote."""
    from semaug.eval.report import load_section

    folders = (folder_of(study, name) for name in study.preset.measurements)
    return [load_section(folder) for folder in folders if (folder / RECORD).is_file()]


def _costs(measuring: Measuring) -> Measured:
    """Hours of training and of each stage, of one worker on this machine (Table 13)."""
    from semaug.eval.report import Column, Table
    from semaug.prompt_synthesis.pipeline import STAGES

    seconds: dict[str, float] = {}
    for artifact in measuring.ready.artifacts.values():
        for part in artifact.parts:
            kind = Artifact.open(part).manifest.kind
            seconds[STAGES.get(kind, kind)] = artifact_seconds(part)
    training = _training_seconds(measuring)
    made = sum(seconds.values())
    rows = {f"costs/{name}_hours": value / HOUR for name, value in seconds.items()}
    rows |= {"costs/preparation_hours": made / HOUR}
    if training is not None:
        rows |= {"costs/training_hours": training / HOUR, "costs/total_hours": (training + made) / HOUR}
        rows |= {"costs/ratio": (training + made) / training}
    count = len(measuring.images)
    lines = [(name, value, 1000 * value / count) for name, value in seconds.items()]
    if training is not None:
        lines.insert(0, ("training", training, 1000 * training / count))
    columns = (Column("what"), Column("seconds", digits=2), Column("for 1,000 images", digits=2, unit="s"))
    note = "Seconds of one worker; loading models is left out. Training is the mean of the runs of this study."
    table = Table(f"What {count:,} images took", columns, tuple(lines), note)
    return Measured({name: {"value": value, "n": count} for name, value in rows.items()}, (table,))


def _training_seconds(measuring: Measuring) -> float | None:
    """Mean training time of the controls' runs that are done."""
    from semaug.studies.study.jobs import SECONDS
    from semaug.studies.study.kind_training import slug

    controls = [slug(name) for name, v in measuring.study.preset.variants.items() if v.control]
    found = []
    for path in sorted((measuring.study.out / "runs").glob("*/*/*/result.json")):
        if path.parent.parent.name in controls:
            row = json.loads(path.read_text("utf-8"))["result"].get(SECONDS)
            found += [row["value"]] if row else []
    return sum(found) / len(found) if found else None


def _similarity(measuring: Measuring) -> Measured:
    """The cosines of real and synthetic images: histogram, normal fit, and how many lie below the threshold."""
    from semaug.eval.figures.similarity import similarity_histogram
    from semaug.eval.report import Figure
    from semaug.prompt_synthesis.similarity import report_similarity

    path, threshold = measuring.options["similarity"], measuring.options.get("threshold", 0.6)
    found = report_similarity(path, threshold)
    values = Artifact.open(path, "similarity").column("cosine").astype(float)
    names = ("mean", "deviation", "least", "greatest")
    rows = {f"similarity/{name}": {"value": getattr(found, name), "n": found.count} for name in names}
    rows["similarity/below"] = {"value": found.below / found.count, "n": found.count}
    caption = (
        f"Cosine between the CLIP embeddings of real and synthetic images: mean {found.mean:.3f}, deviation "
        f"{found.deviation:.3f}; {found.below} of {found.count} lie below {threshold:g} and would be replaced."
    )
    data = {"edges": found.edges, "counts": found.counts}
    figure = Figure(similarity_histogram(values), caption, "histogram of similarities with a normal fit", data)
    return Measured(rows, (figure,))


def _sheet(measuring: Measuring) -> Measured:
    """Real images beside what each artifact holds of them; with ``similarity`` the least alike come first."""
    from semaug.artifacts.synthetic_table import SimilarityTable, SyntheticTable
    from semaug.eval.report import Sheet, SheetRow

    given = measuring.options["synthetic"]
    tables = {Path(path).stem: SyntheticTable.open(path) for path in ([given] if isinstance(given, str) else given)}
    alike = measuring.options.get("similarity")
    cosines = dict(SimilarityTable.open(alike).cosines) if alike else {}
    first = next(iter(tables.values()))
    order = sorted(first.rows, key=lambda row: cosines.get(row.key, 0.0))
    origins = list(dict.fromkeys(row.origin for row in order))[: measuring.options.get("images", SHOWN)]
    rows = tuple(
        SheetRow(f"{key} ({cosines[_first(first, key)]:.2f})" if cosines else key, _pictures(measuring, tables, key))
        for key in origins
    )
    columns = ("real", *(name for name, table in tables.items() for _ in range(_most(table))))
    caption = "Real images, and what was generated of each" + (", the least alike first." if cosines else ".")
    return Measured({}, (Sheet(caption, columns, rows),))


def _pictures(measuring: Measuring, tables: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    """A real image and all that were generated of it, one column each."""
    from semaug.studies.protocols.drawn import picture_of

    source = measuring.images
    places = {source.key(i): i for i in range(len(source))}
    images: list[Any] = [picture_of(source.read(places[key]))]
    for table in tables.values():
        made = [picture_of(table.images.read(place)) for place in table.by_origin().get(key, ())]
        images += [*made, *([None] * (_most(table) - len(made)))]
    return tuple(images)


def _most(table: Any) -> int:
    return max(len(found) for found in table.by_origin().values())


def _first(table: Any, origin: str) -> str:
    return str(table.rows[table.by_origin()[origin][0]].key)


def _retention(measuring: Measuring) -> Measured:
    """The paper's rho of the views of every variant, on the true boxes of generated images."""
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.sources import ScenesSource
    from semaug.eval.report import Column, Table
    from semaug.pairs_dataset import measure_retention

    study, data = measuring.study, measuring.study.data[measuring.place]
    if "truth" in measuring.options:
        truth = GuidanceTable.open(measuring.options["truth"])
    elif isinstance(scenes := open_source(data.train), ScenesSource):
        truth = GuidanceTable.of([scenes.guidance(i) for i in range(len(scenes))])
    else:
        raise NotPrepared(f"retention needs true boxes of {data.train}; give an artifact as `truth`")
    rows: dict[str, Any] = {}
    lines = []
    for variant in study.preset.variants:
        found = measure_retention(pairs_of_variant(measuring, variant), truth, draws=measuring.options.get("draws", 5))
        lines.append((variant, found.keeps, found.filled, found.same, found.area))
        names = ("keeps", "filled", "same", "area")
        rows |= {f"retention/{variant}/{n}": {"value": getattr(found, n), "n": found.images} for n in names}
    shares = ("keep half the object", "filled 30% by it", "both views keep the same object", "area of the image")
    columns = (Column("variant"), *(Column(name, unit="%", scale=100) for name in shares))
    return Measured(rows, (Table("What views keep of the true objects", columns, tuple(lines)),))


def pairs_of_variant(measuring: Measuring, variant: str) -> Any:
    """The pair source of a variant in the first setting, with seed 0."""
    from semaug.studies.assemble import pairs_of
    from semaug.studies.study.catalogue import settings_of
    from semaug.studies.study.kind_training import training_plan

    setting = next(iter(settings_of(measuring.study.preset)))
    return pairs_of(training_plan(measuring.study, measuring.ready, setting, variant, 0, 1))


def _views(measuring: Measuring) -> Measured:
    """How alike and how different the views of every variant are, and what they keep."""
    from semaug.studies.study.view_measures import measured_views

    return measured_views(measuring)


MEASUREMENTS: dict[str, Measurement] = {
    "views": Measurement("What the views are like", _views, frozenset({"encoder", "images", "draws"})),
    "costs": Measurement("What it cost", _costs, after=True),
    "similarity": Measurement("Real against synthetic images", _similarity, frozenset({"similarity", "threshold"})),
    "sheet": Measurement("Real and generated images", _sheet, frozenset({"synthetic", "similarity", "images"})),
    "retention": Measurement("What views keep of the objects", _retention, frozenset({"truth", "draws"})),
    "minutes": Measurement("What augmentation takes", sdi.minutes, frozenset({"fast", "slow"}), after=True),
    "memory": Measurement("What memory it takes", sdi.memory, frozenset({"guidance", "generated"})),
    "course": Measurement("How the variants were trained", sdi.course, after=True),
    "routing": Measurement("What the thresholds decide", sdi.routing, frozenset({"quality", "presets"})),
    "routes": Measurement("What the oracles found", sdi.routes, after=True),
    "gap_recovery": Measurement("How much of the gap is closed", sdi.gap, frozenset({"floor", "ceiling"}), after=True),
}
"""Name -> measurement."""
