"""The least loaded, by connections per weight; equals in turn.

A heap with one live entry a server, validated as it is used. A server that was given a connection keeps
its entry, now too low, until that entry is on top: then it moves to where it belongs. Only a server
that finishes one gets a new entry, and the old one is dropped when it comes up. So most changes cost
no heap operation at all, and the rest O(log n).
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import ClassVar

from balancer.algorithms.base import Algorithm, C

__all__ = ["LeastConn"]

# The heap is cleared of dead entries when it has this many per server: rarely, and it stays small.
_ENTRIES = 4


class LeastConn(Algorithm[C]):
    """HAProxy's `balance leastconn`. Idle servers are equals whatever their weight, as there."""

    tracks_load: ClassVar[bool] = True

    def __init__(self) -> None:
        # Load when entered, turn (the higher, the later it was picked last; unique), server.
        self._heap: list[tuple[float, int, C]] = []
        self._live: dict[C, tuple[float, int, C]] = {}
        self._turn = 0

    def rebuild(self, servers: Sequence[C]) -> None:
        live = {}
        for server in servers:
            known = self._live.get(server)
            if known is None:
                self._turn += 1
            turn = self._turn if known is None else known[1]
            live[server] = (server.counters.scur / server.weight, turn, server)
        self._live = live
        self._heap = list(live.values())
        heapify(self._heap)

    def pick(self, key: bytes = b"", avoid: C | None = None) -> C | None:  # noqa: ARG002
        heap, live = self._heap, self._live
        held = None
        while heap:
            entry = heap[0]
            load, turn, server = entry
            if live[server] != entry:
                heappop(heap)
                continue
            now = server.counters.scur / server.weight
            if now > load:
                live[server] = entry = (now, turn, server)
                heapreplace(heap, entry)
                continue
            if server is avoid:
                held = heappop(heap)
                continue
            self._turn += 1
            live[server] = entry = (now, self._turn, server)
            heapreplace(heap, entry)
            if held is not None:
                heappush(heap, held)
            return server
        if held is not None:
            heappush(heap, held)
        return avoid if held is not None else None

    def instead(self, servers: Sequence[C]) -> list[C]:
        return sorted(servers, key=lambda server: server.counters.scur / server.weight)

    def changed(self, server: C) -> None:
        entry = self._live.get(server)
        if entry is None:
            return
        load = server.counters.scur / server.weight
        if load < entry[0]:
            self._live[server] = entry = (load, entry[1], server)
            heappush(self._heap, entry)
            if len(self._heap) > _ENTRIES * len(self._live):
                self._heap = list(self._live.values())
                heapify(self._heap)
