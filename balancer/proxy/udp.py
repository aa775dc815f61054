"""Datagrams: the sockets that clients send to, and flows, each client with the server it was given.

A flow is a client's address and port (and, on a wildcard bind, the address it called) with a socket of its own
towards the server, so the kernel itself tells flows apart and lets in nothing but that server's datagrams.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any, NamedTuple

from balancer.pool.backend import Backend
from balancer.pool.facts import BUCKETS, Counters
from balancer.pool.records import UdpRecord
from balancer.pool.server import Server
from balancer.proxy.mmsg import Batch

__all__ = ["BATCH", "LOCAL_TROUBLE", "FlowForwarder", "Handed", "Receiver", "connected"]

BATCH = 32
"""Datagrams read from one socket before the others have their turn: some 300 microseconds' work."""

LOCAL_TROUBLE = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EMSGSIZE))
"""What ails this machine or this datagram and says nothing about the server."""

# linux/in.h and linux/in6.h; Python has no names for them. The values are the same for IPv6.
_IP_PKTINFO = 8
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_DONT, _PMTUDISC_OMIT = 0, 5

# Room for a burst; the kernel cuts it down to net.core.rmem_max without an error.
_RECEIVE_BUFFER = 4 << 20

# Flows ended by `responses` stay in the heap of deadlines until they are more than those alive, and so many.
_DEAD_FLOWS = 1024

# struct cmsghdr (cmsg(3)) and what follows it: in_pktinfo (ip(7)) or in6_pktinfo (RFC 3542 section 6.1).
_PKTINFO = struct.Struct("@Nii4s4s4s")
_PKTINFO6 = struct.Struct("@Nii16si")
# struct sockaddr_in and sockaddr_in6 (ip(7), ipv6(7)).
_SOCKADDR = struct.Struct("=2xH4s8x")
_SOCKADDR6 = struct.Struct("=2xH4x16s4x")

_MAPPED = b"\0" * 10 + b"\xff\xff"


class Receiver:
    """A socket that clients send to. An answer leaves from the address that its client called.

    A client is octets: its socket address and, on a wildcard bind, ancillary data that has an answer leave from
    the address called (IP_PKTINFO, RFC 3542 section 6.2).
    """

    # No __slots__: what inherits from it may be compiled, and could not then.

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_v6 = sock.family == socket.AF_INET6
        self._sockaddr = _SOCKADDR6 if self._is_v6 else _SOCKADDR
        self._wildcard = sock.getsockname()[0] in ("0.0.0.0", "::")
        control = 0
        if self._wildcard:
            # A socket for both families gives IPv4 datagrams as mapped addresses with the IPv6 option.
            if self._is_v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                control = socket.CMSG_SPACE(20)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                control = socket.CMSG_SPACE(12)
        self._batch = Batch(BATCH, name=self._sockaddr.size, control=control)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        # Large answers go out in fragments of the link's size, whatever path MTU a forged ICMP message claims.
        _discover_mtu(sock, _PMTUDISC_OMIT)

    def listen(self, loop: asyncio.AbstractEventLoop, callback: Callable[[Receiver], None]) -> None:
        """Have `callback` called whenever there is something to receive.

        To be called again after an error: uvloop ceases to watch a socket that had one (libuv does, on POLLERR).
        """
        self.stop()
        self._loop = loop
        loop.add_reader(self.sock.fileno(), callback, self)

    def stop(self) -> None:
        """Call no more."""
        if self._loop is not None:
            self._loop.remove_reader(self.sock.fileno())
            self._loop = None

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Up to BATCH datagrams with their clients; none when none waits. Raises OSError."""
        datagrams = self._batch.receive_from(self.sock.fileno())
        if not self._wildcard:
            return datagrams
        at, way_back = self._batch.control_at, self._way_back6 if self._is_v6 else self._way_back
        return [(data, end[:at] + way_back(end[at:])) for data, end in datagrams]

    def send(self, answers: Sequence[tuple[bytes, bytes]]) -> int:
        """Answer clients. Gives how many answers the kernel did not take."""
        return self._batch.send_to(self.sock.fileno(), answers)

    def address(self, client: bytes) -> tuple[str, int]:
        """The client's IP address and port."""
        port, octets = self._sockaddr.unpack_from(client)
        return socket.inet_ntop(self.sock.family, octets), socket.ntohs(port)

    def source(self, client: bytes) -> bytes:
        """The client's IP address as 4 or 16 octets, the key for `balance source`; an IPv4-mapped one as 4."""
        octets: bytes = self._sockaddr.unpack_from(client)[1]
        return octets[12:] if octets.startswith(_MAPPED) else octets

    @staticmethod
    def _way_back(control: bytes) -> bytes:
        length, level, kind, _, local, called = _PKTINFO.unpack_from(control)
        if length < _PKTINFO.size:
            return b""
        # `local` is empty on what came before the option was set. The interface is left open, as the answer's
        # route need not be the query's.
        local = local if any(local) else called
        return _PKTINFO.pack(length, level, kind, bytes(4), local, bytes(4))

    @staticmethod
    def _way_back6(control: bytes) -> bytes:
        length, level, kind, local, interface = _PKTINFO6.unpack_from(control)
        if length < _PKTINFO6.size:
            return b""
        # A link-local address means nothing without its link (RFC 4007 section 6).
        if not (local[0] == 0xFE and local[1] & 0xC0 == 0x80):
            interface = 0
        return _PKTINFO6.pack(length, level, kind, local, interface)


def connected(sockaddr: tuple[Any, ...] | str | None) -> socket.socket:
    """A non-blocking UDP socket connected to a server, from a port that the kernel drew by lot.

    Raises OSError when there is no way to the server, and for a server without an address (`None`, a Unix path).
    """
    if sockaddr is None or isinstance(sockaddr, str):
        raise OSError(errno.EDESTADDRREQ, "the server has no address")
    family = socket.AF_INET6 if len(sockaddr) == 4 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        # Or else "fragmentation needed" would be an error of the socket, as if the server had refused.
        _discover_mtu(sock, _PMTUDISC_DONT)
        sock.connect(sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


def _discover_mtu(sock: socket.socket, how: int) -> None:
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, how)


def _place(receiver: Receiver) -> str:
    return repr(receiver.sock.getsockname())


def _leads_to(sock: socket.socket, sockaddr: tuple[Any, ...] | str | None) -> bool:
    """However the address is written. OSError where it leads nowhere."""
    if not isinstance(sockaddr, tuple):
        return False
    (host, port, *_), family = sock.getpeername(), sock.family
    is_same_family = (":" in sockaddr[0]) == (family == socket.AF_INET6)
    return (
        is_same_family
        and port == sockaddr[1]
        and (socket.inet_pton(family, host.partition("%")[0]) == socket.inet_pton(family, sockaddr[0]))
    )


class _Leg:
    """A flow's way to its server."""

    __slots__ = ("server", "sock", "sockaddr")

    def __init__(self, server: Server, sock: socket.socket | None = None) -> None:
        self.server = server
        self.sockaddr = server.sockaddr
        self.sock = sock if sock is not None else connected(server.sockaddr)

    @property
    def still_leads(self) -> bool:
        """Whether the server, as it is now, may still get this flow."""
        return self.server.takes_cookie and self.server.sockaddr == self.sockaddr


class _Flow:
    """A client and the server it was given."""

    __slots__ = (
        "answers", "avoid", "began", "bytes_in", "bytes_out", "client", "datagrams", "last", "leg", "receiver",
        "retries", "server", "table",
    )  # fmt: skip

    def __init__(self, table: dict[bytes, _Flow], receiver: Receiver, client: bytes, now: float) -> None:
        self.table = table
        self.receiver = receiver
        self.client = client
        self.leg: _Leg | None = None
        self.server: Server | None = None
        """The last one it had."""
        self.avoid: Server | None = None
        """The one that it was taken from."""
        self.began = self.last = now
        self.datagrams = self.answers = self.retries = self.bytes_in = self.bytes_out = 0


class Handed(NamedTuple):
    """A flow on its way from one forwarder to another; its socket goes with it. Times are monotonic seconds."""

    place: str
    """Where it came in: what its receiver is bound to."""
    client: bytes
    server: str
    began: float
    last: float
    datagrams: int
    answers: int
    retries: int
    bytes_in: int
    bytes_out: int


class FlowForwarder:
    """`mode: udp`, protocol generic: a client stays with its server until the flow has been idle for `timeout` seconds.

    With `responses`, a flow ends when it has had that many answers for each of its datagrams; 0 balances every
    datagram on its own. When `max_flows` clients are remembered, datagrams of further ones are dropped, so that a
    flood from invented addresses takes no flow away from those who have one. A client whose server went down,
    is in maintenance, changed its address or refused (ICMP) goes to another with its next datagram.

    Counted on the frontend: flows in `stot` and `scur`, datagrams in `req_tot`, what was dropped either way in
    `udp_dropped`. A refusal is an `econ` of the server, a flow that leaves it for another a `wredis`; a flow that no
    server was there for is an `econ` of the backend. `log` gets a record for each flow that ends. The listening
    sockets are the caller's: bound, non-blocking, never closed here.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        *,
        frontend: str,
        backend: Backend,
        counters: Counters,
        timeout: float,
        max_flows: int,
        responses: int | None = None,
        log: Callable[[UdpRecord], None] | None = None,
        receiver: Callable[[socket.socket], Receiver] = Receiver,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._frontend = frontend
        self._backend = backend
        self._counters = counters
        self._timeout = timeout
        self._max_flows = self._most_flows = max_flows
        """That may begin, and that there may be."""
        self._responses = responses
        self._log = log
        self._clock = clock
        self._wall = wall
        self._tables: dict[Receiver, dict[bytes, _Flow]] = {receiver(sock): {} for sock in sockets}
        """Flows by where they came in and by client."""
        self._due: list[tuple[float, int, _Flow]] = []
        """A heap: every flow once, with the earliest time it can be over, and a number to tell equal times apart."""
        self._numbers = count()
        self._batch = Batch(BATCH)

    @property
    def outstanding(self) -> int:
        """Flows alive."""
        return self._counters.scur

    def start(self) -> None:
        """Begin to listen."""
        for receiver in self._tables:
            receiver.listen(self._loop, self._from_clients)

    def refuse(self) -> None:
        """Until `admit`, no flow begins: what comes is dropped. Those that there are go on."""
        self._max_flows = 0

    def admit(self) -> None:
        """Flows begin again."""
        self._max_flows = self._most_flows

    def stop_accepting(self) -> None:
        """Listen no longer; answers to what came before still pass."""
        for receiver in self._tables:
            receiver.stop()

    def close(self) -> None:
        """End all flows at once."""
        self.stop_accepting()
        for table in self._tables.values():
            for flow in list(table.values()):
                self._end(flow)
        self._due.clear()

    @property
    def places(self) -> list[str]:
        """What the listening sockets are bound to, as `Handed.place` has it."""
        return [_place(receiver) for receiver in self._tables]

    def hand_over(self, places: Collection[str]) -> Iterator[tuple[Handed, socket.socket]]:
        """Listen no longer, and give away the flows that came in at these places, for another to go on with. The
        sockets are the caller's then, to be closed; other flows go on here as far as they can."""
        self.stop_accepting()
        for receiver, table in self._tables.items():
            place = _place(receiver)
            for flow in list(table.values()) if place in places else ():
                leg = flow.leg
                if leg is None:
                    self._end(flow)
                    continue
                self._loop.remove_reader(leg.sock.fileno())
                flow.leg = None
                self._backend.release(leg.server)
                self._forget(flow)
                yield Handed(
                    place, flow.client, leg.server.name, flow.began, flow.last, flow.datagrams, flow.answers,
                    flow.retries, flow.bytes_in, flow.bytes_out,
                ), leg.sock  # fmt: skip

    def take_over(self, handed: Handed, sock: socket.socket) -> bool:
        """Go on with a flow of another's. False: its server is none of ours, or gets no flows; `sock` is closed."""
        receiver = next((receiver for receiver in self._tables if _place(receiver) == handed.place), None)
        server = next((server for server in self._backend.servers if server.name == handed.server), None)
        try:
            is_right = (
                receiver is not None and server is not None and server.takes_cookie
                and _leads_to(sock, server.sockaddr)
                and handed.client not in self._tables[receiver] and self._counters.scur < self._most_flows
            )  # fmt: skip
        except OSError:
            is_right = False
        if not is_right:
            sock.close()
            return False
        assert receiver is not None and server is not None
        flow = _Flow(self._tables[receiver], receiver, handed.client, handed.began)
        flow.last, flow.datagrams, flow.answers, flow.retries = handed[4:8]
        flow.bytes_in, flow.bytes_out = handed[8:]
        flow.server = server
        flow.leg = leg = _Leg(server, sock)
        flow.table[flow.client] = flow
        heappush(self._due, (flow.last + self._timeout, next(self._numbers), flow))
        self._counters.scur += 1
        self._counters.smax = max(self._counters.smax, self._counters.scur)
        self._backend.take(server)
        # It was counted when it began.
        server.counters.stot -= 1
        self._loop.add_reader(sock.fileno(), self._from_server, flow, leg)
        return True

    def sweep(self, now: float) -> None:
        """End the flows that were idle for `timeout`; to be called some times a second."""
        due = self._due
        while due and due[0][0] <= now:
            _, number, flow = due[0]
            alive = flow.table.get(flow.client) is flow
            deadline = flow.last + self._timeout
            if alive and deadline > now:
                heapreplace(due, (deadline, number, flow))
                continue
            heappop(due)
            if alive:
                self._end(flow)
        if len(due) > 2 * self.outstanding + _DEAD_FLOWS:
            due[:] = [entry for entry in due if entry[2].table.get(entry[2].client) is entry[2]]
            heapify(due)

    def _from_clients(self, receiver: Receiver) -> None:
        counters, table = self._counters, self._tables[receiver]
        try:
            datagrams = receiver.receive()
        except OSError:
            receiver.listen(self._loop, self._from_clients)
            return
        now = self._clock()
        for data, client in datagrams:
            counters.req_tot += 1
            counters.bin += len(data)
            flow = table.get(client)
            if flow is None:
                if counters.scur >= self._max_flows:
                    counters.udp_dropped += 1
                    continue
                flow = self._begin(table, receiver, client, now)
            flow.last = now
            flow.bytes_in += len(data)
            try:
                sent = self._to_server(flow, data)
            except OSError:
                # For want of room on this machine. A flow that has no server yet did not begin.
                counters.udp_dropped += 1
                if flow.leg is None:
                    self._forget(flow)
                continue
            if not sent:
                counters.udp_dropped += 1
                self._end(flow)
            elif self._responses == 0:
                self._end(flow)

    def _begin(self, table: dict[bytes, _Flow], receiver: Receiver, client: bytes, now: float) -> _Flow:
        flow = table[client] = _Flow(table, receiver, client, now)
        heappush(self._due, (now + self._timeout, next(self._numbers), flow))
        counters = self._counters
        counters.stot += 1
        counters.scur += 1
        counters.smax = max(counters.smax, counters.scur)
        return flow

    def _to_server(self, flow: _Flow, data: bytes) -> bool:
        """Send to the flow's server, or to another if that fails at once. False: no server took it.

        Raises OSError when it is this machine that cannot send.
        """
        if flow.leg is not None and not flow.leg.still_leads:
            self._leave(flow, flow.leg)
        for attempt in range(2):
            leg = flow.leg
            if leg is None:
                server = self._pick(flow)
                if server is None or (attempt and server is flow.avoid):
                    return False
                leg = self._join(flow, server)
            if leg is not None:
                try:
                    leg.sock.send(data)
                except OSError as error:
                    if error.errno in LOCAL_TROUBLE:
                        raise
                    leg.server.counters.econ += 1
                    self._leave(flow, leg)
                else:
                    flow.datagrams += 1
                    leg.server.counters.bin += len(data)
                    return True
        return False

    def _pick(self, flow: _Flow) -> Server | None:
        key = b""
        if self._backend.needs == "source":
            key = flow.receiver.source(flow.client)
        return self._backend.pick(key, flow.avoid)

    def _join(self, flow: _Flow, server: Server) -> _Leg | None:
        """Open the flow's socket towards `server`; None when there is no way there."""
        flow.server = server
        server.counters.lbtot += 1
        self._backend.take(server)
        try:
            leg = _Leg(server)
        except OSError as error:
            self._backend.release(server)
            if error.errno in LOCAL_TROUBLE:
                raise
            server.counters.econ += 1
            flow.avoid = server
            return None
        if flow.avoid is not None and flow.avoid is not server:
            flow.retries += 1
            flow.avoid.counters.wredis += 1
        flow.leg = leg
        self._loop.add_reader(leg.sock.fileno(), self._from_server, flow, leg)
        return leg

    def _leave(self, flow: _Flow, leg: _Leg) -> None:
        """Take the flow from its server."""
        flow.leg = None
        flow.avoid = leg.server
        self._loop.remove_reader(leg.sock.fileno())
        leg.sock.close()
        self._backend.release(leg.server)

    def _from_server(self, flow: _Flow, leg: _Leg) -> None:
        refused = False
        try:
            answers = self._batch.receive(leg.sock.fileno())
        except OSError:
            refused = True
            answers = self._batch.receive_rest(leg.sock.fileno())
        size = sum(map(len, answers))
        self._counters.udp_dropped += flow.receiver.send([(answer, flow.client) for answer in answers])
        self._counters.bout += size
        leg.server.counters.bout += size
        flow.last = self._clock()
        flow.answers += len(answers)
        flow.bytes_out += size
        if self._responses is not None and flow.answers >= self._responses * flow.datagrams:
            self._end(flow)
        elif refused:
            leg.server.counters.econ += 1
            self._leave(flow, leg)

    def _forget(self, flow: _Flow) -> None:
        if flow.leg is not None:
            self._leave(flow, flow.leg)
        del flow.table[flow.client]
        self._counters.scur -= 1

    def _end(self, flow: _Flow) -> None:
        """Close, count and log."""
        elapsed = self._clock() - flow.began
        micros = int(elapsed * 1e6)
        if flow.server is None:
            # Nobody was there for it.
            row = self._backend.counters
            row.econ += 1
            row.bin += flow.bytes_in
        else:
            row = flow.server.counters
            row.lastsess = int(self._wall())
        row.ttime += micros
        row.ttime_max = max(row.ttime_max, micros)
        self._backend.counters.total_times[min(micros.bit_length(), BUCKETS - 1)] += 1
        refused = flow.leg is None
        self._forget(flow)
        if self._log is None:
            return
        host, port = flow.receiver.address(flow.client)
        done = flow.answers or (self._responses == 0 and not refused)
        termination = "--" if done else "SC" if refused else "sH"
        self._log(
            UdpRecord(
                client=host,
                client_port=port,
                began=self._wall() - elapsed,
                frontend=self._frontend,
                backend=self._backend.name,
                server=flow.server.name if flow.server is not None else "<NOSRV>",
                tt=int(elapsed * 1000),
                bytes_in=flow.bytes_in,
                bytes_out=flow.bytes_out,
                termination=termination,
                retries=flow.retries,
                query="",
            )
        )
