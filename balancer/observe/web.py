"""The statistics page and the metrics over HTTP.

`stats.users` guard all of it, the metrics too: they tell as much as the page does. Prometheus sends the name and
password that its `basic_auth` is given.

Whoever can reach the listener may be hostile: a connection carries one request, its head is bounded in size and
time, its body is refused, only so many connections exist at once (the oldest idle one makes room) and only so many
answers are being sent. An answer is made while it is sent, a piece at a time, so a client that reads slowly holds one
piece and the snapshot it began with, and no longer than `_ANSWER_SECONDS`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import re
import secrets
import socket
import struct
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from balancer.config import model
from balancer.observe import columns, metrics, page
from balancer.observe.columns import Selection
from balancer.observe.snapshot import Snapshot

__all__ = ["Web"]

_LOG = logging.getLogger(__name__)

# Browsers, a few Prometheus servers and the odd script; each connection costs some 20 KiB.
_MOST_CONNECTIONS = 128
# Each holds a snapshot: some 15 MB with 5 000 servers.
_MOST_ANSWERS = 4
# Head complete within this time of accepting (apache's mod_reqtimeout gives 20 s at least, nginx 60).
_HEAD_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
# A client that still sends the body we refused is read for so long, so that it sees the answer and no reset.
_LINGER_SECONDS = 2.0
# Browsers send 2 KiB of head, cookies of other services on this host included 8.
_LONGEST_LINE = 8190
_MOST_FIELDS = 64
# More than a form with every server of a large page; nothing takes a body yet.
_MOST_BODY = 64 * 1024

_HEADERS = {
    "Server": "pybalancer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TEXT = "text/plain; charset=utf-8"


class Web:
    """The HTTP server of the statistics.

    `snapshot` is asked for the present picture at each request.
    """

    def __init__(self, config: model.Stats, snapshot: Callable[[], Snapshot]) -> None:
        self._config = config
        self._snapshot = snapshot
        self._users = _Users(config.users)
        self._challenge = f'Basic realm="{config.realm}"'
        if not all(f"{name}{password}".isascii() for name, password in config.users.items()):
            # RFC 7617 section 2.1.
            self._challenge += ', charset="UTF-8"'
        self._answers = asyncio.Semaphore(_MOST_ANSWERS)
        self._answering: set[object] = set()
        self._listeners: list[asyncio.AbstractServer] = []
        self._server: _Server | None = None

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on listening TCP or Unix sockets. They stay the caller's and stay open."""
        loop = asyncio.get_running_loop()
        self._server = _Server(self._handle)
        for sock in sockets:
            create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
            # A duplicate, since the loop closes what it was given.
            self._listeners.append(await create(self._accept, sock=sock.dup()))

    async def stop(self) -> None:
        """Accept no more, give answers in the making a second, close everything."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._server is not None:
            await self._server.shutdown(1.0)

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._server
        if server is None:
            return _Refused()
        connections = server.connections
        if len(connections) >= _MOST_CONNECTIONS:
            idle = next((each for each in connections if each not in self._answering), None)
            if idle is None:
                return _Refused()
            idle.force_close()
        return server()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._answering.add(request.protocol)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._answer(request)
        except TimeoutError:
            _reset(request.transport)
            raise ConnectionResetError("the client reads too slowly") from None
        finally:
            self._answering.discard(request.protocol)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self._users.admit(request.headers.get("Authorization", "")):
            return _plain(401, "You need a valid user and password to access this content.", self._challenge)
        if _body(request) > (0 if request.method in ("GET", "HEAD") else _MOST_BODY):
            return _plain(413, "This request's body is not wanted.")
        if request.method not in ("GET", "HEAD"):
            return _plain(405, "Only GET and HEAD are understood.")
        config, target = self._config, _target(request)
        wanted = _Wanted.of(target, config.uri)
        if wanted is not None:
            return await self._show(request, wanted)
        if config.metrics is not None and target.partition("?")[0] == config.metrics:
            return await self._send(request, {"Content-Type": metrics.CONTENT_TYPE}, metrics.pieces)
        if target == "/":
            return _plain(302, "The statistics are elsewhere.", location=config.uri)
        return _plain(404, "There is nothing here.")

    async def _show(self, request: web.BaseRequest, wanted: _Wanted) -> web.StreamResponse:
        config = self._config
        if wanted.format is None:
            headers = {"Content-Type": page.CONTENT_TYPE}
            refresh = config.refresh if wanted.refreshes else None
            if refresh is not None:
                headers["Refresh"] = str(max(round(refresh), 1))
            return await self._send(
                request,
                headers,
                lambda now: page.pieces(columns.narrowed(now, wanted.selection), realm=config.realm, refresh=refresh),
            )
        write = _WRITERS[wanted.format]
        type_ = columns.JSON_TYPE if wanted.format == "json" else columns.CSV_TYPE
        return await self._send(
            request,
            {"Content-Type": type_},
            lambda now: _together(write(columns.selected(now, wanted.selection))),
        )

    async def _send(
        self,
        request: web.BaseRequest,
        headers: Mapping[str, str],
        make: Callable[[Snapshot], Generator[str, None, None]],
    ) -> web.StreamResponse:
        """Answer with what `make` yields, as it is made."""
        async with self._answers:
            # Closed at once when the client leaves: else the exception would keep this frame, and that the snapshot.
            with closing(make(self._snapshot())) as pieces:
                # Before the head is out an error can still be told.
                first = next(pieces, "")
                response = web.StreamResponse(headers={**_HEADERS, **headers})
                response.force_close()
                await response.prepare(request)
                if request.method == "HEAD":
                    return response
                await response.write(first.encode("utf-8", "replace"))
                for piece in pieces:
                    # Others have their turn after each piece, however fast this client reads.
                    await asyncio.sleep(0)
                    await response.write(piece.encode("utf-8", "replace"))
                await response.write_eof()
                return response


class _Wanted(NamedTuple):
    """What stands behind the page's URI, in HAProxy's words (src/stats.c, http_handle_stats): `;csv`, `;json`,
    `;typed`, `;up`, `;no-maint`, `;norefresh`, `?scope=` or `;scope=`."""

    format: str | None
    selection: Selection
    refreshes: bool

    @staticmethod
    def of(target: str, uri: str) -> _Wanted | None:
        """None where the target is something else."""
        rest = target.removeprefix(uri) if target.startswith(uri) else None
        if rest is None or rest[:1] not in ("", ";", "?", "&", "/"):
            return None
        words = re.split("[;?&/]", rest)
        scope = next((unquote(word[6:]) for word in words if word.startswith("scope=")), "")
        return _Wanted(
            next((word for word in words if word in _WRITERS), None),
            Selection(scope=scope[:_LONGEST_SCOPE], hides_down="up" in words, hides_maint="no-maint" in words),
            "norefresh" not in words,
        )


# HAProxy's STAT_SCOPE_TXT_MAXLEN.
_LONGEST_SCOPE = 20
_WRITERS = {"csv": columns.csv, "json": columns.json_, "typed": columns.typed}
# Rows sent at a time.
_ROWS = 64


def _together(rows: Iterable[str]) -> Generator[str, None, None]:
    """Fewer and larger pieces."""
    rows = iter(rows)
    while piece := "".join(islice(rows, _ROWS)):
        yield piece


class _Users:
    """Names and passwords (RFC 7617). Every comparison takes the same time, whoever it is and whatever matches."""

    def __init__(self, users: Mapping[str, str]) -> None:
        # Digests under a key of this process: equal lengths to compare, and nothing to learn from their order.
        self._key = secrets.token_bytes(32)
        self._known = [self._digest(f"{name}:{password}".encode()) for name, password in users.items()]

    def _digest(self, credentials: bytes) -> bytes:
        return hashlib.blake2b(credentials, key=self._key).digest()

    def admit(self, authorization: str) -> bool:
        """Whether an Authorization header's value names one of the users; anybody is admitted where there are none."""
        if not self._known:
            return True
        scheme, _, encoded = authorization.partition(" ")
        try:
            credentials = base64.b64decode(encoded.strip(" "), validate=True)
        except (binascii.Error, ValueError):
            return False
        given = self._digest(credentials)
        found = [hmac.compare_digest(given, known) for known in self._known]
        return any(found) and scheme.lower() == "basic"


def _target(request: web.BaseRequest) -> str:
    """The request's target as it was sent, without scheme and host if it had them (RFC 9112 section 3.2.2)."""
    target = request.raw_path
    if target.startswith("/"):
        return target
    _, found, rest = target.partition("://")
    _, slash, path = rest.partition("/")
    return slash + path if found else target


def _body(request: web.BaseRequest) -> float:
    """How many octets of body are announced."""
    if "Transfer-Encoding" in request.headers:
        return float("inf")
    return request.content_length or 0


def _plain(status: int, text: str, challenge: str | None = None, *, location: str | None = None) -> web.Response:
    headers = {**_HEADERS, "Content-Type": _TEXT}
    if challenge is not None:
        headers["WWW-Authenticate"] = challenge
    if location is not None:
        headers["Location"] = location
    if status == 405:
        headers["Allow"] = "GET, HEAD"
    response = web.Response(status=status, body=f"{status} {text}\n".encode(), headers=headers)
    response.force_close()
    return response


def _reset(transport: asyncio.Transport | None) -> None:
    """End a connection such that the client cannot take what it got for the whole, nor the kernel keep the rest."""
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


class _Connection(web.RequestHandler):
    """aiohttp's connection, except that a failure tells the client nothing but its status."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        if status < 500:
            return _plain(status, "This request is malformed.")
        if isinstance(exc, ConnectionError):
            raise exc
        _LOG.error("the statistics could not be shown: %r", exc)
        if request.writer.output_size > 0:
            _reset(request.transport)
            raise ConnectionResetError("an answer that has begun cannot turn into another")
        return _plain(status, "Something went wrong here.")

    def log_exception(self, *args: Any, **more: Any) -> None:
        _LOG.error("%s: %r", args[0] if args else "error", more.get("exc_info"))


class _Server(web.Server):
    """Makes the connections, with their limits."""

    def __call__(self) -> _Connection:
        return _Connection(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]  # documented as "no access log"
            keepalive_timeout=_HEAD_SECONDS,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            max_headers=_MOST_FIELDS,
        )


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
