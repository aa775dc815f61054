"""Exchanges whose responses are kept and compressed on their way, as HAProxy's filters of these names do.

    server ── its framing off ── cache ── rules ── compressor, a piece in a turn of the loop ── chunks ── client

What is kept is what the server said. The rules for responses, and then compression, come between server or cache and
the client. Where nobody asks for any of this, frontends have `Exchange` or `RoutedExchange`, and nothing here is run.
"""

from __future__ import annotations

import asyncio
import time

from balancer.pool.records import HttpRecord
from balancer.pool.sticky import NO_COOKIE
from balancer.proxy.cache import Cache, Capture, Entry, Key, Question
from balancer.proxy.compress import PIECE, Compression, Encoder
from balancer.proxy.exchange import Client, Exchange, HttpBackend, Step
from balancer.proxy.origin import ServerConnection
from balancer.proxy.route import RoutedExchange, Router
from balancer.proxy.sweep import NEVER
from balancer.wire import caching, rewrite
from balancer.wire.encoding import can_encode, encoded, varied, weakened
from balancer.wire.fields import with_fields, without_fields
from balancer.wire.framing import ChunkedReader
from balancer.wire.http1 import CHUNKED, Request, Response

__all__ = ["FilteredExchange"]

_ACCEPT_ENCODING = frozenset((b"accept-encoding",))
# Seconds for which one waits for what another one asks for (nginx: proxy_cache_lock_timeout).
_LONGEST_WAIT = 5.0
# RFC 9110 section 9.2.1.
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
_NOT_MODIFIED = 304
_UPLOADING, _OVER = Step.UPLOADING, Step.OVER


class FilteredExchange(RoutedExchange):
    """An exchange of a frontend some of whose backends' responses are kept or compressed."""

    __slots__ = (
        "_backlog", "_capture", "_coding", "_ended", "_is_bypassed", "_is_due", "_is_framed", "_is_from_cache",
        "_leads", "_memory", "_outdated", "_patience", "_question", "_ready", "_trailers", "encoder",
    )  # fmt: skip

    def __init__(self, router: Router, client: Client, request: Request, began: float, parsed: float) -> None:
        super().__init__(router, client, request, began, parsed)
        self._coding: bytes | None = None
        self.encoder: Encoder | None = None
        self._memory = 0
        # The content comes without its framing, and goes on in chunks of ours.
        self._is_framed = False
        self._question: Question | None = None
        self._capture: Capture | None = None
        # What this request changes on the server, if it succeeds.
        self._outdated: Key | None = None
        self._is_from_cache = False
        # Others wait for what we ask for.
        self._leads = False
        # Until when we wait for what another one asks for.
        self._patience: asyncio.TimerHandle | None = None
        # Of a chunked response: where its trailers will be found.
        self._trailers: ChunkedReader | None = None
        # Content that waits for its turn to be compressed; the server is not read from meanwhile.
        self._backlog = b""
        self._is_due = self._is_bypassed = False
        # The server's response is complete, but not yet ours.
        self._ended = False
        # Compressed, and to be written with the end.
        self._ready = b""

    # Towards a server

    def _go(self, to: HttpBackend) -> None:
        compression = to.compression
        if compression is not None:
            # As the rules for requests leave it, so that they can turn it off.
            self._coding = compression.choose(self.request)
            if compression.offload:
                section = self.request.section
                if b"accept-encoding:" in section.lower:
                    section = with_fields(section, without_fields(section.end_to_end, _ACCEPT_ENCODING))
                    self.request = Request(self.request.line, section, self.request.size)
        if to.cache is None or not self._ask(to, to.cache):
            super()._go(to)

    # From the cache

    def _ask(self, to: HttpBackend, cache: Cache) -> bool:
        """Whether the answer comes from the cache. The key is of the request as the server would get it."""
        line, section = self.request.line, self.request.section
        key = (section.host, line.target)
        if line.method not in _SAFE:
            self._outdated = key
        if line.method not in (b"GET", b"HEAD") or section.body or section.upgrade or not line.minor:
            return False
        if caching.hides_fields(self.asked.section):
            return False
        wish = caching.wish(section)
        question = Question(key, wish, self.asked.section, section, is_https=self.is_https)
        if line.method == b"GET":
            self._question = question
        self.to = to
        found = None
        if wish.may_use:
            front, back = self.frontend.gate.counters, to.backend.counters
            front.cache_lookups += 1
            back.cache_lookups += 1
            found = cache.find(question, self.frontend.clock.wall)
            if found is not None:
                front.cache_hits += 1
                back.cache_hits += 1
                self._answer_from(found)
                return True
        if wish.only_if_cached:
            # RFC 9111 section 5.2.1.7.
            self._answer(504, "not in the cache", "LR")
            return True
        if self._question is None or not wish.may_use or not wish.may_store:
            return False
        # What has a condition may be answered 304, which is for nobody else.
        is_asked = cache.is_asked(question, self, leads=b"if-" not in section.lower)
        if is_asked:
            self.client.deadline = NEVER
            self._patience = self.frontend.loop.call_later(_LONGEST_WAIT, self._wait_no_more)
            return True
        self._leads = is_asked is False
        return False

    def _wait_no_more(self) -> None:
        question, cache = self._question, self.to.cache
        assert question is not None and cache is not None
        cache.leave(question, self)
        self.go_on(leads=False)

    def go_on(self, *, leads: bool) -> None:
        question, cache = self._question, self.to.cache
        assert question is not None and cache is not None and self._patience is not None
        self._patience.cancel()
        self._patience = None
        self._leads = leads
        # Not from here: whoever tells us so is in the middle of something, and many wait.
        self.frontend.loop.call_soon(self._ask_again)

    def _ask_again(self) -> None:
        question, cache, to = self._question, self.to.cache, self.to
        if self.step is _OVER or question is None or cache is None:
            return
        found = cache.find(question, self.frontend.clock.wall)
        if found is None:
            super()._go(to)
            return
        self.frontend.gate.counters.cache_hits += 1
        to.backend.counters.cache_hits += 1
        if self._leads:
            # Nobody would tell those who wait for us.
            self._leads = False
            cache.let_in(question)
        self._answer_from(found)

    def _answer_from(self, entry: Entry) -> None:
        """Deliver an object, in the coding that the client wants most."""
        self._is_from_cache = True
        self._question = None
        response = self._by_rule(entry.response)
        compression, coding = self.to.compression, self._coding
        if compression is None or not can_encode(response, compression.types, compression.least):
            self._deliver(entry, response, entry.body)
            return
        if coding is not None and self.request.line.method == b"GET":
            octets = entry.encoded.get(coding)
            if octets is not None:
                self._deliver(entry, entry.head(response, coding, len(octets)), octets)
                return
            if self._take_encoder(compression, coding, response):
                self.client.deadline = NEVER
                self._backlog = entry.body
                self._prepare(entry, response, coding)
                return
        self._deliver(entry, entry.head(response, b"", len(entry.body)), entry.body)

    def _prepare(self, entry: Entry, response: Response, coding: bytes) -> None:
        """Compress an object, and deliver it when that is done."""
        encoder, cache = self.encoder, self.to.cache
        if self.step is _OVER or encoder is None or cache is None:
            return
        data, self._backlog = self._backlog[:PIECE], self._backlog[PIECE:]
        began = time.perf_counter()
        octets = encoder.feed(data)
        if not self._backlog:
            octets += encoder.finish()
        self._count(len(data), len(octets), began)
        self._ready += octets
        if self._backlog:
            self.frontend.loop.call_soon(self._prepare, entry, response, coding)
            return
        octets = self._ready
        cache.keep_encoded(entry, coding, octets)
        self._deliver(entry, encoded(response, coding, len(octets)), octets)

    def _deliver(self, entry: Entry, response: Response, body: bytes) -> None:
        client, frontend, request = self.client, self.frontend, self.request
        now = self.head_time = time.monotonic()
        self.connect_time = self.parsed
        if self.to.persistence is not None:
            self.choice = NO_COOKIE
        if caching.is_not_modified(request.section, response):
            response = caching.not_modified(response)
            body = b""
        elif request.line.method == b"HEAD":
            body = b""
        keep_alive = (
            request.section.keep_alive and (not client.eof or client.buffer != b"") and not frontend.gate.stopping
        )
        self.response = response
        age = b"Age: %d\r\n" % entry.fresh.age_at(frontend.clock.wall)
        self._write(rewrite.response_head(response, added=age, keep_alive=keep_alive))
        if body:
            # Not copied: whoever reads slowly holds on to the object, and to no octets of its own.
            self._write(body)
        self._account("LR", response.status, now)
        client.exchange_over(keep_alive=keep_alive, now=now)

    def _record(self, termination: str, status: int, total: int, why: str) -> HttpRecord:
        record = super()._record(termination, status, total, why)
        return record._replace(server="<CACHE>", tw=0) if self._is_from_cache else record

    # From the server

    def on_response(self, response: Response, data: bytes, connection: ServerConnection) -> None:
        cache = self.to.cache
        if cache is not None:
            self._look_at(cache, response)
        response = self._by_rule(response)
        compression = self.to.compression
        if compression is not None and can_encode(response, compression.types, compression.least):
            coding = self._coding
            if coding is not None and self._take_encoder(compression, coding, response):
                self._begin(response, encoded(response, coding), data, connection)
                return
            response = varied(response)
        elif response.status == _NOT_MODIFIED and self._coding is not None:
            response = weakened(response, self.request.section)
        capture = self._capture
        if capture is not None:
            if response.body == CHUNKED:
                self._begin(response, response, data, connection)
                return
            if len(data) - response.size == response.body:
                # Nobody will pass it on.
                self._keep(capture, data[response.size :])
        Exchange.on_response(self, response, data, connection)

    def _look_at(self, cache: Cache, response: Response) -> None:
        """What the server says, for the cache."""
        if self._outdated is not None and 200 <= response.status < 400:
            cache.invalidate(self._outdated)
        if self._question is not None:
            frontend = self.frontend
            self._capture = cache.begin(
                self._question,
                response,
                untold=frontend.forwarded_for.lower if frontend.forwarded_for is not None else b"",
                now=frontend.clock.wall,
                delay=time.monotonic() - self.connect_time,
            )
            if self._capture is None:
                self._tell_others(cache)

    def _keep(self, capture: Capture, data: bytes) -> None:
        cache = self.to.cache
        if not capture.add(data) and cache is not None:
            self._capture = None
            self._tell_others(cache)

    def _tell_others(self, cache: Cache) -> None:
        """Who waits for this answer would wait in vain."""
        if self._leads and self._question is not None:
            self._leads = False
            cache.pass_by(self._question)

    def _take_encoder(self, compression: Compression, coding: bytes, response: Response) -> bool:
        """Whether compressing is begun; not where it costs too much already."""
        taken = compression.encoder(coding)
        front, back = self.frontend.gate.counters, self.to.backend.counters
        if taken is None:
            # Of what comes in chunks nobody knows the length yet.
            self._is_bypassed = response.body < 0
            front.comp_byp += max(response.body, 0)
            back.comp_byp += max(response.body, 0)
            return False
        self.encoder, self._memory = taken
        front.comp_rsp += 1
        back.comp_rsp += 1
        return True

    def _begin(self, response: Response, sent: Response, data: bytes, connection: ServerConnection) -> None:
        """`sent` is the response as the client gets it, in chunks."""
        self._is_framed = True
        size = response.size
        # The head alone: as far as the client goes, no octet of the content has come yet.
        Exchange.on_response(self, sent, data[:size], connection)
        connection.expect(response.body, payload_only=True)
        self._trailers = connection.chunks
        if len(data) > size:
            connection.on_body(data[size:])

    def pass_on(self, data: bytes) -> None:
        capture = self._capture
        if capture is not None:
            self._keep(capture, data)
        if self.encoder is None:
            if self._is_bypassed:
                self.frontend.gate.counters.comp_byp += len(data)
                self.to.backend.counters.comp_byp += len(data)
            super().pass_on(b"%x\r\n%b\r\n" % (len(data), data) if self._is_framed else data)
            return
        if self._backlog:
            self._backlog += data
            return
        if len(data) > PIECE:
            data, self._backlog = data[:PIECE], data[PIECE:]
            connection = self.connection
            assert connection is not None
            if not connection.transport.is_closing():
                connection.transport.pause_reading()
            self._soon()
        self._encode(data)

    def _encode(self, data: bytes) -> None:
        """A piece of the content goes to the client: all of it, since nobody knows when the next one comes."""
        encoder, connection = self.encoder, self.connection
        assert encoder is not None and connection is not None
        began = time.perf_counter()
        octets = encoder.feed(data)
        reader = self._trailers
        is_last = not self._backlog and (reader.done if reader is not None else not connection.left)
        if not is_last:
            octets += encoder.flush()
        self._count(len(data), len(octets), began)
        self.client.deadline = self.frontend.clock.now + self.to.server_timeout
        if is_last:
            self._ready = octets
        elif octets:
            # An empty chunk would be the last.
            self._write(b"%x\r\n%b\r\n" % (len(octets), octets))

    def _count(self, came: int, went: int, began: float) -> None:
        compression = self.to.compression
        assert compression is not None
        compression.budget.spend(time.perf_counter() - began)
        for counters in (self.frontend.gate.counters, self.to.backend.counters):
            counters.comp_in += came
            counters.comp_out += went

    def _write(self, octets: bytes) -> None:
        self.bytes_out += len(octets)
        self.client.write(octets)

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self.frontend.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The next piece of what has come at once."""
        self._is_due = False
        if self.step is _OVER or self.client.write_paused or not self._backlog:
            return
        data, self._backlog = self._backlog[:PIECE], self._backlog[PIECE:]
        self._encode(data)
        if self._backlog:
            self._soon()
            return
        connection = self.connection
        assert connection is not None
        is_closing = connection.transport.is_closing()
        if self._ended:
            # Closed by the server after its response: nobody else's.
            connection.has_more = connection.has_more or is_closing
        if not is_closing and (self._ended or not self.client.write_paused):
            connection.transport.resume_reading()
        if self._ended:
            self.response_complete(time.monotonic())

    def hold_response(self) -> None:
        connection = self.connection
        if connection is None or not connection.transport.is_closing():
            super().hold_response()

    def resume_response(self) -> None:
        if self._backlog:
            self._soon()
            self.touch()
        else:
            super().resume_response()

    def response_complete(self, now: float) -> None:
        capture, encoder, cache = self._capture, self.encoder, self.to.cache
        if capture is not None and cache is not None:
            self._capture = None
            cache.store(capture)
            if self._leads and self._question is not None:
                self._leads = False
                cache.let_in(self._question)
        if self._backlog:
            self._ended = True
            if self.step is _UPLOADING:
                # It may have closed by now, and will not want the rest.
                self.client.hold()
            return
        if self._is_framed:
            trailers = self._trailers.trailers if self._trailers is not None else b""
            if encoder is not None:
                began = time.perf_counter()
                end = encoder.finish()
                self._count(0, len(end), began)
                octets = self._ready + end
                self._write(b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(octets), octets, trailers))
            else:
                self._write(b"0\r\n%b\r\n" % trailers)
        super().response_complete(now)

    def _account(self, termination: str, status: int, now: float, *, why: str = "") -> None:
        question, cache = self._question, self.to.cache
        if question is not None and cache is not None:
            self._question = None
            if self._capture is not None:
                self._capture.drop()
                self._capture = None
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
                cache.leave(question, self)
            elif self._leads:
                self._leads = False
                cache.give_up(question)
        if self.encoder is not None:
            compression = self.to.compression
            assert compression is not None
            compression.budget.used -= self._memory
            self.encoder = None
            self._backlog = self._ready = b""
        super()._account(termination, status, now, why=why)
