"""DNS over UDP: every query balanced on its own.

An answer is taken from a socket connected to the server asked, under an id drawn from the kernel's random
numbers, for the question that was sent; a guesser has to hit port and id before the server answers, and a wrong
guess takes nothing away from the right answer (RFC 5452 sections 4 and 9). Sockets live for seconds only, so
ports change too, and on one socket no id is used twice: what comes under a used id is late or a
duplicate, what comes under another is forged.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from heapq import merge
from itertools import islice, takewhile
from operator import itemgetter
from typing import TypeAlias

from balancer.pool.backend import Backend
from balancer.pool.facts import BUCKETS, Counters
from balancer.pool.records import UdpRecord
from balancer.pool.server import Server
from balancer.proxy.mmsg import Batch
from balancer.proxy.udp import BATCH, LOCAL_TROUBLE, Receiver, connected
from balancer.wire.dns import is_answer, qname, question_end, question_text, servfail

__all__ = ["DnsForwarder"]

# Sockets towards each server: three more bits to guess. With many servers fewer, for the sake of descriptors.
_MOST_SOCKETS, _FEWEST_SOCKETS, _ALL_SOCKETS = 8, 2, 256
# A socket is replaced after this time or this many ids: its port is worth no search, and the ids it has used,
# which it remembers, stay a small part of all 65 536.
_LIFETIME = 10.0
_LIFETIME_IDS = 4096
_MOST_IDS = 49152
# Ids that a socket draws at a time.
_BLOCK = 32
# Octets of outstanding queries kept for a second attempt: 65 536 usual ones take 5 MiB, as many of the largest 4 GiB.
_MOST_OCTETS = 64 << 20

# A query that waits: when it was sent (this attempt), when it came, the message, the end of its question, where it
# came in, its client there, attempts before this one. A bare tuple, as there is one for each query: a class
# with names costs as much again as finding the server.
_Query: TypeAlias = tuple[float, float, bytes, int, Receiver, bytes, int]


class _Channel:
    """A socket connected to a server."""

    __slots__ = ("born", "drawn", "ids", "peer", "pending", "send", "sock")

    def __init__(self, peer: _Peer, sock: socket.socket, now: float) -> None:
        self.peer = peer
        self.sock = sock
        self.send = sock.send
        self.born = now
        self.pending: dict[bytes, _Query] = {}
        """By id on the wire, the one sent first at the front."""
        self.ids: list[bytes] = []
        """For the next queries."""
        self.drawn: set[bytes] = set()
        """All ids that were ever in `ids`."""

    def draw(self) -> None:
        """Refill `ids` from the kernel's random numbers, each id but once in the socket's life."""
        if len(self.drawn) > _MOST_IDS:
            # It should have been replaced long ago, but no other socket could be had.
            self.drawn = set(self.pending)
        while not self.ids:
            block = os.urandom(2 * _BLOCK)
            fresh = {block[i : i + 2] for i in range(0, len(block), 2)} - self.drawn
            self.drawn |= fresh
            self.ids += fresh


class _Peer:
    """A server and the sockets that new queries to it may take."""

    __slots__ = ("channels", "server", "sockaddr")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.sockaddr = server.sockaddr
        self.channels: list[_Channel] = []


class DnsForwarder:
    """`mode: udp`, protocol dns.

    A query that got no answer within `timeout` seconds, or whose server refuses it (ICMP), goes once to another
    server; when that fails too, or there is none, the client gets SERVFAIL. Past `max_flows` outstanding
    queries (or 64 MiB of them) the oldest are dropped, a sixty-fourth at least: they are the ones least likely to
    be answered still, and a server that has ceased to answer must not keep out the queries of the others.

    Counted on the frontend: queries in `stot` and `req_tot`, outstanding ones in `scur`; `udp_dropped` datagrams
    of clients that are no query, and queries and answers dropped for want of room; `udp_late` late and duplicate
    answers; `udp_forged` answers to nothing that was asked. A failed attempt counts at its server, as `wredis`
    where another server is asked and as `econ` where none is; a query that no server was there for is an `econ`
    of the backend. `log` gets a record for each query answered, by SERVFAIL too. The listening sockets are the
    caller's: bound, non-blocking, never closed here.
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
        self._max_flows = max_flows
        self._log = log
        self._clock = clock
        self._wall = wall
        self._receivers = [receiver(sock) for sock in sockets]
        self._on_clients: Callable[[Receiver], None] = self._from_clients
        self._is_listening = False
        self._peers: dict[Server, _Peer] = {}
        self._current: dict[Server, _Channel] = {}
        """Which of a server's sockets takes the next queries, until its ids are used up."""
        self._channels: set[_Channel] = set()
        self._width = min(_MOST_SOCKETS, max(_FEWEST_SOCKETS, _ALL_SOCKETS // max(1, len(backend.servers))))
        self._batch = Batch(BATCH)
        self._octets = 0
        """Of all outstanding queries."""
        self._orphans: list[tuple[_Query, Server]] = []
        """Queries whose socket broke, to be sent to another server in the loop's next turn."""

    @property
    def outstanding(self) -> int:
        """Queries that wait for an answer."""
        return self._counters.scur

    def start(self) -> None:
        """Begin to listen."""
        self._is_listening = True
        for receiver in self._receivers:
            receiver.listen(self._loop, self._on_clients)

    def refuse(self) -> None:
        """Until `admit`, whoever asks is told that nobody answers. What is outstanding is still answered."""
        self._turn_to(self._from_refused)

    def admit(self) -> None:
        """Queries go to the servers again."""
        self._turn_to(self._from_clients)

    def _turn_to(self, callback: Callable[[Receiver], None]) -> None:
        self._on_clients = callback
        if self._is_listening:
            self.start()

    def stop_accepting(self) -> None:
        """Listen no longer; what is outstanding is still answered."""
        self._is_listening = False
        for receiver in self._receivers:
            receiver.stop()

    def close(self) -> None:
        """End everything at once; outstanding queries get no answer."""
        self.stop_accepting()
        for channel in list(self._channels):
            self._break(channel)
        for query, server in self._orphans:
            self._leave(query, server)
            self._forget(query)
        self._orphans.clear()

    def sweep(self, now: float) -> None:
        """Give up what has waited for too long and renew sockets; to be called some times a second."""
        limit = now - self._timeout
        for channel in list(self._channels):
            pending = channel.pending
            overdue = list(takewhile(lambda item: item[1][0] <= limit, pending.items()))
            for ident, _ in overdue:
                del pending[ident]
            for _, query in overdue:
                self._retry(query, channel.peer.server, "sH")
            peer, age = channel.peer, now - channel.born
            if peer.sockaddr != peer.server.sockaddr:
                self._retire(channel)
            elif age >= _LIFETIME and self._current.get(peer.server) is channel:
                # The next query has it replaced. In vain for so long: the server gets none.
                del self._current[peer.server]
            if not pending and (channel not in peer.channels or age >= 2 * _LIFETIME):
                self._shut(channel)

    # From clients to servers

    def _from_clients(self, receiver: Receiver) -> None:
        counters, backend, clock = self._counters, self._backend, self._clock
        try:
            datagrams = receiver.receive()
        except OSError:
            receiver.listen(self._loop, self._on_clients)
            return
        queries = octets = 0
        for message, client in datagrams:
            end = question_end(message)
            if not end:
                counters.bin += len(message)
                counters.ereq += 1
                counters.udp_dropped += 1
                continue
            queries += 1
            octets += len(message)
            now = clock()
            query = (now, now, message, end, receiver, client, 0)
            self._forward(query, backend.pick(self._key(query)) if backend.needs else backend.pick())
        counters.bin += octets
        counters.stot += queries
        counters.req_tot += queries
        counters.scur += queries
        if counters.scur > counters.smax:
            counters.smax = counters.scur
        self._octets += octets
        if counters.scur > self._max_flows or self._octets > _MOST_OCTETS:
            self._make_room()

    def _from_refused(self, receiver: Receiver) -> None:
        counters, answers = self._counters, []
        try:
            datagrams = receiver.receive()
        except OSError:
            receiver.listen(self._loop, self._on_clients)
            return
        for message, client in datagrams:
            counters.bin += len(message)
            if end := question_end(message):
                answers.append((servfail(message, end), client))
            else:
                counters.ereq += 1
                counters.udp_dropped += 1
        counters.stot += len(answers)
        counters.req_tot += len(answers)
        counters.intercepted += len(answers)
        counters.bout += sum(len(answer) for answer, _ in answers)
        counters.udp_dropped += receiver.send(answers)

    def _key(self, query: _Query) -> bytes:
        _, _, message, end, receiver, client, _ = query
        if self._backend.needs == "source":
            return receiver.source(client)
        # To `balance uri` a question mark ends the key; here it is a label's length, or a letter.
        return qname(message, end).replace(b"?", b"\0")

    def _forward(self, query: _Query, server: Server | None) -> None:
        """Send to `server`, or to another if that fails at once and this is the first attempt."""
        failed = None
        while server is not None:
            server.counters.lbtot += 1
            self._backend.take(server)
            try:
                self._send(query[2], query, server)
            except OSError as error:
                if error.errno in LOCAL_TROUBLE:
                    self._backend.release(server)
                    self._counters.udp_dropped += 1
                    self._forget(query)
                    return
                failed = server
                query, server = self._another(query, server)
            else:
                return
        self._refuse(query, failed, "SC")

    def _send(self, message: bytes, query: _Query, server: Server) -> None:
        try:
            channel = self._current[server]
            ident = channel.ids.pop()
        except (KeyError, IndexError):
            channel = self._prepare(server)
            ident = channel.ids.pop()
        try:
            channel.send(ident + message[2:])
        except OSError as error:
            if error.errno not in LOCAL_TROUBLE:
                self._break(channel)
            raise
        channel.pending[ident] = query

    def _prepare(self, server: Server) -> _Channel:
        """Choose one of the sockets towards `server` for the next queries; OSError when none can be had."""
        peer = self._peers.get(server)
        if peer is None:
            peer = self._peers[server] = _Peer(server)
        if peer.sockaddr != server.sockaddr:
            for channel in list(peer.channels):
                self._retire(channel)
            peer.sockaddr = server.sockaddr
        now = self._clock()
        worn = [one for one in peer.channels if len(one.drawn) >= _LIFETIME_IDS or now - one.born >= _LIFETIME]
        if worn or len(peer.channels) < self._width:
            try:
                sock = connected(peer.sockaddr)
            except OSError:
                # Better an old socket than none.
                if not peer.channels:
                    raise
            else:
                for channel in worn:
                    self._retire(channel)
                channel = _Channel(peer, sock, now)
                peer.channels.append(channel)
                self._channels.add(channel)
                self._loop.add_reader(sock.fileno(), self._from_server, channel)
        channel = self._current[server] = peer.channels[os.urandom(1)[0] % len(peer.channels)]
        channel.draw()
        return channel

    # From servers to clients

    def _from_server(self, channel: _Channel) -> None:
        backend, server, times = self._backend, channel.peer.server, self._backend.counters.response_times
        counters, pending = self._counters, channel.pending
        refused = False
        try:
            messages = self._batch.receive(channel.sock.fileno())
        except OSError:
            refused = True
            messages = self._batch.receive_rest(channel.sock.fileno())
        now = self._clock()
        outgoing: dict[Receiver, list[tuple[bytes, bytes]]] = {}
        via, answers = None, []
        asked = octets = response = response_max = total = total_max = 0
        for message in messages:
            ident = message[:2]
            query = pending.get(ident)
            if query is None or not is_answer(message, query[2], query[3]):
                if query is None and ident in channel.drawn:
                    counters.udp_late += 1
                else:
                    counters.udp_forged += 1
                continue
            del pending[ident]
            sent, came, question, _, receiver, client, retries = query
            if receiver is not via:
                via, answers = receiver, outgoing.setdefault(receiver, [])
            answers.append((question[:2] + message[2:], client))
            asked += len(question)
            octets += len(message)
            micros = int((now - sent) * 1e6)
            response += micros
            if micros > response_max:
                response_max = micros
            times[min(micros.bit_length(), BUCKETS - 1)] += 1
            if retries:
                micros = int((now - came) * 1e6)
            total += micros
            if micros > total_max:
                total_max = micros
            backend.release(server)
            if self._log is not None:
                self._record(self._log, query, server, len(message), "--")
        for receiver, answers in outgoing.items():
            counters.scur -= len(answers)
            counters.udp_dropped += receiver.send(answers)
        counters.bout += octets
        self._octets -= asked
        row = server.counters
        row.bin += asked
        row.bout += octets
        row.rtime += response
        row.ttime += total
        row.lastsess = int(self._wall())
        if response_max > row.rtime_max:
            row.rtime_max = response_max
        if total_max > row.ttime_max:
            row.ttime_max = total_max
        if refused:
            self._break(channel)

    # What goes wrong

    def _retry(self, query: _Query, failed: Server, termination: str) -> None:
        query, other = self._another(query, failed)
        if other is None:
            self._refuse(query, failed, termination)
        else:
            self._forward(query, other)

    def _another(self, query: _Query, failed: Server) -> tuple[_Query, Server | None]:
        """Take the query from the server that failed it. Gives the one to ask instead, if it may and there is one."""
        backend = self._backend
        _, came, message, end, receiver, client, retries = query
        other = None if retries else backend.pick(self._key(query) if backend.needs else b"", failed)
        self._leave(query, failed)
        if other is None or other is failed:
            failed.counters.econ += 1
            return query, None
        failed.counters.wredis += 1
        return (self._clock(), came, message, end, receiver, client, 1), other

    def _refuse(self, query: _Query, failed: Server | None, termination: str) -> None:
        """Tell the client that no server answers."""
        _, _, message, end, receiver, client, _ = query
        answer = servfail(message, end)
        counters = self._counters
        counters.udp_dropped += receiver.send([(answer, client)])
        counters.bout += len(answer)
        counters.intercepted += 1
        if failed is None:
            row = self._backend.counters
            row.econ += 1
            row.bin += len(message)
            row.bout += len(answer)
        self._forget(query)
        if self._log is not None:
            self._record(self._log, query, failed, len(answer), termination)

    def _leave(self, query: _Query, server: Server) -> None:
        server.counters.bin += len(query[2])
        self._backend.release(server)

    def _forget(self, query: _Query) -> None:
        self._counters.scur -= 1
        self._octets -= len(query[2])

    def _break(self, channel: _Channel) -> None:
        """The server refuses: what waits on this socket is sent elsewhere in the loop's next turn.

        Not at once, lest a row of refusing servers become a tower of calls.
        """
        if channel.pending and not self._orphans:
            self._loop.call_soon(self._rehome)
        self._orphans += [(query, channel.peer.server) for query in channel.pending.values()]
        channel.pending.clear()
        self._shut(channel)

    def _rehome(self) -> None:
        orphans, self._orphans = self._orphans, []
        for query, failed in orphans:
            self._retry(query, failed, "SC")

    def _retire(self, channel: _Channel) -> None:
        """No new query takes this socket."""
        peer = channel.peer
        if channel in peer.channels:
            peer.channels.remove(channel)
        if self._current.get(peer.server) is channel:
            del self._current[peer.server]

    def _shut(self, channel: _Channel) -> None:
        self._retire(channel)
        if channel in self._channels:
            self._channels.remove(channel)
            self._loop.remove_reader(channel.sock.fileno())
            channel.sock.close()

    def _make_room(self) -> None:
        """Drop the oldest queries."""
        counters = self._counters
        excess = max(counters.scur - self._max_flows, counters.scur // 64, 1)
        waiting = (
            [(query[0], ident, channel) for ident, query in channel.pending.items()] for channel in self._channels
        )
        for _, ident, channel in list(islice(merge(*waiting, key=itemgetter(0)), excess)):
            query = channel.pending.pop(ident)
            self._leave(query, channel.peer.server)
            self._forget(query)
            counters.udp_dropped += 1

    def _record(
        self, log: Callable[[UdpRecord], None], query: _Query, server: Server | None, size: int, termination: str
    ) -> None:
        _, came, message, end, receiver, client, retries = query
        host, port = receiver.address(client)
        elapsed = self._clock() - came
        log(
            UdpRecord(
                client=host,
                client_port=port,
                began=self._wall() - elapsed,
                frontend=self._frontend,
                backend=self._backend.name,
                server=server.name if server is not None else "<NOSRV>",
                tt=int(elapsed * 1000),
                bytes_in=len(message),
                bytes_out=size,
                termination=termination,
                retries=retries,
                query=question_text(message, end),
            )
        )
