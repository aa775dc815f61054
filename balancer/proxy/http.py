"""An HTTP/1 client connection: reads requests, one exchange at a time.

Pipelined requests wait in its buffer, unread past a bound, and as long as the client does not read the answers
it has got. A connection that has been answered for good is closed only after the client has had time to read
the answer (RFC 9112 section 9.6). It counts, and its deadline is watched, until its socket is closed.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import Final

from balancer.errors import BadRequest
from balancer.pool.records import HttpRecord
from balancer.pool.server import Server
from balancer.proxy.exchange import Client, Exchange, HttpFrontend, count_status
from balancer.proxy.origin import ServerConnection
from balancer.proxy.stream import Stream
from balancer.proxy.sweep import NEVER
from balancer.proxy.tcp import reset, source_key
from balancer.proxy.upstream import set_keepalive
from balancer.wire import proxyproto
from balancer.wire.http1 import parse_request

__all__ = ["ClientConnection", "Entrance"]

_now: Final = time.monotonic

# What a client may send ahead of its turn before we stop reading: one full read.
_AHEAD: Final = 65536
# A lingering close reads on for so long and so much (seconds, octets), so that no reset destroys the answer.
_LINGER_TIME: Final = 2.0
_LINGER_OCTETS: Final = 16 * 1024 * 1024
# A client that had just connected when the worker was told to stop has so long for its first request (seconds).
_LAST_CALL: Final = 1.0
# White space that some clients send after a body; more of it is refused by the parser.
_EMPTY_LINES: Final = 32


class Phase(IntEnum):
    """Where a client connection stands."""

    PARKED = 0  # accepted over maxconn, unread
    PROXY = 1  # before the PROXY protocol header
    HEAD = 2  # idle, or in a request's head
    BUSY = 3  # in an exchange
    FULL = 4  # it has yet to read what it was answered before it may ask again
    LINGER = 5  # answered for good; what still comes is discarded
    CLOSED = 6  # closed by us; what is unsent may be on its way


# Bound once: to look a member up in its class costs more than comparing it (Python 3.11).
_PARKED: Final = Phase.PARKED
_PROXY: Final = Phase.PROXY
_HEAD: Final = Phase.HEAD
_BUSY: Final = Phase.BUSY
_FULL: Final = Phase.FULL
_LINGER: Final = Phase.LINGER
_CLOSED: Final = Phase.CLOSED


class ClientConnection(Client):
    """One client."""

    __slots__ = (
        "accept_proxy", "accepted", "began", "bytes_left", "destination", "exchange", "exchanges", "is_held", "phase",
        "searched", "unsent",
    )  # fmt: skip

    def __init__(self, frontend: HttpFrontend, *, accept_proxy: bool) -> None:
        self.frontend = frontend
        self.accept_proxy = accept_proxy
        self.phase = _PARKED
        self.transport: Stream | None = None
        self.exchange: Exchange | None = None
        self.exchanges = 0
        self.buffer = b""
        self.searched = self.unsent = self.bytes_left = 0
        self.accepted = 0.0
        self.began = 0.0
        """When the first octet of the request that is being read came; 0 if none did."""
        self.deadline = NEVER
        self.source: tuple[str, int] | None = None
        self.destination: tuple[str, int] | None = None
        self.forwarded = self.key = b""
        self.eof = self.write_paused = self.is_held = self.is_tls = False
        self.own: ServerConnection | None = None

    # Coming and going

    def connection_made(self, transport: Stream) -> None:
        self.transport = transport
        self.write = self.transport.write
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.source = peer[:2]
        if self.frontend.gate.enter(self):
            self.unpark()
        transport.hear_soon()

    def unpark(self) -> None:
        """There is room for this connection (see `listen.Gate`)."""
        frontend = self.frontend
        self.accepted = _now()
        self.deadline = frontend.clock.now + frontend.request_timeout
        frontend.sweeper.members.add(self)
        if frontend.keepalive is not None and self.transport is not None:
            set_keepalive(self.transport, frontend.keepalive)
        if self.accept_proxy:
            self.phase = _PROXY
        else:
            self.phase = _HEAD
            self._identify()
        self.listen()
        self._next()
        if frontend.gate.stopping and not frontend.gate.is_patient:
            self.finish_up()

    def _identify(self) -> None:
        """The client's address is known for good."""
        if self.source is None:
            return
        frontend = self.frontend
        if frontend.forwarded_for is not None:
            self.forwarded = frontend.forwarded_for.line(self.source[0])
        if frontend.default.backend.needs == "source":
            self.key = source_key(self.source[0])

    def endpoints(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """The client's address and the one it connected to, the PROXY protocol's word taken for it."""
        if self.destination is None and self.source is not None and self.transport is not None:
            self.destination = self.transport.get_extra_info("sockname")[:2]
        return self.source, self.destination

    def expects_more(self) -> bool:
        exchange = self.exchange
        return exchange is None or not exchange.is_client_done

    def eof_received(self) -> bool:
        """The client sends no more."""
        if self.eof:
            # Told again when reading is resumed.
            return True
        self.eof = True
        phase = self.phase
        if phase is _BUSY:
            self.exchange.on_client_eof()  # type: ignore[union-attr]
        elif phase is _HEAD and self.began:
            # What has not been looked at yet may well be whole.
            if self.searched:
                self._refuse(400, "the client left in the middle of a request's head", "CR")
        elif phase is _PARKED:
            if not self.buffer and self.transport is not None:
                self.transport.abort()
        elif phase is not _FULL or not self.buffer:
            self._note_departure(phase)
            self.shut()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.transport = None
        phase = self.phase
        frontend = self.frontend
        if phase is _PARKED:
            self.phase = _CLOSED
            frontend.gate.forget(self)
            return
        if phase is _BUSY:
            self.exchange.on_client_lost()  # type: ignore[union-attr]
        else:
            self._note_departure(phase)
        self.shut()
        frontend.sweeper.members.discard(self)
        frontend.gate.leave()

    def _note_departure(self, phase: Phase) -> None:
        """The client has gone by itself; log it where that was no time to go."""
        if phase is _HEAD or phase is _PROXY:
            if self.began or (phase is _PROXY and self.buffer):
                # As HAProxy has it, though nobody is there to read an answer.
                self._log_unread("CR", 400, "")
            else:
                self._log_silence("CR")

    def shut(self) -> None:
        """Close; nothing of an exchange is left. What is unsent still has the client's timeout."""
        if self.phase is _CLOSED:
            return
        self.phase = _CLOSED
        self.exchange = None
        self.buffer = b""
        if self.own is not None:
            self.own.close()
            self.own = None
        transport = self.transport
        if transport is not None:
            self.deadline = self.frontend.clock.now + self.frontend.client_timeout
            self.unsent = transport.get_write_buffer_size()
            transport.close()

    def finish_up(self) -> None:
        """The worker is stopping: an idle connection goes now, a busy one after its response, and one that has
        just come is asked once."""
        if self.exchange is not None:
            self.exchange.finish_up()
        elif self.phase is _PROXY or (self.phase is _HEAD and not self.began):
            if self.exchanges:
                self.shut()
            else:
                self.deadline = min(self.deadline, self.frontend.clock.now + _LAST_CALL)

    @property
    def server(self) -> Server | None:
        """Who answers the exchange that goes on."""
        return self.exchange.server if self.exchange is not None else None

    def kill(self, termination: str) -> None:
        """End what goes on: K by the operator or at a hard stop."""
        if self.exchange is not None:
            self.exchange.kill(termination)
        else:
            if self.transport is not None:
                reset(self.transport)
            self.shut()

    def report(self) -> None:
        """Count what an exchange that goes on has passed so far."""
        if self.exchange is not None:
            self.exchange.report()

    # Reading

    def data_received(self, data: bytes) -> None:
        if self.phase is not _HEAD:
            self._on_more(data)
            return
        if self.buffer:
            data = self.buffer + data
        frontend = self.frontend
        try:
            request = parse_request(data, frontend.limits, self.searched)
        except BadRequest as error:
            self.buffer = data
            self._refuse(error.status, error.why, "PR")
            return
        if request is None:
            self._wait_for_more(data)
            return
        parsed = _now()
        size = request.size
        self.buffer = data[size:] if len(data) > size else b""
        self.searched = 0
        self.phase = _BUSY
        make = frontend.exchange
        began = self.began or parsed
        # By its name where it can be: that is compiled to a call.
        exchange = Exchange(self, request, began, parsed) if make is None else make(self, request, began, parsed)
        self.exchange = exchange
        self.began = 0.0
        exchange.begin()

    def _on_more(self, data: bytes) -> None:
        """Something else than a request's head."""
        phase = self.phase
        if phase is _BUSY:
            self.exchange.on_client_data(data)  # type: ignore[union-attr]
        elif phase is _LINGER:
            self.bytes_left -= len(data)
            if self.bytes_left < 0:
                self.shut()
        elif phase is _PROXY:
            self.buffer += data
            self._on_proxy_header()
        elif phase is _PARKED or phase is _FULL:
            self.keep(data, hold=True)

    def keep(self, data: bytes, *, hold: bool) -> None:
        """It is not its turn yet."""
        self.buffer += data
        if hold or len(self.buffer) >= _AHEAD:
            self.hold()

    def hold(self) -> None:
        """Read no more for now."""
        if self.transport is not None:
            self.is_held = True
            self.transport.pause_reading()

    def listen(self) -> None:
        """Read on after `hold`."""
        if self.is_held:
            self.is_held = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    def _on_proxy_header(self) -> None:
        try:
            header = proxyproto.parse(self.buffer)
        except BadRequest as error:
            self.frontend.gate.counters.ereq += 1
            self._log_unread("PR", -1, error.why)
            self.shut()
            return
        if header is None:
            return
        if header.source is not None:
            self.source, self.destination = header.source, header.destination
        self.is_tls = header.is_tls
        self.phase = _HEAD
        self.buffer = self.buffer[header.size :]
        self._identify()
        self._next()

    def _next(self) -> None:
        """Go on with what is in the buffer."""
        if not self.buffer:
            return
        if self.phase is _PROXY:
            self._on_proxy_header()
        elif self.phase is _HEAD:
            data, self.buffer = self.buffer, b""
            self.data_received(data)

    def _wait_for_more(self, data: bytes) -> None:
        """The head is not complete. From its first octet on the whole of it has `request_timeout`, and the first
        one of a connection from accept; empty lines before it are no part of it."""
        self.buffer = data
        self.listen()
        if data[:_EMPTY_LINES].strip(b"\r\n"):
            if not self.searched or not self.began:
                if self.exchanges:
                    self.deadline = self.frontend.clock.now + self.frontend.request_timeout
                self.began = self.began or _now()
        else:
            self.began = 0.0
        self.searched = len(data)
        if self.eof:
            if self.began:
                self._refuse(400, "the client left in the middle of a request's head", "CR")
            else:
                self.shut()

    def exchange_over(self, *, keep_alive: bool, now: float) -> None:
        """The exchange has ended."""
        exchange, self.exchange = self.exchange, None
        if not keep_alive:
            if exchange is not None and exchange.is_client_done and not self.buffer:
                self.shut()
            else:
                self._linger()
            return
        self.phase = _HEAD
        self.exchanges += 1
        frontend = self.frontend
        self.deadline = frontend.clock.now + frontend.keep_alive_timeout
        if self.write_paused:
            self.phase = _FULL
            self.deadline = frontend.clock.now + frontend.client_timeout
            return
        if self.is_held and len(self.buffer) < _AHEAD:
            self.listen()
        if self.buffer:
            # Not from here: pipelined requests answered at once would nest without end.
            self.began = now
            frontend.loop.call_soon(self._next)

    def pause_writing(self) -> None:
        self.write_paused = True
        self.unsent = self.transport.get_write_buffer_size() if self.transport is not None else 0
        self.deadline = self.frontend.clock.now + self.frontend.client_timeout
        if self.exchange is not None:
            self.exchange.hold_response()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.exchange is not None:
            self.exchange.resume_response()
        elif self.phase is _FULL:
            frontend = self.frontend
            self.phase = _HEAD
            self.deadline = frontend.clock.now + frontend.keep_alive_timeout
            if len(self.buffer) < _AHEAD:
                self.listen()
            if self.buffer:
                self.began = _now()
                frontend.loop.call_soon(self._next)

    # The end

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        phase = self.phase
        if phase is _BUSY:
            self.exchange.expire(now)  # type: ignore[union-attr]
        elif phase is _LINGER or phase is _FULL or phase is _CLOSED:
            if not self.reads_slowly(now):
                if self.unsent and self.transport is not None:
                    reset(self.transport)
                self.shut()
        elif phase is _PROXY:
            self._log_unread("cR", -1, "no PROXY protocol header in time")
            self.shut()
        elif self.began:
            self._refuse(408, "no complete request head in time", "cR")
        else:
            self._log_silence("cR")
            self.shut()

    def reads_slowly(self, now: float) -> bool:
        """Whether the client has read some of what waits for it since the last look; then it gets more time."""
        unsent = self.transport.get_write_buffer_size() if self.transport is not None else 0
        progress = 0 < unsent != self.unsent
        self.unsent = unsent
        if progress:
            self.deadline = now + self.frontend.client_timeout
        return progress

    def _refuse(self, status: int, why: str, termination: str) -> None:
        """What came is no request: answer and close."""
        frontend = self.frontend
        counters = frontend.gate.counters
        if frontend.captures is not None and termination == "PR":
            frontend.captures.request(frontend.name, self.source, self.buffer, why)
        reply = frontend.replies.reply(status)
        counters.ereq += 1
        counters.intercepted += 1
        counters.req_tot += 1
        counters.bin += len(self.buffer)
        counters.bout += len(reply)
        count_status(counters, status)
        self.write(reply)
        self._log_unread(termination, status, why, sent=len(reply))
        self._linger()

    def _linger(self) -> None:
        """Close once the client has read the answer."""
        transport = self.transport
        if transport is None or self.eof:
            self.shut()
            return
        self.phase = _LINGER
        self.buffer = b""
        self.bytes_left = _LINGER_OCTETS
        self.unsent = 0
        self.deadline = self.frontend.clock.now + _LINGER_TIME
        self.is_held = True
        self.listen()
        if not transport.is_closing():
            transport.write_eof()

    def _log_silence(self, termination: str) -> None:
        """The record of a connection that ended without an octet, where these are wanted."""
        if not self.exchanges and not self.frontend.dontlognull:
            self._log_unread(termination, 408 if termination == "cR" else 400, "")

    def _log_unread(self, termination: str, status: int, why: str, *, sent: int = 0) -> None:
        """The record of a connection that gave no request to speak of."""
        frontend = self.frontend
        if frontend.log is None:
            return
        host, port = self.source or ("unix", 0)
        began = self.began or self.accepted
        total = int((_now() - began) * 1000)
        frontend.log(
            HttpRecord(
                client=host,
                client_port=port,
                began=frontend.clock.wall - (frontend.clock.now - began),
                frontend=frontend.name,
                backend=frontend.name,
                server="<NOSRV>",
                tr_request=-1,
                tw=-1,
                tc=-1,
                tr_response=-1,
                ta=total,
                status=status,
                bytes_read=sent,
                termination=f"{termination}--",
                actconn=frontend.gate.process.scur,
                feconn=frontend.gate.counters.scur,
                beconn=0,
                srvconn=0,
                retries=0,
                redispatched=False,
                srv_queue=0,
                backend_queue=0,
                request_line=b"",
                why=why,
            )
        )


class Entrance:
    """Makes the receiver of each connection to one address of `frontend`."""

    __slots__ = ("_accept_proxy", "_frontend")

    def __init__(self, frontend: HttpFrontend, *, accept_proxy: bool) -> None:
        self._frontend = frontend
        self._accept_proxy = accept_proxy

    def __call__(self) -> ClientConnection:
        return ClientConnection(self._frontend, accept_proxy=self._accept_proxy)
