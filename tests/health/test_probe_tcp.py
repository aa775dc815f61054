from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest

from balancer.addr import Address
from balancer.config import model
from balancer.health.probe_tcp import TcpProbe
from balancer.health.result import Code


def probe(address, **keys):
    return TcpProbe(model.TcpCheck(type="tcp", **keys))(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_that_accepts_is_up_and_sees_a_reset(run, host):
    async def main():
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
            result = await probe(Address(host, server.getsockname()[1]))
            assert (result.code, result.ok, result.info, result.status) == (Code.L4OK, True, "", None)
            connection, _ = server.accept()
            with connection, pytest.raises(ConnectionResetError):
                connection.recv(1)

    run(main())


def test_a_unix_socket(run, tmp_path):
    path = str(tmp_path / "s")

    async def main():
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            assert (await probe(Address("", 0, path))).code is Code.L4OK
        # Nobody listens any more.
        assert (await probe(Address("", 0, path))).info == "Connection refused"
        result = await probe(Address("", 0, path + "missing"))
        assert (result.code, result.info) == (Code.L4CON, "No such file or directory")

    run(main())


def test_a_closed_port(run, refusing):
    result = run(probe(refusing))
    assert (result.code, result.info) == (Code.L4CON, "Connection refused")
    assert result.milliseconds < 1000


def test_a_server_that_answers_no_syn(run, blackhole):
    result = run(probe(blackhole, interval="10s", timeout="100ms"))
    assert (result.code, result.info) == (Code.L4TOUT, "")
    assert 0.09 < result.duration < 5


def test_the_interval_is_the_timeout_where_none_is_given(run, blackhole):
    assert run(probe(blackhole, interval="100ms")).code is Code.L4TOUT


def test_the_proxy_protocol_header_arrives(run, serve):
    async def main():
        received = asyncio.get_running_loop().create_future()

        async def talk(reader, writer):
            received.set_result(await reader.read())

        async with serve(talk) as address:
            assert (await probe(address, send_proxy=True)).code is Code.L4OK
            assert await received == b"PROXY UNKNOWN\r\n"

    run(main())


def test_without_descriptors_it_is_our_fault(run, refusing):
    async def main():
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            result = await probe(refusing)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (result.code, result.info, result.is_conclusive) == (Code.SOCKERR, "Too many open files", False)
        assert (await probe(refusing)).code is Code.L4CON

    run(main())


def test_a_zone_that_does_not_exist(run):
    assert run(probe(Address("fe80::1%nosuch0", 80))).code is Code.L4CON


def test_cancelled_it_says_so(run, blackhole):
    async def main():
        task = asyncio.create_task(probe(blackhole))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
