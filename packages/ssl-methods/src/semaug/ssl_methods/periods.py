"""Runs whose pairs change while they train: the periods between refreshes, and the loader that crosses them.

A refresh makes guidance of its own from the encoder as it stands, and the period's pairs from that guidance. Which
step begins a period depends on the settings alone, and what a refresh writes depends on the weights alone, so that a
run stopped anywhere, within a refresh too, goes on to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.ssl_methods.batches import BatchOrder
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.gathering import from_first_rank, world

SHARE = 0.2
"""Of the run: the warm-up and the time between refreshes where they are not given (Peng et al., CVPR 2022)."""


@dataclass(frozen=True, slots=True)
class RefreshTimes:
    """Pairs are refreshed after ``warmup`` epochs, then every ``every`` epochs; None is a fifth of the run.

    >>> RefreshTimes(warmup=2, every=3).steps(BatchOrder(items=10, batch_size=5, seed=0), steps=17)
    (4, 10, 16)
    """

    warmup: int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        if (self.warmup or 0) < 0 or (self.every is not None and self.every < 1):
            raise InvalidOption(
                f"a warm-up of {self.warmup} epochs and a refresh every {self.every}: give at least 0 and 1"
            )

    def steps(self, order: BatchOrder, steps: int) -> tuple[int, ...]:
        """The steps that begin with a refresh; raises ``InvalidOption`` where a run of ``steps`` ends before."""
        fifth = max(1, round(SHARE * steps / order.per_epoch))
        warmup, every = (fifth if n is None else n for n in (self.warmup, self.every))
        found = tuple(range(warmup * order.per_epoch, steps, every * order.per_epoch))
        if not found:
            raise InvalidOption(
                f"a warm-up of {warmup} epochs is {warmup * order.per_epoch} steps and the run has {steps}; "
                "give more steps or a shorter warm-up"
            )
        return found


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of ``world`` processes this is, and how it waits until all have come as far."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], None] = lambda: None


class PairRefresh(Protocol):
    """What makes the pairs of a period from the encoder at its first step."""

    times: RefreshTimes

    def settings(self) -> dict[str, Any]:
        """Everything else that decides the guidance, as plain JSON values."""
        ...

    def check(self, encoder: Encoder) -> None:
        """Refuse, before the first step, an encoder that cannot guide; raises ``InvalidOption``."""
        ...

    def write(self, encoder: Encoder, out: Path, ranks: Ranks) -> str:
        """Write the guidance artifact ``out``, or what is missing of it, and return its digest.

        Called on all ranks with equal weights, in evaluation mode and without gradients; it has to depend on nothing
        but them, and returns when the artifact is whole.
        """
        ...

    def pairs(self, guidance: Path) -> tuple[Any, str]:
        """The pairs that the artifact ``guidance`` guides, as many as before, and the artifact's digest."""
        ...


class Periods:
    """The pairs of every period of one run, and what of them the checkpoint names.

    ``folder`` is where the run keeps its guidance; ``ranks`` the processes that train it.
    """

    def __init__(self, refresh: PairRefresh, first: Any, order: BatchOrder, steps: int, folder: Path) -> None:
        """``first``: the pairs until the first refresh."""
        self.refresh, self.first, self.order, self.folder = refresh, first, order, folder
        self.starts = refresh.times.steps(order, steps)
        self.current: dict[str, Any] = {}

    def spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The pieces of steps ``start`` to ``stop - 1`` that one period's pairs serve."""
        return list(pairwise([start, *(s for s in self.starts if start < s < stop), stop]))

    def pairs_at(self, step: int, encoder: Encoder, ranks: Ranks) -> Any:
        """The pairs that serve ``step``, refreshed from ``encoder`` where a period begins there.

        Raises ``ArtifactError`` where guidance that the checkpoint names is gone or has changed.
        """
        begun = [s for s in self.starts if s <= step]
        if not begun:
            return self.first
        epoch = self.order.epoch(begun[-1])
        name = f"epoch-{epoch:04d}.zarr"
        if self.current.get("name") != name:
            digest = self._write(encoder, self.folder / name, ranks)
            self.current = {"name": name, "epoch": epoch, "digest": digest}
        if not (self.folder / name).exists():
            raise ArtifactError(
                f"{self.folder / name} is gone and the checkpoint reads it; restore it, or start anew with --overwrite"
            )
        pairs, found = self.refresh.pairs(self.folder / name)
        if found != self.current["digest"]:
            raise ArtifactError(
                f"{self.folder / name} has digest {found}, the checkpoint names {self.current['digest']}; "
                "restore it, or start anew with --overwrite"
            )
        return pairs

    def _write(self, encoder: Encoder, out: Path, ranks: Ranks) -> str:
        with evaluating(encoder), torch.no_grad():
            for buffer in encoder.buffers():  # batch norm's statistics differ by rank until the next forward
                buffer.copy_(from_first_rank(buffer))
            return self.refresh.write(encoder, out, ranks)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode, and then every part back in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class PeriodLoader:
    """The batches of steps ``start`` to ``stop - 1`` over several periods; its length is that of the whole run.

    A period's own loader is made when its first batch is asked for, which is after the step before it: none of its
    batches can be drawn too early, however many workers read ahead.
    """

    def __init__(self, spans: Sequence[tuple[int, int]], load: Callable[[int, int], Any], accumulate: int = 1) -> None:
        """``load(start, stop)`` gives the loader of one span, ``accumulate`` batches a step."""
        self.spans, self.load, self.accumulate = spans, load, accumulate
        self._batches: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        self.close()
        self._batches = (batch for start, stop in self.spans for batch in self.load(start, stop))
        return self._batches

    def __len__(self) -> int:
        return self.spans[-1][1] * self.accumulate

    def close(self) -> None:
        """Stop the workers of a loader that was left half read."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


def current_ranks(wait: Callable[[], None]) -> Ranks:
    """This process among those that train."""
    return Ranks(*world(), wait)
