"""Encoders on disk: safetensors weights and a JSON card. No pickle is involved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from semaug.artifacts.errors import ArtifactError, MissingWeights
from semaug.artifacts.files import hash_file, write_atomic
from semaug.artifacts.outside import damaged, reading
from semaug.artifacts.schemas import EncoderCard
from semaug.artifacts.store import package_versions
from semaug.artifacts.verify import ENCODER_CARD, ENCODER_WEIGHTS
from semaug.ssl_methods.encoder import Encoder, EncoderSpec, assemble_encoder
from semaug.ssl_methods.errors import WeightsMismatch
from semaug.ssl_methods.heads import Head, ProjectorSpec

M = TypeVar("M", bound=nn.Module)
_COUNTS = {
    **dict.fromkeys(("layers", "depth", "blocks", "heads"), 1024),
    **dict.fromkeys(("hidden", "out", "inputs", "width", "widths", "embedding", "channels", "shape"), 1 << 20),
    **dict.fromkeys(("input_size", "input_features", "condition_features", "patch_size"), 1 << 20),
}
"""What a card may say of a network, by the option's name: the most that is believed."""
PREDICTOR = "predictor."
"""What the names of a predictor's weights start with."""


def save_encoder(
    folder: Path,
    encoder: Encoder,
    *,
    method: str,
    seed: int,
    steps: int,
    predictor: nn.Module | None = None,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> EncoderCard:
    """Write ``encoder.safetensors``, then ``encoder.json``; returns the card.

    The weights are named ``backbone.*``, ``projector.*`` and, for a ``predictor`` that is a ``Head``, ``predictor.*``.
    ``config`` is everything that shaped the weights, ``inputs`` the fingerprints of what was read.
    Raises ``OutputError``.
    """
    from safetensors.torch import save

    head = predictor if isinstance(predictor, Head) else None
    state = {**encoder.state_dict(), **(head.state_dict(prefix=PREDICTOR) if head else {})}
    weights = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / ENCODER_WEIGHTS, save(weights))
    spec = encoder.spec
    card = EncoderCard(
        backbone=spec.backbone,
        input_size=spec.input_size,
        input_features=spec.input_features,
        small_stem=spec.small_stem,
        options=dict(spec.options),
        feature_dim=encoder.feature_dim,
        projector_dim=encoder.projector_dim,
        mean=spec.mean,
        std=spec.std,
        method=method,
        seed=seed,
        steps=steps,
        config={
            **(config or {}),
            "projector": asdict(spec.projector) if spec.projector else None,
            "predictor": {"inputs": head.inputs, "spec": asdict(head.spec)} if head else None,
        },
        inputs=dict(inputs or {}),
        weights_digest=hash_file(folder / ENCODER_WEIGHTS),
        versions={**package_versions(), "torch": torch.__version__},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_atomic(folder / ENCODER_CARD, card.model_dump_json(indent=1).encode())
    return card


def load_card(folder: Path) -> EncoderCard:
    """The card of the encoder in ``folder``; raises ``MissingWeights`` or ``ArtifactError``."""
    path = folder / ENCODER_CARD
    if not path.exists():
        raise MissingWeights(
            f"{folder} holds no {ENCODER_CARD}; give the folder of a finished `semaug pretrain` or `diffaug train` run"
        )
    try:
        card = EncoderCard.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ArtifactError(f"{path} is damaged: {reason}; restore it or train again") from error
    require_plausible(card.model_dump(), path)
    return card


def require_plausible(plain: Any, path: Path, name: str = "") -> None:
    """Refuse sizes in a card that no network has, before one is built of them; raises ``ArtifactError``."""
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            require_plausible(value, path, str(key))
    elif isinstance(plain, list | tuple):
        for value in plain:
            require_plausible(value, path, name)
    elif isinstance(plain, int) and name in _COUNTS and abs(plain) > _COUNTS[name]:
        raise ArtifactError(f"{path} says {name} = {plain}, over {_COUNTS[name]}; restore it or train again")


def load_encoder(folder: str | Path) -> tuple[Encoder, EncoderCard]:
    """The encoder in ``folder``, on the CPU and in evaluation mode, and its card.

    Raises ``MissingWeights`` when a file is absent, ``ArtifactError`` when the card is damaged, ``WeightsMismatch``
    when the weights are not the card's.
    """
    card, path = load_card(Path(folder)), Path(folder) / ENCODER_WEIGHTS
    weights = {k: v for k, v in checked_weights(path, card.weights_digest).items() if not k.startswith(PREDICTOR)}
    return build_fitting(lambda: assemble_encoder(_spec_of(card)), weights, path, card.backbone).eval(), card


def load_predictor(folder: str | Path) -> Head | None:
    """The predictor saved beside the encoder in ``folder``, in evaluation mode; None for a method without one.

    Raises as ``load_encoder``.
    """
    card, path = load_card(Path(folder)), Path(folder) / ENCODER_WEIGHTS
    if not (made := card.config.get("predictor")):
        return None
    weights = {
        k.removeprefix(PREDICTOR): v
        for k, v in checked_weights(path, card.weights_digest).items()
        if k.startswith(PREDICTOR)
    }
    return build_fitting(lambda: Head(made["inputs"], ProjectorSpec(**made["spec"])), weights, path, "head").eval()


def checked_weights(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file beside a card that says ``digest``.

    Raises ``MissingWeights`` without the file, ``WeightsMismatch`` for another one.
    """
    if not path.exists():
        raise MissingWeights(f"{path.parent} holds a card and no {path.name}; copy it beside the card")
    found = hash_file(path)
    if found != digest:
        raise WeightsMismatch(f"{path} has digest {found}, its card says {digest}; copy both files from the same run")
    return _read_weights(path)


def _spec_of(card: EncoderCard) -> EncoderSpec:
    head = card.config.get("projector")
    projector = ProjectorSpec(**head) if head else None
    return EncoderSpec(
        card.backbone,
        card.input_size,
        card.small_stem,
        projector,
        card.mean,
        card.std,
        card.input_features,
        card.options,
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsMismatch(f"{path} is not a safetensors file ({error}); copy it again from its run") from error


def build_fitting(build: Callable[[], M], weights: Mapping[str, Tensor], path: Path, what: str) -> M:
    """The network that ``build`` makes, with these weights in it.

    Its shapes are compared with theirs first, while it takes no memory: a card may say any size. Raises
    ``ArtifactError`` for a card that describes no network, ``WeightsMismatch`` for weights of another one.
    """
    with reading(path.parent, "copy card and weights from the same run"):
        try:
            with torch.device("meta"):
                _require_shapes(build().state_dict(), weights, path, what)
        except RuntimeError as error:  # NotImplementedError too: a network may read its own numbers while it is built
            if "meta" not in str(error):
                raise damaged(path.parent, error, "copy card and weights from the same run") from error
        module = build()
        _require_shapes(module.state_dict(), weights, path, what)
        module.load_state_dict(dict(weights))
    return module


def _require_shapes(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path, what: str) -> None:
    for name in sorted({*expected, *weights}):
        there, wanted = weights.get(name), expected.get(name)
        shapes = tuple(None if t is None else tuple(t.shape) for t in (there, wanted))
        if shapes[0] != shapes[1]:
            raise WeightsMismatch(
                f"{path} has {name[:200]} of shape {shapes[0]}, the card's {what} needs {shapes[1]}; "
                "copy card and weights from the same run"
            )
