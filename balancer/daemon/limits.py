"""All limits that workers share, as the supervisor keeps them: over the deaths of workers, and over reloads.

A limit goes on under its name when another configuration takes over: what workers of before still hold counts. Every
worker process has a slot of its own in all of them for as long as it lives.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Literal, NamedTuple

from balancer.config import effective
from balancer.config.model import Config
from balancer.pool import shared
from balancer.pool.facts import Entity
from balancer.pool.places import Limit

__all__ = ["PROCESS", "Book", "Entry", "old_workers_for", "slots_for", "unbounded", "wanted"]

# A worker of before a reload that has connections left takes 10 MB. Where there are many workers, so many generations.
_MOST_OLD_WORKERS, _LEAST_ELDERS = 64, 8
# Generations besides: the one that takes new ones, the one that comes, and one that is being ended.
_OTHER_GENERATIONS = 3
# Limits set right in one go: 50 us each at most, and virtual routers wait meanwhile.
_PORTION = 64
# What workers may have of a limit beside what they use.
_SLACK = 4096

PROCESS = Entity("process", "")


class Entry(NamedTuple):
    """What a limit is of."""

    what: Literal["places", "seats", "line"]
    """How many are served at a time; how many may wait in a server's line; who waits for any of its servers (of the
    process: for a place at all)."""
    entity: Entity


def unbounded(maxconn: int) -> int:
    """Of a limit that is none until somebody sets it: what the whole daemon, of that `maxconn`, never comes near."""
    return maxconn + _SLACK


def wanted(config: Config, maxconn: int) -> dict[Entry, int]:
    """The limits that a configuration asks for; `maxconn` is of the whole daemon."""
    limits = {Entry("line", PROCESS): 0, Entry("places", PROCESS): maxconn}
    for name, frontend in config.frontends.items():
        own = effective.frontend(config, name).maxconn
        if frontend.engine != "kernel" and frontend.mode != "udp":
            limits[Entry("places", Entity("frontend", name))] = own if own is not None else unbounded(maxconn)
    for name, backend in config.backends.items():
        if not backend.is_limited:
            continue
        limits[Entry("line", Entity("backend", name))] = 0
        for server_name, server in backend.servers.items():
            entity = Entity("server", name, server_name)
            if server.maxconn is not None:
                limits[Entry("places", entity)] = server.maxconn
                if server.maxqueue is not None:
                    limits[Entry("seats", entity)] = server.maxqueue
    return limits


def old_workers_for(workers: int) -> int:
    """How many processes of before reloads are kept for the connections that they have left, where a generation has so
    many workers."""
    return max(_MOST_OLD_WORKERS, _LEAST_ELDERS * workers)


def slots_for(workers: int) -> int:
    """How many worker processes there may be at a time, those of before reloads too."""
    return old_workers_for(workers) + _OTHER_GENERATIONS * workers


class Book:
    """The limits of all generations."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        """Worker processes at a time."""
        self._limits: dict[Entry, Limit] = {}
        self._users: dict[Entry, int] = {}
        self._taken: set[int] = set()
        self._unsettled: dict[Entry, None] = {}
        self._totals: dict[Entry, int] = {}
        self.bell: int | None = None
        """To be rung by whoever has changed totals (Limit.total), where the supervisor listens."""

    def look(self) -> None:
        """See to what others have set, if they rang."""
        try:
            if self.bell is not None:
                os.eventfd_read(self.bell)
        except BlockingIOError:
            return
        for entry, limit in self._limits.items():
            if limit.has_places and limit.total != self._totals.get(entry):
                self._totals[entry] = limit.total
                self._unsettled[entry] = None

    def open(self, wanted: Mapping[Entry, int]) -> dict[Entry, Limit]:
        """Those limits, for one generation more. What is there already stays as it is until `set`. OSError where there
        can be no more descriptors: then nothing is there that was not before."""
        fresh = [entry for entry in wanted if entry not in self._limits]
        size = Limit.size(self.slots)
        memory = memoryview(shared.allocate(max(1, size * len(fresh))))
        made: dict[Entry, Limit] = {}
        try:
            for i, entry in enumerate(fresh):
                piece = memory[i * size : (i + 1) * size]
                made[entry] = Limit(piece, wanted[entry], is_semaphore=entry.what != "line")
        except OSError:
            for limit in made.values():
                limit.close()
            raise
        self._limits |= made
        self._totals |= {entry: limit.total for entry, limit in made.items()}
        for entry in wanted:
            self._users[entry] = self._users.get(entry, 0) + 1
        return {entry: self._limits[entry] for entry in wanted}

    def drop(self, entries: Iterable[Entry]) -> None:
        """A generation has no use for them any more."""
        for entry in entries:
            self._users[entry] -= 1
            if not self._users[entry]:
                del self._users[entry]
                self._unsettled.pop(entry, None)
                self._totals.pop(entry, None)
                self._limits.pop(entry).close()

    def set(self, wanted: Mapping[Entry, int]) -> None:
        """From now on they are so."""
        for entry, total in wanted.items():
            limit = self._limits[entry]
            if limit.has_places and limit.total != total:
                limit.total = self._totals[entry] = total
                self._unsettled[entry] = None

    def enter(self) -> int:
        """A slot for a worker. OSError where none is free."""
        slot = next((slot for slot in range(self.slots) if slot not in self._taken), None)
        if slot is None:
            raise OSError(
                errno.EUSERS, f"{self.slots} workers have a part in the limits, a restart makes room for more"
            )
        self._taken.add(slot)
        return slot

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return self.slots - len(self._taken)

    def leave(self, slot: int) -> None:
        """Whoever had it is dead; what he held is given back by `settle`."""
        self._taken.discard(slot)
        for entry, limit in self._limits.items():
            if limit.forget(slot):
                self._unsettled[entry] = None

    @property
    def is_settled(self) -> bool:
        """There is nothing to be set right."""
        return not self._unsettled

    def settle(self) -> None:
        """Set some of it right."""
        for entry in list(islice(self._unsettled, _PORTION)):
            del self._unsettled[entry]
            if not self._limits[entry].settle():
                # Behind the others.
                self._unsettled[entry] = None
