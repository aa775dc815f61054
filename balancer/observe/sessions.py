"""`show sess`: what goes on at the moment, a line each, or all that is known of it (HAProxy's src/stream.c).

What HAProxy tells of its own inside (flags, analysers, tasks) is 0 here; `calls` are the requests of the connection.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from balancer.config import units
from balancer.pool.sessions import SessionView, Wanted

__all__ = ["USAGE", "Asked", "SessionsError", "details", "line", "number_of", "parse"]

USAGE = """Usage: show sess [<id> | all | help] [<options>*]
  <id>            this one, with all that is known of it
  all             all of them so
  backend <b>     those at this backend
  frontend <f>    those of this frontend
  server <b/s>    those at this server
  older <age>     those that began longer ago (seconds, or with a unit)
  show-uri        with the request line
  susp            those that have waited for longer than they should (here: nobody)
"""
# HAProxy's states of a stream connector: before, while and after connecting.
_STATES = {"place": 2, "connect": 5}
_ESTABLISHED = 8
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


class SessionsError(Exception):
    """What was asked for makes no sense; the text is for whoever asked."""


class Asked(NamedTuple):
    """What is to be shown."""

    wanted: Wanted = Wanted()
    is_whole: bool = False
    """All that is known."""
    has_request: bool = False
    """With the request line."""
    is_none: bool = False
    """Nothing is ever so."""


def parse(words: Sequence[str]) -> Asked:
    """The words behind `show sess`. SessionsError where they mean nothing; also for `help`."""
    rest = list(words)
    number, is_whole = None, False
    if rest and rest[0] == "all":
        is_whole = True
        del rest[0]
    elif rest and rest[0] not in _OPTIONS:
        number = number_of(rest.pop(0))
        if number is None:
            raise SessionsError(USAGE)
        is_whole = True
    asked = Asked(Wanted(number), is_whole)
    while rest:
        asked = _option(asked, rest)
    return asked


_OPTIONS = frozenset(("backend", "frontend", "server", "older", "show-uri", "susp"))


def _option(asked: Asked, rest: list[str]) -> Asked:
    """With the option that comes next, which is taken off."""
    word = rest.pop(0)
    if word == "show-uri":
        return asked._replace(has_request=True)
    if word == "susp":
        return asked._replace(is_none=True)
    if word not in _OPTIONS or not rest:
        raise SessionsError(USAGE)
    value = rest.pop(0)
    wanted = asked.wanted
    if word == "backend":
        wanted = wanted._replace(backend=value)
    elif word == "frontend":
        wanted = wanted._replace(frontend=value)
    elif word == "older":
        try:
            seconds = float(value) if value.isdecimal() else units.duration_or_off(value)
        except ValueError:
            raise SessionsError(f"'older' expects a time in seconds, not '{value}'.") from None
        wanted = wanted._replace(older=seconds)
    else:
        backend, slash, server = value.partition("/")
        if not backend or not slash or not server:
            raise SessionsError("Require 'backend/server'.")
        wanted = wanted._replace(backend=backend, server=server)
    return asked._replace(wanted=wanted)


def number_of(word: str) -> int | None:
    """The number that a session is known by, in hexadecimal as it is shown (or decimal); None: that is none."""
    try:
        number = int(word, 16 if word[:2] in ("0x", "0X") else 10)
    except ValueError:
        return None
    return number if word.isascii() and 0 < number < 1 << 64 else None


def line(view: SessionView, *, has_request: bool = False) -> str:
    """One line."""
    rx = _time(view.expires)
    to_client, to_server = ("", rx) if view.waits_for == "server" else (rx, "" if view.waits_for != "both" else rx)
    server_state = _STATES.get(view.waits_for, _ESTABLISHED)
    text = (
        f"{view.number:#x}: proto={view.protocol} src={view.source} fe={view.frontend} be={view.backend or '<NONE>'} "
        f"srv={view.server or '<none>'} ts=00 epoch=0 age={_time(view.age)} calls={view.requests} rate=0 cpu=0 lat=0 "
        f"rq[f=00h,i={view.to_server},an=00h,rx={to_client},wx=,ax=] "
        f"rp[f=00h,i={view.to_client},an=00h,rx={to_server},wx=,ax=] "
        f"scf=[{_ESTABLISHED},0h,fd={view.client_fd}] scb=[{server_state},0h,fd={view.server_fd}] "
        f"exp={rx} rc={view.retries} c_exp={rx if view.waits_for == 'connect' else ''}"
    )
    return f'{text} uri="{_printable(view.request)}"\n' if has_request and view.request else f"{text}\n"


def details(view: SessionView, ids: Mapping[str, int]) -> str:
    """All that is known; `ids` are the proxies' numbers by name (frontends' as they are, backends' behind a `/`)."""
    date = time.strftime("%d/%b/%Y:%H:%M:%S", time.localtime(view.began))
    backend = view.backend
    has_server = f"server={view.server}" if view.server else "server=<NONE> (id=-1)"
    backend_line = (
        f"backend={backend} (id={ids.get(f'/{backend}', -1)} mode={view.mode})"
        if backend
        else "backend=<NONE> (id=-1 mode=-)"
    )
    expires = _time(view.expires) or "<NEVER>"
    lines = [
        f"{view.number:#x}: [{date}.{int(view.began % 1 * 1e6):06}] id={view.number & 0xFFFFFFF} "
        f"proto={view.protocol} source={view.source}",
        f"  flags=0x0, conn_retries={view.retries}, conn_exp=<NEVER> pend_pos=(nil) "
        f"waiting={int(view.waits_for == 'place')} epoch=0",
        f"  frontend={view.frontend} (id={ids.get(view.frontend, -1)} mode={view.mode}), listener=? (id=1) "
        f"addr={view.listener}",
        f"  {backend_line}",
        f"  {has_server}",
        f"  task=(nil) (state=0x00 nice=0 calls={view.requests} rate=0 exp={expires} age={_time(view.age)})",
    ]
    if view.mode == "http":
        method = view.request.partition(" ")[0]
        lines.append(f'  txn=(nil) meth={_printable(method)} status={view.status} req="{_printable(view.request)}"')
    lines += [
        f"  scf=(nil) state=EST fd={view.client_fd} unsent={view.to_client}",
        f"  scb=(nil) state={_names(view)} fd={view.server_fd} unsent={view.to_server}",
        f"  req=(total={view.received})",
        f"  res=(total={view.sent})",
    ]
    return "\n".join(lines) + "\n"


def _names(view: SessionView) -> str:
    return {"place": "QUE", "connect": "CON"}.get(view.waits_for, "EST")


def _time(seconds: float | None) -> str:
    """As HAProxy says it to people: the two largest units (tools.c, human_time)."""
    if seconds is None:
        return ""
    left = int(seconds)
    parts: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return "".join(part for part in parts[:2] if not part.startswith("0")) or "0s"


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\x{ord(c):02x}" for c in text)
