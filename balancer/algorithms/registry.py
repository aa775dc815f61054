"""From `balance` in the configuration to an algorithm."""

from __future__ import annotations

from random import Random
from typing import Any

from balancer.algorithms.base import Algorithm
from balancer.algorithms.draw import Draw
from balancer.algorithms.first import First
from balancer.algorithms.leastconn import LeastConn
from balancer.algorithms.maglev import MaglevTable
from balancer.algorithms.roundrobin import RoundRobin
from balancer.algorithms.source import Source
from balancer.algorithms.table import map_based
from balancer.algorithms.uri import Uri

__all__ = ["create"]


def create(
    balance: str, *, hash_type: str, rng: Random, servers: int = 0, last: list[int] | memoryview | None = None
) -> Algorithm[Any]:
    """The algorithm called `balance`, without servers yet.

    `hash_type` is `map-based` or `consistent` and matters to source and uri; maglev is source with
    consistent. `servers` is how many the backend has in the configuration: it sizes Maglev's table.
    `last` is for roundrobin, one number in memory that processes share.
    ValueError for a name that the configuration's model does not know.
    """
    consistent = hash_type == "consistent"
    match balance:
        case "roundrobin":
            return RoundRobin(last)
        case "leastconn":
            return LeastConn()
        case "random":
            return Draw(rng)
        case "first":
            return First()
        case "source":
            return Source(MaglevTable(servers) if consistent else map_based)
        case "uri":
            return Uri(MaglevTable(servers) if consistent else map_based)
        case "maglev":
            return Source(MaglevTable(servers))
    raise ValueError(f"no algorithm is called {balance!r}")
