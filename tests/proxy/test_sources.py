from __future__ import annotations

import pytest

from balancer.config import model
from balancer.pool.sources import Block, Geometry, Table
from balancer.proxy.sources import Limiter
from tests.proxy.rig import GET, OK, http, rig, run, until

UP = {"init_state": "up"}


def limiter(**limits: object) -> Limiter:
    frontend = model.Frontend.model_validate(
        {"mode": "http", "bind": ":80", "default_backend": "b", "limits": limits}, strict=None
    )
    of = frontend.limits
    assert of is not None
    connections, requests, errors = (rate.period if rate is not None else 0.0 for rate in of.rates)
    own = Block(Geometry(of.table_size, of.ipv6_prefix, (connections, requests, errors)))
    return Limiter("web", frontend, Table(b"secret", own, []))


def test_an_exempt_client_is_not_counted() -> None:
    limits = limiter(connections=1, exempt=("10.0.0.0/8", "fd00::/8"))
    for host in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert limits.enter(host) == (None, "")
    place, why = limits.enter("192.0.2.1")
    assert place is not None and not why
    assert limits.enter("::ffff:192.0.2.1")[1] == "more than 1 connections from there"


def test_refusals_have_so_many_records_a_second_and_the_rest_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("balancer.proxy.sources.time.monotonic", lambda: now)
    limits = limiter(connections=1)
    assert sum(limits.may_record() for _ in range(1000)) == 20
    now = 101.1
    assert limits.may_record()
    limits.drop(5)
    assert limits.tidy(now) == ["limits of frontend web: 985 more refused than are in the log"]
    assert limits.tidy(now) == []


def test_a_table_that_is_too_small_is_complained_of() -> None:
    limits = limiter(connection_rate="100/10s", table_size=16)
    for number in range(20):
        place, _ = limits.enter(f"192.0.2.{number}")
        assert place is not None
        limits.leave(place)
    assert limits.tidy(0.0) == [
        "limits of frontend web: 4 clients were forgotten for want of room, table_size (16) is too small for so many"
    ]


def test_pipelined_requests_are_counted_one_by_one() -> None:
    async def main() -> None:
        async with rig(http(frontend={"limits": {"request_rate": "2/1h"}}, server=UP)) as r:
            client = await r.connect()
            await client.send(GET * 3)
            server = await r.origin.accept()
            for _ in range(2):
                await server.head()
                await server.send(OK)
                await client.expect(OK)
            assert (await client.head()).startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
            assert (r.front.dreq, r.front.req_tot, r.back.req_tot) == (1, 3, 0)
            assert await server.is_silent()
            await r.at_rest()

    run(main)


@pytest.mark.parametrize("kind", ["request_rate", "error_rate"])
def test_what_is_within_the_limits_has_all_its_records(kind: str) -> None:
    async def main() -> None:
        async with rig(http(frontend={"limits": {kind: "1000/1h"}}, server=UP)) as r:
            client, server = await r.pair()
            for number in range(50):
                if number:
                    await client.send(GET)
                await server.head()
                await server.send(OK)
                await client.expect(OK)
            await until(lambda: len(r.records) == 50, "50 records")
            await r.at_rest()

    run(main)


def test_a_body_above_the_rate_goes_nowhere() -> None:
    async def main() -> None:
        async with rig(http(frontend={"limits": {"request_rate": "1/1h"}}, server=UP)) as r:
            client, server = await r.pair()
            await server.head()
            await server.send(OK)
            await client.expect(OK)
            await client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf")
            assert b"\r\nconnection: close\r\n" in await client.head()
            await client.rest()
            assert await server.is_silent()
            await r.at_rest()

    run(main)


def test_who_leaves_the_tarpit_is_gone() -> None:
    async def main() -> None:
        limits = {"request_rate": {"limit": "1/1h", "tarpit": "60s"}, "connections": 1}
        async with rig(http(frontend={"limits": limits}, server=UP)) as r:
            client, server = await r.pair()
            await server.head()
            await server.send(OK)
            await client.expect(OK)
            await client.send(GET)
            await until(lambda: r.front.dreq == 1, "the refusal")
            client.reset()
            await until(lambda: not r.front.scur, "the end")
            r.records.clear()
            place = r.worker._limiters["front"].place("127.0.0.1", 1.0)
            assert place is not None
            assert r.worker._limiters["front"]._table.connections(place) == 0
            await r.at_rest()

    run(main)


def test_without_limits_there_is_no_limiter() -> None:
    async def main() -> None:
        async with rig(http(server=UP)) as r:
            client, server = await r.pair()
            assert type(next(iter(r.worker._sweeper.members))).__name__ == "ClientConnection"
            assert r.worker._limiters == {}
            client.reset()
            server.abort()
            await r.at_rest()

    run(main)
