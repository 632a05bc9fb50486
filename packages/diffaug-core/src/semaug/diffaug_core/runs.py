"""A finished DiffAug run, read back: what augments and embeds new samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.schemas import EncoderCard
from semaug.diffaug_core.diffusion import NoiseSchedule
from semaug.diffaug_core.generator_cards import GENERATOR_CARD, load_generator
from semaug.diffaug_core.generators import Generator
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.training import METHOD
from semaug.ssl_methods.cards import load_encoder
from semaug.ssl_methods.encoder import Encoder


@dataclass(frozen=True, slots=True)
class DiffAugRun:
    """The encoder and its card, the settings it was trained with, and the averaged generator with its schedule.

    ``generator`` and ``schedule`` are None for a run that trained the encoder alone.
    """

    encoder: Encoder
    card: EncoderCard
    settings: DiffAugSettings
    generator: Generator | None
    schedule: NoiseSchedule | None


def load_diffaug(folder: str | Path) -> DiffAugRun:
    """The run in ``folder``, on the CPU and in evaluation mode.

    Raises ``MissingWeights``, ``ArtifactError`` for a run of another method, ``WeightsMismatch``.
    """
    encoder, card = load_encoder(folder)
    if card.method != METHOD:
        raise ArtifactError(f"{folder} is a run of {card.method!r}; give the folder of `semaug diffaug train`")
    settings = DiffAugSettings.from_record(card.config["method"])
    if not (settings.generate or (Path(folder) / GENERATOR_CARD).exists()):
        return DiffAugRun(encoder, card, settings, None, None)
    generator, generator_card = load_generator(folder)
    return DiffAugRun(encoder, card, settings, generator, generator_card.schedule)
