"""The settings of DiffAug's training, with the values of the paper and of its official code (spec S4.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.diffusion import NoiseSchedule
from semaug.diffaug_core.samplers import SAMPLERS, Sampler, build_sampler
from semaug.ssl_methods.losses.dlme import Similarity
from semaug.ssl_methods.losses.kernels import KERNELS

Loss = Literal["soft", "infonce"]
Condition = Literal["y", "z", "label", "random"]
Schedule = Literal["joint", "em"]
FirstView = Literal["clean", "hand"]
Precision = Literal["fp32", "fp64"]


@dataclass(frozen=True, slots=True)
class DiffAugSettings:
    """What decides the weights of a DiffAug run, beside samples, epochs, batch size and seed.

    Epochs here count passes of the encoder over the samples. After ``warmup_epochs`` on hand-made augmentation the
    generator is trained for ``generator_epochs`` passes of its own with the encoder frozen. From then on the second
    view of a sample is a generated one with probability ``alpha``, which rises from 0 over ``alpha_ramp`` epochs.
    With schedule ``joint`` (B5) every further step trains both; with ``em`` (B4) ``block_epochs`` of the encoder and as
    many of the generator take turns, and the generator has the last turn. ``None`` leaves it to the length of the run:
    a fifth of it to warm up, as many epochs for the generator as for the encoder, a tenth for a block.

    ``detach_p`` false is the official code's: the gradient through P lets the encoder lower the loss by taking all y
    apart until P is nothing, which costs most of what it learns (``README.md`` has figures).

    ``generate`` false trains the encoder alone on the same batches. ``copies`` generated views of every sample are kept
    and made anew every ``refresh_every`` epochs. ``first_view`` None is ``clean`` for rows (Eq. 1: a sample against its
    augmentation) and ``hand`` for images; ``clip`` None bounds generated images to [-1, 1] and leaves rows. ``encoder``
    and ``generator`` are options of ``semantic_encoder`` and ``build_generator``, with the ``kind`` of the latter.
    Learning rates fall to ``decay`` of themselves after each tenth of their network's steps.
    """

    loss: Loss = "soft"
    kernel: str = "official"
    nu_y: float = 100.0
    nu_z: float = 0.01
    beta: float = 1.0
    detach_p: bool = True
    temperature: float = 0.2
    first_view: FirstView | None = None

    generate: bool = True
    condition: Condition = "y"
    schedule: Schedule = "joint"
    warmup_epochs: int | None = None
    generator_epochs: int | None = None
    block_epochs: int | None = None
    alpha: float = 0.1
    alpha_ramp: int = 0
    refresh_every: int = 10
    copies: int = 1

    timesteps: int = 1000
    noise_start: float = 1e-4
    noise_stop: float = 2e-2
    sampler: str = "ddim"
    sampler_steps: int = 50
    eta: float = 0.0
    clip: float | None = None
    generator_weight: float = 0.01

    lr: float = 1e-3
    generator_lr: float = 1e-3
    weight_decay: float = 1e-6
    decay: float = 0.8
    ema_decay: float = 0.9999
    precision: Precision = "fp32"
    encoder: Mapping[str, Any] = field(default_factory=dict)
    generator: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InvalidOption(f"{name} {value!r} is not known; choose one of {', '.join(map(str, choices))}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InvalidOption(f"{name} is {value}, expected {least:g} to {most:g}")
        if not self.ema_decay < 1:
            raise InvalidOption(f"ema_decay is {self.ema_decay} and would keep the first weights; give less than 1")
        if not all(0 < value < math.inf for value in (self.temperature, self.lr, self.generator_lr)):
            raise InvalidOption(
                f"temperature {self.temperature}, lr {self.lr} and generator_lr {self.generator_lr} must be positive "
                "numbers"
            )
        if not 0 < self.noise_start <= self.noise_stop < 1:
            raise InvalidOption(
                f"noise from {self.noise_start} to {self.noise_stop} is no schedule; the paper has 1e-4 to 2e-2"
            )
        if not 1 <= self.sampler_steps <= self.timesteps:
            raise InvalidOption(
                f"{self.sampler_steps} sampler steps do not fit into {self.timesteps} timesteps; lower them"
            )
        if self.sampler != "ddim" and self.eta:
            raise InvalidOption(f"eta is {self.eta} and belongs to ddim; leave it away for sampler {self.sampler!r}")
        for name in ("encoder", "generator"):  # as JSON gives them back
            options = {k: tuple(v) if isinstance(v, list) else v for k, v in sorted(getattr(self, name).items())}
            object.__setattr__(self, name, options)
        _ = self.similarity

    @property
    def similarity(self) -> Similarity:
        """How distances become similarities; raises ``InvalidOption``."""
        return Similarity(KERNELS[self.kernel], self.nu_y, self.nu_z, self.beta, self.detach_p)

    def build_sampler(self, shape: tuple[int, ...]) -> Sampler:
        """The sampler of samples of ``shape``; raises ``InvalidOption``."""
        bound = 1.0 if self.clip is None and len(shape) > 1 else self.clip
        options = {"eta": self.eta} if self.sampler == "ddim" else {}
        return build_sampler(self.sampler, steps=self.sampler_steps, clip=bound, **options)

    def noise_schedule(self) -> NoiseSchedule:
        """beta of every time step."""
        return NoiseSchedule.linear(self.timesteps, self.noise_start, self.noise_stop)

    @property
    def substitutes(self) -> bool:
        """Whether generated views ever reach the encoder."""
        return self.generate and self.alpha > 0

    def record(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> DiffAugSettings:
        """The settings that ``record()`` gave; what else is in ``record`` is left aside."""
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})


_CHOICES: dict[str, tuple[Any, ...]] = {
    "loss": get_args(Loss),
    "kernel": tuple(KERNELS),
    "condition": get_args(Condition),
    "schedule": get_args(Schedule),
    "first_view": (*get_args(FirstView), None),
    "precision": get_args(Precision),
    "sampler": tuple(SAMPLERS),
}

_RANGES: dict[str, tuple[float, float]] = {
    "warmup_epochs": (0, float("inf")),
    "generator_epochs": (0, float("inf")),
    "block_epochs": (1, float("inf")),
    "alpha": (0, 1),
    "alpha_ramp": (0, float("inf")),
    "refresh_every": (1, float("inf")),
    "copies": (1, float("inf")),
    "timesteps": (1, float("inf")),
    "eta": (0, 1),
    "generator_weight": (0, float("inf")),
    "weight_decay": (0, float("inf")),
    "decay": (0, 1),
    "ema_decay": (0, 1),
}
