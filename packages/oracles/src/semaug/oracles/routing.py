"""Routes of images by their quality: scored on the fly, or read from a quality artifact (SDI, spec S1.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.schemas import Scale
from semaug.oracles.protocols import Image
from semaug.quality_policy.policies import RoutingPolicy
from semaug.quality_policy.scores import image_statistics
from semaug.quality_policy.scoring import Scoring
from semaug.quality_policy.table import QualityTable


@dataclass(frozen=True, slots=True)
class ScoredRouting:
    """Scores every image as it comes and routes it by ``policy``."""

    policy: RoutingPolicy
    scoring: Scoring = field(default_factory=Scoring)

    def warm_up(self) -> None:
        """Compile the scores, or load them from the cache, outside the time of the images."""
        image_statistics(np.zeros((2, 2, 3), np.uint8))

    def route(self, keys: Sequence[str], images: Sequence[Image]) -> list[Scale]:
        """The scale of every image."""
        scores = (self.scoring.score(image_statistics(image)) for image in images)
        return [self.policy.route(key, score) for key, score in zip(keys, scores, strict=True)]


@dataclass(frozen=True, slots=True)
class TableRouting:
    """Routes that were decided beforehand, by key."""

    scales: Mapping[str, Scale]

    @classmethod
    def of(cls, table: QualityTable, policy: RoutingPolicy) -> TableRouting:
        """The routes of all images of a quality artifact."""
        return cls(dict(zip(table.keys, table.routes(policy), strict=True)))

    def route(self, keys: Sequence[str], images: Sequence[Image]) -> list[Scale]:
        """The scale of every image; raises ``ArtifactError`` for one that was not scored."""
        try:
            return [self.scales[key] for key in keys]
        except KeyError as error:
            raise ArtifactError(
                f"{error.args[0]!r} is not among the {len(self.scales)} scored images; run `semaug quality score` again"
            ) from error
