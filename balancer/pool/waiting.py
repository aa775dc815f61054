"""Requests and connections that wait for a place at a server.

A server with `maxconn` takes so many at a time, over all processes. What comes while all servers are full waits in the
backend's line, for whichever has a place first; what has to go to one server, by its cookie or a hash, waits in that
server's line (HAProxy's backend and server queues). A place that is freed goes to whoever has waited longest of those
that may take it, in whichever process: each tells the others since when its first one waits.

Pure: `now` is an argument (seconds of a clock that all processes of the host share), and whoever gets a place is told
by a call.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, cast

from balancer.algorithms.base import Algorithm
from balancer.config import model
from balancer.pool.backend import Backend
from balancer.pool.facts import Counters
from balancer.pool.orders import WHOLE
from balancer.pool.server import Server

__all__ = [
    "Bell", "Errand", "LimitedBackend", "Line", "PacedBackend", "PacedPlaces", "Places", "Room", "Seats", "Ticket",
    "described", "others",
]  # fmt: skip

_MICROSECOND = 1e-6
# Servers looked at in one go for a place that another process may have freed: 100 us. The rest have their turn next.
_MOST_LOOKED_AT = 64


class Line(Protocol):
    """Who waits for the same thing in other processes."""

    def wait(self, since: int, length: int) -> None:
        """Tell them that `length` of ours wait, the first since then; 0: nobody does."""

    @property
    def oldest_elsewhere(self) -> int:
        """Since when one of theirs waits; 0: none does."""

    @property
    def length_elsewhere(self) -> int:
        """How many of theirs wait."""


class Bell(Line, Protocol):
    """The line of a whole backend, whose members are woken when there may be something for them."""

    @property
    def bell(self) -> int:
        """A file descriptor."""

    def ring(self) -> None:
        """Have the others look for a place."""

    def point(self, number: int) -> None:
        """The place is there; 1 for the first server."""

    @property
    def pointed(self) -> Sequence[int]:
        """Where each has pointed last."""

    @property
    def load(self) -> int:
        """How many are served or wait, of all processes."""

    def weigh(self, load: int) -> None:
        """Tell the others how many of ours are and do."""


class Seats(Protocol):
    """So many at a time, over all processes."""

    def take(self) -> bool:
        """One, if there is one."""

    def give(self) -> None:
        """Back."""


class Places(Line, Seats, Protocol):
    """A server's: so many at a time, and who waits in its line."""

    @property
    def is_tight(self) -> bool:
        """Whether what is done with is to be given back, and not used again."""


class PacedPlaces(Places, Protocol):
    """Below whose number there is another one that changes."""

    ceiling: Callable[[], int]

    @property
    def total(self) -> int:
        """The number."""

    @property
    def excess(self) -> int:
        """How many are out above the other one."""


class Errand(Protocol):
    """Whoever waits."""

    key: bytes
    ticket: Ticket | None

    def on_place(self, server: Server) -> None:
        """It has a place at `server`, and is taken there (`Backend.take`)."""


class Ticket:
    """One that waits, and what is to be told of that afterwards."""

    __slots__ = (
        "ahead", "avoid", "bound", "duration", "errand", "granted", "has_seat", "is_waiting", "server", "since"
    )  # fmt: skip

    def __init__(self, errand: Errand, server: Server | None, since: int, avoid: Server | None = None) -> None:
        self.errand = errand
        self.avoid = avoid
        """It has failed there."""
        self.bound = server
        """Where it had to go at first; None: wherever there is a place."""
        self.server = server
        """In whose line it is; None: in the backend's."""
        self.since = since
        """Microseconds."""
        self.ahead = 0
        """Its place in that line when it came, from 1, over all processes."""
        self.is_waiting = False
        self.has_seat = False
        self.granted: Server | None = None
        """What it has got, before it is told."""
        self.duration = 0.0
        """Seconds that it has waited; noted by whoever has it when that is over."""

    def over(self, now: float) -> float:
        """It has waited until now; the seconds."""
        self.duration = max(0.0, now - self.since * _MICROSECOND)
        return self.duration

    @property
    def positions(self) -> tuple[int, int]:
        """In the server's and in the backend's line, as HAProxy's log has them."""
        return (0, self.ahead) if self.server is None else (self.ahead, 0)


def described(ticket: Ticket, server: Server | None, now: float) -> tuple[str, float, int, int]:
    """For the log, of one that is at `server` by now: the server's name, seconds waited, and its place in the server's
    line and in the backend's."""
    if server is not None:
        return (server.name, ticket.duration, *ticket.positions)
    name = ticket.server.name if ticket.server is not None else "<NOSRV>"
    if not ticket.ahead:
        return name, -1.0, 0, 0
    return (name, ticket.over(now), *ticket.positions)


def others(backend: LimitedBackend, server: Server | None, ticket: Ticket | None) -> tuple[int, int]:
    """For the log, of one that is at `server` or waits: how many others the backend has, and the server."""
    itself = int(server is not None or (ticket is not None and ticket.is_waiting))
    if server is None and ticket is not None and ticket.server is not None:
        of_server = ticket.server.counters.scur
    else:
        of_server = server.counters.scur - 1 if server is not None else 0
    return backend.counters.scur + backend.waiting - itself, of_server


class _Queue:
    """One line, as far as it is in this process: the oldest first."""

    __slots__ = ("counters", "shared", "tickets")

    def __init__(self, shared: Line, counters: Counters) -> None:
        self.shared = shared
        self.counters = counters
        self.tickets: deque[Ticket] = deque()

    @property
    def is_empty(self) -> bool:
        """Nobody waits, here or elsewhere."""
        return not self.tickets and not self.shared.oldest_elsewhere

    @property
    def is_ours(self) -> bool:
        """The first of all is one of ours."""
        theirs = self.shared.oldest_elsewhere
        return bool(self.tickets) and (not theirs or self.tickets[0].since <= theirs)

    def join(self, ticket: Ticket) -> None:
        tickets = self.tickets
        if not tickets or tickets[-1].since <= ticket.since:
            tickets.append(ticket)
        else:
            # It has waited elsewhere before.
            insort(tickets, ticket, key=lambda each: each.since)
        ticket.is_waiting = True
        ticket.ahead = tickets.index(ticket) + 1 if tickets[-1] is not ticket else len(tickets)
        ticket.ahead += self.shared.length_elsewhere
        self._tell()

    def leave(self, ticket: Ticket) -> None:
        """ValueError where it is not there."""
        ticket.is_waiting = False
        if self.tickets[0] is ticket:
            self.tickets.popleft()
        else:
            self.tickets.remove(ticket)
        self._tell()

    def _tell(self) -> None:
        counters, tickets = self.counters, self.tickets
        length = len(tickets)
        self.shared.wait(tickets[0].since if tickets else 0, length)
        counters.qcur = length
        if length > counters.qmax:
            counters.qmax = length


class Room(NamedTuple):
    """What a server with `maxconn` has."""

    places: Places
    seats: Seats | None = None
    """Of `maxqueue`: how many may wait in its line; None: any number."""


class _Booth:
    """A server with a limit.

    A place is kept with each idle connection, so that the server never has more connections than places, and the next
    request finds both without asking anybody. Whoever waits elsewhere is given it.
    """

    __slots__ = ("kept", "number", "places", "queue", "seats", "server")

    def __init__(self, server: Server, number: int, room: Room) -> None:
        self.server = server
        self.number = number
        """From 1."""
        self.places = room.places
        self.seats = room.seats
        self.queue = _Queue(room.places, server.counters)
        self.kept = 0

    def take(self) -> bool:
        if self.kept:
            self.kept -= 1
            return True
        return self.places.take()

    def give(self, count: int) -> None:
        """Back `count` of those kept, with their connections."""
        self.kept -= count
        self.trim()
        for _ in range(count):
            self.places.give()

    def trim(self) -> None:
        """No idle connection is left that has no place."""
        idle = self.server.idle
        while len(idle) > self.kept:
            idle.pop(0).close()


class LimitedBackend(Backend):
    """A backend some of whose servers take only so many at a time.

    As ever, but that `pick` finds no server while all are full, and that `take` is refused (true) where the server is:
    then `wait`.
    """

    __slots__ = (
        "_booths", "_granted", "_is_telling", "_keeping", "_line", "_looked_at", "_reserved", "_usable", "_waited_for",
        "bell",
    )  # fmt: skip

    is_limited = True

    def __init__(
        self,
        name: str,
        config: model.Backend,
        *,
        servers: Sequence[Server],
        algorithm: Algorithm[Server],
        counters: Counters,
        touched: list[Counters],
        bell: Bell,
        rooms: Mapping[Server, Room],
    ) -> None:
        """As `Backend`; `rooms` are of those servers that have a limit."""
        self.bell = bell
        self._line = _Queue(bell, counters)
        self._booths = {
            server: self._booth(server, number, rooms[server])
            for number, server in enumerate(servers, 1)
            if server in rooms
        }
        self._waited_for: dict[Server, _Booth] = {}
        """Those in whose line one of ours is."""
        self._keeping: dict[Server, _Booth] = {}
        """Those with places that we keep, and maybe others."""
        self._reserved: Server | None = None
        """What `pick` has found: its place is taken, and it is about to be."""
        self._granted: deque[Ticket] = deque()
        self._is_telling = False
        self._looked_at = 0
        self._usable: frozenset[Server] = frozenset()
        super().__init__(name, config, servers=servers, algorithm=algorithm, counters=counters, touched=touched)
        self.pick = self._pick

    def _booth(self, server: Server, number: int, room: Room) -> _Booth:
        return _Booth(server, number, room)

    @property
    def waiting(self) -> int:
        """How many of ours wait."""
        return len(self._line.tickets) + sum(len(booth.queue.tickets) for booth in self._waited_for.values())

    def refresh(self) -> None:
        super().refresh()
        self._usable = frozenset(self.usable)
        for server, booth in list(self._waited_for.items()):
            if not server.takes_cookie:
                self._redistribute(booth)
        self.look()

    # Coming

    def _pick(self, key: bytes = b"", avoid: Server | None = None) -> Server | None:
        algorithm = self.algorithm
        if algorithm.needs:
            # A hash leads to one server, full or not.
            return algorithm.pick(key, avoid)
        if not self._line.is_empty:
            return None
        server = algorithm.pick(key, avoid)
        if server is None or server is avoid:
            return server
        if self._reserve(server):
            return server
        for other in algorithm.instead(self.usable):
            if other is not server and other is not avoid and self._reserve(other):
                return other
        return None

    def _reserve(self, server: Server) -> bool:
        booth = self._booths.get(server)
        if booth is None:
            self._reserved = server
            return True
        if booth.queue.is_empty and booth.take():
            self._reserved = server
            return True
        return False

    def take(self, server: Server) -> bool:
        if server is self._reserved:
            self._reserved = None
        else:
            booth = self._booths.get(server)
            if booth is not None and not self._may_enter(booth):
                return True
        return super().take(server)

    def _may_enter(self, booth: _Booth) -> bool:
        """Whether it has a place that nobody waits for."""
        if not booth.queue.is_empty or (booth.server in self._usable and not self._line.is_empty):
            return False
        return booth.take()

    def wait(self, errand: Errand, server: Server | None, now: float, *, avoid: Server | None = None) -> bool:
        """Wait for a place at `server`, or at any but `avoid`. The errand gets a ticket, and maybe a place at once.
        False: there are as many in the server's line as there may be."""
        ticket = errand.ticket = Ticket(errand, server, int(now / _MICROSECOND), avoid)
        if server is None:
            self._line.join(ticket)
        else:
            booth = self._booths[server]
            if booth.seats is not None and not booth.seats.take():
                return False
            ticket.has_seat = booth.seats is not None
            self._join(booth, ticket)
        # Others may keep a place, or have given one back before they could know that we wait.
        self.bell.ring()
        self.look()
        return True

    def _join(self, booth: _Booth, ticket: Ticket) -> None:
        ticket.server = booth.server
        booth.queue.join(ticket)
        self._waited_for[booth.server] = booth
        self._touch(booth.server.counters)

    # Going

    def leave(self, ticket: Ticket) -> None:
        """It waits no more, by itself."""
        if ticket.is_waiting:
            self._withdraw(ticket)
        elif ticket.granted is not None:
            server, ticket.granted = ticket.granted, None
            self.release(server)

    def _withdraw(self, ticket: Ticket) -> None:
        if ticket.server is None:
            self._line.leave(ticket)
            return
        booth = self._booths[ticket.server]
        booth.queue.leave(ticket)
        self._touch(booth.server.counters)
        if not booth.queue.tickets:
            del self._waited_for[booth.server]
        if ticket.has_seat and booth.seats is not None:
            booth.seats.give()
            ticket.has_seat = False

    def _redistribute(self, booth: _Booth) -> None:
        """Its server takes nobody: those in its line go where others go, and wait there since they came."""
        for ticket in list(booth.queue.tickets):
            self._withdraw(ticket)
            other = self.algorithm.pick(ticket.errand.key) if self.algorithm.needs else None
            ticket.server = other
            if other is None:
                self._line.join(ticket)
            elif other in self._booths:
                self._join(self._booths[other], ticket)
            else:
                self._grant(ticket, other)

    # Places that are free

    def release(self, server: Server) -> None:
        super().release(server)
        booth = self._booths.get(server)
        if booth is not None:
            self._pass_on(booth)
            self._tell()

    def _pass_on(self, booth: _Booth) -> None:
        """A place is done with: it goes to whoever waits longest."""
        is_usable = booth.server in self._usable
        theirs = booth.places.oldest_elsewhere
        ticket = booth.queue.tickets[0] if booth.queue.tickets else None
        if is_usable:
            elsewhere = self.bell.oldest_elsewhere
            if elsewhere and (not theirs or elsewhere < theirs):
                theirs = elsewhere
            anyone = self._first_for(booth.server)
            if anyone is not None and (ticket is None or anyone.since < ticket.since):
                ticket = anyone
        if ticket is None and not theirs and booth.kept < len(booth.server.idle) and not booth.places.is_tight:
            booth.kept += 1
            self._keeping[booth.server] = booth
        elif ticket is None or (theirs and theirs < ticket.since) or booth.places.is_tight:
            booth.trim()
            booth.places.give()
            if theirs:
                self.bell.point(booth.number)
                self.bell.ring()
        else:
            self._withdraw(ticket)
            self._grant(ticket, booth.server)

    def _first_for(self, server: Server) -> Ticket | None:
        """Of those who wait for any."""
        return next((ticket for ticket in self._line.tickets if ticket.avoid is not server), None)

    def make_room(self, server: Server) -> None:
        """A connection to it is about to be made."""
        booth = self._booths.get(server)
        if booth is not None:
            booth.trim()

    def _give_kept(self) -> None:
        """What others wait for."""
        line = self.bell.length_elsewhere if self.bell.oldest_elsewhere else 0
        for server, booth in list(self._keeping.items()):
            wanted = booth.places.length_elsewhere if booth.places.oldest_elsewhere else 0
            if line > 0 and server in self._usable:
                wanted += line
            if wanted:
                line -= self._give(booth, wanted)

    def _give(self, booth: _Booth, wanted: int) -> int:
        """Back some of those kept; how many."""
        count = min(wanted, booth.kept)
        if count > 0:
            booth.give(count)
            self.bell.point(booth.number)
            self.bell.ring()
        if not booth.kept:
            del self._keeping[booth.server]
        return count

    def tidy(self) -> None:
        """About once a second: give back places whose connections were closed, and those that are too many."""
        for server, booth in list(self._keeping.items()):
            surplus = booth.kept if booth.places.is_tight else booth.kept - len(server.idle)
            if surplus > 0 or not booth.kept:
                self._give(booth, surplus)

    def look(self, *, is_patient: bool = True) -> None:
        """There may be a place that others have given back. Not `is_patient`: take one also if somebody elsewhere has
        waited longer, who has not come for it."""
        if self._keeping:
            self._give_kept()
        if not self._waited_for and not self._line.tickets:
            self._tell()
            return
        found = False
        for booth in list(self._waited_for.values()):
            queue = booth.queue
            while queue.tickets and (queue.is_ours or not is_patient) and booth.take():
                ticket = queue.tickets[0]
                self._withdraw(ticket)
                self._grant(ticket, booth.server)
                found = True
        while self._line.tickets and (self._line.is_ours or not is_patient):
            found_here = self._free(is_patient=is_patient)
            if found_here is None:
                break
            ticket, server = found_here
            self._withdraw(ticket)
            self._grant(ticket, server)
            found = True
        if found and (self.bell.oldest_elsewhere or any(b.places.oldest_elsewhere for b in self._waited_for.values())):
            # Whoever is the first by now may have looked before us.
            self.bell.ring()
        self._tell()

    def _free(self, *, is_patient: bool) -> tuple[Ticket, Server] | None:
        """The first that may go to a server that has a place, which is taken."""
        for server in self._likely():
            ticket = self._first_for(server)
            if ticket is None:
                continue
            booth = self._booths.get(server)
            if booth is None:
                return ticket, server
            if (not is_patient or not booth.places.oldest_elsewhere) and booth.take():
                return ticket, server
        return None

    def _likely(self) -> Iterator[Server]:
        """Where there may be a place: where others have pointed to, and then some of all."""
        servers, usable = self.servers, self.usable
        for number in self.bell.pointed:
            if 0 < number <= len(servers) and servers[number - 1] in self._usable:
                yield servers[number - 1]
        for _ in range(min(len(usable), _MOST_LOOKED_AT)):
            self._looked_at += 1
            yield usable[self._looked_at % len(usable)]

    def _grant(self, ticket: Ticket, server: Server) -> None:
        super().take(server)
        ticket.granted = server
        self._granted.append(ticket)

    def _tell(self) -> None:
        """One after the other: what somebody does with a place may free it at once."""
        if self._is_telling:
            return
        self._is_telling = True
        try:
            while self._granted:
                ticket = self._granted.popleft()
                server, ticket.granted = ticket.granted, None
                if server is not None:
                    ticket.errand.on_place(server)
        finally:
            self._is_telling = False


class _PacedBooth(_Booth):
    """A server whose limit moves. Places that are kept count, and are given back where they are too many."""

    __slots__ = ()

    def take(self) -> bool:
        self.shrink()
        return super().take()

    def shrink(self) -> None:
        """Keep none that is too much by now."""
        if self.kept:
            excess = cast(PacedPlaces, self.places).excess
            if excess > 0:
                self.give(min(excess, self.kept))


class PacedBackend(LimitedBackend):
    """A limited backend some of whose servers are given less than their maxconn while there is little to do (minconn,
    fullconn) or while they warm up (slowstart).

    By HAProxy's rule: from minconn it rises with what is served and waits in the whole backend, over all processes, and
    is maxconn at fullconn; and a server that has come back gets that share of it that it gets of its weight.
    """

    __slots__ = ("_fullconn",)

    def __init__(
        self,
        name: str,
        config: model.Backend,
        *,
        servers: Sequence[Server],
        algorithm: Algorithm[Server],
        counters: Counters,
        touched: list[Counters],
        bell: Bell,
        rooms: Mapping[Server, Room],
        fullconn: int,
    ) -> None:
        """As `LimitedBackend`; the rooms' places are paced."""
        self._fullconn = fullconn
        super().__init__(
            name,
            config,
            servers=servers,
            algorithm=algorithm,
            counters=counters,
            touched=touched,
            bell=bell,
            rooms=rooms,
        )

    def _booth(self, server: Server, number: int, room: Room) -> _Booth:
        places = cast(PacedPlaces, room.places)
        places.ceiling = partial(self._ceiling, server, places)
        return _PacedBooth(server, number, room)

    def _ceiling(self, server: Server, places: PacedPlaces) -> int:
        """HAProxy's srv_dynamic_maxconn."""
        most = places.total
        least = server.config.minconn
        if least is not None and least < most:
            load = self.bell.load
            if load < self._fullconn:
                most = max(least, load * most // self._fullconn)
        throttle = server.state.throttle
        return most if throttle >= WHOLE else max(1, most * throttle // WHOLE)

    def _weigh(self) -> None:
        self.bell.weigh(self.counters.scur + self.waiting)

    def take(self, server: Server) -> bool:
        has_to_wait = super().take(server)
        self._weigh()
        return has_to_wait

    def wait(self, errand: Errand, server: Server | None, now: float, *, avoid: Server | None = None) -> bool:
        # It counts before it is looked for a place.
        self.bell.weigh(self.counters.scur + self.waiting + 1)
        waits = super().wait(errand, server, now, avoid=avoid)
        self._weigh()
        return waits

    def leave(self, ticket: Ticket) -> None:
        super().leave(ticket)
        self._weigh()

    def release(self, server: Server) -> None:
        # It counts no more when it is looked who has its place.
        self.bell.weigh(self.counters.scur + self.waiting - 1)
        super().release(server)
        self._weigh()

    def tidy(self) -> None:
        self._weigh()
        super().tidy()
        if self.waiting:
            # The limits may have risen with what there is to do elsewhere.
            self.look()

    def look(self, *, is_patient: bool = True) -> None:
        for server, booth in list(self._keeping.items()):
            cast(_PacedBooth, booth).shrink()
            if not booth.kept:
                del self._keeping[server]
        super().look(is_patient=is_patient)
