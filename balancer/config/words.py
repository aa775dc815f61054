"""How complaints are worded: what the operator wrote, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["a_list_of", "did_you_mean", "printable", "shown"]

# What a line of an error text can hold; a value may be megabytes long.
_LONGEST_SHOWN = 60
# Comparing is quadratic: beyond these nobody's typo is found by it, and a hostile file would cost minutes.
_LONGEST_WORD = 64
_MOST_CHOICES = 300


def shown(value: Any) -> str:
    """A value as the operator knows it, in YAML's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str() if len(value) > _LONGEST_SHOWN:
            return f"{value[:_LONGEST_SHOWN]!r}…"
        case str() | int() | float():
            return repr(value)
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return "this"


def did_you_mean(word: Any, choices: Iterable[str]) -> str:
    """`; did you mean X?` when one of `choices` is near `word`, else nothing."""
    if not isinstance(word, str) or len(word) > _LONGEST_WORD:
        return ""
    choices = list(choices)
    if len(choices) > _MOST_CHOICES:
        return ""
    alike = {_plain(choice): choice for choice in choices}
    near = difflib.get_close_matches(_plain(word), alike, n=1, cutoff=0.7)
    return f"; did you mean {printable(alike[near[0]])}?" if near and alike[near[0]] != word else ""


def a_list_of(choices: Iterable[str], *, last: str = "or") -> str:
    """`a, b or c`."""
    *head, tail = choices
    return f"{', '.join(head)} {last} {tail}" if head else tail


def printable(word: str) -> str:
    """`word`, quoted and cut where it would spoil a line."""
    return word if word.isprintable() and 0 < len(word) <= _LONGEST_SHOWN else shown(word)


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
