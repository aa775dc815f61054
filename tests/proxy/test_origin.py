"""Connections to HTTP servers: reused by whom and for how long, and what a server may not do with them."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from balancer.pool.orders import Admin, Condition
from tests.proxy.rig import GET, OK, http, rig, run, turns, until

PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["uvloop", "asyncio"])
POST = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nid"


async def pooled(it):
    """A client, and its server's connection now waiting in the pool."""
    client, server = await it.pair()
    await it.ask(client, server, b"")
    assert len(it.idle()) == 1
    return client, server


# Reuse


def test_one_client_after_the_other_is_served_on_one_connection():
    async def main():
        async with rig(http()) as it:
            _, server = await pooled(it)
            for _ in range(4):
                await it.ask(await it.connect(), server)
            assert it.origin.waiting == 0
            await it.at_rest()
            assert (it.server().connect, it.server().reuse) == (1, 4)

    run(main)


def test_the_connection_used_last_is_used_next():
    async def main():
        async with rig(http()) as it:
            pairs = [await it.pair() for _ in range(3)]
            for client, server in pairs:
                await it.ask(client, server, b"")
            assert len(it.idle()) == 3
            await it.ask(await it.connect(), pairs[2][1])
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(("reuse", "is_reused"), [("safe", False), ("always", True)])
def test_a_request_that_cannot_be_sent_again_goes_on_a_connection_that_is_surely_alive(reuse, is_reused):
    async def main():
        async with rig(http(backend={"http_reuse": reuse})) as it:
            client, server = await pooled(it)
            # Just proved alive.
            await client.send(POST)
            await server.head()
            await server.expect(b"id")
            await server.send(OK)
            await client.expect(OK)
            it.idle()[0].idle_since -= 1
            await client.send(POST)
            if not is_reused:
                server = await it.origin.accept()
            await server.head()
            await server.expect(b"id")
            await server.send(OK)
            await client.expect(OK)
            await it.at_rest()

    run(main)


def test_never_gives_each_client_a_connection_of_its_own():
    async def main():
        async with rig(http(backend={"http_reuse": "never"})) as it:
            one, one_server = await it.pair()
            await it.ask(one, one_server, b"")
            two, two_server = await it.pair()
            await it.ask(two, two_server, b"")
            for _ in range(2):
                await it.ask(one, one_server)
                await it.ask(two, two_server)
            assert not it.idle()
            await one.close()
            assert await one_server.is_gone()
            # A server may close it, too.
            await two_server.close()
            await turns()
            await two.send(GET)
            await it.ask(two, await it.origin.accept(), b"")
            await it.at_rest()
            assert it.server().connect == 3

    run(main)


def test_a_connection_of_ones_own_is_left_with_its_server():
    async def main():
        config = http(2, backend={"http_reuse": "never", "cookie": {"name": "S"}, "balance": "first"})
        async with rig(config, 2) as it:
            client = await it.connect()
            await client.send(GET[:-2] + b"Cookie: S=c1\r\n\r\n")
            first = await it.origins[1].accept()
            await it.ask(client, first, b"")
            await client.send(GET[:-2] + b"Cookie: S=c0\r\n\r\n")
            second = await it.origins[0].accept()
            assert await first.is_gone()
            await it.ask(client, second, b"")
            await it.at_rest()

    run(main)


def test_the_pool_is_bounded_and_the_bound_may_be_nothing():
    async def main(most):
        async with rig(http(backend={"pool_max_conn": most})) as it:
            pairs = [await it.pair() for _ in range(3)]
            for client, server in pairs:
                await it.ask(client, server, b"")
            assert len(it.idle()) == most
            for _, server in pairs[most:]:
                assert await server.is_gone()
            await it.at_rest()

    run(lambda: main(2))
    run(lambda: main(0))


def test_idle_connections_are_closed_after_a_while():
    async def main():
        async with rig(http(backend={"pool_purge_delay": "100ms"})) as it:
            _, server = await pooled(it)
            assert await server.is_gone()
            assert len(it.idle()) == 0
            await it.at_rest()

    run(main)


def test_a_server_that_goes_down_loses_its_idle_connections():
    async def main():
        async with rig(http()) as it:
            _, server = await pooled(it)
            await it.decide(0, Condition.DOWN)
            assert await server.is_gone()
            assert len(it.idle()) == 0
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    "state", [{"condition": Condition.DOWN}, {"condition": Condition.UP, "admin": Admin.MAINT}], ids=["down", "maint"]
)
def test_a_server_that_went_down_gets_no_idle_connection(state):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            await it.decide(0, **state)
            await server.send(OK)
            await client.expect(OK)
            assert await server.is_gone()
            assert len(it.idle()) == 0
            await it.at_rest()

    run(main)


# A server that closes


@PLAIN
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_an_idle_connection_that_its_server_ends_is_forgotten(how, plain):
    async def main():
        async with rig(http()) as it:
            for _ in range(5):
                client, server = await it.pair()
                await it.ask(client, server, b"")
                await (server.close() if how == "closes" else turns(1))
                if how == "resets":
                    server.reset()
                await until(lambda: not it.idle(), "it to be forgotten")
                await client.close()
            await it.at_rest()
            assert (len(it.idle()), it.server().connect) == (0, 5)

    run(main, plain=plain)


@PLAIN
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_reused_connection_found_dead_costs_a_get_nothing(how, plain):
    async def main():
        async with rig(http()) as it:
            client, server = await pooled(it)
            for _ in range(10):
                await client.send(GET)
                await server.head()
                await (server.close() if how == "closes" else turns(1))
                if how == "resets":
                    server.reset()
                server = await it.origin.accept()
                await it.ask(client, server, b"")
            assert [record.status for record in it.records] == [200] * 11
            await it.at_rest()
            assert it.server().eresp == 0

    run(main, plain=plain)


def test_a_reused_connection_found_dead_ends_a_post():
    async def main():
        async with rig(http()) as it:
            client, server = await pooled(it)
            await client.send(POST)
            await server.head()
            await server.close()
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            record = (await it.record(), await it.record())[1]
            assert (record.status, record.termination) == (502, "SH--")
            await turns()
            assert it.origin.waiting == 0, "it must not be sent twice"
            await it.at_rest()
            assert it.server().eresp == 1

    run(main)


def test_a_server_that_closes_its_idle_connections_at_any_time_fails_no_get():
    """A hundred rounds, each with the close on its way when the request comes."""

    async def serve(origin):
        while True:
            server = await origin.accept()
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await server.head()
                server.writer.write(OK)
                server.abort()

    async def main():
        async with rig(http()) as it:
            serving = asyncio.create_task(serve(it.origin))
            client = await it.connect()
            for _ in range(100):
                await client.send(GET)
                await client.expect(OK)
            serving.cancel()
            await it.at_rest()
            assert (it.front.hrsp_2xx, it.server().eresp, len(it.idle())) == (100, 0, 0)

    run(main)


@PLAIN
@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_new_connection_closed_without_an_answer_is_502(request_, how, plain):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(request_)
            await server.head()
            await (server.close() if how == "closes" else turns(1))
            if how == "resets":
                server.reset()
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            record = await it.record()
            assert (record.status, record.termination, record.retries) == (502, "SH--", 0)
            assert record.tc >= 0 and record.tr_response == -1
            await turns()
            assert it.origin.waiting == 0
            await it.at_rest()
            assert (it.server().eresp, it.server().hrsp_5xx) == (1, 1)

    run(main, plain=plain)


def test_a_server_that_resets_as_soon_as_it_has_accepted():
    async def main():
        async with rig(http()) as it:
            for request in (GET, POST):
                client = await it.connect()
                await client.send(request)
                (await it.origin.accept()).reset()
                assert (await client.head()).startswith(b"HTTP/1.1 502 ")
                assert (await it.record()).termination == "SH--"
            await it.at_rest()
            assert it.server().connect == 2

    run(main)


# A server that says what it should not


def test_what_a_server_says_unasked_reaches_nobody():
    async def main():
        async with rig(http()) as it:
            client, server = await pooled(it)
            await server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            assert await server.is_gone()
            assert len(it.idle()) == 0
            assert await client.is_silent()
            other = await it.connect()
            await other.send(GET)
            await it.ask(other, await it.origin.accept(), b"")
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    ("request_", "response", "expected"),
    [
        (GET, OK + OK, OK),
        (GET, OK + b"more than announced", OK),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\nbody", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\n\r\n" + OK, b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        (GET.replace(b"GET", b"HEAD"), OK, OK[:-2]),
        (
            GET,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + OK,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
    ],
)
@pytest.mark.parametrize("split", [False, True], ids=["at once", "in pieces"])
def test_more_than_one_answer_ends_the_servers_connection(request_, response, expected, split):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(request_)
            await server.head()
            if split:
                with contextlib.suppress(ConnectionError):
                    await server.trickle(response[i : i + 7] for i in range(0, len(response), 7))
            else:
                await server.send(response)
            await client.expect(expected)
            assert await server.is_gone()
            assert await client.is_silent()
            await client.send(GET)
            await it.ask(client, await it.origin.accept(), b"")
            await it.at_rest()
            assert it.server().connect == 2

    run(main)


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: y\n\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"\0" * 10,
    ],
)
def test_what_is_no_response_is_502(response):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(response)
            head = await client.head()
            while head.startswith(b"HTTP/1.1 100 "):
                head = await client.head()
            assert head.startswith(b"HTTP/1.1 502 ")
            record = await it.record()
            assert (record.status, record.termination) == (502, "PH--")
            assert record.why.startswith("back/s0: ")
            assert await server.is_gone()
            await it.at_rest()
            assert (it.server().eresp, it.front.hrsp_5xx) == (1, 1)

    run(main)


def test_two_lengths_in_one_response_are_one_and_the_connection_ends():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            chunks = b"2\r\nok\r\n0\r\n\r\n"
            await server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
            await client.expect(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
            assert await server.is_gone()
            await it.at_rest()

    run(main)


def test_chunks_that_break_off_in_the_middle_cut_the_client():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
            await client.head()
            await client.expect(b"2\r\nok\r\n")
            await server.send(b"nonsense\r\n")
            assert await client.is_reset()
            assert (await it.record()).termination == "PD--"
            await it.at_rest()
            assert it.server().eresp == 1

    run(main)


def test_a_server_connection_that_ends_before_the_request_is_sent(monkeypatch):
    async def main():
        async with rig(http(server={"send_proxy": "v2"})) as it:
            upstream = it.worker._upstreams["back"]
            dial = upstream.dial

            def brief(*how):
                made = dial(*how)
                # On loopback it is open by now. The PROXY protocol header finds that it is not.
                made._sock.shutdown(socket.SHUT_WR)
                return made

            monkeypatch.setattr(upstream, "dial", brief)
            client, server = await it.pair()
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            assert await server.is_gone()
            record = await it.record()
            assert (record.termination, record.why) == ("SH--", "back/s0: closed as soon as it was open")
            assert not it.idle()
            await it.at_rest()

    run(main)


def test_a_server_that_dies_over_a_get_is_replaced_by_another():
    async def main():
        async with rig(http(2), origins=2) as it:
            client, server = await it.pair(GET)
            await server.head()
            server.reset()
            other = await it.origins[1].accept()
            await other.head()
            await other.send(OK)
            await client.expect(OK)
            record = await it.record()
            assert (record.status, record.termination, record.retries, record.redispatched) == (200, "----", 1, True)
            assert (it.server().wredis, it.server().eresp, it.server("s1").hrsp_2xx) == (1, 0, 1)
            await it.at_rest()

    run(main)


def test_a_server_that_dies_over_a_post_is_told_of():
    async def main():
        async with rig(http(2), origins=2) as it:
            client, server = await it.pair(POST)
            await server.head()
            server.reset()
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            assert it.origins[1].waiting == 0
            await it.at_rest()

    run(main)
