"""What one process has of a limit on connections.

Places are taken some at a time and kept for the next connection, so that most cost no system call. Who finds none says
so (`Line.wait`) and rings; then the others give back what they do not use, and what becomes free with them, as long as
anybody waits. So the limit is exact, and while it is far away nobody has to do with the others.

Pure: no clock, no socket. `since` is when somebody came, in microseconds of a clock that all processes share.
"""

from __future__ import annotations

import math
from typing import Protocol

from balancer.pool.waiting import Line

__all__ = ["Hoard", "Share", "batch_for"]

# Places taken at a time: more would save nothing, and of a low limit each process would have too many.
_LARGEST_BATCH = 32


def batch_for(total: int, processes: int) -> int:
    """How many to take at a time."""
    return max(1, min(_LARGEST_BATCH, total // (8 * processes)))


class Hoard(Line, Protocol):
    """Where they are taken from."""

    @property
    def is_tight(self) -> bool:
        """Whether more are out than there may be."""

    def take(self) -> bool:
        """One, if there is one."""

    def give(self, count: int = 1) -> None:
        """Back."""


class Share:
    """`limit` is how many we have; whoever uses them counts what is used. `most`: we want no more than these."""

    __slots__ = ("_batch", "_hoard", "_most", "_told", "is_wanted", "limit")

    def __init__(self, hoard: Hoard | None, *, batch: int = 1, most: float = math.inf) -> None:
        """Without a hoard there is no limit."""
        self._hoard = hoard
        self._batch = batch
        self._most = most
        self._told = (0, 0)
        self.limit: float = 0 if hoard is not None else math.inf
        self.is_wanted = False
        """Somebody elsewhere waits, or there are too many out: what is not used is given back (`yield_unused`)."""

    def extend(self, since: int, *, is_patient: bool = True) -> bool:
        """More, for somebody who came then; whether there are. Not `is_patient`: also if others came earlier."""
        hoard = self._hoard
        if hoard is None:
            return True
        if self.limit >= self._most:
            return False
        if is_patient:
            theirs = hoard.oldest_elsewhere
            if theirs and theirs < since:
                return False
        before = self.limit
        # Who waits elsewhere is to find the rest.
        batch = 1 if self.is_wanted else self._batch
        while self.limit < min(before + batch, self._most) and hoard.take():
            self.limit += 1
        return self.limit > before

    @property
    def is_at_most(self) -> bool:
        """Others can do nothing for us: we may not have more."""
        return self.limit >= self._most

    def wait(self, since: int, length: int) -> bool:
        """Tell the others that `length` of ours wait, the first since then; whether that is news that they should be
        woken for."""
        if self._hoard is None or self._told == (since, length):
            return False
        began = bool(length) and not self._told[1]
        self._told = (since, length)
        self._hoard.wait(since, length)
        return began

    def listen(self) -> None:
        """The bell has rung: look whether somebody waits elsewhere."""
        self.is_wanted = self._hoard is not None and self._hoard.oldest_elsewhere > 0

    def yield_unused(self, used: int, since: int) -> bool:
        """Give back what is not used if there are too many out, or somebody waits elsewhere, unless one of ours came
        before him (`since`; 0: none of ours waits); whether anything was given."""
        hoard = self._hoard
        if hoard is None:
            return False
        if hoard.is_tight:
            return self._give(used)
        theirs = hoard.oldest_elsewhere
        if not theirs:
            self.is_wanted = False
            return False
        if since and since <= theirs:
            return False
        return self._give(used)

    def tidy(self, used: int, *, is_over: bool = False) -> None:
        """Keep not much more than is used; nothing of it where there are too many out, or `is_over`."""
        if self._hoard is None:
            return
        if is_over or self._hoard.is_tight:
            # What becomes free from now on, too, before somebody of ours has it.
            self.is_wanted = True
            self._give(used)
        elif self.limit > used + 2 * self._batch:
            self._give(used + self._batch)

    def _give(self, keep: int) -> bool:
        surplus = int(self.limit) - keep
        if surplus <= 0 or self._hoard is None:
            return False
        self.limit = float(keep)
        self._hoard.give(surplus)
        return True
