"""Which coding a client takes, what may be encoded, and how its head changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.wire.encoding import (
    Types,
    can_encode,
    encoded,
    list_members,
    negotiate,
    normal,
    varied,
    weakened,
    weights,
)
from balancer.wire.http1 import CHUNKED, UNTIL_CLOSE, Limits, parse_request, parse_response

OFFERED = (b"zstd", b"br", b"gzip")
TEXTS = Types(("text/*", "application/json"))


def response(*lines, status=200, version=1, method=b"GET"):
    head = f"HTTP/1.{version} {status} X\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return parse_response(head.encode("latin-1"), Limits(65536, 65536, 200), method)


@pytest.mark.parametrize(
    ("value", "coding"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", None),
        ("identity", None),
        # RFC 9110 section 12.5.3: "*" is whatever is not listed.
        ("*", "zstd"),
        ("*;q=0", None),
        ("zstd;q=0, *", "br"),
        ("gzip, *;q=0", "gzip"),
        ("br;q=0.5, gzip;q=0.8", "gzip"),
        ("br;q=0.8, gzip;q=0.8, zstd;q=0.799", "br"),
        ("gzip;q=0", None),
        ("gzip;q=0.0", None),
        ("gzip;q=0.000", None),
        ("gzip;q=0.001", "gzip"),
        ("gzip ; q=1.000", "gzip"),
        ("gzip\t;\tQ=0.3", "gzip"),
        ("identity;q=0.5, gzip;q=0.4", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0", None),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("identity;q=1, *;q=0.5", None),
        ("", None),
        (",,gzip,,", "gzip"),
        # What is no weight is no wish.
        ("gzip;q=2", None),
        ("gzip;q=1.1", None),
        ("gzip;q=-1", None),
        ("gzip;q=0.1234", None),
        ("gzip;q=", None),
        ("gzip;q", None),
        ("gzip;level=1", None),
        ("gzip;q=1;q=0", None),
        ("gzip br", None),
        ("gzip, gzip;q=0", None),
        ("@gzip", None),
    ],
)
def test_accept_encoding(value, coding):
    assert negotiate(value.encode(), OFFERED) == (coding and coding.encode())


def test_the_best_of_what_is_offered():
    assert negotiate(b"gzip, br, zstd", (b"gzip", b"br")) == b"gzip"
    assert negotiate(b"gzip, br;q=0.9" + b" " * 5000, (b"br", b"gzip")) == b"gzip"


CODING = st.sampled_from(["gzip", "br", "zstd", "identity", "*", "deflate", "x"])
WEIGHT = st.integers(0, 1000)


@given(st.dictionaries(CODING, WEIGHT))
def test_no_coding_that_the_client_refuses_is_chosen(wanted):
    value = ",".join(f"{coding};q={weight / 1000:.3f}" for coding, weight in wanted.items()).encode()
    assert weights(value) == {coding.encode(): weight for coding, weight in wanted.items()}
    chosen = negotiate(value, OFFERED)
    scores = {coding: wanted.get(coding, wanted.get("*", 0)) for coding in ("zstd", "br", "gzip")}
    if chosen is None:
        assert max(scores.values()) == 0 or max(scores.values()) < wanted.get("identity", 0)
    else:
        assert scores[chosen.decode()] == max(scores.values()) > 0
        assert scores[chosen.decode()] >= wanted.get("identity", 0)


@given(st.binary(max_size=60))
def test_any_value_is_read(value):
    assert negotiate(value, OFFERED) in (None, *OFFERED)
    assert normal(normal(value)) or not normal(value)


def test_what_means_the_same_is_the_same():
    assert normal(b"gzip, br") == normal(b"BR ,gzip;q=1.0") != normal(b"gzip")


def test_a_list_is_taken_apart_at_commas_outside_quotes():
    assert list_members([b'a, private="x, y" ,,b="\\",c"', b" d "]) == [b"a", b'private="x, y"', b'b="\\",c"', b"d"]
    # Who opens a quote and does not close it hides nothing behind it.
    assert list_members([b'a="open, b']) == [b'a="open', b"b"]


@pytest.mark.parametrize(
    ("lines", "more", "may"),
    [
        (["Content-Length: 2000", "Content-Type: text/html"], {}, True),
        (["Content-Length: 2000", "Content-Type: TEXT/HTML; charset=utf-8"], {}, True),
        (["Content-Length: 2000", "Content-Type: application/json"], {}, True),
        (["Transfer-Encoding: chunked", "Content-Type: text/plain"], {}, True),
        (["Content-Length: 2000", "Content-Type: text/html"], {"status": 201}, True),
        (["Content-Length: 2000", "Content-Type: text/html"], {"status": 203}, True),
        (["Content-Length: 2000", "Content-Type: text/html", 'ETag: "a"'], {}, True),
        (["Content-Length: 2000", "Content-Type: text/html", 'ETag: W/"a"'], {}, True),
        (["Content-Length: 2000", "Content-Type: text/html", "Cache-Control: max-age=1, public"], {}, True),
        # HAProxy's list of what is not compressed.
        (["Content-Length: 2000", "Content-Type: text/html"], {"version": 0}, False),
        (["Content-Length: 2000", "Content-Type: text/html"], {"status": 206}, False),
        (["Content-Length: 2000", "Content-Type: text/html"], {"status": 404}, False),
        (["Content-Length: 2000", "Content-Type: text/html"], {"status": 304}, False),
        (["Content-Type: text/html"], {}, False),
        (["Content-Length: 2000", "Content-Type: multipart/x"], {}, False),
        (["Content-Length: 2000", "Content-Type: text/html", "Cache-Control: a, No-Transform"], {}, False),
        (["Content-Length: 2000", "Content-Type: text/html", "Cache-Control: a", "Cache-Control: no-transform"],
         {}, False),
        (["Content-Length: 2000", "Content-Type: text/html", "Content-Encoding: br"], {}, False),
        (["Content-Length: 2000", "Content-Type: text/html", "Content-Encoding: identity"], {}, False),
        (["Content-Length: 2000", "Content-Type: text/html", "ETag: a"], {}, False),
        (["Content-Length: 2000", "Content-Type: text/html", 'ETag: "a"', 'ETag: "b"'], {}, False),
        # And ours.
        (["Content-Length: 999", "Content-Type: text/html"], {}, False),
        (["Content-Length: 2000"], {}, False),
        (["Content-Length: 2000", "Content-Type: image/png"], {}, False),
        (["Content-Length: 2000", "Content-Type: text"], {}, False),
        (["Content-Length: 2000", "Content-Type: application/jsonp"], {}, False),
        (["Content-Length: 2000", "Content-Type: text/html", "Content-Type: image/png"], {}, False),
        (["Content-Length: 2000", "Content-Type: text/html", "Content-Range: bytes 0-1/2"], {}, False),
        (["Content-Length: 2000", "Content-Type: text/html"], {"method": b"HEAD"}, False),
    ],
)  # fmt: skip
def test_what_may_be_encoded(lines, more, may):
    assert can_encode(response(*lines, **more), TEXTS, 1000) is may


def test_a_response_that_ends_with_its_connection_is_left_alone():
    head = response("Content-Type: text/html")
    assert head.body == UNTIL_CLOSE
    assert not can_encode(head, TEXTS, 1)


def test_the_head_of_what_is_encoded():
    head = response(
        "Server: x", "Content-Length: 2000", 'ETag: "a"', "Accept-Ranges: bytes", "Content-MD5: x", "Repr-Digest: y",
        "Content-Type: text/html", "Connection: keep-alive", "Set-Cookie: a=b",
    )  # fmt: skip
    out = encoded(head, b"br")
    assert out.body == CHUNKED
    assert out.size == head.size
    assert out.sets_cookie
    assert out.end_to_end.split(b"\r\n")[:-1] == [
        b"Server: x", b"Content-Type: text/html", b"Set-Cookie: a=b", b'ETag: W/"a"', b"Content-Encoding: br",
        b"Transfer-Encoding: chunked", b"Vary: Accept-Encoding",
    ]  # fmt: skip
    assert out.start == b"HTTP/1.1 200 X\r\n" + out.end_to_end
    known = encoded(head, b"br", 17)
    assert known.body == 17
    assert b"Content-Length: 17\r\n" in known.end_to_end
    assert b"Transfer-Encoding" not in known.end_to_end
    chunked = encoded(response("transfer-encoding: Chunked", 'ETag: W/"b"'), b"gzip").end_to_end
    assert chunked.lower().count(b"transfer-encoding") == 1
    assert b'W/"b"' in chunked
    assert b"W/W/" not in chunked


@pytest.mark.parametrize(
    ("tag", "asked", "told"),
    [
        ('"a"', 'W/"a"', b'W/"a"'),
        ('"a"', '"b", W/"a"', b'W/"a"'),
        ('"a"', '"a"', b'"a"'),
        ('"a"', '"a", W/"a"', b'"a"'),
        ('"a"', "*", b'"a"'),
        ('W/"a"', 'W/"a"', b'W/"a"'),
        ("a", "W/a", b"a"),
    ],
)
def test_a_client_is_told_the_tag_that_it_knows(tag, asked, told):
    head = f"GET / HTTP/1.1\r\nHost: t\r\nIf-None-Match: {asked}\r\n\r\n".encode()
    section = parse_request(head, Limits(65536, 65536, 200)).section
    out = weakened(response(f"ETag: {tag}", "X: y", status=304), section)
    assert out.end_to_end.count(b"ETag") == 1
    assert b"ETag: " + told + b"\r\n" in out.end_to_end
    assert b"X: y\r\n" in out.end_to_end


@pytest.mark.parametrize(
    ("line", "is_added"),
    [("X: y", True), ("Vary: Origin", True), ("Vary: X-Accept-Encoding", True),
     ("Vary: origin, ACCEPT-encoding", False), ("Vary: *", False)],
)  # fmt: skip
def test_what_it_depends_on_is_said_once(line, is_added):
    head = response(line, "Content-Length: 0")
    assert (b"\r\nVary: Accept-Encoding\r\n" in varied(head).end_to_end) is is_added
