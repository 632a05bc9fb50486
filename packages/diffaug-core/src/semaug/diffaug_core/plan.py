"""When each network is trained: the stages of DiffAug as a pure function of the step (spec S4.4)."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Literal

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.settings import DiffAugSettings

Stage = Literal["warm-up", "generator", "substitution"]
STAGES: tuple[Stage, ...] = ("warm-up", "generator", "substitution")

SHARE = 0.2
"""Of the run: the warm-up where it is not given."""

BLOCKS = 10
"""Into as many blocks EM cuts a run where their length is not given."""


@dataclass(frozen=True, slots=True)
class Block:
    """Steps ``start`` to ``stop - 1`` of the run, all of which train the same networks.

    ``encoder_start`` and ``generator_start`` are the steps that each network has made before.
    """

    stage: Stage
    encoder: bool
    generator: bool
    start: int
    stop: int
    encoder_start: int
    generator_start: int


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of the run: its block, the number of each network's own step, and the probability of a generated view.

    ``refresh`` numbers the bank to be made before this step, None where the last one goes on.
    """

    block: Block
    encoder_step: int
    generator_step: int
    epoch: int
    alpha: float
    refresh: int | None


class Plan:
    """The blocks of a run of ``encoder_steps`` steps of the encoder, ``per_epoch`` to an epoch.

    >>> settings = DiffAugSettings(schedule="em", warmup_epochs=1, generator_epochs=2, block_epochs=1)
    >>> plan = Plan(settings, encoder_steps=6, per_epoch=2)
    >>> [(b.stage, b.encoder, b.generator, b.start, b.stop) for b in plan.blocks][:3]
    [('warm-up', True, False, 0, 2), ('generator', False, True, 2, 6), ('substitution', True, False, 6, 8)]
    >>> plan.at(6).alpha, plan.at(6).refresh, plan.total
    (0.1, 0, 14)
    """

    def __init__(self, settings: DiffAugSettings, encoder_steps: int, per_epoch: int) -> None:
        """Raises ``InvalidOption`` where the stages do not fit into the run."""
        self.settings, self.encoder_steps, self.per_epoch = settings, encoder_steps, per_epoch
        epochs = -(-encoder_steps // per_epoch)
        warmup = int(SHARE * epochs) if settings.warmup_epochs is None else settings.warmup_epochs
        own = epochs if settings.generator_epochs is None else settings.generator_epochs
        self.first_substituted = warmup * per_epoch
        _check(settings, self.first_substituted, encoder_steps, own)
        block = max(1, epochs // BLOCKS) if settings.block_epochs is None else settings.block_epochs
        self.blocks = tuple(
            _blocks(settings, encoder_steps, self.first_substituted, own * per_epoch, block * per_epoch)
        )
        self._starts = [b.start for b in self.blocks]
        last = self.blocks[-1]
        self.total = last.stop
        self.generator_steps = last.generator_start + (last.stop - last.start if last.generator else 0)

    def at(self, step: int) -> Moment:
        """What step ``step`` (from 0) does."""
        block = self.blocks[bisect.bisect_right(self._starts, step) - 1]
        done = step - block.start
        encoder_step = block.encoder_start + (done if block.encoder else 0)
        return Moment(
            block=block,
            encoder_step=encoder_step,
            generator_step=block.generator_start + (done if block.generator else 0),
            epoch=encoder_step // self.per_epoch,
            alpha=self.alpha(encoder_step) if block.encoder else 0.0,
            refresh=self._refresh(encoder_step) if block.encoder else None,
        )

    def alpha(self, encoder_step: int) -> float:
        """The probability of a generated view at a step of the encoder."""
        since = encoder_step - self.first_substituted
        if since < 0 or not self.settings.substitutes:
            return 0.0
        ramp = self.settings.alpha_ramp * self.per_epoch
        return self.settings.alpha * (min(1.0, since / ramp) if ramp else 1.0)

    def _refresh(self, encoder_step: int) -> int | None:
        since, every = encoder_step - self.first_substituted, self.settings.refresh_every * self.per_epoch
        due = self.settings.substitutes and since >= 0 and since % every == 0
        return since // every if due else None


def _check(settings: DiffAugSettings, warmup: int, steps: int, generator_epochs: int) -> None:
    if not settings.substitutes:
        return
    if warmup >= steps:
        raise InvalidOption(
            f"the warm-up takes {warmup} of the encoder's {steps} steps and leaves none for generated views; "
            "give more epochs or fewer warmup_epochs"
        )
    if settings.schedule == "em" and generator_epochs < 1:
        raise InvalidOption(
            "schedule em with generator_epochs 0 would draw from an untrained generator; give 1 or more"
        )


def _blocks(settings: DiffAugSettings, steps: int, warmup: int, own: int, length: int) -> list[Block]:
    """The blocks one after another; an encoder without generator keeps its own steps and nothing else."""
    found: list[Block] = []
    count = [0, 0]

    def add(stage: Stage, size: int, *, encoder: bool, generator: bool) -> None:
        if size > 0:
            start = found[-1].stop if found else 0
            found.append(Block(stage, encoder, generator, start, start + size, count[0], count[1]))
            count[0] += size * encoder
            count[1] += size * generator

    joint = settings.generate and settings.schedule == "joint"
    add("warm-up", min(warmup, steps), encoder=True, generator=False)
    add("generator", own * settings.generate, encoder=False, generator=True)
    while count[0] < steps:
        size = steps - count[0]
        if joint or not settings.generate:
            add("substitution", size, encoder=True, generator=joint)
        else:
            add("substitution", min(size, length), encoder=True, generator=False)
            add("substitution", min(size, length), encoder=False, generator=True)
    return found
