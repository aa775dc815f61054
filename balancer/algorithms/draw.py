"""Two drawn at random, the less loaded of them taken: the power of two choices.

Needs no state shared between workers and still avoids the herd behaviour of leastconn, where many
balancers send to the same idle server at once (M. Mitzenmacher, The Power of Two Choices in
Randomized Load Balancing, 2001).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from balancer.algorithms.base import Algorithm, C

__all__ = ["Draw"]


class Draw(Algorithm[C]):
    """HAProxy's `balance random(2)`: two different servers are drawn by weight, then load per weight decides."""

    def __init__(self, rng: Random) -> None:
        self._random = rng.random
        self._servers: tuple[C, ...] = ()
        self._bounds: tuple[int, ...] = ()
        """Server i owns the weights from bounds[i] - weight up to bounds[i]."""
        self._total = 0

    def rebuild(self, servers: Sequence[C]) -> None:
        self._servers = tuple(servers)
        self._bounds = tuple(accumulate(server.weight for server in servers))
        self._total = self._bounds[-1] if servers else 0

    def pick(self, key: bytes = b"", avoid: C | None = None) -> C | None:  # noqa: ARG002
        servers, bounds, total = self._servers, self._bounds, self._total
        if len(servers) < 2:
            return servers[0] if servers else None
        i = bisect(bounds, int(self._random() * total))
        one = servers[i]
        # The second draw is from all weights but the first server's.
        mark = int(self._random() * (total - one.weight))
        if mark >= bounds[i] - one.weight:
            mark += one.weight
        two = servers[bisect(bounds, mark)]
        if one is avoid:
            return two
        if two is avoid or one.counters.scur * two.weight <= two.counters.scur * one.weight:
            return one
        return two

    def instead(self, servers: Sequence[C]) -> list[C]:
        return sorted(servers, key=lambda server: server.counters.scur / server.weight)
