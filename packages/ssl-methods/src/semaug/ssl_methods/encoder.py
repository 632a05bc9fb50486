"""The encoder: a backbone and a projector, and the description from which both are rebuilt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.backbones import BACKBONES, SMALL_IMAGE, build_backbone
from semaug.ssl_methods.heads import ProjectorSpec, build_projector, seeded

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder is built from; ``mean`` and ``std`` normalise RGB in [0, 1], ``input_size`` is in pixels."""

    backbone: str
    input_size: int
    small_stem: bool
    projector: ProjectorSpec | None = ProjectorSpec()  # noqa: RUF009 (frozen)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise InvalidOption(f"backbone {self.backbone!r} is not known; choose one of {', '.join(BACKBONES)}")
        if self.input_size < 8:
            raise InvalidOption(f"input size {self.input_size} is below the 8 pixels a backbone needs; raise it")


class Encoder(nn.Module):
    """Maps normalised images (B, 3, S, S), float32, to features (B, feature_dim), and features to projections.

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

    @property
    def feature_dim(self) -> int:
        """Width of the features."""
        return int(self.backbone.feature_dim)  # type: ignore[arg-type]

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
    backbone = build_backbone(spec.backbone, small_stem=spec.small_stem)
    projector = build_projector(int(backbone.feature_dim), spec.projector) if spec.projector else None  # type: ignore[arg-type]
    return Encoder(spec, backbone, projector)


def build_encoder(
    backbone: str,
    *,
    input_size: int,
    small_stem: bool | None = None,
    projector: ProjectorSpec | None = ProjectorSpec(),  # noqa: B008 (frozen)
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    seed: int = 0,
) -> Encoder:
    """A new encoder whose weights depend on ``seed`` alone.

    ``small_stem`` None chooses the small-image stem for inputs up to 64 pixels. Raises ``InvalidOption``.
    """
    stem = input_size <= SMALL_IMAGE if small_stem is None else small_stem
    spec = EncoderSpec(backbone, input_size, stem, projector, mean, std)
    with seeded(seed, "encoder"):
        return assemble_encoder(spec)
