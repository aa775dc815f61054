"""The table, and h11 as second opinion on it: what goes on is one message with the bounds that we see in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.errors import BadRequest, BadResponse, ProtocolError
from balancer.wire import rewrite
from balancer.wire.framing import ChunkedReader
from balancer.wire.http1 import CHUNKED, UNTIL_CLOSE, Limits, Request, Response, parse_request, parse_response
from balancer.wire.strictness import REQUESTS, RESPONSES, Fate, Row

LIMITS = Limits(head=65536, uri=16384, fields=200)
REQUEST_ROWS = pytest.mark.parametrize("row", REQUESTS, ids=[row.name for row in REQUESTS])
RESPONSE_ROWS = pytest.mark.parametrize("row", RESPONSES, ids=[row.name for row in RESPONSES])


def test_the_table_is_in_order() -> None:
    rows = REQUESTS + RESPONSES
    assert len(rows) >= 225
    assert len({row.name for row in rows}) == len(rows)
    assert len({(row.octets, row.method) for row in rows}) == len(rows)
    for row in rows:
        assert re.fullmatch(r"(?:9110|9112|9113|6265) [0-9]+(?:\.[0-9]+)*(?:; [\w. -]+)?", row.clause), row.clause
        assert (row.status != 0) == (row.fate is Fate.REFUSED)
        assert row.closes or row.fate is Fate.PASSED
        if row.fate is Fate.PASSED:
            assert row.passed


# One message at the beginning of some octets, as we and as h11 read it: what it is, its content, and what is left of
# the octets. None where it is not complete, or refused.
Message = tuple[Any, bytes, bytes]


def our_body(body: int, data: bytes, error: type[ProtocolError]) -> tuple[bytes, bytes, bytes] | None:
    """What goes on of it, its content, and what is left."""
    if body == CHUNKED:
        reader, content = ChunkedReader(error), ChunkedReader(error, payload_only=True)
        goes_on, plain = reader.feed(data), content.feed(data)
        assert (reader.done, reader.rest) == (content.done, content.rest)
        return (goes_on, plain, reader.rest) if reader.done else None
    if body == UNTIL_CLOSE:
        return data, data, b""
    return (data[:body], data[:body], data[body:]) if len(data) >= body else None


def our_request(data: bytes) -> tuple[Message, bytes] | None:
    """The message, and what goes on of it."""
    try:
        request = parse_request(data, LIMITS)
        if request is None:
            return None
        read = our_body(request.section.body, data[request.size :], BadRequest)
    except BadRequest:
        return None
    if read is None:
        return None
    body, content, rest = read
    line = request.line
    return ((line.method, line.target), content, rest), rewrite.request_head(request) + body


def our_response(data: bytes, method: bytes) -> tuple[Message, bytes] | None:
    """The final response, and what goes on of it and of the interim ones before."""
    passed = b""
    try:
        while True:
            response = parse_response(data, LIMITS, method)
            if response is None or response.status == 101:
                return None
            data = data[response.size :]
            if response.status >= 200:
                break
            passed += rewrite.response_head(response, keep_alive=True)
        read = our_body(response.body, data, BadResponse)
    except BadResponse:
        return None
    if read is None:
        return None
    body, content, rest = read
    head = rewrite.response_head(response, keep_alive=response.body != UNTIL_CLOSE)
    return (response.status, content, rest), passed + head + body


def their_request(data: bytes, *, left: bool = True) -> Message | None:
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    return their(conn, data, left=left)


def their_response(data: bytes, method: bytes, *, left: bool = True) -> Message | None:
    conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    conn.send(h11.Request(method=method, target="/", headers=[("Host", "t")]))
    conn.send(h11.EndOfMessage())
    return their(conn, data, left=left)


def their(conn: h11.Connection, data: bytes, *, left: bool) -> Message | None:
    conn.receive_data(data)
    what: Any = None
    content = b""
    try:
        while True:
            event = conn.next_event()
            if isinstance(event, h11.Request):
                what = (event.method, event.target)
            elif isinstance(event, h11.Response):
                what = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return what, content, conn.trailing_data[0]
            elif event is h11.NEED_DATA:
                if not left:
                    return None
                # Until its end, perhaps.
                left = False
                conn.receive_data(b"")
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


@REQUEST_ROWS
def test_h11_reads_one_request_in_what_goes_on(row: Row) -> None:
    ours = our_request(row.octets)
    if row.fate is not Fate.PASSED:
        assert ours is None
        assert their_request(row.passed) is None, "what went on before it was refused must not look complete"
        return
    assert ours is not None
    (what, content, rest), passed = ours
    assert rest == b""
    assert passed == row.passed
    assert their_request(passed, left=False) == (what, content, b"")
    # With something behind it too.
    assert their_request(passed + b"GET /next HTTP/1.1\r\n", left=False) == (what, content, b"GET /next HTTP/1.1\r\n")


@REQUEST_ROWS
def test_what_h11_refuses_is_refused_or_becomes_what_it_takes(row: Row) -> None:
    if row.fate is Fate.PASSED and their_request(row.octets) is None:
        assert row.passed != row.octets


@RESPONSE_ROWS
def test_h11_reads_one_response_in_what_goes_on(row: Row) -> None:
    ours = our_response(row.octets, row.method)
    if row.fate is Fate.PASSED:
        assert ours is not None
        (what, content, rest), passed = ours
        assert passed == row.passed
        assert their_response(passed, row.method) == (what, content, b"")
        # Nothing more is taken where something is left.
        assert rest == b"" or row.closes
    elif row.name not in ("r_1xx_flood", "r_101_unasked"):
        # It takes a connection to be asked for nothing, and to have been told sixteen times to wait.
        assert ours is None
        assert row.passed == b"" or their_response(row.passed, row.method) is None


def in_pieces(parse: Callable[[bytes, int], Any], error: type[ProtocolError], pieces: list[bytes]) -> object:
    """What of the first message's head and body goes on, however it arrives; "refused" if it is."""
    head, reader, passed = b"", None, b""
    searched = left = 0
    try:
        for piece in pieces:
            data = piece
            if reader is None and not left:
                head += piece
                message = parse(head, searched)
                if message is None:
                    searched = len(head)
                    continue
                data = head[message.size :]
                head, searched = b"", 0
                body = message.section.body if isinstance(message, Request) else message.body
                passed += b"|" + repr(message).encode() + b"|"
                reader = ChunkedReader(error) if body == CHUNKED else None
                left = {CHUNKED: 0, UNTIL_CLOSE: 1 << 30}.get(body, body)
            if reader is not None:
                passed += reader.feed(data)
            else:
                passed += data[:left]
                left -= len(data[:left])
            if not left and (reader is None or reader.done):
                return passed
    except ProtocolError:
        return "refused"
    return passed, head


@pytest.mark.parametrize("row", [row for row in REQUESTS + RESPONSES if len(row.octets) < 400], ids=lambda it: it.name)
def test_a_message_cut_in_two_at_any_octet_is_the_same(row: Row) -> None:
    def parse(data: bytes, searched: int) -> Request | Response | None:
        if row in REQUESTS:
            return parse_request(data, LIMITS, searched)
        return parse_response(data, LIMITS, row.method, searched)

    error = BadRequest if row in REQUESTS else BadResponse
    whole = in_pieces(parse, error, [row.octets])
    for at in range(1, len(row.octets)):
        assert in_pieces(parse, error, [row.octets[:at], row.octets[at:]]) == whole, at


# Streams of messages, most of them damaged.

SHORT_REQUESTS = [row.octets for row in REQUESTS if len(row.octets) < 300]
SHORT_RESPONSES = [row.octets for row in RESPONSES if len(row.octets) < 300]
OCTETS = st.sampled_from(b'\0\t\n\r :,;"#%+-05aZ_\x7f\x80\xa0\xff')
PARTS = st.sampled_from([
    b"\r\n", b"\n", b"\r", b" ", b": ", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"\r\n\r\n", b"0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: x\r\n", b"Connection: close\r\n", b"Host: t\r\n",
    b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0", b"5\r\nhello\r\n", b"Upgrade: x\r\n",
])  # fmt: skip


@st.composite
def streams(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(messages), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "part"]))
        if kind == "replace":
            data[at : at + 1] = bytes([draw(OCTETS)])
        elif kind == "insert":
            data.insert(at, draw(OCTETS))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 4))]
        else:
            data[at:at] = draw(PARTS)
    return bytes(data)


@settings(max_examples=1500, deadline=None)
@given(streams(SHORT_REQUESTS))
def test_h11_sees_the_bounds_of_requests_where_we_see_them(data: bytes) -> None:
    while (ours := our_request(data)) is not None:
        message, passed = ours
        what, content, rest = message
        # What the server gets is this one message and nothing besides.
        assert their_request(passed, left=False) == (what, content, b"")
        # Where h11 takes what the client sent, it ends where we say.
        theirs = their_request(data.lstrip(b"\r\n"), left=False)
        assert theirs is None or theirs[1:] == (content, rest)
        data = rest


@settings(max_examples=1500, deadline=None)
@given(streams(SHORT_RESPONSES), st.sampled_from([b"GET", b"GET", b"POST", b"HEAD"]))
def test_h11_sees_the_bounds_of_responses_where_we_see_them(data: bytes, method: bytes) -> None:
    while (ours := our_response(data, method)) is not None:
        message, passed = ours
        what, content, rest = message
        assert their_response(passed, method) == (what, content, b"")
        theirs = their_response(data, method)
        assert theirs is None or theirs == (what, content, rest)
        data = rest
