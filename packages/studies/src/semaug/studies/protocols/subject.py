"""What is evaluated: a run, the images it is fitted and scored on, and the artifacts that tell more about them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import SemaugError
from semaug.artifacts.guidance_table import GuidanceTable
from semaug.artifacts.progress import OnProgress, ignore_progress
from semaug.artifacts.sources import ImageSource, open_source

if TYPE_CHECKING:
    from semaug.artifacts.schemas import EncoderCard
    from semaug.eval.features import Features
    from semaug.eval.probes.knn import KnnResult
    from semaug.eval.probes.linear import LinearResult
    from semaug.ssl_methods.encoder import Encoder


class DoesNotFit(SemaugError, ValueError):
    """A protocol or picture asked for what is not at hand; the message says what to give."""


@dataclass(frozen=True)
class Subject:
    """A run with its images; features, probes and artifacts are opened or computed at their first use, once.

    ``train`` and ``test`` are what ``open_source`` takes, or features artifacts of this encoder. ``guidance``,
    ``quality`` and ``truth`` (guidance made of annotations) are artifacts of either images; ``similarities`` is a file
    of numbers. ``keep`` stores features below the run.
    """

    run: Path
    train: str
    test: str
    guidance: Path | None = None
    truth: Path | None = None
    quality: Path | None = None
    similarities: Path | None = None
    device: str = "cpu"
    seed: int = 0
    workers: int = 0
    keep: bool = True
    on_progress: OnProgress = ignore_progress

    @property
    def how(self) -> dict[str, Any]:
        """What most protocols take by name."""
        return {"seed": self.seed, "device": self.device, "on_progress": self.on_progress}

    @cached_property
    def card(self) -> EncoderCard:
        """The encoder's card."""
        from semaug.ssl_methods import load_card

        return load_card(self.run)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder on the device, in evaluation mode."""
        from semaug.ssl_methods import load_encoder

        return load_encoder(self.run)[0].to(self.device).eval()

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """Features of the training and of the test images."""
        from semaug.studies.protocols.features import features_of_run

        found = features_of_run(
            self.run, (self.train, self.test), device=self.device, workers=self.workers, keep=self.keep,
            on_progress=self.on_progress,
        )  # fmt: skip
        return found[0], found[1]

    @property
    def embedded(self) -> tuple[Features, ...]:
        """The features, where something has asked for them or they are kept below the run."""
        return self.features if self.keep else tuple(self.__dict__.get("features", ()))

    @cached_property
    def linear(self) -> LinearResult:
        """The linear probe of the features."""
        from semaug.studies.evaluation import run_linear

        return run_linear(*self.features, device=self.device, seed=self.seed, on_progress=self.on_progress)

    @cached_property
    def knn(self) -> KnnResult:
        """kNN over all k and T."""
        from semaug.studies.evaluation import run_knn

        return run_knn(*self.features, device=self.device, seed=self.seed)

    @cached_property
    def sources(self) -> dict[str, ImageSource]:
        """The images of each role; a role given as features has none, and an encoder of tables reads none."""
        from semaug.studies.protocols.features import is_features

        if self.card.input_size is None:
            return {}
        specs = {"train": self.train, "test": self.test}
        return {role: open_source(spec) for role, spec in specs.items() if not is_features(spec)}

    def images(self, role: str, what: str) -> ImageSource:
        """The images of a role; raises ``DoesNotFit`` where only their features were given."""
        if self.card.input_size is None:
            raise DoesNotFit(f"{what} reads images, and the encoder reads rows of a table ({self.card.backbone})")
        if role not in self.sources:
            raise DoesNotFit(f"{what} reads images, and --{role} gives features; give the images")
        return self.sources[role]

    @cached_property
    def guidance_table(self) -> GuidanceTable:
        """Boxes and masks of the training or test images; raises ``DoesNotFit`` without them."""
        return _table(self.guidance, "guidance", "guide extract IMAGES --out guidance.zarr", "--guidance guidance.zarr")

    @cached_property
    def truth_table(self) -> GuidanceTable:
        """Annotated boxes of the training or test images (scenes know theirs); raises ``DoesNotFit`` without them."""
        from semaug.artifacts.sources import ScenesSource

        scenes = next(
            (s for s in (self.sources.get(r) for r in ("test", "train")) if isinstance(s, ScenesSource)), None
        )
        if self.truth is None and scenes is not None:
            return GuidanceTable.of([scenes.guidance(i) for i in range(len(scenes))], source=scenes.fingerprint)
        return _table(self.truth, "annotations", "guide import ANNOTATIONS ...", "--truth truth.zarr")

    def source_of(self, table: GuidanceTable, what: str) -> ImageSource:
        """The images, test or training, that guidance was made on."""
        for role in ("test", "train"):
            source = self.sources.get(role)
            if source is not None and table.source in ("", source.fingerprint):
                return source
        prints = ", ".join(f"{role} {source.fingerprint}" for role, source in self.sources.items()) or "features alone"
        raise DoesNotFit(f"the {what} was made on images {table.source}, and at hand are {prints}; make it on these")

    def command(self, verb: str) -> str:
        """The command line that evaluates the same again."""
        words = ["semaug", "eval", verb, str(self.run), "--train", self.train, "--test", self.test]
        for name in ("guidance", "truth", "quality", "similarities"):
            words += [f"--{name}", str(getattr(self, name))] if getattr(self, name) else []
        return shlex.join([*words, *(["--seed", str(self.seed)] if self.seed else [])])

    def sources_given(self) -> Mapping[str, str]:
        """Role to spec of what is read."""
        return {"train": self.train, "test": self.test}


def _table(path: Path | None, what: str, made_by: str, option: str) -> GuidanceTable:
    if path is None:
        raise DoesNotFit(f"no {what} was given; make it by `semaug {made_by}` and pass {option}")
    return GuidanceTable.open(path)
