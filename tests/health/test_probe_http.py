from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from balancer.config import model
from balancer.health.probe_http import HttpProbe
from balancer.health.result import Code

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def probe(address, **keys):
    return HttpProbe(model.HttpCheck.model_validate({"type": "http", **keys}))(address)


def answering(*pieces, requests=None, pause=0.0, end=True):
    """A server that reads a request's head and answers in pieces."""

    async def talk(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if not end:
            await reader.read()

    return talk


@pytest.fixture
def outcome(run, serve):
    """The result of one check of a server that talks like that."""

    def outcome(talk, at="127.0.0.1", **keys):
        async def main():
            async with serve(talk, host=at) as address:
                return await probe(address, **{"timeout": "10s", **keys})

        return run(main())

    return outcome


def test_by_default_options_without_body(outcome):
    requests = []
    result = outcome(answering(OK, requests=requests))
    assert (result.code, result.status, result.info, result.ok) == (Code.L7OK, 200, "OK", True)
    request_line, host, connection, *rest = requests[0].split(b"\r\n")
    assert request_line == b"OPTIONS / HTTP/1.1"
    assert host.startswith(b"Host: 127.0.0.1:")
    assert (connection, rest) == (b"Connection: close", [b"", b""])


@pytest.mark.parametrize(
    ("keys", "request_"),
    [
        (
            {"method": "GET", "path": "/alive?full=1", "host": "www.example.org"},
            b"GET /alive?full=1 HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n",
        ),
        ({"path": "*", "host": "a:8080"}, b"OPTIONS * HTTP/1.1\r\nHost: a:8080\r\nConnection: close\r\n\r\n"),
        (
            {"headers": {"User-Agent": "pybalancer", "X-Name": "a b"}, "host": "a"},
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nUser-Agent: pybalancer\r\nX-Name: a b\r\nConnection: close\r\n\r\n",
        ),
        (
            {"headers": {"Host": "b"}, "host": "a"},
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ),
        ({"headers": {"host": "b"}}, b"OPTIONS / HTTP/1.1\r\nhost: b\r\nConnection: close\r\n\r\n"),
        (
            {"headers": {"connection": "keep-alive"}, "host": "a"},
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nconnection: keep-alive\r\n\r\n",
        ),
        (
            {"method": "POST", "host": "a"},
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
        (
            {"send_proxy": True, "host": "a"},
            b"PROXY UNKNOWN\r\nOPTIONS / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ),
    ],
)
def test_the_request(outcome, keys, request_):
    requests = []
    assert outcome(answering(OK, requests=requests), **keys).ok
    assert requests == [request_]


def test_ipv6(outcome):
    requests = []
    assert outcome(answering(OK, requests=requests), at="::1").ok
    assert b"\r\nHost: [::1]:" in requests[0]


def test_a_unix_socket(run, serve, tmp_path):
    requests = []

    async def main():
        async with serve(answering(OK, requests=requests), path=tmp_path / "s") as address:
            return await probe(address)

    assert run(main()).code is Code.L7OK
    assert b"\r\nHost: localhost\r\n" in requests[0]


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (200, "200-399", Code.L7OK),
        (302, "200-399", Code.L7OK),
        (404, "200-399", Code.L7STS),
        (503, "200-399", Code.L7STS),
        (503, "200,503", Code.L7OK),
        (204, "200,301-303", Code.L7STS),
        (302, "200,301-303", Code.L7OK),
    ],
)
def test_statuses(outcome, status, expected, code):
    result = outcome(
        answering(b"HTTP/1.1 %d Why so\r\nContent-Length: 0\r\n\r\n" % status), expect={"status": expected}
    )
    assert (result.code, result.status, result.info) == (code, status, "Why so")


def test_the_status_decides_without_waiting_for_a_body(outcome):
    assert outcome(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", end=False)).ok


def chunked(*parts):
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (LENGTH % 13 + b"I am healthy.",),
        (LENGTH % 13, b"I am hea", b"lthy."),
        (LENGTH % 13, *(bytes([octet]) for octet in b"I am healthy.")),
        (CHUNKED + chunked(b"I am healthy."),),
        (CHUNKED + chunked(b"I am hea", b"lt", b"hy."),),
        (CHUNKED, *(bytes([octet]) for octet in chunked(b"I am ", b"healt", b"hy."))),
        (UNTIL_CLOSE + b"I am healthy.",),
        (UNTIL_CLOSE, b"I am h", b"ealthy."),
        (b"HTTP/1.0 200 OK\r\n\r\nhealthy",),
        (LENGTH % 70_000 + b"x" * (65536 - 7) + b"healthy" + b"x" * 4464,),
        (LENGTH % 10**9, b"healthy"),
    ],
)
def test_text_is_found(outcome, pieces):
    assert outcome(answering(*pieces, pause=0.001), method="GET", expect={"text": "healthy"}).code is Code.L7OK


@pytest.mark.parametrize(
    "pieces",
    [
        (LENGTH % 4 + b"sick",),
        (LENGTH % 4 + b"sickhealthy",),
        (LENGTH % 0,),
        (CHUNKED + chunked(b"heal", b"\r\n", b"thy"),),
        (UNTIL_CLOSE + b"health",),
        (b"HTTP/1.1 204 No Content\r\n\r\nhealthy",),
        (LENGTH % 70_000 + b"x" * (65536 - 6) + b"healthy" + b"x" * 4464,),
    ],
)
def test_text_is_missing(outcome, pieces):
    result = outcome(answering(*pieces), method="GET", expect={"text": "healthy"})
    assert (result.code, result.info, result.ok) == (Code.L7RSP, "HTTP content check did not match", False)


def test_a_wrong_status_is_not_helped_by_the_right_text(outcome):
    result = outcome(answering(b"HTTP/1.1 500 No\r\n\r\nhello"), method="GET", expect={"text": "hello"})
    assert (result.code, result.status) == (Code.L7STS, 500)


def test_interim_responses_are_passed_over(outcome):
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert outcome(answering(b"HTTP/1.1 100 Continue\r\n\r\n" + interim, interim + OK, pause=0.001)).status == 200
    assert outcome(answering(b"HTTP/1.1 100 Continue\r\n\r\n", end=True)).code is Code.L7RSP


async def endless(reader, writer, begin, more):
    writer.write(begin)
    while True:
        writer.write(more)
        await writer.drain()


def flood(begin, more):
    async def talk(reader, writer):
        await endless(reader, writer, begin, more)

    return talk


async def hang_up(reader, writer):
    await reader.readuntil(b"\r\n\r\n")


async def reset(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize(
    ("talk", "info"),
    [
        (hang_up, "connection closed, no answer"),
        (reset, "Connection reset by peer"),
        (answering(b"HTTP/1.1 200 OK\r\nA: b"), "connection closed in the head"),
        (answering(b"garbage\r\n\r\n", end=False), "status line: invalid"),
        (answering(b"<html>It works", end=False), "not HTTP/1"),
        (answering(b"SSH-2.0-OpenSSH_9.2\r\n", end=False), "not HTTP/1"),
        (answering(b"\x15\x03\x01\x00\x02\x02\x46", end=False), "not HTTP/1"),
        (answering(b"HTTP/2.0 200 OK\r\n\r\n", end=False), "status line: invalid"),
        (answering(b"HTTP/1.1 99999999999999\r\n\r\n", end=False), "status line: invalid"),
        (answering(b"HTTP/1.1 200 OK\nA: b\n\n", end=False), None),
        (answering(b"HTTP/1.1 200 " + b"x" * 70_000, end=False), "head of more than 65536 octets"),
        (answering(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 201 + b"\r\n", end=False), "more than 200 header fields"),
        (flood(b"", b"x" * 65536), "not HTTP/1"),
        (flood(b"HTTP/1.1 200 ", b"x" * 65536), "head of more than 65536 octets"),
        (flood(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 100), "head of more than 65536 octets"),
        (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "more than 10 interim responses"),
        (flood(CHUNKED, b"not a size\r\n"), None),
        (flood(CHUNKED, (b"1;" + b"x" * 500 + b"\r\nx\r\n") * 20), None),
        (answering(LENGTH % 100 + b"cut"), "connection closed in the body"),
        (answering(CHUNKED + b"5\r\nab"), "connection closed in the body"),
    ],
)
def test_hostile_answers_fail_at_once(outcome, talk, info):
    result = outcome(talk, method="GET", expect={"text": "healthy"})
    assert result.code is Code.L7RSP
    assert info is None or result.info == info
    assert result.duration < 5


@pytest.mark.parametrize(
    "talk",
    [
        answering(end=False),
        answering(b"HTTP/1.1 200 O", end=False),
        answering(*(bytes([octet]) for octet in b"HTTP/1.1 200 " + b"drip" * 100), pause=0.02),
        answering(UNTIL_CLOSE, *[b"x"] * 100, pause=0.02),
        answering(LENGTH % 7 + b"health", end=False),
    ],
)
def test_slow_answers_fail_by_the_one_deadline(outcome, talk):
    result = outcome(talk, method="GET", expect={"text": "healthy"}, timeout="200ms")
    assert (result.code, result.info) == (Code.L7TOUT, "")
    assert 0.19 < result.duration < 5


def test_of_a_huge_body_only_the_beginning_is_read(outcome):
    sent = 0

    async def talk(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(LENGTH % 100_000_000)
        for _ in range(1000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    result = outcome(talk, method="GET", expect={"text": "healthy"})
    assert (result.code, result.info) == (Code.L7RSP, "HTTP content check did not match")
    # What the kernel's buffers took.
    assert sent < 30_000_000


def test_layer_4(run, refusing, blackhole):
    assert run(probe(refusing)).code is Code.L4CON
    assert run(probe(blackhole, timeout="100ms")).code is Code.L4TOUT


@pytest.fixture
def over_tls(run, serve, tls_context):
    def over_tls(talk=None, address_host="127.0.0.1", **keys):
        async def main():
            async with serve(talk or answering(OK), host=address_host, tls=tls_context) as address:
                return await probe(address, **{"timeout": "10s", **keys})

        return run(main())

    return over_tls


@pytest.mark.parametrize(
    ("keys", "sni"),
    [
        ({"tls": True}, None),
        ({"tls": True, "host": "www.example.org:8443"}, "www.example.org"),
        ({"tls": {"sni": "other.example.org"}, "host": "www.example.org"}, "other.example.org"),
        ({"tls": True, "host": "[::1]:443"}, None),
        ({"tls": {"verify": True, "ca_file": "CERTIFICATE"}, "host": "www.example.org"}, "www.example.org"),
        ({"tls": {"verify": True, "ca_file": "CERTIFICATE"}}, None),
        ({"tls": True, "send_proxy": False, "method": "GET", "expect": {"text": "hell"}}, None),
    ],
)
def test_tls(over_tls, tls_context, certificate, keys, sni):
    names = []
    tls_context.sni_callback = lambda tls, name, context: names.append(name)
    if isinstance(keys["tls"], dict) and "ca_file" in keys["tls"]:
        keys = keys | {"tls": keys["tls"] | {"ca_file": str(certificate)}}
    result = over_tls(**keys)
    assert (result.code, result.status, result.info) == (Code.L7OK, 200, "OK")
    assert names == [sni]


def test_tls_to_an_ipv6_address_is_verified_for_it(over_tls, certificate):
    assert over_tls(address_host="::1", tls={"verify": True, "ca_file": str(certificate)}).ok


def test_a_large_body_over_tls(over_tls):
    body = b"x" * 60_000 + b"healthy"
    result = over_tls(answering(LENGTH % len(body) + body), tls=True, method="GET", expect={"text": "healthy"})
    assert result.code is Code.L7OK


@pytest.mark.parametrize(
    ("keys", "info"),
    [
        ({"tls": {"verify": True}}, "SSL handshake failure (self-signed certificate)"),
        (
            {"tls": {"verify": True, "ca_file": "CERTIFICATE", "sni": "www.example.com"}},
            "SSL handshake failure (Hostname mismatch, certificate is not valid for 'www.example.com'.)",
        ),
        ({"tls": {"verify": True, "ca_file": "/nonexistent.pem"}}, "/nonexistent.pem: No such file or directory"),
    ],
)
def test_certificates_that_do_not_hold(over_tls, certificate, keys, info):
    if keys["tls"].get("ca_file") == "CERTIFICATE":
        keys = {"tls": keys["tls"] | {"ca_file": str(certificate)}}
    result = over_tls(**keys)
    assert (result.code, result.info) == (Code.L6RSP, info)


@pytest.mark.parametrize("sni", ["a..b", ".a", "x" * 300])
def test_a_server_name_that_tls_cannot_carry(over_tls, sni):
    result = over_tls(tls={"sni": sni})
    assert result.code is Code.L6RSP
    assert "server name" in result.info


async def refuse(reader, writer):
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    await reader.read()


async def alert(reader, writer):
    await reader.read(1)
    writer.write(b"\x15\x03\x03\x00\x02\x02\x28")
    await writer.drain()
    await reader.read()


async def close(reader, writer):
    await reader.read(65536)


@pytest.mark.parametrize(
    ("talk", "info"),
    [
        (refuse, "wrong version number"),
        (alert, "alert handshake failure"),
        (close, "Connection closed during SSL handshake"),
        (flood(b"\x16\x03\x03\x40\x00", b"x" * 65536), "SSL handshake failure"),
    ],
)
def test_servers_that_speak_no_tls(run, serve, talk, info):
    async def main():
        async with serve(talk) as address:
            return await probe(address, tls=True, timeout="5s")

    result = run(main())
    assert result.code is Code.L6RSP
    assert info in result.info


def test_a_handshake_that_never_comes(run, serve):
    async def silent(reader, writer):
        await reader.read()
        await reader.read()

    async def main():
        async with serve(silent) as address:
            return await probe(address, tls=True, timeout="100ms")

    assert run(main()).code is Code.L6TOUT


def test_silence_after_the_handshake(over_tls):
    assert over_tls(answering(end=False), tls=True, timeout="300ms").code is Code.L7TOUT


def test_a_cut_after_the_handshake(over_tls):
    async def cut(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UNTIL_CLOSE + b"hel")
        await writer.drain()
        writer.transport.abort()

    result = over_tls(cut, tls=True, method="GET", expect={"text": "hello"})
    assert (result.code, result.info) == (Code.L7RSP, "HTTP content check did not match")


def test_one_probe_serves_many_servers_at_once(run, serve):
    async def main():
        check = HttpProbe(model.HttpCheck(type="http", timeout="10s"))
        async with serve(answering(OK)) as good, serve(answering(b"HTTP/1.1 500 No\r\n\r\n")) as bad:
            return [result.status for result in await asyncio.gather(*[check(good), check(bad)] * 20)]

    assert run(main()) == [200, 500] * 20


def test_tls_on_a_unix_socket(run, serve, tls_context, certificate, tmp_path):
    tls = {"verify": True, "ca_file": str(certificate)}

    async def main():
        async with serve(answering(OK), path=tmp_path / "s", tls=tls_context) as address:
            return [await probe(address, tls=tls | {"sni": "www.example.org"}), await probe(address, tls=tls)]

    named, unnamed = run(main())
    assert named.ok
    assert unnamed.info.startswith("SSL handshake failure (Hostname mismatch, certificate is not valid for 'localhost'")


def test_plain_http_to_a_tls_server(run, serve, tls_context):
    async def main():
        async with serve(answering(OK), tls=tls_context) as address:
            return await probe(address, timeout="5s")

    assert run(main()).code is Code.L7RSP
