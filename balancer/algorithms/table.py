"""Hashing a key to a server through a table, the same in every worker, process and director.

Nothing here depends on Python's own hash(), which differs from process to process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import Final
from zlib import crc32

from balancer.algorithms.base import Algorithm, C

__all__ = ["HashTable", "avalanche", "map_based", "mix"]

# Tries for another server than the one that failed, before looking through the whole table.
_PROBES: Final = 16


def avalanche(number: int) -> int:
    """Spread 32 bits so that each input bit changes half of the output (MurmurHash3's finalizer)."""
    number ^= number >> 16
    number = number * 0x85EBCA6B & 0xFFFFFFFF
    number ^= number >> 13
    number = number * 0xC2B2AE35 & 0xFFFFFFFF
    return number ^ number >> 16


def mix(key: bytes) -> int:
    """A hash of 32 bits. A CRC alone is linear: addresses that follow a pattern would land on few servers."""
    return avalanche(crc32(key))


def map_based(servers: Sequence[C]) -> list[C]:
    """A slot for each unit of weight (HAProxy's `hash-type map-based`): perfectly even, but the length
    changes with the servers, and then between a quarter and half of the keys move."""
    unit = gcd(*(server.weight for server in servers))
    slots: list[C] = []
    for server in servers:
        slots += [server] * (server.weight // unit)
    return slots


class HashTable(Algorithm[C]):
    """What the hashing algorithms share; `fill` makes the table from the usable servers."""

    def __init__(self, fill: Callable[[Sequence[C]], list[C]] = map_based) -> None:
        self._fill = fill
        self._slots: list[C] = []

    def rebuild(self, servers: Sequence[C]) -> None:
        self._slots = self._fill(servers) if servers else []

    def pick(self, key: bytes = b"", avoid: C | None = None) -> C | None:
        slots = self._slots
        if not slots:
            return None
        mark = mix(key)
        server = slots[mark * len(slots) >> 32]
        return server if server is not avoid else self._another(mark, server)

    def _another(self, mark: int, avoid: C) -> C:
        """Keys of a failed server spread over all others, and each always to the same one."""
        slots = self._slots
        for _ in range(_PROBES):
            mark = avalanche(mark + 0x9E3779B9 & 0xFFFFFFFF)
            server = slots[mark * len(slots) >> 32]
            if server is not avoid:
                return server
        return next((server for server in slots if server is not avoid), avoid)
