"""Proposing semantic pairs: images + guidance + quality scores + encoder -> descriptors -> ranked pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.schemas import QualityScore
from semaug.artifacts.sources import open_source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from semaug.artifacts.shards import Workers
    from semaug.artifacts.store import ArtifactSummary
    from semaug.pairs_dataset.descriptors import EncodeRegions, RegionEncoder, ScoreImage
    from semaug.pairs_dataset.proposals import ProposalRule, Proposals
    from semaug.ssl_methods.encoder import Encoder

TIMM = "timm:"


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """Which encoder compares regions: ``name`` is the folder of a run, or ``timm:NAME`` with a file of ``weights``;
    without a name, colour and texture statistics do. ``size`` is the side of its images (the run's own, else 96)."""

    name: str | None = None
    weights: str | None = None
    size: int | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Proposed:
    """What ``propose`` wrote: the pairs, what was described for them, and where the descriptors are kept."""

    proposals: Proposals
    summary: ArtifactSummary
    described: ArtifactSummary
    found: int
    """Images whose object the guidance had."""


def propose(
    images: str,
    out: Path,
    *,
    guidance: str | None = None,
    quality: str | None = None,
    encoder: EncoderChoice = EncoderChoice(),
    descriptors: Path | None = None,
    rule: ProposalRule | None = None,
    seed: int = 0,
    workers: Workers = 1,
    overwrite: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> Proposed:
    """Describe the images (or go on, or reuse what is there), rank and choose pairs, and write them to ``out``.

    Descriptors are kept at ``descriptors``, beside ``out`` by default: another ``rule`` reads them again. Raises what
    ``open_source``, ``describe_source``, ``propose_pairs`` and ``write_pairs`` raise.
    """
    from semaug.pairs_dataset.descriptors import Descriptors, describe_source
    from semaug.pairs_dataset.pair_table import PairTable, write_pairs
    from semaug.pairs_dataset.proposals import ProposalRule, propose_pairs

    source = open_source(images)
    if not source.class_names:
        raise InvalidOption(f"{source.spec} has no classes; give images in class folders or with labels")
    rule, place = rule or ProposalRule(), descriptors or out.with_name(f"{out.stem}-descriptors.zarr")
    table = GuidanceTable.open(guidance) if guidance else None
    scores, inputs = _scores(quality, source)
    described = describe_source(
        source, place, score=scores, guidance=table, encoder=region_encoder(encoder), inputs=inputs, workers=workers,
        overwrite=overwrite, on_progress=on_progress,
    )  # fmt: skip
    rows = Descriptors.open(place)
    proposals = propose_pairs(source, rows, rule, seed=seed, on_progress=on_progress)
    summary = write_pairs(
        PairTable.of(proposals.rows, "proposals", source.fingerprint), out, config={"rule": asdict(rule)},
        inputs={"descriptors": rows.digest}, seed=seed, overwrite=overwrite,
        info={"spec": source.spec, "features": proposals.features},
    )  # fmt: skip
    return Proposed(proposals, summary, described, int(rows.found.sum()))


def _scores(quality: str | None, source: Any) -> tuple[ScoreImage, dict[str, str]]:
    """Where quality scores come from, and the digest of their artifact."""
    if quality is None:
        return ComputedScores(), {}
    from semaug.quality_policy import QualityTable

    table = QualityTable.open(quality)
    table.require_source(source)
    found = {key: score for key in table.keys if (score := table.get(key)) is not None}
    return ComputedScores(found), {"quality": table.digest}


@dataclass(frozen=True, slots=True)
class ComputedScores:
    """Quality scores: the known ones, and of other images by the default scoring of their pixels."""

    known: Mapping[str, QualityScore] | None = None

    def __call__(self, key: str, image: NDArray[np.uint8]) -> QualityScore:
        """The score of one image, uint8 (h, w, 3)."""
        from semaug.quality_policy.scores import image_statistics
        from semaug.quality_policy.scoring import Scoring

        found = self.known.get(key) if self.known is not None else None
        return Scoring().score(image_statistics(image)) if found is None else found


def region_encoder(choice: EncoderChoice) -> RegionEncoder | None:
    """The encoder of a choice, None for statistics; raises ``InvalidOption`` where weights are missing or too many."""
    from semaug.artifacts.files import hash_file
    from semaug.ssl_methods.cards import load_card

    if choice.name is None:
        if choice.weights is not None:
            raise InvalidOption(f"weights {choice.weights} without an encoder; name one, say --encoder timm:resnet50")
        return None
    if choice.name.startswith(TIMM):
        if choice.weights is None:
            raise InvalidOption(f"encoder {choice.name} has no weights and none are downloaded; give --weights FILE")
        return LoadedRegions(
            choice.name, hash_file(Path(choice.weights)), choice.size or 96, choice.device, choice.weights
        )
    card = load_card(Path(choice.name))
    if choice.weights is not None or card.input_size is None:
        raise InvalidOption(
            f"the run {choice.name} has weights of its own and must be of images; leave --weights out, "
            "or name an encoder of images"
        )
    return LoadedRegions(choice.name, card.weights_digest, choice.size or card.input_size, choice.device)


@dataclass(frozen=True)
class LoadedRegions:
    """A run of ours, or a timm model with a file of weights, that encodes regions (picklable)."""

    path: str
    digest: str
    size: int
    device: str = "cpu"
    weights: str | None = None

    @cached_property
    def name(self) -> str:
        """What the descriptors say they come from: never a place on this machine."""
        if self.weights is not None:
            return f"{self.path} at {self.size} pixels (weights {self.digest[:8]})"
        from semaug.ssl_methods.cards import load_card

        card = load_card(Path(self.path))
        return f"{card.method} {card.backbone} at {self.size} pixels (weights {self.digest[:8]})"

    def identity(self) -> dict[str, Any]:
        """The weights and the size."""
        return {"weights": self.digest, "size": self.size}

    def open(self) -> EncodeRegions:
        """Load the weights."""
        return _Encode(self._encoder(), self.device)

    def _encoder(self) -> Encoder:
        from semaug.ssl_methods import build_encoder, initialise, load_encoder

        if self.weights is None:
            return load_encoder(self.path)[0]
        encoder = build_encoder(self.path, input_size=self.size, projector=None)
        initialise(encoder, self.weights)
        return encoder.eval()


class _Encode:
    def __init__(self, encoder: Encoder, device: str) -> None:
        import torch

        self.encoder, self.device = encoder.to(device), device
        mean, std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (encoder.spec.mean, encoder.spec.std))
        self.mean, self.std = mean, std

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        import numpy as np
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
            found = self.encoder((pixels - self.mean) / self.std)
        return np.asarray(found.float().cpu().numpy(), np.float32)
