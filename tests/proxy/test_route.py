"""Which requests go where, through a running worker."""

from __future__ import annotations

import pytest

from balancer.config.rules import Condition
from balancer.wire import proxyproto
from tests.proxy.rig import OK, http, rig, run


def routed(*rules, frontend=None, acls=None, backend=None, count=2):
    """A frontend whose `rules` lead to backends b1, b2, …, each with one server."""
    config = http(frontend={"use_backend": rules} | (frontend or {}))
    for i in range(1, count):
        server = {"address": f"127.0.0.1:{{{i}}}", "cookie": f"c{i}"}
        config["backends"][f"b{i}"] = {"servers": {"s": server}} | (backend or {})
    return config | {"acls": acls or {}}


def get(target="/", *lines, host="t"):
    return "\r\n".join((f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", "")).encode()


async def goes_to(it, number, client, request):
    """The server `number` gets it, as it came."""
    origin = it.origins[number]
    await client.send(request)
    if not origin.waiting and not origin.peers:
        await origin.accept()
    peer = origin.peers[-1]
    assert await peer.head() == request
    await peer.send(OK)
    await client.expect(OK)
    return True


def test_the_first_rule_that_holds_counts():
    rules = (
        {"backend": "b1", "if": {"host": "*.api.example"}},
        {"backend": "b2", "if": {"path_beg": "/static/"}},
        {"backend": "b1", "if": "post"},
    )

    async def main():
        async with rig(routed(*rules, count=3, acls={"post": {"method": "POST"}}), 3) as it:
            client = await it.connect()
            for _ in range(2):
                assert await goes_to(it, 1, client, get("/static/x", host="V1.API.example:80"))
                assert await goes_to(it, 2, client, get("/x/..//%73tatic/x?y"))
                assert await goes_to(it, 0, client, get("/", host="api.example"))
                assert await goes_to(it, 0, client, get("/statics"))
            records = it.records
            assert [(record.backend, record.server) for record in records[:3]] == [
                ("b1", "s"), ("b2", "s"), ("back", "s0"),
            ]  # fmt: skip
            assert it.counters("server", "b2", "s").req_tot == 2
            assert it.back.scur == 0
            await it.at_rest()

    run(main)


def test_the_last_rule_may_be_for_all():
    config = routed({"backend": "b1", "if": {"path": "/x"}}, {"backend": "back"})
    del config["frontends"]["front"]["default_backend"]

    async def main():
        async with rig(config, 2) as it:
            client = await it.connect()
            assert await goes_to(it, 1, client, get("/x"))
            assert await goes_to(it, 0, client, get("/y"))
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("trusted", ["10.0.0.0/8", "2001:db8::/32"])
def test_the_source_is_whom_the_proxy_protocol_names(trusted):
    config = routed(
        {"backend": "b1", "if": {"src": trusted}},
        frontend={"bind": {"address": "127.0.0.1:{front}", "accept_proxy": True}},
    )

    async def main():
        async with rig(config, 2) as it:
            for source, number in (("10.0.0.1", 1), ("192.0.2.1", 0), ("2001:db8::1", 1), ("2001:db9::1", 0)):
                if (":" in source) != (":" in trusted):
                    continue
                client = await it.connect()
                there = "::1" if ":" in source else "127.0.0.1"
                await client.send(proxyproto.encode_v1((source, 1), (there, 2)))
                assert await goes_to(it, number, client, get())
                assert await goes_to(it, number, client, get("/x"))
            await it.at_rest()

    run(main)


def test_what_is_remembered_is_told_apart():
    """Requests that differ in nothing but what a rule looks at."""
    rules = ({"backend": "b1", "if": {"header": {"X-A": "1"}}}, {"backend": "b1", "if": {"cookie_found": "beta"}})

    async def main():
        async with rig(routed(*rules), 2) as it:
            client = await it.connect()
            for _ in range(3):
                assert await goes_to(it, 0, client, get("/", "X-A: 2"))
                assert await goes_to(it, 1, client, get("/", "X-A: 1"))
                assert await goes_to(it, 1, client, get("/", "Cookie: a=1; beta=2"))
                assert await goes_to(it, 0, client, get("/", "Cookie: a=beta"))
            await it.at_rest()

    run(main)


def test_no_more_is_remembered_than_there_is_room_for():
    async def main():
        async with rig(routed({"backend": "b1", "if": {"path_end": "7"}}), 2) as it:
            client = await it.connect()
            for i in range(1100):
                target = f"/{i}"
                assert await goes_to(it, 1 if target.endswith("7") else 0, client, get(target))
            assert await goes_to(it, 1, client, get("/" + "x" * 3000 + "7"))
            router = it.worker.routers["front"]
            assert len(router._known) <= 512
            assert all(len(key[1]) < 2048 for key in router._known)
            await it.at_rest()

    run(main)


def test_each_backend_keeps_its_clients_by_its_own_means():
    """Cookies of one backend mean nothing to another, and a hash of the source works behind a rule too."""
    config = routed({"backend": "b1", "if": {"path_beg": "/b"}}, backend={"cookie": {"name": "B"}})
    config["backends"]["back"] |= {"balance": "source", "cookie": {"name": "A"}}

    async def main():
        async with rig(config, 2) as it:
            client = await it.connect()
            for target, name, number in (("/", b"A=c0", 0), ("/b", b"B=c1", 1)):
                await client.send(get(target, "Cookie: A=x; B=y"))
                peer = await it.origins[number].accept()
                await peer.head()
                await peer.send(OK)
                head = await client.head()
                assert b"\r\nset-cookie: %b;" % name.lower() in head.lower()
                assert await client.exactly(2) == b"ok"
            await it.at_rest()

    run(main)


def test_a_connection_of_its_own_is_not_taken_to_another_backend():
    config = routed({"backend": "b1", "if": {"path": "/b"}}, backend={"http_reuse": "never"})
    config["backends"]["back"] |= {"http_reuse": "never"}

    async def main():
        async with rig(config, 2) as it:
            client = await it.connect()
            for _ in range(2):
                for target, number in (("/", 0), ("/b", 1)):
                    await client.send(get(target))
                    peer = await it.origins[number].accept()
                    assert await peer.head() == get(target)
                    await peer.send(OK)
                    await client.expect(OK)
            await it.at_rest()

    run(main)


def test_a_rule_without_a_server_answers_503_for_its_backend():
    config = routed({"backend": "b1", "if": {"path": "/b"}})
    config["backends"]["b1"]["servers"]["s"]["weight"] = 0

    async def main():
        async with rig(config, 2) as it:
            client = await it.connect()
            await client.send(get("/b"))
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            record = await it.record()
            assert (record.backend, record.server, record.termination[:2]) == ("b1", "<NOSRV>", "SC")
            await it.at_rest()

    run(main)


def test_a_frontend_without_rules_has_no_router():
    async def main():
        async with rig(http()) as it:
            assert it.worker.routers == {}

    run(main)


def test_conditions_of_the_model_are_complete():
    """Whoever adds a key thinks of the functions too."""
    assert set(Condition.model_fields) == {
        "host", "path", "path_beg", "path_end", "path_reg", "method", "header", "header_beg", "header_reg",
        "header_found", "cookie", "cookie_reg", "cookie_found", "url_param", "url_param_reg", "url_param_found", "src",
        "acl", "any_", "all_", "not_",
    }  # fmt: skip
