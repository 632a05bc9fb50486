"""A process of several that is gone: said in one line by those that are left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from semaug.ssl_methods.errors import PeerLost

_SAYS = re.compile(
    r"gloo|NCCL|TCPStore|timed? ?out|connection (closed|reset|refused)|socket closed|broken pipe|no route|unreachable",
    re.IGNORECASE,
)
"""Words of the errors that torch's collectives raise when nobody answers; gloo's have no type of their own."""


@contextmanager
def noticing_lost_peers(rank: int, world: int) -> Iterator[None]:
    """Raise ``PeerLost`` in place of what a collective raises when another of ``world`` processes is gone."""
    try:
        yield
    except RuntimeError as error:
        if world == 1 or isinstance(error, PeerLost) or not _is_of_a_collective(error):
            raise
        raise PeerLost(
            f"process {rank} of {world} lost another one or its network ({_first_line(error)}); the last checkpoint is "
            "kept: start all processes again with the same command"
        ) from error


def _is_of_a_collective(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or _SAYS.search(str(error)) is not None


def _first_line(error: RuntimeError) -> str:
    """What happened, without the place in torch's sources and the advice that follow it."""
    said = str(error).strip().splitlines()
    line = re.sub(r"^\[[^\]]*\]\s*", "", said[0]) if said else type(error).__name__
    return line.rstrip(". ")[:160]
