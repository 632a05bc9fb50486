"""What pretraining asks of a method: the contract of every file in this folder.

**Parts.** A method is a plain ``nn.Module`` over built parts: an ``Encoder`` (backbone and projector) and, where the
paper has one, a predictor or head that the caller built (``heads.build_predictor``, seeded). It is never given a
config. Hyperparameters are keyword arguments with the paper's defaults, and ``settings()`` returns all that shape the
weights. ``default_projector`` is the paper's projector, and ``assemble(encoder, seed=, ...)`` builds the other parts
as the paper has them and calls the constructor: it is what the command line uses.

**A step.** ``pretrain`` (and whoever writes a loop of their own) calls, with the same ``step`` (from 0) of ``steps``::

    method.before_forward(step, steps)     # stores both; temperatures and warm-ups are functions of self.step
    scalars = method(views)                # checks the views, then self.scalars(views); "loss" is minimised
    scalars["loss"].backward()             # several forwards and backwards under gradient accumulation
    method.before_update(step, steps)      # gradients are whole: clip or cancel some, normalise prototypes
    optimizer.step()
    method.after_step(step, steps)         # momentum: follow(self.teacher, self.encoder, self.tau(step, steps))

All durations are optimizer steps, never epochs. Schedules are pure functions of (step, steps), so only tensors are
state: parameters and persistent buffers (queues, centres, banks), which the checkpoint holds. Tensors outside of these
are lost on resume.

**Labels.** A method whose ``reads_labels`` is true is a labelled reference: ``labels`` of all images go to
``assemble``, and ``items`` holds the numbers of a batch's images, int64 (B,), which ``pretrain`` sets before a forward.

**Views.** ``views`` says how many the method takes. Each is (B, 3, S, S), or (B, D) for tables, row i of all from one
item; the global views come first, smaller local ones after them.

A pair source of more than two streams says in ``pairing`` which of them are positives. A method of two views then takes
the mean over these pairs of views, whose keys enter its queues once; one that takes more views sees all of them.

**Parallel.** Every rank holds an equal share of the batch and returns its own loss, and DistributedDataParallel takes
the mean of gradients; a loss gathers what it needs itself (``gathering.py``), so that loss and gradient equal those of
one process. Every parameter that requires a gradient must receive one at every step: to hold one back, cancel its
gradient in ``before_update``. Ranks draw different random numbers; what must be equal on all is drawn on one
(``gathering.from_first_rank``). Buffers of rank 0 are copied to all before each forward, so a buffer must be updated
alike on all ranks: gather first.

**Optimizer.** ``parameter_groups(settings)`` splits the parameters; a group with ``constant_lr`` ignores the schedule.
What no gradient trains (AdCo's bank) is a buffer and updates itself in ``before_update`` or ``after_step``.

**Result.** ``result`` is the encoder that is evaluated and saved (the student unless the paper keeps the teacher), and
``predictor`` is saved beside it when it is a ``Head``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semaug.artifacts.errors import InvalidOption
from semaug.ssl_methods.encoder import Encoder
from semaug.ssl_methods.heads import ProjectorSpec
from semaug.ssl_methods.optimizers import OptimizerSettings, parameter_groups
from semaug.ssl_methods.queues import KeyQueue, holding

Settings = dict[str, float | int | str | bool | None]


@dataclass(frozen=True, slots=True)
class ViewCount:
    """How many views of an item a method takes: ``least`` to ``most``, without limit where ``most`` is None.

    >>> str(ViewCount(2)), str(ViewCount(1, 1)), str(ViewCount(2, None))
    ('2 views', '1 view', 'at least 2 views')
    """

    least: int
    most: int | None = -1

    def __post_init__(self) -> None:
        if self.most == -1:
            object.__setattr__(self, "most", self.least)

    def admits(self, count: int) -> bool:
        """Whether ``count`` views are in the range."""
        return count >= self.least and (self.most is None or count <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least} views"
        span = str(self.least) if self.least == self.most else f"{self.least} to {self.most}"
        return f"{span} view{'' if self.most == 1 else 's'}"


class Method(nn.Module, ABC):
    """A self-supervised method: built parts and a loss over the views of a batch. See this module's text."""

    name: ClassVar[str] = ""
    views: ViewCount = ViewCount(2)
    reads_labels: ClassVar[bool] = False
    default_projector: ClassVar[ProjectorSpec | None] = ProjectorSpec()
    predictor: nn.Module | None

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.step, self.steps = 0, 1
        self.items: Tensor | None = None
        self.pairing: tuple[tuple[int, int], ...] = ()
        self.predictor = None  # an attribute of the class would hide the module of this name
        if self.default_projector is not None and encoder.projector is None:
            raise InvalidOption(
                f"{self.name} trains through a projector and this encoder has none; give a ProjectorSpec"
            )

    @classmethod
    def assemble(cls, encoder: Encoder, *, seed: int = 0, **hyperparameters: Any) -> Self:
        """The method on ``encoder`` with its other parts built from ``seed`` as the paper has them."""
        return cls(encoder, **hyperparameters)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Scalars of one batch of views; ``loss`` is minimised, the others are only logged.

        With ``pairing`` they are means over its pairs of views, unless the method takes as many views. Raises
        ``InvalidOption`` for a number of views that the method does not take, or of differing lengths.
        """
        if self.pairing and not self.views.admits(len(views)):
            return self._over_pairs(views)
        if not self.views.admits(len(views)):
            raise InvalidOption(
                f"{self.name} takes {self.views} of an image, got {len(views)}; give it a pair source of as many"
            )
        if len({len(v) for v in views}) > 1:
            raise InvalidOption(f"views have {[len(v) for v in views]} rows; every view needs one row an item")
        return self.scalars(views)

    def _over_pairs(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        named = 1 + max(view for pair in self.pairing for view in pair)
        if len(views) != named or not self.views.admits(2):
            raise InvalidOption(
                f"{self.name} takes {self.views} and the pairs {self.pairing} of {named} views, got {len(views)}; "
                "leave local views out, or take another method"
            )
        with holding(module for module in self.modules() if isinstance(module, KeyQueue)):
            found = [self.scalars([views[first], views[second]]) for first, second in self.pairing]
        return {name: torch.stack([scalars[name] for scalars in found]).mean() for name in found[0]}

    @abstractmethod
    def scalars(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """What ``forward`` returns, for views that have been checked; here queues are read and then filled."""

    @property
    def result(self) -> Encoder:
        """The encoder that is evaluated and saved."""
        return self.encoder

    def check_batch(self, batch_size: int, items: int, world: int) -> None:
        """Refuse, before the first step, a global batch or a data set of ``items`` that the method cannot train on.

        Here: a share of one row per process under batch norm. Raises ``InvalidOption``.
        """
        normalised = any(isinstance(m, _BatchNorm) for m in self.modules())
        if normalised and batch_size // world < 2:
            raise InvalidOption(
                f"a batch of {batch_size} over {world} processes leaves {batch_size // world} row for batch norm, "
                f"which needs 2; give --batch-size {2 * world} or more"
            )

    def parameter_groups(self, settings: OptimizerSettings) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        return parameter_groups(self, settings)

    def before_forward(self, step: int, steps: int) -> None:
        """Called before every forward of step ``step`` (from 0) of ``steps``."""
        self.step, self.steps = step, steps

    def before_update(self, step: int, steps: int) -> None:
        """Called once a step, with whole and unscaled gradients, before the optimizer uses them."""

    def after_step(self, step: int, steps: int) -> None:
        """Called once a step, after the optimizer: the place for a momentum encoder's update."""

    def settings(self) -> Settings:
        """The hyperparameters that shape the weights, for the run's record."""
        return {}
