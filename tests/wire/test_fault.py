from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import BadRequest, BadResponse
from balancer.wire.fault import body_fault, request_fault, response_fault
from balancer.wire.http1 import Limits, parse_request, parse_response
from balancer.wire.strictness import REQUESTS, RESPONSES, Fate

LIMITS = Limits(head=65536, uri=16384, fields=200)


@pytest.mark.parametrize(
    ("octets", "position"),
    [
        (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 5),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 4),
        (b"GET / HTTP/1.x\r\nHost: a\r\n\r\n", 6),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (b"\r\nGET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 6),
        (b"GET / HTTP/1.1\r\nA b: c\r\nHost: a\r\n\r\n", 17),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 25),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x00c\r\n\r\n", 29),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n", 29),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost:  b\r\n\r\n", 32),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nHost: a\r\nContent-Length: 2\r\nB: c\r\n\r\n", 60),
        (b"GET / HTTP/1.1\r\nContent-Length: 1x\r\nHost: a\r\n\r\n", 32),
        (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 22),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 25),
    ],
)  # fmt: skip
def test_where_a_request_is_wrong(octets: bytes, position: int) -> None:
    assert request_fault(octets, LIMITS) == position
    assert request_fault(octets + b"more \x01\x02", LIMITS) == position


@pytest.mark.parametrize(
    ("octets", "position"),
    [
        (b"HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 2\r\n\r\nok", 18),
        (b"HTTP/1.1 200 O\x00K\r\n\r\n", 14),
        (b"SSH-2.0-x\r\n", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 52),
        (b"HTTP/1.1 200 OK\r\nA: b\x01\r\n", 21),
    ],
)
def test_where_a_response_is_wrong(octets: bytes, position: int) -> None:
    assert response_fault(octets, LIMITS, b"GET") == position


def test_where_chunks_are_wrong() -> None:
    assert body_fault(b"head3\r\nabc\r\nzz\r\n", 4, BadRequest) == 4 + 8
    assert body_fault(b"head3\r\nabcd\r\n", 4, BadRequest) == 4 + 6
    assert body_fault(b"head3\r\nabc\r\n", 4, BadRequest) == 4, "what went before was wrong"


def test_each_refusal_has_its_place() -> None:
    for row in REQUESTS:
        if row.fate is Fate.REFUSED:
            assert 0 <= request_fault(row.octets, LIMITS) <= len(row.octets), row.name
    for row in RESPONSES:
        if row.fate is Fate.REFUSED:
            assert 0 <= response_fault(row.octets, LIMITS, row.method) <= len(row.octets), row.name


HEADS = st.lists(
    st.sampled_from(
        [b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: a", b"A: b", b"Content-Length: 1", b":",
         b"\x00", b"Transfer-Encoding: chunked", b"HTTP/1.1 200 OK", b"\t", b"1", b"\xff"]
    )
    | st.binary(max_size=3),
    max_size=30,
).map(b"".join)  # fmt: skip


@given(HEADS)
def test_whatever_was_refused_has_a_place_in_it(octets: bytes) -> None:
    assert 0 <= request_fault(octets, LIMITS) <= len(octets)
    assert 0 <= response_fault(octets, LIMITS, b"GET") <= len(octets)
    for error in (BadRequest, BadResponse):
        assert 0 <= body_fault(octets, 0, error) <= len(octets)


@given(HEADS)
def test_what_is_before_the_place_is_not_wrong_by_itself(octets: bytes) -> None:
    """No octet of an earlier line is: with those lines alone nothing is refused, but for what is missing."""
    position = request_fault(octets, LIMITS)
    lines = octets[: octets.rfind(b"\n", 0, position) + 1]
    try:
        parse_request(lines, LIMITS, 1)
    except BadRequest as error:
        assert error.why == "Host: missing" or not lines.strip(b"\r\n") or position == len(octets)
    parsed = response_fault(octets, LIMITS, b"GET")
    with_lines = octets[: octets.rfind(b"\n", 0, parsed) + 1]
    try:
        parse_response(with_lines, LIMITS, b"GET", 1)
    except BadResponse:
        assert parsed == len(octets) or not with_lines
