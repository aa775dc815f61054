"""Heads as they go on, and the cookies in them."""

from __future__ import annotations

import time

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.wire.http1 import Limits, Request, Response, parse_request, parse_response
from balancer.wire.rewrite import (
    find_cookie,
    has_field,
    is_cacheable,
    request_head,
    response_head,
    sets_cookie,
    strip_cookie,
    strip_set_cookie,
    take_cookie,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
LIMITS = Limits(head=1 << 20, uri=16384, fields=1 << 20)


def request(head: bytes) -> Request:
    message = parse_request(head, LIMITS)
    assert message is not None
    return message


def response(head: bytes, method: bytes = b"GET") -> Response:
    message = parse_response(head, LIMITS, method)
    assert message is not None
    return message


def test_a_plain_request_goes_on_untouched() -> None:
    head = b"GET /a?b HTTP/1.1\r\nHost: a\r\nX:  1 \r\nx: 2\r\n\r\n"
    assert request_head(request(head)) == head


# (what, head, head as it goes on)
REQUESTS = [
    (
        "9110 7.6.1: Connection",
        b"GET / HTTP/1.1\r\nA: 1\r\nConnection: keep-alive\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: 1\r\nHost: a\r\n\r\n",
    ),
    (
        "9110 7.6.1: Connection as the first line",
        b"GET / HTTP/1.1\r\nconnection:close\r\nHost: a\r\n\r\n",
        GET + b"\r\n",
    ),
    (
        "9110 7.6.1: all of them",
        b"GET / HTTP/1.1\r\nConnection: X-a, close\r\nTE: trailers\r\nx-A: 1\r\nKeep-Alive: 5\r\n"
        b"Host: a\r\nProxy-Connection: close\r\nX-A: 2\r\nUpgrade: x\r\nX-Ab: 3\r\nConnection: keep-alive\r\n\r\n",
        GET + b"X-Ab: 3\r\n\r\n",
    ),
    (
        "9112 6.1: framing stays though named",
        POST + b"Transfer-Encoding: chunked\r\nConnection: transfer-encoding, host\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
    ),
    (
        "9110 6.6.2: Trailer stays with its trailers",
        POST + b"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
    ),
    (
        "9110 11.7.2: Proxy-Authorization is not for us",
        GET + b"Proxy-Authorization: Basic eA==\r\n\r\n",
        GET + b"Proxy-Authorization: Basic eA==\r\n\r\n",
    ),
    (
        "9110 10.1.1: Expect stays",
        b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
    ),
    (
        "9110 10.1.1: but not from HTTP/1.0",
        b"PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
    ),
    (
        "9110 7.8: Upgrade stays",
        b"GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nHost: a\r\nconnection: upgrade\r\n\r\n",
    ),
    (
        "9113 3.1: not to HTTP/2",
        GET + b"Upgrade: h2c\r\nHTTP2-Settings: AA\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
        GET + b"\r\n",
    ),
    ("9112 2.3: own version", b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", GET + b"\r\n"),
    ("9112 3.2: but no HTTP/1.1 without Host", b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"),
    (
        "9112 3.2.2: absolute-form",
        b"GET http://b/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: b\r\n\r\n",
    ),
    ("many lines to cut", GET + b"Connection: x\r\nX: 1\r\n" * 20 + b"Y: 2\r\n\r\n", GET + b"Y: 2\r\n\r\n"),
]


@pytest.mark.parametrize(("what", "head", "goes_on"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_request_head(what: str, head: bytes, goes_on: bytes) -> None:
    message = request(head)
    assert request_head(message) == goes_on
    # Lines of ours go last, where the next one trusts them, and nothing the client named takes them out.
    ours = b"X-Forwarded-For: 192.0.2.1\r\n"
    with_ours = request_head(message, added=ours)
    assert with_ours.replace(ours, b"") == goes_on
    assert with_ours.index(ours) >= len(goes_on) - len(b"connection: upgrade\r\n\r\n")
    assert b"close" in request_head(message, close=True).rpartition(b"connection: ")[2]


def test_request_head_of_changed_fields() -> None:
    message = request(b"GET / HTTP/1.1\r\nCookie: a=b\r\nConnection: keep-alive\r\nHost: a\r\n\r\n")
    assert request_head(message, fields=b"") == b"GET / HTTP/1.1\r\n\r\n"
    assert take_cookie(message.section, b"a") == (b"b", b"Host: a\r\n")
    assert take_cookie(message.section, b"c") == (None, b"Cookie: a=b\r\nHost: a\r\n")
    # A line that Connection names goes all the same, whatever it said.
    message = request(GET + b"Connection: cookie\r\nCookie: a=b; c=d\r\nX: 1\r\n\r\n")
    assert take_cookie(message.section, b"a") == (b"b", b"Host: a\r\nX: 1\r\n")


def test_request_head_that_asks_for_close() -> None:
    upgrade = GET + b"Upgrade: x\r\nConnection: upgrade\r\n\r\n"
    assert request_head(request(GET + b"\r\n"), close=True).endswith(b"connection: close\r\n\r\n")
    assert request_head(request(upgrade), close=True).endswith(b"Upgrade: x\r\nconnection: close, upgrade\r\n\r\n")


# (what, method, head, head to a client that stays)
RESPONSES = [
    (
        "untouched",
        b"GET",
        OK + b"Set-Cookie: a\r\nContent-Length: 5\r\nset-cookie: b\r\n\r\n",
        OK + b"Set-Cookie: a\r\nContent-Length: 5\r\nset-cookie: b\r\n\r\n",
    ),
    (
        "9110 7.6.1",
        b"GET",
        OK + b"Keep-Alive: timeout=5\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\nA: b\r\n\r\n",
        OK + b"Content-Length: 5\r\nA: b\r\n\r\n",
    ),
    (
        "9110 7.6.1: close of the server's side",
        b"GET",
        b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n",
        OK + b"Content-Length: 5\r\n\r\n",
    ),
    (
        "Apache with HTTP/2",
        b"GET",
        OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\nContent-Length: 5\r\n\r\n",
        OK + b"Content-Length: 5\r\n\r\n",
    ),
    (
        "9110 8.6: 204",
        b"GET",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: x\r\nX: 1\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ),
    ("9112 4", b"GET", b"HTTP/1.1 200\r\n\r\n", b"HTTP/1.1 200 \r\n\r\n"),
    (
        "9112 6.3",
        b"GET",
        OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
    ),
]


@pytest.mark.parametrize(("what", "method", "head", "goes_on"), RESPONSES, ids=[row[0] for row in RESPONSES])
def test_response_head(what: str, method: bytes, head: bytes, goes_on: bytes) -> None:
    message = response(head, method)
    assert response_head(message, keep_alive=True) == goes_on
    added = response_head(message, added=b"set-cookie: c=d; path=/\r\n", keep_alive=True)
    assert added == goes_on[:-2] + b"set-cookie: c=d; path=/\r\n\r\n"
    assert response_head(message, keep_alive=False) == goes_on[:-2] + b"connection: close\r\n\r\n"


def test_response_head_of_changed_fields() -> None:
    message = response(OK + b"Set-Cookie: s=1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    fields = strip_set_cookie(message.end_to_end, b"s")
    assert response_head(message, fields=fields, keep_alive=True) == OK + b"Content-Length: 0\r\n\r\n"


def test_response_head_of_101_goes_on_as_one() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nA: b\r\n\r\n"
    assert response_head(response(head), added=b"C: d\r\n", keep_alive=True) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nA: b\r\nC: d\r\nconnection: upgrade\r\n\r\n"
    )


def test_response_head_to_http_1_0() -> None:
    chunked = OK + b"Transfer-Encoding: chunked\r\nTrailer: X\r\nA: b\r\n\r\n"
    expected = OK + b"A: b\r\nconnection: close\r\n\r\n"
    assert response_head(response(chunked), keep_alive=False, to_minor=0, dechunk=True) == expected
    # RFC 9112 section 6.1: not even where no content follows.
    assert response_head(response(chunked, b"HEAD"), keep_alive=False, to_minor=0) == expected
    plain = OK + b"Content-Length: 0\r\n\r\n"
    assert response_head(response(plain), keep_alive=True, to_minor=0).endswith(b"\r\nconnection: keep-alive\r\n\r\n")


LINE = st.sampled_from(
    [
        b"X: 1\r\n",
        b"x-a:2\r\n",
        b"Cookie: a=b; c=d\r\n",
        b"Connection: x\r\n",
        b"Connection: close, x-a\r\n",
        b"connection: upgrade\r\n",
        b"Keep-Alive: 1\r\n",
        b"TE: gzip\r\n",
        b"Upgrade: websocket\r\n",
        b"Expect: 100-continue\r\n",
    ]
)
BODY = st.sampled_from([b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5, 5\r\n"])


@settings(max_examples=400, deadline=None)
@given(st.lists(LINE, max_size=12), BODY, st.sampled_from([b"0", b"1"]))
def test_what_goes_on_is_a_request_that_says_the_same(lines: list[bytes], body: bytes, minor: bytes) -> None:
    if minor == b"0" and body.startswith(b"T"):
        body = b""
    message = request(b"POST /x HTTP/1." + minor + b"\r\nHost: a\r\n" + b"".join(lines) + body + b"\r\n")
    goes_on = request_head(message, added=b"X-Forwarded-For: ::1\r\n")
    again = request(goes_on)
    assert (again.line.method, again.line.target, again.section.host) == (b"POST", b"/x", b"a")
    assert (again.section.body, again.section.upgrade) == (message.section.body, message.section.upgrade)
    assert again.section.plain or again.section.upgrade
    assert request_head(again) == goes_on
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(goes_on)
    assert isinstance(conn.next_event(), h11.Request)


COOKIES: list[tuple[bytes, bytes | None, bytes]] = [
    # fields, value of S, fields without S
    (b"", None, b""),
    (b"A: S=1\r\n", None, b"A: S=1\r\n"),
    (b"X-Cookie: S=1\r\n", None, b"X-Cookie: S=1\r\n"),
    (b"Cookie: S=web1\r\n", b"web1", b""),
    (b"A: 1\r\ncookie:S=web1\r\nB: 2\r\n", b"web1", b"A: 1\r\nB: 2\r\n"),
    (b"A: 1\r\nCookie: S=web1\r\n", b"web1", b"A: 1\r\n"),
    (b"Cookie: a=1; S=web1\r\n", b"web1", b"Cookie: a=1\r\n"),
    (b"Cookie: S=web1; a=1\r\n", b"web1", b"Cookie: a=1\r\n"),
    (b"Cookie: a=1; S=web1;b=2\r\n", b"web1", b"Cookie: a=1;b=2\r\n"),
    (b"Cookie:a=1 ;  b ; S = web1 ;c=2; \r\n", b"web1", b"Cookie:a=1 ;  b ;c=2; \r\n"),
    (b"Cookie: S=1; a=b; S=2\r\n", b"1", b"Cookie: a=b\r\n"),
    (
        b"Cookie: a=1\r\nB: 2\r\nCookie: S=web1\r\nCookie: c=3; S=x\r\n",
        b"web1",
        b"Cookie: a=1\r\nB: 2\r\nCookie: c=3\r\n",
    ),
    (b"Cookie: S=web1;\r\n", b"web1", b""),
    (b"Cookie: ;;S=web1; ;\r\n", b"web1", b""),
    (b"Cookie: S=\r\n", b"", b""),
    (b"Cookie: S\r\n", None, b"Cookie: S\r\n"),
    (b"Cookie: s=1\r\n", None, b"Cookie: s=1\r\n"),
    (b"Cookie: SS=1; XS=2; S-=3\r\n", None, b"Cookie: SS=1; XS=2; S-=3\r\n"),
    (b"Cookie: a=S=1\r\n", None, b"Cookie: a=S=1\r\n"),
    (b"Cookie: a=cookie:S=1\r\n", None, b"Cookie: a=cookie:S=1\r\n"),
    (b"Cookie: a=b, S=1\r\n", None, b"Cookie: a=b, S=1\r\n"),
    (b"Cookie: S=a=b\r\n", b"a=b", b""),
    (b'Cookie: S="web1"; a="x"\r\n', b'"web1"', b'Cookie: a="x"\r\n'),
    (b'Cookie: a="x; S=2; y"; S=web1\r\n', b"web1", b'Cookie: a="x; S=2; y"\r\n'),
    (b'Cookie: a="x\\"; S=2; y" ; S=web1\r\n', b"web1", b'Cookie: a="x\\"; S=2; y" \r\n'),
    (b'Cookie: a="x; S=web1\r\n', b"web1", b'Cookie: a="x\r\n'),
    (b'Cookie: a="x"y; S=web1; b="\r\n', b"web1", b'Cookie: a="x"y; b="\r\n'),
    (b'Cookie: a=x"y; S=web1; b=z"\r\n', b"web1", b'Cookie: a=x"y; b=z"\r\n'),
    (b'Cookie: S=web1; b="x;y"\r\n', b"web1", b'Cookie: b="x;y"\r\n'),
    (b'Cookie: S="a;b"; c=1\r\n', b'"a;b"', b"Cookie: c=1\r\n"),
    (b'Cookie: "S"=1; S =2\r\n', b"2", b'Cookie: "S"=1\r\n'),
    (b"Cookie: \xe9=\xff; S=web1\r\n", b"web1", b"Cookie: \xe9=\xff\r\n"),
    (b"Cookie: =x; S=web1; =\r\n", b"web1", b"Cookie: =x; =\r\n"),
    (b"Cookie:\r\nCookie: ;\r\nCookie: S=1\r\n", b"1", b"Cookie:\r\nCookie: ;\r\n"),
]


@pytest.mark.parametrize(("fields", "value", "stripped"), COOKIES)
def test_cookies(fields: bytes, value: bytes | None, stripped: bytes) -> None:
    assert find_cookie(fields, fields.lower(), b"S") == value
    assert strip_cookie(fields, b"S") == stripped
    assert find_cookie(stripped, stripped.lower(), b"S") is None


def test_a_cookie_name_is_no_expression() -> None:
    fields = b"Cookie: aXb=1; a.b=2\r\n"
    assert find_cookie(fields, fields.lower(), b"a.b") == b"2"
    assert strip_cookie(fields, b"a.b") == b"Cookie: aXb=1\r\n"


COOKIE_TEXT = st.lists(
    st.sampled_from(
        [b"S=1", b"S", b"a=", b"b", b"=", b";", b"; ", b" ", b"\t", b'"', b"\\", b",", b"\xff", b'a="x;y"']
    ),
    max_size=14,
).map(b"".join)


@settings(max_examples=800, deadline=None)
@given(st.lists(COOKIE_TEXT, max_size=3))
def test_malformed_cookies_never_harm(lines: list[bytes]) -> None:
    fields = b"A: S=0\r\n" + b"".join([b"Cookie: " + line + b"\r\nB: 1\r\n" for line in lines])
    value = find_cookie(fields, fields.lower(), b"S")
    stripped = strip_cookie(fields, b"S")
    assert (stripped == fields) == (value is None)
    assert find_cookie(stripped, stripped.lower(), b"S") is None
    assert strip_cookie(stripped, b"S") == stripped
    assert stripped.startswith(b"A: S=0\r\n")
    assert stripped.count(b"B: 1\r\n") == len(lines)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"S=x", b"a=1", b'b="2;3"', b"c", b"d= e "]), min_size=1, max_size=8))
def test_all_other_cookies_survive_octet_for_octet(pairs: list[bytes]) -> None:
    fields = b"Cookie: " + b"; ".join(pairs) + b"\r\n"
    others = [pair for pair in pairs if pair != b"S=x"]
    if others:
        assert strip_cookie(fields, b"S") == b"Cookie: " + b"; ".join(others) + b"\r\n"
    else:
        assert strip_cookie(fields, b"S") == b""


@pytest.mark.parametrize(
    "value",
    [
        b"; ".join([b"c%d=v" % i for i in range(2000)]),
        b";" * 65536,
        b" " * 65536,
        b"S " * 32768,
        b"S" * 65536,
        b";S " * 20000,
        b'a="' * 20000,
        b'a="\\' * 16000,
        b'"' * 65536,
        b'S="\\"' * 13000,
        b"=" * 65536,
    ],
    ids=range(11),
)
def test_hostile_cookies_cost_little(value: bytes) -> None:
    for fields in (b"Cookie: " + value + b"\r\n", b"A: b\r\nCookie: " + value + b"; S=1\r\n"):
        lower = fields.lower()
        started = time.process_time()
        find_cookie(fields, lower, b"S")
        strip_cookie(fields, b"S")
        sets_cookie(fields, b"S")
        assert time.process_time() - started < 0.25
    many = b"Cookie: S\r\n" * 6000
    started = time.process_time()
    assert find_cookie(many, many.lower(), b"S") is None
    assert strip_cookie(many, b"S") == many
    assert time.process_time() - started < 0.25


@pytest.mark.parametrize(
    ("fields", "rest"),
    [
        (b"Set-Cookie: S=1; path=/\r\nA: b\r\n", b"A: b\r\n"),
        (b"A: b\r\nset-cookie:\tS = 1\r\nSet-Cookie: a=S=1\r\nSET-COOKIE:S=\r\n", b"A: b\r\nSet-Cookie: a=S=1\r\n"),
        (b"Set-Cookie: a=1\r\nSet-Cookie: S=2\r\nSet-Cookie: c=3\r\n", b"Set-Cookie: a=1\r\nSet-Cookie: c=3\r\n"),
    ],
)
def test_set_cookie_of_the_name(fields: bytes, rest: bytes) -> None:
    assert sets_cookie(fields, b"S")
    assert strip_set_cookie(fields, b"S") == rest
    assert not sets_cookie(rest, b"S")


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Set-Cookie: s=1\r\n",
        b"Set-Cookie: SS=1\r\n",
        b"Set-Cookie: a=1; S=2\r\n",
        b"Set-Cookie: S\r\n",
        b"Set-Cookie: ;S=1\r\n",
        b"Set-Cookie2: S=1\r\n",
        b"X: Set-Cookie: S=1\r\n",
        b"Cookie: S=1\r\n",
    ],
)
def test_set_cookie_of_another_name(fields: bytes) -> None:
    assert not sets_cookie(fields, b"S")
    assert strip_set_cookie(fields, b"S") == fields


@pytest.mark.parametrize(
    ("method", "status", "fields", "expected"),
    [
        # As HAProxy's http_check_response_for_cacheability decides.
        (b"GET", 200, b"ETag: x\r\n", True),
        (b"GET", 200, b"Last-Modified: x\r\n", True),
        (b"GET", 200, b"Expires: x\r\n", True),
        (b"GET", 200, b"Cache-Control: max-age=60\r\n", True),
        (b"GET", 200, b"A: b\r\nCache-Control: foo, S-Maxage=60\r\n", True),
        (b"HEAD", 404, b"ETag: x\r\n", True),
        (b"OPTIONS", 301, b"ETag: x\r\n", True),
        (b"GET", 200, b"", False),
        (b"POST", 200, b"ETag: x\r\n", False),
        (b"GET", 302, b"ETag: x\r\n", False),
        (b"GET", 500, b"ETag: x\r\n", False),
        (b"GET", 103, b"ETag: x\r\n", False),
        (b"GET", 200, b"ETag: x\r\nPragma: No-Cache\r\n", False),
        (b"GET", 200, b"ETag: x\r\nCache-Control: private\r\n", False),
        (b"GET", 200, b'ETag: x\r\nCache-Control: private="a, b"\r\n', False),
        (b"GET", 200, b"ETag: x\r\nCache-Control: a\r\nCache-Control: x, no-store\r\n", False),
        (b"GET", 200, b"ETag: x\r\nCache-Control:no-cache\r\n", False),
        (b"GET", 200, b'ETag: x\r\nCache-Control: no-cache="set-cookie"\r\n', True),
        (b"GET", 200, b'ETag: x\r\nCache-Control: no-cache="a"\r\n', False),
        (b"GET", 200, b"ETag: x\r\nCache-Control: max-age=0\r\n", False),
        (b"GET", 200, b"ETag: x\r\nCache-Control: max-age=0, s-maxage=5\r\n", True),
        (b"GET", 200, b"ETag: x\r\nCache-Control: s-maxage=0\r\n", False),
        (b"GET", 200, b"ETag: x\r\nCache-Control: private, public\r\n", True),
        (b"GET", 200, b"X-Cache-Control: private\r\nETag: x\r\n", True),
    ],
)
def test_is_cacheable(method: bytes, status: int, fields: bytes, expected: bool) -> None:
    assert is_cacheable(method, response(b"HTTP/1.1 %d x\r\n%b\r\n" % (status, fields), method)) is expected


def test_has_field() -> None:
    assert has_field(b"a: 1\r\nbc: 2\r\n", b"a")
    assert has_field(b"a: 1\r\nbc: 2\r\n", b"bc")
    assert not has_field(b"a: 1\r\nbc: 2\r\n", b"c")
    assert not has_field(b"a: bc: 2\r\n", b"bc")
    assert not has_field(b"", b"a")
