"""`show events`: what happened, for a person or as JSON, and where to go on asking. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from balancer.config import units
from balancer.observe import lines
from balancer.observe.sinks import Level
from balancer.pool.journal import Batch, Event

__all__ = ["USAGE", "Question", "answer", "as_json", "question"]

USAGE = "usage: show events [json] [last <number>] [since <duration>|<unix time>] [level <name>] [after <cursor>]"
_CURSOR = re.compile(r"[0-9a-f]{8}\.[0-9]{1,19}")
_UNIX = re.compile(r"[0-9]{9,11}(\.[0-9]{1,6})?")
_NUMBER = re.compile(r"[0-9]{1,6}")


class Question(NamedTuple):
    """What is wanted."""

    is_json: bool = False
    last: int | None = None
    """So many at the most, the latest."""
    since: float = 0.0
    """Unix time."""
    level: int = Level.DEBUG
    """As bad as this, or worse."""
    after: str = ""


def question(words: Sequence[str], now: float) -> Question:
    """What the words of a command ask for. ValueError, with the usage, where they make no sense."""
    asked = Question()
    rest = list(words)
    while rest:
        match rest:
            case ["json", *more]:
                asked = asked._replace(is_json=True)
            case ["last", text, *more] if _NUMBER.fullmatch(text):
                asked = asked._replace(last=int(text))
            case ["since", text, *more]:
                asked = asked._replace(since=_since(text, now))
            case ["level", text, *more] if text.upper() in Level.__members__:
                asked = asked._replace(level=Level[text.upper()])
            case ["after", text, *more] if _CURSOR.fullmatch(text):
                asked = asked._replace(after=text)
            case _:
                raise ValueError(USAGE)
        rest = more
    return asked


def _since(text: str, now: float) -> float:
    if _UNIX.fullmatch(text):
        return float(text)
    try:
        return now - units.duration(text)
    except ValueError:
        raise ValueError(USAGE) from None


def answer(asked: Question, read: Callable[[str], Batch]) -> str:
    """In whole lines: the events, the oldest first. As JSON, an object each, and at the end one with the `cursor` to
    ask `after` the next time and whether it is `whole`: false where some are forgotten."""
    batch = read(asked.after)
    # Two processes may have written in another order than it happened.
    events = sorted(each for each in batch.events if each.at >= asked.since and each.level <= asked.level)
    if asked.last is not None:
        events = events[max(len(events) - asked.last, 0) :]
    if asked.is_json:
        end = json.dumps({"cursor": batch.cursor, "whole": batch.is_whole})
        return "".join(f"{as_json(each)}\n" for each in events) + f"{end}\n"
    return "".join(
        f"[{lines.clf_date(each.at)}] {Level(each.level).name} {each.source}: {lines.printable(each.text)}\n"
        for each in events
    )


def as_json(event: Event) -> str:
    """With the keys of the log's JSON lines."""
    return json.dumps(
        {
            "time": lines.rfc3339_date(event.at),
            "type": "event",
            "level": Level(event.level).name.lower(),
            "source": event.source,
            "message": event.text,
            "at": event.at,
        }
    )
