"""`pybalancer events`: what happened, and what happens."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple, TextIO

from balancer.errors import BalancerError
from balancer.observe import client
from balancer.observe.lines import printable
from balancer.terminal.paint import Paint
from balancer.terminal.picture import Tone

__all__ = ["Wish", "show"]

# Seconds between two questions of who follows.
_EVERY = 0.5
_TONES: dict[str, Tone] = {
    "emerg": "bad", "alert": "bad", "crit": "bad", "err": "bad", "warning": "warning", "notice": "aside"
}  # fmt: skip


class Wish(NamedTuple):
    """What is wanted."""

    last: int | None = None
    """So many at the most."""
    since: str | None = None
    """A duration, such as 30m."""
    level: str | None = None
    """As bad as this, or worse."""
    is_json: bool = False
    follows: bool = False


def show(path: str, wish: Wish, *, out: TextIO, err: TextIO) -> int:
    """Show what is known, then, for who follows, what comes; the exit status. BalancerError where the daemon cannot be
    asked; who follows is told once and waits for it."""
    paint = Paint.of(out)
    level = ["level", wish.level] if wish.level is not None else []
    words = [*level]
    if wish.last is not None:
        words += ["last", str(wish.last)]
    if wish.since is not None:
        words += ["since", wish.since]
    cursor, _ = _ask(path, words, wish, paint, out)
    is_away = False
    while wish.follows:
        time.sleep(_EVERY)
        try:
            cursor, is_whole = _ask(path, [*level, "after", cursor], wish, paint, out)
        except BalancerError as error:
            if not is_away:
                print(f"{error}; waiting for it", file=err, flush=True)
            is_away = True
            continue
        is_away = False
        if not is_whole:
            print("between these are others: the daemon was started anew, or has forgotten them", file=err, flush=True)
    return 0


def _ask(path: str, words: list[str], wish: Wish, paint: Paint, out: TextIO) -> tuple[str, bool]:
    """Show what there is; where to go on, and whether nothing is missing."""
    answer = client.ask(path, "show", "events", "json", *words)
    if answer.is_error:
        raise BalancerError(f"{path}: {answer.text.strip()}")
    *lines, end = answer.text.split("\n")[:-1] or [""]
    try:
        last = json.loads(end)
        cursor, is_whole = str(last["cursor"]), bool(last["whole"])
        for line in lines:
            print(line if wish.is_json else _told(json.loads(line), paint), file=out)
    except (ValueError, KeyError, TypeError) as error:
        raise BalancerError(f"{path}: its events cannot be understood ({error!r})") from None
    out.flush()
    return cursor, is_whole


def _told(event: dict[str, Any], paint: Paint) -> str:
    """A line for a person, in local time."""
    at, level = float(event["at"]), str(event["level"])
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    word = f"{level.upper():<7}"
    tone = _TONES.get(level)
    painted = paint.tone(word, tone) if tone is not None else word
    text = printable(str(event["message"]))
    return f"{date}.{int(at % 1 * 1000):03d}  {painted}  {printable(str(event['source'])):<10}  {text}"
