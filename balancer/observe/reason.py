"""Why something is changed, and until when: words at the end of a command, which HAProxy's own clients never send.

    set server web/web1 state drain for 2h why new disk
    set server web/web1 weight 5 until 18:00
    set server web/web1 state maint why new disk until 2026-11-24T08:00

Pure: `now` is an argument, Unix time in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from balancer.config import units
from balancer.observe.lines import printable
from balancer.pool.overrides import LONGEST_WHY

__all__ = ["Reason", "moment", "reasoned"]

_WHY, _FOR, _UNTIL = "why", "for", "until"
# The words before these are the command's own: a backend may be called so.
_FIRST = 3
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_QUOTES = "\"'"


class Reason(NamedTuple):
    """What stood there."""

    why: str = ""
    until: float | None = None
    """Unix time in seconds."""


def reasoned(words: Sequence[str], now: float) -> tuple[list[str], Reason]:
    """The command without its reason, and that. ValueError says what is wrong with it."""
    words = list(words)
    begin = next((i for i, word in enumerate(words) if i >= _FIRST and word in (_WHY, _FOR, _UNTIL)), len(words))
    command, rest = words[:begin], words[begin:]
    why: list[str] = []
    until: float | None = None
    while rest:
        word, *rest = rest
        if word == _WHY:
            # One word with spaces in it, or all to the end, but for the time that may stand there.
            end = 1 if rest and " " in rest[0] else len(rest) - 2 * (rest[-2:-1] in ([_FOR], [_UNTIL]))
            why, rest = rest[:end], rest[end:]
            if not why:
                raise ValueError("'why' wants a reason.")
        elif not rest or word not in (_FOR, _UNTIL) or until is not None:
            raise ValueError("After a change there may be 'for' and a duration or 'until' and a time, and 'why'.")
        elif word == _FOR:
            until, rest = now + _duration(rest[0]), rest[1:]
        else:
            until, rest = moment(rest[0], now), rest[1:]
    text = printable(" ".join(why).strip())
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        text = text[1:-1]
    return command, Reason(text[:LONGEST_WHY], until)


def _duration(text: str) -> float:
    try:
        return units.duration(text)
    except ValueError:
        raise ValueError("'for' wants a duration, such as 30m or 2h.") from None


def moment(text: str, now: float) -> float:
    """`18:00`, the next time that it is so late here, or a date with its time (ISO 8601): Unix time, after `now`.
    ValueError."""
    here = datetime.fromtimestamp(now)  # of this host's clock on the wall
    clock = _CLOCK.fullmatch(text)
    try:
        if clock is not None:
            found = here.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
            at = (found if found > here else found + timedelta(days=1)).timestamp()
        else:
            at = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError("'until' wants a time, such as 18:00 or 2026-11-24T08:00.") from None
    if at <= now:
        raise ValueError(f"{text} is over already.")
    return at
