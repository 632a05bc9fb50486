"""The card that lies beside an encoder's safetensors weights."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class EncoderCard(BaseModel):
    """What is needed to rebuild an encoder and to know where it came from.

    Written as ``encoder.json`` beside ``encoder.safetensors``; ``weights_digest`` is the blake2b (32 hex digits) of
    the weight file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = 1
    backbone: str
    input_size: int | None = Field(ge=1)
    """Side of its images in pixels; None for an encoder of tables."""
    input_features: int | None = None
    """Columns of its table; None for an encoder of images."""
    small_stem: bool
    options: dict[str, Any] = {}
    """The backbone's own options."""
    feature_dim: int
    projector_dim: int | None = None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    method: str
    seed: int
    steps: int
    config: dict[str, Any] = {}
    """Every setting that shaped the weights."""
    inputs: dict[str, str] = {}
    """Fingerprints of the training source and the digests of the artifacts it used."""
    weights_digest: str
    versions: dict[str, str] = {}
    created: str = ""

    def identity(self) -> dict[str, Any]:
        """What enters the run's digest: everything but versions and times."""
        return self.model_dump(mode="json", exclude={"versions", "created"})
