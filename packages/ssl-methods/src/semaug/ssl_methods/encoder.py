"""The encoder: a backbone and a projector, and the description from which both are rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.backbones import SMALL_IMAGE, backbone_kind, build_backbone
from semaug.ssl_methods.heads import ProjectorSpec, build_projector, seeded

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder is built from.

    ``input_size`` is the side of its images in pixels, and ``mean`` and ``std`` normalise RGB in [0, 1]; an encoder of
    tables has ``input_features`` columns instead and no size. ``options`` are the backbone's own.
    """

    backbone: str
    input_size: int | None
    small_stem: bool
    projector: ProjectorSpec | None = ProjectorSpec()  # noqa: RUF009 (frozen)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_features: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reads = backbone_kind(self.backbone).reads
        sizes = f"input size {self.input_size} and {self.input_features} columns"
        if reads == "rows" and (self.input_size is not None or (self.input_features or 0) < 1):
            raise InvalidOption(f"backbone {self.backbone!r} reads rows of a table, got {sizes}; give columns alone")
        if reads != "rows" and (self.input_size is None or self.input_features is not None):
            raise InvalidOption(f"backbone {self.backbone!r} reads images, got {sizes}; give an input size alone")
        if self.input_size is not None and self.input_size < 8:
            raise InvalidOption(f"input size {self.input_size} is below the 8 pixels a backbone needs; raise it")
        if self.small_stem and reads != "images":
            raise InvalidOption(f"backbone {self.backbone!r} has no small-image stem; leave --small-stem away")
        plain = {name: tuple(v) if isinstance(v, list) else v for name, v in sorted(self.options.items())}
        object.__setattr__(self, "options", plain)


@dataclass(frozen=True, slots=True)
class Initialisation:
    """Which weights an encoder started from: a path, its format and digest, and how many tensors were taken.

    ``dropped`` are the names of classifiers and heads left out; ``resized`` says from how many positions to how many a
    transformer's were interpolated, None where they were not.
    """

    path: str
    format: str
    digest: str
    tensors: int
    dropped: tuple[str, ...] = ()
    resized: tuple[int, int] | None = None

    def settings(self) -> dict[str, Any]:
        """All but path and digest as plain values, for a run's record."""
        return {
            "format": self.format,
            "tensors": self.tensors,
            "dropped": list(self.dropped),
            "resized": list(self.resized) if self.resized else None,
        }

    def __str__(self) -> str:
        more = f" and {len(self.dropped) - 4} more" if len(self.dropped) > 4 else ""
        text = f"{self.path} ({self.format}): {self.tensors} tensors"
        text += f"; left out {', '.join(self.dropped[:4])}{more}" if self.dropped else ""
        return text + (f"; interpolated {self.resized[0]} positions to {self.resized[1]}" if self.resized else "")


class Encoder(nn.Module):
    """Maps normalised images (B, 3, S, S), float32, to features (B, feature_dim), and features to projections.

    An encoder of tables takes rows (B, D) in place of images.

    >>> import torch
    >>> encoder = build_encoder("small-cnn", input_size=24)
    >>> features = encoder(torch.zeros(2, 3, 24, 24))
    >>> features.shape, encoder.project(features).shape
    (torch.Size([2, 128]), torch.Size([2, 128]))
    """

    def __init__(self, spec: EncoderSpec, backbone: nn.Module, projector: nn.Module | None) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.projector = projector
        self.origin: Initialisation | None = None

    @property
    def feature_dim(self) -> int:
        """Width of the features."""
        return int(self.backbone.feature_dim)  # type: ignore[arg-type]

    @property
    def image_size(self) -> int:
        """Side of its images in pixels; raises ``InvalidOption`` for an encoder of tables."""
        if self.spec.input_size is None:
            raise InvalidOption(f"backbone {self.spec.backbone!r} reads rows of a table; images need another encoder")
        return self.spec.input_size

    @property
    def projector_dim(self) -> int | None:
        """Width of the projections, None without a projector."""
        return None if self.spec.projector is None else self.spec.projector.out

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, feature_dim) of normalised images (B, 3, S, S)."""
        return self.backbone(images)

    def spatial(self, images: Tensor) -> Tensor:
        """The backbone's last spatial maps (B, C, h, w) of normalised images (B, 3, S, S).

        Raises ``InvalidOption`` for a backbone without them.
        """
        maps = getattr(self.backbone, "spatial_maps", None)
        if maps is None:
            raise InvalidOption(
                f"backbone {self.spec.backbone!r} has no spatial maps to find objects in; choose small-cnn or resnet18"
            )
        return cast(Tensor, maps(images))

    def project(self, features: Tensor) -> Tensor:
        """Projections (B, projector_dim) of features (B, feature_dim); raises ``InvalidOption`` without a projector."""
        if self.projector is None:
            raise InvalidOption("this encoder has no projector; build it with a ProjectorSpec")
        return self.projector(features)


def assemble_encoder(spec: EncoderSpec) -> Encoder:
    """Build what ``spec`` describes, with weights drawn from torch's global generator."""
    backbone = build_backbone(
        spec.backbone,
        small_stem=spec.small_stem,
        input_size=spec.input_size,
        input_features=spec.input_features,
        options=spec.options,
    )
    projector = build_projector(int(backbone.feature_dim), spec.projector) if spec.projector else None  # type: ignore[arg-type]
    return Encoder(spec, backbone, projector)


def build_encoder(
    backbone: str,
    *,
    input_size: int | None = None,
    input_features: int | None = None,
    small_stem: bool | None = None,
    options: Mapping[str, Any] | None = None,
    projector: ProjectorSpec | None = ProjectorSpec(),  # noqa: B008 (frozen)
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    seed: int = 0,
) -> Encoder:
    """A new encoder whose weights depend on ``seed`` alone.

    ``small_stem`` None chooses the small-image stem, where there is one, for inputs up to 64 pixels. ``options`` are
    the backbone's own. Raises ``InvalidOption``.
    """
    if small_stem is None:
        small_stem = backbone_kind(backbone).reads == "images" and input_size is not None and input_size <= SMALL_IMAGE
    spec = EncoderSpec(backbone, input_size, small_stem, projector, mean, std, input_features, options or {})
    with seeded(seed, "encoder"):
        return assemble_encoder(spec)
