"""Commands on what goes on, and on who may come: sessions, refused messages, limits, frontends; and to wait."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from balancer.config import units
from balancer.observe import bounds, sessions, steering
from balancer.observe.answer import ERROR as _ERROR
from balancer.observe.answer import INFO as _INFO
from balancer.observe.answer import Said as _Said
from balancer.observe.sessions import SessionsError
from balancer.observe.steering import SteeringError
from balancer.pool.orders import Admin

if TYPE_CHECKING:
    from balancer.observe.bounds import Door
    from balancer.observe.command import Desk, Session
    from balancer.observe.snapshot import Snapshot

__all__ = ["moves", "sets_maxconn", "show_errors", "show_sess", "shutdown_session", "wait"]

_Run = Callable[["Session", "Desk", list[str]], Awaitable[_Said]]

# Seconds between two looks at what is waited for: a tenth of the whole time, within these.
_OFTEN, _SELDOM = 0.05, 0.5
_USAGE = """Usage: wait {-h|<duration>} [condition [args...]]
  -h                        this text
  <duration>                how long at most, in milliseconds or with a unit (us, ms, s, m, h, d)
  srv-removable <bk>/<srv>  until this server, in maintenance, has no connection any more; else just so long
"""


def sets_maxconn(kind: str) -> _Run:
    async def run(session: Session, desk: Desk, rest: list[str]) -> _Said:
        bound = bounds.maxconn(kind, rest, await desk.look())
        if desk.bound is None:
            return _Said("Nobody here sets limits.", _ERROR)
        await desk.bound(bound, session.who)
        return _Said("")

    return run


def moves(to: Door) -> _Run:
    async def run(session: Session, desk: Desk, rest: list[str]) -> _Said:
        move = bounds.door(to, rest, await desk.look())
        if desk.move is None:
            return _Said("Nobody here has frontends.", _ERROR)
        desk.move(move, session.who)
        return _Said("")

    return run


async def show_sess(_: Session, desk: Desk, rest: list[str]) -> _Said:
    if desk.sessions is None:
        return _Said("Nobody here has sessions.", _ERROR)
    try:
        asked = sessions.parse(rest)
    except SessionsError as error:
        return _Said(str(error), None if rest == ["help"] else _ERROR)
    if asked.is_none:
        return _Said("")
    if asked.wanted.number is not None:
        found = "".join([piece async for piece in desk.sessions(asked)])
        return _Said(found) if found else _Said("Session not found.", _ERROR)
    return _Said("", None, desk.sessions(asked))


async def shutdown_session(session: Session, desk: Desk, rest: list[str]) -> _Said:
    number = sessions.number_of(rest[0]) if rest else None
    if number is None:
        return _Said("Session pointer expected (use 'show sess').", _ERROR)
    if desk.shut is None or not await desk.shut(number, session.who):
        return _Said("No such session (use 'show sess').", _ERROR)
    return _Said("")


async def show_errors(_: Session, desk: Desk, rest: list[str]) -> _Said:
    if desk.errors is None:
        return _Said("Nobody here has seen any.", _ERROR)
    proxy = rest[0] if rest and rest[0] != "-1" else None
    if proxy is not None and not proxy.isdecimal():
        snapshot = await desk.look()
        if proxy not in {row.name for rows in (snapshot.frontends, snapshot.backends) for row in rows}:
            return _Said("No such proxy.", _ERROR)
    side = rest[1] if rest[1:] and rest[1] in ("request", "response") else None
    return _Said("", None, desk.errors(proxy, side))


async def wait(session: Session, desk: Desk, rest: list[str]) -> _Said:
    """For a time, or until a server can be removed (HAProxy 3.0, src/cli.c)."""
    if not rest:
        return _Said("Expects a duration in milliseconds.", _ERROR)
    if "-h" in rest[:2]:
        return _Said(_USAGE, _INFO)
    try:
        seconds = int(rest[0]) / 1000 if re.fullmatch("[0-9]{1,12}", rest[0]) else units.duration(rest[0])
    except ValueError:
        seconds = 0.0
    if seconds < 0.001:
        return _Said("Invalid duration.", _ERROR)
    condition, *what = rest[1:] or [""]
    if condition not in ("", "srv-removable"):
        return _Said(_USAGE, _ERROR)
    if condition and not what:
        return _Said("Missing server name (<backend>/<server>).", _ERROR)
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + seconds, min(max(seconds / 10, _OFTEN), _SELDOM)
    missing = ""
    while True:
        if condition:
            try:
                missing = _what_is_left(what, await desk.look())
            except SteeringError as error:
                return _Said(f"Failed. {error}", _ERROR)
            if not missing:
                return _Said("Done.", _INFO)
        left = until - loop.time()
        if left <= 0:
            return _Said(f"Wait delay expired. {missing}", _ERROR) if condition else _Said("Done.", _INFO)
        if session.is_gone():
            return _Said(f"Interrupted. {missing}".rstrip(), _ERROR)
        await asyncio.sleep(min(left, pause))


def _what_is_left(what: list[str], snapshot: Snapshot) -> str:
    """Why a server cannot be removed yet; SteeringError: nor ever, as it is."""
    row = steering.found(what, snapshot)
    if row.state.admin is not Admin.MAINT:
        raise SteeringError("Only servers in maintenance mode can be deleted.")
    if any(row.counters[name] for name in ("scur", "qcur", "srv_icur")):
        return "Server still has connections attached to it, cannot remove it."
    return ""
