"""Which of a name's records is which server's. Pure.

A server keeps its record for as long as that is there, whatever the order of the answer; a new record takes a place
that is free, the one that it had last if it may. Nothing else moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from balancer.names.answer import Service

__all__ = ["Place", "assign", "ranked", "weights"]

_MOST_WEIGHT = 256


class Place(NamedTuple):
    """Where a server may be. Two of the same `mark` are the same record."""

    mark: tuple[str, int]
    """A host (an address, or a target of SRV records) and a port."""
    host: str
    """Its address."""
    port: int
    priority: int = 0
    weight: int | None = None
    """None: as configured."""


def assign(
    servers: Sequence[Place | None],
    found: Sequence[Place],
    before: Sequence[Place | None] = (),
    *,
    allows_duplicates: bool = False,
) -> list[Place | None]:
    """Where each of the servers of one name is to be. `servers`: where they are; `before`: where they were before they
    lost their places. `found`: what the name has now."""
    left = {each.mark: each for each in found}
    by_end = {(each.host, each.port): each.mark for each in reversed(found)}
    chosen: list[Place | None] = [None] * len(servers)
    for candidates in (servers, before):
        for i, old in enumerate(candidates):
            if old is None or chosen[i] is not None:
                continue
            mark = old.mark if old.mark in left else by_end.get((old.host, old.port))
            if mark is not None and mark in left:
                chosen[i] = left.pop(mark)
    free = iter(list(left.values()))
    for i, place in enumerate(chosen):
        if place is None:
            chosen[i] = next(free, None)
    if allows_duplicates and found:
        chosen = [place or found[i % len(found)] for i, place in enumerate(chosen)]
    return chosen


def ranked(services: Sequence[Service]) -> list[Service]:
    """Those first that are to be used first; of one host and port only the first."""
    found: dict[tuple[str, int], Service] = {}
    # Stable: the order of an answer means nothing, but nobody is to move for nothing.
    for each in sorted(services, key=lambda each: each.priority):
        found.setdefault((each.target.lower(), each.port), each)
    return list(found.values())


def weights(services: Sequence[Service]) -> dict[Service, int]:
    """As shares of ours: as they are where they fit, else in proportion, and none of them 0: such a one is still to be
    used, if rarely (RFC 2782)."""
    largest = max((each.weight for each in services), default=0)
    scale = _MOST_WEIGHT / largest if largest > _MOST_WEIGHT else 1.0
    return {each: max(1, round(each.weight * scale)) for each in services}
