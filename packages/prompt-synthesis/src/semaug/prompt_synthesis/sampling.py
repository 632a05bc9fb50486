"""Sampling in a batch in which every text has its own random numbers, and stopping at the end of a line.

transformers' ``generate`` draws a whole batch from one global generator, so that a text depends on its neighbours.
Here each row takes number ``step`` of its own draw through the inverse of its distribution, and ``generate`` runs
greedily over what was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from semaug.artifacts.draws import uniform
from semaug.artifacts.errors import InvalidOption

if TYPE_CHECKING:
    from torch import Tensor


class SeededSampling:
    """A logits processor that leaves one token a row: drawn at ``temperature`` from the likeliest ``top_p``.

    ``keys`` are draw keys, one a row. A temperature of 0 takes the likeliest. One object serves one ``generate``
    without beams.
    """

    def __init__(self, keys: Sequence[int], temperature: float, top_p: float) -> None:
        check_sampling(temperature, top_p)
        self._keys, self._temperature, self._top_p = tuple(keys), temperature, top_p
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) of which all but the drawn one are minus infinity."""
        if self._temperature == 0:
            return scores
        numbers = scores.new_tensor([uniform(key, self._step) for key in self._keys], dtype=_float32())[:, None]
        self._step += 1
        chosen = _draw((scores.float() / self._temperature).softmax(-1), numbers, self._top_p)
        return scores.new_full(scores.shape, float("-inf")).scatter(-1, chosen, 0.0)


def _draw(probabilities: Tensor, numbers: Tensor, top_p: float) -> Tensor:
    """Tokens (rows, 1) int64 at ``numbers`` (rows, 1) of the distribution cut to its head of mass ``top_p``."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    head = ordered.masked_fill(before >= top_p, 0.0)
    reached = head.cumsum(-1)
    place = (reached <= numbers * reached[:, -1:]).sum(-1, keepdim=True)
    last = (head > 0).sum(-1, keepdim=True) - 1
    return order.gather(-1, place.minimum(last))


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise ``InvalidOption`` for a temperature below 0 or a ``top_p`` outside (0, 1]."""
    if not 0 <= temperature < float("inf"):
        raise InvalidOption(f"temperature is {temperature}; give 0 (the likeliest token) or more")
    if not 0 < top_p <= 1:
        raise InvalidOption(f"top_p is {top_p}; give more than 0 and at most 1")


class LineEnds:
    """A stopping criterion: a row is done with its first token that holds a line end."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Whether each row is done: bool, shape (rows,)."""
        last = self._tokenizer.batch_decode(input_ids[:, -1:])
        return input_ids.new_tensor(["\n" in text for text in last]).bool()


def _float32() -> Any:
    import torch

    return torch.float32
