"""The worker's coarse clock, and timeouts without a timer per connection.

A timer per connection, moved with every octet, would cost more than relaying the octet. Instead each
connection notes a deadline, and a sweep some times a second looks at all of them.
"""

from __future__ import annotations

import math
import time
from typing import Final, Protocol

from balancer.pool.server import Server

__all__ = ["INTERVAL", "NEVER", "Clock", "Sweeper", "Timed"]

# Ten looks a second: a timeout is early or late by a tenth at most, and 20 000 connections cost 2 % of a core.
INTERVAL: Final = 0.1
NEVER: Final = math.inf


class Clock:
    """Time as of the last sweep, for deadlines; precise time is `time.monotonic()`."""

    __slots__ = ("now", "second", "wall")

    def __init__(self) -> None:
        self.tick()

    def tick(self) -> None:
        self.now = time.monotonic()
        self.wall = time.time()
        self.second = int(self.wall)


class Timed(Protocol):
    """What the sweep looks at."""

    deadline: float

    @property
    def server(self) -> Server | None:
        """Who it is served by at the moment."""

    def expire(self, now: float) -> None:
        """The deadline has passed. Set another one or leave the sweeper."""

    def report(self) -> None:
        """Count what has passed since the last report."""

    def finish_up(self) -> None:
        """The worker is stopping: go if nothing is in flight."""

    def kill(self, termination: str) -> None:
        """End at once; `termination` is the first character of the log's code."""


class Sweeper:
    """All connections with a deadline."""

    __slots__ = ("clock", "members")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.members: set[Timed] = set()

    def sweep(self) -> None:
        """Advance the clock and expire what is due."""
        self.clock.tick()
        now = self.clock.now
        for member in [member for member in self.members if member.deadline <= now]:
            if member.deadline <= now:
                # One that has gone meanwhile may have left its place to this one, which has its time before it.
                member.expire(now)
