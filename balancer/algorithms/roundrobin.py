"""Each in turn, as often as its weight says, evenly spread.

Servers of one weight form a ring that is walked in configuration order, and the rings take turns: one
of `m` servers of weight `w` is due `m * w` times per unit of virtual time, at (k + 1/2) / (m * w). That
is Webster's method of apportionment: at any moment each ring has had its share, rounded. So with equal
weights the order is exactly 1, 2, 3, 1, 2, 3, and with weights 5, 1, 1 it is a b a a a c a. A pick is one
heap operation over the distinct weights, however many servers there are.

With equal weights, as they mostly are, there is one ring, and all a pick needs to know is whose turn was last. That
may stand in memory that processes share: their turns are one sequence then, however requests fall to them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heapreplace
from itertools import cycle, islice

from balancer.algorithms.base import Algorithm, C

__all__ = ["RoundRobin"]


class RoundRobin(Algorithm[C]):
    """HAProxy's `balance roundrobin`. `last` holds one number, 0 to begin with: 1 + the index of the server whose turn
    was last. Processes that share it may write it at the same moment: then a turn is taken twice, and no harm done."""

    def __init__(self, last: list[int] | memoryview | None = None) -> None:
        # A heap of rings: when due, rank (the first server's place in the configuration, which decides
        # between rings due at once and is unique), the time between two turns, the servers without end.
        # Floats will do: after 10**12 picks their error is still far below the time between two turns.
        self._due: list[tuple[float, int, float, Iterator[C]]] = []
        self._rings: dict[int, list[C]] = {}
        self._ranks: dict[int, int] = {}
        self._one = True
        self._last = [0] if last is None else last
        # Where there is one ring: who follows whom, by `last`.
        self._next: dict[int, C] = {}

    def rebuild(self, servers: Sequence[C]) -> None:
        """Servers that stay keep their turns. One that returns waits for its own: it gets no more
        than its share. A ring goes on from the server whose turn it was."""
        waits, following, personal = self._positions()
        rings: dict[int, list[C]] = {}
        self._ranks = {}
        for rank, server in enumerate(servers):
            if server.weight not in rings:
                rings[server.weight] = []
                self._ranks[server.weight] = rank
            rings[server.weight].append(server)
        self._due = []
        for weight, ring in rings.items():
            step = 1 / (len(ring) * weight)
            places = {server: place for place, server in enumerate(ring)}
            if weight in waits:
                wait = waits[weight]
                start = next((places[server] for server in following[weight] if server in places), 0)
            else:
                # A new weight for old servers is no reason to let them wait longer or go first.
                wait, start = min(
                    ((personal[s] * len(ring), places[s]) for s in ring if s in personal), default=(0.5, 0)
                )
            turns = cycle(ring[start:] + ring[:start])
            self._due.append((min(wait, 1.0) * step, self._ranks[weight], step, turns))
        heapify(self._due)
        self._rings = rings
        self._one = len(servers) < 2
        had_one_ring = bool(self._next)
        self._next = {}
        if len(rings) == 1:
            after = [*servers[1:], servers[0]]
            self._next = {one.index + 1: other for one, other in zip(servers, after, strict=True)}
            if waits and not had_one_ring:
                self._last[0] = servers[start - 1].index + 1

    def _positions(self) -> tuple[dict[int, float], dict[int, list[C]], dict[C, float]]:
        """By weight: the ring's wait for its turn (1: a whole step) and its servers from the next one on;
        by server: its own wait (1: from one turn of its own to the next). Consumes the rings."""
        waits: dict[int, float] = {}
        following: dict[int, list[C]] = {}
        personal: dict[C, float] = {}
        by_rank = {rank: (due, step, turns) for due, rank, step, turns in self._due}
        now = self._due[0][0] if self._due else 0.0
        for weight, ring in self._rings.items():
            due, step, turns = by_rank[self._ranks[weight]]
            waits[weight] = wait = (due - now) / step
            start = ring.index(self._following(self._last[0]) if self._next else next(turns))
            following[weight] = order = ring[start:] + ring[:start]
            for place, server in enumerate(order):
                personal[server] = (wait + place) / len(ring)
        return waits, following, personal

    def pick(self, key: bytes = b"", avoid: C | None = None) -> C | None:  # noqa: ARG002
        if self._next:
            last = self._last
            server = self._next.get(last[0]) or self._following(last[0])
            if server is avoid:
                server = self._next[server.index + 1]
            last[0] = server.index + 1
            return server
        heap = self._due
        if not heap:
            return None
        while True:
            due, rank, step, turns = heap[0]
            heapreplace(heap, (due + step, rank, step, turns))
            server = next(turns)
            if server is not avoid or self._one:
                return server

    def instead(self, servers: Sequence[C]) -> Iterator[C]:
        """Those behind it; whoever is taken has had his turn."""
        if not self._next:
            # By weight: twice around finds all but the lightest, who come at the end.
            yield from islice(iter(self.pick, None), 2 * len(servers))
            yield from servers
            return
        server = self._following(self._last[0])
        for _ in servers:
            self._last[0] = server.index + 1
            yield server
            server = self._next[server.index + 1]

    def _following(self, last: int) -> C:
        """The one after the server that `last` tells of, which may be gone."""
        (ring,) = self._rings.values()
        return ring[bisect_right(ring, last - 1, key=lambda server: server.index) % len(ring)]
