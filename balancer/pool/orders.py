"""Orders: what control decided of each server, in shared memory.

One row per server, written by control alone and read by every worker when its doorbell rings.
A control process started in the place of a dead one finds here what was last decided.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

__all__ = ["WHOLE", "Admin", "Board", "Condition", "ServerState"]


class Condition(IntEnum):
    """What the checks say."""

    UNKNOWN = 0  # not checked yet, used only while no server is known to be up
    DOWN = 1
    UP = 2


class Admin(IntEnum):
    """What the operator wants."""

    READY = 0
    DRAIN = 1  # nothing new but clients that hold its cookie
    MAINT = 2  # nothing at all, and no checks


# Bound once: to look a member up in its class costs more than all the rest (Python 3.11), and this is asked
# for every request.
_UNKNOWN, _DOWN, _UP = Condition
_READY, _, _MAINT = Admin
_CONDITIONS = {each.value: each for each in Condition}
_ADMINS = {each.value: each for each in Admin}


WHOLE = 100
"""Percent."""
_NOWHERE = bytes(16)


class ServerState(NamedTuple):
    """One server's row. Times are Unix microseconds, `downtime` microseconds."""

    condition: Condition = Condition.UNKNOWN
    admin: Admin = Admin.READY
    weight: int = 1
    health: int = 0
    """HAProxy's counter from 0 to rise + fall - 1."""
    last_change: int = 0
    downs: int = 0
    check_failures: int = 0
    downtime: int = 0
    is_unwatched: bool = False
    """Whether an operator has stopped its checks."""
    shutdowns: int = 0
    """How often an operator has ended its sessions."""
    throttle: int = WHOLE
    """Percent of its weight that it gets, less than all while it warms up (slowstart)."""
    octets: bytes = _NOWHERE
    """Its address as its name was resolved last (IPv4 mapped, RFC 4291 section 2.5.5.2); all zero: as at the start."""
    port: int = 0
    """The port that goes with it."""
    is_unresolved: bool = False
    """Whether its name has no address: then it is down, and not checked."""

    @property
    def place(self) -> tuple[bytes, int, bool]:
        """Where it is, to compare with."""
        return self.octets, self.port, self.is_unresolved

    @property
    def host(self) -> str:
        """Its address as text; empty: as at the start."""
        if self.octets == _NOWHERE:
            return ""
        address = IPv6Address(self.octets)
        return str(address.ipv4_mapped or address)

    def at(self, host: str, port: int) -> ServerState:
        """The same at another address."""
        address = ip_address(host)
        octets = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
        return self._replace(octets=octets, port=port)

    @property
    def is_usable(self) -> bool:
        """May it get a client that is free to go anywhere?"""
        return self.condition is _UP and self.admin is _READY and self.weight > 0

    @property
    def effective_weight(self) -> int:
        """Rounded up: a part of 1 is 1."""
        return -(-self.weight * self.throttle // WHOLE)

    @property
    def is_unchecked(self) -> bool:
        """May it get such a client while no server is known to be up?"""
        return self.condition is _UNKNOWN and self.admin is _READY and self.weight > 0

    @property
    def takes_cookie(self) -> bool:
        """May it get a client that holds its cookie?"""
        return self.condition is not _DOWN and self.admin is not _MAINT


_ROW = struct.Struct("=11q16sHB5x")
# Octets compared in one go when looking for rows that changed.
_STRETCH = 64 * _ROW.size


class Board:
    """All servers' rows, by index in configuration order (over all backends)."""

    def __init__(self, block: memoryview) -> None:
        self._block = block

    @staticmethod
    def size(servers: int) -> int:
        return _ROW.size * max(servers, 1)

    def __len__(self) -> int:
        return len(self._block) // _ROW.size

    def __getitem__(self, index: int) -> ServerState:
        return self._state(_ROW.unpack_from(self._block, index * _ROW.size))

    def __iter__(self) -> Iterator[ServerState]:
        return map(self._state, _ROW.iter_unpack(self._block[: len(self) * _ROW.size]))

    def __setitem__(self, index: int, state: ServerState) -> None:
        _ROW.pack_into(self._block, index * _ROW.size, *state)

    def changes(self, seen: bytearray) -> list[tuple[int, ServerState]]:
        """The rows that differ from `seen`, by index; `seen` (empty at first) becomes a copy of the board.

        Costs next to nothing where nothing changed, however many servers there are.
        """
        now = bytes(self._block[: len(self) * _ROW.size])
        if now == seen:
            return []
        found = []
        for start in range(0, len(now), _STRETCH):
            if now[start : start + _STRETCH] != seen[start : start + _STRETCH]:
                for offset in range(start, min(start + _STRETCH, len(now)), _ROW.size):
                    row = now[offset : offset + _ROW.size]
                    if row != seen[offset : offset + _ROW.size]:
                        found.append((offset // _ROW.size, self._state(_ROW.unpack(row))))
        seen[:] = now
        return found

    @staticmethod
    def _state(row: tuple[Any, ...]) -> ServerState:
        condition, admin, weight, health, last_change, downs, failures, downtime, is_unwatched, *others = row
        shutdowns, throttle, octets, port, is_unresolved = others
        # Control may be anybody's: whatever it writes is a row, also to the supervisor.
        return ServerState(
            _CONDITIONS.get(condition, _UNKNOWN),
            _ADMINS.get(admin, _READY),
            weight,
            health,
            last_change,
            downs,
            failures,
            downtime,
            bool(is_unwatched),
            shutdowns,
            throttle,
            octets,
            port,
            bool(is_unresolved),
        )
