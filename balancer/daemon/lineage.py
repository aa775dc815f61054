"""The generations that there are: one takes clients, those before it finish what they have, and one may be coming.

    coming ── succeed ──► current ── succeed ──► elders ── see_to_elders ──► gone
       └───── abandon ─────────────────────────────▲

Each of before costs processes, and slots in the limits: so many are kept, and they make room for those who come.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from balancer.daemon.generation import GRACE, Child, Generation, surplus
from balancer.daemon.limits import Book, old_workers_for
from balancer.observe.log import Level

if TYPE_CHECKING:
    from balancer.daemon.eventlog import Say

__all__ = ["Lineage"]


class Lineage:
    def __init__(self, current: Generation, elders: list[Generation] | None = None, *, say: Say) -> None:
        self.current = current
        self.elders = elders if elders is not None else []
        """The oldest first."""
        self.coming: Generation | None = None
        """Its workers are to be ready first."""
        self.leaving: Generation | None = None
        """The elder that the current one takes over from: its workers still take clients too."""
        self._say = say
        self._room_until = 0.0
        """Who is ended for new workers' slots has left by then; 0: there is room."""

    @property
    def all(self) -> list[Generation]:
        """The oldest first."""
        return [each for each in (*self.elders, self.current, self.coming) if each is not None]

    @property
    def children(self) -> list[Child]:
        return [child for generation in self.all for child in generation.children]

    @property
    def book(self) -> Book:
        """The limits of all of them."""
        return self.current.memory.book

    def of(self, child: Child) -> Generation | None:
        return next((each for each in self.all if child in each.children), None)

    def beside(self, generation: Generation) -> list[Generation]:
        """All others."""
        return [other for other in self.all if other is not generation]

    def succeed(self, coming: Generation) -> Generation:
        """It is the current one; the one before it, which leaves. One of before may come again."""
        before = self.leaving = self.current
        if coming in self.elders:
            self.elders.remove(coming)
        self.current, self.coming = coming, None
        self.elders.append(before)
        return before

    def abandon(self) -> None:
        """The one that is coming is not to be: nobody has come to its workers yet."""
        coming, self.coming = self.coming, None
        assert coming is not None
        coming.children = [child for child in coming.children if child.pid]
        coming.kill()
        coming.sockets.take_back()
        coming.predecessor = None
        self.elders.insert(0, coming)

    def see_to_elders(self, *, is_quiet: bool) -> None:
        """Kill those whose time is over, and close what those had who have ended."""
        now = time.monotonic()
        for elder in list(self.elders):
            if not elder.children:
                if elder is not self.leaving:
                    self.elders.remove(elder)
                    elder.close()
                    if elder.memory.going[0] and not is_quiet:
                        self._say(Level.NOTICE, "the workers of before the reload have ended")
            elif now >= elder.kill_at and not elder.is_killed:
                elder.kill()

    def waits_for_room(self, workers: int) -> bool:
        """Whether slots for so many new workers are to be free soon; for that, the oldest are ended. Where there are
        none to end, or they do not go, the new ones are refused theirs."""
        now = time.monotonic()
        lack = workers + sum(child.slot is None for child in self.current.workers) - self.book.free
        elders = [elder for elder in self.elders if elder.workers]
        if lack <= 0 or not elders or (self._room_until and now >= self._room_until):
            self._room_until = 0.0
            return False
        if not self._room_until:
            self._room_until = now + 2 * GRACE
            self._say(Level.WARNING, "connections of before a reload are ended: new workers need the room")
            for elder in surplus(elders, sum(len(elder.workers) for elder in elders) - lack, now):
                _end(elder)
        return True

    def end_surplus(self) -> None:
        """Else each reload would add processes, as long as there is a connection for each."""
        most = old_workers_for(self.current.plan.workers)
        for elder in surplus(self.elders, most, time.monotonic()):
            self._say(
                Level.WARNING, f"connections of before a reload are ended: not more than {most} old workers are kept"
            )
            _end(elder)

    def close(self) -> None:
        """Once there are no processes."""
        for generation in self.all:
            generation.sockets.close()
            generation.close()


def _end(elder: Generation) -> None:
    elder.is_ended = True
    elder.kill_at = min(elder.kill_at, time.monotonic() + GRACE)
    for child in elder.children:
        child.tell(signal.SIGUSR2)
