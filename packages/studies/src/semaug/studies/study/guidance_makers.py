"""Makers of what SDI trains on: quality scores, guidance by the oracles that a study fills, and crops on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.files import write_atomic
from semaug.artifacts.schemas import QualityScore, Scale
from semaug.artifacts.sources import open_source

if TYPE_CHECKING:
    from semaug.oracles.catalogue import OracleSpec
    from semaug.quality_policy import QualityTable, RoutingPolicy
    from semaug.studies.study.makers import Made, Making

Role = Literal["detector", "segmenter"]
PAPER, TRUTH = "paper", "truth"
"""Oracles of a guidance that are filled by a role: the paper's models, and the annotated boxes."""
SHUFFLED = "shuffled"
GUIDANCE = frozenset({"detector", "segmenter", "granularity", "preset", "policy", "quality", "routes"})
SAVED: Mapping[Role, str] = {"detector": "yolo", "segmenter": "sam"}
"""The oracle that a file of weights is opened by; a folder holds a `sam-hf`."""


def guidance_roles(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The roles that a guidance's options need.

    >>> guidance_roles({"detector": "truth", "segmenter": "paper", "granularity": "hybrid"})
    ('annotations', 'segmenter')
    """
    granularity, found = options.get("granularity", "auto"), []
    if granularity != "pixel" and options.get("detector") in (PAPER, TRUTH):
        found.append("annotations" if options["detector"] == TRUTH else "detector")
    if granularity != "object" and options.get("segmenter") == PAPER:
        found.append("segmenter")
    return tuple(found)


def make_guidance(making: Making) -> Made:
    """Guidance of every image. ``preset`` names weights and thresholds (``quality_policy.PRESETS``), ``policy`` how
    they choose; with ``quality`` the images are not scored again, and ``routes`` may be `shuffled` among them.
    """
    from semaug.oracles.extract import extract_guidance
    from semaug.quality_policy import QualityTable, Scoring, find_preset

    given = making.options
    quality = QualityTable.open(given["quality"]) if "quality" in given else None
    scoring = Scoring(find_preset(given.get("preset", "default")).weights)
    extract_guidance(
        open_source(making.images), making.path, detector=_oracle(making, "detector", "saliency"),
        segmenter=_oracle(making, "segmenter", "grabcut"), granularity=given.get("granularity", "auto"),
        policy=_policy(given, quality, scoring), quality=quality, scoring=scoring, workers=making.workers,
        on_progress=making.on_progress,
    )  # fmt: skip
    return making.path, (making.path,)


def _policy(given: Mapping[str, Any], quality: QualityTable | None, scoring: Any) -> RoutingPolicy:
    from semaug.quality_policy import find_preset, make_policy

    thresholds = find_preset(given.get("preset", "default")).thresholds
    policy = make_policy(given.get("policy", "soft"), thresholds=thresholds)
    if given.get("routes") is None:
        return policy
    if given["routes"] != SHUFFLED or quality is None:
        raise InvalidOption(
            f"routes {given['routes']!r} of scores {given.get('quality')}; give {SHUFFLED!r} and scores"
        )
    return DealtRoutes.of(quality.rescored(scoring), policy)


@dataclass(frozen=True, slots=True)
class DealtRoutes:
    """A control of routing: what ``policy`` gives all images, in the same proportions, dealt to them at random."""

    scales: Mapping[str, Scale]
    policy: Mapping[str, Any]
    seed: int = 0

    @classmethod
    def of(cls, quality: QualityTable, policy: RoutingPolicy, seed: int = 0) -> DealtRoutes:
        """Deal the routes of scored images."""
        from semaug.quality_policy import shuffled_routes

        dealt = shuffled_routes(quality.keys, quality.routes(policy), seed)
        return cls(dict(zip(quality.keys, dealt, strict=True)), policy.identity(), seed)

    def route(self, key: str, score: QualityScore) -> Scale:
        """The scale that was dealt to an image."""
        return self.scales[key]

    def identity(self) -> dict[str, Any]:
        """What decides the routes."""
        return {"policy": "dealt", "of": dict(self.policy), "seed": self.seed}


def _oracle(making: Making, role: Role, otherwise: str) -> OracleSpec:
    from semaug.oracles.catalogue import OracleSpec, accepts

    named = making.options.get(role, otherwise)
    if named == TRUTH:
        return OracleSpec("annotations", (("path", str(_annotations(making))),))
    spec = (
        oracle_spec(role, making.weights[role].model)
        if named == PAPER
        else OracleSpec.parse(named).require_installed(f"artifact {making.name!r} of the preset")
    )
    return spec.given(device=making.device) if making.device != "cpu" and accepts(role, spec, "device") else spec


def oracle_spec(role: Role, model: str) -> OracleSpec:
    """The oracle of a role: a file of weights, a folder of transformers, or an oracle's own spec."""
    from semaug.oracles.catalogue import OracleSpec

    path = Path(model)
    if path.is_file():
        return OracleSpec(SAVED[role], (("weights", str(path)),))
    if path.is_dir() and role == "segmenter":
        return OracleSpec("sam-hf", (("weights", str(path)),))
    return OracleSpec.parse(model)


def _annotations(making: Making) -> Path:
    """The file or folder of true boxes; of generated images they are written now."""
    from semaug.studies.study.stand_ins import coco_of

    found = making.weights["annotations"]
    if found.origin != "stand-in":
        return Path(found.model)
    scenes = making.scenes
    if scenes is None:
        raise InvalidOption(f"the true boxes of {making.images} are not known; give --weights annotations=PATH")
    path = making.folder / "true-boxes.json"
    making.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(coco_of(scenes, [f"{scenes.key(i)}.png" for i in range(len(scenes))]))
    if not path.is_file():
        write_atomic(path, text.encode())
    return path


def make_quality(making: Making) -> Made:
    """The scores of every image."""
    from semaug.quality_policy import score_source

    score_source(open_source(making.images), making.path, workers=making.workers, on_progress=making.on_progress)
    return making.path, (making.path,)


def make_crops(making: Making) -> Made:
    """Guided crops as files, for pairs `inflated`."""
    from semaug.artifacts.guidance_table import GuidanceTable
    from semaug.artifacts.verify import MATERIALIZED
    from semaug.pairs_dataset.materialize import materialize_crops

    out = making.folder / making.name
    materialize_crops(
        open_source(making.images), GuidanceTable.open(making.options["guidance"]), out, annotate=False,
        workers=making.workers, on_progress=making.on_progress,
    )  # fmt: skip
    return out / MATERIALIZED, (out / MATERIALIZED,)
