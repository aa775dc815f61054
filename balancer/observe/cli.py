"""Commands on one's own connection: how it is spoken on, and what may be said there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from balancer.config import units
from balancer.observe.answer import ERROR as _ERROR
from balancer.observe.answer import INFO as _INFO
from balancer.observe.answer import Said as _Said

if TYPE_CHECKING:
    from balancer.observe.command import Desk, Level, Session

__all__ = ["lowers", "prompt", "quit_", "set_severity", "set_timeout", "show_level", "show_sockets"]

_Run = Callable[["Session", "Desk", list[str]], Awaitable[_Said]]

_LONGEST_TIMEOUT = 86400.0
_PROMPT_USAGE = """Usage: prompt [help | n | i | p | timed]*
What becomes of the connection after a line, and whether there is a prompt:
  help    this text
  n       the connection ends after the line
  i       it goes on, without a prompt
  p       it goes on, with a prompt
  timed   with a prompt that tells for how long the daemon has been running, or no longer so
Without any of these: from n or i to p, from p to n.
"""


async def prompt(session: Session, _: Desk, rest: list[str]) -> _Said:
    mode = ""
    for word in rest:
        if word not in ("n", "i", "p", "timed"):
            return _Said(_PROMPT_USAGE, _INFO if word == "help" else _ERROR)
        mode = word if word != "timed" else mode
    if "timed" in rest:
        session.tells_time = not session.tells_time
        mode = mode or "p"
    mode = mode or ("n" if session.is_interactive and session.has_prompt else "p")
    session.is_interactive, session.has_prompt = mode != "n", mode == "p"
    return _Said("")


def lowers(level: Level) -> _Run:
    async def run(session: Session, _: Desk, __: list[str]) -> _Said:
        # Nobody gets more than he had.
        if session.level < level:
            return _Said("Permission denied", _ERROR)
        session.level = level
        return _Said("")

    return run


async def show_sockets(_: Session, desk: Desk, __: list[str]) -> _Said:
    return _Said("# socket lvl processes\n" + "".join(f"unix@{path} {level} all\n" for path, level in desk.sockets))


async def show_level(session: Session, _: Desk, __: list[str]) -> _Said:
    return _Said(session.level.name.lower())


async def quit_(session: Session, _: Desk, __: list[str]) -> _Said:
    session.is_over = True
    return _Said("")


async def set_severity(session: Session, _: Desk, rest: list[str]) -> _Said:
    if len(rest) != 1 or rest[0] not in ("none", "number", "string"):
        return _Said("one of 'none', 'number', 'string' is a required argument", _ERROR)
    session.severity = rest[0]
    return _Said("")


async def set_timeout(session: Session, _: Desk, rest: list[str]) -> _Said:
    if rest[:1] != ["cli"]:
        return _Said("'set timeout' only supports 'cli'.", _ERROR)
    try:
        (text,) = rest[1:]
        seconds = float(text) if text.isdecimal() else units.duration(text)
    except ValueError:
        return _Said("Expects an integer value.", _ERROR)
    session.timeout = min(max(seconds, 1.0), _LONGEST_TIMEOUT)
    return _Said("")
