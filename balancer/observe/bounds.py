"""How many may come, and whether anybody may: `set maxconn`, `enable`, `disable` and `shutdown frontend`.

What is wrong is said in HAProxy's words (src/proxy.c, src/server.c); what it takes for 0, since it is no number, is
wrong here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from balancer.observe.snapshot import Roster, Snapshot
from balancer.observe.steering import SteeringError, found
from balancer.pool.overrides import Target, named

__all__ = ["Bound", "Door", "Move", "door", "limited", "maxconn", "told"]

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


class Door(IntEnum):
    """Whether a frontend takes clients."""

    OPEN = 0
    PAUSED = 1  # refused for now
    SHUT = 2  # refused, until there is another configuration


class Bound(NamedTuple):
    """What one limit is to be."""

    target: Target
    """A frontend (name,), a server (backend, name), all together ()."""
    value: int
    """0: what the configuration says (all together), none (a server), nobody (a frontend)."""


class Move(NamedTuple):
    """What is to become of a frontend."""

    frontend: str
    to: Door


def told(change: Bound | Move) -> str:
    """As a command."""
    if isinstance(change, Move):
        words = {Door.OPEN: "enable", Door.PAUSED: "disable", Door.SHUT: "shutdown"}
        return f"{words[change.to]} frontend {change.frontend}"
    what = f"server {named(change.target)}" if len(change.target) > 1 else named(change.target)
    return f"set maxconn {what} {change.value}"


def maxconn(kind: str, words: Sequence[str], snapshot: Snapshot) -> Bound:
    """What `set maxconn KIND …` asks for. SteeringError says what is wrong."""
    if kind == "frontend":
        name = _frontend(words, snapshot)
        if not words[1:] or not _NUMBER.fullmatch(words[1]):
            raise SteeringError("Integer value expected.")
        value = int(words[1])
        if value < 0:
            raise SteeringError("Value out of range.")
        _no_more(words[2:])
        return Bound((name,), value)
    if kind == "server":
        row = found(words, snapshot)
        if not words[1:]:
            raise SteeringError("Require <maxconn>.")
        number = re.match(r"[+-]?[0-9]{1,18}", words[1])
        if number is None:
            raise SteeringError("maxconn string empty or preceded by garbage")
        if number.end() < len(words[1]):
            raise SteeringError("Trailing garbage in maxconn string")
        if int(number[0]) < 0:
            raise SteeringError("Value out of range.")
        _no_more(words[2:])
        return Bound((row.entry.backend, row.name), int(number[0]))
    if not words or not _NUMBER.fullmatch(words[0]):
        raise SteeringError("Expects an integer value.")
    value, most = int(words[0]), snapshot.process.hard_maxconn
    if not 0 <= value <= most:
        raise SteeringError("Value out of range.")
    _no_more(words[1:])
    return Bound((), value)


def _no_more(words: Sequence[str]) -> None:
    """HAProxy takes no notice of them; but whoever says until when relies on that."""
    if words:
        raise SteeringError(f"'set maxconn' wants nothing after the number: '{words[0]}'.")


def door(to: Door, words: Sequence[str], snapshot: Snapshot) -> Move:
    """What `enable`, `disable` or `shutdown frontend …` asks for. SteeringError says what is wrong."""
    return Move(_frontend(words, snapshot), to)


def _frontend(words: Sequence[str], snapshot: Snapshot) -> str:
    if not words:
        raise SteeringError("A frontend name is expected.")
    if all(row.name != words[0] for row in snapshot.frontends):
        raise SteeringError("No such frontend.")
    return words[0]


def limited(roster: Roster, frontends: dict[str, int], servers: dict[tuple[str, str], int]) -> Roster:
    """The same with other limits: of frontends by name, of servers by backend and name."""
    backends = {name for name, _ in servers}
    return roster._replace(
        frontends=tuple(
            entry._replace(limit=frontends[entry.name]) if entry.name in frontends else entry
            for entry in roster.frontends
        ),
        backends=tuple(
            backend._replace(
                servers=tuple(
                    server._replace(maxconn=servers.get((backend.name, server.name), server.maxconn))
                    for server in backend.servers
                )
            )
            if backend.name in backends
            else backend
            for backend in roster.backends
        ),
    )
