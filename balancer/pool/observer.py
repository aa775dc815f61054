"""What a worker sees of a server that it sends clients to: errors in a row (HAProxy's `observe`, __health_adjust).

Each worker counts by itself; control puts the counts together and decides (`Errors`). A server that nobody observes has
no observer, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from balancer.pool.server import Server

__all__ = ["Cells", "Errors", "Observer", "Seen"]


class _Session(Protocol):
    """Somebody whom a server has served, or was to serve."""

    @property
    def is_connected(self) -> bool:
        """Was there ever a connection to a server?"""

    @property
    def answered(self) -> int:
        """The status of the server's response; -1 where there was none, or none that could be used."""


_Cell = memoryview | list[int]


class Cells(NamedTuple):
    """Where an observer's numbers stand: of `obs_run`, `obs_ok` and `obs_peak`."""

    run: _Cell
    success: _Cell
    peak: _Cell


class Observer:
    """One server's. It stands in for the set of its sessions, since whoever ends leaves that.

    `clock` gives monotonic seconds; `cells` are the shared memory of what it counts, written at once: an error that is
    told late would count behind a success of another worker that it came before. `alarm` is called when there were as
    many errors in a row as are too many.
    """

    def __init__(self, server: Server, clock: Callable[[], float], cells: Cells, alarm: Callable[[], None]) -> None:
        self._counters = server.counters
        self._is_http = server.config.observe == "layer7"
        self._limit = server.config.error_limit
        self._clock = clock
        self._cells = cells
        self._alarm = alarm
        self._began = 0
        self._blamed: object = None
        self._responses = self._counters.eresp
        server.observer = self
        server.sessions = _Sessions(self, keeps=server.watches_sessions)
        server.watches_sessions = True

    def failed(self, session: object, *, is_connected: bool = False) -> None:
        """The server did not take the connection, or (`is_connected`) ended it without a response."""
        if not is_connected:
            self._blamed = session
        if self._is_http or not is_connected:
            self._count()

    def ended(self, session: _Session) -> None:
        """The server has served it, or has failed it."""
        blamed, self._blamed = self._blamed, None
        if blamed is session:
            return
        if not self._is_http:
            if session.is_connected:
                self._clear()
            return
        counters, status = self._counters, session.answered
        if counters.eresp != self._responses:
            self._responses = counters.eresp
            self._count()
        elif status >= 500 and status not in (501, 505):
            self._count()
        elif status >= 0:
            self._clear()

    def _clear(self) -> None:
        counters, cells = self._counters, self._cells
        if counters.obs_run:
            cells.run[0] = counters.obs_run = 0
        cells.success[0] = counters.obs_ok = int(self._clock() * 1e6)

    def _count(self) -> None:
        counters = self._counters
        if counters.obs_run % self._limit == 0:
            self._began = int(self._clock() * 1e6)
        counters.obs_run += 1
        if counters.obs_run % self._limit == 0:
            self._cells.peak[0] = counters.obs_peak = self._began
            self._alarm()
        self._cells.run[0] = counters.obs_run


class _Sessions(set[Any]):
    """Sessions to be closed when the server goes down, if `keeps`; the observer hears of all that end."""

    __slots__ = ("_keeps", "_observer")

    def __init__(self, observer: Observer, *, keeps: bool) -> None:
        super().__init__()
        self._observer = observer
        self._keeps = keeps

    def add(self, session: Any) -> None:
        if self._keeps:
            super().add(session)

    def discard(self, session: Any) -> None:
        super().discard(session)
        self._observer.ended(session)


class Seen(NamedTuple):
    """What one worker has counted of a server."""

    run: int
    """Errors since the last success."""
    success: int
    """When that was: monotonic microseconds."""
    peak: int
    """When those began that were too many in a row, the last time that there were."""


class Errors:
    """In control: a server's errors in a row over all workers.

    In which order workers saw what between two looks nobody knows: what may have come before a success does not count.
    So there may have been some more, never fewer.
    """

    def __init__(self, limit: int, seen: Sequence[Seen]) -> None:
        self.limit = limit
        self._seen = list(seen)
        self._count = 0

    def are_too_many(self, seen: Sequence[Seen]) -> bool:
        """Whether there were as many as `limit` by now; they count anew then."""
        before, self._seen = self._seen, list(seen)
        pairs = list(zip(before, seen, strict=True))
        cleared = [now.run for old, now in pairs if now.success != old.success]
        if cleared:
            self._count = min(cleared)
        else:
            self._count += sum(max(now.run - old.run, 0) for old, now in pairs)
        # A worker does not see the others' successes.
        success = max(now.success for now in seen)
        if self._count < self.limit and not any(now.peak != old.peak and now.peak > success for old, now in pairs):
            return False
        self._count = 0
        return True
