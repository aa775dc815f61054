"""The log lines of checks and of servers that go down and come back, word for word HAProxy's.

People grep for them and tools parse them: src/check.c (set_server_check_status, check_append_info) and
src/server.c (srv_append_more) are the source. Lines come without the frontend's or syslog's prefix.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from balancer.config import model
from balancer.health import verdict
from balancer.health.result import CheckResult, Code
from balancer.pool.orders import Admin, Condition, ServerState

__all__ = [
    "Line", "Severity", "Standing", "admin_lines", "check_line", "no_server_line", "resolved_line", "server_line",
    "unresolved_line",
]  # fmt: skip

_ENCODED = re.compile(r'["<>]')


class Severity(IntEnum):
    """syslog's (RFC 5424 section 6.2.1), as HAProxy gives them."""

    EMERG = 0
    ALERT = 1
    NOTICE = 5


class Line(NamedTuple):
    severity: Severity
    text: str


class Standing(NamedTuple):
    """What is left of a backend once a change has taken effect."""

    active: int
    """Servers that take new clients, without the backups."""
    backup: int
    sessions: int = 0
    """Of the server that the line is about."""
    requeued: int = 0
    """Clients that waited for that server and now wait for the backend."""
    queued: int = 0
    """Clients that still wait."""


def server_line(
    backend: str,
    server: str,
    condition: Condition,
    *,
    result: CheckResult | None,
    standing: Standing,
    is_backup: bool = False,
    was_draining: bool = False,
) -> Line:
    """`Server be/s is DOWN, reason: …. 1 active and 0 backup servers left. …`, or `is UP` and `online`. No result: an
    operator said so."""
    why = _reason(result) if result is not None else ", changed from CLI"
    is_down = condition is Condition.DOWN
    text = (
        f"{_name(backend, server, is_backup=is_backup)} is {'DOWN' if is_down else 'UP'}{why}"
        f"{_left(standing) if is_down else _online(standing)}"
    )
    return Line(Severity.ALERT if is_down and not was_draining else Severity.NOTICE, text)


def admin_lines(
    backend: str, server: str, old: ServerState, new: ServerState, *, standing: Standing, is_backup: bool = False
) -> list[Line]:
    """What HAProxy says when an operator wants something else of a server (src/server.c, srv_update_status)."""
    name = _name(backend, server, is_backup=is_backup)
    is_down = new.condition is Condition.DOWN
    if new.admin is Admin.MAINT:
        if old.condition is Condition.DOWN:
            return [Line(Severity.NOTICE, f"{name} was DOWN and now enters maintenance.")]
        severity = Severity.NOTICE if old.admin is Admin.DRAIN else Severity.ALERT
        return [Line(severity, f"{name} is going DOWN for maintenance{_left(standing)}")]
    word = "DOWN" if is_down else "UP"
    if old.admin is Admin.MAINT:
        lines = [Line(Severity.NOTICE, f"{name} is {word}/{new.admin.name} (leaving forced maintenance).")]
        if new.admin is Admin.DRAIN:
            lines.append(Line(Severity.NOTICE, f"{name} remains in forced drain mode."))
        return lines
    if new.admin is Admin.DRAIN:
        rest = _left(standing) if is_down else _online(standing)
        return [Line(Severity.NOTICE, f"{name} enters drain state{rest}")]
    return [Line(Severity.NOTICE, f"{name} is {word} (leaving forced drain).")]


def unresolved_line(
    backend: str, server: str, old: ServerState, why: str, *, standing: Standing, is_backup: bool = False
) -> Line:
    """What HAProxy says of a server whose name has no address any more."""
    name = _name(backend, server, is_backup=is_backup)
    if old.condition is Condition.DOWN:
        return Line(Severity.NOTICE, f"{name} was DOWN and now enters maintenance ({why}).")
    return Line(Severity.ALERT, f"{name} is going DOWN for maintenance ({why}){_left(standing)}")


def resolved_line(backend: str, server: str, name: str, new: ServerState, *, is_backup: bool = False) -> Line:
    """And once it has one again."""
    word = "DOWN" if new.condition is Condition.DOWN else "UP"
    return Line(
        Severity.NOTICE,
        f"{_name(backend, server, is_backup=is_backup)} ('{name}') is {word}/{new.admin.name} (resolves again).",
    )


def _name(backend: str, server: str, *, is_backup: bool) -> str:
    return f"{'Backup ' if is_backup else ''}Server {backend}/{server}"


def _left(standing: Standing) -> str:
    return (
        f"{_servers(standing)} left.{_on_backup(standing)} {standing.sessions} sessions active, "
        f"{standing.requeued} requeued, {standing.queued} remaining in queue."
    )


def _online(standing: Standing) -> str:
    return (
        f"{_servers(standing)} online.{_on_backup(standing)} {standing.requeued} sessions requeued, "
        f"{standing.queued} total in queue."
    )


def _servers(standing: Standing) -> str:
    return f". {standing.active} active and {standing.backup} backup servers"


def _on_backup(standing: Standing) -> str:
    return " Running on backup." if standing.backup and not standing.active else ""


def no_server_line(backend: str) -> Line:
    """When the last server that took new clients is gone."""
    return Line(Severity.EMERG, f"backend {backend} has no server available!")


def check_line(
    backend: str,
    server: str,
    state: ServerState,
    check: model.CheckBase,
    *,
    result: CheckResult,
    is_backup: bool = False,
) -> Line:
    """`Health check for server be/s failed, reason: …, status: 2/3 UP.`; `state` is the one after the check."""
    have, of = verdict.counted(state, check)
    condition = "DOWN"
    if state.health >= check.rise:
        condition = "UP" if state.weight > 0 and state.admin is not Admin.DRAIN else "DRAIN"
    text = (
        f"Health check for {'backup ' if is_backup else ''}server {backend}/{server} "
        f"{'succeeded' if result.ok else 'failed'}{_reason(result)}, status: {have}/{of} {condition}."
    )
    return Line(Severity.NOTICE, text)


def _reason(result: CheckResult) -> str:
    # HAProxy tells the status only of codes that speak of one.
    code = f", code: {result.status}" if result.code in (Code.L7OK, Code.L7STS) else ""
    info = f', info: "{_ENCODED.sub(_encode, result.info)}"' if result.info else ""
    return f", reason: {result.description}{code}{info}, check duration: {result.milliseconds}ms"


def _encode(match: re.Match[str]) -> str:
    return f"<{ord(match[0]):02X}>"
