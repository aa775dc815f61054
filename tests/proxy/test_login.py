"""Who may pass, and that finding out keeps nobody waiting."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from passlib.hash import sha256_crypt

from balancer.proxy.login import credentials_of
from balancer.wire.http1 import Limits, parse_request
from tests.proxy.rig import OK, http, rig, run, until

LIMITS = Limits(head=65536, uri=16384, fields=200)


def asked(*lines: bytes):
    request = parse_request(get(*lines), LIMITS)
    assert request is not None
    return credentials_of(request.section)


def basic(credentials: bytes = b"ann:secret") -> bytes:
    return b"Authorization: Basic " + base64.b64encode(credentials)


@pytest.mark.parametrize(
    ("lines", "credentials"),
    [
        ((basic(),), b"ann:secret"),
        ((basic(b"ann:se:cret"),), b"ann:se:cret"),
        ((basic().replace(b"Basic ", b"bASIC  "),), b"ann:secret"),
        ((), None),
        ((basic(), basic()), None),
        ((basic(b"ann"),), None),
        ((basic(b"ann:\0"),), None),
        ((b"Authorization: Bearer abc",), None),
        ((b"Authorization: Basic",), None),
        ((b"Authorization: Basic \xff=",), None),
        ((b"Authorization: Basic YTpi$",), None),
    ],
)
def test_credentials(lines, credentials):
    assert asked(*lines) == credentials


@given(st.binary(max_size=30).filter(lambda value: not any(octet < 32 or octet == 127 for octet in value)))
def test_no_token_raises(token):
    found = asked(b"Authorization: Basic " + token)
    assert found is None or b":" in found


def guarded(tmp_path, *rules, **more):
    file = tmp_path / "users"
    file.write_text(f"ann:{sha256_crypt.using(rounds=1000).hash('secret')}\n")
    rule = {"auth": {"file": str(file), "realm": "Staff only"}}
    return http(frontend={"http_request": (rule | more, *rules)})


def get(*lines: bytes, target: bytes = b"/") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: t\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


async def is_asked(client) -> bool:
    head = await client.head()
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    await client.exactly(size)
    return head.startswith(b"HTTP/1.1 401 ") and (
        b'\r\nwww-authenticate: Basic realm="Staff only", charset="UTF-8"\r\n' in head
    )


def test_only_users_pass(tmp_path):
    async def main():
        config = guarded(tmp_path, {"set_header": {"X-User": "%[user]"}})
        async with rig(config) as it:
            client = await it.connect()
            for lines in ((), (basic(b"ann:wrong"),), (basic(b"ann:wrong"),), (basic(b"bob:secret"),)):
                await client.send(get(*lines))
                assert await is_asked(client)
            for _ in range(2):
                await client.send(get(basic()))
                server = it.origin.peers[-1] if it.origin.peers else await it.origin.accept()
                assert await server.head() == get(basic(), b"X-User: ann")
                await server.send(OK)
                await client.expect(OK)
            records = [await it.record() for _ in range(6)]
            assert [record.status for record in records] == [401] * 4 + [200] * 2
            assert records[0].termination == "PR--"
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("target", [b"/in", b"//in", b"/in;x", b"/a/..;/in", b"/%2fin"])
def test_no_way_around_it(tmp_path, target):
    async def main():
        async with rig(guarded(tmp_path, **{"if": {"path_beg": "/in"}})) as it:
            client = await it.connect()
            await client.send(get(target=target))
            assert await is_asked(client)
            await it.at_rest()

    run(main)


def test_an_answer_behind_it_waits_for_the_password(tmp_path):
    async def main():
        async with rig(guarded(tmp_path, {"return": {"body": "in"}})) as it:
            client = await it.connect()
            await client.send(get())
            assert await is_asked(client)
            await client.send(get(basic()) * 2)
            for _ in range(2):
                assert (await client.head()).startswith(b"HTTP/1.1 200 ")
                await client.expect(b"in")
            await it.at_rest()

    run(main)


def test_others_are_served_meanwhile_and_a_body_waits(tmp_path, slowly):
    async def main():
        gate, calls = slowly
        async with rig(guarded(tmp_path, **{"if": {"path": "/in"}})) as it:
            client, other = await it.connect(), await it.connect()
            await client.send(b"POST /in HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n" + basic() + b"\r\n\r\nhe")
            await until(lambda: calls, "the check")
            await other.send(get())
            server = await it.origin.accept()
            await server.head()
            await server.send(OK)
            await other.expect(OK)
            await client.send(b"llo")
            assert await client.is_silent()
            gate.set()
            assert (await server.head()).startswith(b"POST /in ")
            await server.expect(b"hello")
            await server.send(OK)
            await client.expect(OK)
            await it.at_rest()

    run(main)


def test_whoever_leaves_during_the_check_is_forgotten(tmp_path, slowly):
    async def main():
        gate, calls = slowly
        async with rig(guarded(tmp_path)) as it:
            client = await it.connect()
            await client.send(get(basic()))
            await until(lambda: calls, "the check")
            client.reset()
            record = await it.record()
            assert record.status == -1 and record.termination.startswith("C")
            gate.set()
            await it.at_rest()
            assert not it.origin.peers

    run(main)
