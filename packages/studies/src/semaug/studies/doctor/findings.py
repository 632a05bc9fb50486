"""What an examination found: findings in sections, each with its state and, where something is missing, the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "off", "note", "broken"]
"""``off``: optional, and not usable here; ``note``: works, with something to know; ``broken``: installed, and fails."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``facts`` are the values behind ``detail``, for programs that read them."""

    name: str
    state: State
    detail: str = ""
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """The finding as plain values; what is empty is left out."""
        found = {"name": self.name, "state": self.state, "detail": self.detail, "remedy": self.remedy}
        return {k: v for k, v in found.items() if v} | ({"facts": dict(self.facts)} if self.facts else {})


@dataclass(frozen=True, slots=True)
class Section:
    """Findings that belong together."""

    title: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All sections of one examination."""

    sections: tuple[Section, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings that make the exit code 1."""
        return tuple(f for section in self.sections for f in section.findings if f.state == "broken")

    def described(self) -> dict[str, Any]:
        """The diagnosis as plain values, section by section."""
        sections = {s.title: [f.described() for f in s.findings] for s in self.sections}
        return {"ok": not self.broken, "broken": [f.name for f in self.broken], "sections": sections}
