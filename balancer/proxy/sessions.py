"""What the connections of a worker are doing, for whoever asks: nobody has to note anything for it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

from balancer.pool.sessions import SessionView
from balancer.proxy.http import ClientConnection
from balancer.proxy.tcp import Session

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange
    from balancer.proxy.stream import Stream
    from balancer.proxy.sweep import Timed

__all__ = ["Moment", "began", "find", "view"]

# A number is made of the worker's slot, when it began (ms), and where it lies in memory, of which the last four bits
# are always 0: 64 bits.
_SLOT_BITS, _TIME_BITS, _PLACE_BITS = 10, 26, 28
_PLACES = (1 << _PLACE_BITS) - 1
_TIMES = (1 << _TIME_BITS) - 1
_SLOTS = (1 << _SLOT_BITS) - 1


class Moment(NamedTuple):
    """When and where it is asked."""

    slot: int
    now: float
    """Monotonic seconds."""
    wall: float
    """Unix time."""

    @staticmethod
    def of(slot: int) -> Moment:
        return Moment(slot, time.monotonic(), time.time())


def find(members: set[Timed], number: int, slot: int) -> Timed | None:
    """Who has this number."""
    if number >> (_TIME_BITS + _PLACE_BITS) != slot & _SLOTS:
        return None
    place = number & _PLACES
    for member in members:
        if id(member) >> 4 & _PLACES == place and _number(member, slot) == number:
            return member
    return None


def view(member: Timed, moment: Moment, *, whole: bool = False) -> SessionView | None:
    """`whole`: with what takes a system call. None: nothing goes on there."""
    if isinstance(member, Session):
        return _of_session(member, moment, whole=whole)
    if isinstance(member, ClientConnection) and member.exchange is not None:
        return _of_exchange(member, member.exchange, moment, whole=whole)
    return None


def began(member: Timed) -> tuple[str, str, float] | None:
    """Backend, server, and since when (monotonic seconds) it is held by this. None: by nothing."""
    if isinstance(member, Session):
        server, since, backend = member.server, member.began, member.frontend.upstream.backend
    elif isinstance(member, ClientConnection) and member.exchange is not None:
        server, since, backend = member.exchange.server, member.exchange.began, member.exchange.to.backend
    else:
        return None
    return (backend.name, server.name, since) if server is not None else None


def _number(member: Timed, slot: int) -> int:
    began = 0.0
    if isinstance(member, Session):
        began = member.began
    elif isinstance(member, ClientConnection) and member.exchange is not None:
        began = member.exchange.began
    moment = int(began * 1000) & _TIMES
    return ((slot & _SLOTS) << _TIME_BITS | moment) << _PLACE_BITS | id(member) >> 4 & _PLACES


def _of_session(session: Session, moment: Moment, *, whole: bool) -> SessionView:
    client, server = session.client.transport, session.server_half.transport
    if session.is_waiting:
        waits_for = "place"
    elif session.connected < 0:
        waits_for = "connect" if session.started else "client"
    else:
        waits_for = "both"
    return SessionView(
        number=_number(session, moment.slot),
        mode="tcp",
        protocol=_protocol(session.source),
        source=_source(session.source),
        began=moment.wall - (moment.now - session.began),
        age=moment.now - session.began,
        frontend=session.frontend.name,
        backend=session.frontend.upstream.backend.name,
        server=session.server.name if session.server is not None else "",
        requests=1,
        retries=session.retries,
        expires=_left(session.deadline, moment),
        received=session.client.count + len(session.buffer),
        sent=session.server_half.count,
        to_server=_unsent(server) + len(session.buffer),
        to_client=_unsent(client),
        client_fd=_descriptor(client),
        server_fd=_descriptor(server),
        waits_for=waits_for,
        listener=_listener(client) if whole else "",
    )


def _of_exchange(connection: ClientConnection, exchange: Exchange, moment: Moment, *, whole: bool) -> SessionView:
    leg = exchange.connection
    stream = leg.transport if leg is not None else None
    if exchange.is_waiting:
        waits_for = "place"
    elif stream is None:
        waits_for = "connect"
    elif exchange.step == _TUNNEL:
        waits_for = "both"
    else:
        waits_for = "client" if exchange.step == _UPLOADING else "server"
    return SessionView(
        number=_number(connection, moment.slot),
        mode="http",
        protocol=_protocol(connection.source),
        source=_source(connection.source),
        began=moment.wall - (moment.now - exchange.began),
        age=moment.now - exchange.began,
        frontend=connection.frontend.name,
        backend=exchange.to.backend.name,
        server=exchange.server.name if exchange.server is not None else "",
        requests=connection.exchanges + 1,
        retries=exchange.retries,
        expires=_left(connection.deadline, moment),
        received=exchange.bytes_in,
        sent=exchange.bytes_out,
        to_server=_unsent(stream),
        to_client=_unsent(connection.transport),
        client_fd=_descriptor(connection.transport),
        server_fd=_descriptor(stream),
        waits_for=waits_for,
        listener=_listener(connection.transport) if whole else "",
        status=exchange.answered,
        request=exchange.request.line.octets.decode("latin-1"),
    )


# `exchange.Step`.
_UPLOADING, _TUNNEL = 0, 2


def _protocol(source: tuple[str, int] | None) -> str:
    if source is None:
        return "unix_stream"
    return "tcpv6" if ":" in source[0] else "tcpv4"


def _source(source: tuple[str, int] | None) -> str:
    return f"{source[0]}:{source[1]}" if source is not None else "unix:1"


def _left(deadline: float, moment: Moment) -> float | None:
    return max(deadline - moment.now, 0.0) if deadline < math.inf else None


def _unsent(stream: Stream | None) -> int:
    return stream.get_write_buffer_size() if stream is not None else 0


def _descriptor(stream: Stream | None) -> int:
    return int(stream.get_extra_info("socket").fileno()) if stream is not None else -1


def _listener(stream: Stream | None) -> str:
    name = stream.get_extra_info("sockname") if stream is not None else None
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unix:1" if name is not None else "?"
