"""Generators on disk: safetensors weights and a JSON card. No pickle is involved."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from semaug.artifacts.errors import ArtifactError, InvalidOption, MissingWeights
from semaug.artifacts.files import hash_file, write_atomic
from semaug.artifacts.store import package_versions
from semaug.diffaug_core.diffusion import NoiseSchedule
from semaug.diffaug_core.generators import Generator, build_generator
from semaug.ssl_methods.cards import build_fitting, checked_weights, require_plausible

GENERATOR_WEIGHTS = "generator.safetensors"
GENERATOR_CARD = "generator.json"


class GeneratorCard(BaseModel):
    """What is needed to rebuild a generator, to sample with it, and to know where it came from.

    ``betas`` are those of the schedule it was trained with; ``weights_digest`` is the blake2b (32 hex digits) of the
    weight file, which holds the running average of the weights where one was kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = 1
    kind: str
    shape: tuple[int, ...]
    condition_features: int | None
    options: dict[str, Any] = {}
    """The kind's own options."""
    betas: tuple[float, ...]
    seed: int
    steps: int
    config: dict[str, Any] = {}
    """Every other setting that shaped the weights."""
    inputs: dict[str, str] = {}
    """Fingerprints of what was read."""
    weights_digest: str
    versions: dict[str, str] = {}
    created: str = ""

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule it was trained with."""
        return NoiseSchedule(self.betas)

    def identity(self) -> dict[str, Any]:
        """What enters a digest: everything but versions and times."""
        return self.model_dump(mode="json", exclude={"versions", "created"})


def save_generator(
    folder: Path,
    generator: Generator,
    schedule: NoiseSchedule,
    *,
    seed: int,
    steps: int,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> GeneratorCard:
    """Write ``generator.safetensors``, then ``generator.json``; returns the card. Give the running average where there
    is one. Raises ``InvalidOption`` for another schedule than its own, ``OutputError``.
    """
    from safetensors.torch import save

    if generator.schedule != schedule:
        raise InvalidOption(
            f"the generator was built for {generator.schedule.steps} time steps, the schedule trained with has "
            f"{schedule.steps}, or other betas; build it with that schedule"
        )
    weights = {name: t.detach().cpu().contiguous() for name, t in generator.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / GENERATOR_WEIGHTS, save(weights))
    card = GeneratorCard(
        kind=generator.kind,
        shape=generator.shape,
        condition_features=generator.condition_features,
        options=generator.options,
        betas=schedule.betas,
        seed=seed,
        steps=steps,
        config=dict(config or {}),
        inputs=dict(inputs or {}),
        weights_digest=hash_file(folder / GENERATOR_WEIGHTS),
        versions={**package_versions(), "torch": torch.__version__},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    text = card.model_dump_json(indent=1)
    write_atomic(folder / GENERATOR_CARD, text.encode())
    return GeneratorCard.model_validate_json(text)


def load_generator(folder: str | Path) -> tuple[Generator, GeneratorCard]:
    """The generator in ``folder``, on the CPU and in evaluation mode, and its card.

    Raises ``MissingWeights`` when a file is absent, ``WeightsMismatch`` for another card's weights, ``ArtifactError``
    when the card is damaged or they do not fit it.
    """
    card, path = load_generator_card(folder), Path(folder) / GENERATOR_WEIGHTS
    weights, schedule = checked_weights(path, card.weights_digest), card.schedule
    build = partial(build_generator, card.kind, card.shape, card.condition_features, schedule=schedule, **card.options)
    return build_fitting(build, weights, path, card.kind).eval(), card


def load_generator_card(folder: str | Path) -> GeneratorCard:
    """The card of the generator in ``folder``; raises ``MissingWeights`` or ``ArtifactError``."""
    path = Path(folder) / GENERATOR_CARD
    if not path.exists():
        raise MissingWeights(
            f"{folder} holds no {GENERATOR_CARD}; give the folder of a finished `semaug diffaug train`"
        )
    try:
        card = GeneratorCard.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ArtifactError(f"{path} is damaged: {reason}; restore it or train again") from error
    require_plausible(card.model_dump(), path)
    return card
