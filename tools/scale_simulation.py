"""A discrete-event simulation of shards dealt to actors that share one store.

An actor takes the next shard, asks the store for it (requests), reads it (bytes), computes, asks and writes; then it
takes another. Requests and bytes are shared equally among all who wait for them, each up to its own limit. What fails
is done again from its start, by an actor that loads its models anew; a shard that fails too often ends the run. This is
what ``semaug.artifacts.shards`` does on its engines; nothing here touches a disk.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shard:
    """What one shard takes: requests and bytes read, seconds of an actor, requests and bytes written."""

    compute: float
    read_requests: float = 0.0
    read_bytes: float = 0.0
    write_requests: float = 0.0
    write_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Store:
    """Limits of the shared store, and of one actor at it: bytes and requests a second."""

    bandwidth: float = math.inf
    requests: float = math.inf
    actor_bandwidth: float = math.inf
    actor_requests: float = math.inf


@dataclass(frozen=True, slots=True)
class Actors:
    """``count`` actors that load their models in ``load`` seconds; a share ``slow`` of them is ``slowness`` times as
    slow, and each dies on average after ``lifetime`` seconds of work on shards. ``attempts`` is the most a shard has.
    """

    count: int
    load: float = 0.0
    slow: float = 0.0
    slowness: float = 1.0
    lifetime: float = math.inf
    attempts: int = 3


@dataclass(slots=True)
class Outcome:
    """What a run came to: seconds in all, and the sums of what was done.

    ``compute`` are seconds of shards that were finished, ``wasted`` those of attempts that failed and of loading
    again. ``read_bytes``, ``written_bytes`` and ``requests`` are what the store served, failed attempts among it.
    """

    seconds: float = 0.0
    compute: float = 0.0
    wasted: float = 0.0
    requests: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    failures: int = 0
    done: list[int] = field(default_factory=list)
    given_up: int | None = None


class Shared:
    """A rate that all who wait share equally, each up to a limit of its own (processor sharing).

    Everyone gets the same share, so one number says how much each has had since the start, and whoever came at ``a``
    and wants ``w`` is served when it reaches ``a + w``.
    """

    def __init__(self, total: float, each: float) -> None:
        self.total, self.each = total, each
        self.served, self.now = 0.0, 0.0
        self.waiting: list[tuple[float, int, int]] = []
        self._order = itertools.count()

    @property
    def share(self) -> float:
        """What each of those who wait gets a second."""
        return min(self.each, self.total / max(1, len(self.waiting)))

    def advance(self, now: float) -> None:
        """Serve until ``now``."""
        if self.waiting and now > self.now:
            self.served += self.share * (now - self.now)
        self.now = now

    def add(self, now: float, wanted: float, actor: int) -> None:
        """Let an actor wait for ``wanted`` from ``now`` on."""
        self.advance(now)
        heapq.heappush(self.waiting, (self.served + wanted, next(self._order), actor))

    def next_time(self) -> float:
        """When the next one is served, if nobody else comes."""
        if not self.waiting:
            return math.inf
        return self.now + max(0.0, self.waiting[0][0] - self.served) / self.share

    def pop(self, now: float) -> int:
        """The actor that is served ``now``."""
        self.advance(now)
        served, _, actor = heapq.heappop(self.waiting)
        self.served = max(self.served, served)
        return actor


@dataclass(slots=True)
class _Actor:
    slowness: float
    shard: int = -1
    began: float = 0.0
    steps: deque[tuple[str, float]] = field(default_factory=deque)


class Simulation:
    """One run; ``run`` gives its outcome. Draws depend on ``seed`` alone."""

    def __init__(self, shards: Sequence[Shard], actors: Actors, store: Store = Store(), seed: int = 0) -> None:
        if actors.count < 1 or not shards:
            raise ValueError(f"{len(shards)} shards for {actors.count} actors; give at least 1 of each")
        self.shards, self.settings = shards, actors
        self.draws = random.Random(seed)
        slow = round(actors.slow * actors.count)
        self.actors = [_Actor(actors.slowness if n < slow else 1.0) for n in range(actors.count)]
        self.queue = deque(range(len(shards)))
        self.tries = [0] * len(shards)
        self.rates = {
            "requests": Shared(store.requests, store.actor_requests),
            "bytes": Shared(store.bandwidth, store.actor_bandwidth),
        }
        self.alone: list[tuple[float, int, int]] = []  # those who compute or load: when they are through
        self._order = itertools.count()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Simulate until every shard is done, or one is given up."""
        for number in range(min(len(self.actors), len(self.shards))):
            self._wait(0.0, self.settings.load, number)
        while self.outcome.given_up is None:
            name, now = min(((n, r.next_time()) for n, r in self.rates.items()), key=lambda found: found[1])
            if self.alone and self.alone[0][0] <= now:
                now, _, actor = heapq.heappop(self.alone)
            elif now < math.inf:
                actor = self.rates[name].pop(now)
            else:
                break
            self._go_on(now, actor)
        return self.outcome

    def _wait(self, now: float, seconds: float, actor: int) -> None:
        heapq.heappush(self.alone, (now + seconds, next(self._order), actor))

    def _go_on(self, now: float, number: int) -> None:
        """The next step of an actor that has come to the end of one."""
        actor = self.actors[number]
        while not actor.steps:
            if actor.shard >= 0:
                self._finish(now, actor)
            if not self.queue or self.outcome.given_up is not None:
                return
            self._take(now, actor)
        kind, amount = actor.steps.popleft()
        if kind == "die":
            self._die(now, number)
        elif kind == "compute":
            self._wait(now, amount, number)
        else:
            self.rates[kind].add(now, amount, number)

    def _take(self, now: float, actor: _Actor) -> None:
        actor.shard, actor.began = self.queue.popleft(), now
        shard = self.shards[actor.shard]
        work = shard.compute * actor.slowness
        self.tries[actor.shard] += 1
        self.outcome.requests += shard.read_requests
        self.outcome.read_bytes += shard.read_bytes
        actor.steps.extend((("requests", shard.read_requests), ("bytes", shard.read_bytes)))
        life = self.draws.expovariate(1 / self.settings.lifetime) if self.settings.lifetime < math.inf else math.inf
        if life < work:  # an actor dies while it computes
            actor.steps.extend((("compute", life), ("die", 0.0)))
            return
        actor.steps.append(("compute", work))
        actor.steps.extend((("requests", shard.write_requests), ("bytes", shard.write_bytes)))

    def _finish(self, now: float, actor: _Actor) -> None:
        shard, outcome = self.shards[actor.shard], self.outcome
        outcome.compute += shard.compute * actor.slowness
        outcome.requests += shard.write_requests
        outcome.written_bytes += shard.write_bytes
        outcome.done.append(actor.shard)
        outcome.seconds = max(outcome.seconds, now)
        actor.shard = -1

    def _die(self, now: float, number: int) -> None:
        """Put the shard back, to the front; the actor that stands in loads its models."""
        actor, outcome = self.actors[number], self.outcome
        outcome.failures += 1
        outcome.wasted += now - actor.began + self.settings.load
        if self.tries[actor.shard] >= self.settings.attempts:
            outcome.given_up, outcome.seconds = actor.shard, now
            return
        self.queue.appendleft(actor.shard)
        actor.shard = -1
        self._wait(now, self.settings.load, number)


def simulate(shards: Sequence[Shard], actors: Actors, store: Store = Store(), seed: int = 0) -> Outcome:
    """Simulate one run.

    >>> simulate([Shard(2.0)] * 6, Actors(2, load=1.0)).seconds
    7.0
    >>> simulate([Shard(0.0, read_bytes=10.0)] * 6, Actors(3), Store(bandwidth=20.0)).seconds
    3.0
    """
    return Simulation(shards, actors, store, seed).run()
