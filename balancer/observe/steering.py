"""What an operator changes while it runs: HAProxy's words for it (management manual, section 9.3) read into a `Change`.

One grammar and one way in, whoever asks: the runtime socket, the statistics page, the command line. What is wrong with
it is said in HAProxy's words (src/server.c), since programs look for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from balancer.observe.reason import Reason, reasoned
from balancer.observe.snapshot import ServerRow, Snapshot
from balancer.pool.orders import Admin, Condition

__all__ = ["Change", "Steering", "SteeringError", "found", "parse", "weight_of"]

_HEAVIEST = 256
_ADMIN = {"ready": Admin.READY, "drain": Admin.DRAIN, "maint": Admin.MAINT}
_HEALTH = {"up": Condition.UP, "down": Condition.DOWN}
# Like strtol(3), which HAProxy reads weights with.
_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,9})(.*)", re.DOTALL)
_USAGE = "usage: set server <backend>/<server> addr | fqdn | health | state | weight"


class SteeringError(Exception):
    """What was asked for makes no sense here; the text is for whoever asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to become of one server; what is None stays."""

    backend: str
    server: str
    admin: Admin | None = None
    weight: int | None = None
    condition: Condition | None = None
    """What the checks are to have said: they go on from there."""
    is_checked: bool | None = None
    """Whether it is to be checked from now on."""
    shuts: bool = False
    """Its sessions are to end now."""
    why: str = ""
    until: float | None = None
    """Unix time in seconds; None: for good."""


class Steering(Protocol):
    """Whoever may write the servers' states."""

    def __call__(self, change: Change, by: str) -> None:
        """Make it so, and note in the log by whom. The server exists."""


def parse(words: Sequence[str], snapshot: Snapshot) -> Change:
    """The change that a command asks for: `set server b/s state drain`, `set weight b/s 50% for 2h why slow disk`,
    `enable server b/s`, … SteeringError says what is wrong."""
    try:
        words, reason = reasoned(words, snapshot.now)
    except ValueError as error:
        raise SteeringError(str(error)) from None
    change = _parsed(words, snapshot)
    return replace(change, why=reason.why, until=reason.until) if reason != Reason() else change


def _parsed(words: Sequence[str], snapshot: Snapshot) -> Change:
    match words[:2]:
        case ["set", "server"]:
            return _set_server(words[2:], snapshot)
        case ["set", "weight"]:
            row = found(words[2:], snapshot)
            return _weighed(row, words[3:])
        case ["enable" | "disable" as word, "server"]:
            row = found(words[2:], snapshot)
            # As HAProxy: to enable ends maintenance, not a drain.
            if word == "disable":
                return replace(_of(row), admin=Admin.MAINT)
            return replace(_of(row), admin=Admin.READY if row.state.admin is Admin.MAINT else None)
        case ["enable" | "disable" as word, "health"]:
            row = found(words[2:], snapshot)
            if not row.entry.is_checked:
                raise SteeringError("Health checks are not configured on this server, cannot enable.")
            return replace(_of(row), is_checked=word == "enable")
        case ["shutdown", "sessions"]:
            return replace(_of(found(words[3:], snapshot)), shuts=True)
    raise AssertionError(words)


def found(words: Sequence[str], snapshot: Snapshot) -> ServerRow:
    """The server that `b/s`, the first word, names. SteeringError where there is none."""
    backend, slash, server = (words[0] if words else "").partition("/")
    if not backend or not slash or not server:
        raise SteeringError("Require 'backend/server'.")
    for row in snapshot.backends:
        if row.name == backend:
            for each in row.servers:
                if each.name == server:
                    return each
            raise SteeringError("No such server.")
    raise SteeringError("No such backend.")


def weight_of(row: ServerRow) -> str:
    """`5 (initial 10)`"""
    return f"{row.state.weight} (initial {row.entry.weight})"


def _set_server(words: Sequence[str], snapshot: Snapshot) -> Change:
    row = found(words, snapshot)
    what, value = (*words[1:3], "", "")[:2]
    match what:
        case "state":
            if value not in _ADMIN:
                raise SteeringError("'set server <srv> state' expects 'ready', 'drain' and 'maint'.")
            return replace(_of(row), admin=_ADMIN[value])
        case "weight":
            return _weighed(row, words[2:])
        case "health":
            if value not in _HEALTH:
                raise SteeringError("'set server <srv> health' expects 'up' or 'down'.")
            return replace(_of(row), condition=_HEALTH[value])
    raise SteeringError(_USAGE)


def _weighed(row: ServerRow, words: Sequence[str]) -> Change:
    text = words[0] if words else ""
    if not text:
        raise SteeringError("Require <weight> or <weight%>.")
    number = _NUMBER.fullmatch(text)
    if number is None:
        raise SteeringError("Empty weight string empty or preceded by garbage")
    weight, rest = int(number[1]), number[2]
    if rest not in ("", "%"):
        raise SteeringError("Trailing garbage in weight string")
    if rest:
        if weight < 0:
            raise SteeringError("Relative weight must be positive.")
        weight = min(row.entry.weight * weight // 100, _HEAVIEST)
    elif not 0 <= weight <= _HEAVIEST:
        raise SteeringError("Absolute weight can only be between 0 and 256 inclusive.")
    return replace(_of(row), weight=weight)


def _of(row: ServerRow) -> Change:
    return Change(backend=row.entry.backend, server=row.name)
