"""Responses kept and compressed on their way, through a running worker."""

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


def test_rules_can_turn_it_off():
    async def main():
        rules = [{"del_header": "Accept-Encoding", "if": {"path": "/secret"}}]
        async with rig(squeezed(frontend={"http_request": rules})) as it:
            client, server = await it.pair(get(target="/secret"))
            await server.head()
            await server.send(answer(TEXT))
            fields, body, _ = await response(client)
            assert b"content-encoding" not in fields
            assert body == TEXT
            await it.at_rest()

    run(main)


def test_what_a_client_has_goes_by_the_tag_that_it_knows():
    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get('If-None-Match: W/"a"'))
            await server.head()
            await server.send(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')
            assert fields_of(await client.head())[b"etag"] == b'w/"a"'
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("closes", [False, True])
def test_a_server_that_answers_before_it_has_all(closes):
    """What the client goes on sending is nobody's while its answer is compressed."""
    body = big(12 * PIECE)

    async def main():
        async with rig(squeezed()) as it:
            client, server = await it.pair(get("Content-Length: 1000000", method="POST"))
            await server.head()
            await client.send(b"x" * 1000)
            await server.exactly(1000)
            await server.send(answer(body))
            if closes:
                server.half_close()
            for _ in range(20):
                client.writer.write(b"x" * 1000)
                await asyncio.sleep(0)
            fields, got, _ = await response(client)
            assert gzip.decompress(got) == body
            assert fields[b"connection"] == b"close"
            await until(lambda: it.idle() == [], "the connection to be forgotten")
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


# The cache


def caching(frontend=None, backend=None, **config):
    return http(frontend=frontend, backend={"cache": {"max_object_size": "256k"} | config} | (backend or {}))


def plain(*lines, target="/", method="GET", version=1):
    return get(*lines, target=target, method=method, accept=None, version=version)


PUBLIC = "Cache-Control: max-age=60"


async def serve(it, client, request, octets):
    """The server is asked, and answers; what the client gets."""
    await client.send(request)
    if not it.origin.peers:
        await it.origin.accept()
    server = it.origin.peers[-1]
    await server.head()
    await server.send(octets)
    return await response(client)


async def from_cache(client, request):
    await client.send(request)
    fields, body, _ = await response(client)
    assert b"age" in fields
    return fields, body


@pytest.mark.parametrize("chunks", [None, [TEXT[:100], TEXT[100:]]])
def test_a_second_client_gets_what_the_first_one_got(chunks):
    async def main():
        async with rig(caching(backend={"cookie": {"name": "S"}})) as it:
            client = await it.connect()
            octets = answer(TEXT, PUBLIC, 'ETag: "a"', "Age: 5", chunks=chunks)
            fields, body, _ = await serve(it, client, plain(), octets)
            assert fields[b"set-cookie"].startswith(b"s=c0")
            assert fields[b"age"] == b"5"
            assert body == TEXT
            # On the same connection, and on another one with a cookie of its own.
            other = await it.connect()
            for again, more in ((client, ()), (other, ("Cookie: S=c0; a=b",)), (other, ("Connection: close",))):
                fields, body = await from_cache(again, plain(*more))
                assert body == TEXT
                assert fields[b"content-length"] == b"%d" % len(TEXT)
                assert b"set-cookie" not in fields
                assert b"date" in fields
                assert 5 <= int(fields[b"age"]) < 60
            assert (it.front.cache_lookups, it.front.cache_hits) == (4, 3)
            assert (it.back.cache_lookups, it.back.cache_hits, it.back.cache_objects) == (4, 3, 1)
            assert it.server().req_tot == 1
            assert it.back.req_tot == it.back.hrsp_2xx == 3
            assert (await it.record()).server == "s0"
            record = await it.record()
            assert (record.server, record.termination, record.status) == ("<CACHE>", "LRNN", 200)
            assert (record.tr_request, record.tw, record.tc) == (0, 0, 0)
            assert record.tr_response >= 0
            assert record.backend == "back"
            await it.at_rest()

    run(main)


def test_all_kinds_of_requests_for_one_object():
    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            octets = answer(TEXT, PUBLIC, 'ETag: "a"', "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT")
            await serve(it, client, plain(), octets)
            await client.send(plain(method="HEAD"))
            head = fields_of(await client.head())
            assert head[b"content-length"] == b"%d" % len(TEXT)
            for line in ('If-None-Match: W/"a"', "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"):
                await client.send(plain(line))
                said = await client.head()
                assert said.startswith(b"HTTP/1.1 304 Not Modified\r\n")
                assert b"Content" not in said
                assert fields_of(said)[b"etag"] == b'"a"'
            _, body = await from_cache(client, plain('If-None-Match: "b"'))
            assert body == TEXT
            assert it.front.hrsp_3xx == 2
            # Past the cache, and none the worse for it.
            for request in (
                plain("Cache-Control: no-cache"), plain("Pragma: no-cache"), plain("Cache-Control: max-age=0"),
                plain("Authorization: Basic x"), plain("If-Match: *"), plain("X-Forwarded-Host: evil"),
                plain("Range: bytes=0-"), plain(target="/?"),
            ):  # fmt: skip
                _, body, _ = await serve(it, client, request, answer(b"new", "Cache-Control: no-store"))
                assert body == b"new"
            assert (await from_cache(client, plain()))[1] == TEXT
            await it.at_rest()

    run(main)


def test_an_old_client_is_none_of_its_business():
    async def main():
        async with rig(caching()) as it:
            for _ in range(2):
                client = await it.connect()
                await client.send(plain(version=0))
                server = it.origin.peers[-1] if it.origin.peers else await it.origin.accept()
                await server.head()
                await server.send(answer(TEXT, PUBLIC))
                assert (await client.rest()).endswith(TEXT)
            assert it.front.cache_lookups == 0
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Cache-Control: max-age=60, private"],
        [PUBLIC, "Set-Cookie: a=b"],
        [PUBLIC, "Vary: Accept"],
        [PUBLIC, "Age: 60"],
    ],
)
def test_what_is_not_for_everybody(lines):
    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            for body in (b"one", b"two"):
                assert (await serve(it, client, plain(), answer(body, *lines)))[1] == body
            assert it.back.cache_objects == 0
            await it.at_rest()

    run(main)


def test_only_if_cached():
    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            await client.send(plain("Cache-Control: only-if-cached"))
            assert (await client.head()).startswith(b"HTTP/1.1 504 ")
            assert it.origin.waiting == 0
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    ("method", "status", "is_gone"),
    [("POST", 200, True), ("DELETE", 303, True), ("PUT", 500, False), ("OPTIONS", 200, False)],
)
def test_what_a_request_changes_is_asked_for_anew(method, status, is_gone):
    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            await serve(it, client, plain(), answer(TEXT, PUBLIC))
            await serve(it, client, plain("Content-Length: 0", method=method), answer(b"done", status=status))
            if is_gone:
                await serve(it, client, plain(), answer(b"new", PUBLIC))
            assert (await from_cache(client, plain()))[1] == (b"new" if is_gone else TEXT)
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("how", ["short", "reset"])
def test_a_part_is_not_kept(chunked, how):
    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            await client.send(plain())
            server = await it.origin.accept()
            await server.head()
            await server.trickle((answer(TEXT, PUBLIC, chunks=[TEXT] if chunked else None)[:-9],))
            server.reset() if how == "reset" else await server.close()
            assert await client.is_reset()
            assert it.worker._caches["back"].used == 0
            await it.at_rest()

    run(main)


def test_a_client_that_leaves_takes_nothing_with_it():
    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            await client.send(plain())
            server = await it.origin.accept()
            await server.head()
            await server.trickle((answer(TEXT, PUBLIC)[:-9],))
            await until(lambda: it.worker._caches["back"].coming, "a part of it")
            client.reset()
            await until(lambda: it.worker._caches["back"].used == 0, "it to be dropped")
            await it.at_rest()

    run(main)


def test_what_turns_out_too_large_goes_on_all_the_same():
    body = big(300 * 1024)

    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            for chunks in ([body], None):
                assert (await serve(it, client, plain(), answer(body, PUBLIC, chunks=chunks)))[1] == body
            assert it.worker._caches["back"].used == 0
            await it.at_rest()

    run(main)


def test_rules_hold_for_what_comes_from_the_cache():
    """And what is looked up is what the server would be asked."""

    async def main():
        rules = {
            "http_request": [{"deny": True, "if": {"path": "/no"}}, {"strip_prefix": "/v1"}],
            "http_response": [{"set_header": {"X-For": "%[path]", "X-By": "-%[server]-"}}, {"del_header": "Server"}],
        }
        async with rig(caching(frontend=rules)) as it:
            client = await it.connect()
            fields, _, _ = await serve(it, client, plain(target="/v1/a"), answer(TEXT, PUBLIC, "Server: x"))
            assert fields[b"x-by"] == b"-s0-"
            fields, body = await from_cache(client, plain(target="/a"))
            assert body == TEXT
            assert (fields[b"x-for"], fields[b"x-by"]) == (b"/a", b"--")
            assert b"server" not in fields
            await client.send(plain(target="/no"))
            assert (await client.head()).startswith(b"HTTP/1.1 403 ")
            await it.at_rest()

    run(main)


def test_pipelined_requests_are_answered_in_turn():
    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            await serve(it, client, plain(), answer(b"kept", PUBLIC))
            await client.send(plain() + plain(target="/x") + plain() * 50)
            server = it.origin.peers[0]
            await server.head()
            await server.send(answer(b"fresh"))
            for number in range(52):
                _, body, _ = await response(client)
                assert body == (b"fresh" if number == 1 else b"kept")
            await it.at_rest()

    run(main)


def test_who_does_not_read_costs_little():
    body = big(200 * 1024)

    async def main():
        async with rig(caching()) as it:
            client = await it.connect()
            await serve(it, client, plain(), answer(body, PUBLIC))
            client.stop_reading()
            await client.send(plain() * 200)
            (member,) = it.worker._sweeper.members
            await until(lambda: member.write_paused, "a full client")
            await turns(50)
            assert member.transport.get_write_buffer_size() < 1 << 20
            client.go_on_reading()
            for _ in range(200):
                assert (await response(client))[1] == body
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("size", [5000, 3 * PIECE + 7])
def test_what_is_kept_is_compressed_once(size):
    body = big(size)

    async def main():
        config = caching(frontend={"compression": {"algorithms": ["br", "gzip"], "min_size": 10}})
        async with rig(config) as it:
            client = await it.connect()
            fields, got, _ = await serve(it, client, get(), answer(body, PUBLIC, 'ETag: "a"'))
            assert gzip.decompress(got) == body
            for coding, count in ((b"gzip", 2), (b"br", 3), (b"gzip", 3), (b"br", 3)):
                fields, got = await from_cache(client, get(accept=coding.decode()))
                assert DECODE[coding](got) == body
                assert fields[b"content-encoding"] == coding
                assert fields[b"content-length"] == b"%d" % len(got)
                assert fields[b"etag"] == b'w/"a"'
                assert it.front.comp_rsp == count
            fields, got = await from_cache(client, get(accept="deflate"))
            assert got == body
            assert (fields[b"etag"], fields[b"vary"]) == (b'"a"', b"accept-encoding")
            await client.send(get('If-None-Match: W/"a"', accept="br"))
            fields = fields_of(await client.head())
            assert (fields[b"etag"], fields[b"vary"]) == (b'w/"a"', b"accept-encoding")
            await client.send(get(method="HEAD"))
            assert fields_of(await client.head())[b"content-length"] == b"%d" % len(body)
            assert it.worker._budget.used == 0
            await it.at_rest()

    run(main)


def test_a_client_that_leaves_while_an_object_is_compressed():
    body = big(3 * PIECE + 7)

    async def main():
        config = caching(frontend={"compression": {"min_size": 10}})
        async with rig(config) as it:
            client = await it.connect()
            await serve(it, client, plain(), answer(body, PUBLIC))
            for wait in range(6):
                leaver = await it.connect()
                leaver.writer.write(get())
                for _ in range(wait):
                    await asyncio.sleep(0)
                leaver.reset()
            await until(lambda: it.front.scur == 1, "them to be gone")
            assert it.worker._budget.used == 0
            assert gzip.decompress((await from_cache(client, get()))[1]) == body
            await it.at_rest()

    run(main)


def test_fields_that_do_not_go_on_choose_nothing():
    """Else what the server says to those who did not send them would be given to those who do."""

    async def main():
        async with rig(caching(process_vary=True)) as it:
            client = await it.connect()
            vary = (PUBLIC, "Vary: X-Tenant")
            octets = answer(b"nobody's", *vary)
            await serve(it, client, plain("X-Tenant: a", "Connection: keep-alive, x-tenant"), octets)
            assert it.back.cache_objects == 0
            await serve(it, client, plain("X-Tenant: a", "Connection: keep-alive"), answer(b"a's", *vary))
            _, body = await from_cache(client, plain("X-Tenant: a"))
            assert body == b"a's"
            await it.at_rest()

    run(main)


async def crowd(it, count=5, request=None):
    """So many clients that ask for the same at one time; the server has got one request."""
    clients = [await it.connect() for _ in range(count)]
    for client in clients:
        await client.send(request or plain())
    server = await it.origin.accept()
    await server.head()
    await turns(20)
    assert it.origin.waiting == 0
    return clients, server


@pytest.mark.parametrize("chunks", [None, [TEXT[:100], TEXT[100:]]])
def test_what_many_ask_for_at_once_the_server_is_asked_for_once(chunks):
    async def main():
        async with rig(caching()) as it:
            clients, server = await crowd(it)
            octets = answer(TEXT, PUBLIC, chunks=chunks)
            await server.trickle((octets[:50], octets[50:5000]))
            # One who comes later waits too, and one who is not to wait does not.
            clients.append(await it.connect())
            await clients[-1].send(plain('If-None-Match: "x"'))
            await turns()
            assert it.origin.waiting == 0
            await server.send(octets[5000:])
            for client in clients:
                assert (await response(client))[1] == TEXT
            assert it.origin.waiting == 0
            assert it.back.cache_hits == 5
            assert it.worker._caches["back"]._asked == {}
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    "lines", [["Content-Length: 9"], [PUBLIC, "Set-Cookie: a=b"], [PUBLIC, "Content-Length: 9000000"]]
)
def test_nobody_waits_in_vain(lines):
    """The answer is for one alone: then all ask, and nobody waits for its like again."""

    async def main():
        async with rig(caching()) as it:
            _, server = await crowd(it)
            # Its content does not come.
            await server.send("\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode())
            for _ in range(4):
                await (await it.origin.accept()).head()
            assert it.worker._caches["back"]._asked == {}
            more = [await it.connect() for _ in range(2)]
            for client in more:
                await client.send(plain())
                await (await it.origin.accept()).head()
            assert it.worker._caches["back"]._asked == {}
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("how", ["client", "server"])
def test_the_next_one_asks_if_the_first_one_fails(how):
    async def main():
        async with rig(caching()) as it:
            clients, server = await crowd(it)
            if how == "client":
                clients.pop(0).reset()
            else:
                await server.send(answer(TEXT, PUBLIC)[:-5])
                await turns()
                await server.close()
                assert await clients.pop(0).is_reset()
            server = await it.origin.accept()
            await server.head()
            await turns(20)
            assert it.origin.waiting == 0
            # One of those who wait leaves.
            clients.pop().reset()
            await until(lambda: it.front.scur == 3, "it to be gone")
            await server.send(answer(TEXT, PUBLIC))
            for client in clients:
                assert (await response(client))[1] == TEXT
            assert it.worker._caches["back"]._asked == {}
            await it.at_rest()

    run(main)


def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr("balancer.proxy.filters._LONGEST_WAIT", 0.05)

    async def main():
        async with rig(caching()) as it:
            clients = [await it.connect() for _ in range(2)]
            for client in clients:
                await client.send(plain())
            servers = [await it.origin.accept() for _ in clients]
            for server in reversed(servers):
                await server.head()
                await server.send(answer(TEXT, PUBLIC))
            for client in clients:
                assert (await response(client))[1] == TEXT
            assert it.worker._caches["back"]._asked == {}
            await it.at_rest()

    run(main)


def test_two_frontends_share_a_backends_cache():
    async def main():
        config = caching()
        config["frontends"]["other"] = config["frontends"]["front"] | {
            "bind": "127.0.0.1:{other}", "trusted_proxies": ["127.0.0.1"],
        }  # fmt: skip
        async with rig(config) as it:
            client = await it.connect()
            await serve(it, client, plain(), answer(TEXT, PUBLIC))
            other = await it.connect("other")
            assert (await from_cache(other, plain("X-Forwarded-For: 10.0.0.1")))[1] == TEXT
            # What is said over TLS is another thing.
            await serve(it, other, plain("X-Forwarded-Proto: https"), answer(b"secure", PUBLIC))
            assert (await from_cache(other, plain("X-Forwarded-Proto: https")))[1] == b"secure"
            assert (await from_cache(client, plain()))[1] == TEXT
            await it.at_rest()

    run(main)
