"""Limits that processes share: how many places there are, who holds how many, and who waits for one.

The free places of a limit are the count of an eventfd(2) semaphore: to take one is one system call, exact whoever else
takes one at that moment, and nobody has to be asked. What a process holds stands in shared memory, in a slot of its
own, so that the places of one that dies can be given back; so does since when it waits, so that a place goes to whoever
waits longest, wherever that is.

A process makes its turn odd before it takes or gives and even afterwards. While all are even and stay so, what is held
and what is free are one picture, and the supervisor can set right what a death or another limit has made wrong
(`Limit.settle`). Each number has one writer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

__all__ = ["Limit", "PacedPlaces", "Places"]

# Octets of a native signed 64-bit integer.
_NUMBER = 8
# Numbers of the whole: tight, total; of a slot: held, turn, since, length, load.
_SINGLE, _COLUMNS = 2, 5
# What a limit may be: whoever may write it may write anything.
_MOST_PLACES = 1 << 30
# Places taken away in one go: ten milliseconds.
_MOST_ABSORBED = 16384


class Limit:
    """One limit as the supervisor has it, and all that it forks."""

    __slots__ = ("_held", "_length", "_load", "_since", "_tight", "_total", "_turns", "fd", "has_places")

    def __init__(self, memory: memoryview, total: int, *, is_semaphore: bool = True) -> None:
        """`memory` is `size(slots)` octets, all 0. Without a semaphore there are no places: it is a line alone, and its
        file descriptor a bell. OSError where there can be no more descriptors."""
        numbers = memory.cast("q")
        slots = (len(numbers) - _SINGLE) // _COLUMNS
        self._tight, self._total = numbers[:1], numbers[1:2]
        self._held, self._turns, self._since, self._length, self._load = (
            numbers[_SINGLE + i * slots : _SINGLE + (i + 1) * slots] for i in range(_COLUMNS)
        )
        self.total = total
        self.has_places = is_semaphore
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.fd = os.eventfd(total, flags | os.EFD_SEMAPHORE) if is_semaphore else os.eventfd(0, flags)

    @staticmethod
    def size(slots: int) -> int:
        return _NUMBER * (_SINGLE + _COLUMNS * slots)

    @property
    def total(self) -> int:
        """Places that there are to be, in all; `settle` makes it so. Whoever is forked sees it, and may change it."""
        return min(max(self._total[0], 0), _MOST_PLACES)

    @total.setter
    def total(self, total: int) -> None:
        self._total[0] = total

    @property
    def held(self) -> int:
        """Places taken, by all."""
        return sum(self._held)

    @property
    def free(self) -> int:
        """Places that can be taken (proc(5), fdinfo)."""
        with Path(f"/proc/self/fdinfo/{self.fd}").open("rb") as info:
            return next(int(line.split()[1], 16) for line in info if line.startswith(b"eventfd-count:"))

    @property
    def is_kept(self) -> bool:
        """Nobody gets in over the total; who is in already may be more."""
        free = self.free
        return not free or self.held + free <= self.total

    def forget(self, slot: int) -> bool:
        """Whoever had this slot is no more; whether `settle` is needed."""
        had = self.has_places and bool(self._held[slot] or self._turns[slot] & 1)
        for column in (self._held, self._turns, self._since, self._length, self._load):
            if column[slot]:
                column[slot] = 0
        return had

    def settle(self) -> bool:
        """Bring what is free in line with what is held. False: call again soon, for somebody is just taking or giving,
        or more is held than there may be, or it is to be looked at once more."""
        turns = self._turns.tobytes()
        if any(turn & 1 for turn in self._turns):
            return False
        held, free = self.held, self.free
        if self._turns.tobytes() != turns:
            return False
        # Taking and giving do not change the sum.
        missing = self.total - held - free
        if missing < 0:
            # From now on nobody gives back what is too much.
            self._tight[0] = 1
            self._absorb(min(free, -missing, _MOST_ABSORBED))
            return False
        if missing > 0:
            try:
                # More is never missing, whatever somebody has written.
                os.eventfd_write(self.fd, min(missing, _MOST_PLACES))
            except BlockingIOError:
                return False
        if self._tight[0]:
            # Somebody may have kept one back since we counted.
            self._tight[0] = 0
            return False
        return True

    def _absorb(self, count: int) -> None:
        try:
            for _ in range(count):
                os.eventfd_read(self.fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self.fd)


class Places:
    """A limit as one process has it: takes and gives places, tells that it waits for one."""

    __slots__ = (
        "_fd", "_held", "_length", "_load", "_nobody", "_since", "_slot", "_tight", "_turns"
    )  # fmt: skip

    def __init__(self, limit: Limit, slot: int) -> None:
        self._fd = limit.fd
        self._tight = limit._tight
        self._slot = slot
        self._held = limit._held
        self._turns = limit._turns
        self._since = limit._since
        self._length = limit._length
        self._load = limit._load
        self._nobody = _nobody(self._since.nbytes)

    @property
    def held(self) -> int:
        """How many we have."""
        return self._held[self._slot]

    @property
    def is_tight(self) -> bool:
        """There are more out than there may be: what is done with is to be given back, not used again."""
        return self._tight[0] != 0

    def take(self) -> bool:
        """One more, if there is one."""
        slot, turns = self._slot, self._turns
        turns[slot] += 1
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        else:
            self._held[slot] += 1
            return True
        finally:
            turns[slot] += 1

    def give(self, count: int = 1) -> None:
        """Back."""
        slot, turns = self._slot, self._turns
        turns[slot] += 1
        self._held[slot] -= count
        if not self._tight[0]:
            os.eventfd_write(self._fd, count)
        turns[slot] += 1

    # Who waits

    def wait(self, since: int, length: int) -> None:
        """Tell the others that `length` of ours wait, the first since then (any clock of this host; 0: nobody)."""
        self._since[self._slot] = since
        self._length[self._slot] = length

    @property
    def oldest_elsewhere(self) -> int:
        """Since when somebody waits in another process; 0: nobody does."""
        if self._since.tobytes() == self._nobody:
            return 0
        slot = self._slot
        return min((since for i, since in enumerate(self._since) if since and i != slot), default=0)

    @property
    def length_elsewhere(self) -> int:
        """How many wait in other processes."""
        return sum(self._length) - self._length[self._slot]

    # Of a line alone

    def ring(self) -> None:
        """Wake those who watch `bell`."""
        os.eventfd_write(self._fd, 1)

    @property
    def bell(self) -> int:
        """To be watched for edges (epoll(7), EPOLLET): nobody answers it."""
        return self._fd

    def point(self, number: int) -> None:
        """Tell the others of something, from 1."""
        self._held[self._slot] = number

    @property
    def pointed(self) -> list[int]:
        """What each has told last."""
        return [number for number in self._held if number]

    @property
    def load(self) -> int:
        """How much there is to do, of all."""
        return sum(self._load)

    def weigh(self, load: int) -> None:
        """Tell the others of ours."""
        self._load[self._slot] = load


class PacedPlaces(Places):
    """A limit below which another one moves: `ceiling` says what it is now. What one has counts before he looks at what
    all have, so that of two who take one at a time at least one sees both: never more than there may be."""

    __slots__ = ("_limit", "ceiling")

    def __init__(self, limit: Limit, slot: int) -> None:
        super().__init__(limit, slot)
        self._limit = limit
        self.ceiling: Callable[[], int] = lambda: limit.total

    @property
    def total(self) -> int:
        """What it is at most."""
        return self._limit.total

    @property
    def excess(self) -> int:
        """How many are out above it."""
        return sum(self._held) - self.ceiling()

    @property
    def is_tight(self) -> bool:
        return self._tight[0] != 0 or self.excess > 0

    def take(self) -> bool:
        if not super().take():
            return False
        if self.excess <= 0:
            return True
        super().give()
        return False


@cache
def _nobody(octets: int) -> bytes:
    """One for all limits, of which there may be thousands."""
    return bytes(octets)
