from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

import pytest

from balancer.observe.command import Desk, Level, Session, obey
from balancer.observe.sources import wanted
from balancer.pool.sources import CONNECTIONS, ERRORS, Block, Geometry, Table

HEAD = "# table: web, type: ipv6, size:64, used:2\n"


@pytest.fixture
def desk() -> Desk:
    geometry = Geometry(64, 64, (3600.0, 0.0, 7200.0))
    blocks = [Block(geometry), Block(geometry)]
    now = time.monotonic()
    for number, table in enumerate((Table(b"key", blocks[0], [blocks[1]]), Table(b"key", blocks[1], [blocks[0]]))):
        busy, other = table.place(bytes([192, 0, 2, 7]), now), table.place(bytes([32, 1, *bytes(14)]), now)
        table.enter(busy)
        for _ in range(3 + number):
            table.hit(busy, CONNECTIONS, now)
        if number:
            table.hit(other, ERRORS, now)
    return Desk(now=lambda: 0.0, tables={"web": blocks, "empty": [Block(geometry)]})


def say(desk: Desk, *words: str) -> str:
    return asyncio.run(obey(["show", "table", *words], Session(Level.USER, severity="number"), desk))


def test_a_table_in_lines(desk: Desk) -> None:
    head, *lines = say(desk, "web").splitlines()
    assert head + "\n" == HEAD
    assert sorted(re.sub(r"^0x[0-9a-f]+: |exp=\d+", "", line) for line in lines) == [
        "key=192.0.2.7 use=2  shard=0 conn_cur=2 conn_rate(3600000)=7 http_err_rate(7200000)=0",
        "key=2001::/64 use=0  shard=0 conn_cur=0 conn_rate(3600000)=0 http_err_rate(7200000)=1",
    ]
    (busy,) = [line for line in lines if "use=2" in line]
    assert " exp=14400000 " in busy
    assert say(desk) == HEAD + "# table: empty, type: ipv6, size:64, used:0\n"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("key 192.0.2.7", ["192.0.2.7"]), ("key 2001::99", ["2001::/64"]), ("key 192.0.2.8", []),
        ("data.conn_cur gt 1", ["192.0.2.7"]), ("data.conn_rate eq 7", ["192.0.2.7"]),
        ("data.http_err_rate ge 1", ["2001::/64"]), ("data.http_req_rate ne 0", []),
    ],
)  # fmt: skip
def test_a_filter(desk: Desk, words: str, found: list[str]) -> None:
    assert re.findall(r"key=(\S+)", say(desk, "web", *words.split())) == found


@pytest.mark.parametrize("words", [("key", "nosuch"), ("data.nosuch", "gt", "1"), ("data.conn_cur", "gt", "x"), ("x",)])
def test_a_filter_that_is_none(desk: Desk, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        wanted(words)
    assert say(desk, "web", *words).startswith("[3]:")


def test_no_such_table(desk: Desk) -> None:
    assert say(desk, "nosuch") == "[3]: No such table: 'nosuch'; there are web, empty.\n"
    assert "no frontend has `limits`" in say(Desk(now=lambda: 0.0), "web")
    assert say(Desk(now=lambda: 0.0)) == ""


def clear(desk: Desk, *words: str, level: Level = Level.OPERATOR) -> str:
    return asyncio.run(obey(["clear", "table", *words], Session(level), desk))


def test_what_is_cleared_is_forgotten_but_for_connections(desk: Desk) -> None:
    said: list[str] = []
    desk = replace(desk, note=said.append)
    assert clear(desk, "web", "key", "192.0.2.7") == ""
    assert say(desk, "web", "key", "2001::99").endswith("http_err_rate(7200000)=1\n")
    assert "key=192.0.2.7 use=2" in say(desk, "web")
    assert "conn_cur=2 conn_rate(3600000)=0 http_err_rate(7200000)=0" in say(desk, "web", "key", "192.0.2.7")
    assert clear(desk, "web") == ""
    assert re.findall(r"key=(\S+)", say(desk, "web")) == ["192.0.2.7"]
    assert clear(desk, "web", "data.conn_cur", "gt", "9") == clear(desk, "empty") == ""
    assert said == [
        "the runtime socket: clear table web key 192.0.2.7: 1 forgotten",
        "the runtime socket: clear table web: 2 forgotten",
        "the runtime socket: clear table web data.conn_cur gt 9: 0 forgotten",
        "the runtime socket: clear table empty: 0 forgotten",
    ]


def test_nothing_is_cleared_by_mistake(desk: Desk) -> None:
    before = say(desk, "web")
    assert clear(desk) == "'clear table' wants the name of a table, and maybe a filter.\n"
    assert clear(desk, "nosuch").startswith("No such table: 'nosuch'; there are web, empty.")
    assert clear(desk, "web", "key").startswith("A filter is ")
    assert clear(desk, "web", "key", "\xff\0").endswith("is no address.\n")
    assert clear(desk, "web", level=Level.USER) == "Permission denied\n"
    assert re.sub("exp=[0-9]+", "", say(desk, "web")) == re.sub("exp=[0-9]+", "", before)


def test_a_worker_that_counts_meanwhile_does_not_undo_it(desk: Desk) -> None:
    """It has read a number before it was forgotten, and writes it after that."""
    (block, _) = desk.tables["web"]
    stale = bytes(block.octets)

    async def main() -> None:
        doing = asyncio.create_task(obey(["clear", "table", "web"], Session(Level.OPERATOR), desk))
        await asyncio.sleep(0.001)
        block.octets[:] = stale
        assert await doing == ""

    asyncio.run(main())
    assert "conn_rate(3600000)=0" in say(desk, "web", "key", "192.0.2.7")
