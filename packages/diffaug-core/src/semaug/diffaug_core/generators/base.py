"""What every generator has: the shape of its samples, what its layers put out, and how it is rebuilt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.diffusion import NoiseSchedule

Prediction = Literal["velocity", "noise", "clean"]

PREDICTIONS: dict[Prediction, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "velocity": lambda out, noisy, signal, spread: spread * noisy + signal * out,
    "noise": lambda out, noisy, signal, spread: out,
    "clean": lambda out, noisy, signal, spread: (noisy - signal * out) / spread,
}
"""The noise in ``noisy``, by what the layers put ``out``; signal and spread are the schedule's at its time step."""


class Generator(nn.Module):
    """A denoiser g(x_t, t, condition) with weights, for one schedule.

    Whatever its layers put out, it gives the noise that Eq. 5 asks for. They put out that noise with ``prediction``
    ``noise``, x_0 with ``clean``, and with ``velocity`` (Salimans and Ho 2022) the one mixture of both that leaves
    noise and data as large at every time step. An MLP whose narrowest layer is narrower than its rows cannot carry
    their noise (on 765 genes the paper's 80 lost nine tenths of it), hence the default. ``options`` and the rest
    rebuild it by ``build_generator``.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        shape: Sequence[int],
        condition_features: int | None,
        schedule: NoiseSchedule,
        prediction: Prediction,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        if condition_features is not None and condition_features < 1:
            raise InvalidOption(f"a condition of {condition_features} features is none; leave it away")
        if prediction not in PREDICTIONS:
            raise InvalidOption(f"prediction {prediction!r} is not known; choose one of {', '.join(PREDICTIONS)}")
        self.shape = tuple(int(n) for n in shape)
        self.condition_features = condition_features
        self.schedule = schedule
        self.prediction: Prediction = prediction
        self.options = {"prediction": prediction, **options}

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The noise in ``noisy`` (B, *shape), float32, of its shape.

        ``t``: int64 (B,), from 0 to T - 1; ``condition``: (B, condition_features), or None, which adds nothing. Raises
        ``InvalidOption`` for samples or a condition of another shape.
        """
        self._require_fit(noisy, condition)
        out = self.put_out(noisy, t, condition)
        signal, spread = self.schedule.signal(t, noisy), self.schedule.spread(t, noisy)
        return PREDICTIONS[self.prediction](out, noisy, signal, spread)

    def put_out(self, noisy: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """What ``prediction`` names, of the shape of ``noisy``; arguments as ``forward`` takes them."""
        raise NotImplementedError

    def _require_fit(self, noisy: Tensor, condition: Tensor | None) -> None:
        if tuple(noisy.shape[1:]) != self.shape:
            raise InvalidOption(
                f"samples are {tuple(noisy.shape[1:])}, the generator was built for {self.shape}; build one for them"
            )
        if condition is None:
            return
        wanted = (len(noisy), self.condition_features)
        if tuple(condition.shape) != wanted:
            raise InvalidOption(
                f"the condition is {tuple(condition.shape)}, the generator takes {wanted}; give one vector a sample"
            )


def time_features(t: Tensor, width: int) -> Tensor:
    """Cosines and sines of ``t`` (B,) at ``width`` / 2 frequencies from 1 down to 1e-4: float32 (B, width).

    The embedding of DDPM (Ho et al. 2020), after Vaswani et al. 2017.

    >>> time_features(torch.tensor([0]), 4)
    tensor([[1., 1., 0., 0.]])
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(1e4) / max(half - 1, 1)))
    angles = t[:, None].to(torch.float32) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
