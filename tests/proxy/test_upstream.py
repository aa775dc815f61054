"""The way to a server: trying again, trying another, and giving up."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from pathlib import Path

import pytest

from balancer.pool.orders import Condition
from balancer.wire import proxyproto
from tests.proxy.rig import GET, OK, Origin, http, rig, run, tcp, turns, until

POST = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 8\r\n\r\nprecious"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def full_backlog():
    """The address of who does not answer: the kernel drops further SYNs."""
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(3):
            plug = stack.enter_context(socket.socket())
            plug.setblocking(False)
            plug.connect_ex(hole.getsockname())
        yield f"127.0.0.1:{hole.getsockname()[1]}"


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
def test_a_refused_request_goes_to_another_server_at_once(request_):
    async def main():
        async with rig(http(2, backend={"balance": "first"}), 2) as it:
            it.origins[0].refuse()
            client = await it.connect()
            await client.send(request_)
            server = await it.origins[1].accept()
            await server.expect(request_)
            await server.send(OK)
            await client.expect(OK)
            record = await it.record()
            assert (record.server, record.retries, record.redispatched) == ("s1", 1, True)
            assert (record.status, record.termination) == (200, "----")
            assert record.ta < 900
            await it.at_rest()
            assert (it.server("s0").wredis, it.server("s0").wretr, it.server("s0").econ) == (1, 0, 0)
            assert (it.server("s0").connect, it.server("s1").connect) == (1, 1)
            assert (it.server("s0").stot, it.server("s1").stot, it.server("s1").req_tot) == (1, 1, 1)

    run(main)


def test_a_refused_request_is_tried_again_at_the_only_server():
    async def main():
        async with rig(http(retries=3, timeout={"connect": "100ms"})) as it:
            port = it.origin.port
            it.origin.refuse()
            client = await it.connect()
            await client.send(POST)
            await until(lambda: it.server().wretr == 2, "two retries")
            again = Origin()
            await again.start(port)
            it.origins.append(again)
            server = await again.accept()
            await server.expect(POST)
            await server.send(OK)
            await client.expect(OK)
            record = await it.record()
            assert record.retries >= 2 and not record.redispatched
            assert record.tc >= 100
            await it.at_rest()
            assert it.server().econ == 0

    run(main)


@pytest.mark.parametrize("retries", [0, 2])
def test_at_last_it_is_503(retries):
    async def main():
        async with rig(http(retries=retries, timeout={"connect": "50ms"})) as it:
            it.origin.refuse()
            client = await it.connect()
            await client.send(GET)
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            record = await it.record()
            assert (record.status, record.termination, record.retries) == (503, "SC--", retries)
            assert (record.server, record.tw, record.tc) == ("s0", 0, -1)
            assert record.why.startswith("back/s0: ")
            await it.at_rest()
            of_server = it.server()
            assert (of_server.connect, of_server.wretr, of_server.econ) == (retries + 1, retries, 1)
            assert (of_server.hrsp_5xx, of_server.req_tot, it.front.hrsp_5xx) == (1, 1, 1)

    run(main)


def test_every_server_refuses():
    async def main():
        async with rig(http(3, retries=3, timeout={"connect": "50ms"}), 3) as it:
            for origin in it.origins:
                origin.refuse()
            client = await it.connect()
            await client.send(GET)
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            record = await it.record()
            assert (record.termination, record.retries, record.redispatched) == ("SC--", 3, True)
            await it.at_rest()
            servers = [it.server(f"s{i}") for i in range(3)]
            assert sum(server.wredis for server in servers) == 3
            assert sum(server.connect for server in servers) == 4

    run(main)


def test_without_redispatch_the_server_stays():
    async def main():
        config = http(2, redispatch=False, retries=1, timeout={"connect": "50ms"}, backend={"balance": "first"})
        async with rig(config, 2) as it:
            it.origins[0].refuse()
            client = await it.connect()
            await client.send(GET)
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            record = await it.record()
            assert (record.server, record.retries, record.redispatched) == ("s0", 1, False)
            await it.at_rest()

    run(main)


def test_a_client_with_a_cookie_leaves_its_server_with_the_last_try():
    backend = {"balance": "first", "cookie": {"name": "S"}}

    async def main():
        async with rig(http(2, retries=3, timeout={"connect": "50ms"}, backend=backend), 2) as it:
            it.origins[1].refuse()
            client = await it.connect()
            await client.send(GET[:-2] + b"Cookie: S=c1\r\n\r\n")
            server = await it.origins[0].accept()
            await server.head()
            await server.send(OK)
            assert b"set-cookie: S=c0; path=/\r\n" in await client.head()
            record = await it.record()
            assert (record.server, record.retries, record.redispatched) == ("s0", 3, True)
            assert record.termination == "--VI"
            await it.at_rest()
            assert (it.server("s1").wretr, it.server("s1").wredis, it.server("s1").connect) == (2, 1, 3)

    run(main)


def test_a_client_with_a_cookie_leaves_a_server_that_has_gone_down_meanwhile():
    backend = {"balance": "first", "cookie": {"name": "S"}}

    async def main():
        async with rig(http(2, retries=3, timeout={"connect": "300ms"}, backend=backend), 2) as it:
            it.origins[1].refuse()
            client = await it.connect()
            await client.send(GET[:-2] + b"Cookie: S=c1\r\n\r\n")
            await until(lambda: it.server("s1").wretr, "the first retry")
            await it.decide(1, Condition.DOWN)
            server = await it.origins[0].accept()
            await server.head()
            await server.send(OK)
            await client.head()
            record = await it.record()
            assert record.retries == 1 and record.redispatched
            await it.at_rest()

    run(main)


def test_a_server_that_does_not_answer_costs_the_connect_timeout():
    async def main():
        with full_backlog() as address:
            config = http(2, timeout={"connect": "200ms"}, backend={"balance": "first"})
            config["backends"]["back"]["servers"]["s0"]["address"] = address
            async with rig(config, 2) as it:
                client = await it.connect()
                await client.send(GET)
                server = await it.origins[1].accept()
                await it.ask(client, server, b"")
                record = await it.record()
                assert (record.server, record.redispatched) == ("s1", True)
                assert 190 <= record.tc < 2000
                await it.at_rest()
            config["backends"]["back"]["servers"].pop("s1")
            async with rig(config | {"defaults": {"retries": 0, "timeout": {"connect": "100ms"}}}) as it:
                client = await it.connect()
                await client.send(GET)
                assert (await client.head()).startswith(b"HTTP/1.1 503 ")
                assert (await it.record()).termination == "sC--"
                await it.at_rest()

    run(main)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EADDRNOTAVAIL])
def test_what_is_our_fault_is_not_tried_again(code, monkeypatch):
    async def main():
        async with rig(http(2), 2) as it:

            def poor(*_):
                raise OSError(code, "on purpose")

            monkeypatch.setattr(it.worker._upstreams["back"], "dial", poor)
            client = await it.connect()
            await client.send(GET)
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            record = await it.record()
            assert (record.termination, record.retries) == ("RC--", 0)
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("mode", [http, tcp])
def test_each_who_dials_has_his_own_time(mode):
    """One timer serves them all."""

    async def main():
        with full_backlog() as address:
            config = mode(timeout={"connect": "300ms"}, retries=0)
            config["backends"]["back"]["servers"]["s0"]["address"] = address
            async with rig(config) as it:
                began = time.monotonic()
                for number in range(1, 5):
                    client = await it.connect()
                    if mode is http:
                        await client.send(GET)
                    await until(lambda number=number: it.server().connect == number, "it is dialled")
                    if number == 2:
                        client.reset()
                        await until(lambda: any(record.termination[:2] == "CC" for record in it.records), "it is gone")
                    await asyncio.sleep(0.05)
                await until(lambda: len(it.records) == 4, "all are over")
                assert time.monotonic() - began < 5
                late = [record for record in it.records if record.termination[:2] == "sC"]
                assert len(late) == 3 and it.server().econ == 3
                assert all(record.why == "back/s0: no connection within 0.3s" for record in late)
                times = [record.ta if mode is http else record.tt for record in late]
                assert all(290 <= taken < 2000 for taken in times), times
                upstream = it.worker._upstreams["back"]
                assert not upstream._patience
                await until(lambda: not upstream._is_timed, "no timer without anybody who waits")
                await it.at_rest()

    run(main)


def test_who_leaves_while_a_silent_server_is_dialled_leaves_nothing_behind():
    async def main():
        with full_backlog() as address:
            config = http(timeout={"connect": "30s"})
            config["backends"]["back"]["servers"]["s0"]["address"] = address
            async with rig(config) as it:
                before = descriptors()
                for number in range(1, 21):
                    client = await it.connect()
                    await client.send(GET)
                    await until(lambda number=number: it.server().connect == number, "it is dialled")
                    client.reset()
                await it.at_rest()
                assert not it.worker._upstreams["back"]._patience
                await until(lambda: descriptors() <= before, "its sockets are closed")

    run(main)


def test_thousands_that_wait_for_a_server_that_refuses_at_once(tmp_path):
    """Who gives up makes room for the next, who fails at once: not one within the other."""

    async def main():
        config = tcp(retries=0, server={"maxconn": 1})
        config["backends"]["back"]["servers"]["s0"]["address"] = str(tmp_path / "nobody")
        async with rig(config) as it:
            for _ in range(3):
                clients = [await it.connect() for _ in range(500)]
                for client in clients:
                    assert await client.is_reset()
                    it.clients.remove(client)
                    client.reset()
            await until(lambda: len(it.records) == 1500, "all are over")
            assert {record.termination for record in it.records} == {"SC"}
            await it.at_rest()

    run(main)


def test_a_server_whose_name_has_no_address_is_passed_over():
    async def main():
        async with rig(http(2, backend={"balance": "first"}), 2) as it:
            it.worker._servers[0].sockaddr = None
            client = await it.connect()
            await client.send(GET)
            await it.ask(client, await it.origins[1].accept(), b"")
            assert (await it.record()).redispatched
            await it.at_rest()

    run(main)


def test_a_client_that_leaves_while_its_server_is_dialled_leaves_nothing_behind():
    async def main():
        async with rig(http(timeout={"connect": "5s"})) as it:
            it.origin.refuse()
            for request in (GET, POST[:-2]):
                client = await it.connect()
                before = it.server().wretr
                await client.send(request)
                await until(lambda before=before: it.server().wretr > before, "a retry")
                client.reset() if request is GET else client.half_close()
                if request is GET:
                    record = await it.record()
                    assert (record.status, record.termination, record.tc) == (-1, "CC--", -1)
            await it.at_rest()
            assert it.server().scur == 0

    run(main)


def test_a_client_that_leaves_just_as_its_server_answers_the_call():
    async def main():
        async with rig(http()) as it:
            for i in range(30):
                client = await it.connect()
                await client.send(GET)
                await turns(i % 6)
                client.reset()
            await it.at_rest()
            while it.origin.waiting:
                server = await it.origin.accept()
                assert await server.is_gone()

    run(main)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_server_is_told_the_client_before_the_first_request(version):
    encode = getattr(proxyproto, f"encode_{version}")

    async def main():
        async with rig(http(server={"send_proxy": version})) as it:
            for _ in range(2):
                client, server = await it.pair()
                await server.expect(encode(client.address, ("127.0.0.1", it.port())))
                await it.ask(client, server, b"")
                # It is this client's for good.
                await it.ask(client, server)
            assert not it.idle()
            await it.at_rest()
            assert it.server().connect == 2

    run(main)


def test_by_unix_socket_ipv6_and_zone(tmp_path):
    async def main():
        unix, six = Origin(), Origin()
        await unix.start_unix(tmp_path / "server")
        await six.start(host="::1")
        frontend = {"bind": [str(tmp_path / "front"), "[::1]:{front}"], "forwarded_for": True}
        config = http(frontend=frontend, timeout={"http_keep_alive": "1s"})
        config["backends"]["back"]["servers"] = {
            "unix": {"address": unix.path},
            "six": {"address": "[::1]:{1}"},
            "zone": {"address": "[::1%lo]:{1}"},
        }
        config["defaults"]["tcp_keepalive"] = True
        async with rig(config, [unix, six]) as it:
            client = await it.connect(bind=0)
            for origin in (unix, six, six):
                await client.send(GET)
                server = await origin.accept()
                assert await it.ask(client, server, b"") == GET
            for record in it.records:
                assert (record.client, record.client_port) == ("unix", 0)
            client = await it.connect(bind=1)
            await client.send(GET)
            head = await unix.peers[0].head()
            assert head == GET[:-2] + b"X-Forwarded-For: ::1\r\n\r\n"
            await unix.peers[0].send(OK)
            await client.expect(OK)
            assert it.records[-1].client == "::1"
            await it.at_rest()

    run(main)
