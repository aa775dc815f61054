from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.observe.sessions import USAGE, SessionsError, details, line, number_of, parse
from balancer.pool.sessions import SessionView, Wanted

VIEW = SessionView(
    number=0x36E990081B8E67, mode="http", protocol="tcpv4", source="192.0.2.1:4242", began=1.5e9, age=5.25,
    frontend="web", backend="app", server="app1", requests=3, retries=1, expires=95.0, received=31, sent=7,
    to_server=0, to_client=4096, client_fd=29, server_fd=30, waits_for="server", listener="192.0.2.9:80",
    request='GET /"\x01 HTTP/1.1',
)  # fmt: skip


def test_a_line_has_what_haproxys_has() -> None:
    assert line(VIEW) == (
        "0x36e990081b8e67: proto=tcpv4 src=192.0.2.1:4242 fe=web be=app srv=app1 ts=00 epoch=0 age=5s calls=3 rate=0 "
        "cpu=0 lat=0 rq[f=00h,i=0,an=00h,rx=,wx=,ax=] rp[f=00h,i=4096,an=00h,rx=1m35s,wx=,ax=] "
        "scf=[8,0h,fd=29] scb=[8,0h,fd=30] exp=1m35s rc=1 c_exp=\n"
    )
    waiting = line(VIEW._replace(backend="", server="", waits_for="place", server_fd=-1, expires=None))
    assert " be=<NONE> srv=<none> " in waiting and "scb=[2,0h,fd=-1] exp= rc=1 c_exp=\n" in waiting
    assert line(VIEW, has_request=True).endswith(' uri="GET /\\x22\\x01 HTTP/1.1"\n')


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (3661, "1h1m"), (86400 + 7200, "1d2h")],
)
def test_times_are_their_two_largest_units(seconds: float, text: str) -> None:
    assert f" age={text} " in line(VIEW._replace(age=seconds))


def test_all_that_is_known() -> None:
    said = details(VIEW, {"web": 2, "/app": 5}).splitlines()
    assert said[0].startswith("0x36e990081b8e67: [") and said[0].endswith("proto=tcpv4 source=192.0.2.1:4242")
    assert all(each.startswith("  ") for each in said[1:])
    assert "  frontend=web (id=2 mode=http), listener=? (id=1) addr=192.0.2.9:80" in said
    assert "  backend=app (id=5 mode=http)" in said and "  server=app1" in said
    nobody = details(VIEW._replace(backend="", server="", mode="tcp"), {}).splitlines()
    assert "  backend=<NONE> (id=-1 mode=-)" in nobody and "  server=<NONE> (id=-1)" in nobody


def test_which_are_wanted() -> None:
    assert parse([]).wanted == Wanted() and not parse([]).is_whole
    assert parse(["all"]).is_whole
    asked = parse(["0x36e990081b8e67"])
    assert asked.is_whole and asked.wanted.has(VIEW) and not asked.wanted.has(VIEW._replace(number=1))
    for words, is_there in (
        ("frontend web", True), ("frontend app", False), ("backend app", True), ("backend web", False),
        ("server app/app1", True), ("server app/app2", False), ("server web/app1", False),
        ("older 5", True), ("older 6s", False), ("older 1m", False), ("frontend web older 1 show-uri", True),
    ):  # fmt: skip
        assert parse(words.split()).wanted.has(VIEW) is is_there, words
    assert parse(["all", "show-uri"]).has_request and parse(["susp"]).is_none


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("help", USAGE), ("nosuch", USAGE), ("all x", USAGE), ("frontend", USAGE), ("0x0", USAGE), ("-1", USAGE),
        ("server app1", "Require 'backend/server'."), ("older x", "'older' expects a time in seconds, not 'x'."),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(words: str, why: str) -> None:
    with pytest.raises(SessionsError) as caught:
        parse(words.split())
    assert str(caught.value) == why


@given(st.lists(st.sampled_from(["all", "older", "server", "0x1", "show-uri", "1"]) | st.text(max_size=8), max_size=6))
def test_whatever_is_asked_is_understood_or_refused(words: list[str]) -> None:
    try:
        parse(words).wanted.has(VIEW)
    except SessionsError as error:
        assert str(error)


@given(st.integers(1, (1 << 64) - 1))
def test_a_number_is_read_as_it_is_shown(number: int) -> None:
    assert number_of(f"{number:#x}") == number == number_of(str(number))
    assert number_of(f"x{number}") is None
