"""Which studies can run here, at which scales, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from semaug.studies.study.catalogue import open_preset, study_names
from semaug.studies.study.completing import complete
from semaug.studies.study.paper import PAPERS
from semaug.studies.study.running import filled_study
from semaug.studies.study.schema import Preset

PACKAGES = {
    "captioner": ("transformers",), "rewriter": ("transformers",), "generator": ("diffusers", "transformers"),
    "map-generator": ("diffusers", "transformers"), "controlnet": ("diffusers",), "panoptic": ("transformers",),
    "clip": ("transformers",),
}  # fmt: skip
"""Model's role -> what has to be installed, stand-ins included; all come with the extra `synth`."""


@dataclass(frozen=True, slots=True)
class Available:
    """A study and, by scale, what it lacks here; a scale that lacks nothing can run."""

    preset: Preset
    missing: Mapping[str, tuple[str, ...]]

    @property
    def runs_at(self) -> tuple[str, ...]:
        """The scales that can run now."""
        return tuple(scale for scale, lacks in self.missing.items() if not lacks)

    def describe(self) -> dict[str, object]:
        """Plain values."""
        return {
            "study": self.preset.name, "paper": PAPERS[self.preset.paper], "item": self.preset.item,
            "title": self.preset.title, "runs_at": list(self.runs_at),
            "missing": {scale: list(lacks) for scale, lacks in self.missing.items() if lacks},
        }  # fmt: skip


def available(
    name: str,
    *,
    data: Mapping[str, str] | None = None,
    weights: Mapping[str, str] | None = None,
    data_root: Path | None = None,
) -> Available:
    """What one study lacks at each scale, given data and weights as for ``plan_study``."""
    return _available(open_preset(name, checked=False), data, weights, data_root)


def _available(
    preset: Preset, data: Mapping[str, str] | None, weights: Mapping[str, str] | None, data_root: Path | None
) -> Available:
    completed, missing = complete(preset, (data or {}).get("main.train", ""), {}, {}, None), {}
    for scale in preset.scales:
        study = filled_study(completed, scale, Path("study"), data, weights, data_root)
        missing[scale] = (*_packages(tuple(study.weights)), *study.missing)
    return Available(preset, missing)


def list_studies(paper: str | None = None, data_root: Path | None = None) -> list[Available]:
    """All studies, or those of one paper (its key), in the order of the papers' tables."""
    found = (open_preset(name, checked=False) for name in study_names())
    return [_available(preset, None, None, data_root) for preset in found if paper is None or preset.paper == paper]


def _packages(roles: tuple[str, ...]) -> tuple[str, ...]:
    wanted = dict.fromkeys(package for role in roles for package in PACKAGES.get(role, ()))
    absent = [package for package in wanted if find_spec(package) is None]
    return (f"{', '.join(absent)}: pip install 'semaug[synth]'",) if absent else ()
