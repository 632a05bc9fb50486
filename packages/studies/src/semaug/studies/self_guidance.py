"""Pairs guided by the encoder that they train: self-localisation, written down and read back at every refresh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.oracles.self_localisation import THRESHOLD, SelfLocaliser, weights_digest, write_self_guidance
from semaug.pairs_dataset.sources import SelfGuidedPairs
from semaug.ssl_methods.periods import RefreshTimes

if TYPE_CHECKING:
    from semaug.ssl_methods.encoder import Encoder
    from semaug.ssl_methods.periods import Ranks


class SelfGuidance:
    """The ``PairRefresh`` of pairs `self`."""

    def __init__(
        self,
        pairs: SelfGuidedPairs,
        warmup: int | None = None,
        every: int | None = None,
        threshold: float = THRESHOLD,
        *,
        readers: int = 1,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        """``warmup`` and ``every`` in epochs (None: a fifth of the run); ``readers`` threads decode images."""
        self.times = RefreshTimes(warmup, every)
        self._pairs, self._threshold, self._readers, self._on_progress = pairs, threshold, readers, on_progress

    def settings(self) -> dict[str, Any]:
        """The threshold, which with the times decides every box."""
        return {"threshold": self._threshold}

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder without spatial maps; raises ``InvalidOption``."""
        SelfLocaliser(encoder, self._threshold)

    def write(self, encoder: Encoder, out: Path, ranks: Ranks) -> str:
        """Localise every image of the run by ``encoder``; returns the digest of the guidance."""
        localiser = SelfLocaliser(encoder, self._threshold)
        return write_self_guidance(
            self._pairs.source, out, localiser, ranks, weights=weights_digest(encoder), readers=self._readers,
            on_progress=self._on_progress,
        )  # fmt: skip

    def pairs(self, guidance: Path) -> tuple[SelfGuidedPairs, str]:
        """The pairs in the boxes of ``guidance``."""
        table = GuidanceTable.open(guidance)
        return self._pairs.guided_by(table), table.digest
