"""When each check is due, and which may start now. Times are seconds of a clock that is never set.

Every slot has a grid: its moments are `grid` plus multiples of its interval. Grids are spread over the
interval when slots are added, and whatever comes between (a check out of turn, an interval that changes,
a stall of the process) the next check returns to the grid. So checks neither drift nor bunch up.

Checks under way are limited. Those that never ended yet or took long the last time may take half of the
places only: a rack that vanished cannot delay the checks of the servers that are left.
"""

from __future__ import annotations

import heapq
from collections import deque
from enum import Enum
from math import ceil
from typing import Generic, TypeVar

__all__ = ["Schedule", "Slot"]

# Multiples of the golden ratio, their whole parts taken off, fill an interval evenly however many there are,
# and neighbours (servers of one backend) come far apart.
_GOLDEN = 0.6180339887498949
# What is due within this time starts together: thousands of checks need not wake us for each.
_SLACK = 0.005


class _Phase(Enum):
    IDLE = "not scheduled"
    WAITING = "for its time"
    READY = "for a free place"
    RUNNING = "under way"


class Slot:
    """One recurring check."""

    __slots__ = ("due", "grid", "is_prompt", "phase", "started", "ticket")

    def __init__(self) -> None:
        self.phase = _Phase.IDLE
        self.due = 0.0
        self.grid = 0.0
        self.started = float("-inf")
        """When the last check began."""
        self.is_prompt = False
        """Whether the last check ended early: the next one will hardly hold its place for long."""
        # Marks the one valid entry of the heap.
        self.ticket = 0

    @property
    def is_running(self) -> bool:
        return self.phase is _Phase.RUNNING


S = TypeVar("S", bound="Slot")


class Schedule(Generic[S]):
    """Slots in the order in which they are due."""

    def __init__(self, places: int) -> None:
        """`places`: how many checks may be under way at once."""
        self._places = places
        self._places_for_slow = max(places // 2, 1)
        self._heap: list[tuple[float, int, S]] = []
        self._tickets = 0
        self._prompt: deque[S] = deque()
        self._slow: deque[S] = deque()
        self._running: dict[S, bool] = {}
        self._running_slow = 0
        self._added = 0

    def add(self, slot: S, now: float, interval: float) -> None:
        """First check now, later ones on a grid of its own."""
        slot.grid = now + interval * (self._added * _GOLDEN % 1)
        self._added += 1
        self._wait(slot, now)

    def at_once(self, slot: S, now: float) -> None:
        """A check out of turn, unless one waits for its place or is under way."""
        if slot.phase in (_Phase.IDLE, _Phase.WAITING):
            self._wait(slot, now)

    def hurry(self, slot: S, now: float, gap: float) -> None:
        """A check out of turn, but not within `gap` seconds of the last one's begin."""
        due = max(now, slot.started + gap)
        if slot.phase is _Phase.WAITING and due < slot.due:
            self._wait(slot, due)

    def take(self, now: float, most: int) -> list[S]:
        """Up to `most` slots whose checks start now."""
        heap = self._heap
        while heap and heap[0][0] <= now + _SLACK:
            _, ticket, slot = heapq.heappop(heap)
            if slot.ticket == ticket:
                slot.phase = _Phase.READY
                (self._prompt if slot.is_prompt else self._slow).append(slot)
        taken: list[S] = []
        while len(taken) < most:
            ready = self._startable()
            if ready is None:
                break
            slot = ready.popleft()
            if slot.phase is not _Phase.READY:
                continue
            slot.phase = _Phase.RUNNING
            slot.started = now
            self._running[slot] = slot.is_prompt
            self._running_slow += not slot.is_prompt
            taken.append(slot)
        return taken

    def finish(self, slot: S, interval: float, *, is_prompt: bool) -> None:
        """The check under way has ended; the next comes `interval` seconds after its begin, on the grid.

        That may be in the past, where the check took longer: then it is due at once.
        """
        self._leave(slot)
        slot.is_prompt = is_prompt
        # The first moment on the grid at least half an interval after the last begin.
        slot.grid += ceil((slot.started + interval / 2 - slot.grid) / interval) * interval
        self._wait(slot, slot.grid)

    def remove(self, slot: S) -> None:
        """No more checks of this slot; one under way no longer counts."""
        if slot.phase is _Phase.RUNNING:
            self._leave(slot)
        slot.phase = _Phase.IDLE
        slot.ticket = 0

    def wake_at(self) -> float | None:
        """When `take` has something to give; None: not before another check ends or a slot is added."""
        if self._startable() is not None:
            return float("-inf")
        heap = self._heap
        while heap and heap[0][2].ticket != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _startable(self) -> deque[S] | None:
        if len(self._running) >= self._places:
            return None
        prompt, slow = self._prompt, self._slow
        if slow and self._running_slow < self._places_for_slow and not (prompt and prompt[0].due <= slow[0].due):
            return slow
        return prompt or None

    def _wait(self, slot: S, due: float) -> None:
        self._tickets += 1
        slot.ticket = self._tickets
        slot.phase = _Phase.WAITING
        slot.due = due
        heapq.heappush(self._heap, (due, slot.ticket, slot))

    def _leave(self, slot: S) -> None:
        self._running_slow -= not self._running.pop(slot)
