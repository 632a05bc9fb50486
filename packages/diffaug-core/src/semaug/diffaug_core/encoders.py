"""The semantic encoder: y, from which P and the condition are made, and z, from which Q is and which is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.encoder import Encoder, build_encoder
from semaug.ssl_methods.heads import ProjectorSpec

CENTRED = (0.5, 0.5, 0.5)
"""Mean and standard deviation that take RGB in [0, 1] to [-1, 1]: encoder and generator read the same images."""

Layout = Literal["dlme", "newer"]


def semantic_encoder(
    *,
    features: int | None = None,
    size: int | None = None,
    backbone: str | None = None,
    embedding: int = 2,
    layout: Layout = "dlme",
    widths: Sequence[int] | None = None,
    head: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Encoder:
    """A new encoder of rows with ``features`` columns, or of images with ``size`` pixels a side (spec S4.2).

    ``encoder(x)`` is y (B, feature_dim), ``encoder.project(y)`` is z (B, ``embedding``). With layout ``dlme``, of the
    official code of DLME, rows take ``widths`` 500, 300, 80 and the head 500, 80 then ``embedding``, each layer Linear,
    batch norm, leaky ReLU of slope 0.1 but for the head's last, which is Linear alone; ``newer``, of DiffAug's own
    code, takes 500, 500, 500, 50 and 500, 500, and normalises after the activation. Images take a ``backbone``
    (small-cnn unless said; ResNets are the paper's) and the same head, and are normalised to [-1, 1]. ``options`` are
    the backbone's own. Weights depend on ``seed`` alone. Raises ``InvalidOption``.

    >>> import torch
    >>> encoder = semantic_encoder(features=30)
    >>> y = encoder(torch.randn(4, 30))
    >>> y.shape, encoder.project(y).shape
    (torch.Size([4, 80]), torch.Size([4, 2]))
    """
    if (features is None) == (size is None):
        raise InvalidOption(
            f"features {features} and size {size}: give columns for rows or pixels for images, one of both"
        )
    if layout not in _WIDTHS:
        raise InvalidOption(f"layout {layout!r} is not known; choose one of {', '.join(_WIDTHS)}")
    inner = tuple(head or _HEADS[layout])
    projector = ProjectorSpec(
        hidden=inner,
        out=embedding,
        layers=len(inner) + 1,
        batch_norm=True,
        activation="leaky_relu",
        norm_after=layout == "newer",
    )
    if features is None:
        if widths is not None:
            raise InvalidOption(f"widths {tuple(widths)} are of an encoder of rows; images take a backbone alone")
        name = backbone or "small-cnn"
        return build_encoder(
            name, input_size=size, options=options, projector=projector, mean=CENTRED, std=CENTRED, seed=seed
        )
    rows = {"widths": tuple(widths or _WIDTHS[layout]), "norm_after": layout == "newer"} if backbone is None else {}
    return build_encoder(
        backbone or "mlp", input_features=features, options={**rows, **(options or {})}, projector=projector, seed=seed
    )


_WIDTHS: dict[str, tuple[int, ...]] = {"dlme": (500, 300, 80), "newer": (500, 500, 500, 50)}
_HEADS: dict[str, tuple[int, ...]] = {"dlme": (500, 80), "newer": (500, 500)}
