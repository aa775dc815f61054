"""Who serves which slot: the table from which the kernel picks a server, by turns, at random or by a hash.

What a table says is decided here alone, by the same algorithms as in the proxy, and only by names, weights and
loads: two directors that see the same servers make the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from itertools import islice
from math import gcd
from operator import attrgetter

from balancer.algorithms.maglev import MaglevTable
from balancer.algorithms.roundrobin import RoundRobin
from balancer.algorithms.table import map_based
from balancer.config.model import Balance

__all__ = ["LONGEST_ROUND", "MAGLEV_SIZES", "Choice", "is_hashed", "slots"]

# (servers, slots): smaller than the proxy's, for every slot is an element that the kernel allocates. 1 000 services of
# 10 servers are 199 000 of them, which take 1 s to put in place. Primes; some 20 slots a server while they can be had,
# so that a server's share is exact to 5 %.
MAGLEV_SIZES = ((10, 199), (40, 797), (160, 3191), (2**31, 16381))
# Slots of a weighted round. Weights up to 256 that have no common divisor would make it 256 slots a server.
LONGEST_ROUND = 1024
# What leastconn plans ahead, at least: the new connections of the second until it is planned anew.
_AHEAD = 64


@dataclass(slots=True, eq=False)
class _NoLoad:
    scur: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A server that may be chosen."""

    name: str
    index: int
    """Its position in the table's words, and in the configuration."""
    weight: int
    """Above 0."""
    counters: _NoLoad = field(default=_NoLoad(), repr=False, compare=False)


def is_hashed(balance: Balance) -> bool:
    """Does the client's address alone decide?"""
    return balance in (Balance.SOURCE, Balance.MAGLEV)


def slots(
    balance: Balance,
    choices: Sequence[Choice],
    *,
    configured: int,
    absent: Sequence[Choice] = (),
    loads: Mapping[int, float] | None = None,
    is_consistent: bool = False,
) -> tuple[int, ...]:
    """The `index` of the choice that each slot falls to; none at all without choices.

    `configured`: servers in the configuration, which the size of a consistent table follows. `absent`: those that would
    be choices too if they could serve: a consistent table differs from the one with them in their slots alone.
    `loads`: connections by `index`, for leastconn. `is_consistent`: `hash_type: consistent`, which makes `source` a
    maglev.
    """
    if not choices:
        return ()
    if len(choices) == 1 or balance is Balance.FIRST:
        return (choices[0].index,)
    if balance is Balance.MAGLEV or (balance is Balance.SOURCE and is_consistent):
        table = MaglevTable[Choice](configured, sizes=MAGLEV_SIZES)
        usual = sorted((*choices, *absent), key=attrgetter("index")) if absent else ()
        return tuple(choice.index for choice in table(choices, usual))
    if balance in (Balance.SOURCE, Balance.RANDOM):
        return tuple(choice.index for choice in map_based(choices))
    if balance is Balance.LEASTCONN and loads:
        return _least(choices, loads)
    return _round(choices)


def _round(choices: Sequence[Choice]) -> tuple[int, ...]:
    """A weighted round, each server's turns spread evenly over it."""
    turns: RoundRobin[Choice] = RoundRobin()
    fitted = _fitted(choices)
    turns.rebuild(fitted)
    length = sum(choice.weight for choice in fitted)
    return tuple(choice.index for choice in islice(iter(turns.pick, None), length))


def _fitted(choices: Sequence[Choice]) -> list[Choice]:
    """The same with the smallest weights that are as good."""
    unit = gcd(*(choice.weight for choice in choices))
    total = sum(choice.weight for choice in choices)
    if total // unit <= LONGEST_ROUND:
        weights = [choice.weight // unit for choice in choices]
    else:
        weights = [max(1, choice.weight * LONGEST_ROUND // total) for choice in choices]
    return [Choice(choice.name, choice.index, weight) for choice, weight in zip(choices, weights, strict=True)]


def _least(choices: Sequence[Choice], loads: Mapping[int, float]) -> tuple[int, ...]:
    """Whom each new connection would go to, if none of those there are ended meanwhile. Its length is a number of
    whole rounds, so that going through it again is as fair as can be."""
    length = sum(choice.weight for choice in _fitted(choices))
    length *= -(-_AHEAD // length)
    # As the proxy has it: the load before the connection counts, and among equals whose turn it is.
    heap = [
        (loads.get(choice.index, 0) / choice.weight, turn, choice.index, choice.weight)
        for turn, choice in enumerate(choices)
    ]
    heapify(heap)
    found = []
    for turn in range(len(choices), len(choices) + length):
        load, _, index, weight = heap[0]
        found.append(index)
        heapreplace(heap, (load + 1 / weight, turn, index, weight))
    return tuple(found)
