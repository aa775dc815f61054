"""Clients that wait for a place at a server: what becomes of what they sent, and of those who leave."""

from __future__ import annotations

import asyncio

import pytest

from balancer.pool.orders import Admin, Condition
from balancer.proxy.stream import Poller
from balancer.proxy.upstream import Upstream
from tests.pool.test_waiting import Errand, House
from tests.proxy.rig import GET, OK, http, rig, run, tcp, turns, until

POST = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n"
BOTH = pytest.mark.parametrize("plain", [False, True], ids=["uvloop", "asyncio"])


def waiting(it):
    return it.worker._backends["back"].waiting


async def at_rest(it):
    """And nothing of the limit is held any more than by idle connections."""
    await it.at_rest()
    assert waiting(it) == 0
    for server in it.worker._servers:
        server.idle.clear()
    held = [limit for entry, limit in it.memory.limits.items() if entry.entity.kind == "server"]
    it.worker._backends["back"].tidy()
    await until(lambda: not any(limit.held for limit in held), "nothing is held")


def ask(path, more=""):
    return f"GET {path} HTTP/1.1\r\nHost: t\r\n{more}\r\n".encode()


@BOTH
def test_one_after_the_other_on_the_connection_that_is_there(plain):
    async def main():
        async with rig(http(server={"maxconn": 1})) as it:
            first, server = await it.pair()
            await server.head()
            others = []
            for i in range(3):
                others.append(await it.connect())
                await others[-1].send(ask(f"/{i}"))
                await until(lambda i=i: waiting(it) == i + 1)
            assert await server.is_silent()
            await server.send(OK)
            await first.expect(OK)
            for i, client in enumerate(others):
                assert (await server.head()).startswith(b"GET /%d " % i)
                await server.send(OK)
                await client.expect(OK)
            assert it.origin.waiting == 0
            assert (it.server().smax, it.back.qmax, it.back.qcur) == (1, 3, 0)
            assert it.server().qtime > 0 and it.server().qtime_max > 0
            # Those who stay have it in turn.
            await it.ask(first, server)
            await at_rest(it)

    run(main, plain=plain)


@BOTH
def test_a_body_waits_with_its_head(plain):
    body = bytes(range(256)) * 2048

    async def main():
        async with rig(http(server={"maxconn": 1})) as it:
            first, server = await it.pair()
            await server.head()
            client = await it.connect()
            head = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body)
            sending = asyncio.create_task(client.send(head + body))
            await until(lambda: waiting(it) == 1)
            await server.send(OK)
            await first.expect(OK)
            await server.head()
            assert await server.exactly(len(body)) == body
            await sending
            await server.send(OK)
            await client.expect(OK)
            await at_rest(it)

    run(main, plain=plain)


@pytest.mark.parametrize("how", ["reset", "close", "half_close"])
def test_whoever_leaves_is_served_no_more(how):
    async def main():
        async with rig(http(server={"maxconn": 1})) as it:
            _, server = await it.pair()
            await server.head()
            gone, last = await it.connect(), await it.connect()
            await gone.send(ask("/gone"))
            await until(lambda: waiting(it) == 1)
            await last.send(ask("/last"))
            await until(lambda: waiting(it) == 2)
            if how == "close":
                await gone.close()
            else:
                getattr(gone, how)()
            await until(lambda: waiting(it) == 1)
            record = await it.record()
            assert (record.termination, record.status, record.server) == ("CQ--", -1, "<NOSRV>")
            assert record.tw >= 0 and (record.tc, record.backend_queue) == (-1, 1)
            await server.send(OK)
            assert (await server.head()).startswith(b"GET /last ")
            await server.send(OK)
            await last.expect(OK)
            assert it.back.cli_abrt == 1
            await at_rest(it)

    run(main)


def test_pipelined_requests_wait_too():
    async def main():
        async with rig(http(server={"maxconn": 1})) as it:
            first, server = await it.pair()
            await server.head()
            client = await it.connect()
            await client.send(ask("/a") + ask("/b"))
            client.half_close()
            await until(lambda: waiting(it) == 1)
            assert await server.is_silent()
            await server.send(OK)
            await first.expect(OK)
            assert (await server.head()).startswith(b"GET /a ")
            await server.send(OK)
            await client.expect(OK)
            assert (await server.head()).startswith(b"GET /b ")
            await server.send(OK)
            assert (await client.rest()).startswith(b"HTTP/1.1 200 OK")
            await at_rest(it)

    run(main)


def test_too_long():
    async def main():
        async with rig(http(server={"maxconn": 1}, timeout={"queue": "200ms"})) as it:
            _, server = await it.pair()
            await server.head()
            client = await it.connect()
            await client.send(GET)
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            record = await it.record()
            assert record.termination == "sQ--"
            assert record.why == "all servers of back: no place within 0.2s"
            assert 100 <= record.tw < 2000
            assert it.back.econ == 1
            await at_rest(it)

    run(main)


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
def test_whose_place_comes_as_his_time_is_over_gets_one_answer(request_):
    """The server's time for one client and the other's time in the queue end in one sweep."""

    async def main():
        async with rig(http(server={"maxconn": 1})) as it:
            clients = [await it.connect() for _ in range(2)]
            sweeper = it.worker._sweeper
            await until(lambda: len(sweeper.members) == 2)
            ports = [client.writer.get_extra_info("sockname")[1] for client in clients]
            # The sweep comes to them in this order.
            members = list(sweeper.members)
            one, two = (clients[ports.index(member.source[1])] for member in members)
            await one.send(GET)
            first = await it.origin.accept()
            await first.head()
            await two.send(request_)
            await until(lambda: waiting(it) == 1)
            assert list(sweeper.members) == members
            for member in members:
                member.deadline = 0.0
            sweeper.sweep()
            assert (await one.head()).startswith(b"HTTP/1.1 504 ")
            second = await it.origin.accept()
            await second.head()
            if request_ is not GET:
                await two.send(b"ok")
                await second.exactly(2)
            await second.send(OK)
            await two.expect(OK)
            records = [await it.record() for _ in range(2)]
            assert [record.status for record in records] == [504, 200]
            assert it.server().scur == it.back.scur == 0
            await at_rest(it)

    run(main)


def test_a_server_is_given_more_as_there_is_more_to_do():
    config = http(server={"maxconn": 2, "minconn": 1})
    config["backends"]["back"]["fullconn"] = 4

    async def main():
        async with rig(config) as it:
            first, server = await it.pair()
            await server.head()
            others = []
            for number in (1, 2):
                others.append(await it.connect())
                await others[-1].send(ask(f"/{number}"))
                await until(lambda number=number: waiting(it) == number)
            assert await server.is_silent()
            others.append(await it.connect())
            await others[-1].send(ask("/3"))
            second = await it.origin.accept()
            assert (await second.head()).startswith(b"GET /1 ")
            assert (it.server().scur, waiting(it)) == (2, 2)
            await second.send(OK)
            await others[0].expect(OK)
            # Three are left, and it is one again: the other connection is no more.
            assert it.server().scur == 1
            await server.send(OK)
            await first.expect(OK)
            for number in (2, 3):
                assert (await server.head()).startswith(b"GET /%d " % number)
                await server.send(OK)
                await others[number - 1].expect(OK)
            assert it.server().smax == 2
            await at_rest(it)

    run(main)


def test_its_servers_clients_go_elsewhere_when_it_goes_down():
    backend = {"cookie": {"name": "S"}}

    async def main():
        async with rig(http(2, backend=backend, server={"maxconn": 1}), 2) as it:
            busy = []
            for origin in it.origins:
                client = await it.connect()
                await client.send(GET)
                busy.append((client, await origin.accept()))
            for _, server in busy:
                await server.head()
            bound = await it.connect()
            await bound.send(ask("/", "Cookie: S=c0\r\n"))
            await until(lambda: it.server("s0").qcur == 1)
            await it.decide(0, Condition.DOWN)
            await until(lambda: (it.server("s0").qcur, it.back.qcur) == (0, 1), "it waits for the other")
            await busy[1][1].send(OK)
            assert b"Cookie: S=c0" in await busy[1][1].head()
            await busy[1][1].send(OK)
            assert b"set-cookie: S=c1" in await bound.head()
            await until(lambda: len(it.records) == 2)
            record = it.records[1]
            assert (record.server, record.termination, record.redispatched) == ("s1", "--DI", True)
            assert it.server("s0").wredis == 1
            await at_rest(it)

    run(main)


def test_a_server_in_maintenance_and_one_that_drains():
    backend = {"cookie": {"name": "S"}}

    async def main():
        async with rig(http(backend=backend, server={"maxconn": 1})) as it:
            first, server = await it.pair()
            await server.head()
            free, bound = await it.connect(), await it.connect()
            await free.send(ask("/free"))
            await until(lambda: it.back.qcur == 1)
            await bound.send(ask("/bound", "Cookie: S=c0\r\n"))
            await until(lambda: it.server().qcur == 1)
            await it.decide(0, Condition.UP, admin=Admin.DRAIN)
            await server.send(OK)
            assert (await server.head()).startswith(b"GET /bound ")
            await it.decide(0, Condition.UP)
            await server.send(OK)
            assert (await server.head()).startswith(b"GET /free ")
            await server.send(OK)
            await free.head()
            await first.head()
            await at_rest(it)

    run(main)


def test_rules_and_reuse_never():
    frontend = {"use_backend": {"backend": "back", "if": {"path_beg": "/"}}, "http_request": {"set_path": "/changed"}}

    async def main():
        async with rig(http(server={"maxconn": 1}, frontend=frontend, backend={"http_reuse": "never"})) as it:
            first, server = await it.pair()
            assert (await server.head()).startswith(b"GET /changed ")
            client = await it.connect()
            await client.send(GET)
            await until(lambda: waiting(it) == 1)
            await server.send(OK)
            await first.expect(OK)
            again = await it.origin.accept()
            assert (await again.head()).startswith(b"GET /changed ")
            await again.send(OK)
            await client.expect(OK)
            await at_rest(it)

    run(main)


@pytest.mark.parametrize("make", [http, tcp])
def test_a_server_that_cannot_be_reached_and_another_that_is_full(make):
    async def main():
        async with rig(make(2, server={"maxconn": 1}, frontend={"log": True}), 2) as it:
            it.origins[0].refuse()
            # The first goes to s0 and on to s1; the next finds that full.
            one = await it.connect()
            await one.send(GET)
            server = await it.origins[1].accept()
            await server.head()
            two = await it.connect()
            await two.send(ask("/two"))
            await until(lambda: waiting(it) == 1)
            assert it.server("s0").scur == 0
            if make is http:
                await server.send(OK)
                await one.expect(OK)
                assert (await server.head()).startswith(b"GET /two ")
            else:
                await server.close()
                one.reset()
                server = await it.origins[1].accept()
                assert (await server.head()).startswith(b"GET /two ")
            await server.send(OK)
            await two.expect(OK)
            if make is tcp:
                two.reset()
            await until(lambda: len(it.records) == 2)
            assert (it.records[1].server, it.records[1].redispatched) == ("s1", True)
            assert it.server("s0").wredis == 2
            await at_rest(it)

    run(main)


def test_a_server_that_leaves_its_client_while_the_other_is_full():
    async def main():
        async with rig(http(2, server={"maxconn": 1}), 2) as it:
            one, first = await it.pair()
            await first.head()
            two = await it.connect()
            await two.send(GET)
            second = await it.origins[1].accept()
            await second.head()
            await first.close()
            await until(lambda: waiting(it) == 1, "it waits for the other")
            await second.send(OK)
            await two.expect(OK)
            await second.head()
            await second.send(OK)
            await one.expect(OK)
            await at_rest(it)

    run(main)


@pytest.mark.parametrize("make", [http, tcp])
def test_the_end_comes_for_those_who_wait_too(make):
    async def main():
        async with rig(make(server={"maxconn": 1}, frontend={"dontlognull": False})) as it:
            _, server = await it.pair()
            await server.head()
            client = await it.connect()
            await client.send(GET)
            await until(lambda: waiting(it) == 1)
            for member in list(it.worker._sweeper.members):
                member.kill("K")
            assert await client.is_gone()
            await until(lambda: len(it.records) == 2)
            # Who is killed later may have got the place of who was killed before.
            assert {record.termination[:2] for record in it.records} <= {"KH", "KD", "KC", "KQ"}
            await at_rest(it)

    run(main)


@BOTH
def test_tcp_clients_wait_with_what_they_have_sent(plain):
    data = bytes(range(256)) * 4096

    async def main():
        async with rig(tcp(server={"maxconn": 1}, frontend={"dontlognull": False})) as it:
            first, server = await it.pair(b"one")
            await server.expect(b"one")
            silent, gone, large = await it.connect(), await it.connect(), await it.connect()
            await until(lambda: waiting(it) == 3)
            sending = asyncio.create_task(large.send(data))
            gone.half_close()
            await until(lambda: waiting(it) == 2)
            record = await it.record()
            assert (record.termination, record.server, record.backend_queue) == ("CQ", "<NOSRV>", 2)
            first.reset()
            assert await server.is_gone()
            await server.close()
            second = await it.origin.accept()
            await second.send(b"welcome")
            await silent.expect(b"welcome")
            silent.half_close()
            assert await second.is_closed()
            await second.close()
            third = await it.origin.accept()
            assert await third.exactly(len(data)) == data
            await sending
            await at_rest(it)

    run(main, plain=plain)


def test_idle_connections_hold_no_more_than_their_places():
    async def main():
        async with rig(http(server={"maxconn": 2})) as it:
            pairs = [await it.pair() for _ in range(2)]
            for client, server in pairs:
                await server.head()
                await server.send(OK)
                await client.expect(OK)
            assert len(it.idle()) == 2
            await pairs[0][1].close()
            await until(lambda: len(it.idle()) == 1)
            (limit,) = (limit for entry, limit in it.memory.limits.items() if entry.entity.kind == "server")
            await until(lambda: limit.held == 1)
            await turns()
            await at_rest(it)

    run(main)


def test_whose_server_fails_goes_to_the_one_picked_whatever_others_do_meanwhile():
    """The place that he leaves goes to a client whose next request is there already."""
    loop = asyncio.new_event_loop()
    poller = Poller(loop)
    house = House({"a": {"maxconn": 1}, "b": {"maxconn": 1}, "c": {"maxconn": 1}}, workers=1)
    (worker,) = house.workers
    backend = worker.backend
    upstream = Upstream(poller, backend, connect_timeout=1, retries=3, redispatch=True, keepalive=None)

    class Hasty(Errand):
        """Is done at once, and asks again for any server."""

        def on_place(self, server):
            super().on_place(server)
            worker.finish(self)
            self.next = worker.ask()

    failing = worker.ask(server=0)
    failing.retries, failing.is_persistent, failing.is_connected, failing.redispatched = 0, False, True, False
    hasty = Hasty(1, worker)
    assert backend.wait(hasty, worker.servers[0], 2.0)
    assert upstream.try_again(failing)
    served = [failing, hasty.next]
    assert {errand.server.name for errand in served} < {"a", "b", "c"}
    assert sorted(server.counters.scur for server in worker.servers) == [0, 1, 1]
    for errand in served:
        worker.finish(errand)
    assert [server.counters.scur for server in worker.servers] == [0, 0, 0]
    assert backend.counters.scur == 0
    assert sum(limit.held for limit in house.limits.values()) == 0
    house.close()
    poller.close()
    loop.close()
