"""One HTTP request and its response: choose a server, send, pass the answer on, account for it.

    ClientConnection ── Exchange ── ServerConnection

An exchange lives from a request's complete head to the last octet of the response. In the common case,
both in one piece, its work is: pick, lease, write; write, release, count. No task, future, timer or queue.
Bodies pass through as they come: a full side pauses the reader of the other, nothing is kept whole.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, cast

from balancer.config import model
from balancer.errors import BadRequest
from balancer.pool.backend import Backend
from balancer.pool.captures import Captures
from balancer.pool.facts import Counters
from balancer.pool.records import HttpRecord
from balancer.pool.server import Server
from balancer.pool.sticky import NO_COOKIE, Choice, Persistence
from balancer.pool.waiting import LimitedBackend, Ticket, described, others
from balancer.proxy.cache import Cache
from balancer.proxy.compress import Compression
from balancer.proxy.listen import Gate
from balancer.proxy.origin import Holder, Pool, ServerConnection, Stage
from balancer.proxy.replies import Compose, Replies
from balancer.proxy.stream import Receiver, Stream
from balancer.proxy.sweep import NEVER, Clock, Sweeper
from balancer.proxy.tcp import reset
from balancer.proxy.upstream import Attempt, CrowdedError, Upstream
from balancer.wire import rewrite
from balancer.wire.framing import ChunkedReader
from balancer.wire.http1 import CHUNKED, UNTIL_CLOSE, Limits, Request, Response

__all__ = ["Client", "Exchange", "ForwardedFor", "HttpBackend", "HttpFrontend", "count_status"]

# RFC 9110 section 9.2.2. A request of these may be sent again when a pooled connection turns out dead.
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
# A connection that answered this recently (seconds) is not one that the server is just about to close as idle.
_PROVED_ALIVE: Final = 0.5
# Clients whose X-Forwarded-For is kept.
_MOST_KNOWN: Final = 1024
_now: Final = time.monotonic


@dataclass(frozen=True)
class ForwardedFor:
    """X-Forwarded-For: its name, and whom not to tell about."""

    header: bytes
    lower: bytes
    exclude: tuple[IPv4Network | IPv6Network, ...]
    if_none: bool
    known: dict[str, bytes] = field(default_factory=dict)
    """The lines of clients that were here."""

    def line(self, host: str) -> bytes:
        """The field line for a client at `host`; empty where it is excluded."""
        line = self.known.get(host)
        if line is None:
            if len(self.known) >= _MOST_KNOWN:
                self.known.clear()
            line = self.known[host] = self._make(host)
        return line

    def _make(self, host: str) -> bytes:
        host = host.partition("%")[0]
        if host.startswith("::ffff:") and "." in host:
            # An IPv4 client on a dual-stack socket.
            host = host[len("::ffff:") :]
        if self.exclude:
            address = ip_address(host)
            if any(address.version == network.version and address in network for network in self.exclude):
                return b""
        return b"%b: %b\r\n" % (self.header, host.encode())


@dataclass(frozen=True, kw_only=True)
class HttpBackend:
    """What the exchanges with one backend share in this worker. Times are seconds."""

    backend: Backend
    upstream: Upstream
    pool: Pool
    persistence: Persistence | None
    cookie: model.Cookie | None
    reuse: str
    is_pooled: bool
    """Whether its idle connections may serve any client: http_reuse allows it, and no server is told of the client
    by the PROXY protocol."""
    queue_timeout: float
    server_timeout: float
    server_fin: float
    tunnel_timeout: float
    replies: Replies
    compression: Compression | None = None
    cache: Cache | None = None


@dataclass(frozen=True, kw_only=True)
class HttpFrontend:
    """What the connections of one frontend share in this worker. Times are seconds."""

    name: str
    loop: asyncio.AbstractEventLoop
    clock: Clock
    sweeper: Sweeper
    gate: Gate
    limits: Limits
    default: HttpBackend
    """Where requests go, if no rule says otherwise."""
    exchange: Callable[[Client, Request, float, float], Exchange] | None
    """Makes an exchange; None: `Exchange`, where there are no rules."""
    replies: Replies
    max_body: int
    """Octets of a request's content."""
    forwarded_for: ForwardedFor | None
    client_timeout: float
    client_fin: float
    request_timeout: float
    keep_alive_timeout: float
    keepalive: model.TcpKeepalive | None
    log: Callable[[HttpRecord], None] | None
    dontlognull: bool
    captures: Captures | None = None
    """Keeps what is refused."""


class Client(Receiver):
    """The client connection an exchange belongs to."""

    __slots__ = (
        "buffer", "deadline", "eof", "forwarded", "frontend", "is_tls", "key", "own", "source", "transport", "write",
        "write_paused",
    )  # fmt: skip

    frontend: HttpFrontend
    transport: Stream | None
    write: Callable[[bytes], None]
    write_paused: bool
    buffer: bytes
    deadline: float
    eof: bool
    forwarded: bytes
    is_tls: bool
    key: bytes
    own: ServerConnection | None
    source: tuple[str, int] | None

    @abstractmethod
    def endpoints(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """Its address and the one it connected to."""

    @abstractmethod
    def keep(self, data: bytes, *, hold: bool) -> None:
        """Not now: put `data` into the buffer, and read no more if `hold` (or if there is too much already)."""

    @abstractmethod
    def hold(self) -> None:
        """Read no more for now."""

    @abstractmethod
    def listen(self) -> None:
        """Read on."""

    @abstractmethod
    def reads_slowly(self, now: float) -> bool:
        """Whether it has read some of what waits for it since the last look; then it has been given more time."""

    @abstractmethod
    def exchange_over(self, *, keep_alive: bool, now: float) -> None:
        """Its exchange has ended; the next may begin."""

    @abstractmethod
    def shut(self) -> None:
        """Close."""


class Step(IntEnum):
    """Where an exchange stands."""

    UPLOADING = 0  # the request's body is on its way
    WAITING = 1  # the request is complete, the response is not
    TUNNEL = 2
    OVER = 3


# Bound once: to look a member up in its class costs more than comparing it (Python 3.11).
_UPLOADING: Final = Step.UPLOADING
_WAITING: Final = Step.WAITING
_TUNNEL: Final = Step.TUNNEL
_OVER: Final = Step.OVER
_IDLE: Final = Stage.IDLE
_RAW: Final = Stage.RAW


class Exchange(Holder):
    """One request of `client`. `began` is when its first octet came, `parsed` when its head was complete."""

    __slots__ = (
        "began", "body_left", "bytes_in", "bytes_out", "choice", "chunks", "client", "connect_time", "connection",
        "cookie", "dialling", "frontend", "head_time", "is_persistent", "keep_alive", "key", "parsed", "redispatched",
        "request", "response", "retries", "sent_head", "server", "step", "ticket", "to", "told_in", "told_out",
        "tunnel_timeout",
    )  # fmt: skip

    def __init__(self, client: Client, request: Request, began: float, parsed: float) -> None:
        self.client = client
        frontend = self.frontend = client.frontend
        self.to = frontend.default
        self.request = request
        self.began = began
        self.parsed = parsed
        self.key = client.key
        self.bytes_in = request.size
        self.bytes_out = self.told_in = self.told_out = self.retries = 0
        self.connect_time = self.head_time = -1.0
        self.server: Server | None = None
        self.choice: Choice | None = None
        self.response: Response | None = None
        self.connection: ServerConnection | None = None
        self.dialling: Attempt | asyncio.Task[None] | None = None
        """What goes on before there is a connection, and is cancelled with it."""
        self.ticket: Ticket | None = None
        self.is_persistent = self.redispatched = self.keep_alive = False
        self.cookie = "N"
        self.step = _WAITING

    def endpoints(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        return self.client.endpoints()

    @property
    def is_connected(self) -> bool:
        return self.connect_time >= 0

    @property
    def answered(self) -> int:
        return self.response.status if self.response is not None else -1

    @property
    def is_client_done(self) -> bool:
        """Whether the client has said that it sends no more (RFC 9112 section 9.6): no reset can hit the answer."""
        line, section = self.request.line, self.request.section
        return line.minor == 1 and not section.keep_alive and not section.body and not section.upgrade

    # Towards a server

    def begin(self) -> None:
        """Choose a server and send the request on its way."""
        client, frontend, to, request = self.client, self.frontend, self.to, self.request
        line, section, backend = request.line, request.section, to.backend
        if section.body:
            self.step = _UPLOADING
            self.body_left = section.body
            if section.body > frontend.max_body:
                frontend.gate.counters.dreq += 1
                self._answer(413, f"more than {frontend.max_body} octets of content", "PR")
                return
            self.chunks = ChunkedReader(BadRequest, most=frontend.max_body) if section.body == CHUNKED else None
        server = fields = None
        if to.persistence is not None:
            if section.has_cookie:
                server, fields = self._follow_cookie(to.persistence)
            else:
                self.choice = NO_COOKIE
        added = client.forwarded
        forwarded_for = frontend.forwarded_for
        if added and forwarded_for.if_none:  # type: ignore[union-attr]
            # Of what goes on: a client's Connection may name this field too, and take it out.
            lower = section.lower if section.plain else section.end_to_end.lower()
            if rewrite.has_field(lower, forwarded_for.lower):  # type: ignore[union-attr]
                added = b""
        self.sent_head = rewrite.request_head(request, added=added, fields=fields)
        if server is not None:
            self.is_persistent = True
        else:
            if backend.needs == "uri":
                self.key = line.target
            server = backend.pick(self.key)
            if server is None:
                self._find_no_server()
                return
            server.counters.lbtot += 1
        if backend.take(server):
            self._wait(server)
            return
        self.server = server
        idle = server.idle
        if idle and to.is_pooled and not section.body and line.method in _IDEMPOTENT and not section.upgrade:
            # Nearly always.
            self.connect_time = self.parsed
            server.counters.reuse += 1
            self._send(idle.pop())
        else:
            self._open(server)

    def _find_no_server(self) -> None:
        backend = self.to.backend
        if backend.is_limited and backend.usable:
            self._wait(None)
        else:
            backend.counters.econ += 1
            self._answer(503, f"{backend.name} has no server available", "SC")

    def _wait(self, server: Server | None, *, avoid: Server | None = None) -> None:
        """For a place at `server`, or at any but `avoid`."""
        backend = cast(LimitedBackend, self.to.backend)
        self.client.deadline = self.frontend.clock.now + self.to.queue_timeout
        if backend.wait(self, server, _now(), avoid=avoid):
            return
        # There is none to wait at either.
        assert server is not None
        if not self.is_persistent or not self.to.upstream.redispatch:
            server.counters.econ += 1
            self._answer(503, f"{backend.name}/{server.name}: too many wait for it", "SQ")
            return
        self.is_persistent = False
        self.redispatched = True
        server.counters.wredis += 1
        if self.choice is not None:
            self.choice = self.choice.lost()
        other = backend.pick(self.key)
        if other is None or backend.take(other):
            self._wait(other)
        else:
            other.counters.lbtot += 1
            self.server = other
            self._open(other)

    def _wait_again(self) -> None:
        """The server has failed, and all others are full."""
        failed, self.server = self.server, None
        assert failed is not None
        failed.counters.wredis += 1
        failed.sessions.discard(self)
        self.redispatched = True
        self.is_persistent = False
        if self.choice is not None:
            self.choice = self.choice.lost()
        self.to.backend.release(failed)
        self._wait(None, avoid=failed)

    def on_place(self, server: Server) -> None:
        """After `_wait`."""
        ticket = self.ticket
        assert ticket is not None
        counters = server.counters
        waited = int(ticket.over(_now()) * 1e6)
        counters.qtime += waited
        if waited > counters.qtime_max:
            counters.qtime_max = waited
        if ticket.bound is None:
            counters.lbtot += 1
        elif ticket.bound is not server:
            self.redispatched = True
            ticket.bound.counters.wredis += 1
            if self.choice is not None:
                self.choice = self.choice.lost()
        self.server = server
        self._open(server)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a place at a server."""
        return self.ticket is not None and self.ticket.is_waiting

    def _open(self, server: Server) -> None:
        """Send the request on a connection that this one may use."""
        connection = self._lease(server)
        if connection is None:
            self.client.deadline = NEVER
            self._dial()
            return
        self.connect_time = self.parsed if self.ticket is None else _now()
        server.counters.reuse += 1
        self._send(connection)

    def _follow_cookie(self, persistence: Persistence) -> tuple[Server | None, bytes | None]:
        """Where the client's cookie leads, and the fields to send on where they are not to stay as they are."""
        section = self.request.section
        value, others = rewrite.take_cookie(section, persistence.name)
        choice = self.choice = persistence.find(value, self.frontend.clock.wall)
        is_cut = value is not None and self.to.cookie.indirect  # type: ignore[union-attr]
        return choice.server, others if is_cut else None

    def _lease(self, server: Server) -> ServerConnection | None:
        """An idle connection to `server` that this request may use."""
        to = self.to
        if not to.is_pooled:
            own, self.client.own = self.client.own, None
            if own is not None and own.server is not server:
                own.close()
                return None
            return own
        line, section = self.request.line, self.request.section
        if to.reuse == "safe" and (section.body or line.method not in _IDEMPOTENT or section.upgrade):
            return to.pool.lease(server, self.parsed - _PROVED_ALIVE)
        return to.pool.lease(server)

    def _dial(self) -> None:
        """Connect to the server chosen, or to another when that fails."""
        connection = ServerConnection(self.frontend.limits, self.to.pool)
        self.dialling = attempt = self.to.upstream.attempt(self, connection)
        attempt.start()

    def on_crowded(self) -> None:
        self.dialling = None
        self._wait_again()

    def on_no_connection(self, termination: str, why: str) -> None:
        self.dialling = None
        self._answer(503, why, termination)

    def on_fault(self, fault: Exception) -> None:
        """The client is not to wait for ever."""
        self.dialling = None
        self.to.backend.counters.eint += 1
        if self.step is not _OVER:
            self._answer(500, f"internal error: {fault!r}", "IC")

    def on_connected(self, stream: Stream) -> None:
        self.dialling = None
        connection, server = cast(ServerConnection, stream.receiver), self.server
        assert server is not None
        connection.server = server
        self.connect_time = _now()
        began = self.parsed if self.ticket is None else self.parsed + self.ticket.duration
        microseconds = int((self.connect_time - began) * 1e6)
        self.to.backend.counters.connect_times[microseconds.bit_length()] += 1
        counters = server.counters
        counters.ctime += microseconds
        if microseconds > counters.ctime_max:
            counters.ctime_max = microseconds
        if connection.transport.is_closing():
            self.on_server_lost(connection, "closed as soon as it was open")
        else:
            self._send(connection)

    def _send(self, connection: ServerConnection) -> None:
        client, frontend = self.client, self.frontend
        self.connection = connection
        connection.begin(self, self.request.line.method)
        connection.write(self.sent_head)
        client.deadline = frontend.clock.now + self.to.server_timeout
        server = connection.server
        if server.watches_sessions:
            server.sessions.add(self)
        if self.step is _UPLOADING:
            client.listen()
            client.deadline = frontend.clock.now + frontend.client_timeout
            if client.buffer:
                data, client.buffer = client.buffer, b""
                self._upload(data)

    def on_client_data(self, data: bytes) -> None:
        """The client has sent more."""
        step = self.step
        if step is _TUNNEL:
            self.bytes_in += len(data)
            self.client.deadline = self.frontend.clock.now + self.tunnel_timeout
            self.connection.write(data)  # type: ignore[union-attr]
        elif step is _UPLOADING:
            if self.connection is None:
                # Of whom we do not read we do not hear that he has gone.
                self.client.keep(data, hold=not self.is_waiting)
            else:
                self._upload(data)
        else:
            self.client.keep(data, hold=False)

    def _upload(self, data: bytes) -> None:
        """A part of the request's body goes to the server."""
        client, frontend, connection = self.client, self.frontend, self.connection
        assert connection is not None
        client.deadline = frontend.clock.now + frontend.client_timeout
        chunks = self.chunks
        rest = b""
        if chunks is not None:
            try:
                out = chunks.feed(data)
            except BadRequest as error:
                if error.status == 413:
                    frontend.gate.counters.dreq += 1
                else:
                    frontend.gate.counters.ereq += 1
                    if frontend.captures is not None:
                        head = b"%b\r\n%b\r\n" % (self.request.line.octets, self.request.section.fields)
                        octets, at = head + data, len(head)
                        frontend.captures.request(frontend.name, client.source, octets, error.why, body_at=at)
                # A server must not take what it has got for the whole.
                reset(connection.transport)
                if self.response is None:
                    self._answer(error.status, error.why, "PR")
                else:
                    self.abort("PD", why=error.why)
                return
            if chunks.done:
                rest = chunks.rest
            is_complete = chunks.done
        else:
            left = self.body_left - len(data)
            out = data
            if left < 0:
                out, rest = data[:left], data[left:]
            self.body_left = max(left, 0)
            is_complete = left <= 0
        self.bytes_in += len(data) - len(rest)
        if is_complete:
            self.step = _WAITING
            client.buffer = rest
            client.deadline = frontend.clock.now + self.to.server_timeout
        if out:
            connection.write(out)

    def hold_request(self) -> None:
        """The server reads slower than the client sends."""
        self.client.hold()
        self._wait_for_server()

    def resume_request(self) -> None:
        """The server has caught up."""
        self.client.listen()
        self.touch()

    def hold_response(self) -> None:
        """The client reads slower than the server sends."""
        if self.connection is not None:
            self.connection.transport.pause_reading()
        if self.step is _TUNNEL:
            self.touch()

    def resume_response(self) -> None:
        """The client has caught up."""
        if self.connection is not None:
            self.connection.transport.resume_reading()
            self.touch()

    def touch(self) -> None:
        """Something moves again: whoever is to act next has its whole time."""
        to, frontend = self.to, self.frontend
        if self.step is _TUNNEL:
            timeout = self.tunnel_timeout
        else:
            timeout = frontend.client_timeout if self.step is _UPLOADING else to.server_timeout
        self.client.deadline = frontend.clock.now + timeout

    def _wait_for_server(self) -> None:
        """It is to read some of the request, or to go on in the tunnel."""
        timeout = self.tunnel_timeout if self.step is _TUNNEL else self.to.server_timeout
        self.client.deadline = self.frontend.clock.now + timeout

    def finish_up(self) -> None:
        """The worker is stopping: no further request on this connection."""
        self.keep_alive = False

    # From the server

    def on_response(self, response: Response, data: bytes, connection: ServerConnection) -> None:
        """A final response's head has come; `data` begins with it."""
        client, frontend, request, choice = self.client, self.frontend, self.request, self.choice
        now = self.head_time = _now()
        self.response = response
        body, size = response.body, response.size
        minor = request.line.minor
        self.keep_alive = keep_alive = (
            request.section.keep_alive
            and body != UNTIL_CLOSE
            and self.step is _WAITING
            and (not client.eof or client.buffer != b"")
            and not frontend.gate.stopping
        )
        fields, added = self._cookies(response, choice) if choice is not None else (None, b"")
        is_whole = len(data) - size == body
        dechunk = body == CHUNKED and not minor
        if is_whole and keep_alive and fields is None and minor:
            # Nearly always: all in one piece, and from the empty line on as it came.
            octets = b"".join((response.start, added, data[size - 2 :]))
        else:
            octets = rewrite.response_head(
                response, added=added, fields=fields, keep_alive=keep_alive, to_minor=minor, dechunk=dechunk
            )
            if is_whole and body:
                octets += data[size:]
        self.bytes_out += len(octets)
        if keep_alive or not is_whole or client.transport is None:
            client.write(octets)
        else:
            client.transport.write_last(octets)
        if is_whole:
            connection.phase = _IDLE
            self.response_complete(now)
            return
        connection.expect(body, payload_only=dechunk)
        client.deadline = frontend.clock.now + self.to.server_timeout
        if len(data) > size:
            connection.on_body(data[size:])

    def _cookies(self, response: Response, choice: Choice) -> tuple[bytes | None, bytes]:
        """The response's fields where they are not to stay as they are, and the lines to add."""
        to, server = self.to, self.server
        persistence, cookie = to.persistence, to.cookie
        assert persistence is not None and cookie is not None and server is not None
        fields = None
        if response.sets_cookie and rewrite.sets_cookie(response.fields, persistence.name):
            if cookie.preserve:
                self.cookie = "P"
                return None, b""
            fields = rewrite.strip_set_cookie(response.end_to_end, persistence.name)
        method = self.request.line.method
        added = persistence.set_cookie(server, choice, method, self.frontend.clock.wall)
        if added:
            self.cookie = "U" if server is choice.server else "I"
            if cookie.nocache and rewrite.is_cacheable(method, response):
                added += b"cache-control: private\r\n"
        return fields, added

    def on_interim(self, head: bytes) -> None:
        """A 1xx response to pass on (RFC 9110 section 15.2): not to HTTP/1.0 clients, who do not know them."""
        if self.request.line.minor:
            self.bytes_out += len(head)
            self.touch()
            self.client.write(head)

    def pass_on(self, data: bytes) -> None:
        """A part of the response's body."""
        client = self.client
        self.bytes_out += len(data)
        client.deadline = self.frontend.clock.now + self.to.server_timeout
        client.write(data)

    def on_switch(self, response: Response, rest: bytes, connection: ServerConnection) -> None:
        """101: from here on the two ends speak their own protocol."""
        client = self.client
        if not self.request.section.upgrade:
            self.on_bad_response("101 to a request that asked for no upgrade")
            return
        self.response = response
        self.head_time = _now()
        fields, added = self._cookies(response, self.choice) if self.choice is not None else (None, b"")
        head = rewrite.response_head(response, added=added, fields=fields, keep_alive=True)
        self.step = _TUNNEL
        self.tunnel_timeout = self.to.tunnel_timeout
        connection.phase = _RAW
        self.on_tunnel_data(head + rest)
        if client.buffer:
            data, client.buffer = client.buffer, b""
            self.on_client_data(data)
        client.listen()
        if client.eof:
            self._half_close(connection.transport, self.to.server_fin)

    def on_tunnel_data(self, data: bytes) -> None:
        """Octets from the server through the tunnel."""
        client = self.client
        self.bytes_out += len(data)
        client.deadline = self.frontend.clock.now + self.tunnel_timeout
        client.write(data)

    def on_tunnel_eof(self, connection: ServerConnection) -> None:  # noqa: ARG002
        """The server sends no more through the tunnel."""
        if self.client.eof:
            self._end_tunnel()
        elif self.client.transport is not None:
            self._half_close(self.client.transport, self.frontend.client_fin)

    def _half_close(self, transport: Stream, fin: float) -> None:
        """Through the tunnel only this end still sends, for so long without a pause."""
        self.tunnel_timeout = fin
        self.client.deadline = self.frontend.clock.now + fin
        transport.write_eof()

    def response_complete(self, now: float) -> None:
        """The response has been passed on whole."""
        connection, response = self.connection, self.response
        assert connection is not None and response is not None
        # A server that answers before it has the whole request will not want the rest: nobody gets this connection.
        reusable = (
            response.keep_alive and self.step is _WAITING and not connection.has_more and not connection.write_paused
        )
        if reusable and self.to.is_pooled and not self.client.write_paused:
            # Nearly always.
            self.connection = connection.client = None
            self.to.pool.put(connection, now)
        else:
            self._leave(connection, reusable=reusable, now=now)
        self._account("--", response.status, now)
        self.client.exchange_over(keep_alive=self.keep_alive, now=now)

    def _leave(self, connection: ServerConnection, *, reusable: bool, now: float) -> None:
        """This exchange needs the server connection no more."""
        self.connection = None
        connection.client = None
        if not reusable:
            connection.close()
            return
        client = self.client
        if client.write_paused:
            connection.transport.resume_reading()
        if self.to.is_pooled:
            self.to.pool.put(connection, now)
        elif self.keep_alive:
            connection.keep_for(client, now)
        else:
            connection.close()

    # When something goes wrong

    def on_server_lost(self, connection: ServerConnection, why: str) -> None:
        """The server connection ended before the response did."""
        server = connection.server
        if self.response is not None:
            self.abort("SD", why=f"{server.backend}/{server.name}: {why}")
            return
        line, section = self.request.line, self.request.section
        # Of such a request a second one does no harm (RFC 9110 section 9.2.2). A pooled connection that is found
        # closed says nothing of its server; else the server died over it, and another may fare better.
        is_safe_to_send_again = not connection.heard and not section.body and line.method in _IDEMPOTENT
        try:
            is_to_be_sent_again = is_safe_to_send_again and (connection.was_pooled or self.to.upstream.try_again(self))
        except CrowdedError:
            self.connection = None
            self.connect_time = -1.0
            self._wait_again()
            return
        if is_to_be_sent_again:
            self.connection = None
            self.client.deadline = NEVER
            self._dial()
            return
        server.counters.eresp += 1
        self._answer(502, f"{server.backend}/{server.name}: {why}", "SH")

    def on_bad_response(self, why: str) -> None:
        """The server's message cannot be passed on."""
        server = self.server
        assert server is not None
        server.counters.eresp += 1
        captures, connection = self.frontend.captures, self.connection
        if captures is not None and connection is not None and connection.buffer:
            names = (self.frontend.name, server.backend, server.name)
            body_at = 0 if self.response is not None else -1
            captures.response(
                names, self.client.source, connection.buffer, why, method=connection.method, body_at=body_at
            )
        why = f"{server.backend}/{server.name}: {why}"
        if self.response is None:
            self._answer(502, why, "PH")
        else:
            self.abort("PD", why=why)

    def on_client_eof(self) -> None:
        """The client sends no more. What it asked for completely it still gets, if a server has it."""
        if self.is_waiting and not self.client.buffer:
            # Most who give up do it so, and a server that is full has others to serve.
            self.abort("CQ")
        elif self.step is _UPLOADING:
            self.on_client_lost()
        elif self.step is _TUNNEL:
            connection = self.connection
            assert connection is not None
            if connection.eof:
                self._end_tunnel()
            else:
                self._half_close(connection.transport, self.to.server_fin)
        elif not self.client.buffer:
            self.keep_alive = False

    def on_client_lost(self) -> None:
        """The client's connection is gone."""
        is_on_its_way = self.step is _TUNNEL or (self.step is _UPLOADING and self.connection is not None)
        self.abort("CD" if is_on_its_way else f"C{self._phase_letter()}")

    def kill(self, termination: str) -> None:
        """End it now: D its server went down, K at a hard stop."""
        code = f"{termination}{self._phase_letter()}"
        if self.connection is not None and self.response is None and not self.frontend.gate.stopping:
            # As in HAProxy: the client may ask again.
            server = self.connection.server
            self._answer(502, f"{server.backend}/{server.name}: its connections were ended", code)
        else:
            self.abort(code)

    def expire(self, now: float) -> None:
        """The client connection's deadline has passed."""
        client, connection = self.client, self.connection
        if client.write_paused and client.reads_slowly(now):
            return
        if self.is_waiting:
            self._time_out_waiting()
            return
        if connection is not None and connection.write_paused and connection.reads_slowly():
            self._wait_for_server()
        elif self.step is _TUNNEL:
            self.abort("sD" if client.eof else "cD", why="the tunnel was idle for too long")
        elif client.write_paused:
            self.abort("cD", why="the client stopped reading")
        elif self.step is _UPLOADING and not (connection is not None and connection.write_paused):
            why = "the request's body stopped coming"
            if self.response is None:
                self._answer(408, why, "cH")
            else:
                self.abort("cD", why=why)
        else:
            self._time_out_server()

    def _time_out_waiting(self) -> None:
        backend, ticket = self.to.backend, self.ticket
        assert ticket is not None
        full = f"{backend.name}/{ticket.server.name}" if ticket.server is not None else f"all servers of {backend.name}"
        (backend.counters if ticket.server is None else ticket.server.counters).econ += 1
        self._answer(503, f"{full}: no place within {self.to.queue_timeout:g}s", "sQ")

    def _time_out_server(self) -> None:
        server = self.server
        assert server is not None
        name = f"{server.backend}/{server.name}"
        if self.response is not None:
            self.abort("sD", why=f"{name}: the response stopped coming")
            return
        server.counters.eresp += 1
        doing = "stopped reading the request" if self.step is _UPLOADING else "no response in time"
        self._answer(504, f"{name}: {doing}", "sH")

    def _phase_letter(self) -> str:
        """The second character of the termination code."""
        if self.response is not None:
            return "D"
        if self.connect_time >= 0:
            return "H"
        return "Q" if self.is_waiting else "C"

    def _answer(self, status: int, why: str, termination: str) -> None:
        """Answer in place of a server, with a page of ours."""
        self._reply(status, why, termination, self.to.replies.reply)

    def _reply(self, status: int, why: str, termination: str, compose: Compose) -> None:
        """Answer in place of a server."""
        client, frontend, request = self.client, self.frontend, self.request
        if self.dialling is not None:
            # What it gets for its client would come after this, and be taken for the answer to the next request.
            self.dialling.cancel()
            self.dialling = None
        if self.connection is not None:
            self._leave(self.connection, reusable=False, now=0.0)
        # A body still to come would have to be read for nothing.
        keep_alive = (
            request.section.keep_alive
            and self.step is _WAITING
            and (not client.eof or client.buffer != b"")
            and not frontend.gate.stopping
        )
        reply = compose(status, keep_alive=keep_alive, head_only=request.line.method == b"HEAD")
        self.bytes_out += len(reply)
        client.write(reply)
        frontend.gate.counters.intercepted += 1
        now = _now()
        self._account(termination, status, now, why=why)
        client.exchange_over(keep_alive=keep_alive, now=now)

    def abort(self, termination: str, *, why: str = "") -> None:
        """End in the middle: both connections are cut, so that nobody takes a part for the whole."""
        if self.step is _OVER:
            return
        if self.dialling is not None:
            self.dialling.cancel()
            self.dialling = None
        connection = self.connection
        if connection is not None:
            if self.step is not _WAITING:
                reset(connection.transport)
            self._leave(connection, reusable=False, now=0.0)
        status = self.response.status if self.response is not None else -1
        self._account(termination, status, _now(), why=why)
        client = self.client
        if client.transport is not None:
            reset(client.transport)
        client.shut()

    def _end_tunnel(self) -> None:
        """Both sides have said all they had to say."""
        connection, response = self.connection, self.response
        assert connection is not None and response is not None
        self.connection = None
        connection.finish(self.frontend.loop, self.to.server_timeout)
        self._account("--", response.status, _now())
        self.client.shut()

    # Accounts

    def report(self) -> None:
        """Count what has passed since the last report: a download may go on for hours."""
        received, sent = self.bytes_in - self.told_in, self.bytes_out - self.told_out
        self.told_in += received
        self.told_out += sent
        for counters in (self.frontend.gate.counters, *((self.server.counters,) if self.server is not None else ())):
            counters.bin += received
            counters.bout += sent

    def _account(self, termination: str, status: int, now: float, *, why: str = "") -> None:
        """Count and log. What a server served counts in its row alone; readers add the rows up for the backend."""
        self.step = _OVER
        frontend, server, backend = self.frontend, self.server, self.to.backend
        front, back = frontend.gate.counters, backend.counters
        counters = server.counters if server is not None else back
        received, sent = self.bytes_in - self.told_in, self.bytes_out - self.told_out
        front.req_tot += 1
        front.bin += received
        front.bout += sent
        counters.req_tot += 1
        counters.bin += received
        counters.bout += sent
        if 200 <= status < 300:
            front.hrsp_2xx += 1
            counters.hrsp_2xx += 1
        else:
            count_status(front, status)
            count_status(counters, status)
        total = int((now - self.began) * 1e6)
        size = total.bit_length()
        back.total_times[size] += 1
        counters.ttime += total
        if total > counters.ttime_max:
            counters.ttime_max = total
        if self.head_time >= 0:
            waited = total
            if self.head_time != now or self.connect_time != self.began:
                waited = int((self.head_time - self.connect_time) * 1e6)
                size = waited.bit_length()
            back.response_times[size] += 1
            counters.rtime += waited
            if waited > counters.rtime_max:
                counters.rtime_max = waited
        if termination != "--":
            if termination[0] in "Cc":
                counters.cli_abrt += 1
            elif termination == "SD" or termination == "sD":
                counters.srv_abrt += 1
        if frontend.log is not None:
            frontend.log(self._record(termination, status, total // 1000, why))
        if server is not None:
            counters.lastsess = frontend.clock.second
            if server.watches_sessions:
                server.sessions.discard(self)
            backend.release(server)
        elif self.ticket is not None:
            cast(LimitedBackend, backend).leave(self.ticket)

    def _record(self, termination: str, status: int, total: int, why: str) -> HttpRecord:
        frontend, server, choice, backend = self.frontend, self.server, self.choice, self.to.backend
        host, port = self.client.source or ("unix", 0)
        parsed, connected, answered = self.parsed, self.connect_time, self.head_time
        name, waited, srv_queue, backend_queue = "<NOSRV>", -1.0, 0, 0
        beconn, srvconn = backend.counters.scur, 0
        if server is not None:
            name, waited = server.name, 0.0
            # As HAProxy counts: this one is over.
            beconn, srvconn = beconn - 1, server.counters.scur - 1
        if backend.is_limited:
            beconn, srvconn = others(cast(LimitedBackend, backend), server, self.ticket)
        if self.ticket is not None:
            name, waited, srv_queue, backend_queue = described(self.ticket, server, _now())
            parsed += max(0.0, waited)
        cookies = "--" if choice is None else choice.state + self.cookie
        return HttpRecord(
            client=host,
            client_port=port,
            began=frontend.clock.wall - (frontend.clock.now - self.began),
            frontend=frontend.name,
            backend=backend.name,
            server=name,
            tr_request=int((self.parsed - self.began) * 1000),
            tw=int(waited * 1000) if waited >= 0 else -1,
            tc=int((connected - parsed) * 1000) if connected >= 0 else -1,
            tr_response=int((answered - connected) * 1000) if answered >= 0 else -1,
            ta=total,
            status=status,
            bytes_read=self.bytes_out,
            termination=termination + cookies,
            actconn=frontend.gate.process.scur,
            feconn=frontend.gate.counters.scur,
            beconn=beconn,
            srvconn=srvconn,
            retries=self.retries,
            redispatched=self.redispatched,
            srv_queue=srv_queue,
            backend_queue=backend_queue,
            request_line=self.request.line.octets,
            why=why,
            bytes_in=self.bytes_in,
        )


def count_status(counters: Counters, status: int) -> None:
    """Count a response by the class of its status; -1 stands for none."""
    if status < 0:
        return
    if 300 <= status < 400:
        counters.hrsp_3xx += 1
    elif 400 <= status < 500:
        counters.hrsp_4xx += 1
    elif 500 <= status < 600:
        counters.hrsp_5xx += 1
    elif 200 <= status < 300:
        counters.hrsp_2xx += 1
    elif 100 <= status < 200:
        counters.hrsp_1xx += 1
    else:
        counters.hrsp_other += 1
