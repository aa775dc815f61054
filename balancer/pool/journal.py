"""The last events of all processes, in memory that outlives each of them: whoever asks what happened is told of what
a dead process has said too, and of what was before a reload.

An anonymous file (memfd_create(2)) that all append to, a line at a time: with O_APPEND no line gets into another, and
nobody waits for anybody. Whoever has written much gives the pages of its beginning back (madvise(2), MADV_REMOVE), so
that a place in it is never another's, and only so much of it is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Batch", "Event", "Journal"]

_KEPT = 512 * 1024
# Octets that a process writes between two looks at how much there is.
_CARELESS = 64 * 1024
# What is given back at a time: more than all processes write between two looks.
_REACH = 64 * 1024 * 1024
# Of a line; longer texts are no events of ours.
_LONGEST = 8 * 1024
# Severities (RFC 5424 section 6.2.1).
_LEVELS = range(8)


class Event(NamedTuple):
    """Something that happened."""

    at: float
    """Unix time."""
    level: int
    """Severity (RFC 5424 section 6.2.1)."""
    source: str
    """The process that says so: supervisor, control, kernel, `worker 0`, …"""
    text: str


class Batch(NamedTuple):
    """Events since somebody looked last."""

    events: list[Event]
    cursor: str
    """Where to go on."""
    is_whole: bool
    """False: there were more, which are forgotten, or it is another daemon's."""


class Journal:
    """What happened. OSError where there can be no more files.

    It is counted how many have it (`share`, `close`); with the last of a process its descriptor is closed there."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("pybalancer-events")
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND | os.O_RDWR)
        self._name = os.urandom(4).hex()
        self._owners = 1
        self._written = 0

    def share(self) -> Journal:
        """It, for one more."""
        self._owners += 1
        return self

    def close(self) -> None:
        """One less has it."""
        self._owners -= 1
        if not self._owners:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def writer(self, source: str) -> Callable[[float, int, str], None]:
        """For what a process has to say: when (Unix time), how bad, what."""

        def write(at: float, level: int, text: str) -> None:
            self.write(Event(at, level, source, text))

        return write

    def write(self, event: Event) -> None:
        """Never fails, never waits. What cannot be written is not."""
        line = json.dumps([round(event.at, 3), *event[1:]], separators=(",", ":")).encode() + b"\n"
        if len(line) > _LONGEST:
            return
        with contextlib.suppress(OSError):
            self._written += os.write(self._fd, line)
            if self._written > _CARELESS:
                self._written = 0
                self._forget()

    def read(self, cursor: str = "") -> Batch:
        """Those since a `cursor`; all that are kept without one."""
        try:
            size = os.fstat(self._fd).st_size
        except OSError:
            return Batch([], cursor, True)
        begin, is_whole = _place(cursor, self._name, size)
        kept = max(size - _KEPT, 0)
        if begin < kept:
            is_whole = is_whole and not cursor
            begin = kept
            # In the middle of a line, or at the end of the one before.
            octets = os.pread(self._fd, size - begin + 1, begin - 1)
            cut = octets.find(b"\n") + 1
            octets, begin = octets[cut:], begin - 1 + cut
        else:
            octets = os.pread(self._fd, size - begin, begin)
        # One may be at it.
        end = octets.rfind(b"\n") + 1
        events = [event for line in octets[:end].splitlines() if (event := _event(line)) is not None]
        return Batch(events, f"{self._name}.{begin + end}", is_whole)

    def _forget(self) -> None:
        page = mmap.PAGESIZE
        end = (os.fstat(self._fd).st_size - _KEPT) // page * page
        begin = max(end - _REACH, 0)
        if end > begin:
            with mmap.mmap(self._fd, end - begin, offset=begin) as past:
                past.madvise(mmap.MADV_REMOVE)


def _place(cursor: str, name: str, size: int) -> tuple[int, bool]:
    """Where it stands, and whether it is one of ours."""
    of, _, text = cursor.partition(".")
    if of == name and text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= size:
        return int(text), True
    return 0, not cursor


def _event(line: bytes) -> Event | None:
    """None for what no event was written as: its writer may have died over it."""
    try:
        found: Any = json.loads(line)
        at, level, source, text = found
        if isinstance(source, str) and isinstance(text, str) and level in _LEVELS:
            return Event(float(at), int(level), source, text)
    except (ValueError, TypeError, RecursionError):
        pass
    return None
