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
import logging
import re
import socket
import struct
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from ssl import SSLContext
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

from balancer.config import model
from balancer.observe import coding, columns, form, metrics, page
from balancer.observe.columns import Selection
from balancer.observe.form import Form, Found
from balancer.observe.lines import printable
from balancer.observe.live import Live
from balancer.observe.snapshot import Snapshot
from balancer.observe.steering import Steering
from balancer.observe.tls import Door
from balancer.observe.users import User, Users
from balancer.pool.passwords import TooManyLoginsError

__all__ = ["Web"]

_LOG = logging.getLogger(__name__)

# Browsers, a few Prometheus servers and the odd script; each connection costs some 20 KiB.
_MOST_CONNECTIONS = 128
# Each holds a snapshot: some 15 MB with 5 000 servers.
_MOST_ANSWERS = 4
# Head complete within this time of accepting (apache's mod_reqtimeout gives 20 s at least, nginx 60).
_HEAD_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
# In which one who is told what changes has to take it.
_READ_SECONDS = 10.0
# A client that still sends the body we refused is read for so long, so that it sees the answer and no reset.
_LINGER_SECONDS = 2.0
# Browsers send 2 KiB of head, cookies of other services on this host included 8.
_LONGEST_LINE = 8190
_MOST_FIELDS = 64
# More than a form with every server of a large page.
_MOST_BODY = 512 * 1024
# Servers changed in one go; others have their turn in between.
_CHANGES = 16
_FORM = "application/x-www-form-urlencoded"
# Who sends one of these is a browser (Fetch standard, section 3.1; Fetch Metadata), or says so in User-Agent: what
# another site makes it send comes with its user's password.
_OF_BROWSERS = ("Origin", "Sec-Fetch-Site", "Referer")

_HEADERS = {
    "Server": "pybalancer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": page.POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TEXT = "text/plain; charset=utf-8"


class Web:
    """The HTTP server of the statistics.

    `snapshot` is asked for the present picture at each request, `steer` changes servers. `secret` is what tokens are
    made with. `live` tells what changes. `tables` are what clients have taken. `tls` is for
    those who come by TCP.
    """

    def __init__(
        self,
        config: model.Stats,
        snapshot: Callable[[], Snapshot],
        *,
        steer: Steering | None = None,
        secret: bytes = b"",
        live: Live | None = None,
        tables: metrics.Tables = tuple,
        tls: SSLContext | None = None,
    ) -> None:
        self._config = config
        self._snapshot = snapshot
        self._steer = steer if config.admin else None
        self._live = live
        self._tables = tables
        self._tls = tls
        self._door: Door | None = None
        self._users = Users(config, secret)
        self._changes: set[asyncio.Task[int]] = set()
        self._challenge = f'Basic realm="{config.realm}"'
        if not all(f"{name}{user.password}".isascii() for name, user in config.users.items()):
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
            if self._tls is not None and sock.family != socket.AF_UNIX:
                self._door = self._door or Door(self._tls, self._accept)
                self._door.open(sock.dup())
                continue
            create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
            # A duplicate, since the loop closes what it was given.
            self._listeners.append(await create(self._accept, sock=sock.dup()))

    async def stop(self) -> None:
        """Accept no more, give answers in the making a second, close everything."""
        if self._live is not None:
            self._live.close()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._door is not None:
            self._door.close()
        if self._server is not None:
            await self._server.shutdown(1.0)
        if self._changes:
            await asyncio.wait(self._changes)

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
            async with asyncio.timeout(_ANSWER_SECONDS) as limit:
                return await self._answer(request, limit)
        except TimeoutError:
            _reset(request.transport)
            raise ConnectionResetError("the client reads too slowly") from None
        finally:
            self._answering.discard(request.protocol)

    async def _answer(self, request: web.BaseRequest, limit: asyncio.Timeout) -> web.StreamResponse:
        try:
            user = await self._users.of(request.headers.get("Authorization", ""))
        except TooManyLoginsError:
            return _plain(503, "Too many passwords are being checked.")
        if user is None:
            return _plain(401, "You need a valid user and password to access this content.", self._challenge)
        is_form = request.method == "POST"
        if _body(request) > (_MOST_BODY if is_form else 0):
            return _plain(413, "This request's body is not wanted.")
        config, target = self._config, _target(request)
        wanted = _Wanted.of(target, config.uri) or _Wanted.of(target, "/")
        if is_form and wanted is not None:
            return await self._change(request, wanted, user)
        if request.method not in ("GET", "HEAD"):
            return _plain(405, "Only GET and HEAD are understood.")
        if config.metrics is not None and target.partition("?")[0] == config.metrics:
            return await self._measure(request, target.partition("?")[2])
        if wanted is not None and wanted.is_live:
            return await self._tell(request, limit)
        if wanted is not None:
            return await self._show(request, wanted, user)
        return _plain(404, "There is nothing here.")

    # Changes

    async def _change(self, request: web.BaseRequest, wanted: _Wanted, user: User) -> web.StreamResponse:
        """What a form asks for. Answered as HAProxy does: with the way back to the page, which says what came of it."""
        if request.content_type != _FORM:
            return _plain(415, f"Send {_FORM}.")
        async with self._answers:
            body = await request.read()
        try:
            asked = Form.of(body)
        except ValueError:
            return _plain(413, "This form has too many fields.")
        is_browser = _is_browser(request)
        if is_browser and not _is_same_origin(request):
            _LOG.warning("a form of another site than the statistics page was refused, sent by %s", _who(request, user))
            return _plain(403, "This form is not of this page.")
        if self._steer is None or not user.is_admin:
            return self._back(wanted, "DENY")
        # Who is no browser and knows the password does what its own user wants.
        if (is_browser or asked.token is not None) and not self._users.is_token(user, asked.token or ""):
            return self._back(wanted, "DENY")
        snapshot = await self._picture()
        targets = list(form.found(asked, snapshot))
        if is_browser and not asked.is_confirmed and (says := form.warnings(asked, targets)):
            text = page.question(asked, [each[:2] for each in targets], says, here=self._here(wanted))
            return web.Response(text=text, headers={**_HEADERS, "Content-Type": page.CONTENT_TYPE})
        # Goes on to its end where the client leaves.
        task = asyncio.get_running_loop().create_task(self._carry_out(targets, _who(request, user)))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return self._back(wanted, form.code(asked, await asyncio.shield(task)))

    async def _carry_out(self, targets: Sequence[Found], by: str) -> int:
        """How many servers were changed."""
        assert self._steer is not None
        for number, each in enumerate(targets, 1):
            self._steer(each.change, by)
            if not number % _CHANGES:
                await asyncio.sleep(0)
        return len(targets)

    def _back(self, wanted: _Wanted, code: str) -> web.Response:
        location = self._here(wanted._replace(said=code))
        return _plain(303, "The page says what came of it.", location=location)

    def _here(self, wanted: _Wanted) -> str:
        return self._config.uri + wanted.flags()

    # Views

    async def _show(self, request: web.BaseRequest, wanted: _Wanted, user: User) -> web.StreamResponse:
        config = self._config
        if wanted.format is None:
            headers = {"Content-Type": page.CONTENT_TYPE}
            refresh = config.refresh if wanted.refreshes else None
            live = self._live
            if refresh is not None and live is None:
                headers["Refresh"] = str(max(round(refresh), 1))
            may_change = self._steer is not None and user.is_admin
            view = page.View(
                realm=config.realm,
                refresh=refresh,
                user=user.name,
                token=self._users.token(user) if may_change else None,
                here=self._here(wanted._replace(said="")),
                said=wanted.said,
                source=f"{config.uri};live" if live is not None else None,
                epoch=live.epoch if live is not None else "",
                drains=live.drains() if live is not None else (),
                recent=tuple(live.recent) if live is not None else (),
            )
            return await self._send(
                request, headers, lambda now: page.pieces(columns.narrowed(now, wanted.selection), view)
            )
        write = _WRITERS[wanted.format]
        type_ = columns.JSON_TYPE if wanted.format == "json" else columns.CSV_TYPE
        return await self._send(
            request,
            {"Content-Type": type_},
            lambda now: _together(write(columns.selected(now, wanted.selection))),
        )

    async def _measure(self, request: web.BaseRequest, query: str) -> web.StreamResponse:
        try:
            asked = metrics.Wanted.of(query)
        except ValueError as error:
            return _plain(400, str(error))
        type_ = metrics.content_type(request.headers.get("Accept", ""))
        headers = {"Content-Type": type_, "Vary": "Accept, Accept-Encoding"}
        is_zipped = coding.takes_gzip(request.headers.get("Accept-Encoding", ""))
        if is_zipped:
            headers["Content-Encoding"] = "gzip"
        return await self._send(
            request,
            headers,
            lambda now: metrics.pieces(now, asked, type_=type_, tables=self._tables),
            encode=coding.zipped if is_zipped else coding.encoded,
        )

    async def _picture(self) -> Snapshot:
        return await self._live.picture() if self._live is not None else self._snapshot()

    async def _tell(self, request: web.BaseRequest, limit: asyncio.Timeout) -> web.StreamResponse:
        """What changes, until the client leaves or reads too slowly."""
        listener = self._live.join() if self._live is not None else None
        if self._live is None or listener is None:
            return _plain(503, "Too many are being told already.")
        loop = asyncio.get_running_loop()
        try:
            response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
            response.force_close()
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            for piece in self._live.greeting():
                limit.reschedule(loop.time() + _READ_SECONDS)
                await asyncio.sleep(0)
                await response.write(piece)
            limit.reschedule(None)
            async for piece in listener.news():
                limit.reschedule(loop.time() + _READ_SECONDS)
                await response.write(piece)
                limit.reschedule(None)
            if listener.is_late:
                # What it has not read by now it never will.
                _reset(request.transport)
            else:
                limit.reschedule(loop.time() + _READ_SECONDS)
                await response.write_eof()
            return response
        finally:
            self._live.leave(listener)

    async def _send(
        self,
        request: web.BaseRequest,
        headers: Mapping[str, str],
        make: Callable[[Snapshot], Generator[str, None, None]],
        *,
        encode: Callable[[Generator[str, None, None]], Generator[bytes, None, None]] = coding.encoded,
    ) -> web.StreamResponse:
        """Answer with what `make` yields, as it is made."""
        async with self._answers:
            # Closed at once when the client leaves: else the exception would keep this frame, and that the snapshot.
            with closing(encode(make(await self._picture()))) as pieces:
                # Before the head is out an error can still be told.
                first = next(pieces, b"")
                response = web.StreamResponse(headers={**_HEADERS, **headers})
                response.force_close()
                await response.prepare(request)
                if request.method == "HEAD":
                    return response
                await response.write(first)
                for piece in pieces:
                    # Others have their turn after each piece, however fast this client reads.
                    await asyncio.sleep(0)
                    if piece:
                        await response.write(piece)
                await response.write_eof()
                return response


class _Wanted(NamedTuple):
    """What stands behind the page's URI, in HAProxy's words (src/stats.c, http_handle_stats): `;csv`, `;json`,
    `;typed`, `;up`, `;no-maint`, `;norefresh`, `;st=`, `?scope=` or `;scope=`."""

    format: str | None
    selection: Selection
    refreshes: bool
    is_live: bool
    said: str
    """A code of form.SAID."""

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
            "live" in words,
            next((word[3:] for word in words if word.startswith("st=") and word[3:] in form.SAID), ""),
        )

    def flags(self) -> str:
        """What stands behind the URI of the same view."""
        own = self.selection
        flags = {
            f"st={self.said}": bool(self.said),
            "up": own.hides_down,
            "no-maint": own.hides_maint,
            "norefresh": not self.refreshes,
            f"scope={quote(own.scope, safe='')}": bool(own.scope),
        }
        return "".join(f";{flag}" for flag, is_there in flags.items() if is_there)


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


def _is_browser(request: web.BaseRequest) -> bool:
    headers = request.headers
    return any(name in headers for name in _OF_BROWSERS) or headers.get("User-Agent", "").startswith("Mozilla/")


def _is_same_origin(request: web.BaseRequest) -> bool:
    """Whether a browser sends what a page of ours told it to, as far as it says. It says Sec-Fetch-Site to where it
    trusts the way (TLS, this host), Origin everywhere."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()


def _who(request: web.BaseRequest, user: User) -> str:
    """For the log: `admin at 192.0.2.1 (page)`."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    at = f" at {peer[0]}" if isinstance(peer, tuple) else ""
    return f"{printable(user.name) or 'somebody'}{at} (page)"


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
        headers["Allow"] = "GET, HEAD, POST"
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
