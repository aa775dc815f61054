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
from collections.abc import Callable, Sequence
from contextlib import suppress
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any

from balancer.pool.backend import Backend
from balancer.pool.facts import BUCKETS, Counters
from balancer.pool.records import UdpRecord
from balancer.pool.server import Server

__all__ = ["BATCH", "LARGEST", "LOCAL_TROUBLE", "FlowForwarder", "Receiver", "connected", "packed"]

LARGEST = 65535
"""More than any datagram holds (65 507 octets over IPv4, 65 527 over IPv6): nothing is ever cut."""

BATCH = 32
"""Datagrams read from one socket before the others have their turn: about half a millisecond's work."""

LOCAL_TROUBLE = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EMSGSIZE))
"""What ails this machine or this datagram and says nothing about the server."""

# linux/in.h and linux/in6.h; Python has no names for them.
_IP_MTU_DISCOVER, _IP_PMTUDISC_OMIT = 10, 5
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_OMIT = 23, 5
_IP_PKTINFO = 8

# Room for a burst; the kernel cuts it down to net.core.rmem_max without an error.
_RECEIVE_BUFFER = 4 << 20

# Flows ended by `responses` stay in the heap of deadlines until they are more than those alive, and so many.
_DEAD_FLOWS = 1024

_IN_PKTINFO = struct.Struct("=i4s4s")
_IN6_PKTINFO = struct.Struct("=16si")
_ANCILLARY = socket.CMSG_SPACE(_IN_PKTINFO.size) + socket.CMSG_SPACE(_IN6_PKTINFO.size)

_MAPPED = b"\0" * 10 + b"\xff\xff"

Sockaddr = tuple[Any, ...]


class Receiver:
    """A socket that clients send to. An answer leaves from the address that its client called.

    On a wildcard bind that address comes with each datagram (IP_PKTINFO, RFC 3542 section 6) and a client is the
    pair of what to send back and the socket address; else a client is its socket address. Both can be dict keys.
    """

    __slots__ = ("_wildcard", "receive", "send", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._wildcard = sock.getsockname()[0] in ("0.0.0.0", "::")
        self.receive: Callable[[int], tuple[bytes, Any]] = sock.recvfrom
        """Takes the size to read; gives datagram and client."""
        self.send: Callable[[bytes, Any], int] = sock.sendto
        """Takes datagram and client. Both raise OSError as the socket does."""
        v6 = sock.family == socket.AF_INET6
        if self._wildcard:
            self.receive, self.send = self._receive, self._send
            # A socket for both families gives IPv4 datagrams as mapped addresses with the IPv6 option.
            if v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        # Large answers go out in fragments, whatever path MTU somebody claims in a forged ICMP message.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_OMIT)
        if v6:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_OMIT)

    def listen(self, loop: asyncio.AbstractEventLoop, callback: Callable[[Receiver], None]) -> None:
        """Have `callback` called whenever there is something to receive."""
        loop.add_reader(self.sock.fileno(), callback, self)

    def relisten(self, loop: asyncio.AbstractEventLoop, callback: Callable[[Receiver], None]) -> None:
        """Go on after an error: uvloop ceases to watch a socket that had one (libuv does, on POLLERR)."""
        self.stop(loop)
        self.listen(loop, callback)

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call no more."""
        loop.remove_reader(self.sock.fileno())

    def address(self, client: Any) -> Sockaddr:
        """The client's socket address."""
        address: Sockaddr = client[1] if self._wildcard else client
        return address

    def _receive(self, size: int) -> tuple[bytes, Any]:
        data, ancillary, _, address = self.sock.recvmsg(size, _ANCILLARY)
        for level, _, value in ancillary:
            if level == socket.IPPROTO_IP:
                # The interface is left open: the answer's route need not be the query's.
                _, local, _ = _IN_PKTINFO.unpack(value)
                return data, (((level, _IP_PKTINFO, _IN_PKTINFO.pack(0, local, b"\0\0\0\0")),), address)
            if level == socket.IPPROTO_IPV6:
                local, interface = _IN6_PKTINFO.unpack(value)
                # A link-local address means nothing without its link (RFC 4007 section 6).
                scope = interface if local[0] == 0xFE and local[1] & 0xC0 == 0x80 else 0
                return data, (((level, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(local, scope)),), address)
        return data, ((), address)

    def _send(self, data: bytes, client: Any) -> int:
        ancillary, address = client
        return self.sock.sendmsg((data,), ancillary, 0, address)


def packed(address: Sockaddr) -> bytes:
    """An IP address as 4 or 16 octets, the key for `balance source`; an IPv4-mapped one as 4."""
    host = address[0]
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    octets = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return octets[12:] if octets.startswith(_MAPPED) else octets


def connected(sockaddr: Sockaddr | str | None) -> socket.socket:
    """A non-blocking UDP socket connected to a server, from a port that the kernel drew by lot.

    Raises OSError when there is no way to the server, and for a server without an address (`None`, a Unix path).
    """
    if sockaddr is None or isinstance(sockaddr, str):
        raise OSError(errno.EDESTADDRREQ, "the server has no address")
    family = socket.AF_INET6 if len(sockaddr) == 4 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.connect(sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


class _Leg:
    """A flow's way to its server."""

    __slots__ = ("server", "sock", "sockaddr")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.sockaddr = server.sockaddr
        self.sock = connected(server.sockaddr)

    @property
    def still_leads(self) -> bool:
        """Whether the server, as it is now, may still get this flow."""
        return self.server.state.takes_cookie and self.server.sockaddr == self.sockaddr


class _Flow:
    """A client and the server it was given."""

    __slots__ = (
        "answers", "avoid", "began", "bytes_in", "bytes_out", "client", "datagrams", "last", "leg", "receiver",
        "retries", "server", "table",
    )  # fmt: skip

    def __init__(self, table: dict[Any, _Flow], receiver: Receiver, client: Any, now: float) -> None:
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


class FlowForwarder:
    """`mode: udp`, protocol generic: a client stays with its server until the flow has been idle for `timeout` seconds.

    With `responses`, a flow ends when it has had that many answers for each of its datagrams; 0 balances every
    datagram on its own. When `max_flows` clients are remembered, datagrams of further ones are dropped, so that a
    flood from invented addresses takes no flow away from those who have one. A client whose server went down,
    is in maintenance, changed its address or refused (ICMP) goes to another with its next datagram.

    Counted on the frontend: flows in `stot` and `scur`, datagrams in `req_tot`, what was dropped either way in
    `udp_dropped`. A refusal is an `econ` of server and backend, a flow moved a `wredis`. `log` gets a record for
    each flow that ends. The listening sockets are the caller's: bound, non-blocking, never closed here.
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
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._frontend = frontend
        self._backend = backend
        self._counters = counters
        self._timeout = timeout
        self._max_flows = max_flows
        self._responses = responses
        self._log = log
        self._clock = clock
        self._wall = wall
        self._tables: dict[Receiver, dict[Any, _Flow]] = {Receiver(sock): {} for sock in sockets}
        """Flows by where they came in and by client."""
        self._due: list[tuple[float, int, _Flow]] = []
        """A heap: every flow once, with the earliest time it can be over, and a number to tell equal times apart."""
        self._numbers = count()

    @property
    def outstanding(self) -> int:
        """Flows alive."""
        return self._counters.scur

    def start(self) -> None:
        """Begin to listen."""
        for receiver in self._tables:
            receiver.listen(self._loop, self._from_clients)

    def stop_accepting(self) -> None:
        """Listen no longer; answers to what came before still pass."""
        for receiver in self._tables:
            receiver.stop(self._loop)

    def close(self) -> None:
        """End all flows at once."""
        self.stop_accepting()
        for table in self._tables.values():
            for flow in list(table.values()):
                self._end(flow)
        self._due.clear()

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
        for _ in range(BATCH):
            try:
                data, client = receiver.receive(LARGEST)
            except BlockingIOError:
                return
            except OSError:
                receiver.relisten(self._loop, self._from_clients)
                return
            counters.req_tot += 1
            counters.bin += len(data)
            now = self._clock()
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

    def _begin(self, table: dict[Any, _Flow], receiver: Receiver, client: Any, now: float) -> _Flow:
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
                    self._refused(flow, leg.server)
                    self._leave(flow, leg)
                else:
                    flow.datagrams += 1
                    self._backend.counters.bin += len(data)
                    leg.server.counters.bin += len(data)
                    return True
        return False

    def _pick(self, flow: _Flow) -> Server | None:
        key = b""
        if self._backend.needs == "source":
            key = packed(flow.receiver.address(flow.client))
        return self._backend.pick(key, flow.avoid)

    def _join(self, flow: _Flow, server: Server) -> _Leg | None:
        """Open the flow's socket towards `server`; None when there is no way there."""
        flow.server = server
        self._backend.take(server)
        try:
            leg = _Leg(server)
        except OSError as error:
            self._backend.release(server)
            if error.errno in LOCAL_TROUBLE:
                raise
            self._refused(flow, server)
            return None
        if flow.avoid is not None and flow.avoid is not server:
            flow.retries += 1
            self._backend.counters.wredis += 1
            flow.avoid.counters.wredis += 1
        flow.leg = leg
        self._loop.add_reader(leg.sock.fileno(), self._from_server, flow, leg)
        return leg

    def _refused(self, flow: _Flow, server: Server) -> None:
        self._backend.counters.econ += 1
        server.counters.econ += 1
        flow.avoid = server

    def _leave(self, flow: _Flow, leg: _Leg) -> None:
        """Take the flow from its server."""
        flow.leg = None
        flow.avoid = leg.server
        self._loop.remove_reader(leg.sock.fileno())
        leg.sock.close()
        self._backend.release(leg.server)

    def _from_server(self, flow: _Flow, leg: _Leg) -> None:
        receiver, responses = flow.receiver, self._responses
        for _ in range(BATCH):
            try:
                answer = leg.sock.recv(LARGEST)
            except BlockingIOError:
                return
            except OSError:
                self._refused(flow, leg.server)
                self._leave(flow, leg)
                return
            flow.last = self._clock()
            flow.answers += 1
            flow.bytes_out += len(answer)
            for counters in (self._counters, self._backend.counters, leg.server.counters):
                counters.bout += len(answer)
            try:
                receiver.send(answer, flow.client)
            except OSError:
                self._counters.udp_dropped += 1
            if responses is not None and flow.answers >= responses * flow.datagrams:
                self._end(flow)
                return

    def _forget(self, flow: _Flow) -> None:
        if flow.leg is not None:
            self._leave(flow, flow.leg)
        del flow.table[flow.client]
        self._counters.scur -= 1

    def _end(self, flow: _Flow) -> None:
        elapsed = self._clock() - flow.began
        micros = int(elapsed * 1e6)
        rows = [self._backend.counters]
        if flow.server is not None:
            rows.append(flow.server.counters)
        for row in rows:
            row.ttime += micros
            row.ttime_max = max(row.ttime_max, micros)
        self._backend.counters.total_times[min(micros.bit_length(), BUCKETS - 1)] += 1
        refused = flow.leg is None
        self._forget(flow)
        if self._log is None:
            return
        address = flow.receiver.address(flow.client)
        done = flow.answers or (self._responses == 0 and not refused)
        termination = "--" if done else "SC" if refused else "sH"
        self._log(
            UdpRecord(
                client=address[0],
                client_port=address[1],
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
