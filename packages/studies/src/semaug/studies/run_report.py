"""One run's evaluation as a report: every protocol that fits the data, a section each."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import ArtifactError, InvalidOption, SemaugError
from semaug.artifacts.files import write_atomic, writing
from semaug.artifacts.progress import Progress
from semaug.studies.evaluation import content_of, measures, ran_on, write_results
from semaug.studies.protocols.figures import PICTURES, knn_pictures
from semaug.studies.protocols.subject import DoesNotFit, Subject
from semaug.studies.run_page import (
    curves_section,
    highlights_of,
    left_out,
    measures_tables,
    overview,
    provenance,
    verdict_on,
)

if TYPE_CHECKING:
    from semaug.eval.measures import Measure
    from semaug.eval.report import Block, Section

RECORD = "record.json"
STORED = "sections"
"""Where a report keeps its sections, below its folder."""
FORMAT = 1
"""Raised whenever a stored section would look otherwise."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What one protocol found: measures, warnings, and blocks to show below the table of measures."""

    measures: tuple[Measure, ...]
    warnings: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()

    @classmethod
    def of(cls, *results: Any, blocks: Sequence[Block] = ()) -> Findings:
        """The findings of evaluators' results, which iterate over measures and have warnings."""
        rows = tuple(measure for result in results for measure in result)
        warnings = dict.fromkeys(warning for result in results for warning in result.warnings)
        return cls(rows, tuple(warnings), tuple(blocks))


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one protocol is run and shown.

    ``needs`` says what it asks of the data. Its table, where it is ``tabled``, shows measures times ``scale`` in
    ``unit``, rounded to ``digits``. One that ``trains`` networks, or needs other images, runs only where it is asked
    for; what its own verb wrote is shown. ``inputs`` gives what beside encoder, images and seed decides its numbers.
    """

    title: str
    run: Callable[[Subject], Findings]
    needs: str
    unit: str = "%"
    scale: float = 100.0
    digits: int = 1
    tabled: bool = True
    trains: bool = False
    inputs: Callable[[Subject], Mapping[str, Any]] = field(default=lambda subject: {})


@dataclass(frozen=True, slots=True)
class Outcome:
    """One protocol's part of the report. ``state`` is ``done``, ``reused`` (done before), ``found`` (done by its own
    verb), ``left out`` or ``failed``; ``reason`` says why in the last two."""

    name: str
    title: str
    state: str
    seconds: float | None
    rows: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunReport:
    """All outcomes of a run and the page that shows them."""

    outcomes: tuple[Outcome, ...]
    page: Path

    @property
    def rows(self) -> dict[str, Any]:
        """The measures of all protocols."""
        return {name: row for outcome in self.outcomes for name, row in outcome.rows.items()}

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Protocols that ended in an error that nobody expected."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")


def evaluate_run(
    subject: Subject, out: Path, *, extra: Iterable[str] = (), only: Iterable[str] | None = None, fresh: bool = False
) -> RunReport:
    """Run every protocol that fits and write ``report.html``, ``results.json`` and one JSON file a protocol to ``out``.

    Protocols that train run where ``extra`` or ``only`` names them, and are otherwise taken from the files that their
    verbs wrote to ``out``; ``only`` leaves all others out. A protocol whose section is
    there already for the same encoder, images, labels and settings is not run again, unless ``fresh``. One that does
    not fit, or fails, becomes a section that says why. Raises what opening run and images raises.
    """
    from semaug.eval.report import Report, write_report

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    identity = {
        "format": FORMAT,
        "encoder": subject.card.weights_digest,
        "sources": {role: content_of(spec, subject.run) for role, spec in subject.sources_given().items()},
        "seed": subject.seed,
    }
    outcomes = []
    names, trained = chosen_protocols(extra, only), set(extra) | set(only or ())
    for done, name in enumerate(names):
        subject.on_progress(Progress("protocols", done, len(names), "protocols", name))
        if PROTOCOLS[name].trains and name not in trained:
            outcomes += _found(name, subject, out)
        else:
            outcomes.append(_outcome(name, subject, out, identity, fresh))
    subject.on_progress(Progress("protocols", len(names), len(names), "protocols"))
    shown = [section for outcome in outcomes for section in outcome.sections]
    sections = [overview(outcomes), *curves_section(subject.run), *shown, *left_out(outcomes)]
    card = subject.card
    about = f"{card.method}, {card.backbone}, {card.steps:,} steps"
    title, told = f"Evaluation of {subject.run.resolve().name}", verdict_on(outcomes)
    report = Report(title, told, tuple(sections), provenance(subject, "all"), about, highlights_of(outcomes))
    page = out / "report.html"
    write_report(page, report)
    return RunReport(tuple(outcomes), page)


def chosen_protocols(extra: Iterable[str] = (), only: Iterable[str] | None = None) -> list[str]:
    """Names of the protocols to run or to look for, in the registry's order; raises ``InvalidOption`` for others."""
    extra, only = set(extra), None if only is None else set(only)
    for name in sorted(extra | (only or set())):
        if name not in PROTOCOLS:
            raise InvalidOption(f"no protocol is called {name!r}; known are {', '.join(PROTOCOLS)}")
    return [name for name in PROTOCOLS if only is None or name in only | extra]


def _found(name: str, subject: Subject, out: Path) -> list[Outcome]:
    """What the protocol's own verb wrote of this encoder to ``out``; nothing where it did not run."""
    from semaug.eval.report import Paragraph, Section

    try:
        kept = json.loads((out / f"{name}.json").read_text())
        rows, where, warnings = kept["measures"], kept["ran_on"], kept["warnings"]
        if where["encoder"] != subject.card.weights_digest:
            return []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    protocol = PROTOCOLS[name]
    of = ", ".join(f"{role} {found.get('spec', '')}" for role, found in where.get("sources", {}).items())
    text = Paragraph(f"Found in `{name}.json`, written {where.get('created', 'earlier')}{of and f' on {of}'}.", "note")
    blocks: tuple[Block, ...] = (
        text,
        *measures_tables(rows, protocol),
        *(Paragraph(warning, "warning") for warning in warnings),
    )
    return [Outcome(name, protocol.title, "found", None, rows, (Section(protocol.title, blocks),))]


def _outcome(name: str, subject: Subject, out: Path, shared: Mapping[str, Any], fresh: bool) -> Outcome:
    from semaug.eval.report import Paragraph, Section

    protocol, folder = PROTOCOLS[name], out / STORED / name
    started = time.perf_counter()
    try:
        settings = dict(protocol.inputs(subject))
        identity = json.loads(json.dumps({**shared, "protocol": name, "settings": settings}, default=str))
        kept = None if fresh else _kept(name, folder, identity)
        if kept is not None:
            return kept
        found = protocol.run(subject)
        seconds = time.perf_counter() - started
        return _finish(name, subject, out, found, identity, settings, seconds)
    except SemaugError as error:
        return Outcome(name, protocol.title, "left out", time.perf_counter() - started, reason=str(error))
    except Exception as error:  # one protocol's trouble is no reason to lose the others
        reason = f"{type(error).__name__}: {error}"
        section = Section(protocol.title, (Paragraph(f"Failed: {reason}", "warning"),))
        return Outcome(name, protocol.title, "failed", time.perf_counter() - started, {}, (section,), reason)


def _finish(
    name: str, subject: Subject, out: Path, found: Findings, identity: Mapping[str, Any],
    settings: Mapping[str, Any], seconds: float,
) -> Outcome:  # fmt: skip
    """Write a protocol's results and its section down, the record last."""
    from semaug.eval.report import Paragraph, Section, store_section

    protocol, folder, rows = PROTOCOLS[name], out / STORED / name, measures(found.measures)
    where = ran_on(
        subject.run, subject.sources_given(), settings={"seed": subject.seed, **settings}, device=subject.device
    )
    if rows:
        write_results(out, name, rows, ran_on=where, warnings=found.warnings)
    table = measures_tables(rows, protocol) if protocol.tabled else []
    warnings = (Paragraph(warning, "warning") for warning in found.warnings)
    section = Section(protocol.title, (*table, *warnings, *found.blocks))
    store_section(section, folder)
    record = {"identity": identity, "seconds": seconds, "rows": rows}
    write_atomic(folder / RECORD, json.dumps(record, indent=1).encode())
    return Outcome(name, protocol.title, "done", seconds, rows, (section,))


def _kept(name: str, folder: Path, identity: Mapping[str, Any]) -> Outcome | None:
    """What an earlier call wrote of the same; None where it is not there, or of something else."""
    from semaug.eval.report import load_section

    try:
        record = json.loads((folder / RECORD).read_text())
        if record["identity"] != identity:
            return None
        section = load_section(folder)
        return Outcome(name, PROTOCOLS[name].title, "reused", record["seconds"], record["rows"], (section,))
    except (OSError, ValueError, KeyError, ArtifactError):
        return None


def _linear(subject: Subject) -> Findings:
    return Findings.of(subject.linear)


def _knn(subject: Subject) -> Findings:
    return Findings.of(subject.knn, blocks=knn_pictures(subject).blocks)


def _svm(subject: Subject) -> Findings:
    from semaug.studies.protocols.probes import run_svm, trained_on

    seen = trained_on(subject.run, subject.train)
    return Findings.of(
        run_svm(*subject.features, transductive=seen, seed=subject.seed, on_progress=subject.on_progress)
    )


def _kmeans(subject: Subject) -> Findings:
    from semaug.studies.protocols.probes import run_kmeans

    return Findings.of(run_kmeans(*subject.features, seed=subject.seed, on_progress=subject.on_progress))


def _fewshot(subject: Subject) -> Findings:
    from semaug.studies.protocols.probes import run_fewshot

    return Findings.of(run_fewshot(*subject.features, **subject.how))


def _semi(subject: Subject) -> Findings:
    from semaug.studies.protocols.probes import run_semi

    return Findings.of(run_semi(*subject.features, **subject.how))


def _geometry(subject: Subject) -> Findings:
    from semaug.studies.protocols.geometry import run_geometry, two_views

    views = two_views(subject.run, subject.test, workers=subject.workers, **subject.how)
    return Findings.of(run_geometry(subject.features[1], views, **subject.how))


def _invariance(subject: Subject) -> Findings:
    from semaug.studies.protocols.geometry import run_invariance

    return Findings.of(run_invariance(subject.run, subject.test, workers=subject.workers, **subject.how))


def _costs(subject: Subject) -> Findings:
    from semaug.studies.protocols.costs import costs_of

    return Findings.of(costs_of(subject.run, subject.test, **subject.how))


def _finetune(subject: Subject) -> Findings:
    from semaug.studies.protocols.training import finetune_settings, run_finetune

    specs = subject.train, subject.test
    chosen = finetune_settings(subject.run)
    done = run_finetune(subject.run, *specs, chosen, workers=subject.workers, **subject.how)
    return Findings.of(done.result)


def _semi_finetune(subject: Subject) -> Findings:
    from semaug.studies.protocols.training import semi_finetuned

    done = semi_finetuned(subject.run, subject.train, subject.test, workers=subject.workers, **subject.how)
    return Findings.of(done.result)


def _distil(subject: Subject) -> Findings:
    from semaug.studies.protocols.training import run_distil

    student = subject.run / "eval" / "students" / f"resnet18-{subject.seed}"  # where the verb writes it
    done = run_distil(
        subject.run, subject.train, subject.train, subject.test, out=student,
        workers=subject.workers, keep=subject.keep, **subject.how,
    )  # fmt: skip
    return Findings.of(done.result)


def _needs_verb(name: str, what: str) -> Callable[[Subject], Findings]:
    def refuse(subject: Subject) -> Findings:
        raise DoesNotFit(f"{what}; run `semaug eval {name} {subject.run} ...` first, then this report shows it")

    return refuse


def _picture(name: str) -> Callable[[Subject], Findings]:
    def draw(subject: Subject) -> Findings:
        drawn = PICTURES[name][1](subject)
        return Findings(drawn.measures, drawn.warnings, drawn.blocks)

    return draw


def _artifacts(*names: str) -> Callable[[Subject], Mapping[str, Any]]:
    """The content of the artifacts that a picture reads."""

    def digests(subject: Subject) -> Mapping[str, Any]:
        from semaug.artifacts.reader import Artifact

        paths = {name: getattr(subject, name) for name in names}
        return {name: _file_hash(p) if p.is_file() else Artifact.open(p).digest for name, p in paths.items() if p}

    return digests


def _file_hash(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _pictured(name: str, needs: str, *inputs: str) -> Protocol:
    return Protocol(PICTURES[name][0], _picture(name), needs, tabled=False, inputs=_artifacts(*inputs))


def _device(subject: Subject) -> Mapping[str, Any]:
    return {"device": subject.device}


_LABELS = "labels in both sets, two classes"
_RAW: dict[str, Any] = {"unit": "", "scale": 1.0, "digits": 3}
PROTOCOLS: dict[str, Protocol] = {
    "linear": Protocol("Linear probe", _linear, _LABELS),
    "knn": Protocol("Nearest neighbours", _knn, _LABELS),
    "svm": Protocol("Support vector machine", _svm, _LABELS),
    "kmeans": Protocol("k-means", _kmeans, _LABELS),
    "fewshot": Protocol("Few-shot episodes", _fewshot, _LABELS),
    "semi": Protocol("Few labels, frozen", _semi, _LABELS),
    "semi-finetune": Protocol("Few labels, fine-tuned", _semi_finetune, "images, labels", trains=True),
    "finetune": Protocol("Fine-tuning", _finetune, "images, labels", trains=True),
    "transfer": Protocol("Transfer", _needs_verb("transfer", "it needs other data sets"), "other sets", trains=True),
    "distil": Protocol("Distillation", _distil, "images, labels", trains=True),
    "detect": Protocol("Detection", _needs_verb("detect", "it needs images with boxes"), "boxes", trains=True),
    "segment": Protocol("Segmentation", _needs_verb("segment", "it needs images with masks"), "masks", trains=True),
    "geometry": Protocol("Geometry", _geometry, "test images or features", **_RAW),
    "invariance": Protocol("Invariance", _invariance, "test images", **_RAW),
    "costs": Protocol("Time and memory", _costs, "128 test images", **(_RAW | {"digits": 2}), inputs=_device),
    "map": _pictured("map", "8 labelled test images"),
    "grad-cam": _pictured("grad-cam", "test images, a backbone with known maps", "truth", "guidance"),
    "quality": _pictured("quality", "test images and labels", "quality"),
    "guidance": _pictured("guidance", "guidance of the test or training images", "guidance"),
    "failures": _pictured("failures", "guidance of the test or training images", "guidance", "truth"),
    "similarity": _pictured("similarity", "similarities", "similarities"),
}
"""Name -> protocol, in the order of the report."""
