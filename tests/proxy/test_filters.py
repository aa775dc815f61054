"""Responses compressed on their way, through a running worker."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
import zlib

import brotli
import pytest
import zstandard

from balancer.proxy.compress import PIECE
from tests.proxy.rig import OK, http, rig, run, turns, until

TEXT = b"".join(b"line %d of something that shrinks\n" % i for i in range(3000))
DECODE = {
    b"gzip": gzip.decompress,
    b"br": brotli.decompress,
    b"zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


def squeezed(frontend=None, backend=None, server=None, **more):
    """Algorithms as the best of all, small content too."""
    given = {"algorithms": ["zstd", "br", "gzip"], "types": ["text/*"], "min_size": 10} | more
    return http(frontend={"compression": given} | (frontend or {}), backend=backend, server=server)


def get(*lines, target="/", method="GET", accept="gzip", version=1):
    lines = (*lines, f"Accept-Encoding: {accept}") if accept is not None else lines
    return "\r\n".join((f"{method} {target} HTTP/1.{version}", "Host: t", *lines, "", "")).encode()


def answer(body, *lines, chunks=None, status=200, version=1):
    lines = ("Content-Type: text/plain", *lines)
    if chunks is None:
        lines = (*lines, f"Content-Length: {len(body)}")
    else:
        lines = (*lines, "Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    return "\r\n".join((f"HTTP/1.{version} {status} X", *lines, "", "")).encode() + body


def fields_of(head):
    return dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)


async def content(peer, fields):
    """The body's octets, and its trailers."""
    if b"content-length" in fields:
        return await peer.exactly(int(fields[b"content-length"])), b""
    body = b""
    while size := int(await peer.reader.readuntil(b"\r\n"), 16):
        body += await peer.exactly(size)
        assert await peer.exactly(2) == b"\r\n"
    trailers = b""
    while (line := await peer.reader.readuntil(b"\r\n")) != b"\r\n":
        trailers += line
    return body, trailers


async def response(peer):
    fields = fields_of(await peer.head())
    async with asyncio.timeout(10):
        return (fields, *await content(peer, fields))


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
@pytest.mark.parametrize("chunks", [None, [TEXT[:5], TEXT[5:]]])
def test_a_client_gets_the_coding_that_it_asks_for(coding, chunks):
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get(accept=coding.decode()))
            size = 0
            for _ in range(3):
                assert b"Accept-Encoding: " + coding in await server.head()
                await server.send(answer(TEXT, 'ETag: "a"', chunks=chunks))
                fields, body, trailers = await response(client)
                assert fields[b"content-encoding"] == coding
                assert fields[b"vary"] == b"accept-encoding"
                assert fields[b"etag"] == b'w/"a"'
                assert DECODE[coding](body) == TEXT
                assert len(body) < len(TEXT) / 3
                assert not trailers
                size += len(body)
                await client.send(get(accept=coding.decode()))
            assert it.front.comp_rsp == it.back.comp_rsp == 3
            assert it.front.comp_in == it.back.comp_in == 3 * len(TEXT)
            assert it.front.comp_out == it.back.comp_out == size
            assert it.worker._budget.used == 0
            record = await it.record()
            assert record.termination == "----"
            assert record.bytes_read < len(TEXT)
            await server.head()
            await server.send(OK)
            await client.head()
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (get(accept=None), answer(TEXT)),
        (get(accept="deflate"), answer(TEXT)),
        (get(accept="gzip;q=0"), answer(TEXT)),
        (get("Range: bytes=0-"), answer(TEXT)),
        (get("Cache-Control: no-transform"), answer(TEXT)),
        (get(method="HEAD"), answer(b"").replace(b"h: 0", b"h: 5000")),
        (get(), answer(b"short")),
        (get(), answer(TEXT, "Content-Encoding: x")),
        (get(), answer(TEXT, "Cache-Control: no-transform")),
        (get(), answer(TEXT, "Content-Range: bytes 0-99/200", status=206)),
        (get(), answer(TEXT, status=500)),
        (get(), answer(TEXT).replace(b"text/plain", b"image/png")),
        (get(accept=None), answer(TEXT, chunks=[TEXT])),
    ],
    ids=range(13),
)
def test_all_else_is_left_as_it_is(asked, answered):
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(asked)
            for _ in range(2):
                await server.head()
                await server.send(answered)
                head, _, body = answered.partition(b"\r\n\r\n")
                said = (await client.head()).replace(b"Vary: Accept-Encoding\r\n", b"")
                assert said == head + b"\r\n\r\n"
                await client.expect(body)
                await client.send(asked)
            assert it.front.comp_rsp == it.front.comp_in == it.front.comp_byp == 0
            await it.at_rest()

    run(main)


def test_what_depends_on_accept_encoding_says_so_to_everybody():
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get(accept=None))
            for line, expected in (("X: y", b"accept-encoding"), ("Vary: ACCEPT-Encoding", b"accept-encoding")):
                await server.send(answer(TEXT, line))
                fields, body, _ = await response(client)
                assert fields[b"vary"] == expected
                assert body == TEXT
                await client.send(get(accept=None))
            await it.at_rest()

    run(main)


def test_an_old_client_gets_it_as_it_is():
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get(version=0))
            await server.head()
            await server.send(answer(TEXT, chunks=[TEXT[:100], TEXT[100:]]))
            assert (await client.rest()).partition(b"\r\n\r\n")[2] == TEXT
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("version", [0, 1])
def test_what_ends_with_the_connection_is_left_alone(version):
    """Nobody could tell a part of it from the whole."""

    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get())
            await server.head()
            await server.send(b"HTTP/1.%d 200 OK\r\nContent-Type: text/plain\r\n\r\n" % version + TEXT)
            await server.close()
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert b"encoding" not in head.lower()
            assert body == TEXT
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
def test_what_trickles_in_trickles_out(coding):
    """Server-sent events: each is read by the client before the next one comes."""
    decode = {
        b"gzip": zlib.decompressobj(31).decompress,
        b"br": brotli.Decompressor().process,
        b"zstd": zstandard.ZstdDecompressor().decompressobj().decompress,
    }[coding]

    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get(accept=coding.decode()))
            await server.head()
            await server.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            assert fields_of(await client.head())[b"content-encoding"] == coding
            for number in range(20):
                event = b"data: %d\n\n" % number
                # Cut anywhere, also in the middle of a chunk's size.
                octets = b"%x\r\n%b\r\n" % (len(event), event)
                await server.trickle((octets[:1], octets[1:5], octets[5:]))
                got = b""
                while len(got) < len(event):
                    size = int(await client.reader.readuntil(b"\r\n"), 16)
                    assert size
                    got += decode(await client.exactly(size))
                    assert await client.exactly(2) == b"\r\n"
                assert got == event
            await server.send(b"0\r\n\r\n")
            rest, _ = await content(client, {})
            assert decode(rest) == b""
            await it.at_rest()

    run(main)


def test_trailers_go_on():
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get())
            await server.head()
            octets = answer(TEXT, "Trailer: X-Sum", chunks=[TEXT])
            await server.send(octets[:-2] + b"X-Sum: 7\r\nContent-Length: 3\r\n\r\n")
            fields, body, trailers = await response(client)
            assert gzip.decompress(body) == TEXT
            assert trailers == b"X-Sum: 7\r\n"
            assert fields[b"trailer"] == b"x-sum"
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    ("rest", "termination"),
    [(b"zz\r\n", "PD--"), (b"5\r\nabc", "SD--"), (b"", "SD--"), (b"0\r\nbad trailer\r\n\r\n", "PD--")],
)
@pytest.mark.parametrize("size", [100, 3 * PIECE])
def test_nobody_takes_a_part_for_the_whole(rest, termination, size):
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get())
            await server.head()
            content_of_it = (TEXT * 10)[:size]
            whole = answer(b"", chunks=[content_of_it])
            await server.send(whole[: -len(b"0\r\n\r\n")] + rest)
            await turns()
            await server.close()
            got = b""
            try:
                while part := await client.reader.read(65536):
                    got += part
                raise AssertionError("ended in an orderly way")
            except ConnectionResetError:
                pass
            assert b"\r\n0\r\n" not in got
            assert (await it.record()).termination == termination
            assert it.worker._budget.used == 0
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_that_sends_too_little(chunked):
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get())
            await server.head()
            await server.send(answer(TEXT, chunks=[TEXT] if chunked else None)[:-10])
            await server.close()
            assert await client.is_reset()
            assert (await it.record()).termination == "SD--"
            assert it.worker._budget.used == 0
            await it.at_rest()

    run(main)


def big(size):
    block = hashlib.sha256(b"x").hexdigest().encode() + TEXT[:4000]
    return (block * (size // len(block) + 1))[:size]


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_what_comes_at_once_is_compressed_in_pieces(framing):
    """Others have their turn in between, and the connection to the server serves the next request."""
    body = big(5 * PIECE + 17)

    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get())
            for _ in range(3):
                await server.head()
                await server.send(answer(body, chunks=None if framing == "length" else [body]))
                _, got, _ = await response(client)
                assert gzip.decompress(got) == body
                assert (await it.record()).termination == "----"
                await until(lambda: len(it.idle()) == 1, "the connection to be kept")
                await client.send(get())
            assert it.origin.waiting == 0
            await server.head()
            await server.send(OK)
            await it.at_rest()

    run(main)


def test_a_server_that_leaves_while_its_response_is_compressed():
    body = big(12 * PIECE)

    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get())
            await server.head()
            await server.send(answer(body))
            await server.close()
            _, got, _ = await response(client)
            assert gzip.decompress(got) == body
            assert (await it.record()).termination == "----"
            # Nobody else is given that connection.
            await until(lambda: it.idle() == [], "the connection to be forgotten")
            await client.send(get())
            server = await it.origin.accept()
            await server.head()
            await server.send(answer(TEXT))
            _, got, _ = await response(client)
            assert gzip.decompress(got) == TEXT
            await it.at_rest()

    run(main)


def test_a_slow_client_holds_up_the_server():
    """And costs no memory: what is not read is not compressed."""
    noise = random.Random(1).randbytes(1 << 20)
    total = 24

    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get())
            client.stop_reading()
            await server.head()
            server.writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % (total * len(noise))
            )
            sender = asyncio.get_running_loop().create_task(_send(server, noise, total))
            await until(lambda: any(member.write_paused for member in it.worker._sweeper.members), "a full client")
            (member,) = it.worker._sweeper.members
            await turns(50)
            assert member.transport.get_write_buffer_size() < 1 << 20
            assert len(member.exchange._backlog) < 1 << 20
            assert it.front.comp_in < 20 << 20
            client.go_on_reading()
            fields = fields_of(await client.head())
            assert fields[b"content-encoding"] == b"gzip"
            digest, machine = hashlib.sha256(), zlib.decompressobj(31)
            async with asyncio.timeout(50):
                while size := int(await client.reader.readuntil(b"\r\n"), 16):
                    digest.update(machine.decompress(await client.reader.readexactly(size)))
                    await client.reader.readexactly(2)
            await sender
            assert digest.digest() == hashlib.sha256(noise * total).digest()
            assert machine.eof
            await it.at_rest()

    run(main)


async def _send(server, block, times):
    for _ in range(times):
        server.writer.write(block)
        async with asyncio.timeout(50):
            await server.writer.drain()


@pytest.mark.parametrize("when", range(6))
def test_a_client_that_leaves_at_any_moment_leaves_nothing_behind(when):
    body = big(8 * PIECE)

    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get())
            await server.head()
            octets = answer(body)
            if when < 3:
                await server.trickle((octets[:200], octets[200 : 200 + when * 2 * PIECE]))
                client.reset()
            else:
                server.writer.write(octets)
                for _ in range((when - 3) * 3):
                    await asyncio.sleep(0)
                client.reset()
            await until(lambda: it.front.scur == 0, "the client to be gone")
            await until(lambda: it.worker._budget.used == 0, "its compressor to be gone")
            await it.at_rest()

    run(main)


def test_a_response_that_costs_too_much_goes_as_it_is():
    async def main():
        config = squeezed()
        config["global"] = {"maxcompmem": 1}
        async with rig(config) as it:
            client, server = await it.pair(get())
            for chunks in (None, [TEXT[:9], TEXT[9:]]):
                await server.head()
                octets = answer(TEXT, chunks=chunks)
                head, _, body = octets.partition(b"\r\n\r\n")
                await server.send(octets)
                assert await client.head() == head + b"\r\nVary: Accept-Encoding\r\n\r\n"
                await client.expect(body)
                await client.send(get())
            assert it.front.comp_rsp == 0
            assert it.front.comp_byp == it.back.comp_byp >= 2 * len(TEXT)
            await it.at_rest()

    run(main)


def test_servers_do_not_hear_of_it():
    async def main():
        config = squeezed(offload=True, frontend={"http_request": [{"set_header": {"X": "y"}}]})
        async with rig(config) as it:
            client, server = await it.pair(get(accept="br"))
            for _ in range(2):
                head = await server.head()
                assert b"ccept" not in head
                assert b"X: y\r\n" in head
                await server.send(answer(TEXT))
                fields, body, _ = await response(client)
                assert fields[b"content-encoding"] == b"br"
                assert brotli.decompress(body) == TEXT
                await client.send(get(accept="br"))
            await it.at_rest()

    run(main)


def test_rules_come_first():
    """What they make of a response is what is looked at."""

    async def main():
        rules = [{"set_header": {"Content-Type": "image/x"}, "if": {"path": "/no"}}, {"set_header": {"ETag": '"b"'}}]
        async with rig(squeezed(frontend={"http_response": rules})) as it:
            client, server = await it.pair(get(target="/no"))
            await server.head()
            await server.send(answer(TEXT))
            fields, body, _ = await response(client)
            assert b"content-encoding" not in fields
            assert body == TEXT
            await client.send(get())
            await server.head()
            await server.send(answer(TEXT, 'ETag: "a"'))
            fields, body, _ = await response(client)
            assert fields[b"etag"] == b'w/"b"'
            assert gzip.decompress(body) == TEXT
            await it.at_rest()

    run(main)


def test_a_backend_has_the_last_word():
    async def main():
        config = squeezed(backend={"compression": False})
        config["frontends"]["front"]["use_backend"] = [{"backend": "own", "if": {"path": "/own"}}]
        config["backends"]["own"] = {
            "servers": {"s": {"address": "127.0.0.1:{1}"}},
            "compression": {"algorithms": ["br"], "min_size": 5},
        }
        async with rig(config, 2) as it:
            client, server = await it.pair(get())
            await server.head()
            await server.send(answer(TEXT))
            assert (await response(client))[1] == TEXT
            await client.send(get(target="/own", accept="gzip, br"))
            server = await it.origins[1].accept()
            await server.head()
            await server.send(answer(TEXT))
            assert brotli.decompress((await response(client))[1]) == TEXT
            assert it.back.comp_rsp == 0
            assert it.counters("backend", "own").comp_rsp == 1
            await it.at_rest()

    run(main)


def test_cookies_and_pipelined_requests_go_with_it():
    async def main():
        async with rig(squeezed(backend={"cookie": {"name": "S"}})) as it:
            client = await it.connect()
            await client.send(get() * 3)
            server = await it.origin.accept()
            for _ in range(3):
                await server.head()
                await server.send(answer(TEXT))
                fields, body, _ = await response(client)
                assert fields[b"set-cookie"].startswith(b"s=c0")
                assert gzip.decompress(body) == TEXT
            await it.at_rest()

    run(main)


def test_the_last_response_of_a_connection():
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get("Connection: close"))
            await server.head()
            await server.send(answer(TEXT))
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert b"connection: close" in head
            assert body.endswith(b"\r\n0\r\n\r\n")
            await it.at_rest()

    run(main)
