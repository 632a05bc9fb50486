"""Training recipes: what a paper or a code base trains a method with, by name.

They are data, in ``presets.toml`` beside this file. A recipe fixes the projector, the optimizer, the warm-up, the
hyperparameters and the augmentation; the backbone, the images and the number of steps are the caller's.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.methods import METHODS
from semaug.ssl_methods.optimizers import OptimizerSettings


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """How a paper trains a method.

    ``text`` says for what and where it comes from. ``augmentation`` is a preset of ``pairs_dataset`` and ``views`` its
    other options; ``warmup`` a share of the steps; the rate of ``optimizer`` is for ``batch_size`` and is rescaled for
    no other. ``transformer`` are options of a vision transformer, if the backbone is one. ``projector`` None takes the
    method's own. ``hyperparameters`` go to ``Method.assemble``.
    """

    method: str
    name: str
    text: str
    optimizer: OptimizerSettings
    batch_size: int = 256
    warmup: float = 0.0
    augmentation: str = "symmetric"
    views: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "resnet18"
    transformer: Mapping[str, Any] = field(default_factory=dict)
    projector: ProjectorSpec | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise InvalidOption(f"warm-up {self.warmup} of {self.method}/{self.name} is no share of the steps")

    def backbone_options(self, backbone: str) -> Mapping[str, Any]:
        """The options with which ``backbone`` is built."""
        return self.transformer if backbone.startswith("vit") else {}

    def warmup_steps(self, steps: int) -> int:
        """The warm-up of a run of ``steps`` steps."""
        return round(self.warmup * steps)


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_name("presets.toml").read_text("utf-8"))


def method_options(method: str) -> tuple[str, ...]:
    """The hyperparameters of ``method`` that the command line offers; raises ``InvalidOption`` for an unknown id."""
    return tuple(_method_table(method)["options"])


def recipes(method: str) -> dict[str, TrainingRecipe]:
    """The recipes of ``method`` by name, the default one first; raises ``InvalidOption`` for an unknown id.

    >>> list(recipes("simclr"))[:2], recipes("simclr")["solo"].optimizer.name
    (['paper', 'solo'], 'lars')
    """
    return {name: _recipe(method, name, table) for name, table in _method_table(method)["recipes"].items()}


def training_recipe(method: str, name: str | None = None) -> TrainingRecipe:
    """One recipe of ``method``, without a name its first; raises ``InvalidOption`` naming those there are."""
    known = recipes(method)
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise InvalidOption(f"{method} has no recipe {name!r}; choose one of {', '.join(known)}")
    return known[name]


def _method_table(method: str) -> Mapping[str, Any]:
    known: Mapping[str, Any] = _tables()["methods"]
    if method not in known or method not in METHODS:
        near = difflib.get_close_matches(method, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
        raise InvalidOption(f"no method is called {method!r}; {hint}")
    table: Mapping[str, Any] = known[method]
    return table


def _recipe(method: str, name: str, table: Mapping[str, Any]) -> TrainingRecipe:
    given = dict(table)
    optimizer = OptimizerSettings(**given.pop("optimizer"))
    head = given.pop("projector", None)
    return TrainingRecipe(method, name, optimizer=optimizer, projector=ProjectorSpec(**head) if head else None, **given)
