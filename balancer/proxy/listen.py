"""From listening sockets to protocols, within maxconn.

The kernel's backlog is the first queue: at maxconn a frontend stops accepting. What had been accepted in
the same turn of the loop is parked unread, first come first served over all workers, so that maxconn is exact.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from balancer.pool.facts import Counters
from balancer.pool.share import Share
from balancer.proxy.stream import Acceptor, Poller, Receiver

__all__ = ["Gate", "Listener", "Parked"]

# After this time (seconds) we look again whether there are file descriptors to listen with.
_SECOND_TRY: Final = 0.5
# Between the last turn of the loop that accepts and the closing of the sockets (seconds).
_CLOSING: Final = 0.02


class Parked(Protocol):
    """A connection that waits for another to end."""

    def unpark(self) -> None:
        """There is room: begin."""


class Doors(Protocol):
    """What lets connections in."""

    def pause(self) -> None:
        """Accept no more."""

    def resume(self) -> None:
        """Accept."""


class Gate:
    """Counts the connections of a frontend and of the process, and holds back what is over the limit.

    The limits are of all workers together: `share` and `process_share` are what this one has of them.
    """

    __slots__ = (
        "_listener", "_parked", "counters", "is_patient", "process", "process_share", "ring", "share", "siblings",
        "stopping",
    )  # fmt: skip

    def __init__(
        self, counters: Counters, share: Share, process: Counters, process_share: Share, ring: Callable[[], None]
    ) -> None:
        """`ring` wakes the other workers: there is something for them, or they may have something for us."""
        self.counters = counters
        self.share = share
        self.process = process
        self.process_share = process_share
        self.ring = ring
        self.stopping = False
        """The worker is about to leave: no connection is kept for another request."""
        self.is_patient = False
        """But one that was promised to be kept is, for the last request: nobody hurries us."""
        self._parked: deque[tuple[int, Parked]] = deque()
        """With the microsecond that each came in."""
        self._listener: Doors | None = None
        self.siblings: Sequence[Gate] = (self,)
        """All gates of the process: room at one may be room at another."""

    def attach(self, listener: Doors) -> None:
        self._listener = listener

    @property
    def is_full(self) -> bool:
        """Of what we have."""
        return self.counters.scur >= self.share.limit or self.process.scur >= self.process_share.limit

    def enter(self, connection: Parked) -> bool:
        """A connection was accepted. False: it is parked and `unpark` will be called."""
        if self._parked or (self.is_full and not self._find_room(_now())):
            self._parked.append((_now(), connection))
            if self._listener is not None:
                self._listener.pause()
            self._tell()
            return False
        self._count()
        return True

    def _find_room(self, since: int, *, is_patient: bool = True) -> bool:
        """For one more, who came then."""
        return (self.counters.scur < self.share.limit or self.share.extend(since, is_patient=is_patient)) and (
            self.process.scur < self.process_share.limit or self.process_share.extend(since, is_patient=is_patient)
        )

    def _count(self) -> None:
        _count(self.counters)
        _count(self.process)

    def leave(self) -> None:
        """A connection that had entered is gone."""
        self.counters.scur -= 1
        self.process.scur -= 1
        if self.share.is_wanted or self.process_share.is_wanted:
            self.yield_unused()
        if self.process.scur == self.process_share.limit - 1:
            for gate in self.siblings:
                gate.admit()
        else:
            self.admit()

    def admit(self, *, is_patient: bool = True) -> None:
        """Let parked connections in as far as there is room, then accept again. Not `is_patient`: also if others came
        earlier elsewhere, who have not come in."""
        parked = self._parked
        if parked:
            while parked and self._find_room(parked[0][0], is_patient=is_patient):
                self._count()
                parked.popleft()[1].unpark()
            self._tell()
        if not parked and self._listener is not None and not self.stopping:
            self._listener.resume()

    def forget(self, connection: Parked) -> None:
        """A parked connection went away by itself."""
        self._parked.remove(next(each for each in self._parked if each[1] is connection))
        self._tell()
        self.admit()

    # What the workers share

    @property
    def has_parked(self) -> bool:
        """Somebody waits to be let in."""
        return bool(self._parked)

    @property
    def _lacks_own(self) -> bool:
        """The first of those parked waits for room at this frontend, not in the process."""
        return self.counters.scur >= self.share.limit

    def _tell(self) -> None:
        """The others, who waits here and for what."""
        news = False
        if self._parked and self._lacks_own and not self.share.is_at_most:
            news = self.share.wait(self._parked[0][0], len(self._parked))
        else:
            self.share.wait(0, 0)
        heads = [gate._parked[0][0] for gate in self.siblings if gate._parked and not gate._lacks_own]
        if heads and not self.process_share.is_at_most:
            news |= self.process_share.wait(min(heads), len(heads))
        else:
            self.process_share.wait(0, 0)
        if news:
            self.ring()

    def yield_unused(self) -> None:
        """Others wait: they get what we do not use."""
        mine = self._parked[0][0] if self._parked else 0
        heads = [gate._parked[0][0] for gate in self.siblings if gate._parked]
        given = self.share.yield_unused(self.counters.scur, mine)
        given |= self.process_share.yield_unused(self.process.scur, min(heads, default=0))
        if given:
            self.ring()

    def on_ring(self) -> None:
        """Somebody begins to wait, or has given something back."""
        self.share.listen()
        self.process_share.listen()
        if self.share.is_wanted or self.process_share.is_wanted:
            self.yield_unused()
        if self._parked:
            before = len(self._parked)
            self.admit()
            if len(self._parked) < before and (self.share.is_wanted or self.process_share.is_wanted):
                # Whoever is the first by now may have looked before us.
                self.ring()

    def tidy(self) -> None:
        """A few times a second: give back what is too much, and let in whoever nobody else comes for."""
        self.share.tidy(self.counters.scur, is_over=self.stopping)
        self.process_share.tidy(self.process.scur, is_over=self.stopping)
        if self._parked:
            self.admit(is_patient=False)


def _count(counters: Counters) -> None:
    counters.conn_tot += 1
    counters.stot += 1
    now = counters.scur = counters.scur + 1
    if now > counters.smax:
        counters.smax = now


def _now() -> int:
    return int(time.monotonic() * 1e6)


class Listener:
    """The listening sockets of one frontend in this worker. The sockets stay open in the supervisor: to `pause` is
    to leave connections in the kernel's backlog, not to refuse them."""

    def __init__(self, poller: Poller, endpoints: Sequence[tuple[socket.socket, Callable[[], Receiver]]]) -> None:
        self._loop = poller.loop
        self._endpoints = endpoints
        self._acceptors = [Acceptor(poller, sock, accept, self._on_trouble) for sock, accept in endpoints]
        self._wanted = False
        self._is_in_trouble = False
        self._is_refusing = False
        self._is_open = True

    def resume(self) -> None:
        """Accept."""
        if not self._wanted:
            self._wanted = True
            if not self._is_in_trouble and not self._is_refusing:
                for acceptor in self._acceptors:
                    acceptor.open()

    def pause(self) -> None:
        """Accept no more; what exists goes on."""
        self._wanted = False
        for acceptor in self._acceptors:
            acceptor.close()

    def refuse(self) -> None:
        """Whoever comes from now on is refused, the addresses stay ours. Who comes to a Unix socket waits instead: it
        cannot be listened to again."""
        if self._is_refusing or not self._is_open:
            return
        self._is_refusing = True
        for acceptor, (sock, _) in zip(self._acceptors, self._endpoints, strict=True):
            acceptor.close()
            if sock.family != socket.AF_UNIX:
                acceptor.read()
                # Else whoever was here before us has done it.
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    sock.shutdown(socket.SHUT_RD)

    def listen(self, backlog: int) -> None:
        """Refuse nobody, also where somebody before us did. OSError where that cannot be."""
        self._is_refusing = False
        for sock, _ in self._endpoints:
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.listen(backlog)
        if self._wanted:
            self._wanted = False
            self.resume()

    def leave(self) -> None:
        """Refuse everybody, for good: the addresses are others'."""
        self.refuse()
        self._is_open = False
        for sock, _ in self._endpoints:
            sock.close()

    def _on_trouble(self, error: OSError) -> None:  # noqa: ARG002
        """Mostly EMFILE. The clients wait in the backlog meanwhile."""
        if self._is_open and not self._is_in_trouble:
            self._is_in_trouble = True
            for acceptor in self._acceptors:
                acceptor.close()
            self._loop.call_later(_SECOND_TRY, self._try_again)

    def _try_again(self) -> None:
        self._is_in_trouble = False
        if self._wanted and self._is_open:
            self._wanted = False
            self.resume()

    def close(self) -> None:
        """Accept no more, ever. Who has connected by now is still let in: the kernel would reset whom it finds in
        the backlog when the last descriptor is closed."""
        self.pause()
        if not self._is_open:
            return
        # Whoever was about to connect is there by then.
        self._loop.call_later(_CLOSING, self._accept_the_rest)

    @property
    def is_closed(self) -> bool:
        """Whether nobody more will come."""
        return not self._is_open

    def _accept_the_rest(self) -> None:
        self._is_open = False
        for acceptor, (sock, _) in zip(self._acceptors, self._endpoints, strict=True):
            with sock:
                acceptor.read()
