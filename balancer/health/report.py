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

__all__ = ["Line", "Severity", "Standing", "check_line", "no_server_line", "server_line"]

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
    result: CheckResult,
    standing: Standing,
    is_backup: bool = False,
    was_draining: bool = False,
) -> Line:
    """`Server be/s is DOWN, reason: …. 1 active and 0 backup servers left. …`, or `is UP` and `online`."""
    is_down = condition is Condition.DOWN
    active, backup, sessions, requeued, queued = standing
    on_backup = " Running on backup." if backup and not active else ""
    if is_down:
        rest = f"left.{on_backup} {sessions} sessions active, {requeued} requeued, {queued} remaining in queue."
    else:
        rest = f"online.{on_backup} {requeued} sessions requeued, {queued} total in queue."
    text = (
        f"{'Backup ' if is_backup else ''}Server {backend}/{server} is {'DOWN' if is_down else 'UP'}{_reason(result)}"
        f". {active} active and {backup} backup servers {rest}"
    )
    return Line(Severity.ALERT if is_down and not was_draining else Severity.NOTICE, text)


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
