"""A TCP session: two halves that hand each other what they read.

    client ── Half ⇄ Session ⇄ Half ── server

A chunk costs one call: count, write to the other side. A full side pauses the reader of the other.
A half that ends is passed on as a half-close; a reset is passed on as a reset, so that a cut
transfer never looks complete. A session counts, and its deadline is watched, until both sockets are closed.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from balancer.config import model
from balancer.errors import BadRequest
from balancer.pool.records import TcpRecord
from balancer.pool.server import Server
from balancer.pool.waiting import LimitedBackend, Ticket, described, others
from balancer.proxy.listen import Gate
from balancer.proxy.stream import Receiver, Stream
from balancer.proxy.sweep import NEVER, Clock, Sweeper
from balancer.proxy.upstream import Attempt, Upstream, set_keepalive
from balancer.wire import proxyproto

__all__ = ["TcpFrontend", "reset", "source_key"]

# What a client may send while it waits for a place at a server, before we stop reading: one full read.
_AHEAD: Final = 65536
_LINGER_RESET: Final = struct.pack("ii", 1, 0)


def reset(transport: Stream) -> None:
    """Close with RST: the peer must not take what it has got for the whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    transport.abort()


def _close(transport: Stream) -> None:
    transport.close()


@dataclass(frozen=True, kw_only=True)
class TcpFrontend:
    """What the sessions of one frontend share in this worker. Times are seconds."""

    name: str
    clock: Clock
    sweeper: Sweeper
    gate: Gate
    upstream: Upstream
    client_timeout: float
    queue_timeout: float
    server_timeout: float
    tunnel_timeout: float | None
    client_fin: float
    server_fin: float
    proxy_header_timeout: float
    keepalive: model.TcpKeepalive | None
    log: Callable[[TcpRecord], None] | None
    dontlognull: bool

    def accept(self, *, accept_proxy: bool) -> Half:
        """The protocol of one accepted connection."""
        return Session(self, accept_proxy=accept_proxy).client

    @property
    def idle_timeout(self) -> float:
        return self.tunnel_timeout or min(self.client_timeout, self.server_timeout)


class Half(Receiver):
    """One side of a session."""

    __slots__ = ("count", "eof", "peer", "session", "transport", "unsent")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.transport: Stream | None = None
        self.peer: Stream | None = None
        self.eof = False
        self.count = 0
        self.unsent = 0

    def connection_made(self, transport: Stream) -> None:
        self.transport = transport
        self.session.made(self)

    def data_received(self, data: bytes) -> None:
        peer = self.peer
        if peer is None:
            self.session.early(data)
            return
        self.count += len(data)
        peer.write(data)
        session = self.session
        session.active = session.clock.now

    def eof_received(self) -> bool:
        if not self.eof:
            # It is told again when reading is resumed.
            self.eof = True
            self.session.ended(self)
        return True

    def pause_writing(self) -> None:
        other = self.session.other(self).transport
        if other is not None:
            other.pause_reading()

    def resume_writing(self) -> None:
        other = self.session.other(self).transport
        if other is not None and not other.is_closing():
            other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.session.lost(self, exc)
        self.forget()

    def forget(self) -> None:
        """Nothing more will happen here: halves and session, which hold each other, go without the garbage
        collector."""
        self.peer = None
        self.session = None  # type: ignore[assignment]


class Session:
    """One client's connection from accept to the log record."""

    __slots__ = (
        "accept_proxy", "active", "began", "buffer", "client", "clock", "connected", "counted", "deadline",
        "destination", "dialling", "done", "frontend", "is_persistent", "key", "redispatched", "retries", "server",
        "server_half", "source", "started", "termination", "ticket", "told_in", "told_out", "why",
    )  # fmt: skip

    def __init__(self, frontend: TcpFrontend, *, accept_proxy: bool) -> None:
        self.frontend = frontend
        self.clock = frontend.clock
        self.client = Half(self)
        self.server_half = Half(self)
        self.server: Server | None = None
        self.accept_proxy = accept_proxy
        self.key = b""
        self.is_persistent = False
        self.retries = self.told_in = self.told_out = 0
        self.redispatched = False
        self.buffer = b""
        self.dialling: Attempt | None = None
        self.ticket: Ticket | None = None
        self.started = self.counted = self.done = False
        self.connected = -1.0
        self.active = 0.0
        self.deadline = NEVER
        self.termination = "--"
        self.why = ""
        self.source: tuple[str, int] | None = None
        self.destination: tuple[str, int] | None = None

    def other(self, half: Half) -> Half:
        return self.server_half if half is self.client else self.client

    def endpoints(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """The client's address and the one it connected to, the PROXY protocol's word taken for it."""
        if self.destination is None and self.source is not None and self.client.transport is not None:
            self.destination = self.client.transport.get_extra_info("sockname")[:2]
        return self.source, self.destination

    @property
    def is_connected(self) -> bool:
        return self.connected >= 0

    @property
    def answered(self) -> int:
        return -1

    # From accept to a server

    def made(self, half: Half) -> None:
        transport = cast(Stream, half.transport)
        if half is self.server_half:
            return
        self.began = time.monotonic()
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.source = peer[:2]
        if self.frontend.gate.enter(self):
            self.unpark()

    def unpark(self) -> None:
        """There is room for this session (see `listen.Gate`)."""
        frontend = self.frontend
        self.counted = True
        self.active = self.clock.now
        frontend.sweeper.members.add(self)
        transport = cast(Stream, self.client.transport)
        if frontend.keepalive is not None:
            set_keepalive(transport, frontend.keepalive)
        if not self.accept_proxy:
            self._start()
            return
        self.deadline = self.clock.now + frontend.proxy_header_timeout
        if self.buffer:
            transport.resume_reading()
            self._read_proxy_header()
        if self.client.eof and not self.started:
            self._give_up("CR", "the client left before its PROXY protocol header was whole")

    def early(self, data: bytes) -> None:
        """The client sent before there was a server to send it to."""
        self.buffer += data
        if self.accept_proxy and self.counted and not self.started:
            self._read_proxy_header()
        elif not self.is_waiting or len(self.buffer) >= _AHEAD:
            cast(Stream, self.client.transport).pause_reading()

    def _read_proxy_header(self) -> None:
        try:
            header = proxyproto.parse(self.buffer)
        except BadRequest as error:
            self._give_up("PR", error.why)
            return
        if header is None:
            return
        self.buffer = self.buffer[header.size :]
        if header.source is not None:
            self.source, self.destination = header.source, header.destination
        if self.buffer:
            cast(Stream, self.client.transport).pause_reading()
        self._start()

    def _start(self) -> None:
        self.started = True
        self.deadline = NEVER
        upstream = self.frontend.upstream
        backend = upstream.backend
        if backend.needs and self.source is not None:
            self.key = source_key(self.source[0])
        server = backend.pick(self.key)
        if server is None:
            if backend.is_limited and backend.usable:
                self._wait(None)
                return
            backend.counters.econ += 1
            self._give_up("SC", f"{backend.name} has no server available")
            return
        server.counters.lbtot += 1
        if backend.take(server):
            self._wait(server)
            return
        self.server = server
        self._dial()

    def _wait(self, server: Server | None, *, avoid: Server | None = None) -> None:
        """For a place at `server`, or at any but `avoid`."""
        backend = cast(LimitedBackend, self.frontend.upstream.backend)
        self.deadline = self.clock.now + self.frontend.queue_timeout
        if not backend.wait(self, server, time.monotonic(), avoid=avoid):
            assert server is not None
            server.counters.econ += 1
            self._give_up("SQ", f"{backend.name}/{server.name}: too many wait for it")
        elif self.is_waiting and self.client.transport is not None and len(self.buffer) < _AHEAD:
            # Of whom we do not read we do not hear that he has gone.
            self.client.transport.resume_reading()

    def on_place(self, server: Server) -> None:
        """After `_wait`."""
        ticket, counters = cast(Ticket, self.ticket), server.counters
        waited = int(ticket.over(time.monotonic()) * 1e6)
        counters.qtime += waited
        counters.qtime_max = max(counters.qtime_max, waited)
        if ticket.bound is None:
            counters.lbtot += 1
        self.deadline = NEVER
        self.server = server
        self._dial()

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a place at a server."""
        return self.ticket is not None and self.ticket.is_waiting

    def _dial(self) -> None:
        self.dialling = attempt = self.frontend.upstream.attempt(self, self.server_half)
        attempt.start()

    def on_no_connection(self, termination: str, why: str) -> None:
        self.dialling = None
        self._give_up(termination, why)

    def on_fault(self, fault: Exception) -> None:
        """The client is not to wait for ever."""
        self.dialling = None
        self.frontend.upstream.backend.counters.eint += 1
        self._give_up("IC", f"internal error: {fault!r}")

    def on_crowded(self) -> None:
        self.dialling = None
        self._wait_again()

    def _wait_again(self) -> None:
        """The server has failed, and all others are full."""
        failed, self.server = cast(Server, self.server), None
        failed.counters.wredis += 1
        failed.sessions.discard(self)
        self.redispatched = True
        self.frontend.upstream.backend.release(failed)
        self._wait(None, avoid=failed)

    def on_connected(self, stream: Stream) -> None:
        self.dialling = None
        client, server = self.client, self.server_half
        transport = cast(Stream, client.transport)
        self.connected = time.monotonic()
        connect_us = int((self.connected - self.began - self._waited) * 1e6)
        chosen = cast(Server, self.server)
        counters = chosen.counters
        counters.ctime += connect_us
        counters.ctime_max = max(counters.ctime_max, connect_us)
        self.frontend.upstream.backend.counters.connect_times[connect_us.bit_length()] += 1
        self.active = self.clock.now
        self.deadline = self.active + self.frontend.idle_timeout
        if chosen.watches_sessions:
            chosen.sessions.add(self)
        client.peer, server.peer = stream, transport
        # Before the write, which may find that the server is full.
        transport.resume_reading()
        if self.buffer:
            data, self.buffer = self.buffer, b""
            client.data_received(data)
        if client.eof:
            self.ended(client)

    @property
    def _waited(self) -> float:
        return self.ticket.duration if self.ticket is not None else 0.0

    # The end

    def ended(self, half: Half) -> None:
        """`half` will send no more."""
        if self.done:
            return
        if self.connected < 0:
            # Until then its end is only noted.
            if half is self.client and self.counted and not self.started:
                self._give_up("CR", "the client left before its PROXY protocol header was whole")
            elif half is self.client and self.is_waiting and not self.buffer:
                self._give_up("CQ", "")
            return
        other = self.other(half)
        if other.eof:
            self._finish()
        elif other.transport is not None:
            other.transport.write_eof()
            fin = self.frontend.server_fin if half is self.client else self.frontend.client_fin
            self.deadline = self.active + fin

    def lost(self, half: Half, exc: Exception | None) -> None:
        """The connection of `half` is gone, after an error or because we closed it."""
        if not self.counted:
            if not self.done:
                self.done = True
                self.frontend.gate.forget(self)
                self.server_half.forget()
            return
        if not self.done:
            side = "S" if half is self.server_half else "C"
            self._finish(f"{side}{self._phase_letter()}", str(exc) if exc is not None else "", end=reset)
        if self.client.transport is None and self.server_half.transport is None:
            self.counted = False
            self.frontend.sweeper.members.discard(self)
            self.frontend.gate.leave()

    def expire(self, now: float) -> None:
        """The deadline noted has passed: by now there may have been traffic."""
        frontend = self.frontend
        if not self.started:
            self._give_up("cR", "no PROXY protocol header in time")
            return
        if self.is_waiting:
            self._time_out_waiting(cast(Ticket, self.ticket))
            return
        if self.done:
            timeout, side = frontend.client_timeout, ""
        elif self.client.eof or self.server_half.eof:
            timeout, side = (frontend.server_fin, "s") if self.client.eof else (frontend.client_fin, "c")
        else:
            timeout = frontend.idle_timeout
            side = "c" if frontend.client_timeout <= frontend.server_timeout else "s"
        self._note_slow_progress(now)
        if self.active + timeout > now:
            self.deadline = self.active + timeout
        elif self.done:
            self._hang_up(reset)
        else:
            self._finish(f"{side}D", "idle for too long", end=reset)

    def _time_out_waiting(self, ticket: Ticket) -> None:
        backend = self.frontend.upstream.backend
        full = f"{backend.name}/{ticket.server.name}" if ticket.server is not None else f"all servers of {backend.name}"
        (backend.counters if ticket.server is None else ticket.server.counters).econ += 1
        self._give_up("sQ", f"{full}: no place within {self.frontend.queue_timeout:g}s")

    def _note_slow_progress(self, now: float) -> None:
        """A reader slower than its buffer empties makes progress that no callback tells of."""
        for half in (self.client, self.server_half):
            if half.transport is not None:
                unsent = half.transport.get_write_buffer_size()
                if unsent < half.unsent or (unsent and not half.unsent):
                    self.active = now
                half.unsent = unsent

    def finish_up(self) -> None:
        """The worker is stopping: a session goes on until its ends end it."""

    def kill(self, termination: str) -> None:
        """End it now: D its server went down, K by the operator or at a hard stop."""
        if self.done:
            self._hang_up(reset)
        else:
            self._finish(f"{termination}{self._phase_letter()}", end=reset)

    def _phase_letter(self) -> str:
        """The second character of the termination code."""
        return "D" if self.connected >= 0 else "Q" if self.is_waiting else "C"

    def _give_up(self, termination: str, why: str) -> None:
        self._finish(termination, why, end=reset)

    def _finish(self, termination: str = "--", why: str = "", *, end: Callable[[Stream], None] = _close) -> None:
        """Account for the session and let both connections end, each after what is still unsent to it."""
        if self.done:
            return
        self.done = True
        self.termination, self.why = termination, why
        if self.dialling is not None:
            self.dialling.cancel()
            self.dialling = None
        if self.server_half.transport is None:
            self.server_half.forget()
        self.active = self.clock.now
        self.deadline = self.active + self.frontend.client_timeout
        self._hang_up(end)
        self._account()

    def _hang_up(self, end: Callable[[Stream], None]) -> None:
        for half in (self.client, self.server_half):
            if half.transport is not None:
                end(half.transport)

    def report(self) -> None:
        """Count what has passed since the last report: a session may go on for days."""
        received, sent = self.client.count - self.told_in, self.server_half.count - self.told_out
        if not received and not sent:
            return
        self.told_in += received
        self.told_out += sent
        front, server = self.frontend.gate.counters, self.server
        front.bin += received
        front.bout += sent
        if server is not None:
            server.counters.bin += received
            server.counters.bout += sent

    def _account(self) -> None:
        frontend, server = self.frontend, self.server
        backend = frontend.upstream.backend
        self.report()
        total_us = int((time.monotonic() - self.began) * 1e6)
        if self.termination[0] == "P":
            frontend.gate.counters.ereq += 1
        if self._is_to_be_logged():
            frontend.log(self._record(total_us // 1000))  # type: ignore[misc]
        if server is None:
            if self.ticket is not None:
                cast(LimitedBackend, backend).leave(self.ticket)
            return
        counters = server.counters
        counters.ttime += total_us
        counters.ttime_max = max(counters.ttime_max, total_us)
        backend.counters.total_times[total_us.bit_length()] += 1
        counters.lastsess = self.clock.second
        if self.termination[0] in "Cc":
            counters.cli_abrt += 1
        elif self.termination == "SD" or self.termination == "sD":
            counters.srv_abrt += 1
        server.sessions.discard(self)
        backend.release(server)

    def _is_to_be_logged(self) -> bool:
        frontend = self.frontend
        if frontend.log is None:
            return False
        return bool(not frontend.dontlognull or self.client.count or self.server_half.count or self.why)

    def _record(self, total: int) -> TcpRecord:
        frontend, server = self.frontend, self.server
        backend = frontend.upstream.backend
        host, port = self.source or ("unix", 0)
        name, waited, srv_queue, backend_queue = "<NOSRV>", -1.0, 0, 0
        beconn, srvconn = backend.counters.scur, 0
        if server is not None:
            name, waited = server.name, 0.0
            # As HAProxy counts: this one is over.
            beconn, srvconn = beconn - 1, server.counters.scur - 1
        if backend.is_limited:
            beconn, srvconn = others(cast(LimitedBackend, backend), server, self.ticket)
        if self.ticket is not None:
            name, waited, srv_queue, backend_queue = described(self.ticket, server, time.monotonic())
        return TcpRecord(
            client=host,
            client_port=port,
            began=self.clock.wall - (self.clock.now - self.began),
            frontend=frontend.name,
            backend=backend.name,
            server=name,
            tw=int(waited * 1000) if waited >= 0 else -1,
            tc=int((self.connected - self.began - self._waited) * 1000) if self.connected >= 0 else -1,
            tt=total,
            bytes_read=self.server_half.count,
            termination=self.termination,
            actconn=frontend.gate.process.scur,
            feconn=frontend.gate.counters.scur,
            beconn=beconn,
            srvconn=srvconn,
            retries=self.retries,
            redispatched=self.redispatched,
            srv_queue=srv_queue,
            backend_queue=backend_queue,
            why=self.why,
            bytes_in=self.client.count,
        )


def source_key(host: str) -> bytes:
    """The client's address packed, as the hashing algorithms want it."""
    host = host.partition("%")[0]
    if host.startswith("::ffff:") and "." in host:
        # An IPv4 client on a dual-stack socket.
        host = host[len("::ffff:") :]
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
