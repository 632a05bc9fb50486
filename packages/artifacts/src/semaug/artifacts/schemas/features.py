"""What decides the frozen features of an image source or a table, besides its content."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FeaturesConfig(BaseModel):
    """The ``config`` of a ``features`` artifact.

    Its inputs are ``source`` (and ``pixels`` of a resized copy), ``labels`` and ``encoder``, the digest of the
    encoder's weights. Its columns are ``feature`` float32 (n, feature_dim), ``projection`` float32
    (n, projection_dim) where there is a projector, ``label`` int32 (n,) with -1 for none, ``size`` int32 (n, 2), the
    height and width before preparation, and the ragged ``key``. An image that could not be read has no row. Of a
    table there is no preparation, and ``size`` is 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_size: int | None = Field(default=None, ge=1)
    """Side of the prepared images in pixels; None for rows of a table."""
    crop: float | None = Field(default=None, gt=0, le=1)
    """Share of the short side that the centre square keeps."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    feature_dim: int = Field(ge=1)
    projection_dim: int | None = Field(default=None, ge=1)
    dtype: Literal["float32"] = "float32"
    class_names: tuple[str, ...] = ()
