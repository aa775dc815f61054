"""What a reload changes, and what came of it: for the log, for a person, for programs. The commands `reload` and
`show reload` of the runtime socket.

A report is two lines of JSON, for nobody puts together again what the process that read the file has written: a head of
what came of it, and a body of what would become different. What becomes of it for those who asked is one object.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from balancer.config.diff import Key
from balancer.observe.answer import ERROR as _ERROR
from balancer.observe.answer import Said as _Said
from balancer.observe.lines import printable
from balancer.observe.servers import SuccessionError
from balancer.observe.steering import SteeringError

if TYPE_CHECKING:
    from balancer.observe.command import Desk, Session

__all__ = [
    "EMPTY", "Action", "Asking", "Change", "Outcome", "Subject", "body", "document", "head", "line", "lines",
    "reload", "show_reload", "text",
]  # fmt: skip

Action = Literal["added", "removed", "changed"]
Outcome = Literal["reloaded", "checked", "refused", "rolled back"]
"""refused: nothing was begun; rolled back: what came up was ended again. Either way all goes on as before."""
Subject = Literal[
    "workers", "listener", "frontend", "backend", "server", "acl", "user", "virtual router", "vrrp", "global",
    "defaults", "stats", "gateway", "files", "resolvers",
]  # fmt: skip
Asking = Callable[[bool, int | None, str], Awaitable[tuple[int, bytes]]]
"""Has the configuration read again, or (True) only looked at; waits for the answer to an order of before where its
number is given; by whom (empty: who only wants to know). The order's number and the report, empty where there is none.
SteeringError; SuccessionError, with the order's number, where another process will know."""

EMPTY = b'{"changes": [], "more": 0, "warnings": [], "choices": []}'
"""The body where nothing is known of what would become different."""
# A report is some MB then; nobody reads further.
_MOST_CHANGES = 10_000
# Names listed in a line of what is added, removed or changed; the rest is a number.
_MOST_NAMES = 5
_MARKS: Mapping[str, str] = {"added": "+", "removed": "-", "changed": "~"}
_COUNTED = ("frontend", "backend", "server", "virtual router")
_OTHERS = {"acl": "acls", "user": "stats"}


class Change(NamedTuple):
    """One object that is not as it was."""

    what: Subject
    name: str
    action: Action
    keys: tuple[Key, ...] = ()
    """Of one that is changed."""
    effect: str = ""
    """What becomes of connections, and of whatever else it has."""


def line(changes: Iterable[Change]) -> str:
    """All of it in a short line; empty where nothing is different."""
    of: dict[tuple[str, str], list[str]] = {}
    for each in changes:
        of.setdefault((each.what, each.action), []).append(each.name)
    parts = [
        _counted(what, action, of[what, action])
        for what in _COUNTED
        for action in ("added", "removed", "changed")
        if (what, action) in of
    ]
    parts += of.get(("workers", "changed"), [])
    others = dict.fromkeys(
        _OTHERS.get(what, what) for what, _ in of if what not in (*_COUNTED, "workers", "listener", "files")
    )
    if others:
        parts.append(f"changed: {', '.join(others)}")
    if not parts and ("files", "changed") in of:
        parts.append("changed: files that it names")
    return "; ".join(parts)


def _counted(what: str, action: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    plural = "s" if len(names) > 1 else ""
    return f"{len(names)} {what}{plural} {action} ({', '.join(names[:_MOST_NAMES])}{more})"


def lines(changes: Iterable[Change]) -> Iterator[str]:
    """A line each."""
    for each in changes:
        yield _told(each.what, each.name, each.action, [tuple(key) for key in each.keys], each.effect)


def _told(what: str, name: str, action: str, keys: Iterable[Sequence[str]], effect: str) -> str:
    changed = ", ".join(_key(*key) for key in keys)
    said = [part for part in (changed, effect) if part]
    if what == "workers":
        return f"{name}: {effect}"
    told = printable(f"{what} {name}".strip())
    return f"{told} {action}{': ' if said else ''}{'; '.join(said)}"


def _key(key: str, old: str, new: str) -> str:
    if old == new:
        return f"{key} {old}"
    return f"{key} {old or 'not set'} -> {new or 'not set'}"


# Reports


def body(changes: Sequence[Change], warnings: Sequence[str] = (), choices: Sequence[str] = ()) -> bytes:
    """What would become different."""
    told = [
        {
            "what": each.what,
            "name": each.name,
            "action": each.action,
            "keys": [key._asdict() for key in each.keys],
            "effect": each.effect,
        }
        for each in changes[:_MOST_CHANGES]
    ]
    more = max(0, len(changes) - _MOST_CHANGES)
    return json.dumps({"changes": told, "more": more, "warnings": list(warnings), "choices": list(choices)}).encode()


def head(outcome: Outcome, file: str, *, at: float, seconds: float, why: str = "") -> bytes:
    """What came of it. `at` is Unix time, `why` why nothing did."""
    reasons = [each for each in why.splitlines() if each.strip()]
    return json.dumps(
        {"outcome": outcome, "file": file, "at": at, "seconds": round(seconds, 3), "why": reasons}
    ).encode()


def document(report: bytes) -> str:
    """A report as one object of JSON, in a line."""
    first, _, second = report.decode().partition("\n")
    return f"{first[:-1]}, {second[1:]}"


def text(report: Mapping[str, Any]) -> str:
    """The same, as an object, for a person."""
    told = [f"warning: {each}" for each in report["warnings"]] + list(report["choices"])
    for each in report["changes"]:
        keys = [(key["key"], key["old"], key["new"]) for key in each["keys"]]
        mark = "*" if each["what"] == "workers" else _MARKS[each["action"]]
        told.append(f"{mark} {_told(each['what'], each['name'], each['action'], keys, each['effect'])}")
    if report["more"]:
        told.append(f"… and {report['more']} more")
    told += report["why"]
    told.append(_verdict(report))
    return "".join(f"{each}\n" for each in told)


def _verdict(report: Mapping[str, Any]) -> str:
    # A demonstration has none.
    file, seconds = report["file"] or "pybalancer", report["seconds"]
    match report["outcome"]:
        case "reloaded":
            return f"{file}: reloaded in {seconds:.2f} s"
        case "checked":
            return f"{file}: would be loaded; nothing has changed (--dry-run)"
        case "rolled back":
            return f"{file}: not loaded, rolled back after {seconds:.2f} s; all goes on as before"
        case _:
            return f"{file}: not loaded, all goes on as before"


# Commands


async def reload(session: Session, desk: Desk, rest: list[str]) -> _Said:
    """`reload [dry-run] [json]`."""
    return await _ask(desk, "reload", rest, session.who)


async def show_reload(_: Session, desk: Desk, rest: list[str]) -> _Said:
    """`show reload [json]`: what came of the last one. Who asked for one, and was handed over to us, waits for it by
    its number."""
    return await _ask(desk, "show reload", rest, "")


async def _ask(desk: Desk, command: str, rest: list[str], by: str) -> _Said:
    if desk.reload is None:
        return _Said("Nobody here reads the configuration again.", _ERROR)
    left = list(rest)
    is_dry, is_json = (_taken(left, word) for word in ("dry-run", "json"))
    number = int(left.pop()) if not by and left and left[0].isascii() and left[0].isdigit() else None
    if left:
        given = "'dry-run' and 'json'" if by else "'json'"
        return _Said(f"'{command}' has no argument '{left[0]}', but {given}.", _ERROR)
    try:
        _, report = await desk.reload(is_dry, number, by)
    except SuccessionError as error:
        words = ["dry-run"] * is_dry + ["json"] * is_json
        raise SuccessionError(None, ["show", "reload", *words, str(error.args[0])]) from None
    except SteeringError as error:
        return _Said(str(error), _ERROR)
    if not report:
        return _Said("There was no reload yet.")
    found = json.loads(report.partition(b"\n")[0])
    severity = _ERROR if found["outcome"] in ("refused", "rolled back") else None
    whole = document(report)
    return _Said(whole if is_json else text(json.loads(whole)), severity)


def _taken(words: list[str], word: str) -> bool:
    if word not in words:
        return False
    words.remove(word)
    return True
