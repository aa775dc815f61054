"""Exchanges whose responses are changed on their way: compressed, as HAProxy's filter of that name does.

    server ── its framing off ── compressor, a piece in a turn of the loop ── chunks ── client

Where nobody asks for that, frontends have `Exchange` or `RoutedExchange`, and nothing here is run.
"""

from __future__ import annotations

import time

from balancer.proxy.compress import PIECE, Compression, Encoder
from balancer.proxy.exchange import Client, Exchange, HttpBackend, Step
from balancer.proxy.origin import ServerConnection
from balancer.proxy.route import RoutedExchange, Router
from balancer.wire.encoding import can_encode, encoded, varied
from balancer.wire.fields import with_fields, without_fields
from balancer.wire.framing import ChunkedReader
from balancer.wire.http1 import Request, Response

__all__ = ["FilteredExchange"]

_ACCEPT_ENCODING = frozenset((b"accept-encoding",))
_OVER = Step.OVER


class FilteredExchange(RoutedExchange):
    """An exchange of a frontend some of whose backends' responses are compressed."""

    __slots__ = (
        "_backlog", "_coding", "_ended", "_is_bypassed", "_is_due", "_memory", "_ready", "_trailers", "encoder",
    )  # fmt: skip

    def __init__(self, router: Router, client: Client, request: Request, began: float, parsed: float) -> None:
        super().__init__(router, client, request, began, parsed)
        self._coding: bytes | None = None
        self.encoder: Encoder | None = None
        self._memory = 0
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
            self._coding = compression.choose(self.asked)
            if compression.offload:
                section = self.request.section
                if b"accept-encoding:" in section.lower:
                    section = with_fields(section, without_fields(section.end_to_end, _ACCEPT_ENCODING))
                    self.request = Request(self.request.line, section, self.request.size)
        super()._go(to)

    # From the server

    def on_response(self, response: Response, data: bytes, connection: ServerConnection) -> None:
        response = self._by_rule(response)
        compression = self.to.compression
        if compression is not None and can_encode(response, compression.types, compression.least):
            coding = self._coding
            if coding is not None and self._take_encoder(compression, coding, response):
                self._begin_to_encode(response, encoded(response, coding), data, connection)
                return
            response = varied(response)
        Exchange.on_response(self, response, data, connection)

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

    def _begin_to_encode(self, response: Response, sent: Response, data: bytes, connection: ServerConnection) -> None:
        """`sent` is the response as the client gets it, in chunks."""
        size = response.size
        # The head alone: as far as the client goes, no octet of the content has come yet.
        Exchange.on_response(self, sent, data[:size], connection)
        connection.expect(response.body, payload_only=True)
        self._trailers = connection.chunks
        if len(data) > size:
            connection.on_body(data[size:])

    def pass_on(self, data: bytes) -> None:
        if self.encoder is None:
            if self._is_bypassed:
                self.frontend.gate.counters.comp_byp += len(data)
                self.to.backend.counters.comp_byp += len(data)
            super().pass_on(data)
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
        encoder = self.encoder
        if encoder is not None:
            if self._backlog:
                self._ended = True
                return
            began = time.perf_counter()
            end = encoder.finish()
            self._count(0, len(end), began)
            octets = self._ready + end
            trailers = self._trailers.trailers if self._trailers is not None else b""
            self._write(b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(octets), octets, trailers))
        super().response_complete(now)

    def _account(self, termination: str, status: int, now: float, *, why: str = "") -> None:
        if self.encoder is not None:
            compression = self.to.compression
            assert compression is not None
            compression.budget.used -= self._memory
            self.encoder = None
            self._backlog = self._ready = b""
        super()._account(termination, status, now, why=why)
