"""Any model of timm by its name (extra ``timm``): its pooled features, without a classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption, MissingDependency

PREFIX = "timm:"


class TimmBackbone(nn.Module):
    """timm's model ``name`` with random weights and pooled features; weights are never downloaded.

    ``options`` go to ``timm.create_model``. A model of a fixed input size is built for ``input_size``.
    Raises ``InvalidOption`` for a name or option timm does not know, ``MissingDependency`` without timm.
    """

    def __init__(self, name: str, input_size: int, **options: Any) -> None:
        super().__init__()
        self.name = name
        self.network = _create(name, input_size, options)
        self.feature_dim = int(getattr(self.network, "head_hidden_size", self.network.num_features))  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (B, feature_dim) of images (B, 3, S, S)."""
        return self.network(images)

    def spatial_maps(self, images: Tensor) -> Tensor:
        """The model's last maps (B, C, h, w); raises ``InvalidOption`` where timm cannot give them."""
        reader = getattr(self.network, "forward_intermediates", None)
        if reader is None:
            raise InvalidOption(f"timm's {self.name} gives no spatial maps; choose a model with forward_intermediates")
        return reader(images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[0]


def _create(name: str, input_size: int, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise MissingDependency(
            f"backbone {PREFIX + name} needs timm, which is not installed; pip install 'semaug-ssl-methods[timm]'"
        ) from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]) or "see timm.list_models()"
        raise InvalidOption(f"timm {timm.__version__} has no model {name!r}; near it are: {near}")
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    fixed = {"img_size": input_size} if known is not None and known.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **{**fixed, **options})
    except (TypeError, AssertionError, ValueError) as error:
        raise InvalidOption(
            f"timm cannot build {name} for input size {input_size} with {options or 'no options'} ({error}); "
            "change the size or the options"
        ) from error
