"""Connections as the kernel tells of them, from accept to close, through a worker of which nothing is replaced."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import random
import socket
import struct

import pytest

from balancer.proxy.stream import Stream
from tests.proxy.rig import GET, OK, http, rig, run, tcp, turns, until

MIB = 1 << 20
PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["uvloop", "asyncio"])


async def read_in_bites(peer, size, bite):
    """The digest of the next octets, read slowly enough that the sender is held again and again."""
    digest = hashlib.sha256()
    while size:
        part = await peer.reader.read(min(bite, size))
        assert part
        digest.update(part)
        size -= len(part)
        await asyncio.sleep(0)
    return digest.hexdigest()


@PLAIN
def test_what_goes_through_both_ways_at_once_is_whole_however_it_is_held(plain):
    there, back = random.randbytes(6 * MIB), random.randbytes(5 * MIB + 1)

    async def main():
        async with rig(tcp()) as it:
            it.origin._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            client.writer.write(there)
            client.half_close()
            server.writer.write(back)
            server.half_close()
            got = await asyncio.gather(read_in_bites(server, len(there), 70_000), read_in_bites(client, len(back), 999))
            assert got == [hashlib.sha256(octets).hexdigest() for octets in (there, back)]
            assert await client.is_closed() and await server.is_closed()
            await it.at_rest()

    run(main, plain=plain)


@PLAIN
def test_an_end_that_comes_while_reading_is_held_is_told_after_what_was_before_it(plain):
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            server.stop_reading()
            session = next(iter(it.worker._sweeper.members))
            client.writer.write(b"y" * 32 * MIB)
            client.half_close()
            await until(lambda: not session.client.transport.is_reading(), "the client is held")
            server.go_on_reading()
            assert len(await server.rest()) == 32 * MIB
            await it.at_rest()

    run(main, plain=plain)


@PLAIN
def test_a_crowd_that_comes_at_once_is_let_in(plain):
    async def main():
        async with rig(http()) as it:
            crowd = [socket.create_connection(("127.0.0.1", it.port())) for _ in range(150)]
            await until(lambda: it.front.scur == len(crowd), "all are in")
            for sock in crowd:
                sock.close()
            await it.at_rest()
            assert it.front.conn_tot == len(crowd)

    run(main, plain=plain)


@PLAIN
def test_descriptors_that_change_hands_between_two_events_confuse_nobody(plain):
    """Clients that reset and clients that come, all between two looks at the sockets."""

    async def main():
        async with rig(http()) as it:
            for _ in range(30):
                crowd = [socket.create_connection(("127.0.0.1", it.port())) for _ in range(8)]
                await until(lambda: it.front.scur == 8, "all are in")
                for sock in crowd[::2]:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.close()
                crowd = crowd[1::2] + [socket.create_connection(("127.0.0.1", it.port())) for _ in range(4)]
                for sock in crowd:
                    sock.send(b"BROKEN\r\n\r\n")
                await turns()
                for sock in crowd:
                    with sock:
                        sock.settimeout(5)
                        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
                await until(lambda: it.front.scur == 0, "all are gone")
            await it.at_rest()

    run(main, plain=plain)


def test_a_fault_of_ours_is_told_and_stays_with_one_connection():
    async def main():
        async with rig(http()) as it:
            complaints = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            (acceptor,) = it.worker._listeners[0]._acceptors
            accept = acceptor._accept

            def broken():
                raise ZeroDivisionError("on purpose")

            acceptor._accept = broken
            unlucky = await it.connect()
            assert await unlucky.is_gone()
            acceptor._accept = accept
            client, server = await it.pair()
            await it.ask(client, server)
            await it.at_rest()
            gc.collect()
            assert [str(context["exception"]) for context in complaints] == ["on purpose"]

    run(main)


def test_one_that_is_gone_before_it_is_accepted_is_no_reason_to_stop():
    async def main():
        async with rig(http()) as it:
            (acceptor,) = it.worker._listeners[0]._acceptors
            take = acceptor._take
            errors = [errno.ECONNABORTED, errno.EPROTO]

            def gone():
                if errors:
                    code = errors.pop(0)
                    raise OSError(code, os.strerror(code))
                return take()

            acceptor._take = gone
            client, server = await it.pair()
            await it.ask(client, server)
            assert not errors
            await it.at_rest()

    run(main)


@PLAIN
def test_what_is_open_when_the_worker_ends_is_closed(plain):
    async def main():
        async with rig(http(timeout={"client": "10s"})) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(OK)
            await client.expect(OK)
            await until(it.idle, "a pooled connection")
        assert not [one for one in gc.get_objects() if isinstance(one, Stream) and not one.is_closing()]

    run(main, plain=plain)


def test_a_short_answer_to_who_asks_no_more_takes_few_steps():
    """A client that has said `close` is closed at once, one that has not is given time to read the answer."""

    async def main():
        async with rig(http()) as it:
            for lingers in (False, True):
                client = await it.connect()
                length = b"Content-Length: 1\r\n" if lingers else b""
                await client.send(GET[:-2] + b"Connection: close\r\n" + length + b"\r\n" + b"x" * lingers)
                server = await it.origin.accept() if not it.origin.peers else it.origin.peers[-1]
                await server.head()
                if lingers:
                    await server.exactly(1)
                await server.send(OK)
                await until(lambda: it.front.hrsp_2xx, "the answer")
                it.front.hrsp_2xx = 0
                await turns()
                assert bool(it.worker._sweeper.members) is lingers
                assert (await client.rest()).endswith(b"ok")
                await it.at_rest()

    run(main)


LAST = GET[:-2] + b"Connection: close\r\n\r\n"


@PLAIN
def test_who_has_asked_before_it_is_accepted_is_answered_and_heard_like_all_others(plain):
    """Read before it is watched: all of a request, a part of one, several, or nothing yet."""

    async def main():
        async with rig(http()) as it:
            for first, more in ((LAST, b""), (GET, LAST), (GET + LAST, b""), (LAST[:9], LAST[9:]), (b"", LAST)):
                with socket.create_connection(("127.0.0.1", it.port())) as sock:
                    sock.send(first)
                    await until(lambda: it.front.scur, "it is in")
                    await turns()
                    sock.send(more)
                    requests = (first + more).count(b"GET")
                    server = await it.origin.accept() if not it.origin.peers else it.origin.peers[-1]
                    for _ in range(requests):
                        await server.head()
                        await server.send(OK)
                    await until(lambda: not it.front.scur, "it is done")
                    got = b""
                    while part := sock.recv(4096):
                        got += part
                    assert got.count(b"ok") == requests and got.count(b"connection: close") == 1
            await it.at_rest()

    run(main, plain=plain)


@PLAIN
@pytest.mark.parametrize("is_reset", [False, True], ids=["end", "reset"])
def test_who_is_to_say_no_more_and_goes_is_missed_all_the_same(plain, is_reset):
    async def main():
        async with rig(http(timeout={"server": "50s"})) as it:
            sock = socket.create_connection(("127.0.0.1", it.port()))
            sock.send(LAST)
            server = await it.origin.accept()
            await server.head()
            (client,) = it.worker._sweeper.members
            if is_reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            await until(lambda: client.eof or client.transport is None, "it is missed")
            await server.send(OK)
            await it.at_rest()

    run(main, plain=plain)


def test_who_mostly_connects_and_says_nothing_is_waited_for():
    """Where reading at once is in vain, it is tried now and then, and again when it no longer is."""

    async def main():
        async with rig(http()) as it:
            poller = it.worker._poller
            for says, is_lucky, total in ((b"", False, 300), (b"BROKEN\r\n\r\n", True, 600)):
                crowd = []
                for _ in range(300):
                    sock = socket.create_connection(("127.0.0.1", it.port()))
                    sock.send(says)
                    crowd.append(sock)
                await until(lambda total=total: it.front.conn_tot == total, "all have come")
                assert (poller._luck > 0) is is_lucky
                for sock in crowd:
                    if is_lucky:
                        sock.settimeout(5)
                        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
                    sock.close()
                await until(lambda: not it.front.scur, "all are gone")
            await it.at_rest()

    run(main)


@PLAIN
def test_a_last_answer_that_its_reader_takes_slowly_is_whole(plain):
    body = random.randbytes(200_000)

    async def main():
        async with rig(http()) as it:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(("127.0.0.1", it.port()))
                sock.send(LAST)
                server = await it.origin.accept()
                await server.head()
                await server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                sock.setblocking(False)
                got = b""
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(20):
                    while part := await loop.sock_recv(sock, 3000):
                        got += part
                assert got.endswith(b"\r\n\r\n" + body) and it.front.hrsp_2xx == 1
            await it.at_rest()

    run(main, plain=plain)
