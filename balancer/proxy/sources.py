"""What one client address may take of a frontend: who has more is turned away (config.sources).

    ClientConnection ◄── LimitedClient ──┐             connections, before they take room
    Session          ◄── LimitedSession ─┼─► Limiter ──► pool.sources.Table
    Receiver         ◄── LimitedReceiver ┘             datagrams, as they are read
    Exchange         ◄── Refusal, made in its place for a request above the rate

A frontend without limits has none of these. What is refused counts too, as in HAProxy: who does not slow down stays
out. Refusals are logged, but only so many a second; the rest is a number.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from balancer.config import model
from balancer.config.sources import RequestLimit
from balancer.config.units import Rate
from balancer.pool.facts import Counters
from balancer.pool.records import HttpRecord
from balancer.pool.sources import CONNECTIONS, ERRORS, REQUESTS, Place, Table
from balancer.proxy.exchange import Client, Exchange, HttpBackend, HttpFrontend, Step
from balancer.proxy.http import ClientConnection
from balancer.proxy.match import Networks
from balancer.proxy.route import Router
from balancer.proxy.stream import Stream
from balancer.proxy.tcp import Half, Session, TcpFrontend, reset, source_key
from balancer.proxy.udp import Receiver
from balancer.wire.http1 import Request

__all__ = ["LimitedClient", "LimitedReceiver", "LimitedTcpFrontend", "Limiter", "RequestLimiter"]

# Records of refusals a second, of each frontend and worker: enough to see who it is, no disk is filled by it.
_RECORDS = 20
# Sources of which it is remembered whether they are exempt.
_MOST_KNOWN = 4096
_SECOND = 1.0

_Make = Callable[[Client, Request, float, float], Exchange]


class Limiter:
    """The limits of one frontend in this worker."""

    __slots__ = (
        "_connection_rate", "_connections", "_exempt", "_has_exempt", "_known", "_quota_at", "_records",
        "_request_rate", "_seen", "_table", "_unsaid", "name", "why_connections", "why_errors", "why_rate",
        "why_requests",
    )  # fmt: skip

    def __init__(self, name: str, frontend: model.Frontend, table: Table) -> None:
        limits = frontend.limits
        assert limits is not None
        self.name = name
        self._table = table
        self._connections = limits.connections
        self._connection_rate = limits.connection_rate
        self._request_rate = limits.request_rate.limit if limits.request_rate is not None else None
        # A proxy has many clients: these count, as far as it tells of them.
        self._exempt = Networks()
        self._has_exempt = bool(networks := limits.exempt + (frontend.trusted_proxies or ()))
        self._exempt.bit(networks)
        self._known: dict[str, bool] = {}
        self._quota_at = 0.0
        self._records = self._unsaid = self._seen = 0
        self.why_connections = f"more than {limits.connections} connections from there"
        self.why_rate = _why("connections", limits.connection_rate)
        self.why_requests = _why("requests", limits.request_rate)
        self.why_errors = _why("errors", limits.error_rate)

    def is_exempt(self, host: str) -> bool:
        """Whether this address is not counted."""
        if not self._has_exempt:
            return False
        is_exempt = self._known.get(host)
        if is_exempt is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            is_exempt = self._known[host] = bool(self._exempt.zone(host))
        return is_exempt

    def enter(self, host: str) -> tuple[Place | None, str]:
        """Count a connection from `host`: its place, for `leave`, and why it must go, if it must."""
        if self.is_exempt(host):
            return None, ""
        table, now, why = self._table, time.monotonic(), ""
        place = table.place(source_key(host), now)
        table.enter(place)
        rate, most = self._connection_rate, self._connections
        if rate is not None and table.hit(place, CONNECTIONS, now) > rate.most:
            why = self.why_rate
        if most is not None and table.connections(place) > most:
            why = self.why_connections
        return place, why

    def leave(self, place: Place) -> None:
        """The connection is gone."""
        self._table.leave(place, time.monotonic())

    def place(self, host: str, now: float) -> Place | None:
        """Of a source that has no connection here; None for one that is not counted."""
        return None if self.is_exempt(host) else self._table.place(source_key(host), now)

    def excess(self, place: Place, now: float, errors: Rate | None) -> str:
        """Count a request: why it must not pass, if it must not."""
        rate = self._request_rate
        if rate is not None and self._table.hit(place, REQUESTS, now) > rate.most:
            return self.why_requests
        if errors is not None and self._table.rate(place, ERRORS, now) > errors.most:
            return self.why_errors
        return ""

    def count_error(self, host: str) -> None:
        """A request of `host` was an error."""
        now = time.monotonic()
        place = self.place(host, now)
        if place is not None:
            self._table.hit(place, ERRORS, now)

    def takes(self, receiver: Receiver, client: bytes, now: float) -> bool:
        """Whether a datagram may pass."""
        if self._has_exempt and self.is_exempt(receiver.address(client)[0]):
            return True
        table, rate = self._table, self._request_rate
        assert rate is not None
        return table.hit(table.place(receiver.source(client), now), REQUESTS, now) <= rate.most

    # What is said of it

    def may_record(self) -> bool:
        """Whether a refusal may have a record of its own."""
        now = time.monotonic()
        if now >= self._quota_at:
            self._quota_at = now + _SECOND
            self._records = 0
        self._records += 1
        if self._records > _RECORDS:
            self._unsaid += 1
            return False
        return True

    def drop(self, count: int) -> None:
        """So many datagrams were refused; they have no records."""
        self._unsaid += count

    def tidy(self, now: float) -> list[str]:
        """What there is to say since the last time; to be called every few seconds."""
        table, said = self._table, []
        table.tidy(now)
        if self._unsaid:
            said.append(f"limits of frontend {self.name}: {self._unsaid} more refused than are in the log")
            self._unsaid = 0
        if table.forgotten > self._seen:
            lost = table.forgotten - self._seen
            self._seen = table.forgotten
            said.append(
                f"limits of frontend {self.name}: {lost} clients were forgotten for want of room, "
                f"table_size ({table.geometry.size}) is too small for so many"
            )
        return said


def _why(what: str, limit: Rate | RequestLimit | None) -> str:
    if limit is None:
        return ""
    rate = limit.limit if isinstance(limit, RequestLimit) else limit
    return f"more than {rate.most} {what} in {rate.period:g} s from there"


class LimitedClient(ClientConnection):
    """An HTTP client that is counted."""

    __slots__ = ("limiter", "place")

    def __init__(self, limiter: Limiter, frontend: HttpFrontend, *, accept_proxy: bool) -> None:
        super().__init__(frontend, accept_proxy=accept_proxy)
        self.limiter = limiter
        self.place: Place | None = None

    def connection_made(self, transport: Stream) -> None:
        peer = transport.get_extra_info("peername")
        if not self.accept_proxy and isinstance(peer, tuple):
            self.source = peer[:2]
            self.place, why = self.limiter.enter(peer[0])
            if why:
                # Before it takes room from others.
                transport.forget()
                reset(transport)
                self._leave()
                self.accepted = time.monotonic()
                _count_denied(self.frontend.gate.counters, self.frontend.gate.process)
                self._tell(why)
                return
        super().connection_made(transport)

    def _identify(self) -> None:
        if self.accept_proxy and self.source is not None:
            self.place, why = self.limiter.enter(self.source[0])
            if why:
                self.frontend.gate.counters.dses += 1
                self._tell(why)
                if self.transport is not None:
                    reset(self.transport)
                self.shut()
                return
        super()._identify()

    def _tell(self, why: str) -> None:
        if self.limiter.may_record():
            self._log_unread("PR", -1, why)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._leave()

    def _leave(self) -> None:
        if self.place is not None:
            self.limiter.leave(self.place)
            self.place = None


def _count_denied(*rows: Counters) -> None:
    for counters in rows:
        counters.conn_tot += 1
        counters.dcon += 1


class RequestLimiter:
    """Makes the exchanges of a frontend: `make`'s, or refusals.

    `router` tells who asks, where trusted proxies tell of their clients; `nowhere` stands for the backend of what
    goes to none.
    """

    __slots__ = ("_errors", "_limiter", "_make", "_of_errors", "_of_requests", "_router", "nowhere")

    def __init__(
        self, limiter: Limiter, frontend: model.Frontend, make: _Make, router: Router | None, nowhere: HttpBackend
    ) -> None:
        limits = frontend.limits
        assert limits is not None
        self._limiter = limiter
        self._make = make
        self._router = router if frontend.trusted_proxies is not None else None
        self._of_requests, self._of_errors = limits.request_rate, limits.error_rate
        self._errors = limits.error_rate.limit if limits.error_rate is not None else None
        self.nowhere = nowhere

    @property
    def is_needed(self) -> bool:
        """Whether requests are limited at all, or connections alone."""
        return self._of_requests is not None or self._of_errors is not None

    def __call__(self, client: Client, request: Request, began: float, parsed: float) -> Exchange:
        limiter, router = self._limiter, self._router
        place = cast(LimitedClient, client).place
        if router is not None:
            source = router.asker(request, client.source)
            if source is not None and source != client.source:
                place = limiter.place(source[0], parsed)
        if place is not None:
            why = limiter.excess(place, parsed, self._errors)
            if why:
                limit = self._of_requests if why is limiter.why_requests else self._of_errors
                assert limit is not None
                return Refusal(self.nowhere, limit, why, client, request, began, parsed)
        return self._make(client, request, began, parsed)

    def log(self, write: Callable[[HttpRecord], None] | None) -> Callable[[HttpRecord], None] | None:
        """Takes the records of the frontend, and has `write` take them: they tell of errors, and of refusals."""
        if self._of_errors is None and write is None:
            return None
        limiter, counts_errors = self._limiter, self._of_errors is not None
        # A limit that there is none of has no reason, as most records have none.
        refusals = {limiter.why_requests, limiter.why_errors} - {""}

        def note(record: HttpRecord) -> None:
            # As HAProxy counts them (http_err_cnt): what is malformed, cut off, denied or answered 4xx.
            status = record.status
            if counts_errors and record.client != "unix" and (400 <= status < 500 or record.termination[1] == "R"):
                limiter.count_error(record.client)
            if write is not None and (record.why not in refusals or limiter.may_record()):
                write(record)

        return note


class Refusal(Exchange):
    """A request above the rate: its answer, at once or after a while."""

    __slots__ = ("_limit", "_nowhere", "_why", "is_held")

    def __init__(
        self,
        nowhere: HttpBackend,
        limit: RequestLimit,
        why: str,
        client: Client,
        request: Request,
        began: float,
        parsed: float,
    ) -> None:
        super().__init__(client, request, began, parsed)
        self.to = nowhere
        self.is_held = False
        self._limit = limit
        self._why = why

    def begin(self) -> None:
        self.frontend.gate.counters.dreq += 1
        if self.request.section.body:
            self.step = Step.UPLOADING
        if self._limit.tarpit is None:
            self._refuse("PR")
            return
        self.is_held = True
        self.client.deadline = self.frontend.clock.now + self._limit.tarpit

    def _refuse(self, termination: str) -> None:
        limit = self._limit
        seconds = max(1, round(limit.retry_after if limit.retry_after is not None else limit.limit.period))
        added = b"retry-after: %d\r\n" % seconds
        self._reply(limit.status, self._why, termination, partial(self.to.replies.reply, added=added))

    def expire(self, now: float) -> None:
        if self.is_held:
            self._refuse("PT")
        else:
            super().expire(now)

    def _record(self, termination: str, status: int, total: int, why: str) -> HttpRecord:
        """A tarpit's time is Tw, and TR is not told (HAProxy's configuration manual, section 8.5: PT)."""
        record = super()._record(termination, status, total, why)
        return record._replace(tr_request=-1, tw=total) if self.is_held else record

    def _phase_letter(self) -> str:
        return "T" if self.is_held else super()._phase_letter()


@dataclass(frozen=True, kw_only=True)
class LimitedTcpFrontend(TcpFrontend):
    """A frontend of mode tcp whose clients are counted."""

    limiter: Limiter

    def accept(self, *, accept_proxy: bool) -> Half:
        return LimitedSession(self, accept_proxy=accept_proxy).client


class LimitedSession(Session):
    """A TCP session whose client is counted."""

    __slots__ = ("is_refused", "limiter", "place")

    def __init__(self, frontend: LimitedTcpFrontend, *, accept_proxy: bool) -> None:
        super().__init__(frontend, accept_proxy=accept_proxy)
        self.limiter = frontend.limiter
        self.place: Place | None = None
        self.is_refused = False

    def made(self, half: Half) -> None:
        transport = half.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        if half is self.client and not self.accept_proxy and transport is not None and isinstance(peer, tuple):
            self.place, why = self.limiter.enter(peer[0])
            if why:
                self.source = peer[:2]
                self.began = time.monotonic()
                transport.forget()
                reset(transport)
                self._leave()
                _count_denied(self.frontend.gate.counters, self.frontend.gate.process)
                self.termination, self.why, self.done = "PR", why, True
                self._tell()
                self.client.forget()
                self.server_half.forget()
                return
        super().made(half)

    def _start(self) -> None:
        if self.accept_proxy and self.source is not None:
            self.place, why = self.limiter.enter(self.source[0])
            if why:
                self.started = self.is_refused = True
                self._give_up("PR", why)
                return
        super()._start()

    def _account(self) -> None:
        if not self.is_refused:
            super()._account()
            return
        self.frontend.gate.counters.dses += 1
        self._tell()

    def _tell(self) -> None:
        log = self.frontend.log
        if log is not None and self.limiter.may_record():
            log(self._record(0))

    def lost(self, half: Half, exc: Exception | None) -> None:
        is_client = half is self.client
        super().lost(half, exc)
        if is_client:
            self._leave()

    def _leave(self) -> None:
        if self.place is not None:
            self.limiter.leave(self.place)
            self.place = None


class LimitedReceiver(Receiver):
    """A socket that lets through what is within the limit."""

    def __init__(self, limiter: Limiter, counters: Counters, sock: socket.socket) -> None:
        super().__init__(sock)
        self._limiter = limiter
        self._counters = counters

    def receive(self) -> list[tuple[bytes, bytes]]:
        datagrams = super().receive()
        takes, now = self._limiter.takes, time.monotonic()
        left = [datagram for datagram in datagrams if takes(self, datagram[1], now)]
        refused = len(datagrams) - len(left)
        if refused:
            self._counters.dreq += refused
            self._counters.udp_dropped += refused
            self._limiter.drop(refused)
        return left
