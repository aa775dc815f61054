"""A client's connection: what it may send and when, and how it is told that it is over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct

import pytest

from balancer.pool.orders import Condition
from balancer.proxy.exchange import Exchange
from balancer.proxy.http import ClientConnection, Phase
from balancer.proxy.stream import Stream
from balancer.wire import proxyproto
from tests.proxy.rig import GET, OK, http, rig, run, turns, until

PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["uvloop", "asyncio"])
PROXY = {"bind": {"address": "127.0.0.1:{front}", "accept_proxy": True}}


def page(status):
    """Status line and end of an answer of ours."""
    return b"HTTP/1.1 %d " % status, b"</body></html>\n"


async def is_refused(client, status):
    """The client gets our answer, whole, and then its connection ends in an orderly way."""
    answer = await client.rest()
    start, end = page(status)
    assert answer.startswith(start) and answer.endswith(end)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head + b"\r\n"
    return True


@PLAIN
def test_a_connection_serves_one_request_after_the_other(plain):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            assert await server.head() == b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
            await server.send(OK)
            await client.expect(OK)
            for i in range(5):
                request = b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n" % i
                assert await it.ask(client, server, request) == request
            assert it.front.scur == 1
            await client.close()
            await it.at_rest()
            front, of_server = it.front, it.server()
            assert (front.req_tot, front.hrsp_2xx, front.conn_tot, front.stot) == (6, 6, 1, 1)
            assert (of_server.req_tot, of_server.connect, of_server.reuse) == (6, 1, 5)
            assert (of_server.stot, of_server.lbtot, of_server.smax, of_server.hrsp_2xx) == (6, 6, 1, 6)
            assert front.bin == of_server.bin == len(GET) + 5 * (len(GET) + 1)
            assert front.bout == of_server.bout == 6 * len(OK)
            assert len(it.records) == 6

    run(main, plain=plain)


def test_close_is_kept_to_and_said():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n" + GET)
            assert await server.head() == GET
            await server.send(OK)
            assert await client.rest() == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            # What came behind it was not looked at, and the server's connection is as good as before.
            assert len(it.idle()) == 1
            await it.at_rest()
            assert it.front.req_tot == 1

    run(main)


@pytest.mark.parametrize("response", [OK, OK.replace(b"1.1", b"1.0", 1)])
def test_a_server_that_closes_does_not_close_the_client(response):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.send(response.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await client.expect(OK)
            assert await server.is_gone()
            await client.send(GET)
            again = await it.origin.accept()
            await it.ask(client, again, b"")
            await it.at_rest()
            assert (it.server().connect, it.server().reuse) == (2, 0)

    run(main)


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_clients_are_closed(connection):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(b"GET / HTTP/1.0\r\nHost: t\r\n" + connection + b"\r\n")
            assert await server.head() == GET
            await server.send(OK)
            assert await client.rest() == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            await it.at_rest()

    run(main)


def test_http_1_0_clients_get_chunks_unpacked_and_no_interim_response():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(b"GET / HTTP/1.0\r\n\r\n")
            await server.head()
            await server.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            await server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await server.send(b"4;x=y\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n")
            assert await client.rest() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcdefg"
            assert len(it.idle()) == 1
            await it.at_rest()

    run(main)


def test_pipelined_requests_are_answered_in_order_and_to_whom_they_belong():
    async def serve(origin):
        peer = await origin.accept()
        while True:
            try:
                head = await peer.head()
            except asyncio.IncompleteReadError:
                return
            token = head.split(b" ")[1]
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(token), token))

    async def main():
        async with rig(http(2), 2) as it:
            serving = [asyncio.create_task(serve(origin)) for origin in it.origins for _ in range(10)]
            clients = [await it.connect() for _ in range(5)]
            for number, client in enumerate(clients):
                client.writer.write(
                    b"".join(b"GET /%d/%d HTTP/1.1\r\nHost: t\r\n\r\n" % (number, i) for i in range(200))
                )
            for number, client in enumerate(clients):
                for i in range(200):
                    token = b"/%d/%d" % (number, i)
                    await client.expect(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(token), token))
            await it.at_rest()
            assert it.front.req_tot == it.front.hrsp_2xx == 1000
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    run(main)


def test_the_next_pipelined_request_waits_for_its_turn():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(GET + b"GET /2 HTTP/1.1\r\nHost: t\r\n\r\n")
            await server.head()
            assert await server.is_silent()
            assert it.origin.waiting == 0
            await server.send(OK)
            assert await server.head() == b"GET /2 HTTP/1.1\r\nHost: t\r\n\r\n"
            await server.send(OK)
            await client.expect(OK + OK)
            await it.at_rest()

    run(main)


@PLAIN
def test_pipelined_requests_are_all_answered_though_the_client_says_no_more(plain):
    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            await client.send(GET * 3)
            client.half_close()
            server = await it.origin.accept()
            for _ in range(3):
                await server.head()
                await turns()
                await server.send(OK)
            assert await client.rest() == OK * 2 + OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            await it.at_rest()
            assert it.front.ereq == 0

    run(main, plain=plain)


def test_an_end_in_the_same_breath_as_the_last_pipelined_request():
    """The end is told before the second request has been looked at."""

    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(GET + GET)
            await server.head()
            await turns()
            # Both in one turn of the loop, the response first.
            os.write(server.writer.get_extra_info("socket").fileno(), OK)
            with socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno())) as end:
                end.shutdown(socket.SHUT_WR)
            await client.expect(OK)
            await server.head()
            await server.send(OK)
            assert await client.rest() == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            await it.at_rest()
            assert it.front.ereq == 0

    run(main)


REQUESTS = {
    "plain": (b"GET /where HTTP/1.1\r\nHost: t\r\nAccept: */*\r\n\r\n", None),
    "length": (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\nhello world", None),
    "chunked": (
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n6\r\n world\r\n0\r\nT: x\r\n\r\n",
        None,
    ),
    "behind an empty line": (b"\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n", GET),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_cut_in_two_at_any_octet_arrives_as_in_one(kind):
    request, expected = REQUESTS[kind]
    expected = expected or request

    async def main():
        async with rig(http(backend={"http_reuse": "always"})) as it:
            client, server = await it.pair(request)
            await server.expect(expected)
            await server.send(OK)
            await client.expect(OK)
            for cut in range(1, len(request)):
                await client.trickle((request[:cut], request[cut:]))
                await server.expect(expected)
                await server.send(OK)
                await client.expect(OK)
            await client.trickle(bytes([octet]) for octet in request)
            await server.expect(expected)
            await server.send(OK)
            await client.expect(OK)
            await it.at_rest()
            assert it.server().bin == (len(request) + 1) * len(request)

    run(main)


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /" + b"a" * 20000, 414),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 70000, 431),
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: y\r\n" * 201 + b"\r\n", 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: t\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
def test_what_is_no_request_is_refused(octets, status):
    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            await client.send(octets)
            assert await is_refused(client, status)
            record = await it.record()
            assert (record.status, record.termination, record.server) == (status, "PR--", "<NOSRV>")
            assert record.request_line == b"" and record.why
            await client.close()
            await it.at_rest()
            assert it.origin.waiting == 0
            front = it.front
            assert (front.ereq, front.req_tot, front.intercepted) == (1, 1, 1)
            assert front.hrsp_4xx + front.hrsp_5xx == 1
            assert 0 < front.bin <= len(octets)

    run(main)


def test_a_refusal_is_read_even_by_a_client_that_goes_on_sending():
    async def main():
        async with rig(http()) as it:
            client = await it.connect()

            async def upload():
                client.writer.write(b"POST / HTTP/1.1\r\nHost: t\r\nHost: t\r\nContent-Length: 10000000\r\n\r\n")
                for _ in range(100):
                    client.writer.write(bytes(100_000))
                    await client.writer.drain()

            uploading = asyncio.create_task(upload())
            assert await is_refused(client, 400)
            await uploading
            await it.at_rest()

    run(main)


def test_a_client_that_sends_without_end_behind_its_answer_is_cut():
    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            await client.send(b"garbage\r\n\r\n")
            assert await is_refused(client, 400)
            with pytest.raises(ConnectionError):
                for _ in range(100):
                    client.writer.write(bytes(1_000_000))
                    await client.writer.drain()
            await until(lambda: not it.front.scur, "it is gone")

    run(main)


def test_the_head_has_its_time_however_it_comes():
    async def main():
        async with rig(http(timeout={"http_request": "500ms"})) as it:
            loop = asyncio.get_running_loop()
            client = await it.connect()
            began = loop.time()

            async def drip():
                for octet in b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 1000:
                    client.writer.write(bytes([octet]))
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            assert await is_refused(client, 408)
            assert 0.35 < loop.time() - began < 2
            dripping.cancel()
            record = await it.record()
            assert (record.status, record.termination) == (408, "cR--")
            await it.at_rest()
            assert (it.front.ereq, it.front.hrsp_4xx) == (1, 1)

    run(main)


def test_the_next_head_on_a_connection_has_its_time_from_its_first_octet():
    timeouts = {"http_request": "400ms", "http_keep_alive": "10s"}

    async def main():
        async with rig(http(timeout=timeouts)) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(OK)
            await client.expect(OK)
            await asyncio.sleep(0.6)
            await client.send(b"GET / HT")
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await is_refused(client, 408)
            assert loop.time() - began > 0.25
            await it.at_rest()

    run(main)


def test_a_pipelined_head_that_is_not_whole_has_its_time_too():
    timeouts = {"http_request": "300ms", "http_keep_alive": "10s"}

    async def main():
        async with rig(http(timeout=timeouts)) as it:
            client, server = await it.pair(GET + b"GET /2 H")
            await server.head()
            await server.send(OK)
            await client.expect(OK)
            assert await is_refused(client, 408)
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("octets", [b"", b"\r\n"])
def test_an_idle_connection_ends_silently(octets):
    async def main():
        async with rig(http(timeout={"http_keep_alive": "200ms"}, dontlognull=False)) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(OK)
            await client.expect(OK)
            await client.send(octets)
            assert await client.is_closed()
            await it.record()
            await it.at_rest()
            assert not it.records
            assert (it.front.req_tot, it.front.ereq) == (1, 0)

    run(main)


def test_a_connection_without_a_request_ends_silently():
    async def main(expected, **frontend):
        async with rig(http(frontend=frontend, timeout={"http_request": "200ms"})) as it:
            idle, leaving = await it.connect(), await it.connect()
            await leaving.close()
            assert await idle.is_closed()
            await it.at_rest()
            assert sorted(record.termination for record in it.records) == expected
            assert it.front.req_tot == 0

    run(lambda: main([]))
    run(lambda: main(["CR--", "cR--"], dontlognull=False))


def test_a_client_that_leaves_in_a_head():
    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            await client.send(b"GET / HTTP/1.1\r\nHo")
            client.half_close()
            assert await is_refused(client, 400)
            assert ((record := await it.record()).status, record.termination) == (400, "CR--")
            client = await it.connect()
            await client.send(b"GET / HTTP/1.1\r\nHo")
            await turns()
            client.reset()
            assert ((record := await it.record()).status, record.termination) == (400, "CR--")
            await it.at_rest()

    run(main)


def test_time_spent_idle_is_not_time_of_the_request():
    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            await asyncio.sleep(0.2)
            await client.send(GET)
            server = await it.origin.accept()
            await it.ask(client, server, b"")
            record = await it.record()
            assert record.tr_request == 0
            assert record.ta < 150

    run(main)


def test_time_spent_on_a_slow_head_is():
    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            await client.send(GET[:10])
            await asyncio.sleep(0.1)
            await client.send(GET[10:])
            server = await it.origin.accept()
            await it.ask(client, server, b"")
            record = await it.record()
            assert 90 <= record.tr_request <= record.ta

    run(main)


def test_a_client_that_asks_and_never_reads_is_not_asked_what_else_it_wants():
    """Its answers would pile up here."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + bytes(60000)

    async def main():
        async with rig(http(timeout={"client": "1s"})) as it:
            client = await it.connect()
            client.stop_reading()

            async def serve():
                server = await it.origin.accept()
                while True:
                    await server.head()
                    await server.send(answer)

            serving = asyncio.create_task(serve())
            await turns()
            connection = next(iter(it.worker._sweeper.members))
            await client.send(GET)
            async with asyncio.timeout(10):
                while connection.phase is not Phase.FULL:
                    client.writer.write(GET * 50)
                    await turns()
            served = it.front.req_tot
            for _ in range(20):
                client.writer.write(GET * 50)
                await turns()
            assert connection.phase is Phase.FULL
            assert it.front.req_tot == served
            assert connection.transport.get_write_buffer_size() < 1 << 20
            assert len(connection.buffer) < 1 << 20
            # It reads again, and all is as it should be.
            client.go_on_reading()
            for _ in range(served + 10):
                await client.expect(answer)
            client.stop_reading()
            async with asyncio.timeout(10):
                while connection.phase is not Phase.FULL:
                    client.writer.write(GET * 50)
                    await turns()
            # Now it never reads again.
            await until(lambda: not it.front.scur, "it is given up")
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await it.at_rest()

    run(main)


def test_a_client_that_closes_and_never_reads_does_not_stay_for_ever():
    async def main():
        async with rig(http(timeout={"client": "300ms"})) as it:
            client = await it.connect()
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.stop_reading()
            await client.send(GET)
            client.half_close()
            server = await it.origin.accept()
            await server.head()
            size = 20_000_000
            server.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            record = await it.record()
            assert record.termination == "cD--"
            await until(lambda: not it.front.scur, "it is gone")
            await it.at_rest()

    run(main)


def test_a_little_that_is_never_read_does_not_stay_for_ever_either():
    """The response is complete, and its end fits into our write buffer."""

    async def main():
        async with rig(http(timeout={"client": "300ms"})) as it:
            client = await it.connect()
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.stop_reading()
            await client.send(GET)
            client.half_close()
            server = await it.origin.accept()
            await server.head()
            await turns()
            connection = next(iter(it.worker._sweeper.members))
            await server.send(b"HTTP/1.0 200 OK\r\n\r\n")
            while not connection.transport.get_write_buffer_size():
                await server.send(bytes(30000))
                await turns()
            await server.close()
            await until(lambda: connection.phase is Phase.CLOSED, "the response is complete")
            assert connection.transport.get_write_buffer_size() > 0
            assert it.front.scur == 1
            await until(lambda: not it.front.scur, "it is gone")
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "octet by octet"])
def test_a_proxy_names_the_client(version, whole):
    header = getattr(proxyproto, f"encode_{version}")(("2001:db8::7", 4711), ("2001:db8::1", 80))

    async def main():
        async with rig(http(frontend=PROXY | {"forwarded_for": True})) as it:
            client = await it.connect()
            if whole:
                await client.send(header + GET + GET)
            else:
                await client.trickle(bytes([octet]) for octet in header + GET + GET)
            server = await it.origin.accept()
            for _ in range(2):
                assert await server.head() == GET[:-2] + b"X-Forwarded-For: 2001:db8::7\r\n\r\n"
                await server.send(OK)
                await client.expect(OK)
                record = await it.record()
                assert (record.client, record.client_port) == ("2001:db8::7", 4711)
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("octets", [GET, b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n" + GET])
def test_without_its_proxy_header_a_connection_is_closed_without_a_word(octets):
    async def main():
        async with rig(http(frontend=PROXY)) as it:
            client = await it.connect()
            await client.send(octets)
            assert await client.is_gone()
            assert (await it.record()).termination == "PR--"
            await it.at_rest()
            assert it.front.ereq == 1

    run(main)


def test_a_proxy_header_that_does_not_come_or_breaks_off():
    async def main():
        async with rig(http(frontend=PROXY, timeout={"http_request": "200ms"})) as it:
            slow, leaving = await it.connect(), await it.connect()
            await slow.send(b"PROXY")
            await leaving.send(b"PROXY")
            leaving.half_close()
            assert await leaving.is_gone()
            assert (await it.record()).termination == "CR--"
            assert await slow.is_gone()
            assert (await it.record()).termination == "cR--"
            await it.at_rest()

    run(main)


def test_nobody_is_believed_who_names_himself_unasked():
    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            await client.send(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + GET)
            assert await is_refused(client, 400)

    run(main)


def test_stopping_closes_idle_connections_and_lets_busy_ones_finish():
    async def main():
        async with rig(http()) as it:
            idle, server = await it.pair()
            await server.head()
            await server.send(OK)
            await idle.expect(OK)
            waiting, waiting_server = await it.connect(), server
            await waiting.send(GET)
            await waiting_server.head()
            reading, reading_server = await it.pair()
            await reading_server.head()
            await reading_server.send(OK[:-1])
            await reading.expect(OK[:-1])
            it.worker._stop()
            assert await idle.is_closed()
            await waiting_server.send(OK)
            assert await waiting.rest() == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            await reading_server.send(OK[-1:])
            assert await reading.rest() == OK[-1:]
            assert not it.running.done()
            for client in (waiting, reading):
                await client.close()
            await until(it.running.done, "the worker has stopped")

    run(main)


def test_stopping_asks_a_client_that_has_just_come():
    async def main():
        async with rig(http()) as it:
            client, silent = await it.connect(), await it.connect()
            await until(lambda: it.front.scur == 2, "both are in")
            it.worker._stop()
            await client.send(GET)
            server = await it.origin.accept()
            await server.head()
            await server.send(OK)
            assert await client.rest() == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            assert await silent.is_closed()
            await client.close()
            await until(it.running.done, "the worker has stopped")

    run(main)


def test_a_hard_stop_cuts_what_goes_on():
    async def main():
        config = http()
        config["global"] = {"hard_stop_after": "200ms"}
        async with rig(config) as it:
            client, server = await it.pair()
            await server.head()
            it.worker._stop()
            assert await client.is_reset()
            assert await server.is_gone()
            assert (await it.record()).termination == "KH--"
            await it.at_rest()

    run(main)


def test_over_maxconn_a_parked_client_with_a_request_is_served_though_it_says_no_more():
    async def main():
        async with rig(http(frontend={"maxconn": 1})) as it:
            first, server = await it.pair()
            await server.head()
            second = await it.connect()
            await second.send(GET)
            second.half_close()
            await turns()
            await server.send(OK)
            await first.expect(OK)
            await first.close()
            await server.head()
            await server.send(OK)
            assert await second.rest() in (OK, OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            await it.at_rest()

    run(main)


ENDINGS = ["keep-alive", "close", "refused", "no server", "server resets", "client resets", "timeout", "tunnel"]


@PLAIN
@pytest.mark.parametrize("ending", ENDINGS)
def test_memory_does_not_wait_for_the_garbage_collector(ending, plain):

    async def talk(it):
        client = await it.connect()
        if ending == "close":
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
        elif ending == "tunnel":
            await client.send(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        else:
            await client.send(GET)
        if ending not in ("refused", "no server"):
            server = await it.origin.accept()
            await server.head()
            if ending == "client resets":
                client.reset()
                await server.is_gone()
            elif ending == "server resets":
                server.reset()
            elif ending == "tunnel":
                await server.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
                await client.head()
                client.half_close()
                await server.is_gone()
                await server.close()
            elif ending != "timeout":
                await server.send(OK)
        if ending in ("keep-alive", "refused", "no server", "server resets", "timeout"):
            await client.head()
            await client.close()
        await client.is_gone()
        await client.close()

    async def main():
        timeouts = {"server": "10ms"} if ending == "timeout" else {"connect": "5s"}
        async with rig(http(retries=0, timeout=timeouts, backend={"pool_max_conn": 0})) as it:
            if ending == "refused":
                it.origin.refuse()
            elif ending == "no server":
                await it.decide(0, Condition.DOWN)
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    await talk(it)
                await it.at_rest()
                await turns()
                assert not [one for one in gc.get_objects() if isinstance(one, (ClientConnection, Exchange, Stream))]
            finally:
                gc.enable()

    run(main, plain=plain)


def test_a_client_that_pipelines_without_end_is_read_no_further_than_it_is_answered():
    async def main():
        async with rig(http(timeout={"server": "500ms"})) as it:
            client, server = await it.pair(GET)
            await server.head()
            connection = next(iter(it.worker._sweeper.members))
            flood = asyncio.create_task(client.send(GET * 100_000))
            await until(lambda: connection.is_held)
            for _ in range(20):
                await server.send(OK)
                await client.expect(OK)
                await server.head()
                # A bound, and what the loop reads at one time.
                assert len(connection.buffer) <= 65536 + 262144
            assert connection.is_held
            flood.cancel()
            await server.send(OK)
            client.reset()
            await it.at_rest()

    run(main)


def test_who_is_gone_before_he_is_accepted_has_his_name_all_the_same():
    """Else a client could send what no X-Forwarded-For of ours goes with."""

    async def main():
        async with rig(http(frontend={"forwarded_for": True})) as it:
            for _ in range(20):
                # No turn of the loop between: it is reset when it is accepted.
                with socket.create_connection(("127.0.0.1", it.port())) as client:
                    client.sendall(b"GET /evil HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n")
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await until(lambda: it.front.conn_tot == 20 and not it.front.scur, "all have come and gone")
            await turns()
            while it.origin.waiting:
                server = await it.origin.accept()
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                    assert b"X-Forwarded-For: 127.0.0.1\r\n" in await server.head()
            client, server = await it.pair()
            await it.ask(client, server, b"")
            assert all(record.client == "127.0.0.1" for record in it.records)
            await it.at_rest()

    run(main)
