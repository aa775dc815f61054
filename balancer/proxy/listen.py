"""From listening sockets to protocols, within maxconn.

The kernel's backlog is the first queue: at maxconn a frontend stops accepting. What had been accepted in
the same turn of the loop is parked unread, first come first served, so that maxconn is exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from balancer.pool.facts import Counters

__all__ = ["Gate", "Listener", "Parked"]

# After this time (seconds) we look again whether there are file descriptors to listen with.
_SECOND_TRY = 0.5
# Between the last turn of the loop that accepts and the closing of the sockets (seconds).
_CLOSING = 0.02


class Parked(Protocol):
    """A connection that waits for another to end."""

    def unpark(self) -> None:
        """There is room: begin."""


class Gate:
    """Counts the connections of a frontend and of the process, and holds back what is over the limit."""

    __slots__ = (
        "_listener", "_parked", "counters", "is_patient", "limit", "process", "process_limit", "siblings", "stopping"
    )  # fmt: skip

    def __init__(self, counters: Counters, limit: int, process: Counters, process_limit: int) -> None:
        self.counters = counters
        self.limit = limit
        self.process = process
        self.process_limit = process_limit
        self.stopping = False
        """The worker is about to leave: no connection is kept for another request."""
        self.is_patient = False
        """But one that was promised to be kept is, for the last request: nobody hurries us."""
        self._parked: deque[Parked] = deque()
        self._listener: Listener | None = None
        self.siblings: Sequence[Gate] = (self,)
        """All gates of the process: room at one may be room at another."""

    def attach(self, listener: Listener) -> None:
        self._listener = listener

    @property
    def is_full(self) -> bool:
        return self.counters.scur >= self.limit or self.process.scur >= self.process_limit

    def enter(self, connection: Parked) -> bool:
        """A connection was accepted. False: it is parked and `unpark` will be called."""
        if self.is_full or self._parked:
            self._parked.append(connection)
            if self._listener is not None:
                self._listener.pause()
            return False
        self._count()
        return True

    def _count(self) -> None:
        for counters in (self.counters, self.process):
            counters.conn_tot += 1
            counters.stot += 1
            counters.scur += 1
            if counters.scur > counters.smax:
                counters.smax = counters.scur

    def note(self) -> None:
        """A connection was accepted that is gone already: it counts, and is nobody's."""
        for counters in (self.counters, self.process):
            counters.conn_tot += 1
            counters.stot += 1

    def leave(self) -> None:
        """A connection that had entered is gone."""
        self.counters.scur -= 1
        self.process.scur -= 1
        if self.process.scur == self.process_limit - 1:
            for gate in self.siblings:
                gate.admit()
        else:
            self.admit()

    def admit(self) -> None:
        """Let parked connections in as far as there is room, then accept again."""
        while self._parked and not self.is_full:
            self._count()
            self._parked.popleft().unpark()
        if not self._parked and self._listener is not None and not self.is_full and not self.stopping:
            self._listener.resume()

    def forget(self, connection: Parked) -> None:
        """A parked connection went away by itself."""
        self._parked.remove(connection)
        self.admit()


class Listener:
    """The listening sockets of one frontend in this worker. The sockets stay open in the supervisor: to `pause` is
    to leave connections in the kernel's backlog, not to refuse them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoints: Sequence[tuple[socket.socket, Callable[[], asyncio.Protocol]]],
        *,
        backlog: int,
    ) -> None:
        self._loop = loop
        self._endpoints = endpoints
        self._backlog = backlog
        self._servers: list[asyncio.AbstractServer] = []
        self._wanted = False
        self._starting: asyncio.Task[None] | None = None
        self._is_open = True
        self._last: set[asyncio.Task[object]] = set()

    def resume(self) -> None:
        """Accept."""
        if not self._wanted:
            self._wanted = True
            if self._starting is None:
                self._starting = self._loop.create_task(self._start())

    async def _start(self) -> None:
        try:
            for sock, factory in self._endpoints:
                self._servers.append(await self._serve(sock, factory))
        except OSError:
            # Mostly EMFILE. The clients wait in the backlog meanwhile.
            self._close()
            self._loop.call_later(_SECOND_TRY, self._try_again)
        finally:
            self._starting = None
        if not self._wanted:
            self._close()

    async def _serve(self, sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> asyncio.AbstractServer:
        create = self._loop.create_unix_server if sock.family == socket.AF_UNIX else self._loop.create_server
        # A duplicate, since the loop closes what it was given.
        own = sock.dup()
        try:
            return await create(factory, sock=own, backlog=self._backlog)
        except OSError:
            own.close()
            raise

    def _try_again(self) -> None:
        if self._wanted:
            self._wanted = False
            self.resume()

    def pause(self) -> None:
        """Accept no more; what exists goes on."""
        self._wanted = False
        if self._starting is None:
            self._close()

    def _close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def close(self) -> None:
        """Accept no more, ever. Who has connected by now is still let in: the kernel would reset whom it finds in
        the backlog when the last descriptor is closed."""
        self.pause()
        # The loop's own duplicates are closed by then.
        self._loop.call_later(_CLOSING, self._accept_the_rest)

    @property
    def is_closed(self) -> bool:
        """Whether nobody more will come."""
        return not self._is_open and not self._last

    def _accept_the_rest(self) -> None:
        self._is_open = False
        for sock, factory in self._endpoints:
            with sock, contextlib.suppress(OSError):
                while True:
                    connection, _ = sock.accept()
                    connection.setblocking(False)
                    task = self._loop.create_task(self._loop.connect_accepted_socket(factory, connection))
                    self._last.add(task)
                    task.add_done_callback(self._last.discard)
