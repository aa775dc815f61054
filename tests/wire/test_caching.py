"""What may be kept, for how long and for whom, clause by clause of RFC 9111."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.wire.caching import (
    Freshness,
    Wish,
    hides_fields,
    http_date,
    is_not_modified,
    judge,
    kept,
    not_modified,
    read_date,
    selected,
    steering,
    varies_on,
    wish,
)
from balancer.wire.http1 import Limits, parse_request, parse_response

NOW = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT"""
BEFORE, THEN, AFTER = "Sun, 06 Nov 1994 08:48:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:37 GMT"
LIMITS = Limits(65536, 65536, 200)
DAY = 86400.0


def asked(*lines, method="GET"):
    head = "".join(f"{line}\r\n" for line in (f"{method} / HTTP/1.1", "Host: t", *lines, ""))
    return parse_request(head.encode("latin-1"), LIMITS).section


def answered(*lines, status=200, length=5):
    lines = (*lines, f"Content-Length: {length}") if length is not None else lines
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", *lines, ""))
    return parse_response(head.encode("latin-1"), LIMITS, b"GET")


def lifetime(*lines, wanted=Wish(), delay=0.0, **more):  # noqa: B008
    """Seconds for which it is fresh from now on; None where it is not kept."""
    fresh = judge(wanted, answered(*lines, **more), now=NOW, delay=delay)
    return fresh and fresh.lifetime - fresh.age


CREDENTIALS = Wish(has_credentials=True)


@pytest.mark.parametrize(
    ("lines", "more", "seconds"),
    [
        # Section 4.2.1: s-maxage, then max-age, then Expires.
        (["Cache-Control: max-age=60"], {}, 60),
        (["Cache-Control: MAX-AGE=60"], {}, 60),
        (["cache-control: public, max-age=60"], {}, 60),
        (["Cache-Control: max-age=60, s-maxage=30"], {}, 30),
        (["Cache-Control: s-maxage=90", "Cache-Control: max-age=0"], {}, 90),
        (["Cache-Control: s-maxage=0, max-age=60"], {}, None),
        (["Cache-Control: max-age=0"], {}, None),
        (["Cache-Control: max-age=60", f"Expires: {BEFORE}"], {}, 60),
        ([f"Expires: {AFTER}", f"Date: {THEN}"], {}, 60),
        ([f"Expires: {AFTER}"], {}, 60),
        ([f"Expires: {THEN}", f"Date: {THEN}"], {}, None),
        ([f"Expires: {BEFORE}", f"Date: {THEN}"], {}, None),
        # Section 5.3: what is no date is in the past.
        (["Expires: 0"], {}, None),
        (["Expires: -1"], {}, None),
        (["Expires: Sun, 06 Nov 1994 08:50:37 +0000"], {}, None),
        # No heuristics (section 4.2.2).
        ([], {}, None),
        (["Cache-Control: public"], {}, None),
        (['ETag: "a"', f"Last-Modified: {BEFORE}"], {}, None),
        # Section 4.2.1: said twice in two ways, or not as a number, it is stale.
        (["Cache-Control: max-age=60, max-age=60"], {}, 60),
        (["Cache-Control: max-age=60, max-age=90"], {}, None),
        (["Cache-Control: max-age=60", "Cache-Control: max-age=90"], {}, None),
        (["Cache-Control: max-age=-1"], {}, None),
        (["Cache-Control: max-age=1.5"], {}, None),
        (["Cache-Control: max-age"], {}, None),
        (["Cache-Control: max-age="], {}, None),
        (["Cache-Control: s-maxage=x, max-age=60"], {}, None),
        ([f"Expires: {AFTER}", f"Expires: {BEFORE}"], {}, None),
        ([f"Expires: {AFTER}", f"Date: {THEN}", f"Date: {BEFORE}"], {}, None),
        # Section 5.2: in quotes too. Section 1.2.2: as large as may be.
        (['Cache-Control: max-age="60"'], {}, 60),
        (["Cache-Control: max-age=99999999999999999999"], {}, 1 << 31),
        (["Cache-Control: max-age=" + "9" * 33], {}, None),
        # Sections 5.2.2.4, 5.2.2.5 and 5.2.2.7, with field names too.
        (["Cache-Control: max-age=60, no-store"], {}, None),
        (["Cache-Control: max-age=60, No-Store"], {}, None),
        (["Cache-Control: max-age=60", "Cache-Control: private"], {}, None),
        (['Cache-Control: max-age=60, private="set-cookie, x"'], {}, None),
        (["Cache-Control: max-age=60, no-cache"], {}, None),
        (['Cache-Control: max-age=60, no-cache="set-cookie"'], {}, None),
        (["Cache-Control: max-age=60 , no-store = x"], {}, None),
        (['Cache-Control: max-age=60, x="no-store"'], {}, 60),
        (['Cache-Control: x="open, no-store, max-age=60'], {}, None),
        (["Cache-Control: max-age=60, no-storex"], {}, 60),
        (["Pragma: no-cache", "Cache-Control: max-age=60"], {}, None),
        # Section 3: a final 200, whole.
        (["Cache-Control: max-age=60"], {"status": 203}, None),
        (["Cache-Control: max-age=60"], {"status": 206}, None),
        (["Cache-Control: max-age=60"], {"status": 404}, None),
        (["Cache-Control: max-age=60"], {"status": 301}, None),
        (["Cache-Control: max-age=60"], {"status": 304}, None),
        (["Cache-Control: max-age=60"], {"length": None}, None),
        (["Cache-Control: max-age=60", "Transfer-Encoding: chunked"], {"length": None}, 60),
        (["Cache-Control: max-age=60", "Content-Range: bytes 0-4/9"], {}, None),
        (["Cache-Control: max-age=60"], {"length": 0}, 60),
        # For one client alone.
        (["Cache-Control: public, max-age=60", "Set-Cookie: a=b"], {}, None),
        (["Cache-Control: max-age=60", "set-cookie2: a=b"], {}, None),
        # Section 3.5: to requests with credentials.
        (["Cache-Control: max-age=60"], {"wanted": CREDENTIALS}, None),
        (["Cache-Control: max-age=60, public"], {"wanted": CREDENTIALS}, 60),
        (["Cache-Control: s-maxage=60"], {"wanted": CREDENTIALS}, 60),
        (["Cache-Control: max-age=60, must-revalidate"], {"wanted": CREDENTIALS}, 60),
        (["Cache-Control: max-age=60, proxy-revalidate"], {"wanted": CREDENTIALS}, None),
        # Section 5.2.1.5.
        (["Cache-Control: public, max-age=60"], {"wanted": Wish(may_store=False)}, None),
        # Section 4.1.
        (["Cache-Control: max-age=60", "Vary: *"], {}, None),
        (["Cache-Control: max-age=60", "Vary: a, *"], {}, None),
        (["Cache-Control: max-age=60", "Vary: a"], {}, 60),
        # A server that forgot to say so.
        (["Cache-Control: max-age=60", "Content-Encoding: gzip"], {}, None),
        (["Cache-Control: max-age=60", "Content-Encoding: gzip", "Vary: Accept-Encoding"], {}, 60),
        # Section 4.2.3: what it is of age already.
        (["Cache-Control: max-age=60", "Age: 20"], {}, 40),
        (["Cache-Control: max-age=60", "Age: 60"], {}, None),
        (["Cache-Control: max-age=60", "Age: 99999999999999999999"], {}, None),
        (["Cache-Control: max-age=60", "Age: x"], {}, None),
        (["Cache-Control: max-age=60", "Age: -5"], {}, None),
        (["Cache-Control: max-age=60", "Age: 1", "Age: 2"], {}, None),
        (["Cache-Control: max-age=90", f"Date: {BEFORE}"], {}, 30),
        (["Cache-Control: max-age=90", f"Date: {BEFORE}", "Age: 70"], {}, 20),
        (["Cache-Control: max-age=60", f"Date: {AFTER}"], {}, 60),
        (["Cache-Control: max-age=60", "Date: yesterday"], {}, 60),
        (["Cache-Control: max-age=60"], {"delay": 10.5}, 50),
        (["Cache-Control: max-age=60", "Age: 20"], {"delay": 10.0}, 30),
        (["Cache-Control: max-age=60"], {"delay": 60.0}, None),
    ],
)
def test_how_long_it_is_kept(lines, more, seconds):
    assert lifetime(*lines, **more) == seconds


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([], Wish()),
        (["Cookie: a=b", "Accept: */*"], Wish()),
        (["Cache-Control: no-cache"], Wish(may_use=False)),
        (["Cache-Control: a, No-Cache"], Wish(may_use=False)),
        (["Cache-Control: no-store"], Wish(may_use=False, may_store=False)),
        (["Cache-Control: max-age=0"], Wish(may_use=False, max_age=0)),
        (["Cache-Control: max-age=5, min-fresh=7"], Wish(max_age=5, min_fresh=7)),
        (["Cache-Control: max-age=x"], Wish(may_use=False, max_age=0)),
        (["Cache-Control: min-fresh=x"], Wish(min_fresh=1 << 31)),
        (["Cache-Control: max-stale"], Wish()),
        (["Cache-Control: only-if-cached"], Wish(only_if_cached=True)),
        # Section 5.4.
        (["Pragma: no-cache"], Wish(may_use=False)),
        (["Pragma: x, No-Cache"], Wish(may_use=False)),
        (["Pragma: no-cache", "Cache-Control: max-age=5"], Wish(max_age=5)),
        (["Authorization: Basic x"], Wish(has_credentials=True)),
        # For the origin alone.
        (["Range: bytes=0-1"], Wish(may_use=False, may_store=False)),
        (["If-Range: x"], Wish(may_use=False, may_store=False)),
        (["If-Match: *"], Wish(may_use=False, may_store=False)),
        (["If-Unmodified-Since: x"], Wish(may_use=False, may_store=False)),
        (["X-Range: bytes=0-1", 'If-None-Match: "a"'], Wish()),
    ],
)
def test_what_a_request_wishes(lines, wanted):
    assert wish(asked(*lines)) == wanted


@pytest.mark.parametrize(
    ("wanted", "now", "suits"),
    [
        (Wish(), NOW, True),
        (Wish(), NOW + 49.9, True),
        (Wish(), NOW + 50, False),
        (Wish(max_age=20), NOW + 10, True),
        (Wish(max_age=20), NOW + 11, False),
        (Wish(max_age=0), NOW, False),
        (Wish(min_fresh=10), NOW + 39, True),
        (Wish(min_fresh=10), NOW + 40, False),
        (CREDENTIALS, NOW, False),
        # The clock was set back.
        (Wish(), NOW - 1, False),
    ],
)
def test_whom_it_suits(wanted, now, suits):
    assert Freshness(NOW, age=10, lifetime=60, is_for_all=False).suits(wanted, now, DAY) is suits


def test_it_is_kept_no_longer_than_the_operator_says():
    fresh = Freshness(NOW, age=10, lifetime=600, is_for_all=True)
    assert fresh.suits(CREDENTIALS, NOW + 29, 30.0)
    assert not fresh.suits(Wish(), NOW + 30, 30.0)
    assert fresh.age_at(NOW + 29.9) == 39
    assert fresh.age_at(NOW - 99) == 10


@given(
    st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 34), st.floats(0, 1e9), st.floats(0, 1e9),
)  # fmt: skip
def test_nothing_is_served_stale(max_age, age, date, delay, later):
    """Whatever is said, nothing is given out that is older than its lifetime."""
    head = answered(f"Cache-Control: max-age={max_age}", f"Age: {age}", f"Date: {http_date(date).decode()}")
    fresh = judge(Wish(), head, now=NOW, delay=delay)
    if fresh is not None and fresh.suits(Wish(), NOW + later, 1e12):
        assert int(later) + max(age + int(delay), int(NOW) - date) <= min(max_age, 1 << 31)


@given(st.lists(st.text(st.characters(codec="latin-1", exclude_categories=("Cc",)), max_size=20), max_size=4))
def test_any_cache_control_is_read(values):
    lines = [f"Cache-Control: {value}" for value in values]
    fresh = judge(Wish(), answered(*lines), now=NOW, delay=0.0)
    assert fresh is None or fresh.lifetime > fresh.age >= 0
    wish(asked(*lines))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", NOW),
        ("Sunday, 06-Nov-94 08:49:37 GMT", NOW),
        ("Sun Nov  6 08:49:37 1994", NOW),
        ("Sunday, 06-Nov-69 08:49:37 GMT", 3_150_953_377),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:49:37 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 06 Nov 1994 08:49:37", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("sun, 06 nov 1994 08:49:37 gmt", None),
        ("", None),
    ],
)
def test_dates(text, at):
    assert read_date(text.encode()) == at


@given(st.integers(0, 4_000_000_000))
def test_a_date_that_is_written_can_be_read(at):
    assert http_date(at).decode() == email.utils.formatdate(at, usegmt=True)
    assert read_date(http_date(at)) == at


def test_what_chooses_among_several():
    names = varies_on(answered("Vary: Accept-Language, accept-encoding", "vary: ACCEPT-language"))
    assert names == (b"accept-encoding", b"accept-language")
    one = selected(names, asked("Accept-Encoding: gzip, br", "Accept-Language: de"))
    assert one == selected(names, asked("Accept-Encoding: br;q=1.0 , GZIP", "Accept-Language: de", "X: y"))
    assert one != selected(names, asked("Accept-Encoding: gzip, br"))
    assert one != selected(names, asked("Accept-Encoding: gzip", "Accept-Language: de"))
    assert selected((b"a",), asked()) != selected((b"a",), asked("A:"))
    assert selected((b"a",), asked("A: 1", "A: 2")) == selected((b"a",), asked("A: 1,2"))
    assert selected((b"a", b"b"), asked("A: 1")) != selected((b"a", b"b"), asked("B: 1"))


@pytest.mark.parametrize(
    "line",
    ["X-Forwarded-Host: evil", "x_forwarded_host: evil", "X-Original-URL: /admin", "X-Rewrite-Url: /admin",
     "X-HTTP-Method-Override: POST", "X-Forwarded-Proto: https", "X-Host: evil", "Forwarded: for=a;host=evil",
     "Forwarded: for=a, HOST = evil", "Front-End-Https: on"],
)  # fmt: skip
def test_headers_that_steer_servers_set_a_request_apart(line):
    assert steering(asked(line))
    assert steering(asked(line)) == steering(asked("Accept: x", line))
    assert steering(asked(line)) != steering(asked(line + "2"))


@pytest.mark.parametrize(
    ("lines", "hides"),
    [([], False), (["Connection: keep-alive"], False), (["Connection: TE, close", "TE: trailers"], False),
     (["Connection: X-Tenant", "X-Tenant: a"], True), (["Connection: close, cookie", "Cookie: a=b"], True),
     (["Connection: x-none"], False)],
)  # fmt: skip
def test_fields_that_do_not_go_on(lines, hides):
    assert hides_fields(asked(*lines)) is hides


def test_others_do_not():
    assert steering(asked("X-Forwarded-For: 1.2.3.4", "X-Request-ID: 1", "Cookie: a=b", "X-Other: c")) == b""
    assert steering(asked("Forwarded: for=1.2.3.4;by=x")) == b""
    one, other = asked("Forwarded: for=a;proto=https"), asked("Forwarded: for=b;proto=https")
    assert steering(one) == steering(other) != b""


def test_the_head_that_is_kept():
    head = kept(
        answered(
            "Server: x", "Age: 7", "Transfer-Encoding: chunked", "Trailer: x", "Connection: close, x-hop", "X-Hop: 1",
            "Proxy-Authenticate: y", length=None,
        ),
        17,
        NOW,
    )  # fmt: skip
    assert head.end_to_end == f"Server: x\r\nDate: {THEN}\r\nContent-Length: 17\r\n".encode()
    assert head.start == b"HTTP/1.1 200 X\r\n" + head.end_to_end
    assert head.body == 17
    assert kept(answered(f"Date: {BEFORE}"), 5, NOW).end_to_end == f"Date: {BEFORE}\r\nContent-Length: 5\r\n".encode()


@pytest.mark.parametrize(
    ("lines", "has"),
    [
        ([], False),
        # RFC 9110 sections 13.1.2 and 8.8.3.2.
        (['If-None-Match: "a"'], True),
        (['If-None-Match: W/"a"'], True),
        (['If-None-Match: "b", "a"'], True),
        (['If-None-Match: "b"', 'If-None-Match: "a"'], True),
        (['If-None-Match: "x,\\"a"'], False),
        (["If-None-Match: *"], True),
        (['If-None-Match: "b"'], False),
        (["If-None-Match: a"], False),
        # It goes before If-Modified-Since.
        (['If-None-Match: "b"', f"If-Modified-Since: {AFTER}"], False),
        ([f"If-Modified-Since: {THEN}"], True),
        ([f"If-Modified-Since: {AFTER}"], True),
        ([f"If-Modified-Since: {BEFORE}"], False),
        (["If-Modified-Since: today"], False),
        ([f"If-Modified-Since: {THEN}", f"If-Modified-Since: {BEFORE}"], False),
    ],
)
def test_who_has_it_already(lines, has):
    assert is_not_modified(asked(*lines), answered('ETag: "a"', f"Last-Modified: {THEN}")) is has
    weak = answered('ETag: W/"a"', f"Last-Modified: {THEN}")
    assert is_not_modified(asked(*lines), weak) is has
    if lines and lines != ["If-None-Match: *"]:
        assert not is_not_modified(asked(*lines), answered())


def test_what_says_so():
    head = not_modified(
        answered(
            f"Date: {THEN}", 'ETag: "a"', "Content-Type: x", "Vary: y", "Cache-Control: z", f"Last-Modified: {THEN}"
        )
    )
    assert head.start.split(b"\r\n")[:-1] == [
        b"HTTP/1.1 304 Not Modified", f"Date: {THEN}".encode(), b'ETag: "a"', b"Vary: y", b"Cache-Control: z",
    ]  # fmt: skip
    assert (head.status, head.body) == (304, 0)
