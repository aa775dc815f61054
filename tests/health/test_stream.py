from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from balancer.addr import Address
from balancer.errors import BadResponse
from balancer.health.result import Code
from balancer.health.stream import Stream, failure


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_sent_comes_back(run, serve, host):
    async def main():
        async with serve(echo, host=host) as address:
            stream = Stream(address)
            await stream.connect()
            await stream.send(b"ping")
            assert await stream.receive(100) == b"ping"
            stream.close()

    run(main())


def test_a_unix_socket(run, serve, tmp_path):
    async def main():
        async with serve(echo, path=tmp_path / "s") as address:
            stream = Stream(address)
            await stream.connect()
            await stream.send(b"ping")
            assert await stream.receive(100) == b"ping"
            stream.close()

    run(main())


def test_more_than_the_kernel_buffers(run, serve):
    payload = os.urandom(8_000_000)

    async def main():
        async with serve(echo) as address:
            stream = Stream(address)
            await stream.connect()
            sender = asyncio.create_task(stream.send(payload))
            received = b""
            while len(received) < len(payload):
                received += await stream.receive(1_000_000)
            await sender
            stream.close()
            assert received == payload

    run(main())


def test_steps_before_connect_and_after_close_raise_oserror(run):
    async def main():
        stream = Stream(Address("127.0.0.1", 9))
        for step in (stream.send(b"x"), stream.receive(1)):
            with pytest.raises(OSError, match="not connected"):
                await step
        stream.close()
        stream.close()

    run(main())


def test_a_full_unix_backlog_is_waited_for(run, tmp_path):
    path = str(tmp_path / "s")

    async def main():
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
            server.bind(path)
            server.listen(0)
            first.connect(path)
            stream = Stream(Address("", 0, path))
            connecting = asyncio.create_task(stream.connect())
            await asyncio.sleep(0.05)
            assert not connecting.done()
            server.accept()[0].close()
            await connecting
            stream.close()

    run(main())


def test_a_cancelled_step_leaves_nothing(run, blackhole, serve):
    async def main():
        async def silent(reader, writer):
            await reader.read()

        async with serve(silent) as address:
            for target in (blackhole, address):
                stream = Stream(target)

                async def steps(stream=stream):
                    try:
                        await stream.connect()
                        await stream.receive(1)
                    finally:
                        stream.close()

                task = asyncio.create_task(steps())
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    run(main())


@pytest.mark.parametrize(
    ("error", "layer", "code", "info"),
    [
        (TimeoutError(), 4, Code.L4TOUT, ""),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), 4, Code.L4TOUT, ""),
        (TimeoutError(), 6, Code.L6TOUT, ""),
        (TimeoutError(), 7, Code.L7TOUT, ""),
        (OSError(errno.ECONNREFUSED, "x"), 4, Code.L4CON, "Connection refused"),
        (OSError(errno.EHOSTUNREACH, "x"), 4, Code.L4CON, "No route to host"),
        (OSError(errno.EPERM, "x"), 4, Code.L4CON, "Operation not permitted"),
        (OSError(errno.ECONNRESET, "x"), 6, Code.L6RSP, "Connection reset by peer"),
        (OSError(errno.ECONNRESET, "x"), 7, Code.L7RSP, "Connection reset by peer"),
        (OSError(errno.EMFILE, "x"), 4, Code.SOCKERR, "Too many open files"),
        (OSError(errno.ENFILE, "x"), 4, Code.SOCKERR, "Too many open files in system"),
        (OSError(errno.EADDRNOTAVAIL, "x"), 4, Code.SOCKERR, "Cannot assign requested address"),
        (OSError(errno.ENOBUFS, "x"), 7, Code.SOCKERR, "No buffer space available"),
        (FileNotFoundError(errno.ENOENT, "x", "/ca.pem"), 6, Code.L6RSP, "/ca.pem: No such file or directory"),
        (BadResponse("not HTTP/1"), 7, Code.L7RSP, "not HTTP/1"),
    ],
)
def test_the_code_of_a_failure(error, layer, code, info):
    result = failure(error, layer, duration=0.5)
    assert (result.code, result.info, result.duration, result.ok) == (code, info, 0.5, False)
