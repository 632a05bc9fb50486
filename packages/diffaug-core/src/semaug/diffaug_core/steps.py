"""One step of DiffAug's training: which samples, which views, which networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semaug.artifacts import draws
from semaug.artifacts.draws import draw_key
from semaug.diffaug_core.bank import Bank, BankMaker
from semaug.diffaug_core.conditions import Encoded
from semaug.diffaug_core.objectives import Denoising, build_contrast, contrast_views
from semaug.diffaug_core.plan import STAGES, Moment, Plan
from semaug.diffaug_core.samples import CleanSamples, Samples, require_enough
from semaug.diffaug_core.settings import DiffAugSettings
from semaug.diffaug_core.state import GeneratorPart, State, build_state
from semaug.diffaug_core.views import ViewDrawer

Scalars = dict[str, Tensor | float]
_DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


class Batches:
    """Which samples each step reads: every epoch a new permutation, cut into whole batches.

    >>> batches = Batches(items=5, batch_size=2, seed=0, purpose="encoder order")
    >>> batches.per_epoch, len(set(batches.at(0)) | set(batches.at(1)))
    (2, 4)
    """

    def __init__(self, items: int, batch_size: int, seed: int, purpose: str) -> None:
        self.items, self.batch_size, self.seed, self.purpose = items, batch_size, seed, purpose
        self.per_epoch = items // batch_size
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def at(self, step: int) -> NDArray[np.int64]:
        """The samples of step ``step`` (from 0), int64 (batch_size,)."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = draws.generator(self.seed, self.purpose, epoch).permutation(self.items)
        return self._order[number * self.batch_size : (number + 1) * self.batch_size]


class Steps:
    """The steps of one run, one after another; ``state`` and ``bank`` are all that they change.

    ``encoder_steps`` counts the encoder's; what the generator takes alone comes on top (``plan.total``). Raises
    ``InvalidOption`` where samples, batch and settings do not belong together.
    """

    def __init__(
        self,
        samples: Samples,
        settings: DiffAugSettings,
        *,
        encoder_steps: int,
        batch_size: int,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        require_enough(samples, batch_size)
        self.settings, self.seed = settings, seed
        self.batches = Batches(len(samples), batch_size, seed, "encoder order")
        self.generator_batches = Batches(len(samples), batch_size, seed, "generator order")
        self.plan = Plan(settings, encoder_steps, self.batches.per_epoch)
        self.clean = CleanSamples(samples, device or torch.device("cpu"), _DTYPES[settings.precision])
        totals = {"encoder_steps": encoder_steps, "generator_steps": self.plan.generator_steps}
        self.state: State = build_state(self.clean, settings, **totals, seed=seed)
        self.bank: Bank | None = None
        first = settings.first_view or ("clean" if len(samples.shape) == 1 else "hand")
        self.views = ViewDrawer(self.clean, first, seed)
        self.contrast = build_contrast(settings)
        self.denoising = Denoising(settings.noise_schedule(), seed)
        self.maker = BankMaker(settings.build_sampler(samples.shape), self.denoising.schedule, settings.copies, seed)
        self._block: object = None

    def wants_bank(self, moment: Moment) -> bool:
        """Whether the bank is to be made anew before ``moment``."""
        return moment.refresh is not None and (self.bank is None or self.bank.number != moment.refresh)

    def refresh(self, moment: Moment, on_chunk: Callable[[int], None] = lambda done: None) -> Bank:
        """Make the bank that ``moment`` wants; raises ``TrainingDiverged`` where a view of it is not finite."""
        part = self._part()
        assert moment.refresh is not None
        self.bank = self.maker.make(
            part.average.average,
            part.conditions.everyone(moment.refresh),
            self.clean,
            number=moment.refresh,
            step=moment.encoder_step,
            on_chunk=on_chunk,
        )
        return self.bank

    def run(self, moment: Moment) -> Scalars:
        """Make the step ``moment`` and return its scalars: losses, and what the views were."""
        block = moment.block
        if block is not self._block:
            self._block = block
            if self.state.generator:
                self.state.generator.conditions.hold(block.generator and not block.encoder)
        scalars: Scalars = {"stage": float(STAGES.index(block.stage))}
        indices = (self.batches if block.encoder else self.generator_batches).at(
            moment.encoder_step if block.encoder else moment.generator_step
        )
        encoded = self._train_encoder(indices, moment, scalars) if block.encoder else None
        if block.generator:
            scalars["generator_loss"] = self._train_generator(indices, moment, encoded)
        return scalars

    def _train_encoder(self, indices: NDArray[np.int64], moment: Moment, scalars: Scalars) -> Encoded | None:
        """One step of the encoder; y and z of the clean samples, if these were a view."""
        _seed(draw_key(self.seed, "encoder step", moment.encoder_step, ""), self.clean.device)
        views = self.views.draw(indices, moment, self.bank)
        terms, encoded = contrast_views(self.state.encoder, views, self.contrast)
        self.state.trained.update(terms["loss"], moment.encoder_step)
        scalars.update({name: value.detach() for name, value in terms.items()})
        scalars["alpha"], scalars["generated"] = moment.alpha, float(views.generated.mean())
        if self.bank is not None:
            scalars["bank_age"] = (moment.encoder_step - self.bank.step) / self.batches.per_epoch
            scalars["bank_spread"] = self.bank.spread
        return encoded if self.views.first == "clean" else None

    def _train_generator(self, indices: NDArray[np.int64], moment: Moment, encoded: Encoded | None) -> Tensor:
        part, step = self._part(), moment.generator_step
        condition = part.conditions.of(indices, step, encoded)
        _seed(draw_key(self.seed, "generator step", step, ""), self.clean.device)
        loss = self.denoising.loss(part.trained.network, self.clean[indices], condition, step)
        part.trained.update(self.settings.generator_weight * loss, step)
        part.average.update(part.trained.network)
        return loss.detach()

    def _part(self) -> GeneratorPart:
        assert self.state.generator is not None
        return self.state.generator


def _seed(seed: int, device: torch.device) -> None:
    """Seed what layers draw from (dropout, say)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
