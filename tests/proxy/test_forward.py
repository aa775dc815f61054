"""Who the client is behind other proxies, and what the servers are told of it."""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.model import Frontend
from balancer.proxy.forward import Forwarding
from balancer.proxy.match import Networks
from balancer.wire import proxyproto
from balancer.wire.http1 import Limits, parse_request
from tests.proxy.rig import OK, http, rig, run

LIMITS = Limits(head=65536, uri=16384, fields=200)
UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def get(*lines: str, host: str = "T.example:80") -> bytes:
    return "\r\n".join(("GET /a HTTP/1.1", f"Host: {host}", *lines, "", "")).encode()


def section_of(*lines: str, host: str = "T.example:80") -> Any:
    request = parse_request(get(*lines, host=host), LIMITS)
    assert request is not None
    return request.section


def forwarding(**own: Any) -> Forwarding:
    frontend = {"mode": "http", "bind": "127.0.0.1:1", "default_backend": "b"} | own
    return Forwarding(Frontend.model_validate(frontend, strict=False), Networks())


def exchange(section: Any, *, trusted: bool = False, source: Any = ("2001:db8::1", 1234), https: bool = False) -> Any:
    return SimpleNamespace(
        is_trusted=trusted, is_https=https, asked=SimpleNamespace(section=section), request_id=b"an-id", source=source,
        endpoints=lambda: (source, ("10.0.0.1", 80) if source else None), frontend=SimpleNamespace(name="web"),
    )  # fmt: skip


def told(section: Any, *, trusted: bool = False, source: Any = ("2001:db8::1", 1234), **own: Any) -> bytes:
    """What is new in the fields."""
    it = exchange(section, trusted=trusted, source=source, https=own.pop("https", False))
    networks = Networks()
    frontend = Frontend.model_validate(
        {"mode": "http", "bind": "127.0.0.1:1", "default_backend": "b"} | own, strict=False
    )
    forwards = Forwarding(frontend, networks)
    after: bytes = forwards.told(section, it, networks.zone(source[0] if source else None)).end_to_end
    return after


TRUSTED = ip_network("10.0.0.0/8")


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ((), "10.0.0.9"),
        (("X-Forwarded-For: 192.0.2.1",), "192.0.2.1"),
        (("X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.7",), "192.0.2.1"),
        (("X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 192.0.2.1", "X-Forwarded-For: 10.0.0.7"), "192.0.2.1"),
        (("X-Forwarded-For: 10.0.0.1, 10.0.0.2",), "10.0.0.1"),
        (("X-Forwarded-For: 192.0.2.1:4711",), "192.0.2.1"),
        (("X-Forwarded-For: [2001:DB8::1]:4711",), "2001:db8::1"),
        (("X-Forwarded-For: 2001:db8::1",), "2001:db8::1"),
        (("X-Forwarded-For: ::ffff:192.0.2.1",), "192.0.2.1"),
        (("X-Forwarded-For: 192.0.2.1, unknown, 10.0.0.2",), "10.0.0.2"),
        (("X-Forwarded-For: 192.0.2.1, , 10.0.0.2",), "10.0.0.2"),
        (("X-Forwarded-For: 192.0.2.999",), "10.0.0.9"),
        (("X-Forwarded-For: " + "10.0.0.1," * 1000 + "10.0.0.2",), "10.0.0.1"),
        (("Forwarded: for=192.0.2.1",), "10.0.0.9"),
    ],
)
def test_the_client_behind_trusted_proxies(lines, client):
    it = forwarding(trusted_proxies=("10.0.0.0/8",))
    assert it.client(section_of(*lines), "10.0.0.9", lambda host: ip_address(host) in TRUSTED) == client


@given(st.text("0123456789abf.:,[] %x\t", max_size=40))
def test_whatever_is_said_there_is_an_address(said):
    it = forwarding(trusted_proxies=("10.0.0.0/8",))
    host = it.client(section_of(f"X-Forwarded-For: {said}"), "10.0.0.9", lambda host: ip_address(host) in TRUSTED)
    assert ip_address(host)


@pytest.mark.parametrize(
    ("lines", "is_https"),
    [
        ((), None),
        (("X-Forwarded-Proto: https",), True),
        (("x-forwarded-proto:  HTTPS ",), True),
        (("X-Forwarded-Proto: https, http",), False),
        (("X-Forwarded-Proto: http", "X-Forwarded-Proto: https"), True),
        (("X-Forwarded-Proto: httpsx",), False),
    ],
)
def test_the_protocol_that_the_nearest_proxy_tells(lines, is_https):
    assert Forwarding.is_https(section_of(*lines)) is is_https


LIES = (
    "X-Forwarded-For: 1.1.1.1", "x_forwarded_for: 1.1.1.1", "X-FORWARDED-PROTO: https", "X-Forwarded-Host: evil",
    "X-Forwarded-Port: 1", "Forwarded: for=1.1.1.1", "X-Real-IP: 1.1.1.1", "X-Client: 1.1.1.1", "X-Forwarded-Server: x",
    "X-Forwarded-Prefix: /x", "X_Request-Id: x",
)  # fmt: skip


def test_what_others_say_is_taken_away():
    own = {"forwarded_for": {"header": "X-Client"}, "request_id": True}
    honest = section_of("A: b")
    assert forwarding(trusted_proxies=(), **own).received(section_of(*LIES, "A: b")).fields == honest.fields
    assert forwarding(trusted_proxies=(), **own).received(honest) is honest
    lying = section_of(*LIES)
    assert forwarding(**own).received(lying) is lying


@pytest.mark.parametrize(
    ("own", "source", "line"),
    [
        ({}, ("192.0.2.1", 1), b"for=192.0.2.1;proto=http"),
        ({}, ("2001:db8::1", 1), b'for="[2001:db8::1]";proto=http'),
        ({}, ("::ffff:192.0.2.1", 1), b"for=192.0.2.1;proto=http"),
        ({}, ("fe80::1%eth0", 1), b'for="[fe80::1]";proto=http'),
        ({}, None, b"for=unknown;proto=http"),
        ({"for": "address_port"}, ("192.0.2.1", 4711), b'for="192.0.2.1:4711";proto=http'),
        ({"for": "address_port"}, ("2001:db8::1", 4711), b'for="[2001:db8::1]:4711";proto=http'),
        ({"for": "_hidden", "by": "_d.1", "proto": False}, ("192.0.2.1", 1), b"for=_hidden;by=_d.1"),
        ({"for": None, "by": "address", "host": True}, ("192.0.2.1", 1), b'by=10.0.0.1;host="t.example:80";proto=http'),
    ],
)
def test_forwarded(own, source, line):
    before = section_of("Forwarded: for=a")
    assert told(before, source=source, forwarded=own) == before.fields + b"Forwarded: %b\r\n" % line


def test_x_forwarded():
    lies = section_of("X-Forwarded-Proto: https", "x_forwarded_host: evil", "A: b")
    honest = section_of("A: b").fields
    ours = b"X-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\nX-Forwarded-Host: t.example:80\r\n"
    assert told(lies, x_forwarded=("proto", "port", "host")) == honest + ours
    assert told(lies, x_forwarded="proto") == section_of("x_forwarded_host: evil", "A: b").fields + ours[:25]
    # A trusted proxy's stay, and what it did not say is said.
    proxied = section_of("X-Forwarded-Proto: https", "A: b")
    assert told(proxied, trusted=True, https=True, x_forwarded=("proto", "port")) == proxied.fields + ours[25:47]
    assert told(section_of(), trusted=False, source=None, x_forwarded="port") == section_of().fields


@pytest.mark.parametrize("what", ["proto", "port", "host"])
def test_x_forwarded_only_where_there_is_none(what):
    brought = section_of(f"X-Forwarded-{what.title()}: theirs", "A: b")
    own = {"x_forwarded": {"headers": what, "if_none": True}}
    assert told(brought, **own) == brought.fields
    values = {"proto": b"http", "port": b"80", "host": b"t.example:80"}
    line = b"X-Forwarded-%b: %b\r\n" % (what.title().encode(), values[what])
    assert told(section_of("A: b"), **own) == section_of("A: b").fields + line
    # An application takes an underscore for a hyphen.
    assert told(section_of(f"x_forwarded_{what}: theirs"), **own) == section_of().fields + line


def test_nothing_is_told_of_some_clients():
    own = {
        "x_forwarded": {"headers": ("proto", "port"), "except": "192.0.2.0/24"},
        "forwarded": {"except": "2001:db8::/32"},
    }
    brought = section_of("X-Forwarded-Proto: theirs")
    assert told(brought, source=("192.0.2.1", 1), **own) == brought.fields + b"Forwarded: for=192.0.2.1;proto=http\r\n"
    ours = b"X-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\n"
    assert told(brought, source=("2001:db8::1", 1), **own) == section_of().fields + ours
    assert told(brought, source=("::ffff:192.0.2.1", 1), **own).startswith(brought.fields + b"Forwarded: ")


def test_forwarded_only_where_there_is_none():
    own = {"forwarded": {"if_none": True}}
    brought = section_of("forwarded: for=theirs")
    assert told(brought, **own) == brought.fields
    assert told(section_of(), **own) == section_of().fields + b'Forwarded: for="[2001:db8::1]";proto=http\r\n'


@pytest.mark.parametrize(
    ("said", "is_kept"),
    [("abc-1", True), ("x" * 128, True), ("", False), ("a b", False), ('a"', False), ("{", False), ("x" * 129, False)],
)
def test_a_name_is_taken_over_where_it_can_be_logged(said, is_kept):
    section = section_of(f"X-Request-ID: {said}")
    it = forwarding(trusted_proxies=("10.0.0.0/8",), request_id=True)
    name = it.name(exchange(section, trusted=True))
    assert (name == said.encode()) if is_kept else UUID.fullmatch(name)
    assert UUID.fullmatch(it.name(exchange(section, trusted=False)))
    assert UUID.fullmatch(it.name(exchange(section_of("X-Request-ID: a", "X-Request-Id: b"), trusted=True)))


def test_a_name_of_the_operators_making():
    it = forwarding(request_id={"header": "X-Name", "format": '%[src]:%[src_port] "{%[frontend]}%[header(x)]'})
    assert it.name(exchange(section_of("X: |}" + "y" * 200)))[:20] == b"2001:db8::1:1234webyyy"[:20]
    assert len(it.name(exchange(section_of("X: " + "y" * 200)))) == 128
    assert told(section_of("x_name: spoofed"), request_id={"header": "X-Name"}).endswith(b"\r\nX-Name: an-id\r\n")


def before_us(**own):
    frontend = {
        "bind": {"address": "127.0.0.1:{front}", "accept_proxy": True},
        "trusted_proxies": ("10.0.0.0/8",),
        "forwarded_for": True,
    }
    return http(frontend=frontend | own)


async def asks(it, source, request, *, answer=OK, field=b""):
    """What the server gets from a client at `source`."""
    client = await it.connect()
    await client.send(proxyproto.encode_v1((source, 1234), ("127.0.0.1", 80)) + request)
    if answer is not OK:
        assert (await client.head()).startswith(answer)
        return b""
    server = it.origin.peers[-1] if it.origin.peers else await it.origin.accept()
    head = await server.head()
    await server.send(OK)
    await client.expect(OK.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n"))
    return head


def test_what_a_server_hears_of_trusted_and_others():
    config = before_us(x_forwarded="proto")

    async def main():
        async with rig(config) as it:
            lies = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https")
            assert await asks(it, "192.0.2.1", get(*lies)) == get(
                "X-Forwarded-Proto: http", "X-Forwarded-For: 192.0.2.1"
            )
            assert await asks(it, "10.0.0.1", get(*lies)) == get(*lies, "X-Forwarded-For: 10.0.0.1")
            records = [await it.record() for _ in range(2)]
            assert [record.client for record in records] == ["192.0.2.1", "6.6.6.6"]
            assert {record.client_port for record in records} == {1234}
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("is_trusted", [False, True])
def test_who_speaks_tls_as_the_proxy_protocol_says(is_trusted):
    """PP2_TYPE_SSL, as HAProxy's send-proxy-v2-ssl has it."""
    source = "10.0.0.1" if is_trusted else "192.0.2.1"
    config = before_us(
        x_forwarded=["proto", "port"],
        forwarded={},
        http_request=(
            {"redirect": {"scheme": "https"}, "if": {"scheme": "http"}},
            {"set_header": {"X-Scheme": "%[scheme] %[dst_port]"}},
        ),
    )

    async def main():
        async with rig(config) as it:
            for flags, is_https in ((1, True), (7, True), (0, False), (6, False)):
                client = await it.connect()
                header = bytearray(proxyproto.encode_v2((source, 1234), ("127.0.0.1", 443)))
                tlv = b"\x20" + (16).to_bytes(2) + bytes([flags]) + bytes(4) + b"\x21\0\x08TLSv1.3\0"
                header[14:16] = (int.from_bytes(header[14:16]) + len(tlv)).to_bytes(2)
                await client.send(bytes(header) + tlv + get())
                if not is_https:
                    assert (await client.head()).startswith(b"HTTP/1.1 302 ")
                    continue
                server = it.origin.peers[-1] if it.origin.peers else await it.origin.accept()
                assert await server.head() == get(
                    "X-Forwarded-Proto: https",
                    "X-Forwarded-Port: 443",
                    f"Forwarded: for={source};proto=https",
                    "X-Scheme: https 443",
                    f"X-Forwarded-For: {source}",
                )
                await server.send(OK)
                await client.expect(OK)
                # What a trusted proxy says itself counts for more.
                await client.send(get("X-Forwarded-Proto: http"))
                if is_trusted:
                    assert (await client.head()).startswith(b"HTTP/1.1 302 ")
                else:
                    assert b"\r\nX-Forwarded-Proto: https\r\n" in await server.head()
                    await server.send(OK)
                    await client.expect(OK)
            await it.at_rest()

    run(main)


def test_rules_see_the_client_behind_the_proxy():
    config = before_us(
        http_request=(
            {"deny": True, "if": {"src": "192.0.2.0/24"}},
            {"redirect": {"scheme": "https"}, "if": {"scheme": "http"}},
            {"set_header": {"X-Src": "%[src] %[scheme]"}},
        )
    )

    async def main():
        async with rig(config) as it:
            behind = ("X-Forwarded-For: 203.0.113.1", "X-Forwarded-Proto: https")
            head = await asks(it, "10.0.0.1", get(*behind))
            assert head == get(*behind, "X-Src: 203.0.113.1 https", "X-Forwarded-For: 10.0.0.1")
            banned = get("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
            await asks(it, "10.0.0.1", banned, answer=b"HTTP/1.1 403 ")
            await asks(it, "192.0.2.1", get(*behind), answer=b"HTTP/1.1 403 ")
            await asks(it, "203.0.113.1", get(*behind), answer=b"HTTP/1.1 302 ")
            await asks(it, "10.0.0.1", get("X-Forwarded-For: 203.0.113.1"), answer=b"HTTP/1.1 302 ")
            await it.at_rest()

    run(main)


def test_conditions_do_not_see_what_is_taken_away():
    config = before_us(http_request={"deny": True, "if": {"not": {"header": {"X-Real-IP": "1.1.1.1"}}}})

    async def main():
        async with rig(config) as it:
            await asks(it, "192.0.2.1", get("X-Real-IP: 1.1.1.1"), answer=b"HTTP/1.1 403 ")
            assert b"X-Real-IP: 1.1.1.1\r\n" in await asks(it, "10.0.0.1", get("X-Real-IP: 1.1.1.1"))
            await it.at_rest()

    run(main)


def test_clients_behind_one_proxy_are_balanced_apart():
    config = before_us()
    config["backends"]["back"] = {
        "balance": "source",
        "servers": {f"s{i}": {"address": f"127.0.0.1:{{{i}}}"} for i in range(2)},
    }

    async def serve(origin):
        peer = await origin.accept()
        while True:
            await peer.head()
            await peer.send(OK)

    async def main():
        async with rig(config, 2) as it:
            servers = [asyncio.create_task(serve(origin)) for origin in it.origins]
            client = await it.connect()
            await client.send(proxyproto.encode_v1(("10.0.0.1", 1234), ("127.0.0.1", 80)))
            chosen = {}
            for i in [*range(12)] * 2:
                await client.send(get(f"X-Forwarded-For: 192.0.2.{i}"))
                await client.expect(OK)
                server = (await it.record()).server
                assert chosen.setdefault(i, server) == server
            assert set(chosen.values()) == {"s0", "s1"}
            for task in servers:
                task.cancel()
            await it.at_rest()

    run(main)


def test_every_request_has_a_name_of_its_own():
    config = before_us(
        request_id=True,
        http_request={"deny": True, "if": {"path": "/no"}},
        http_response={"set_header": {"X-Request-ID": "%[request_id]"}},
    )

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            await client.send(proxyproto.encode_v1(("192.0.2.1", 1234), ("127.0.0.1", 80)))
            names = set()
            for _ in range(3):
                await client.send(get("X-Request-ID: mine"))
                server = it.origin.peers[-1] if it.origin.peers else await it.origin.accept()
                head = await server.head()
                (name,) = UUID.findall(head)
                assert head == get(f"X-Request-ID: {name.decode()}", "X-Forwarded-For: 192.0.2.1")
                await server.send(OK)
                assert b"\r\nX-Request-ID: %b\r\n" % name in await client.head()
                await client.exactly(2)
                assert (await it.record()).request_id == name.decode()
                names.add(name)
            assert len(names) == 3
            await client.send(get().replace(b"/a", b"/no"))
            await client.head()
            assert UUID.fullmatch((await it.record()).request_id.encode())
            theirs = get("X-Request-ID: theirs")
            head = await asks(it, "10.0.0.1", theirs, field=b"X-Request-ID: theirs\r\n")
            assert head == get("X-Request-ID: theirs", "X-Forwarded-For: 10.0.0.1")
            await it.at_rest()

    run(main)
