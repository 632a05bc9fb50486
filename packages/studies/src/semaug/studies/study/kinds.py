"""Kinds of studies: what turns a preset into jobs. Another kind is another entry of ``KINDS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.studies.study.schema import Preset

if TYPE_CHECKING:
    from semaug.eval.report import Section
    from semaug.studies.runner import Outcome
    from semaug.studies.study.plan import Study
    from semaug.studies.study.prepare import Ready
    from semaug.studies.study.results import Results


@dataclass(frozen=True, slots=True)
class Planned:
    """A job and its place: a setting, a variant, a seed. ``job`` is a ``runner.Job`` whose result is a mapping of
    metric -> ``{"value": number or None, "n": count}``; with a method ``on(device)`` it runs on any device."""

    setting: str
    variant: str
    seed: int
    job: Any


@dataclass(frozen=True, slots=True)
class Longer:
    """A control that is to train at the total cost of a variant: ``factor`` times the steps, as ``name``.

    ``ratio`` is what the cost asks for; ``factor`` is less where the scale caps it, and 1 for a control that is fitted
    to its own end and cannot take more.
    """

    setting: str
    variant: str
    control: str
    ratio: float
    factor: float

    @property
    def name(self) -> str:
        """How its runs are called.

        >>> Longer("all", "sasi", "base", 2.4286, 2.4286).name
        'base x2.43'
        """
        return f"{self.control} x{self.factor:.2f}"


Found = Mapping[tuple[str, str], Sequence["Outcome"]]
"""(setting, variant) -> outcomes, one a seed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """``check`` refuses a preset that lacks what the kind needs; ``plan`` gives its jobs. ``longer`` names controls to
    train at equal total cost once the first jobs are done, and ``plan_longer`` gives their jobs. ``sections`` adds to
    the report. Without ``compares`` no variant is held against a control. ``tune`` gives jobs that are run first, for
    ``plan`` to read what they found; ``verdict`` replaces the usual one, unless it is None."""

    text: str
    check: Callable[[Preset], None]
    plan: Callable[[Study, Ready], list[Planned]]
    longer: Callable[[Study, Ready, Found], list[Longer]] = lambda study, ready, found: []
    plan_longer: Callable[[Study, Ready, Sequence[Longer]], list[Planned]] = lambda study, ready, longer: []
    sections: Callable[[Study, Ready], list[Section]] = lambda study, ready: []
    tune: Callable[[Study, Ready], list[Planned]] = lambda study, ready: []
    verdict: Callable[[Results], str | None] = lambda results: None
    compares: bool = True


KINDS = {
    "training": "semaug.studies.study.kind_training",
    "measurement": "semaug.studies.study.kind_measurement",
    "semantic-pairs": "semaug.studies.study.kind_semantic_pairs",
    "diffaug": "semaug.studies.study.kind_diffaug",
    "compare": "semaug.studies.study.kind_compare",
}
"""Kind -> the module whose ``KIND`` it is, imported when a preset of that kind is opened."""


def kind_of(preset: Preset) -> Kind:
    """The kind of a preset; raises ``InvalidOption`` naming those there are."""
    if preset.kind not in KINDS:
        raise InvalidOption(f"{preset.name}: no kind of study is called {preset.kind!r}; choose {', '.join(KINDS)}")
    kind: Kind = import_module(KINDS[preset.kind]).KIND
    return kind
