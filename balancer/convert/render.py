"""The tree as text: YAML that a person would have written, with the place that each part came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from balancer.convert.tree import Loc, Map, Seq
from balancer.convert.words import Line, Place, quoted_environment

__all__ = ["commented", "plain", "with_places"]

_WIDTH = 112
_COMMENT_COLUMN = 56
# What YAML 1.1 takes for text without quotes, also between { } and [ ].
_BARE = re.compile(r"[A-Za-z/][A-Za-z0-9_./+-]*(?::[0-9]+)?|[0-9]+(?:\.[0-9]+)*(?:us|ms|s|m|h|d|k|g)")
_NOT_TEXT = re.compile(r"(?i)y|n|yes|no|true|false|on|off|null|nan|inf|[0-9_]+|[0-9.]+(?:e[0-9]+)?|[0-9]+(?::[0-9]+)+")
_ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]{1,5}|/[0-9]{1,2})?")
_DIGITS_FIRST = re.compile(r"[0-9]+(?:us|ms|s|m|h|d|k|g)")


def commented(root: Map, label: Callable[[Place], str]) -> str:
    """For people; `label` is how a place is called."""
    lines: list[tuple[str, Place | None]] = []
    for key, value in root.items():
        if lines:
            lines.append(("", None))
        lines += _entry(key, value, root.origins.get(key), 0, None)
    rows = []
    for text, place in lines:
        gap = " " * max(2, _COMMENT_COLUMN - len(text))
        rows.append(f"{text}{gap}# {label(place)}\n" if place is not None else f"{text}\n")
    return "".join(rows)


def with_places(root: Map) -> tuple[str, list[Loc]]:
    """For the machine: a value on each line, and where in the tree each line stands."""
    lines: list[str] = []
    locs: list[Loc] = []
    _spread(root, 0, (), lines, locs)
    return "\n".join(lines) + "\n", locs


def plain(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {plain(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(plain, value)) + "]"
    return _scalar(value)


def _spread(value: Any, depth: int, loc: Loc, lines: list[str], locs: list[Loc]) -> None:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for step, each in pairs:
        head = "  " * depth + (f"{_key(step)}:" if isinstance(value, dict) else "-")
        locs.append((*loc, step))
        if isinstance(each, (dict, list, tuple)) and each:
            lines.append(head)
            _spread(each, depth + 1, (*loc, step), lines, locs)
        else:
            lines.append(f"{head} {plain(each)}")


def _entry(
    key: str, value: Any, line: Line | None, depth: int, above: Place | None
) -> Iterator[tuple[str, Place | None]]:
    head = f"{'  ' * depth}{_key(key)}:"
    yield from _value(head, value, line, depth, above)


def _value(
    head: str, value: Any, line: Line | None, depth: int, above: Place | None
) -> Iterator[tuple[str, Place | None]]:
    place = line.place if line is not None else None
    said = place if place != above else None
    flow = f"{head} {plain(value)}"
    is_small = depth > 0 and (not isinstance(value, (Map, Seq)) or _fits(value, place, depth)) and len(flow) <= _WIDTH
    if not isinstance(value, (dict, list, tuple)) or not value or is_small:
        yield flow, said
        return
    yield head, said
    if isinstance(value, dict):
        for key, each in value.items():
            origin = value.origins.get(key) if isinstance(value, Map) else None
            yield from _entry(key, each, origin, depth + 1, place or above)
        return
    for i, each in enumerate(value):
        origin = value.origins[i] if isinstance(value, Seq) else None
        indent = "  " * (depth + 1)
        text = f"{indent}- {plain(each)}"
        if len(text) <= _WIDTH + 20 or not isinstance(each, dict):
            yield text, origin.place if origin is not None and origin.place != (place or above) else None
        else:
            yield from _long_item(indent, each, origin, depth + 1)


def _long_item(indent: str, item: dict[str, Any], line: Line | None, depth: int) -> Iterator[tuple[str, Place | None]]:
    """A mapping in a list, a key on each line."""
    dash = "- "
    for key, value in item.items():
        rows = list(_value(f"{indent}{dash}{_key(key)}:", value, line if dash == "- " else None, depth + 1, None))
        yield from rows
        dash = "  "


def _fits(value: Map | Seq, place: Place | None, depth: int) -> bool:
    """Whether it reads well in one line: what it is made of came from one line, and is not large."""
    origins = value.origins.values() if isinstance(value, Map) else value.origins
    if any(line is not None and line.place != place for line in origins):
        return False
    inner = value.values() if isinstance(value, Map) else value
    return depth > 1 and all(not isinstance(each, (Map, Seq)) or _fits(each, place, depth) for each in inner)


def _key(key: Any) -> str:
    return _scalar(str(key)) if not str(key).isdigit() else str(key)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = quoted_environment(str(value))
    if _ADDRESS.fullmatch(text) or _DIGITS_FIRST.fullmatch(text):
        return text
    if _BARE.fullmatch(text) and not _NOT_TEXT.fullmatch(text):
        return text
    return _quoted(text)


def _quoted(text: str) -> str:
    """In double quotes, all that YAML does not take as it is escaped."""
    written = json.dumps(text, ensure_ascii=False)
    return "".join(
        c if c.isprintable() else (f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\U{ord(c):08x}") for c in written
    )
