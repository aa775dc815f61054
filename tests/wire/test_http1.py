"""Heads of HTTP/1 messages: RFC 9112 row by row, h11 as second opinion, and hostile input."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.errors import BadRequest, BadResponse, ProtocolError
from balancer.wire import http1
from balancer.wire.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    Limits,
    Request,
    RequestLine,
    Response,
    Section,
    parse_request,
    parse_response,
)

LIMITS = Limits(head=65536, uri=16384, fields=200)
HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
PUT = b"PUT / HTTP/1.1\r\n" + HOST
OK = b"HTTP/1.1 200 OK\r\n"


def facts(message: Request | Response) -> dict[str, Any]:
    """All that is known of a message, by name; the octets of a request's first line as `line`."""
    if isinstance(message, Response):
        return _attributes(message)
    line = _attributes(message.line)
    return {"size": message.size, **_attributes(message.section), **line, "line": line["octets"]}


def _attributes(part: RequestLine | Section | Response) -> dict[str, Any]:
    names = (name for name in dir(part) if not name.startswith("_") and name != "copy")
    return {name: getattr(part, name) for name in names}


def request(data: bytes, limits: Limits = LIMITS) -> Request:
    message = parse_request(data, limits)
    assert message is not None
    return message


def response(data: bytes, method: bytes = b"GET", limits: Limits = LIMITS) -> Response:
    message = parse_response(data, limits, method)
    assert message is not None
    return message


def drip_request(data: bytes, limits: Limits = LIMITS) -> Request | None:
    """Octet by octet, as a slow client sends it."""
    for size in range(1, len(data) + 1):
        message = parse_request(data[:size], limits, size - 1)
        if message is not None:
            return message
    return None


def drip_response(data: bytes, method: bytes = b"GET", limits: Limits = LIMITS) -> Response | None:
    for size in range(1, len(data) + 1):
        message = parse_response(data[:size], limits, method, size - 1)
        if message is not None:
            return message
    return None


# (RFC clause, head, what must be true of it)
ACCEPTED_REQUESTS: list[tuple[str, bytes, dict[str, Any]]] = [
    (
        "9112 3",
        GET + b"\r\n",
        {
            "method": b"GET",
            "target": b"/",
            "minor": 1,
            "host": b"a",
            "fields": HOST,
            "lower": b"host: a\r\n",
            "body": 0,
            "keep_alive": True,
            "plain": True,
            "upgrade": b"",
            "line": b"GET / HTTP/1.1",
            "expects_continue": False,
            "hop_by_hop": (),
        },
    ),
    ("9112 3: unknown method", b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n", {"method": b"BREW"}),
    ("9112 3: method of 64", b"M" * 64 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", {"method": b"M" * 64}),
    (
        "9112 3: target of 8000",
        b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        {"target": b"/" + b"x" * 8000},
    ),
    ("9112 2.2: empty line first", b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", {"target": b"/", "size": 29}),
    ("9112 2.2: eight empty lines", b"\r\n" * 8 + GET + b"\r\n", {"target": b"/", "size": 43}),
    ("9112 2.3: HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", {"minor": 0, "host": b"", "fields": b"", "keep_alive": False}),
    ("9110 2.5: HTTP/1.9 is 1.1", b"GET / HTTP/1.9\r\n" + HOST + b"\r\n", {"minor": 1, "keep_alive": True}),
    (
        "9112 9.3: no keep-alive to 1.0",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        {"keep_alive": False, "plain": False, "hop_by_hop": (b"Connection: keep-alive\r\n",)},
    ),
    ("9112 9.6: close", GET + b"Connection: close\r\n\r\n", {"keep_alive": False, "plain": False}),
    ("9112 9.6: close in a list", GET + b"Connection: , x,CLOSE \r\n\r\n", {"keep_alive": False}),
    (
        "9112 9.6: close on a second line",
        b"GET / HTTP/1.1\r\nConnection: x\r\n" + HOST + b"Connection:close\r\n\r\n",
        {"keep_alive": False},
    ),
    (
        "9110 7.6.1: keep-alive is the default",
        b"GET / HTTP/1.1\r\nConnection: Keep-Alive\r\n" + HOST + b"\r\n",
        {"keep_alive": True, "hop_by_hop": (b"Connection: Keep-Alive\r\n",)},
    ),
    (
        "9110 7.6.1: fields that Connection names",
        b"GET / HTTP/1.1\r\nX-A: 1\r\n" + HOST + b"Connection: x-a, X-B\r\nX-a:2\r\n\r\n",
        {"hop_by_hop": (b"X-A: 1\r\n", b"Connection: x-a, X-B\r\n", b"X-a:2\r\n")},
    ),
    (
        "9110 7.6.1: but not what frames the message",
        POST + b"Content-Length: 5\r\nConnection: content-length, host\r\n\r\n",
        {"body": 5, "host": b"a", "hop_by_hop": (b"Connection: content-length, host\r\n",)},
    ),
    (
        "9110 7.6.1: the classic ones without Connection",
        b"GET / HTTP/1.1\r\nTE: trailers\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nUpgrade: a\r\n"
        + HOST
        + b"\r\n",
        {
            "keep_alive": True,
            "upgrade": b"",
            "hop_by_hop": (
                b"TE: trailers\r\n",
                b"Keep-Alive: timeout=5\r\n",
                b"Proxy-Connection: close\r\n",
                b"Upgrade: a\r\n",
            ),
        },
    ),
    (
        "9110 7.8: Upgrade",
        GET + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
        {"upgrade": b"websocket", "keep_alive": True, "hop_by_hop": (b"Connection: keep-alive, Upgrade\r\n",)},
    ),
    (
        "9110 7.8: not in HTTP/1.0",
        b"GET / HTTP/1.0\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        {"upgrade": b""},
    ),
    (
        "9110 7.8: not with content",
        POST + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n",
        {"upgrade": b"", "hop_by_hop": (b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n")},
    ),
    (
        "9113 3.1: no tunnel of HTTP/2 past us",
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        {
            "upgrade": b"",
            "hop_by_hop": (b"Connection: Upgrade, HTTP2-Settings\r\n", b"Upgrade: h2c\r\n", b"HTTP2-Settings: AA\r\n"),
        },
    ),
    ("9110 8.6", POST + b"Content-Length: 42\r\n\r\n", {"body": 42, "plain": True}),
    ("9110 8.6: white space around", POST + b"content-length:\t 42 \t\r\n\r\n", {"body": 42}),
    ("9110 8.6: zero", POST + b"Content-Length: 0\r\n\r\n", {"body": 0}),
    ("9110 8.6: 18 digits", POST + b"Content-Length: 999999999999999999\r\n\r\n", {"body": 10**18 - 1}),
    (
        "9110 8.6: equal lines become one",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n" + HOST + b"Content-Length: 5\r\n\r\n",
        {"body": 5, "fields": HOST + b"Content-Length: 5\r\n", "lower": b"host: a\r\ncontent-length: 5\r\n"},
    ),
    (
        "9110 8.6: an equal list becomes one",
        b"POST / HTTP/1.1\r\nContent-Length: 5, 05\r\n" + HOST + b"X: 1\r\n\r\n",
        {"body": 5, "fields": HOST + b"X: 1\r\nContent-Length: 5\r\n"},
    ),
    ("9112 6.1", POST + b"Transfer-Encoding: chunked\r\n\r\n", {"body": CHUNKED, "plain": True}),
    ("9112 7: case and white space", POST + b"transfer-encoding:\tCHUNKED \r\n\r\n", {"body": CHUNKED}),
    (
        "9110 10.1.1",
        PUT + b"Expect: 100-Continue\r\nContent-Length: 9\r\n\r\n",
        {"expects_continue": True, "plain": True},
    ),
    (
        "9110 10.1.1: a list",
        PUT + b"Expect: x, 100-Continue\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        {"expects_continue": True},
    ),
    ("9110 10.1.1: nothing to wait for", PUT + b"Expect: 100-continue\r\n\r\n", {"expects_continue": False}),
    (
        "9110 10.1.1: ignored in HTTP/1.0",
        b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        {"expects_continue": False, "hop_by_hop": (b"Expect: 100-continue\r\n",)},
    ),
    (
        "9110 10.1.1: stays though named",
        PUT + b"Expect: 100-continue\r\nContent-Length: 9\r\nConnection: expect\r\n\r\n",
        {"expects_continue": True, "hop_by_hop": (b"Connection: expect\r\n",)},
    ),
    (
        "9112 3.2: case and port",
        b"GET / HTTP/1.1\r\nHOST:  WWW.Example.com:8080 \r\n\r\n",
        {"host": b"www.example.com:8080"},
    ),
    ("9112 3.2: IPv6", b"GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n", {"host": b"[2001:db8::1]:80"}),
    ("9112 3.2: empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", {"host": b""}),
    ("9112 3.2: percent-encoded", b"GET / HTTP/1.1\r\nHost: a%2fb_c\r\n\r\n", {"host": b"a%2fb_c"}),
    (
        "9112 3.2.2: absolute-form wins over Host",
        b"GET http://B.example:81/x?y HTTP/1.1\r\nX: 1\r\nHost: evil\r\n\r\n",
        {
            "target": b"/x?y",
            "host": b"b.example:81",
            "fields": b"Host: B.example:81\r\nX: 1\r\n",
            "lower": b"host: b.example:81\r\nx: 1\r\n",
            "line": b"GET http://B.example:81/x?y HTTP/1.1",
        },
    ),
    ("9112 3.2.2: no path", b"GET HTTP://b HTTP/1.1\r\n" + HOST + b"\r\n", {"target": b"/", "host": b"b"}),
    ("9112 3.2.2: query without path", b"GET http://b?q HTTP/1.1\r\n" + HOST + b"\r\n", {"target": b"/?q"}),
    ("9112 3.2.2: HTTP/1.0 gains a Host", b"GET http://b/ HTTP/1.0\r\n\r\n", {"fields": b"Host: b\r\n", "host": b"b"}),
    ("9112 3.2.4: asterisk", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", {"target": b"*"}),
    ("9112 3.2.4: asterisk through a proxy", b"OPTIONS http://b HTTP/1.1\r\n" + HOST + b"\r\n", {"target": b"*"}),
    (
        "9110 5.3: order and octets survive",
        b"GET / HTTP/1.1\r\nb:1\r\nA:  2 \r\n" + HOST + b"b:\t3\r\nc:\r\n\r\n",
        {"fields": b"b:1\r\nA:  2 \r\n" + HOST + b"b:\t3\r\nc:\r\n"},
    ),
    ("9110 5.5: obs-text", GET + b"X: \xe9\xff\x80\xa0\r\n\r\n", {"fields": HOST + b"X: \xe9\xff\x80\xa0\r\n"}),
    ("9110 5.1: names of any token", GET + b"!#$%&'*+-.^_`|~09aZ: 1\r\n\r\n", {"plain": True}),
    (
        "CVE-2021-40346: long names",
        b"GET / HTTP/1.1\r\n" + b"n" * 300 + b": Content-Length: 9\r\n" + HOST + b"\r\n",
        {"body": 0},
    ),
    (
        "names that only end like ours",
        b"GET / HTTP/1.1\r\nX-Host: b\r\nHost: a\r\nXConnection: close\r\nX: host: c\r\n\r\n",
        {"host": b"a", "keep_alive": True, "plain": True},
    ),
]


@pytest.mark.parametrize(("clause", "head", "expected"), ACCEPTED_REQUESTS, ids=[row[0] for row in ACCEPTED_REQUESTS])
def test_request_accepted(clause: str, head: bytes, expected: dict[str, Any]) -> None:
    whole = facts(request(head))
    assert {name: whole[name] for name in expected} == expected
    assert whole["size"] == len(head)
    assert facts(request(head + b"POST /next HTTP/1.1\r\n\r\n")) == whole
    assert facts(request(head + b"\r\n\r\n\0")) == whole
    dripped = drip_request(head)
    assert dripped is not None
    assert facts(dripped) == whole
    # `searched` only saves work: at every split the answer is the same without it.
    for size in range(len(head)) if len(head) < 500 else (1, 70, 8000, len(head) - 1):
        assert parse_request(head[:size], LIMITS) is None
        assert facts(parse_request(head, LIMITS, size)) == whole  # type: ignore[arg-type]


# (RFC clause, data, status)
REFUSED_REQUESTS: list[tuple[str, bytes, int]] = [
    ("TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ("NUL", b"\0", 400),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("PROXY v2", b"\r\n\r\n\x00\r\nQUIT\n", 400),
    ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    ("9112 2.2: nine empty lines", b"\r\n" * 9, 400),
    ("9112 2.2: LF first", b"\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 2.2: CR alone first", b"\rGET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 2.2: LF alone ends the line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    ("9112 2.2: LF alone ends a field", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", 400),
    ("9112 2.2: LF alone ends the head", GET + b"\n", 400),
    ("9112 2.2: CR alone in a field", b"GET / HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n", 400),
    ("9112 2.2: CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
    ("9112 2.2: space before the first field", b"GET / HTTP/1.1\r\n " + HOST + b"\r\n", 400),
    ("9112 3: space first", b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3: two spaces", b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3: two spaces before the version", b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3: space at the end", b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    ("9112 3: tab", b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3: space in the target", b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3: no target", b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3: no version (HTTP/0.9)", b"GET /\r\n\r\n", 400),
    ("9112 3: invalid method", b"GE(T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3: 8-bit method", b"G\xc9T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3: method of 65", b"M" * 65 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    ("9112 3: method without an end", b"M" * 1000, 501),
    ("9112 3: target over the limit", b"GET /" + b"x" * 16384 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    ("9112 3.2: fragment", b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3.2: 8-bit target", b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3.2: DEL in the target", b"GET /\x7f HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3.2: no slash", b"GET x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3.2: asterisk with GET", b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3.2.2: another scheme", b"GET ftp://b/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9110 4.2.1: no host in the URI", b"GET http:///x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9110 4.2.4: user in the URI", b"GET http://u@b/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 3.2.2: absolute-form still needs Host", b"GET http://b/ HTTP/1.1\r\n\r\n", 400),
    ("9112 3.2.3: authority-form", b"GET b:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("9110 9.3.6: CONNECT", b"CONNECT b:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    ("9110 9.3.6: CONNECT of a path", b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    ("9110 2.5: HTTP/2.0", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    ("9110 2.5: HTTP/0.9 in words", b"GET / HTTP/0.9\r\n\r\n", 505),
    ("9112 2.3: HTTP/1.10", b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    ("9112 2.3: HTTP/1", b"GET / HTTP/1\r\n" + HOST + b"\r\n", 400),
    ("9112 2.3: lower case", b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    ("9112 2.3: superscript digit", b"GET / HTTP/1.\xb9\r\n" + HOST + b"\r\n", 400),
    ("9112 3.2: no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("9112 3.2: two Hosts", b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    ("9112 3.2: two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400),
    ("9112 3.2: Host of two words", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("9112 3.2: Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("9112 3.2: Host with a user", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    ("9112 3.2: Host with a wrong port", b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400),
    ("9112 3.2: Host of a port alone", b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
    ("9112 3.2: Host with 8-bit", b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", 400),
    ("9112 3.2: bare IPv6 Host", b"GET / HTTP/1.1\r\nHost: 2001:db8::1\r\n\r\n", 400),
    ("9112 5.1: space before the colon", GET + b"X : 1\r\n\r\n", 400),
    ("9112 5.1: space in the name", GET + b"X Y: 1\r\n\r\n", 400),
    ("9112 5.1: tab before the colon of a framing field", POST + b"Transfer-Encoding\t: chunked\r\n\r\n", 400),
    ("9112 5.2: obs-fold", GET + b"X: 1\r\n 2\r\n\r\n", 400),
    ("9112 5.2: obs-fold by tab", GET + b"\tb\r\n\r\n", 400),
    ("9112 5.2: obs-fold of nothing", GET + b" \r\n\r\n", 400),
    ("CVE-2023-25725: empty name", GET + b": 1\r\nContent-Length: 5\r\n\r\n", 400),
    ("9112 5: a colon alone", GET + b":\r\n\r\n", 400),
    ("9112 5: no colon", GET + b"X\r\n\r\n", 400),
    ("9112 5: 8-bit name", GET + b"X\xe9: 1\r\n\r\n", 400),
    ("9110 5.5: NUL in a value", GET + b"X: 1\x002\r\n\r\n", 400),
    ("9110 5.5: DEL in a value", GET + b"X: \x7f\r\n\r\n", 400),
    ("9110 5.5: vertical tab", GET + b"X: \x0b\r\n\r\n", 400),
    ("9110 5.5: separators of str.splitlines", GET + b"X: \x1cY: 1\r\n\r\n", 400),
    ("9110 5.4: too many fields", GET + b"a:\r\n" * 200 + b"\r\n", 431),
    ("9110 5.4: too large", GET + b"X: " + b"x" * 65536 + b"\r\n\r\n", 431),
    ("9110 5.4: too large without an end", GET + b"X: " + b"x" * 65536, 431),
    ("9112 6.3: differing lengths", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    ("9112 6.3: differing list", POST + b"Content-Length: 5, 6\r\n\r\n", 400),
    ("CVE-2023-40225: empty beside a length", POST + b"Content-Length:\r\nContent-Length: 5\r\n\r\n", 400),
    ("9112 6.3: empty length", POST + b"Content-Length:\r\n\r\n", 400),
    ("9112 6.3: list with a hole", POST + b"Content-Length: 5,,5\r\n\r\n", 400),
    ("9112 6.3: +5", POST + b"Content-Length: +5\r\n\r\n", 400),
    ("9112 6.3: -5", POST + b"Content-Length: -5\r\n\r\n", 400),
    ("9112 6.3: 0x5", POST + b"Content-Length: 0x5\r\n\r\n", 400),
    ("9112 6.3: 1_0", POST + b"Content-Length: 1_0\r\n\r\n", 400),
    ("9112 6.3: 5.0", POST + b"Content-Length: 5.0\r\n\r\n", 400),
    ("9112 6.3: 5 5", POST + b"Content-Length: 5 5\r\n\r\n", 400),
    ("9112 6.3: superscript", POST + b"Content-Length: \xb2\r\n\r\n", 400),
    ("9112 6.3: no-break space", POST + b"Content-Length: \xa05\r\n\r\n", 400),
    ("9112 6.3: next line (NEL)", POST + b"Content-Length: 5\x85\r\n\r\n", 400),
    ("9112 6.3: Arabic digit", POST + b"Content-Length: \xd9\xa5\r\n\r\n", 400),
    ("9112 6.3: 19 digits", POST + b"Content-Length: 1000000000000000000\r\n\r\n", 400),
    ("9112 6.3: 5000 digits", POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    ("9112 6.3: length and chunked", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("9112 6.3: chunked and length", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", 400),
    ("9112 6.1: in HTTP/1.0", b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    ("9112 6.3: unknown coding alone", POST + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    ("9112 6.3: identity", POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    ("9112 6.1: gzip, chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("9112 6.3: chunked not last", POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    ("9112 7: chunked twice", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    ("9112 7: chunked on two lines", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (
        "9112 7: chunked, then identity",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n\r\n",
        400,
    ),
    ("9112 7: parameter", POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n", 400),
    ("9112 7: quoted", b"POST / HTTP/1.1\r\n" + HOST + b'Transfer-Encoding: "chunked"\r\n\r\n', 400),
    ("9112 6.1: empty", POST + b"Transfer-Encoding:\r\n\r\n", 400),
    ("9112 6.1: empty member", POST + b"Transfer-Encoding: ,chunked\r\n\r\n", 400),
    ("CVE-2019-18277: vertical tab", POST + b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n\r\n", 400),
    ("9112 6.1: form feed", POST + b"Transfer-Encoding: chunked\x0c\r\n\r\n", 400),
    ("9112 6.1: no-break space", POST + b"Transfer-Encoding: \xa0chunked\r\n\r\n", 400),
]


@pytest.mark.parametrize(("clause", "data", "status"), REFUSED_REQUESTS, ids=[row[0] for row in REFUSED_REQUESTS])
def test_request_refused(clause: str, data: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as whole:
        parse_request(data, LIMITS)
    assert whole.value.status == status
    assert whole.value.why.isprintable()
    with pytest.raises(BadRequest):
        parse_request(data + b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", LIMITS)
    with pytest.raises(BadRequest) as dripped:
        drip_request(data)
    assert dripped.value.status == status


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01",
        b"\x80",
        b"\r\n\r\n\0",
        b"\rG",
        b"GET / \x01",
        b"GET /\xc3",
        b"G(",
        b"GET /\n",
        b"x" * 65,
        b"hello\r\n",
        b"GET / HTTP/3.0\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n",
        b"GET / HTTP/1.1\r\n x",
        b"GET / HTTP/1.1\r\nX: \0",
        b"GET / HTTP/1.1\r\nX: 1\n",
    ],
)
def test_garbage_is_refused_before_any_head_ends(data: bytes) -> None:
    if data == b"GET / HTTP/1.1\r\n x":
        data += b"\r\n"
    with pytest.raises(BadRequest):
        parse_request(data, LIMITS)
    with pytest.raises(BadRequest):
        drip_request(data)


@pytest.mark.parametrize(
    "data", [b"", b"\r", b"\r\n", b"G", b"GET", b"GET ", b"GET /", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nX"]
)
def test_what_may_still_become_a_request_is_awaited(data: bytes) -> None:
    assert parse_request(data, LIMITS) is None


def test_limits_are_inclusive() -> None:
    head = b"GET /xx HTTP/1.1\r\nHost: a\r\nB: 1\r\n\r\n"
    assert request(head, Limits(head=len(head), uri=3, fields=2)).line.target == b"/xx"
    for limits, status in (
        (Limits(len(head) - 1, 3, 2), 431),
        (Limits(len(head), 2, 2), 414),
        (Limits(len(head), 3, 1), 431),
    ):
        with pytest.raises(BadRequest) as refused:
            parse_request(head, limits)
        assert refused.value.status == status
        with pytest.raises(BadRequest) as dripped:
            drip_request(head, limits)
        assert dripped.value.status == status


def test_a_target_without_an_end_is_too_long_at_once() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_request(b"GET /" + b"x" * 200, Limits(head=65536, uri=64, fields=10))
    assert refused.value.status == 414


def test_pipelined_requests_are_read_one_after_the_other() -> None:
    data = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\nGET /3"
    first = request(data)
    second = request(data[first.size :])
    assert (first.line.target, second.line.target, second.section.host) == (b"/1", b"/2", b"b")
    assert parse_request(data[first.size + second.size :], LIMITS) is None


# (RFC clause, method of the request, head, what must be true of it)
ACCEPTED_RESPONSES: list[tuple[str, bytes, bytes, dict[str, Any]]] = [
    (
        "9112 4",
        b"GET",
        OK + b"Content-Length: 5\r\n\r\n",
        {
            "status": 200,
            "minor": 1,
            "line": OK,
            "fields": b"Content-Length: 5\r\n",
            "body": 5,
            "lower": b"content-length: 5\r\n",
            "keep_alive": True,
            "plain": True,
            "upgrade": b"",
            "hop_by_hop": (),
        },
    ),
    ("9112 4: empty reason", b"GET", b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", {"line": b"HTTP/1.1 200 \r\n"}),
    (
        "9112 4: no reason and no space",
        b"GET",
        b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n",
        {"line": b"HTTP/1.1 200 \r\n"},
    ),
    (
        "9112 4: obs-text in the reason",
        b"GET",
        b"HTTP/1.1 404 \xe9\t!\r\nContent-Length: 0\r\n\r\n",
        {"line": b"HTTP/1.1 404 \xe9\t!\r\n", "body": 0},
    ),
    (
        "9112 2.3: own version",
        b"GET",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
        {"line": OK, "minor": 0, "keep_alive": False, "body": 5},
    ),
    ("9110 2.5: HTTP/1.5", b"GET", b"HTTP/1.5 200 OK\r\nContent-Length: 5\r\n\r\n", {"line": OK, "minor": 1}),
    (
        "9112 9.3: HTTP/1.0 with keep-alive",
        b"GET",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n",
        {"keep_alive": True},
    ),
    (
        "9112 9.3: in a list",
        b"GET",
        b"HTTP/1.0 200 OK\r\nConnection: x, Keep-Alive\r\nContent-Length: 5\r\n\r\n",
        {"keep_alive": True},
    ),
    (
        "9112 9.3: but not until close",
        b"GET",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
        {"keep_alive": False, "body": UNTIL_CLOSE},
    ),
    (
        "9112 9.6",
        b"GET",
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\n",
        {"keep_alive": False, "plain": False, "hop_by_hop": (b"Connection: close\r\n",)},
    ),
    (
        "Apache",
        b"GET",
        OK + b"Content-Length: 5\r\nKeep-Alive: timeout=5\r\nConnection: Keep-Alive\r\nA: b\r\n\r\n",
        {"keep_alive": True, "hop_by_hop": (b"Keep-Alive: timeout=5\r\n", b"Connection: Keep-Alive\r\n")},
    ),
    (
        "Apache with HTTP/2",
        b"GET",
        OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\nContent-Length: 5\r\n\r\n",
        {
            "keep_alive": True,
            "upgrade": b"",
            "hop_by_hop": (b"Upgrade: h2,h2c\r\n", b"Connection: Upgrade, Keep-Alive\r\n"),
        },
    ),
    (
        "9110 7.6.1",
        b"GET",
        OK + b"X-A: 1\r\nContent-Length: 5\r\nConnection: x-a, content-length\r\n\r\n",
        {"body": 5, "hop_by_hop": (b"X-A: 1\r\n", b"Connection: x-a, content-length\r\n")},
    ),
    (
        "9112 6.3 rule 1: HEAD",
        b"HEAD",
        OK + b"Content-Length: 5\r\n\r\n",
        {"body": 0, "fields": b"Content-Length: 5\r\n", "keep_alive": True},
    ),
    (
        "9112 6.3 rule 1: HEAD, chunked",
        b"HEAD",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        {"body": 0, "fields": b"Transfer-Encoding: chunked\r\n", "keep_alive": True},
    ),
    (
        "9112 5.1: space before the colon goes",
        b"GET",
        OK + b"A : b\r\nContent-Length\t : 5\r\nB: c : d\r\n\r\n",
        {"body": 5, "fields": b"A: b\r\nContent-Length: 5\r\nB: c : d\r\n"},
    ),
    ("9112 6.3 rule 1: HEAD, no length", b"HEAD", OK + b"\r\n", {"body": 0, "keep_alive": True}),
    (
        "9112 6.3 rule 1: 304",
        b"GET",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        {"body": 0, "fields": b"Content-Length: 5\r\n", "keep_alive": True},
    ),
    (
        "9110 8.6: 204",
        b"GET",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nA: b\r\n\r\n",
        {"body": 0, "fields": b"A: b\r\n", "lower": b"a: b\r\n", "keep_alive": True},
    ),
    (
        "9110 8.6: 204 that announces content",
        b"GET",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        {"body": 0, "fields": b"", "keep_alive": False},
    ),
    (
        "9112 6.1: 204, chunked",
        b"GET",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        {"body": 0, "fields": b"", "keep_alive": False},
    ),
    ("9110 15.2: 100", b"POST", b"HTTP/1.1 100 Continue\r\n\r\n", {"status": 100, "body": 0, "keep_alive": True}),
    (
        "9110 15.2: 103",
        b"GET",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        {"body": 0, "fields": b"Link: </a>\r\n"},
    ),
    (
        "9110 15.2.2: 101",
        b"GET",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n",
        {"upgrade": b"websocket", "body": 0, "keep_alive": False, "hop_by_hop": (b"Connection: Upgrade\r\n",)},
    ),
    ("9112 7.1", b"GET", OK + b"Transfer-Encoding: Chunked\r\n\r\n", {"body": CHUNKED, "keep_alive": True}),
    (
        "9112 6.3 rule 3: chunked overrides",
        b"GET",
        OK + b"Content-Length: 5\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n",
        {
            "body": CHUNKED,
            "keep_alive": False,
            "fields": b"A: b\r\nTransfer-Encoding: chunked\r\n",
            "lower": b"a: b\r\ntransfer-encoding: chunked\r\n",
        },
    ),
    (
        "9112 6.3 rule 5",
        b"GET",
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        {"body": 5, "fields": b"Content-Length: 5\r\n"},
    ),
    ("9112 6.3 rule 8", b"GET", OK + b"\r\n", {"body": UNTIL_CLOSE, "keep_alive": False, "plain": True}),
    (
        "duplicates survive",
        b"GET",
        OK + b"Set-Cookie: a=1\r\nContent-Length: 0\r\nset-cookie:b=2 \r\n\r\n",
        {"fields": b"Set-Cookie: a=1\r\nContent-Length: 0\r\nset-cookie:b=2 \r\n"},
    ),
]


@pytest.mark.parametrize(
    ("clause", "method", "head", "expected"), ACCEPTED_RESPONSES, ids=[row[0] for row in ACCEPTED_RESPONSES]
)
def test_response_accepted(clause: str, method: bytes, head: bytes, expected: dict[str, Any]) -> None:
    whole = facts(response(head, method))
    assert {name: whole[name] for name in expected} == expected
    assert whole["size"] == len(head)
    assert facts(response(head + b"\0hello\r\n\r\n", method)) == whole
    dripped = drip_response(head, method)
    assert dripped is not None
    assert facts(dripped) == whole
    for size in range(len(head)):
        assert parse_response(head[:size], LIMITS, method) is None
        assert facts(parse_response(head, LIMITS, method, size)) == whole  # type: ignore[arg-type]


REFUSED_RESPONSES: list[tuple[str, bytes]] = [
    ("not HTTP", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("TLS alert", b"\x15\x03\x01\x00\x02\x02\x28"),
    ("HTTP/2 settings frame", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
    ("9112 2.2: empty line first", b"\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ("9110 2.5: HTTP/2.0", b"HTTP/2.0 200 OK\r\n\r\n"),
    ("9112 4: status of two digits", b"HTTP/1.1 20 OK\r\n\r\n"),
    ("9112 4: status of four digits", b"HTTP/1.1 2000 OK\r\n\r\n"),
    ("9112 4: status 099", b"HTTP/1.1 099 OK\r\n\r\n"),
    ("9112 4: two spaces", b"HTTP/1.1  200 OK\r\n\r\n"),
    ("9112 4: superscript status", b"HTTP/1.1 20\xb2 OK\r\n\r\n"),
    ("9112 2.2: LF alone", b"HTTP/1.1 200 OK\nA: b\r\n\r\n"),
    ("9112 2.2: LF alone ends a field", OK + b"A: b\n\r\n"),
    ("9112 4: CR in the reason", b"HTTP/1.1 200 O\rK\r\n\r\n"),
    ("9112 5.1: space in a name", OK + b"A B: c\r\n\r\n"),
    ("9112 5.1: space before the colon of no name", OK + b" : b\r\n\r\n"),
    ("9112 5.2: obs-fold", OK + b"A: b\r\n c\r\n\r\n"),
    ("9110 5.5: NUL", OK + b"A: \0\r\n\r\n"),
    ("9112 6.3: lengths differ", OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    ("9112 6.3: invalid length", OK + b"Content-Length: x\r\n\r\n"),
    ("9112 6.3: 5000 digits", OK + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n"),
    ("9112 6.1: unknown coding", OK + b"Transfer-Encoding: gzip\r\n\r\n"),
    ("9112 7: chunked twice", OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n"),
    ("9112 6.1: HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("9110 15.2.2: 101 without Upgrade", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n"),
    ("9110 15.2.2: 101 without Connection", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
    ("too many fields", OK + b"a:\r\n" * 201 + b"\r\n"),
    ("too large", OK + b"A: " + b"x" * 65536 + b"\r\n\r\n"),
    ("too large without an end", OK + b"A: " + b"x" * 65536),
]


@pytest.mark.parametrize(("clause", "data"), REFUSED_RESPONSES, ids=[row[0] for row in REFUSED_RESPONSES])
def test_response_refused(clause: str, data: bytes) -> None:
    with pytest.raises(BadResponse) as refused:
        parse_response(data, LIMITS, b"GET")
    assert refused.value.why.isprintable()
    with pytest.raises(BadResponse):
        parse_response(data + OK + b"\r\n", LIMITS, b"GET")
    with pytest.raises(BadResponse):
        drip_response(data)


# Pieces of heads, many of them wrong; what is made of them comes near the borders of the grammar.
NAMES = st.sampled_from([
    b"Host", b"host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"transfer-encoding", b"Connection",
    b"connection", b"Upgrade", b"Keep-Alive", b"TE", b"Expect", b"Cookie", b"X", b"X ", b"", b"X\xe9", b" X",
])  # fmt: skip
# Fields that fit together often enough to get past the first check.
SOUND_FIELD = st.sampled_from([
    b"Content-Length: 5\r\n", b"content-length:6 \r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive, upgrade\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"X: 1\r\n",
    b"Connection: x, content-length\r\n", b"Keep-Alive: timeout=5\r\n",
])  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([
        b"a", b"a:80", b"a b", b"", b"5", b"6", b"5, 5", b"5,6", b"+5", b"0", b"chunked", b"Chunked ", b"gzip",
        b"gzip, chunked",
        b"chunked, chunked", b"close", b"keep-alive", b"upgrade", b"close, x", b"x, content-length", b"websocket",
        b"h2c", b"100-continue", b"a=b; c=d", b"\xa05", b"5\x0b", b"a\0b", b"a\rb", b"a\nb", b"a\r\n b",
    ]),
    st.binary(max_size=12),
)  # fmt: skip
FIELD = st.builds(
    lambda name, colon, value, end: name + colon + value + end,
    NAMES,
    st.sampled_from([b": ", b":", b":\t ", b" :", b""]),
    VALUES,
    st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n"]),
)
REQUEST_LINE = st.builds(
    lambda method, target, version, end: method + b" " + target + b" " + version + end,
    st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"get", b"G T", b"CONNECT"]),
    st.sampled_from([b"/", b"/a?b", b"*", b"http://b/c", b"b:80", b"/#", b"/\xe9", b""]),
    st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.11", b"http/1.1"]),
    st.sampled_from([b"\r\n"] * 12 + [b"\n", b" \r\n"]),
)
STATUS_LINE = st.builds(
    lambda version, status, reason: version + status + reason + b"\r\n",
    st.sampled_from([b"HTTP/1.1 "] * 6 + [b"HTTP/1.0 ", b"HTTP/1.3 ", b"HTTP/2 "]),
    st.sampled_from([b"200", b"204", b"304", b"404", b"100", b"999", b"99"]),
    st.sampled_from([b" OK", b" ", b"", b" \xe9", b" \r"]),
)
FIELDS = st.lists(st.one_of(SOUND_FIELD, SOUND_FIELD, SOUND_FIELD, FIELD), max_size=5).map(b"".join)
REQUEST = st.builds(
    lambda line, host, fields: line + host + fields + b"\r\n", REQUEST_LINE, st.sampled_from([HOST, HOST, b""]), FIELDS
)
RESPONSE = st.builds(lambda line, fields: line + fields + b"\r\n", STATUS_LINE, FIELDS)


def h11_framing(event: Any, method: bytes) -> int:
    kind, arguments = h11._connection._body_framing(method, event)
    return {"chunked": CHUNKED, "http/1.0": UNTIL_CLOSE}.get(kind) or arguments[0]


@settings(max_examples=600, deadline=None)
@given(REQUEST)
def test_h11_reads_the_same_in_every_request_we_take(data: bytes) -> None:
    try:
        ours = parse_request(data, LIMITS)
    except BadRequest:
        return
    if ours is None:
        return
    line, section = ours.line, ours.section
    # What goes on is what h11 gets: line as we send it (h11 knows no HTTP/1.2), fields as we kept them.
    version = b"HTTP/1.%d" % line.minor
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    conn.receive_data(b"%b %b %b\r\n%b\r\n" % (line.method, line.target, version, section.fields))
    theirs = conn.next_event()
    assert isinstance(theirs, h11.Request)
    assert (theirs.method, theirs.target) == (line.method, line.target)
    assert h11_framing(theirs, theirs.method) == section.body
    assert dict(theirs.headers).get(b"host", b"").lower() == section.host
    # h11 waits for 100 even where no content follows.
    assert section.expects_continue == (conn.they_are_waiting_for_100_continue and section.body != 0)
    assert len(theirs.headers) == section.fields.count(b"\r\n") == section.lines
    if line.minor:
        assert (conn.states[h11.CLIENT] is not h11.MUST_CLOSE) or not section.keep_alive


@settings(max_examples=600, deadline=None)
@given(RESPONSE, st.sampled_from([b"GET", b"HEAD", b"POST"]))
def test_h11_reads_the_same_in_every_response_we_take(data: bytes, method: bytes) -> None:
    try:
        ours = parse_response(data, LIMITS, method)
    except BadResponse:
        return
    if ours is None:
        return
    conn = h11.Connection(h11.CLIENT)
    conn.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    conn.send(h11.EndOfMessage())
    # Our line says HTTP/1.1 even for HTTP/1.0; where Transfer-Encoding stands, it was HTTP/1.1.
    conn.receive_data(ours.line + ours.fields + b"\r\n")
    theirs = conn.next_event()
    assert isinstance(theirs, h11.Response | h11.InformationalResponse)
    assert theirs.status_code == ours.status
    if ours.status >= 200:
        assert h11_framing(theirs, method) == ours.body


def outcome(parse: Any, data: bytes) -> Any:
    try:
        message = parse(data)
    except ProtocolError:
        return "refused"
    return message and facts(message)


@settings(max_examples=400, deadline=None)
@given(st.one_of(REQUEST, st.binary(max_size=80)))
def test_a_request_is_the_same_however_it_arrives(data: bytes) -> None:
    whole = outcome(lambda data: parse_request(data, LIMITS), data)
    dripped = outcome(drip_request, data)
    # Drop by drop garbage is seen before the end of the head, never the other way round.
    assert dripped == whole or (whole is None and dripped == "refused")


@settings(max_examples=400, deadline=None)
@given(st.one_of(RESPONSE, st.binary(max_size=80)))
def test_a_response_is_the_same_however_it_arrives(data: bytes) -> None:
    whole = outcome(lambda data: parse_response(data, LIMITS, b"GET"), data)
    dripped = outcome(drip_response, data)
    assert dripped == whole or (whole is None and dripped == "refused")


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_a_damaged_head_is_parsed_or_refused_and_nothing_else(data: st.DataObject) -> None:
    head = bytearray(
        data.draw(st.sampled_from([row[1] for row in ACCEPTED_REQUESTS] + [row[2] for row in ACCEPTED_RESPONSES]))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(head) - 1))
        kind = data.draw(st.sampled_from(["replace", "insert", "delete"]))
        octet = data.draw(st.sampled_from(b'\0\t\n\r :,;"#%0Z\x7f\x80\xff'))
        if kind == "replace":
            head[at] = octet
        elif kind == "insert":
            head.insert(at, octet)
        elif len(head) > 1:
            del head[at]
    parse = parse_response if head.startswith(b"HTTP") else parse_request
    arguments = (b"GET",) if parse is parse_response else ()
    try:
        message = parse(bytes(head), LIMITS, *arguments)  # type: ignore[operator]
    except ProtocolError:
        return
    if message is not None:
        part = message.section if isinstance(message, Request) else message
        assert part.fields == b"" or part.fields.endswith(b"\r\n")
        assert b"\r\n\r\n" not in part.fields
        assert part.fields.count(b"\r") == part.fields.count(b"\n") == part.fields.count(b"\r\n") <= part.lines
        assert part.lower == part.fields.lower()
        assert part.plain == (part.hop_by_hop == ())
        assert part.body >= UNTIL_CLOSE


K64 = 65536
HOSTILE = [
    b"GET / HTTP/1.1\r\n" + b"a:" * (K64 // 2),
    b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (K64 // 4),
    GET + b"a:\r\n" * (K64 // 4) + b" \r\n\r\n",
    GET + b"Connection: " + b"," * K64 + b"\r\n\r\n",
    GET + b"Connection: x\r\n" * (K64 // 15) + b"\r\n",
    GET + b"Connection: " + b"".join(b"x%d," % i for i in range(K64 // 6)) + b"\r\n\r\n",
    GET + b"Upgrade:x\r\n" * (K64 // 11) + b"\r\n",
    GET + b"Content-Length: 5\r\n" * (K64 // 19) + b"\r\n",
    GET + b"Content-Length: " + b"5," * (K64 // 2) + b"5\r\n\r\n",
    GET + b"Transfer-Encoding: " + b"chunked," * (K64 // 8) + b"\r\n\r\n",
    GET + b"Transfer-Encoding: a\r\n" * (K64 // 22) + b"\r\n",
    GET + b"Expect: a\r\n" * (K64 // 11) + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: " + b"a" * K64 + b" \x80\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: " + b"%aa" * (K64 // 3) + b"!\x80\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b" \t" * (K64 // 2) + b"\0\r\n\r\n",
    b"GET " + b"/" * K64 + b"\r\n\r\n",
    b"GET http://" + b"a" * K64 + b"@/ HTTP/1.1\r\n\r\n",
    b"\r\n" * (K64 // 2),
    b" " * K64,
    b"A" * K64,
    b"\r" * K64,
]
WIDE = Limits(head=1 << 20, uri=1 << 20, fields=1 << 20)


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_64_kib_of_malice_cost_little(data: bytes) -> None:
    started = time.process_time()
    for limits in (LIMITS, WIDE):
        outcome(lambda data, limits=limits: parse_request(data, limits), data)
        answer = OK + data.partition(b"\r\n")[2]
        outcome(lambda data, limits=limits: parse_response(data, limits, b"GET"), answer)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 16000,
        GET + b"X: " + b"x" * 30000,
        GET + b"a:\r\n" * 8000,
    ],
    ids=["target", "field", "fields"],
)
def test_a_head_octet_by_octet_is_not_quadratic(data: bytes) -> None:
    started = time.process_time()
    assert drip_request(data) is None
    # Copying the slices is part of it; looking at each octet again would take minutes.
    assert time.process_time() - started < 3


def test_what_was_seen_before_means_the_same() -> None:
    fields = b"\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nCookie: a=b\r\n\r\n"
    # What comes for the first time is not kept.
    request(b"GET /1 HTTP/1.1" + fields)
    first = request(b"GET /1 HTTP/1.1" + fields)
    for data in (b"POST /2?x HTTP/1.1" + fields, b"GET /1 HTTP/1.1" + fields, b"POST /2?x HTTP/1.1" + fields):
        again = request(data)
        assert again.section is first.section
        assert again.size == len(data)
        # Octet by octet it goes the long way.
        assert facts(again) == facts(drip_request(data))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "limits", "status"),
    [
        (b"GET /x#y HTTP/1.1", Limits(head=4096, uri=64, fields=10), 400),
        (b"GET  /x HTTP/1.1", Limits(head=4096, uri=64, fields=10), 400),
        (b"CONNECT /x HTTP/1.1", Limits(head=4096, uri=64, fields=10), 501),
        (b"GET /x HTTP/2.1", Limits(head=4096, uri=64, fields=10), 505),
        (b"GET /" + b"x" * 64 + b" HTTP/1.1", Limits(head=4096, uri=64, fields=10), 414),
        (b"GET /x HTTP/1.1", Limits(head=30, uri=64, fields=10), 431),
        (b"GET /x HTTP/1.1", Limits(head=4096, uri=64, fields=1), 431),
    ],
)
def test_fields_seen_before_excuse_no_request_line_and_no_limit(line: bytes, limits: Limits, status: int) -> None:
    fields = b"\r\nHost: seen-before\r\nAccept: */*\r\n\r\n"
    for _ in range(2):
        assert parse_request(b"GET /x HTTP/1.1" + fields, Limits(head=4096, uri=64, fields=10)) is not None
    with pytest.raises(BadRequest) as refused:
        parse_request(line + fields, limits)
    assert refused.value.status == status


def test_fields_seen_before_go_one_hop_less_with_the_methods_that_count_them() -> None:
    for hops, status in ((b"5", 0), (b"0", 501)):
        fields = b"\r\nHost: seen-before\r\nMax-Forwards: " + hops + b"\r\n\r\n"
        for method in (b"GET", b"GET", b"OPTIONS", b"GET", b"TRACE", b"OPTIONS", b"GET"):
            data = method + b" /x HTTP/1.1" + fields
            if method == b"GET":
                assert request(data).section.fields == fields[2:-2]
            elif status:
                with pytest.raises(BadRequest) as refused:
                    parse_request(data, LIMITS)
                assert refused.value.status == status
            else:
                assert request(data).section.fields == b"Host: seen-before\r\nMax-Forwards: 4\r\n"
    # Without it they are read like any other.
    fields = b"\r\nHost: seen-before\r\n\r\n"
    request(b"GET / HTTP/1.1" + fields)
    assert request(b"GET / HTTP/1.1" + fields).section is request(b"OPTIONS / HTTP/1.1" + fields).section
    with pytest.raises(BadRequest):
        parse_request(b"CONNECT / HTTP/1.1" + fields, LIMITS)


def test_a_response_seen_before_has_no_body_for_head() -> None:
    limits = Limits(head=4096, uri=64, fields=10)
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    for method, body in ((b"GET", 5), (b"GET", 5), (b"GET", 5), (b"HEAD", 0), (b"GET", 5)):
        response = parse_response(data, limits, method)
        assert response is not None and response.body == body


def test_a_head_of_many_lines_for_this_hop_alone_is_not_kept_in_memory() -> None:
    few, many = b"X-Hop: 1\r\n" * 3, b"X-Hop: 1\r\n" * 50
    for lines, is_kept in ((few, True), (many, False)):
        head = b"Connection: X-Hop\r\n" + lines + b"\r\n"
        request(GET + head), response(OK + head)
        assert (request(GET + head).section is request(GET + head).section) == is_kept
        assert (response(OK + head) is response(OK + head)) == is_kept


def test_heads_that_differ_each_time_are_not_kept_and_drive_nothing_out() -> None:
    known = (http1._known_lines, http1._known_sections, http1._known_responses)
    for _ in range(3):
        kept, answer = request(b"GET /kept HTTP/1.1\r\nHost: kept\r\n\r\n"), response(OK + b"X: kept\r\n\r\n")
    sizes = [len(each) for each in known]
    for i in range(5000):
        request(b"GET /flood/%d HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.9.%d.%d\r\n\r\n" % (i, i >> 8, i & 255))
        request(b"GET /flood/%d HTTP/1.1\r\nHost: kept\r\n\r\n" % i)
        response(OK + b"X-Flood: %d\r\n\r\n" % i)
    assert [len(each) for each in known] == sizes
    assert request(b"GET /kept HTTP/1.1\r\nHost: kept\r\n\r\n").section is kept.section
    assert response(OK + b"X: kept\r\n\r\n") is answer


@pytest.mark.parametrize("size", [10, 400, 1900])
def test_heads_that_come_twice_take_no_more_than_their_share_of_memory(size: int) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        most = 0
        for i in range(2 * (4 << 20) // (5 * size + 1024)):
            fields = b"\r\nHost: a\r\nX-%d: " % i + b"x" * size + b"\r\n\r\n"
            for _ in range(3):
                parse_request(b"GET / HTTP/1.1" + fields, LIMITS)
                parse_response(b"HTTP/1.1 200 OK" + fields, LIMITS, b"GET")
            if i % 64 == 0:
                most = max(most, tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert 1 << 20 < most < 4 << 20


def test_a_response_seen_before_still_has_too_many_lines() -> None:
    data = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nA: b\r\n\r\n"
    for _ in range(3):
        assert response(data).lines == 2
    with pytest.raises(BadResponse, match="more than 1 header fields"):
        parse_response(data, Limits(head=4096, uri=64, fields=1), b"GET")
