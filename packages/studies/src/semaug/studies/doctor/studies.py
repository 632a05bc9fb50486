"""Which of the papers' studies can run here, paper by paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semaug.studies.doctor.findings import Finding
from semaug.studies.doctor.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class StudyState:
    """A study by name, and what it lacks at each scale."""

    name: str
    paper: str
    short: str
    missing: Mapping[str, Sequence[str]]


def known_studies() -> list[StudyState]:
    """The studies that are shipped; reading them imports torch, and no model library."""
    from semaug.studies.study.availability import list_studies
    from semaug.studies.study.paper import PAPERS, SHORT

    short = {key: name for name, key in SHORT.items()}
    return [StudyState(a.preset.name, PAPERS[a.preset.paper], short[a.preset.paper], a.missing) for a in list_studies()]


def examine_studies(around: Surroundings) -> list[Finding]:
    """One line a paper: how many studies, and how many of them can run at each scale."""
    try:
        studies = (around.studies or known_studies)()
    except Exception as error:  # a broken library must not end the examination that would name it
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        return [Finding("studies", "broken", f"cannot be listed: {reason}", "semaug study list --debug")]
    return [
        _paper(paper, [s for s in studies if s.paper == paper]) for paper in dict.fromkeys(s.paper for s in studies)
    ]


def _paper(paper: str, studies: Sequence[StudyState]) -> Finding:
    scales = dict.fromkeys(scale for study in studies for scale in study.missing)
    able = {scale: sum(not study.missing.get(scale, ("no such scale",)) for study in studies) for scale in scales}
    short = len(studies) - min(able.values(), default=0)
    noun = "study" if len(studies) == 1 else "studies"
    detail = f"{len(studies)} {noun}; can run: " + ", ".join(f"{scale} {count}" for scale, count in able.items())
    remedy = f"semaug study list --paper {studies[0].short} says what they lack" if short else ""
    state = "ok" if any(able.values()) else "off"
    return Finding(paper, state, detail, remedy, {"studies": len(studies), "can_run": able})  # type: ignore[arg-type]
