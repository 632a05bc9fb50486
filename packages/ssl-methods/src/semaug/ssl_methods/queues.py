"""A first-in-first-out queue of keys from earlier batches (He et al. 2020, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption


class KeyQueue(nn.Module):
    """The last ``size`` keys, (size, dim), as persistent buffers: both the keys and their count are checkpointed.

    It starts with random unit vectors, as MoCo's does, drawn from (seed, part). Keys are to be gathered from all ranks
    (``gather_keys``) before ``enqueue``, so that every rank holds the same queue, and enqueued after the logits, so
    that no query meets its own key as a negative.

    >>> queue = KeyQueue(4, 2)
    >>> queue.enqueue(torch.ones(3, 2))
    >>> int(queue.count), queue.full
    (3, False)
    """

    keys: Tensor
    count: Tensor

    def __init__(self, size: int, dim: int, seed: int = 0, part: str = "queue") -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise InvalidOption(f"a queue of {size} keys of width {dim} holds nothing; both must be at least 1")
        generator = torch.Generator().manual_seed(draw_key(seed, part, 0, "") & (2**63 - 1))
        start = functional.normalize(torch.randn(size, dim, generator=generator), dim=1)
        self.register_buffer("keys", start)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self._held: list[Tensor] | None = None

    @property
    def size(self) -> int:
        """How many keys it holds."""
        return len(self.keys)

    @property
    def full(self) -> bool:
        """Whether all random vectors of the start are gone. Reads the count off the device."""
        return int(self.count) >= self.size

    def snapshot(self) -> Tensor:
        """A copy of the keys (size, dim): ``enqueue`` may follow while autograd still needs it."""
        return self.keys.clone()

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put ``keys`` (n, dim) of all ranks in the place of the oldest n. Raises ``InvalidOption`` for n > size."""
        if len(keys) > self.size:
            raise InvalidOption(
                f"a batch of {len(keys)} keys is larger than the queue of {self.size}; "
                "lower the batch size or lengthen the queue"
            )
        if self._held is not None:
            self._held.append(keys)
            return
        places = (self.count + torch.arange(len(keys), device=self.keys.device)) % self.size
        self.keys.index_copy_(0, places, keys.detach().to(self.keys.dtype))
        self.count += len(keys)

    def require_width(self, width: int | None) -> None:
        """Raise ``InvalidOption`` unless the keys are ``width`` wide."""
        if self.keys.shape[1] != width:
            raise InvalidOption(
                f"a queue of keys of width {self.keys.shape[1]} does not fit projections of width {width}; "
                f"build it with dim={width}"
            )

    def check(self, batch_size: int, items: int) -> None:
        """Raise ``InvalidOption`` for a global batch or a data set of ``items`` that the queue does not fit.

        In a queue of over half the data set an image's own keys come back as negatives (spec S5).
        """
        if batch_size > self.size:
            raise InvalidOption(
                f"a batch of {batch_size} is larger than the queue of {self.size} keys; "
                f"lower --batch-size or take a queue of {batch_size} times a whole number"
            )
        if self.size % batch_size:
            raise InvalidOption(
                f"a queue of {self.size} keys is not divisible by the batch of {batch_size}; "
                f"take a queue of {self.size // batch_size * batch_size}"
            )
        if 2 * self.size > items:
            most = items // 2 // batch_size * batch_size
            remedy = f"take a queue of at most {most}" if most else "give more images or lower --batch-size"
            raise InvalidOption(
                f"a queue of {self.size} keys is over half the data set of {items} items, so that an image's own keys "
                f"come back as negatives; {remedy}"
            )


@contextmanager
def holding(queues: Iterable[KeyQueue]) -> Iterator[None]:
    """Keys enter no queue within, so that several losses of one batch see the same keys and none of that batch.

    At the end each queue takes what it was given first: one key an image, as of one loss.
    """
    chosen = list(queues)
    for queue in chosen:
        queue._held = []
    try:
        yield
    finally:
        given = [queue._held or [] for queue in chosen]
        for queue in chosen:
            queue._held = None
    for queue, keys in zip(chosen, given, strict=True):
        if keys:
            queue.enqueue(keys[0])
