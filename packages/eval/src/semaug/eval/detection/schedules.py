"""How detectors are fine-tuned: detectron2's schedules, as the papers took them over from MoCo (spec S1.9 d)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from semaug.artifacts.errors import InvalidOption

MAX_ASPECT = 1333 / 800
"""The longer side may be this many times the shorter side of the tests."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """SGD over ``steps`` batches. ``train_sides`` are the shorter sides, in pixels, of which each image is given one.

    The rate rises linearly from a thousandth over ``warmup`` steps and is divided by 10 at each of ``milestones``.
    After the last step batch-norm statistics are averaged over ``precise_batches`` batches of training images.
    """

    name: str
    steps: int
    milestones: tuple[int, ...]
    warmup: int
    train_sides: tuple[int, ...]
    test_side: int = 800
    batch_size: int = 16
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    precise_batches: int = 200

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not 0 < self.lr < 100:
            raise InvalidOption(
                f"{self.steps} steps of {self.batch_size} images at rate {self.lr}; give 1 or more and a rate above 0"
            )
        if not self.train_sides or min(*self.train_sides, self.test_side) < 32:
            raise InvalidOption(f"sides {self.train_sides} and {self.test_side} pixels; give 32 pixels or more")

    @property
    def max_side(self) -> int:
        """The longest a longer side may be: 1333 for tests at 800."""
        return round(MAX_ASPECT * self.test_side)

    def rate(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0.

        >>> [round(SCHEDULES["voc"].rate(s), 6) for s in (0, 50, 100, 18000, 22000)]
        [2e-05, 0.01001, 0.02, 0.002, 0.0002]
        """
        warm = 1.0 if step >= self.warmup else 1e-3 + (1 - 1e-3) * step / self.warmup
        return self.lr * warm * 0.1 ** sum(step >= milestone for milestone in self.milestones)

    def describe(self) -> dict[str, Any]:
        """The schedule as plain JSON values."""
        return asdict(self)


_VOC_SIDES = tuple(range(480, 801, 32))
_COCO_SIDES = tuple(range(640, 801, 32))
SCHEDULES: dict[str, Schedule] = {
    "voc": Schedule("voc", 24_000, (18_000, 22_000), 100, _VOC_SIDES),
    "coco-1x": Schedule("coco-1x", 90_000, (60_000, 80_000), 1_000, _COCO_SIDES),
    "coco-2x": Schedule("coco-2x", 180_000, (120_000, 160_000), 1_000, _COCO_SIDES),
}
"""MoCo's VOC and COCO 2x schedules (its 1x, too): 16 images, rate 0.02."""


def schedule_of(
    name: str,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    sides: Sequence[int] = (),
) -> Schedule:
    """A named schedule with parts of it replaced; raises ``InvalidOption`` for an unknown name or impossible numbers.

    Fewer steps shrink milestones in proportion, and the warm-up to a tenth of them at most; the rate follows the batch
    size in proportion unless ``lr`` is given; ``sides`` are those of training, and tests take the largest.

    >>> short = schedule_of("voc", steps=240, batch_size=8)
    >>> short.milestones, short.warmup, short.lr
    ((180, 220), 24, 0.01)
    """
    if name not in SCHEDULES:
        raise InvalidOption(f"schedule {name!r} is not known; choose one of {', '.join(SCHEDULES)}")
    base = SCHEDULES[name]
    total, batch = steps or base.steps, batch_size or base.batch_size
    shrink = total / base.steps
    return replace(
        base,
        steps=base.steps if steps is None else steps,
        milestones=tuple(round(m * shrink) for m in base.milestones),
        warmup=min(base.warmup, total // 10),
        train_sides=tuple(sides) or base.train_sides,
        test_side=max(sides) if sides else base.test_side,
        batch_size=base.batch_size if batch_size is None else batch_size,
        lr=base.lr * batch / base.batch_size if lr is None else lr,
        precise_batches=min(base.precise_batches, total),
    )
