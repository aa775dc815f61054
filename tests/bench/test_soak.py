"""What the soak takes for wrong, and what not."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from dataclasses import replace

import customers
import pytest
import rogues
import soak
from customers import Ask, Line, Tally
from soak import Lull, Reading, Report, Rest

BEFORE = Reading({1: 10_000, 2: 10_000, 3: 9000, 4: 9000}, {1: 20, 2: 25, 3: 30, 4: 30}, 0, 2, {})
LULL = Lull(60.0, 1.0, BEFORE, [])
WELL = Tally(plain=Counter(whole=990, own=10), packed=1)


def report(*lulls: Lull) -> Report:
    return Report(600.0, BEFORE, list(lulls or (LULL, LULL, LULL, LULL)), status=0, kept=1)


def test_all_is_well() -> None:
    assert BEFORE.excess(BEFORE) == []
    assert soak.problems(report(), WELL) == []


@pytest.mark.parametrize(
    ("now", "what"),
    [
        ({"gauges": {"frontend_current_sessions": 1}}, "frontend_current_sessions is 1"),
        ({"tasks": 3}, "3 tasks, 2 before the load"),
        (
            {"descriptors": {1: 20, 2: 25, 3: 30, 5: 31}},
            "descriptors [20, 25, 30, 31], [20, 25, 30, 30] before the load",
        ),
        ({"descriptors": {1: 20, 2: 25, 3: 30}}, "3 processes, 4 before the load"),
        ({"kept": soak.MOST_KEPT + 1}, "25 sockets of one process towards DNS servers, 24 are to be enough"),
    ],
)
def test_what_is_left(now: dict[str, object], what: str) -> None:
    assert what in replace(BEFORE, **now).excess(BEFORE)


def test_what_comes_and_goes_is_not_what_is_left() -> None:
    """Of each process what it has all the time; and while anything of the load is there it is not at rest."""
    rest = Rest()
    busy = replace(BEFORE, gauges={"frontend_current_sessions": 1})
    for i in range(9):
        rest.add(replace(BEFORE, descriptors={1: 20, 2: 25 + i % 3, 3: 31, 4: 30 + i % 2}, tasks=2 + i))
    assert rest.missing
    rest.add(busy)
    assert "frontend_current_sessions" in rest.missing
    for i in range(10):
        assert rest.missing
        found = rest.add(replace(BEFORE, descriptors={1: 20, 2: 25 + i % 3, 3: 31, 4: 30 + i % 2}, tasks=2 + i))
    assert not rest.missing
    assert found.excess(BEFORE) == ["descriptors [20, 25, 30, 31], [20, 25, 30, 30] before the load"]
    rest.add(replace(BEFORE, descriptors={1: 20, 2: 25, 3: 30}))
    assert rest.missing == "not at rest: processes come and go"


def test_fewer_descriptors_are_no_leak() -> None:
    assert replace(BEFORE, descriptors={1: 20, 2: 25, 3: 28, 4: 30}).excess(BEFORE) == []


@pytest.mark.parametrize(
    ("found", "tally", "what"),
    [
        (report(LULL, LULL, replace(LULL, left=["3 tasks"])), WELL, "after 60 s of load: 3 tasks"),
        (report(), replace(WELL, wrong=["another's"]), "another's"),
        (
            report(),
            Tally(plain=Counter(whole=80, own=20), packed=1),
            "of 100 plain requests only 80 were answered by a server",
        ),
        (report(), Tally(packed=1), "of 0 plain requests only 0 were answered by a server"),
        (report(), replace(WELL, packed=0), "no answer came compressed"),
        (replace(report(), kept=0), WELL, "no answer was kept"),
        (replace(report(), said=["<131>oh"]), WELL, "logged: <131>oh"),
        (replace(report(), faults=2), WELL, "2 internal errors counted"),
        (replace(report(), status=1), WELL, "it ended with status 1"),
    ],
)
def test_what_is_wrong(found: Report, tally: Tally, what: str) -> None:
    assert soak.problems(found, tally) == [what]


def test_memory_that_grows() -> None:
    later = replace(LULL, reading=replace(BEFORE, memory_kib={**BEFORE.memory_kib, 3: 13_000}))
    assert soak.problems(report(LULL, LULL, LULL, later), WELL) == [
        "process 3: 9000 KiB once it was warm, 13000 at the end"
    ]
    assert soak.problems(report(LULL, later, later, later), WELL) == [], "as long as it was not"


ASK = Ask("n1", size=10)
BODY = rogues.body_of("n1", 10)


def said(octets: bytes, ask: Ask = ASK, *, is_tcp: bool = False) -> str:
    """What is made of an answer after which the connection is closed."""

    async def judge() -> str:
        reader = asyncio.StreamReader()
        reader.feed_data(octets)
        reader.feed_eof()
        return await Line(reader, None, "127.0.0.5", is_tcp).answer(ask)  # type: ignore[arg-type]

    return asyncio.run(judge())


def answer(name: str = "n1", body: bytes = BODY, *, got: str = "GET 0-00000000", saw: str = "127.0.0.5") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nX-Id: {name}\r\nX-Got: {got}\r\nX-Saw: {saw}\r\nContent-Length: 10\r\n\r\n"
    return head.encode() + body


def test_its_own_answer() -> None:
    assert said(answer()) == "whole"
    assert said(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer()) == "whole"
    assert said(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n") == "503"


def packed(body: bytes, cut: int = 0) -> bytes:
    body = gzip.compress(body)[: -cut or None]
    head = b"HTTP/1.1 200 OK\r\nX-Id: n1\r\nX-Got: GET 0-00000000\r\nX-Saw: 127.0.0.5\r\nContent-Encoding: gzip\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_a_compressed_one() -> None:
    assert said(packed(BODY)) == "whole"
    assert said(packed(b""), Ask("n1", size=0)) == "whole"
    with pytest.raises(customers._Wrong, match="not the one"):
        said(packed(b"n2;n2;n2;n"))
    with pytest.raises(customers._Wrong, match="not whole"):
        said(packed(BODY, cut=4))


@pytest.mark.parametrize("octets", [b"", answer()[:30], answer()[:-1]])
def test_an_answer_that_was_cut_off(octets: bytes) -> None:
    with pytest.raises(customers._Cut):
        said(octets)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (answer("n2"), "got the answer to 'n2'"),
        (answer(body=b"n2;n2;n2;n"), "not the one"),
        (answer(got="GET 5-00000000"), "the server got"),
        (answer(saw="127.0.0.6"), "was told of '127.0.0.6'"),
        (answer(saw="127.0.0.5, 127.0.0.5"), "was told of"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "answered 400"),
        (b"\x00\x01\r\n\r\n", "begins"),
    ],
)
def test_an_answer_that_must_not_be(octets: bytes, why: str) -> None:
    with pytest.raises(customers._Wrong, match=why):
        said(octets)


def test_no_two_bodies_are_alike() -> None:
    assert rogues.body_of("n1", 100) != rogues.body_of("n2", 100)
    assert rogues.body_of("n1", 0) == b""
    assert rogues.checksum(b"") == "0-00000000"
