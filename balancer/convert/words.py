"""What all formats share: a line with its place, notes on what became of it, references to the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from balancer.errors import BalancerError

__all__ = [
    "TOO_SHORT",
    "CannotError",
    "Fate",
    "Line",
    "Note",
    "Place",
    "Report",
    "UnreadableError",
    "milliseconds",
    "number",
    "quoted_environment",
    "read_text",
    "reference",
    "shown_path",
    "size",
    "with_values",
]

# Some hundred thousand lines; more is no configuration.
_LARGEST_FILE = 8 << 20
# A reference to an environment variable within a word, from Unicode's private use: no text has them, see read_text.
_OPEN, _CLOSE = "\ue000", "\ue001"
_REFERENCE = re.compile(f"{_OPEN}([A-Za-z0-9_]+){_CLOSE}")
_TIME = re.compile(r"([0-9]{1,12})(us|ms|s|m|h|d)?")
_MICROSECONDS = {"us": 1, "ms": 1000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_SIZE = re.compile(r"([0-9]{1,12})([kmgKMG]?)")
# Words after which nothing is for others to read: a password with a blank in it, not in quotes, is several words.
_SECRETS = frozenset(("auth", "auth_pass", "password", "insecure-password", "digest", "authorization", "key"))


class UnreadableError(BalancerError):
    """A file that cannot be read, or is none of those that can be imported."""


TOO_SHORT = "a word is missing"
"""Why, where a directive has fewer words than it wants (IndexError)."""


class CannotError(Exception):
    """There is no word for it here; the text says why, and what comes nearest."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Fate(StrEnum):
    """What became of a directive that no part of the result bears the name of."""

    LOST = "not translated"
    OTHER = "translated, but not quite the same"
    IDLE = "nothing to write: it is so anyway, or has no meaning here"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file; lines count from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Line:
    """A directive: its words, without quotes and comments. `inherited`: it stands in a defaults section. `of_users`: in
    a list of users, where a password may stand in the place of any word but the first."""

    words: tuple[str, ...]
    place: Place
    inherited: bool = False
    of_users: bool = False

    def __str__(self) -> str:
        """As it may be shown to anybody: no secrets, and short."""
        shown = []
        for i, word in enumerate(self.words):
            shown.append(quoted_environment(word))
            if i + 1 < len(self.words) and (self.of_users or word.lower() in _SECRETS):
                shown.append("…")
                break
        text = _printable(" ".join(shown))
        return text if len(text) <= 100 else text[:99] + "…"


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a line, where that is to be told."""

    place: Place
    directive: str
    fate: Fate
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.directive}: {self.why}"


class Report:
    """The notes of an import, each once."""

    def __init__(self) -> None:
        self._notes: dict[Note, None] = {}
        self._sections: list[tuple[Line, list[Line]]] = []

    def begins(self, head: Line, lines: list[Line]) -> None:
        """A section, and what stands in it."""
        self._sections.append((head, lines))

    def finish(self, kept: set[Place]) -> None:
        """Tell of the lines of sections of which nothing is left; `kept` are the places of what is."""
        told = {note.place: note.fate for note in self._notes}
        for head, lines in self._sections:
            if head.place in kept or head.place not in told:
                continue
            for line in lines:
                if line.place not in kept and line.place not in told:
                    self.say(line, told[head.place], f"belongs to what is left out ({head})")

    def say(self, line: Line, fate: Fate, why: str) -> None:
        self._notes[Note(line.place, str(line), fate, _printable(quoted_environment(why)))] = None

    def lost(self, line: Line, why: str) -> None:
        self.say(line, Fate.LOST, why)

    def other(self, line: Line, why: str) -> None:
        self.say(line, Fate.OTHER, why)

    def idle(self, line: Line, why: str) -> None:
        self.say(line, Fate.IDLE, why)

    def of(self, fate: Fate) -> list[Note]:
        """In the order of the files."""
        order = {file: i for i, file in enumerate(dict.fromkeys(note.place.file for note in self._notes))}
        found = [note for note in self._notes if note.fate is fate]
        return sorted(found, key=lambda note: (order[note.place.file], note.place.line))

    @property
    def told(self) -> list[Note]:
        """Those that change what happens."""
        return [*self.of(Fate.LOST), *self.of(Fate.OTHER)]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def read_text(path: str | os.PathLike[str]) -> str:
    """A file's text; UnreadableError says why there is none."""
    try:
        with Path(path).open("rb") as stream:
            octets = stream.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableError(f"{shown_path(path)}: cannot be read: {reason}") from None
    if len(octets) > _LARGEST_FILE:
        raise UnreadableError(f"{shown_path(path)}: is too large; {_LARGEST_FILE >> 20} MiB are allowed")
    if b"\0" in octets:
        raise UnreadableError(f"{shown_path(path)}: is no text: it holds NUL octets")
    text = octets.decode("utf-8-sig", "replace")
    return text.translate({ord(_OPEN): "?", ord(_CLOSE): "?"})


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path in one line of text, whatever it is made of."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def reference(name: str) -> str:
    """What stands in a word for the environment variable `name`, which stays one in the result."""
    return f"{_OPEN}{name}{_CLOSE}"


def with_values(word: str, environ: Mapping[str, str]) -> str:
    """A word with the variables' values, where it has to be understood here."""
    return _REFERENCE.sub(lambda match: environ.get(match[1], ""), word)


def quoted_environment(text: str) -> str:
    """Text as balancer.yaml has it: `${NAME}` is a variable, `$${` a plain `${`."""
    return _REFERENCE.sub(r"${\1}", text.replace("${", "$${"))


def milliseconds(word: str, *, unit: str = "ms") -> str | None:
    """A time of HAProxy's as a duration here; None for 0, which stands for no end. CannotError where it is none."""
    match = _TIME.fullmatch(word)
    if match is None:
        raise CannotError(f"{word!r} is no time")
    written = match[2] or unit
    value = int(match[1])
    if not value:
        return None
    if match[2] is None:
        micro = value * _MICROSECONDS[unit]
        written = next(each for each in ("h", "m", "s", "ms", "us") if micro % _MICROSECONDS[each] == 0)
        value = micro // _MICROSECONDS[written]
        if written in ("m", "h") and value == 1:
            # 60s and 60m read better, and 1000 is 1s.
            written, value = {"m": "s", "h": "m"}[written], 60
    return f"{value}{written}"


def number(word: str, *, least: int = 0, most: int = 10**9) -> int:
    """A whole number; CannotError where it is none."""
    if not (word.isascii() and word.isdigit()) or not least <= int(word[:12]) <= most:
        raise CannotError(f"{word!r} is no number from {least} to {most}")
    return int(word)


def size(word: str, *, unit: int = 1) -> int:
    """Octets, written with or without k, m or g."""
    match = _SIZE.fullmatch(word)
    if match is None:
        raise CannotError(f"{word!r} is no size")
    return int(match[1]) * ({"": unit, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2].lower()])
