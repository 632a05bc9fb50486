"""What an artifact says about itself, and the records of its ledger."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ArtifactKind = Literal[
    "index", "images", "quality", "guidance", "materialized", "pairs", "captions", "prompts", "mask_maps", "synthetic",
    "similarity", "augment", "features", "descriptors",
]  # fmt: skip
SCHEMA_VERSION = 1
MOST_ITEMS = 1 << 48
"""Items of an artifact: past this a manifest is damaged."""


class Manifest(BaseModel):
    """Identity of an artifact: everything that decides its content, and who wrote it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ArtifactKind
    schema_version: int = SCHEMA_VERSION
    items: int = Field(ge=0, le=MOST_ITEMS)
    shard_size: int = Field(ge=1, le=MOST_ITEMS)
    seed: int = 0
    config: dict[str, Any] = {}
    """Every setting that changes the content (not workers, devices or paths)."""
    inputs: dict[str, str] = {}
    """Fingerprints or digests of what was read, by role (``source``, ``quality``, ...)."""
    info: dict[str, Any] = {}
    """What does not decide the content: where the source was, class names, notes."""
    versions: dict[str, str] = {}
    created: str = ""

    @property
    def shards(self) -> int:
        return -(-self.items // self.shard_size)

    def shard_range(self, shard: int) -> range:
        """The item indices of one shard."""
        return range(shard * self.shard_size, min(self.items, (shard + 1) * self.shard_size))

    def identity(self) -> dict[str, Any]:
        """The fields that a rerun must share to resume, and that enter the digest."""
        return self.model_dump(exclude={"versions", "created", "info"})


class Skipped(BaseModel):
    """One input that a step left out, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    reason: str


class ShardCosts(BaseModel):
    """What one shard took: wall seconds, and the largest resident memory of its process (bytes)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = 0.0
    peak_memory: int = 0
    warm_seconds: float = 0.0
    """Seconds spent loading models, outside the per-image time."""


class ShardMarker(BaseModel):
    """Written after the shard's data is safe: its presence is the ledger."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shard: int
    items: int
    digest: str
    skipped: tuple[Skipped, ...] = ()
    costs: ShardCosts = ShardCosts()


class Costs(BaseModel):
    """Totals over the shards, written to ``costs.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int
    seconds: float
    warm_seconds: float
    peak_memory: int
    seconds_per_1000: float
