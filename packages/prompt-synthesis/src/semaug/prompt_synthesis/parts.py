"""The models of the stages as descriptions: what can be sent to a worker, compared, and opened when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from semaug.artifacts.devices import worker_device
from semaug.artifacts.files import hash_file
from semaug.prompt_synthesis.captions import Blip2Captioner, Captioner, CaptionSettings
from semaug.prompt_synthesis.endpoint import ChatEndpoint, Patience
from semaug.prompt_synthesis.generators import GenerationSettings, Generator
from semaug.prompt_synthesis.mask_maps import Panoptic, open_panoptic
from semaug.prompt_synthesis.model_folders import locate_model, resolve_dtype
from semaug.prompt_synthesis.rewriting import CausalRewriter, EndpointRewriter, Rewriter, RewriteSettings

Opened = TypeVar("Opened", covariant=True)


class Part(Protocol[Opened]):
    """A picklable description of a model, equal to another that opens the same."""

    @property
    def batch_size(self) -> int:
        """How many items go through the model together."""

    def identity(self) -> dict[str, Any]:
        """What decides the model's answers: id, revision, digest, settings; never a path."""

    def open(self) -> Opened:
        """The model, ready for use; it has ``close()``."""


class Models:
    """The models that are open in this process. They are let go of after each stage, unless ``keep_loaded``.

    In a worker it starts empty: what is open stays with its process.
    """

    def __init__(self, keep_loaded: bool = False) -> None:
        self.keep_loaded = keep_loaded
        self._open: list[tuple[Any, Any]] = []

    def take(self, part: Part[Opened]) -> Opened:
        """The open model of ``part``, opened now where it is not."""
        for known, model in self._open:
            if known == part:
                return model  # type: ignore[no-any-return]
        model = part.open()
        self._open.append((part, model))
        return model

    @contextmanager
    def stage(self) -> Iterator[None]:
        """What is opened within is closed at its end, also of a stage that fails, unless ``keep_loaded``."""
        try:
            yield
        finally:
            if not self.keep_loaded:
                self.close()

    def close(self) -> None:
        """Let go of all models and their memory."""
        while self._open:
            self._open.pop()[1].close()

    def __len__(self) -> int:
        return len(self._open)

    def __reduce__(self) -> Any:
        return Models, (self.keep_loaded,)


@dataclass(frozen=True, slots=True)
class CaptionerPart:
    """BLIP-2 by a folder or a hub id (``Blip2Captioner``)."""

    model: str
    prompt: str = "describe"
    device: str = "cpu"
    dtype: str = "auto"
    settings: CaptionSettings = field(default_factory=CaptionSettings)
    revision: str | None = None

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    def identity(self) -> dict[str, Any]:
        return self._captioner(self.device).identity()

    def open(self) -> Captioner:
        captioner = self._captioner(worker_device(self.device))
        captioner.load()  # weights are read here, outside of the stage's time
        return captioner

    def _captioner(self, device: str) -> Blip2Captioner:
        return Blip2Captioner(self.model, self.prompt, device, self.dtype, self.settings, self.revision)


@dataclass(frozen=True, slots=True)
class RewriterPart:
    """A causal language model by a folder or a hub id (``CausalRewriter``)."""

    model: str
    settings: RewriteSettings = field(default_factory=RewriteSettings)
    device: str = "cpu"
    dtype: str = "auto"
    batch_size: int = 8
    revision: str | None = None

    def identity(self) -> dict[str, Any]:
        return self._rewriter(self.device).identity()

    def open(self) -> Rewriter:
        rewriter = self._rewriter(worker_device(self.device))
        rewriter.load()
        return rewriter

    def _rewriter(self, device: str) -> CausalRewriter:
        return CausalRewriter(self.model, self.settings, device, self.dtype, self.batch_size, self.revision)


@dataclass(frozen=True, slots=True)
class EndpointPart:
    """A language model behind an OpenAI-compatible server (``EndpointRewriter``); the key stays in its variable."""

    url: str
    model: str
    settings: RewriteSettings = field(default_factory=RewriteSettings)
    key_variable: str | None = None
    concurrency: int = 8
    patience: Patience | None = None
    journal: Path | None = None

    @property
    def batch_size(self) -> int:
        return 4 * self.concurrency

    def identity(self) -> dict[str, Any]:
        return self.open().identity()

    def open(self) -> EndpointRewriter:
        endpoint = ChatEndpoint(self.url, self.model, self.key_variable, self.concurrency, self.patience, self.journal)
        return EndpointRewriter(endpoint, self.settings)


@dataclass(frozen=True, slots=True)
class PanopticPart:
    """A panoptic model by a folder, a hub id, or an exported file with its ``labels`` (``open_panoptic``)."""

    model: str
    device: str = "cpu"
    dtype: str = "auto"
    batch_size: int = 4
    labels: str | None = None
    more_labels: tuple[tuple[str, str], ...] = ()
    side: int | None = None
    threshold: float | None = None
    mask_threshold: float = 0.5
    overlap: float | None = None
    revision: str | None = None

    def identity(self) -> dict[str, Any]:
        return {
            **self._files(),
            "dtype": self.dtype,
            "side": self.side,
            "threshold": self.threshold,
            "mask_threshold": self.mask_threshold,
            "overlap": self.overlap,
        }

    def _files(self) -> dict[str, Any]:
        path = Path(self.model).expanduser()
        if not path.is_file():
            return locate_model(self.model, "the panoptic model", self.revision).identity()
        named = Path(self.labels or "").expanduser()
        labels = hash_file(named) if named.is_file() else self.labels
        return {"model": path.name, "revision": None, "digest": hash_file(path), "labels": labels}

    def open(self) -> Panoptic:
        return open_panoptic(
            self.model, worker_device(self.device), self.dtype, self.batch_size, self.labels, dict(self.more_labels),
            self.side, self.threshold, self.mask_threshold, self.overlap, self.revision,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class GeneratorPart:
    """A diffusers pipeline by a folder or a hub id, of a kind in ``generators.KINDS`` (``open_generator``)."""

    kind: str
    model: str
    controlnet: str | None = None
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    device: str = "cpu"
    dtype: str = "auto"
    batch_size: int = 4
    safety_checker: bool = True
    revision: str | None = None
    variant: str | None = None

    def identity(self) -> dict[str, Any]:
        from semaug.prompt_synthesis.diffusion_folders import pipeline_identity

        base = pipeline_identity(self.model, self.revision, self.variant)
        net = None if self.controlnet is None else locate_model(self.controlnet, "the ControlNet").identity()
        return {
            "kind": self.kind,
            "base": base,
            "controlnet": net,
            "dtype": str(resolve_dtype(self.dtype, self.device)).removeprefix("torch."),
            "batch_size": self.batch_size,
            "safety_checker": self.safety_checker,
            "settings": asdict(self.settings),
        }

    def open(self) -> Generator:
        from semaug.prompt_synthesis.diffusion_folders import open_generator

        return open_generator(
            self.kind, self.model, self.controlnet, self.settings, worker_device(self.device), self.dtype,
            self.batch_size, self.safety_checker, self.revision, self.variant,
        )  # fmt: skip
