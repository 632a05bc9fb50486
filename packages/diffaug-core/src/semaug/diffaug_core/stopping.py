"""Ends that are asked for by a signal, as ``semaug pretrain`` honours them, in a loop without Lightning."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager
from typing import Any

from semaug.ssl_methods.errors import RunStopped

STOPS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM ends the run; SIGUSR1 also puts its SLURM job back into the queue."""


class StopSignals(AbstractContextManager["StopSignals"]):
    """Within it the signals of ``STOPS`` are noted in ``received`` (0 for none) instead of ending the process."""

    def __init__(self) -> None:
        self.received = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._handlers = {number: signal.signal(number, self._receive) for number in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def stopped(self, step: int, steps: int) -> RunStopped:
        """What to raise once the checkpoint of ``step`` is written."""
        note = _requeue() if self.received == signal.SIGUSR1 else ""
        return RunStopped(
            f"{signal.Signals(self.received).name} stopped the run at step {step} of {steps}, and a checkpoint was "
            f"written{note}; the same command goes on from there"
        )

    def _receive(self, number: int, frame: Any) -> None:
        self.received = max(self.received, number)


def _requeue() -> str:
    from semaug.ssl_methods.stopping import requeue  # brings Lightning

    return requeue()
