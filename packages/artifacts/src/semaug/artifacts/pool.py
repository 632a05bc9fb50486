"""A local pool of spawned workers that report events and never outlive their parent."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from semaug.artifacts.errors import WorkerDied
from semaug.artifacts.network import keep_offline

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[Any], None]
Work = Callable[[Item, Report], Result]
"""Called with an item and a function that sends an event to the parent. Pickled once a worker, so that what it
loads at its first call stays loaded."""


def spawn_map(
    work: Work[Item, Result], items: Sequence[Item], *, workers: int, on_event: Report, what: str
) -> Iterator[tuple[Item, Future[Result]]]:
    """Run ``work`` on every item in ``workers`` spawned processes; yields each item with its finished future.

    Events arrive in a thread of this process; each must pickle to a few hundred bytes. ``what`` names the job in the
    error of a lost worker (``WorkerDied``, raised when a worker process vanishes). Closing the iterator drops what has
    not started. What ``on_event`` raises is raised here at the end.
    """
    context = multiprocessing.get_context("spawn")
    # A pipe and no queue: a queue's lock dies with a worker that is killed while it holds it, and then everybody
    # waits. Small writes to a pipe are atomic without one.
    receiver, sender = context.Pipe(duplex=False)
    drain = _Drain(receiver, on_event)
    drain.start()
    with _shared_threads(workers):
        pool = ProcessPoolExecutor(workers, context, _start_worker, (work, sender))
        try:
            futures = {pool.submit(_call, item): item for item in items}
            for future in as_completed(futures):
                if isinstance(future.exception(), BrokenProcessPool):
                    raise WorkerDied(
                        f"a worker of {what} died (killed, or out of memory); rerun with fewer --workers, it resumes"
                    )
                yield futures[future], future
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            sender.send(None)
            drain.join()
            sender.close()
            receiver.close()
    if drain.error is not None:
        raise drain.error


def worker_number() -> int | None:
    """Which of its parent's spawned workers this process is, counted from 0; None for the parent itself."""
    found = re.search(r"-(\d+)$", multiprocessing.current_process().name)
    if found is None or multiprocessing.parent_process() is None:
        return None
    return int(found[1]) - 1


class _Drain(threading.Thread):
    """Hands events on until None comes; goes on emptying the pipe after an error, so that no worker blocks."""

    def __init__(self, receiver: Any, on_event: Report) -> None:
        super().__init__(daemon=True)
        self._receiver, self._on_event = receiver, on_event
        self.error: BaseException | None = None

    def run(self) -> None:
        while (event := self._receiver.recv()) is not None:
            if self.error is None:
                try:
                    self._on_event(event)
                except BaseException as error:
                    self.error = error


@contextmanager
def _shared_threads(workers: int) -> Iterator[None]:
    """Share the cores: native libraries read these variables when a worker imports them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    share = str(max(1, (os.cpu_count() or 1) // workers))
    added = {n: share for n in names if n not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


_WORK: Any = None
_SENDER: Any = None


def _start_worker(work: Any, sender: Any) -> None:
    global _WORK, _SENDER
    _WORK, _SENDER = work, sender
    keep_offline()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: Any) -> None:
    """A worker whose parent was killed must not go on writing beside the rerun."""
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    return _WORK(item, _SENDER.send)
