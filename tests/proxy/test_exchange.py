"""One request and its response: what passes, what is added, what is counted, and each way it can break."""

from __future__ import annotations

import asyncio
import gc
import re
import resource
from hashlib import sha256
from pathlib import Path

import pytest

from balancer.pool.orders import Admin, Condition
from balancer.proxy.exchange import ForwardedFor, Step
from tests.proxy.rig import GET, OK, http, rig, run, turns, until

PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["uvloop", "asyncio"])
MEGABYTE = bytes(range(256)) * 4096
CLOSING_OK = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
UPGRADE = b"GET /chat HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def resident():
    """Octets of memory this process has at the moment."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def chunked(data, size=65536):
    pieces = (data[i : i + size] for i in range(0, len(data), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# What passes

RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 11\r\nX: 2\r\n\r\nhello world",
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nExpires: never\r\n\r\n"
    ),
    "204": b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    "304": b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 1234\r\n\r\n',
    "no reason, odd octets": b"HTTP/1.1 299 \r\nX: caf\xe9\r\nContent-Length: 0\r\n\r\n",
    "interim first": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
}


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_response_cut_in_two_at_any_octet_arrives_as_in_one(kind):
    response = RESPONSES[kind]

    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(response)
            await client.expect(response)
            for cut in range(1, len(response)):
                await client.send(GET)
                await server.head()
                await server.trickle((response[:cut], response[cut:]))
                await client.expect(response)
            await client.send(GET)
            await server.head()
            await server.trickle(bytes([octet]) for octet in response)
            await client.expect(response)
            await it.at_rest()
            assert it.server().connect == 1
            assert it.front.bout == it.server().bout == (len(response) + 1) * len(response)

    run(main)


def test_a_response_without_length_ends_with_its_connection():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(b"HTTP/1.1 200 OK\r\n\r\n")
            await server.send(b"so much")
            await server.send(b" and no more")
            await server.close()
            assert await client.rest() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nso much and no more"
            assert (await it.record()).termination == "----"
            await it.at_rest()
            assert it.server().srv_abrt == 0

    run(main)


def test_head_has_no_body_whatever_its_length_says():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n")
            await server.head()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"
            await server.send(head)
            await client.expect(head)
            await it.ask(client, server)
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_large_bodies_pass_whole_and_memory_stays_flat(framing):
    body = MEGABYTE * 16

    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            before = resident()
            if framing == "length":
                sent = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            else:
                sent = b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body)
            digest = sha256(sent).digest()
            client.writer.write(b"POST / HTTP/1.1\r\nHost: t\r\n" + sent)
            server = await it.origin.accept()
            await server.expect(b"POST / HTTP/1.1\r\nHost: t\r\n")
            got = sha256()
            left = len(sent)
            while left:
                part = await server.reader.read(min(left, 1 << 20))
                got.update(part)
                left -= len(part)
            assert got.digest() == digest
            if framing == "until close":
                sent = b"\r\n" + body
            server.writer.write(b"HTTP/1.1 200 OK\r\n" + sent)
            if framing == "until close":
                server.half_close()
            await client.expect(b"HTTP/1.1 200 OK\r\n")
            if framing == "until close":
                await client.expect(b"connection: close\r\n")
            received = 0
            async with asyncio.timeout(20):
                while received < len(sent):
                    part = await client.reader.read(1 << 20)
                    assert part == sent[received : received + len(part)]
                    received += len(part)
            del sent, part
            gc.collect()
            assert resident() - before < 64 << 20, "what both of the test's own buffers may hold"
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("way", ["down", "up"])
def test_whoever_does_not_read_slows_the_sender_down(way):
    async def main():
        async with rig(http()) as it:
            client = await it.connect()
            size = 50 * len(MEGABYTE)
            length = b"Content-Length: %d\r\n\r\n" % size
            await client.send(b"PUT / HTTP/1.1\r\nHost: t\r\n" + length if way == "up" else GET)
            server = await it.origin.accept()
            await server.head()
            if way == "down":
                await server.send(b"HTTP/1.1 200 OK\r\n" + length)
                await client.head()
            sender, receiver = (server, client) if way == "down" else (client, server)
            receiver.stop_reading()
            before = resident()

            async def send():
                for _ in range(50):
                    sender.writer.write(MEGABYTE)
                    await sender.writer.drain()

            sending = asyncio.create_task(send())
            exchange = next(iter(it.worker._sweeper.members)).exchange
            held = exchange.connection if way == "down" else exchange.client
            await until(lambda: not held.transport.is_reading(), "the sender is held")
            passed = exchange.bytes_in, exchange.bytes_out
            await asyncio.sleep(0.1)
            assert (exchange.bytes_in, exchange.bytes_out) == passed
            assert sum(passed) < size / 2
            assert resident() - before < 20 << 20
            receiver.go_on_reading()
            got = 0
            async with asyncio.timeout(20):
                while got < size:
                    got += len(await receiver.reader.read(1 << 20))
            await sending
            if way == "up":
                await server.send(OK)
                await client.expect(OK)
            await it.ask(client, server)
            await it.at_rest()

    run(main)


def test_a_client_that_never_reads_is_cut_and_the_server_with_it():
    async def main():
        async with rig(http(timeout={"client": "300ms", "server": "10s"})) as it:
            client, server = await it.pair()
            await server.head()
            client.stop_reading()
            server.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + bytes(50000000))
            record = await it.record()
            assert (record.termination, record.status, record.why) == ("cD--", 200, "the client stopped reading")
            assert await server.is_gone()
            await it.at_rest()
            assert it.server().cli_abrt == 1

    run(main)


def test_a_server_that_never_reads_the_request_is_given_up():
    async def main():
        async with rig(http(timeout={"client": "10s", "server": "300ms"})) as it:
            client, server = await it.pair(b"PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 50000000\r\n\r\n")
            await server.head()
            server.stop_reading()
            client.writer.write(bytes(50000000))
            assert (await client.head()).startswith(b"HTTP/1.1 504 ")
            record = await it.record()
            assert (record.termination, record.status) == ("sH--", 504)
            server.go_on_reading()
            assert await server.is_gone()
            await it.at_rest()

    run(main)


def test_the_client_waits_for_100_continue_and_gets_it():
    async def main():
        async with rig(http()) as it:
            head = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            client, server = await it.pair(head)
            assert await server.head() == head
            await server.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
            await client.send(b"body")
            await server.expect(b"body")
            await server.send(OK)
            await client.expect(OK)
            await it.ask(client, server)
            await it.at_rest()
            assert it.front.hrsp_1xx == 0

    run(main)


def test_a_final_answer_in_place_of_100_continue_ends_the_connection():
    async def main():
        async with rig(http()) as it:
            head = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            client, server = await it.pair(head)
            await server.head()
            await server.send(OK)
            assert await client.rest() == CLOSING_OK
            assert await server.is_gone()
            await it.at_rest()

    run(main)


def test_interim_responses_keep_a_slow_server_alive():
    async def main():
        async with rig(http(timeout={"server": "400ms"})) as it:
            client, server = await it.pair()
            await server.head()
            for _ in range(6):
                await server.send(b"HTTP/1.1 102 Processing\r\n\r\n")
                await client.expect(b"HTTP/1.1 102 Processing\r\n\r\n")
                await asyncio.sleep(0.15)
            await server.send(OK)
            await client.expect(OK)
            await it.at_rest()

    run(main)


def test_an_answer_in_the_middle_of_the_upload_is_read_by_the_client():
    async def main():
        async with rig(http()) as it:
            client = await it.connect()

            async def upload():
                client.writer.write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10000000\r\n\r\n")
                for _ in range(100):
                    client.writer.write(bytes(100_000))
                    await client.writer.drain()

            uploading = asyncio.create_task(upload())
            server = await it.origin.accept()
            await server.head()
            answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!"
            await server.send(answer)
            await server.close()
            assert await client.rest() == answer.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            await uploading
            record = await it.record()
            assert (record.status, record.termination) == (413, "----")
            assert not it.idle()
            await it.at_rest()

    run(main)


def test_an_answer_before_the_server_has_read_everything_leaves_the_client_reading():
    """The whole request has been read from the client, and waits in our write buffer."""

    async def main():
        async with rig(http(timeout={"http_keep_alive": "5s"})) as it:
            size = 8_000_000
            client, server = await it.pair(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % size)
            await server.head()
            server.stop_reading()
            exchange = next(iter(it.worker._sweeper.members)).exchange
            sent = 0
            while not exchange.connection.write_paused:
                await client.send(bytes(100_000))
                sent += 100_000
                await turns()
            # Held now; what is announced is cut to what has been sent, so that the request is complete.
            exchange.step = Step.WAITING
            await server.send(OK)
            await client.expect(OK)
            server.go_on_reading()
            assert await server.is_gone()
            await client.send(GET)
            again = await it.origin.accept()
            await it.ask(client, again, b"")
            await it.at_rest()

    run(main)


def test_what_is_for_this_hop_alone_stays_here_and_all_else_passes_in_order():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(
                b"GET /p?q HTTP/1.1\r\nHost: t\r\nA: 1\r\nConnection: keep-alive, Secret\r\nSecret: x\r\nA: 2\r\n"
                b"Keep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: k\r\nUpgrade: h2c\r\nA: 3\r\n"
                b"Content-Length: 0\r\n\r\n"
            )
            assert await server.head() == (
                b"GET /p?q HTTP/1.1\r\nHost: t\r\nA: 1\r\nA: 2\r\nA: 3\r\nContent-Length: 0\r\n\r\n"
            )
            await server.send(
                b"HTTP/1.1 200 OK\r\nB: 1\r\nConnection: X-Hop\r\nX-Hop: x\r\nKeep-Alive: 7\r\nB: 2\r\n"
                b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n"
            )
            assert await client.head() == (
                b"HTTP/1.1 200 OK\r\nB: 1\r\nB: 2\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n"
            )
            await it.at_rest()

    run(main)


# X-Forwarded-For


@pytest.mark.parametrize(
    ("settings", "sent", "expected"),
    [
        (True, b"", b"X-Forwarded-For: 127.0.0.1\r\n"),
        (True, b"X-Forwarded-For: 1.2.3.4\r\n", b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 127.0.0.1\r\n"),
        ({"if_none": True}, b"x-forwarded-for: 1.2.3.4\r\n", b"x-forwarded-for: 1.2.3.4\r\n"),
        ({"if_none": True}, b"", b"X-Forwarded-For: 127.0.0.1\r\n"),
        (
            {"if_none": True},
            b"X-Forwarded-For: 1.2.3.4\r\nConnection: x-forwarded-for\r\n",
            b"X-Forwarded-For: 127.0.0.1\r\n",
        ),
        ({"except": "127.0.0.0/8"}, b"", b""),
        ({"except": ["10.0.0.0/8", "::/0"]}, b"", b"X-Forwarded-For: 127.0.0.1\r\n"),
        ({"header": "X-Client"}, b"", b"X-Client: 127.0.0.1\r\n"),
        (None, b"", b""),
    ],
)
def test_the_server_is_told_who_asks_with_every_request(settings, sent, expected):
    async def main():
        async with rig(http(frontend={"forwarded_for": settings} if settings else {})) as it:
            client = await it.connect()
            await client.send(GET[:-2] + sent + b"\r\n")
            server = await it.origin.accept()
            for _ in range(3):
                assert await server.head() == GET[:-2] + expected + b"\r\n"
                await server.send(OK)
                await client.expect(OK)
                await client.send(GET[:-2] + sent + b"\r\n")
            await it.at_rest()

    run(main)


def test_addresses_are_told_as_servers_know_them():
    from ipaddress import ip_network

    def line(host, *exclude):
        networks = tuple(map(ip_network, exclude))
        return ForwardedFor(b"X", b"x", networks, False).line(host)

    assert line("2001:db8::1") == b"X: 2001:db8::1\r\n"
    assert line("fe80::1%eth0") == b"X: fe80::1\r\n"
    assert line("::ffff:192.0.2.1") == b"X: 192.0.2.1\r\n"
    assert line("::ffff:192.0.2.1", "192.0.2.0/24") == b""
    assert line("fe80::1%eth0", "fe80::/10") == b""


# Cookies


def with_cookie(count=2, **settings):
    return http(count, backend={"cookie": {"name": "SRV"} | settings, "balance": "first"})


def cookie_of(head):
    found = re.findall(rb"\r\nset-cookie: ([^\r]*)", head)
    return found[0] if found else None


@pytest.mark.parametrize("indirect", [True, False])
def test_a_client_gets_a_cookie_and_stays_where_it_says(indirect):
    async def main():
        async with rig(with_cookie(indirect=indirect), 2) as it:
            client = await it.connect()
            await client.send(GET)
            first = await it.origins[0].accept()
            await first.head()
            await first.send(OK)
            assert await client.head() == (
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nset-cookie: SRV=c0; path=/\r\n\r\n"
            )
            await client.exactly(2)
            assert (await it.record()).termination == "--NI"
            await client.send(b"GET / HTTP/1.1\r\nHost: t\r\nCookie: a=b; SRV=c1; c=d\r\n\r\n")
            second = await it.origins[1].accept()
            seen = b"Cookie: a=b; c=d\r\n" if indirect else b"Cookie: a=b; SRV=c1; c=d\r\n"
            assert await second.head() == GET[:-2] + seen + b"\r\n"
            await second.send(OK)
            await client.expect(OK)
            assert (await it.record()).termination == "--VN"
            await it.at_rest()
            assert (it.server("s0").lbtot, it.server("s1").lbtot) == (1, 0)

    run(main)


@pytest.mark.parametrize(
    ("state", "termination", "goes_to"),
    [
        ({"condition": Condition.DOWN}, "--DI", 0),
        ({"condition": Condition.UP, "admin": Admin.MAINT}, "--DI", 0),
        ({"condition": Condition.UP, "admin": Admin.DRAIN}, "--VN", 1),
        ({"condition": Condition.UP, "weight": 0}, "--VN", 1),
    ],
)
def test_a_cookie_for_a_server_that_is_not_simply_up(state, termination, goes_to):
    async def main():
        async with rig(with_cookie(), 2) as it:
            await it.decide(1, **state)
            client = await it.connect()
            await client.send(GET[:-2] + b"Cookie: SRV=c1\r\n\r\n")
            server = await it.origins[goes_to].accept()
            await server.head()
            await server.send(OK)
            cookie = cookie_of(await client.head())
            assert cookie == (b"SRV=c0; path=/" if goes_to == 0 else None)
            assert (await it.record()).termination == termination
            await it.at_rest()

    run(main)


def test_a_cookie_that_names_nobody_is_replaced():
    async def main():
        async with rig(with_cookie(), 2) as it:
            client, server = await it.pair(GET[:-2] + b"Cookie: SRV=bogus\r\n\r\n")
            await server.head()
            await server.send(OK)
            assert cookie_of(await client.head()) == b"SRV=c0; path=/"
            assert (await it.record()).termination == "--II"
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(("preserve", "termination"), [(True, "--NP"), (False, "--NI")])
def test_a_cookie_of_our_name_that_the_server_sets(preserve, termination):
    async def main():
        async with rig(with_cookie(1, preserve=preserve)) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: SRV=own\r\nContent-Length: 0\r\n\r\n")
            head = await client.head()
            assert (b"Set-Cookie: SRV=own" in head) == preserve
            assert (b"set-cookie: SRV=c0" in head) != preserve
            assert (await it.record()).termination == termination
            await it.at_rest()

    run(main)


def test_postonly_and_nocache():
    async def main():
        async with rig(with_cookie(1, postonly=True, nocache=True)) as it:
            client, server = await it.pair()
            await server.head()
            cacheable = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n"
            await server.send(cacheable)
            await client.expect(cacheable)
            await client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
            await server.head()
            await server.send(cacheable)
            head = await client.head()
            assert cookie_of(head) == b"SRV=c0; path=/"
            assert b"cache-control: private" not in head
        async with rig(with_cookie(1, nocache=True)) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(cacheable)
            head = await client.head()
            assert cookie_of(head) == b"SRV=c0; path=/"
            assert head.endswith(b"cache-control: private\r\n\r\n")

    run(main)


def test_a_dated_cookie_is_renewed():
    async def main():
        async with rig(with_cookie(1, maxidle="1h")) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(OK)
            cookie = cookie_of(await client.head())
            await client.exactly(2)
            assert re.fullmatch(rb"SRV=c0\|[A-Za-z0-9+/]{5}; path=/", cookie)
            await client.send(GET[:-2] + b"Cookie: " + cookie.partition(b";")[0] + b"\r\n\r\n")
            await server.head()
            await server.send(OK)
            await client.head()
            assert (await it.record()).termination == "--NI"
            await client.exactly(2)
            await client.send(GET[:-2] + b"Cookie: SRV=c0|AAAAB\r\n\r\n")
            await server.head()
            await server.send(OK)
            assert cookie_of(await client.head())
            assert it.records[-1].termination == "--EI"
            await it.at_rest()

    run(main)


# Answers of ours


def test_without_a_server_the_answer_is_503_at_once_and_the_connection_goes_on():
    async def main():
        async with rig(http()) as it:
            await it.decide(0, Condition.DOWN)
            client = await it.connect()
            for _ in range(2):
                await client.send(GET)
                head = await client.head()
                assert head.startswith(b"HTTP/1.1 503 ") and b"connection" not in head
                await client.exactly(107)
                record = await it.record()
                assert (record.status, record.termination, record.server) == (503, "SC--", "<NOSRV>")
                assert (record.tw, record.tc, record.tr_response) == (-1, -1, -1)
                assert record.why == "back has no server available"
                assert record.request_line == b"GET / HTTP/1.1"
                assert record.ta < 1000
            await client.send(b"HEAD / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(b"connection: close\r\n\r\n")
            await it.decide(0, Condition.UP)
            client, server = await it.pair()
            await it.ask(client, server, b"")
            await it.at_rest()
            assert (it.back.econ, it.back.hrsp_5xx, it.back.req_tot) == (3, 3, 3)
            assert (it.front.hrsp_5xx, it.front.intercepted) == (3, 3)

    run(main)


def test_pipelined_requests_without_a_server_do_not_nest():
    async def main():
        async with rig(http()) as it:
            await it.decide(0, Condition.DOWN)
            client = await it.connect()
            client.writer.write(GET * 1500)
            client.half_close()
            answers = await client.rest()
            assert answers.count(b"HTTP/1.1 503 ") == 1500
            await it.at_rest()

    run(main)


def test_a_request_body_is_not_waited_for_where_there_is_no_server():
    async def main():
        async with rig(http()) as it:
            await it.decide(0, Condition.DOWN)
            client = await it.connect()

            async def upload():
                client.writer.write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10000000\r\n\r\n")
                for _ in range(100):
                    client.writer.write(bytes(100_000))
                    await client.writer.drain()

            uploading = asyncio.create_task(upload())
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 503 ") and b"connection: close" in answer
            await uploading
            await it.at_rest()

    run(main)


def test_the_operators_pages_are_used(tmp_path):
    (tmp_path / "503.html").write_bytes(b"<h1>Back soon</h1>")
    (tmp_path / "400.html").write_bytes(b"<h1>What?</h1>")
    front = {"error_files": {"400": str(tmp_path / "400.html")}}
    back = {"error_files": {"503": str(tmp_path / "503.html")}}

    async def main():
        async with rig(http(frontend=front, backend=back)) as it:
            await it.decide(0, Condition.DOWN)
            client = await it.connect()
            await client.send(GET + b"garbage\r\n\r\n")
            answers = await client.rest()
            assert b"\r\n\r\n<h1>Back soon</h1>HTTP/1.1 400 " in answers
            assert answers.endswith(b"\r\n\r\n<h1>What?</h1>")

    run(main)


def test_a_server_that_takes_too_long_is_504():
    async def main():
        async with rig(http(timeout={"server": "200ms"})) as it:
            client, server = await it.pair()
            await server.head()
            assert (await client.head()).startswith(b"HTTP/1.1 504 ")
            record = await it.record()
            assert (record.status, record.termination) == (504, "sH--")
            assert record.tr_response == -1 and record.tc >= 0
            assert await server.is_gone()
            await it.at_rest()
            assert (it.server().eresp, it.server().hrsp_5xx, it.front.hrsp_5xx) == (1, 1, 1)

    run(main)


def test_a_response_that_stops_coming_is_cut():
    async def main():
        async with rig(http(timeout={"server": "200ms"})) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(OK[:-1])
            await client.expect(OK[:-1])
            assert await client.is_reset()
            record = await it.record()
            assert (record.status, record.termination) == (200, "sD--")
            await it.at_rest()
            assert it.server().srv_abrt == 1

    run(main)


def test_a_request_body_that_stops_coming_is_408():
    async def main():
        async with rig(http(timeout={"client": "200ms"})) as it:
            client, server = await it.pair(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab")
            await server.head()
            assert (await client.head()).startswith(b"HTTP/1.1 408 ")
            record = await it.record()
            assert (record.status, record.termination) == (408, "cH--")
            await server.expect(b"ab")
            assert await server.is_gone()
            await it.at_rest()

    run(main)


def test_a_request_body_that_breaks_its_framing_is_400():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(
                b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
            )
            await server.head()
            await server.expect(b"2\r\nab\r\n")
            await client.send(b"xyz\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
            assert await server.is_gone()
            assert (await it.record()).termination == "PR--"
            client = await it.connect()
            await client.send(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
            await it.at_rest()
            assert it.front.ereq == 2

    run(main)


def test_a_request_body_that_breaks_its_framing_after_the_response_began_cuts_both():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(
                b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
            )
            await server.head()
            await server.send(OK[:-1])
            await client.head()
            await client.send(b"xyz\r\n")
            assert await client.is_reset()
            assert await server.is_reset()
            assert (await it.record()).termination == "PD--"
            await it.at_rest()

    run(main)


# Ends in the middle


@PLAIN
@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"Content-Length: 0"])
def test_a_response_that_breaks_off_does_not_look_complete(framing, how, plain):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            breaks_in_head = framing.endswith(b" 0")
            if breaks_in_head:
                await server.send(b"HTTP/1.1 200 OK\r\nContent-Le")
                await turns()
            else:
                await server.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n3\r\nab")
                await client.head()
                await client.expect(b"3\r\nab")
            if how == "closes":
                await server.close()
            else:
                server.reset()
            if breaks_in_head:
                assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            else:
                assert await client.is_reset()
            record = await it.record()
            expected = (502, "SH--") if breaks_in_head else (200, "SD--")
            assert (record.status, record.termination) == expected
            assert "back/s0: " in record.why
            await it.at_rest()
            assert it.server().srv_abrt + it.server().eresp == 1

    run(main, plain=plain)


@pytest.mark.parametrize("minor", [b"0", b"1"])
def test_an_until_close_response_that_is_reset_does_not_look_complete(minor):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(b"GET / HTTP/1.%b\r\nHost: t\r\n\r\n" % minor)
            await server.head()
            await server.send(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
            await client.head()
            await client.expect(b"half of it")
            server.reset()
            assert await client.is_reset()
            assert (await it.record()).termination == "SD--"
            await it.at_rest()

    run(main)


@PLAIN
def test_a_client_that_leaves_frees_its_server_at_once(plain):
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            client.reset()
            assert await server.is_gone()
            record = await it.record()
            assert (record.status, record.termination, record.tr_response) == (-1, "CH--", -1)
            client, server = await it.pair()
            await server.head()
            await server.send(OK[:-1])
            await client.expect(OK[:-1])
            client.reset()
            assert await server.is_gone()
            record = await it.record()
            assert (record.status, record.termination) == (200, "CD--")
            client, server = await it.pair(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab")
            await server.head()
            client.half_close()
            with pytest.raises(ConnectionResetError):
                await server.rest()
            assert (await it.record()).termination == "CD--"
            await it.at_rest()
            assert (it.server().cli_abrt, it.server().req_tot, len(it.idle())) == (3, 3, 0)

    run(main, plain=plain)


def test_a_client_that_has_asked_and_says_no_more_is_answered():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            client.half_close()
            await server.head()
            await turns()
            await server.send(OK)
            assert await client.rest() == CLOSING_OK
            # The same while the response is on its way: nobody waits for another request.
            client, server = await it.connect(), server
            await client.send(GET)
            await server.head()
            await server.send(OK[:-1])
            await client.expect(OK[:-1])
            client.half_close()
            await turns()
            await server.send(OK[-1:])
            assert await client.rest() == OK[-1:]
            await it.at_rest()
            assert it.server().cli_abrt == 0

    run(main)


@PLAIN
def test_clients_that_leave_at_any_octet_leave_nothing_behind(plain):
    request = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello"
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"

    async def main():
        async with rig(http(backend={"http_reuse": "never"})) as it:
            for octet in range(1, len(request) + 1):
                client = await it.connect()
                await client.send(request[:octet])
                await turns()
                client.reset() if octet % 2 else client.abort()
            await it.at_rest()
            # All of them came through nobody's hands.
            while it.origin.waiting:
                await (await it.origin.accept()).is_gone()
            for octet in range(1, len(response) + 1):
                client, server = await it.pair(request)
                await server.exactly(len(request))
                await server.send(response[:octet])
                await turns()
                client.reset()
                assert await server.is_gone()
            await it.at_rest()
            assert it.server().scur == it.back.scur == 0
            assert not it.idle()

    run(main, plain=plain)


def test_sessions_are_cut_when_their_server_goes_down_if_configured_so():
    async def main():
        async with rig(http(2, server={"on_marked_down": "shutdown-sessions"}), 2) as it:
            clients = []
            for origin in it.origins:
                clients.append(await it.connect())
                await clients[-1].send(GET)
                await (await origin.accept()).head()
            await it.decide(0, Condition.DOWN)
            assert (await clients[0].head()).startswith(b"HTTP/1.1 502 ")
            record = await it.record()
            assert (record.status, record.termination, record.server) == (502, "DH--", "s0")
            assert await clients[1].is_silent()
            await it.at_rest()

    run(main)


def test_an_unexpected_fault_is_answered_and_not_hidden(monkeypatch):
    async def main():
        async with rig(http()) as it:
            complaints = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

            def broken(*_):
                raise ZeroDivisionError("on purpose")

            monkeypatch.setattr(it.worker._upstreams["back"], "dial", broken)
            client = await it.connect()
            await client.send(GET)
            assert (await client.head()).startswith(b"HTTP/1.1 500 ")
            record = await it.record()
            assert (record.status, record.termination) == (500, "IC--")
            await it.at_rest()
            gc.collect()
            assert [str(context["exception"]) for context in complaints] == ["on purpose"]
            assert it.back.eint == 1

    run(main)


# Tunnels


async def tunnel(it, early=b"", first=b""):
    client, server = await it.pair(UPGRADE + early)
    assert await server.head() == (
        b"GET /chat HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    )
    await server.send(SWITCHING + first)
    head = await client.head()
    assert head == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    return client, server


@PLAIN
def test_after_an_upgrade_octets_pass_both_ways(plain):
    async def main():
        async with rig(http()) as it:
            client, server = await tunnel(it, early=b"sent before the 101", first=b"welcome")
            await client.expect(b"welcome")
            await server.expect(b"sent before the 101")
            for i in range(5):
                await client.send(b"ping %d" % i)
                await server.expect(b"ping %d" % i)
                await server.send(b"pong %d" % i)
                await client.expect(b"pong %d" % i)
            server.half_close()
            assert await client.is_closed()
            await client.send(MEGABYTE)
            client.half_close()
            assert await server.rest() == MEGABYTE
            record = await it.record()
            assert (record.status, record.termination) == (101, "----")
            await it.at_rest()
            assert (it.front.hrsp_1xx, it.server().hrsp_1xx, it.front.req_tot) == (1, 1, 1)
            assert not it.idle()

    run(main, plain=plain)


def test_the_last_words_of_a_tunnel_arrive_however_slowly_they_are_read():
    async def main():
        async with rig(http()) as it:
            client, server = await tunnel(it)
            server.half_close()
            server.stop_reading()
            assert await client.is_closed()
            connection = next(iter(it.worker._sweeper.members)).exchange.connection
            sent = 0
            # The server's end is full, and there is something left in ours, though not enough to hold the client.
            while not connection.transport.get_write_buffer_size():
                await client.send(bytes(10_000))
                sent += 10_000
                await turns(2)
            client.half_close()
            record = await it.record()
            assert record.termination == "----"
            server.go_on_reading()
            assert len(await server.rest()) == sent
            await it.at_rest()

    run(main)


def test_the_last_words_of_a_tunnel_do_not_wait_for_ever():
    async def main():
        async with rig(http(timeout={"server": "200ms"})) as it:
            client, server = await tunnel(it)
            server.half_close()
            server.stop_reading()
            assert await client.is_closed()
            transport = next(iter(it.worker._sweeper.members)).exchange.connection.transport
            while not transport.get_write_buffer_size():
                await client.send(bytes(10_000))
                await turns(2)
            client.half_close()
            await it.record()
            await until(lambda: not transport.get_write_buffer_size(), "it is given up")
            server.go_on_reading()
            await server.is_gone()
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_tunnel_that_is_reset_is_reset(who):
    async def main():
        async with rig(http()) as it:
            client, server = await tunnel(it)
            one, other = (client, server) if who == "client" else (server, client)
            one.reset()
            assert await other.is_reset()
            assert (await it.record()).termination == ("CD--" if who == "client" else "SD--")
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(("who", "code"), [("client", "sD"), ("server", "cD")])
def test_of_a_tunnel_whose_one_side_is_closed_the_other_has_a_time_of_its_own(who, code):
    async def main():
        timeouts = {"tunnel": "60s", f"{'server' if who == 'client' else 'client'}_fin": "700ms"}
        async with rig(http(timeout=timeouts)) as it:
            ends = dict(zip(("client", "server"), await tunnel(it), strict=True))
            closed, other = ends.pop(who), *ends.values()
            closed.half_close()
            assert await other.rest() == b""
            for _ in range(6):
                # What still comes is given its time anew.
                await asyncio.sleep(0.15)
                await other.send(b"more")
                await closed.expect(b"more")
            assert await closed.is_reset()
            assert (await it.record()).termination == f"{code}--"
            await it.at_rest()

    run(main)


def test_a_tunnel_has_its_own_timeout():
    async def main():
        timeouts = {"client": "100ms", "server": "100ms", "tunnel": "600ms"}
        async with rig(http(timeout=timeouts)) as it:
            client, server = await tunnel(it)
            await asyncio.sleep(0.3)
            await server.send(b"x")
            await client.expect(b"x")
            assert await client.is_reset()
            assert await server.is_reset()
            assert (await it.record()).termination == "cD--"
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_tunnel_whose_end_does_not_read_slows_the_other_down(way):
    async def main():
        async with rig(http(timeout={"client": "200ms", "server": "200ms", "tunnel": "5s"})) as it:
            client, server = await tunnel(it)
            sender, receiver = (server, client) if way == "down" else (client, server)
            receiver.stop_reading()
            sending = asyncio.create_task(sender.send(MEGABYTE * 30))
            connection = next(iter(it.worker._sweeper.members))
            held = connection if way == "up" else connection.exchange.connection
            await until(lambda: not held.transport.is_reading(), "the sender is held")
            # Neither the client's nor the server's timeout counts in a tunnel.
            await asyncio.sleep(0.6)
            assert not it.records
            receiver.go_on_reading()
            got = 0
            async with asyncio.timeout(20):
                while got < 30 * len(MEGABYTE):
                    got += len(await receiver.reader.read(1 << 20))
            await sending
            await it.at_rest()

    run(main)


def test_a_server_that_does_not_want_to_switch_answers_as_always():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(UPGRADE)
            await server.head()
            await server.send(OK)
            await client.expect(OK)
            await it.ask(client, server)
            await it.at_rest()

    run(main)


def test_a_switch_that_nobody_asked_for_is_502():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(SWITCHING)
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            assert (await it.record()).termination == "PH--"
            assert await server.is_gone()
            await it.at_rest()

    run(main)


# Accounts


def test_a_request_is_accounted_for():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair(b"POST /form HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello")
            await server.head()
            assert (it.front.scur, it.back.scur, it.server().scur) == (1, 1, 1)
            await asyncio.sleep(0.05)
            await server.send(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")
            await client.head()
            record = await it.record()
            assert (record.client, record.client_port) == client.address
            assert (record.frontend, record.backend, record.server) == ("front", "back", "s0")
            assert (record.status, record.termination, record.why) == (302, "----", "")
            assert record.request_line == b"POST /form HTTP/1.1"
            assert 0 <= record.tc < 40 <= record.tr_response <= record.ta
            assert (record.tr_request, record.tw) == (0, 0)
            assert (record.actconn, record.feconn, record.beconn, record.srvconn) == (1, 1, 0, 0)
            assert (record.retries, record.redispatched) == (0, False)
            await it.at_rest()
            received = len(b"POST /form HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello")
            for counters in (it.front, it.server()):
                assert (counters.bin, counters.bout) == (received, record.bytes_read)
                assert (counters.req_tot, counters.hrsp_3xx) == (1, 1)
            assert it.server().rtime >= 40_000 and it.server().rtime_max == it.server().rtime
            back = it.back
            assert sum(back.connect_times) == sum(back.response_times) == sum(back.total_times) == 1

    run(main)


def test_octets_of_a_long_response_are_counted_while_it_goes_on():
    async def main():
        async with rig(http()) as it:
            client, server = await it.pair()
            await server.head()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
            await server.send(head + b"12345")
            await client.expect(head + b"12345")
            await until(lambda: it.front.bout == it.server().bout == len(head) + 5, "the counters")
            await server.send(b"67890")
            await client.expect(b"67890")
            await it.at_rest()
            assert it.front.bout == it.server().bout == len(head) + 10
            assert it.front.bin == len(GET)

    run(main)


def test_without_records_nothing_is_recorded():
    async def main():
        async with rig(http(frontend={"log": False})) as it:
            client, server = await it.pair()
            await it.ask(client, server, b"")
            await client.send(b"garbage\r\n\r\n")
            await client.rest()
            await it.at_rest()
            assert not it.records

    run(main)
