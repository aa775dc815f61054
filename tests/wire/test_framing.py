"""Chunked bodies: RFC 9112 section 7.1 row by row, at every split, and h11 as second opinion."""

from __future__ import annotations

import itertools
import time

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.errors import BadRequest, BadResponse
from balancer.wire.framing import ChunkedReader


def feed(pieces: list[bytes], *, payload_only: bool = False) -> tuple[bytes, bool, bytes]:
    reader = ChunkedReader(BadRequest, payload_only=payload_only)
    out = b"".join([reader.feed(piece) for piece in pieces])
    return out, reader.done, reader.rest


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# (RFC clause, body, what goes on, content)
BODIES = [
    ("9112 7.1", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    ("9112 7.1: nothing", b"0\r\n\r\n", b"0\r\n\r\n", b""),
    (
        "9112 7.1: several, case and zeros",
        b"1\r\na\r\n00a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n",
        b"1\r\na\r\n00a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n",
        b"a" + b"0123456789" * 2,
    ),
    (
        "9112 7.1: zeros without end",
        b"0" * 40 + b"a\r\n0123456789\r\n" + b"0" * 16 + b"\r\n\r\n",
        b"a\r\n0123456789\r\n0\r\n\r\n",
        b"0123456789",
    ),
    (
        "9112 7.1: content that looks like chunks",
        b"7\r\n0\r\n\r\n0\r\r\n0\r\n\r\n",
        b"7\r\n0\r\n\r\n0\r\r\n0\r\n\r\n",
        b"0\r\n\r\n0\r",
    ),
    (
        "9112 7.1.1: extensions go",
        b'5;a;b=c ; d = "e;\\"f"\r\nhello\r\n0;last\r\n\r\n',
        b"5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    (
        "9112 7.1.1: some have them",
        b"1\r\na\r\n1;x\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
        b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
        b"abc",
    ),
    ("9112 7.1.1: padding goes", b"5  \r\nhello\r\n0\t\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (
        "9112 7.1.2: trailers stay",
        b"1\r\na\r\n0\r\nX-Sum: 1\r\ny:\r\n\r\n",
        b"1\r\na\r\n0\r\nX-Sum: 1\r\ny:\r\n\r\n",
        b"a",
    ),
    (
        "9110 6.5.1: but not what frames or routes",
        b"1\r\na\r\n0\r\nContent-Length: 5\r\nX: 1\r\ntransfer-encoding: x\r\nHOST: b\r\nX-Real-IP: c\r\nY: 2\r\n\r\n",
        b"1\r\na\r\n0\r\nX: 1\r\nY: 2\r\n\r\n",
        b"a",
    ),
    ("9110 6.5.1: nothing stays", b"0\r\nCookie: a=b\r\n\r\n", b"0\r\n\r\n", b""),
]


@pytest.mark.parametrize(("clause", "body", "goes_on", "content"), BODIES, ids=[row[0] for row in BODIES])
def test_body_at_every_split(clause: str, body: bytes, goes_on: bytes, content: bytes) -> None:
    for rest in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        data = body + rest
        for payload_only, expected in ((False, goes_on), (True, content)):
            assert feed([data], payload_only=payload_only) == (expected, True, rest)
            assert feed(octets(data), payload_only=payload_only) == (expected, True, rest)
            for at in range(len(data)):
                assert feed([data[:at], data[at:]], payload_only=payload_only) == (expected, True, rest)
    for at in range(len(body)):
        out, done, rest = feed([body[:at]])
        assert (done, rest) == (False, b"")
        # RFC 9112 section 8: what is incomplete must not look complete.
        assert out != goes_on


def test_untouched_data_is_passed_on_as_the_same_object() -> None:
    whole = b"5\r\nhello\r\n0\r\n\r\n"
    assert ChunkedReader(BadRequest).feed(whole) is whole
    reader = ChunkedReader(BadRequest)
    assert reader.feed(b"ffff\r\n") == b"ffff\r\n"
    inside = b"x" * 1000
    assert reader.feed(inside) is inside
    across = b"x" * (0xFFFF - 1000) + b"\r\n1\r\na\r\n5\r\nhe"
    assert reader.feed(across) is across


def test_content_goes_on_before_its_chunk_is_complete() -> None:
    reader = ChunkedReader(BadResponse)
    assert reader.feed(b"5\r\nhe") == b"5\r\nhe"
    assert reader.feed(b"llo\r") == b"llo"
    assert reader.feed(b"\n1") == b"\r\n"
    assert reader.feed(b"0\r\n") == b"10\r\n"
    assert not reader.done


# (RFC clause, body)
REFUSED = [
    ("9112 7.1: not hexadecimal", b"g\r\n"),
    ("9112 7.1: 0x5", b"0x5\r\n"),
    ("9112 7.1: +5", b"+5\r\n"),
    ("9112 7.1: -5", b"-5\r\n"),
    ("9112 7.1: 1_0", b"1_0\r\n"),
    ("9112 7.1: space first", b" 5\r\n"),
    ("9112 7.1: no size", b"\r\n"),
    ("9112 7.1: extension without size", b";a\r\n"),
    ("9112 7.1: 16 digits", b"1000000000000000\r\n"),
    ("9112 7.1: overflow of 64 bits", b"10000000000000005\r\n"),
    ("9112 7.1: 5000 digits", b"f" * 5000),
    ("9112 7.1: full-width digit", b"\xef\xbc\x95\r\n"),
    ("9112 7.1: superscript", b"\xb2\r\n"),
    ("9112 7.1: two sizes", b"5 5\r\nhello\r\n"),
    ("9112 2.2: LF alone after the size", b"5\nhello\r\n"),
    ("9112 2.2: CR alone after the size", b"5\rhello\r\n"),
    ("9112 2.2: CR CR LF after the size", b"5\r\r\nhello\r\n"),
    ("9112 2.2: LF alone after the content", b"5\r\nhello\n0\r\n\r\n"),
    ("9112 7.1: content too long", b"5\r\nhello!\r\n"),
    ("9112 7.1: content too short", b"6\r\nhello\r\n0\r\n\r\n"),
    ("9112 7.1: CR and no LF after the content", b"5\r\nhello\rx"),
    ("9112 7.1.1: LF in an extension", b"5;a\nb\r\nhello\r\n"),
    ("9112 7.1.1: CR in an extension", b"5;a\rb\r\nhello\r\n"),
    ("9112 7.1.1: NUL in an extension", b"5;a\0\r\n"),
    ("9112 7.1.1: empty name", b"5;\r\nhello\r\n"),
    ("9112 7.1.1: no semicolon", b"5 a\r\nhello\r\n"),
    ("9112 7.1.1: open quote", b'5;a="b\r\nhello\r\n'),
    ("9112 7.1.1: line too long", b"5;" + b"a" * 2000),
    ("9112 7.1.1: line too long, complete", b"5;" + b"a" * 2000 + b"\r\nhello\r\n"),
    ("9112 7.1.2: trailer without colon", b"0\r\nx\r\n\r\n"),
    ("9112 7.1.2: space before the colon", b"0\r\nx : 1\r\n\r\n"),
    ("9112 7.1.2: folded", b"0\r\nx: 1\r\n y\r\n\r\n"),
    ("9112 7.1.2: LF alone", b"0\r\nx: 1\ny: 2\r\n\r\n"),
    ("9112 7.1.2: NUL", b"0\r\nx: \0\r\n\r\n"),
    ("9112 7.1.2: empty name", b"0\r\n: 1\r\n\r\n"),
    ("9112 7.1.2: CR alone", b"0\r\n\rx\r\n\r\n"),
    ("9112 7.1.2: too large", b"0\r\nx: " + b"1" * 8192 + b"\r\n\r\n"),
    ("9112 7.1.2: too large without an end", b"0\r\n" + b"x: 1\r\n" * 2000),
]


@pytest.mark.parametrize(("clause", "body"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(clause: str, body: bytes) -> None:
    for payload_only in (False, True):
        with pytest.raises(BadResponse) as refused:
            ChunkedReader(BadResponse, payload_only=payload_only).feed(body)
        assert refused.value.why.isprintable()
        with pytest.raises(BadRequest):
            feed(octets(body), payload_only=payload_only)


@pytest.mark.parametrize(
    "data",
    [
        *(b"x", b"0x", b"5\n", b"5\rx", b"5;\0", b"1" * 16, b"0" * 16 + b"1" * 16),
        *(b"0\r\n\n", b"0\r\nx\r", b"0\r\nx y", b"0\r\nx: 1\n", b"0\r\nx: 1\r\n y", b"0\r\nx: \0", b"0\r\n\rx"),
    ],
)
def test_a_wrong_line_is_refused_before_it_ends(data: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedReader(BadRequest).feed(data)


def test_15_digits_are_a_size_and_held_as_a_number() -> None:
    reader = ChunkedReader(BadRequest)
    assert reader.feed(b"fffffffffffffff\r\nx") == b"fffffffffffffff\r\nx"
    assert reader.feed(b"y" * 10) == b"y" * 10
    assert not reader.done


def test_extensions_without_content_are_refused_in_the_long_run() -> None:
    chunk = b"1;" + b"a" * 500 + b"\r\nx\r\n"
    reader = ChunkedReader(BadRequest)
    with pytest.raises(BadRequest, match="extensions"):
        for _ in range(100):
            reader.feed(chunk)


def test_extensions_beside_content_are_not() -> None:
    chunk = b"1000;signature=" + b"a" * 64 + b"\r\n" + b"x" * 4096 + b"\r\n"
    reader = ChunkedReader(BadRequest, payload_only=True)
    for _ in range(1000):
        assert reader.feed(chunk) == b"x" * 4096
    # However the content is cut.
    for _ in range(1000):
        assert (
            b"".join([reader.feed(chunk[:100]), reader.feed(chunk[100:3000]), reader.feed(chunk[3000:])]) == b"x" * 4096
        )


def test_nothing_goes_on_after_the_end() -> None:
    reader = ChunkedReader(BadRequest)
    assert reader.feed(b"0\r\n\r\nab") == b"0\r\n\r\n"
    assert reader.feed(b"cd") == b""
    assert reader.rest == b"abcd"


CHUNK = st.tuples(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([b"", b"", b"", b";a", b";a=b;c", b' ; a = "b\\"\t;"', b"  "]),
    st.sampled_from([b"%x", b"%X", b"00%x"]),
)
TRAILER = st.sampled_from([b"X: 1\r\n", b"y:\r\n", b"Host: b\r\n", b"Content-Length: 5\r\n"])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes, list[int]]:
    chunks = draw(st.lists(CHUNK, max_size=6))
    body = b"".join(
        [size % len(content) + extension + b"\r\n" + content + b"\r\n" for content, extension, size in chunks]
    )
    body += b"0\r\n" + b"".join(draw(st.lists(TRAILER, max_size=3))) + b"\r\n"
    cuts = sorted(draw(st.sets(st.integers(0, len(body)), max_size=8)))
    return body, b"".join([chunk[0] for chunk in chunks]), [0, *cuts, len(body)]


@settings(max_examples=300, deadline=None)
@given(bodies())
def test_any_body_however_cut(drawn: tuple[bytes, bytes, list[int]]) -> None:
    body, content, cuts = drawn
    pieces = [body[start:end] for start, end in itertools.pairwise(cuts)]
    goes_on, done, rest = feed(pieces)
    assert (done, rest) == (True, b"")
    assert feed([body]) == (goes_on, True, b"")
    assert feed(pieces, payload_only=True) == (content, True, b"")
    # What goes on is itself valid and needs nothing more done to it.
    assert feed([goes_on]) == (goes_on, True, b"")

    conn = h11.Connection(h11.SERVER)
    conn.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + goes_on)
    assert isinstance(conn.next_event(), h11.Request)
    theirs = b""
    while isinstance(event := conn.next_event(), h11.Data):
        theirs += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert theirs == content
    assert not {name for name, _ in event.headers} & {b"host", b"content-length"}


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_bodies_are_read_or_refused_alike_however_cut(data: st.DataObject) -> None:
    body = bytearray(data.draw(bodies())[0])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'\0\t\n\r ;"0fg\xff'))
    whole = bytes(body)
    outcomes = set()
    for pieces in ([whole], octets(whole), *([whole[:at], whole[at:]] for at in range(1, len(whole)))):
        try:
            outcomes.add(feed(pieces))
        except BadRequest:
            outcomes.add((b"refused", False, b""))
    assert len(outcomes) == 1


def test_chunks_of_one_octet_cost_little() -> None:
    body = b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"
    for payload_only in (False, True):
        started = time.process_time()
        out, done, _ = feed([body], payload_only=payload_only)
        assert done
        assert len(out) == (50_000 if payload_only else len(body))
        # 1 µs an octet with a margin for slow machines.
        assert time.process_time() - started < 3e-6 * len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\n" + b"x: 1\r\n" * 1360,
        b"5" + b';a="' * 250,
        b"5;" + b'a="\\\\' * 200,
        b"5" + b" \t" * 500,
        b"1;a\r\nx\r\n" * 8000,
    ],
    ids=range(5),
)
def test_drops_of_malice_cost_little(body: bytes) -> None:
    started = time.process_time()
    for pieces in ([body], octets(body)):
        try:
            feed(pieces)
        except BadRequest:
            continue
    assert time.process_time() - started < 2


@pytest.mark.parametrize("text", [b"5\r\nabcde\r\n5\r\nabcde\r\n0\r\n\r\n", b"a;x=1\r\nabcdeabcde\r\n0\r\n\r\n"])
@pytest.mark.parametrize("most", [9, 10])
def test_content_has_a_bound(text: bytes, most: int) -> None:
    for step in (1, 3, len(text)):
        reader = ChunkedReader(BadRequest, payload_only=True, most=most)
        content = b""
        try:
            for at in range(0, len(text), step):
                content += reader.feed(text[at : at + step])
        except BadRequest as error:
            assert (most, error.status) == (9, 413)
            assert len(content) <= most
        else:
            assert most == 10
            assert reader.done
