"""An HTTP/1 client connection, its exchanges one after another, and the server connections that serve them.

    client ── ClientConnection ⇄ ServerConnection ── server

A client connection has one exchange at a time; pipelined requests wait in its buffer, unread past a bound.
A server connection belongs to one client connection for one exchange, then goes back to the pool.
Bodies pass through as they come: a full side pauses the reader of the other, nothing is kept whole.

In the common case, a request and a response that each come in one piece, the work is: parse, pick,
lease, write; parse, write, release. No task, no future, no timer, no queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import cast

from balancer.config import model
from balancer.errors import BadRequest
from balancer.pool.backend import Backend
from balancer.pool.facts import Counters
from balancer.pool.records import HttpRecord
from balancer.pool.server import Server
from balancer.pool.sticky import Choice, Persistence
from balancer.proxy.listen import Gate
from balancer.proxy.origin import Pool, ServerConnection, Stage
from balancer.proxy.replies import Replies
from balancer.proxy.sweep import NEVER, Clock, Sweeper
from balancer.proxy.tcp import reset, source_key
from balancer.proxy.upstream import ConnectError, Upstream, set_keepalive
from balancer.wire import proxyproto, rewrite
from balancer.wire.framing import ChunkedReader
from balancer.wire.http1 import CHUNKED, UNTIL_CLOSE, Limits, Request, Response, parse_request

__all__ = ["ForwardedFor", "HttpBackend", "HttpFrontend"]

# What a client may send ahead of its turn before we stop reading: one full read of most kernels.
_AHEAD = 65536
# A lingering close (RFC 9112 section 9.6) reads on so that the answer is not destroyed by a reset.
_LINGER_TIME = 2.0
_LINGER_OCTETS = 16 * 1024 * 1024
# RFC 9110 section 9.2.2. A request of these may be sent again when a pooled connection turns out dead.
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
# A connection that answered this recently is not one that the server is just about to close as idle.
_PROVED_ALIVE = 0.5


@dataclass(frozen=True)
class ForwardedFor:
    """X-Forwarded-For: `line` is made once per connection, and whom not to tell about."""

    header: bytes
    lower: bytes
    exclude: tuple[IPv4Network | IPv6Network, ...]
    if_none: bool

    def line(self, host: str) -> bytes:
        """The field line for a client at `host`; empty where it is excluded."""
        if self.exclude:
            address = ip_address(host.partition("%")[0])
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
    server_timeout: float
    tunnel_timeout: float
    replies: Replies


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
    replies: Replies
    forwarded_for: ForwardedFor | None
    client_timeout: float
    request_timeout: float
    keep_alive_timeout: float
    keepalive: model.TcpKeepalive | None
    log: Callable[[HttpRecord], None] | None
    dontlognull: bool

    def accept(self, *, accept_proxy: bool) -> asyncio.Protocol:
        """The protocol of one accepted connection."""
        return ClientConnection(self, accept_proxy=accept_proxy)


class Phase(IntEnum):
    """Where a client connection stands."""

    PARKED = 0  # accepted over maxconn, unread
    PROXY = 1  # before the PROXY protocol header
    HEAD = 2  # idle, or in a request's head
    BODY = 3  # the request's body is on its way
    SENT = 4  # the request is complete, the response is not
    TUNNEL = 5
    LINGER = 6  # answered for good; what still comes is discarded
    CLOSED = 7


_HEAD, _BODY, _SENT, _TUNNEL = Phase.HEAD, Phase.BODY, Phase.SENT, Phase.TUNNEL


class ClientConnection(asyncio.Protocol):
    """One client, its requests one after another."""

    __slots__ = (
        "accept_proxy", "began", "body_left", "buffer", "bytes_in", "bytes_out", "choice", "chunks", "connect_time",
        "deadline", "destination", "dialling", "eof", "exchanges", "forwarded", "frontend", "head_time", "held",
        "is_persistent", "keep_alive", "key", "killed", "own", "parsed_time", "phase", "redispatched", "request",
        "response", "retries", "searched", "sent_head", "server", "source", "to", "transport", "unsent",
        "upstream_connection", "write", "write_paused",
    )  # fmt: skip

    def __init__(self, frontend: HttpFrontend, *, accept_proxy: bool) -> None:
        self.frontend = frontend
        self.accept_proxy = accept_proxy
        self.phase = Phase.PARKED
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.searched = 0
        self.deadline = NEVER
        self.source: tuple[str, int] | None = None
        self.destination: tuple[str, int] | None = None
        self.forwarded = b""
        self.key = b""
        self.eof = self.write_paused = self.held = False
        self.exchanges = self.unsent = 0
        self.began = 0.0
        self.request: Request | None = None
        self.own: ServerConnection | None = None
        self._clear()

    def _clear(self) -> None:
        """Forget the exchange that ended."""
        self.to = self.frontend.default
        self.server: Server | None = None
        self.upstream_connection: ServerConnection | None = None
        self.dialling: asyncio.Task[None] | None = None
        self.response: Response | None = None
        self.choice: Choice | None = None
        self.chunks: ChunkedReader | None = None
        self.is_persistent = self.redispatched = self.keep_alive = False
        self.retries = self.body_left = self.bytes_in = self.bytes_out = 0
        self.connect_time = self.parsed_time = self.head_time = -1.0
        self.sent_head = b""
        self.killed = ""

    # Coming and going

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.write = self.transport.write
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.source = peer[:2]
        if self.frontend.gate.enter(self):
            self.unpark()

    def unpark(self) -> None:
        """There is room for this connection (see `listen.Gate`)."""
        frontend = self.frontend
        transport = cast(asyncio.Transport, self.transport)
        self.began = time.monotonic()
        self.deadline = frontend.clock.now + frontend.request_timeout
        frontend.sweeper.members.add(self)
        if frontend.keepalive is not None:
            set_keepalive(transport, frontend.keepalive)
        self.phase = Phase.PROXY if self.accept_proxy else Phase.HEAD
        if not self.accept_proxy:
            self._identify()
        if self.buffer:
            transport.resume_reading()
            self._next()

    def _identify(self) -> None:
        """The client's address is known for good."""
        if self.source is None:
            return
        forwarded_for = self.frontend.forwarded_for
        if forwarded_for is not None:
            self.forwarded = forwarded_for.line(self.source[0])
        if self.frontend.default.backend.needs == "source":
            self.key = source_key(self.source[0])

    def endpoints(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        if self.destination is None and self.source is not None and self.transport is not None:
            self.destination = self.transport.get_extra_info("sockname")[:2]
        return self.source, self.destination

    def eof_received(self) -> bool:
        """The client sends no more. What it asked for completely it still gets."""
        self.eof = True
        phase = self.phase
        if phase is _SENT:
            return True
        if phase is _TUNNEL:
            connection = cast(ServerConnection, self.upstream_connection)
            if connection.eof:
                self._end_tunnel("--")
            else:
                connection.transport.write_eof()
            return True
        if phase is Phase.PARKED:
            return True
        if phase is _BODY:
            self._abort("CD" if self.response is not None else "CH" if self.connect_time >= 0 else "CC")
        elif phase is _HEAD and self.buffer:
            self._refuse(400, "the client left in the middle of a request's head", "CR")
        else:
            self._shut()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        phase = self.phase
        if phase is Phase.CLOSED:
            self.transport = None
            return
        if phase is Phase.PARKED:
            self.phase = Phase.CLOSED
            self.transport = None
            self.frontend.gate.forget(self)
            return
        if phase is _BODY or phase is _SENT:
            side = "D" if self.response is not None else "H" if self.connect_time >= 0 else "C"
            self.transport = None
            self._abort(f"C{side}")
        elif phase is _TUNNEL:
            self.transport = None
            self._end_tunnel("CD")
        elif phase is _HEAD and self.buffer:
            self._log_bad_request("CR", -1, "")
        self.transport = None
        self._shut()

    def _shut(self) -> None:
        """Close the client's connection; nothing of an exchange is left."""
        if self.phase is Phase.CLOSED:
            return
        was_counted = self.phase is not Phase.PARKED
        self.phase = Phase.CLOSED
        self.buffer = b""
        self.deadline = NEVER
        self.frontend.sweeper.members.discard(self)
        if self.own is not None:
            self.own.close()
            self.own = None
        if self.transport is not None:
            self.transport.close()
        if was_counted:
            self.frontend.gate.leave()

    def finish_up(self) -> None:
        """The worker is stopping: an idle connection goes now, a busy one after its response."""
        if self.phase is _HEAD and not self.buffer:
            self._shut()

    def kill(self, termination: str) -> None:
        """End what goes on now: D its server went down, K at a hard stop."""
        if self.phase in (_BODY, _SENT):
            self._abort(f"{termination}{'D' if self.response is not None else 'H'}")
        elif self.phase is _TUNNEL:
            self._end_tunnel(f"{termination}D", cut=True)
        else:
            self._shut()

    # From the client

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase is _HEAD:
            if self.buffer:
                data = self.buffer + data
            elif self.exchanges:
                self.began = time.monotonic()
            self._on_head(data)
        elif phase is _BODY:
            if self.buffer or self.upstream_connection is None:
                self._keep(data)
            else:
                self._on_body(data)
        elif phase is _TUNNEL:
            self.bytes_in += len(data)
            self.deadline = self.frontend.clock.now + self.to.tunnel_timeout
            cast(ServerConnection, self.upstream_connection).write(data)
        elif phase is Phase.LINGER:
            self.body_left -= len(data)
            if self.body_left < 0:
                self._shut()
        elif phase is Phase.PROXY:
            self.buffer += data
            self._on_proxy_header()
        elif phase is not Phase.CLOSED:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        """It is not its turn yet."""
        self.buffer += data
        if self.phase is Phase.PARKED or self.phase is _BODY or len(self.buffer) >= _AHEAD:
            cast(asyncio.Transport, self.transport).pause_reading()
            self.held = True

    def _listen(self) -> None:
        """Read the client again."""
        if self.held:
            self.held = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    def _on_proxy_header(self) -> None:
        try:
            header = proxyproto.parse(self.buffer)
        except BadRequest as error:
            self._log_bad_request("PR", -1, error.why)
            self._shut()
            return
        if header is None:
            return
        if header.source is not None:
            self.source, self.destination = header.source, header.destination
        self._identify()
        self.phase = Phase.HEAD
        self.buffer = self.buffer[header.size :]
        if self.buffer:
            self._next()

    def _next(self) -> None:
        """Go on with what is in the buffer."""
        if self.phase is Phase.PROXY:
            self._on_proxy_header()
        elif self.phase is _HEAD and self.buffer and not self.write_paused:
            data, self.buffer = self.buffer, b""
            self._on_head(data)

    def _on_head(self, data: bytes) -> None:
        frontend = self.frontend
        try:
            request = parse_request(data, frontend.limits, self.searched)
        except BadRequest as error:
            self.buffer = data
            self._refuse(error.status, error.why, "PR")
            return
        if request is None:
            if not self.buffer and self.exchanges:
                self.deadline = frontend.clock.now + frontend.request_timeout
            self.buffer = data
            self.searched = len(data)
            if self.eof:
                self._refuse(400, "the client left in the middle of a request's head", "CR")
            return
        size = request.size
        rest = data[size:] if len(data) > size else b""
        self.buffer = rest
        self.searched = 0
        self.request = request
        self.bytes_in = size
        self.parsed_time = time.monotonic()
        if self.held:
            self._listen()

        to = self.to
        backend = to.backend
        server = None
        fields = request.fields
        persistence = to.persistence
        if persistence is not None:
            value = (
                rewrite.find_cookie(fields, request.lower, persistence.name) if b"cookie:" in request.lower else None
            )
            choice = self.choice = persistence.find(value, frontend.clock.wall)
            server = choice.server
            self.is_persistent = server is not None
            if value is not None and cast(model.Cookie, to.cookie).indirect:
                fields = rewrite.strip_cookie(fields, persistence.name)
        if server is None:
            if backend.needs == "uri":
                self.key = request.target
            server = backend.pick(self.key)
            if server is None:
                self._body_expected(request)
                backend.counters.econ += 1
                self._answer(503, f"{backend.name} has no server available", "SC")
                return
            server.counters.lbtot += 1
            backend.counters.lbtot += 1
        self.server = server
        backend.take(server)
        added = self.forwarded
        if added and frontend.forwarded_for.if_none and rewrite.has_field(request.lower, frontend.forwarded_for.lower):  # type: ignore[union-attr]
            added = b""
        self.sent_head = rewrite.request_head(request, added=added, fields=fields)
        if request.body == 0:
            self.phase = _SENT
        else:
            self._body_expected(request)
        self.deadline = frontend.clock.now + to.server_timeout
        connection = self._lease(server, request)
        if connection is not None:
            self.connect_time = self.parsed_time
            server.counters.reuse += 1
            backend.counters.reuse += 1
            self._send(connection)
        else:
            self.deadline = NEVER
            self.dialling = frontend.loop.create_task(self._dial())

    def _body_expected(self, request: Request) -> None:
        if request.body == CHUNKED:
            self.chunks = ChunkedReader(BadRequest)
        else:
            self.body_left = request.body
        self.phase = _BODY if request.body else _SENT

    def _lease(self, server: Server, request: Request) -> ServerConnection | None:
        to = self.to
        if to.reuse == "never" or server.config.send_proxy is not None:
            own, self.own = self.own, None
            if own is not None and own.server is not server:
                own.close()
                own = None
            return own
        if to.reuse == "safe" and (request.body != 0 or request.method not in _IDEMPOTENT or request.upgrade):
            return to.pool.lease(server, self.parsed_time - _PROVED_ALIVE)
        return to.pool.lease(server, 0.0)

    async def _dial(self) -> None:
        """Connect to the server chosen, or to another when that fails."""
        upstream = self.to.upstream
        connection: ServerConnection | None = None

        def make() -> ServerConnection:
            nonlocal connection
            connection = ServerConnection(self.frontend.limits)
            return connection

        try:
            await upstream.connect(self, make)
        except ConnectError as error:
            self.dialling = None
            self._answer(503, error.why, error.termination)
            return
        self.dialling = None
        connected = cast(ServerConnection, connection)
        connected.server = cast(Server, self.server)
        connected.pool = self.to.pool
        self.connect_time = time.monotonic()
        if connected.transport is None or connected.transport.is_closing():
            self._server_gone("closed as soon as it was open")
            return
        microseconds = int((self.connect_time - self.parsed_time) * 1e6)
        counters = self.to.backend.counters
        counters.connect_times[microseconds.bit_length()] += 1
        for each in (counters, connected.server.counters):
            each.ctime += microseconds
            if microseconds > each.ctime_max:
                each.ctime_max = microseconds
        self.deadline = self.frontend.clock.now + self.to.server_timeout
        self._send(connected)

    def _send(self, connection: ServerConnection) -> None:
        """The request goes to a server connection."""
        self.upstream_connection = connection
        connection.begin(self, cast(Request, self.request).method)
        connection.write(self.sent_head)
        server = cast(Server, self.server)
        if server.config.on_marked_down != "none":
            server.sessions.add(self)
        if self.phase is _BODY:
            self._listen()
            self.deadline = self.frontend.clock.now + self.frontend.client_timeout
            if self.buffer:
                data, self.buffer = self.buffer, b""
                self._on_body(data)

    def _on_body(self, data: bytes) -> None:
        frontend = self.frontend
        connection = cast(ServerConnection, self.upstream_connection)
        self.deadline = frontend.clock.now + frontend.client_timeout
        rest = b""
        chunks = self.chunks
        if chunks is not None:
            try:
                out = chunks.feed(data)
            except BadRequest as error:
                if self.response is None:
                    self._answer(400, error.why, "PR")
                else:
                    self._abort("PD")
                return
            if out:
                connection.write(out)
            is_complete = chunks.done
            rest = chunks.rest if is_complete else b""
        else:
            left = self.body_left - len(data)
            if left < 0:
                data, rest = data[:left], data[left:]
                left = 0
            connection.write(data)
            self.body_left = left
            is_complete = not left
        self.bytes_in += len(data) - (len(rest) if chunks is not None else 0)
        if is_complete:
            self.buffer = rest
            self.phase = _SENT
            self.deadline = frontend.clock.now + self.to.server_timeout

    def pause_writing(self) -> None:
        self.write_paused = True
        connection = self.upstream_connection
        if connection is not None and connection.transport is not None:
            connection.transport.pause_reading()
        self.deadline = self.frontend.clock.now + self.frontend.client_timeout

    def resume_writing(self) -> None:
        self.write_paused = False
        connection = self.upstream_connection
        if connection is not None and connection.transport is not None and not connection.transport.is_closing():
            connection.transport.resume_reading()
            self.deadline = self.frontend.clock.now + self.to.server_timeout
        elif self.phase is _HEAD:
            self.deadline = self.frontend.clock.now + self.frontend.keep_alive_timeout
            self._next()

    # From the server

    def on_response(self, response: Response, data: bytes, connection: ServerConnection) -> None:
        """A final response's head has come; `data` begins with it."""
        frontend = self.frontend
        request = cast(Request, self.request)
        now = self.head_time = time.monotonic()
        self.response = response
        body = response.body
        to_minor = request.minor
        dechunk = body == CHUNKED and to_minor == 0
        self.keep_alive = keep_alive = (
            request.keep_alive
            and body != UNTIL_CLOSE
            and self.phase is _SENT
            and not self.eof
            and not frontend.gate.stopping
        )
        fields = None
        added = b""
        if self.choice is not None:
            fields, added = self._cookies(request, response)
        head = rewrite.response_head(
            response, added=added, fields=fields, keep_alive=keep_alive, to_minor=to_minor, dechunk=dechunk
        )
        size = response.size
        if body >= 0 and len(data) - size == body:
            # All of it in one piece.
            if body:
                head = head + data[size:] if size else head + data
            self.bytes_out += len(head)
            cast(Callable[[bytes], None], self.write)(head)
            connection.rest = False
            connection.phase = Stage.IDLE
            self.response_complete(now)
            return
        self.bytes_out += len(head)
        self.write(head)
        connection.expect(body, payload_only=dechunk)
        self.deadline = frontend.clock.now + self.to.server_timeout
        if len(data) > size:
            connection.on_body(data[size:])
        elif body == 0:
            connection.phase = Stage.IDLE
            self.response_complete(now)

    def _cookies(self, request: Request, response: Response) -> tuple[bytes | None, bytes]:
        """The response's fields where ours replace the server's, and the lines to add (features of `cookie insert`)."""
        to = self.to
        persistence, cookie = cast(Persistence, to.persistence), cast(model.Cookie, to.cookie)
        fields = None
        if b"set-cookie:" in response.lower and rewrite.sets_cookie(response.fields, response.lower, persistence.name):
            if cookie.preserve:
                return None, b""
            fields = rewrite.strip_set_cookie(response.fields, persistence.name)
        added = persistence.set_cookie(
            cast(Server, self.server), cast(Choice, self.choice), request.method, self.frontend.clock.wall
        )
        if added and cookie.nocache and rewrite.is_cacheable(request.method, response):
            added += b"cache-control: private\r\n"
        return fields, added

    def on_interim(self, head: bytes) -> None:
        """A 1xx response to pass on (RFC 9110 section 15.2): not to HTTP/1.0 clients, who do not know them."""
        if cast(Request, self.request).minor:
            self.bytes_out += len(head)
            self.write(head)

    def on_switch(self, response: Response, rest: bytes, connection: ServerConnection) -> None:
        """101: from here on the two ends speak their own protocol."""
        if not cast(Request, self.request).upgrade:
            self.on_bad_response("101 to a request that asked for no upgrade")
            return
        self.response = response
        self.head_time = time.monotonic()
        added = b""
        fields = None
        if self.choice is not None:
            fields, added = self._cookies(cast(Request, self.request), response)
        head = rewrite.response_head(response, added=added, fields=fields, keep_alive=True)
        self.bytes_out += len(head) + len(rest)
        self.write(head + rest)
        self.phase = _TUNNEL
        self.deadline = self.frontend.clock.now + self.to.tunnel_timeout
        connection.phase = Stage.RAW
        if self.buffer:
            data, self.buffer = self.buffer, b""
            self.data_received(data)
        self._listen()
        if self.eof:
            connection.transport.write_eof()

    def pass_on(self, data: bytes) -> None:
        """A part of the response's body."""
        self.bytes_out += len(data)
        self.deadline = self.frontend.clock.now + self.to.server_timeout
        self.write(data)

    def on_tunnel_data(self, data: bytes) -> None:
        """Octets from the server through the tunnel."""
        self.bytes_out += len(data)
        self.deadline = self.frontend.clock.now + self.to.tunnel_timeout
        self.write(data)

    def hold_request(self) -> None:
        """The server reads slower than the client sends."""
        if self.transport is not None:
            self.transport.pause_reading()
            self.deadline = self.frontend.clock.now + self.to.server_timeout

    def resume_request(self) -> None:
        """The server has caught up."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self.deadline = self.frontend.clock.now + self.frontend.client_timeout

    def response_complete(self, now: float) -> None:
        """The response has been passed on whole."""
        connection = cast(ServerConnection, self.upstream_connection)
        if self.phase is _BODY:
            # The server answered before the request was complete: it will not want the rest.
            self._leave_connection(connection, reusable=False)
            self._account("--", now)
            self._linger()
            return
        self._complete(now)

    def _complete(self, now: float) -> None:
        """Request and response are both through."""
        connection = cast(ServerConnection, self.upstream_connection)
        keep_alive = self.keep_alive
        self._leave_connection(
            connection, reusable=cast(Response, self.response).keep_alive and not connection.rest, now=now
        )
        self._account("--", now)
        if keep_alive:
            self.phase = _HEAD
            self.exchanges += 1
            self._clear()
            frontend = self.frontend
            self.deadline = frontend.clock.now + frontend.keep_alive_timeout
            if self.buffer:
                # Not from here: pipelined requests answered at once would nest without end.
                self.began = now
                frontend.loop.call_soon(self._next)
            elif self.held:
                self._listen()
            elif frontend.gate.stopping:
                self._shut()
        elif self.eof:
            self._shut()
        else:
            self._linger()

    def _leave_connection(self, connection: ServerConnection, *, reusable: bool, now: float = 0.0) -> None:
        """This exchange needs the server connection no more."""
        self.upstream_connection = None
        connection.client = None
        if self.write_paused and reusable:
            connection.transport.resume_reading()
        if not reusable:
            connection.close()
        elif self.to.reuse == "never" or connection.server.config.send_proxy is not None:
            connection.idle_since = now
            if self.keep_alive:
                connection.owner = self
                self.own = connection
            else:
                connection.close()
        else:
            self.to.pool.put(connection, now)

    def on_server_lost(self, connection: ServerConnection, why: str) -> None:
        """The server connection ended before the response did."""
        if self.response is None:
            request = cast(Request, self.request)
            if connection.was_pooled and not connection.heard and request.body == 0 and request.method in _IDEMPOTENT:
                # It had closed an idle connection when our request was already on its way.
                self.upstream_connection = None
                self.deadline = NEVER
                self.dialling = self.frontend.loop.create_task(self._dial())
                return
            self._server_gone(why)
            return
        self._abort("SD", why=why)

    def _server_gone(self, why: str) -> None:
        server = cast(Server, self.server)
        for counters in (server.counters, self.to.backend.counters):
            counters.eresp += 1
        self._answer(502, f"{server.backend}/{server.name}: {why}", "SH")

    def on_bad_response(self, why: str) -> None:
        """The server's message cannot be passed on."""
        server = cast(Server, self.server)
        for counters in (server.counters, self.to.backend.counters):
            counters.eresp += 1
        if self.response is None:
            self._answer(502, f"{server.backend}/{server.name}: {why}", "PH")
        else:
            self._abort("PD", why=why)

    # Answers of our own, and ends that are not good

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        phase = self.phase
        if phase is _HEAD:
            if not self.buffer:
                if not self.exchanges and not self.frontend.dontlognull:
                    self._log_bad_request("cR", 408, "no request in time")
                self._shut()
            else:
                self._refuse(408, "no complete request head in time", "cR")
        elif phase is Phase.PROXY:
            self._log_bad_request("cR", -1, "no PROXY protocol header in time")
            self._shut()
        elif phase is Phase.LINGER:
            if self._reads_slowly(now):
                return
            if self.unsent and self.transport is not None:
                reset(self.transport)
            self._shut()
        elif phase is _TUNNEL:
            self._end_tunnel("cD", cut=True)
        elif self.write_paused:
            if not self._reads_slowly(now):
                self._abort("cD", why="the client stopped reading")
        elif phase is _BODY:
            connection = self.upstream_connection
            if connection is not None and connection.write_paused:
                self._time_out_server("the server stopped reading the request")
            elif self.response is None:
                self._answer(408, "the request's body stopped coming", "cD")
            else:
                self._abort("cD", why="the request's body stopped coming")
        else:
            self._time_out_server("no response in time" if self.response is None else "the response stopped coming")

    def _reads_slowly(self, now: float) -> bool:
        """Whether the client has read some of what waits for it since the last look; then it gets more time."""
        unsent = self.transport.get_write_buffer_size() if self.transport is not None else 0
        progress = 0 < unsent != self.unsent
        self.unsent = unsent
        if progress:
            self.deadline = now + self.frontend.client_timeout
        return progress

    def _time_out_server(self, why: str) -> None:
        if self.response is not None:
            self._abort("sD", why=why)
            return
        server = cast(Server, self.server)
        for counters in (server.counters, self.to.backend.counters):
            counters.eresp += 1
        self._answer(504, f"{server.backend}/{server.name}: {why}", "sH")

    def _refuse(self, status: int, why: str, termination: str) -> None:
        """No request could be read: answer and close."""
        self.frontend.gate.counters.ereq += 1
        reply = self.frontend.replies.reply(status)
        self.bytes_out = len(reply)
        if not self.eof or termination != "CR":
            self.write(reply)
        self._count_status(self.frontend.gate.counters, status)
        self.frontend.gate.counters.intercepted += 1
        self._log_bad_request(termination, status, why)
        self._linger()

    def _answer(self, status: int, why: str, termination: str) -> None:
        """Answer the request ourselves, in place of a server."""
        request = cast(Request, self.request)
        frontend = self.frontend
        if self.upstream_connection is not None:
            self._leave_connection(self.upstream_connection, reusable=False)
        keep_alive = request.keep_alive and self.phase is _SENT and not self.eof and not frontend.gate.stopping
        reply = self.to.replies.reply(status, keep_alive=keep_alive, head_only=request.method == b"HEAD")
        self.bytes_out += len(reply)
        self.write(reply)
        frontend.gate.counters.intercepted += 1
        self._account(termination, time.monotonic(), status=status, why=why)
        if keep_alive:
            self.phase = _HEAD
            self.exchanges += 1
            self._clear()
            self.deadline = frontend.clock.now + frontend.keep_alive_timeout
            if self.buffer:
                frontend.loop.call_soon(self._next)
        else:
            self._linger()

    def _abort(self, termination: str, *, why: str = "") -> None:
        """An exchange ends in the middle: both connections are cut, so that nobody takes a part for the whole."""
        if self.dialling is not None:
            self.dialling.cancel()
            self.dialling = None
        if self.upstream_connection is not None:
            self._leave_connection(self.upstream_connection, reusable=False)
        self._account(termination, time.monotonic(), why=why)
        if self.transport is not None:
            reset(self.transport)
        self._shut()

    def _linger(self) -> None:
        """Close once the client has read the answer (RFC 9112 section 9.6)."""
        transport = self.transport
        if transport is None or self.eof:
            self._shut()
            return
        self.phase = Phase.LINGER
        self.buffer = b""
        self.body_left = _LINGER_OCTETS
        self.deadline = self.frontend.clock.now + _LINGER_TIME
        self.held = True
        self._listen()
        if not transport.is_closing():
            transport.write_eof()

    def _end_tunnel(self, termination: str, *, cut: bool = False) -> None:
        connection = self.upstream_connection
        if connection is not None:
            self.upstream_connection = None
            connection.client = None
            if cut and connection.transport is not None:
                reset(connection.transport)
            connection.close()
        self._account(termination, time.monotonic())
        if cut and self.transport is not None:
            reset(self.transport)
        self._shut()

    def on_tunnel_eof(self, connection: ServerConnection) -> None:
        """The server sends no more through the tunnel."""
        if self.eof:
            self._end_tunnel("--")
        elif self.transport is not None:
            self.transport.write_eof()

    # Accounts

    def _account(self, termination: str, now: float, *, status: int = 0, why: str = "") -> None:
        """Count and log the exchange that has just ended."""
        frontend, to, server = self.frontend, self.to, self.server
        front, back = frontend.gate.counters, to.backend.counters
        response = self.response
        status = status or (response.status if response is not None else -1)
        received, sent = self.bytes_in, self.bytes_out
        front.req_tot += 1
        back.req_tot += 1
        front.bin += received
        front.bout += sent
        back.bin += received
        back.bout += sent
        self._count_status(front, status)
        self._count_status(back, status)
        total = int((now - self.began) * 1e6)
        back.ttime += total
        if total > back.ttime_max:
            back.ttime_max = total
        back.total_times[total.bit_length()] += 1
        if server is not None:
            counters = server.counters
            counters.req_tot += 1
            counters.bin += received
            counters.bout += sent
            counters.ttime += total
            if total > counters.ttime_max:
                counters.ttime_max = total
            counters.lastsess = back.lastsess = int(frontend.clock.wall)
            if response is not None:
                self._count_status(counters, status)
                waited = int((self.head_time - self.connect_time) * 1e6)
                counters.rtime += waited
                back.rtime += waited
                if waited > counters.rtime_max:
                    counters.rtime_max = waited
                    if waited > back.rtime_max:
                        back.rtime_max = waited
                back.response_times[waited.bit_length()] += 1
            if termination != "--":
                self._count_abort(termination, counters, back)
            if server.config.on_marked_down != "none":
                server.sessions.discard(self)
        if frontend.log is not None:
            frontend.log(self._record(termination, status, total // 1000, why))
        if server is not None:
            to.backend.release(server)

    @staticmethod
    def _count_abort(termination: str, server: Counters, backend: Counters) -> None:
        if termination[0] in "Cc":
            server.cli_abrt += 1
            backend.cli_abrt += 1
        elif termination == "SD":
            server.srv_abrt += 1
            backend.srv_abrt += 1

    @staticmethod
    def _count_status(counters: Counters, status: int) -> None:
        if 200 <= status < 300:
            counters.hrsp_2xx += 1
        elif 300 <= status < 400:
            counters.hrsp_3xx += 1
        elif 400 <= status < 500:
            counters.hrsp_4xx += 1
        elif 500 <= status < 600:
            counters.hrsp_5xx += 1
        elif 100 <= status < 200:
            counters.hrsp_1xx += 1
        else:
            counters.hrsp_other += 1

    def _record(self, termination: str, status: int, total: int, why: str) -> HttpRecord:
        frontend, to, server = self.frontend, self.to, self.server
        request = cast(Request, self.request)
        host, port = self.source or ("unix", 0)
        parsed, connected, answered = self.parsed_time, self.connect_time, self.head_time
        choice = self.choice
        inserted = "-"
        if choice is None:
            seen = "-"
        else:
            seen = choice.state
            response = self.response
            inserted = "N" if response is None or (choice.server is server and not choice.refresh) else "I"
        return HttpRecord(
            client=host,
            client_port=port,
            began=frontend.clock.wall - total / 1000,
            frontend=frontend.name,
            backend=to.backend.name,
            server=server.name if server is not None else "<NOSRV>",
            tr_request=int((parsed - self.began) * 1000),
            tw=0 if server is not None else -1,
            tc=int((connected - parsed) * 1000) if connected >= 0 else -1,
            tr_response=int((answered - connected) * 1000) if answered >= 0 else -1,
            ta=total,
            status=status,
            bytes_read=self.bytes_out,
            termination=f"{termination}{seen}{inserted}",
            actconn=frontend.gate.process.scur,
            feconn=frontend.gate.counters.scur,
            beconn=to.backend.counters.scur,
            srvconn=server.counters.scur if server is not None else 0,
            retries=self.retries,
            redispatched=self.redispatched,
            srv_queue=0,
            backend_queue=0,
            request_line=request.line,
            why=why,
        )

    def _log_bad_request(self, termination: str, status: int, why: str) -> None:
        frontend = self.frontend
        if frontend.log is None:
            return
        host, port = self.source or ("unix", 0)
        total = int((time.monotonic() - self.began) * 1000)
        frontend.log(
            HttpRecord(
                client=host,
                client_port=port,
                began=frontend.clock.wall - total / 1000,
                frontend=frontend.name,
                backend=frontend.name,
                server="<NOSRV>",
                tr_request=-1,
                tw=-1,
                tc=-1,
                tr_response=-1,
                ta=total,
                status=status,
                bytes_read=self.bytes_out,
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
