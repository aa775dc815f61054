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
            known = it.worker.routers["front"]._known
            for i in range(300):
                target = f"/{i}"
                assert await goes_to(it, 1 if target.endswith("7") else 0, client, get(target))
            assert not known  # none came twice
            pad = "x" * 1900
            most = 0
            for i in range(400):
                target = f"/{pad}{i}"
                for _ in range(2):
                    assert await goes_to(it, 1 if target.endswith("7") else 0, client, get(target))
                most = max(most, len(known))
            assert 100 < most < 250  # 2 MiB
            for _ in range(2):
                assert await goes_to(it, 1, client, get("/" + "x" * 3000 + "7"))
            assert all(len(key[1]) < 2048 for key in known)
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
        "scheme", "status", "acl", "any_", "all_", "not_",
    }  # fmt: skip


def ruled(*requests, responses=(), **more):
    return http(frontend={"http_request": requests, "http_response": responses} | more)


async def sent_on(it, client, request, response=OK, answer=OK):
    """What the server gets of `request`."""
    await client.send(request)
    if not it.origin.peers:
        await it.origin.accept()
    peer = it.origin.peers[-1]
    head = await peer.head()
    await peer.send(response)
    await client.expect(answer)
    return head


def test_headers_of_requests_are_changed():
    config = ruled(
        {"set_header": {"X-Real-IP": "%[src]", "Host": "inner"}},
        {"del_header": ("X-Secret", "Cookie")},
        {"add_header": {"Via": "1.1 %[frontend]"}, "if": {"path_beg": "/via"}},
        forwarded_for=True,
    )
    config["backends"]["back"]["cookie"] = {"name": "A"}
    end = b"X-Real-IP: 127.0.0.1\r\nHost: inner\r\n"

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            for _ in range(2):
                request = get("/", "X_Secret: 1", "x-secret: 2", "A: b", "Cookie: A=c0", "X-Real-Ip: 6.6.6.6")
                await client.send(request)
                peer = it.origin.peers[-1] if it.origin.peers else await it.origin.accept()
                line = b"GET / HTTP/1.1\r\n"
                assert await peer.head() == line + b"A: b\r\n" + end + b"X-Forwarded-For: 127.0.0.1\r\n\r\n"
                await peer.send(OK)
                # The rules took its cookie away before anybody looked at it.
                assert b"set-cookie: A=c0" in await client.head()
                await client.exactly(2)
            await client.send(get("/via"))
            assert b"\r\nVia: 1.1 front\r\n" in await peer.head()
            assert (await it.record()).request_line == b"GET / HTTP/1.1"
            await peer.send(OK)
            await client.head()
            await it.at_rest()

    run(main)


def test_what_is_the_same_for_all_is_made_once():
    config = ruled({"set_header": {"X": "y"}}, responses=({"set_header": {"Z": "1"}},))

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            for _ in range(5):
                assert await sent_on(it, client, get(), OK, with_field(OK, b"Z: 1")) == get("/", "X: y")
            router = it.worker.routers["front"]
            assert len(router._known) == len(router._sections.kept) == len(router._responses.kept) == 1
            await it.at_rest()

    run(main)


def with_field(message, field):
    return message.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n\r\n")


def test_headers_of_responses_are_changed():
    rules = (
        {"del_header": ("Server", "Set-Cookie")},
        {"set_header": {"X-Served-By": "%[backend]/%[server]%[path]"}, "if": {"path_beg": "/a"}},
    )
    config = ruled(responses=rules)
    response = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\nok"
    chunked = b"HTTP/1.1 200 OK\r\nserver: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            await sent_on(it, client, get("/"), response, OK)
            await sent_on(it, client, get("/a"), response, with_field(OK, b"X-Served-By: back/s0/a"))
            await sent_on(it, client, get("/aa"), response, with_field(OK, b"X-Served-By: back/s0/aa"))
            body = b"2\r\nok\r\n0\r\n\r\n"
            await sent_on(it, client, get("/"), chunked + body, chunked.replace(b"server: x\r\n", b"") + body)
            old = await it.connect()
            await old.send(b"GET / HTTP/1.0\r\n\r\n")
            peer = it.origin.peers[-1]
            await peer.head()
            await peer.send(chunked + body)
            assert await old.rest() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"
            await it.at_rest()

    run(main)


def test_rules_for_responses_of_some_statuses():
    rules = (
        {"set_header": {"Cache-Control": "no-store"}, "if": {"status": "500-599"}},
        {
            "add_header": {"X-Was": "%[status] %[res_ver]"},
            "if": {"not": {"any": ({"status": 200}, {"path": "/quiet"})}},
        },
        {"del_header": "Server", "if": {"acl": "missing"}},
        {"add_header": {"Via": "%[res_ver] %[frontend]"}, "if": {"path": "/via"}},
    )
    config = ruled(responses=rules)
    config["acls"] = {"missing": {"status": "404,410"}}

    def response(status, *lines, minor=1):
        return b"".join(
            (b"HTTP/1.%d %d X\r\n" % (minor, status), *(line + b"\r\n" for line in (b"Server: x", *lines)),
             b"Content-Length: 0\r\n\r\n")
        )  # fmt: skip

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            for _ in range(3):
                await sent_on(it, client, get("/"), response(200), response(200))
                broken = with_field(with_field(response(502), b"Cache-Control: no-store"), b"X-Was: 502 1.1")
                await sent_on(it, client, get("/"), response(502, b"Cache-control: max-age=9"), broken)
                gone = with_field(response(404), b"X-Was: 404 1.1").replace(b"Server: x\r\n", b"")
                await sent_on(it, client, get("/"), response(404), gone)
                await sent_on(it, client, get("/quiet"), response(302), response(302))
                await sent_on(it, client, get("/via"), response(200), with_field(response(200), b"Via: 1.1 front"))
            await it.at_rest()

    run(main)


def test_via_tells_which_version_came():
    config = ruled(
        {"add_header": {"Via": "%[req_ver] %[frontend]"}}, responses=({"add_header": {"Via": "%[res_ver] us"}},)
    )

    async def main():
        async with rig(config) as it:
            for version in (b"1.1", b"1.0"):
                client = await it.connect()
                await client.send(b"GET / HTTP/%b\r\nHost: t\r\nVia: 1.1 theirs\r\n\r\n" % version)
                peer = it.origin.peers[-1] if it.origin.peers else await it.origin.accept()
                assert (await peer.head()).endswith(b"\r\nVia: 1.1 theirs\r\nVia: %b front\r\n\r\n" % version)
                await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
                assert b"\r\nVia: 1.1 us\r\n" in await client.head()
            await it.at_rest()

    run(main)


def test_an_upgrade_gets_through():
    config = ruled({"set_header": {"X": "y"}}, {"strip_prefix": "/ws"}, responses=({"set_header": {"Z": "1"}},))
    asked = get("/ws/chat", "Connection: Upgrade", "Upgrade: websocket")
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

    async def main():
        async with rig(config) as it:
            client, server = await it.pair(asked)
            assert await server.head() == (
                b"GET /chat HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nX: y\r\nconnection: upgrade\r\n\r\n"
            )
            await server.send(switch + b"hello")
            switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nZ: 1\r\nconnection: upgrade\r\n\r\n"
            await client.expect(switched + b"hello")
            await client.send(b"from me")
            await server.expect(b"from me")
            await it.at_rest()

    run(main)


def test_a_body_goes_along_with_a_changed_request():
    config = ruled({"set_header": {"X": "%[src]"}}, {"replace_path": {"regex": "^/a", "with": "/b"}})

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            head = b"POST /%b?q HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n%b\r\n"
            await client.send(head % (b"a", b"") + b"he")
            server = await it.origin.accept()
            assert await server.head() == head % (b"b", b"X: 127.0.0.1\r\n")
            await client.send(b"llo")
            await server.expect(b"hello")
            await server.send(OK)
            await client.expect(OK)
            assert (await it.record()).request_line == b"POST /a?q HTTP/1.1"
            await it.at_rest()

    run(main)


REDIRECT = {"redirect": {"scheme": "https", "code": 308}, "if": {"path_beg": "/r"}}
RETURN = {"return": {"status": 418, "body": "tea"}, "if": {"path": "/tea"}}


def test_answers_of_rules():
    config = ruled(REDIRECT, RETURN, {"return": {"status": 204}, "if": {"path": "/n"}}, {"deny": 404})

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            await client.send(get("/r?a=b") + get("/tea") + get("/n") + get("/x"))
            await client.expect(
                b"HTTP/1.1 308 Permanent Redirect\r\ncontent-length: 0\r\nlocation: https://t/r?a=b\r\n"
                b"cache-control: no-cache\r\n\r\n"
            )
            await client.expect(
                b"HTTP/1.1 418 I'm a Teapot\r\ncontent-length: 3\r\ncontent-type: text/plain; charset=utf-8\r\n\r\ntea"
            )
            await client.expect(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 404 Not Found\r\n")
            records = [await it.record() for _ in range(4)]
            assert [(each.status, each.termination) for each in records] == [
                (308, "LR--"), (418, "LR--"), (204, "LR--"), (404, "PR--"),
            ]  # fmt: skip
            assert {(each.backend, each.server) for each in records} == {("front", "<NOSRV>")}
            front = it.front
            assert (front.req_tot, front.dreq, front.intercepted) == (4, 1, 4)
            assert (front.hrsp_2xx, front.hrsp_3xx, front.hrsp_4xx) == (1, 1, 2)
            assert it.back.req_tot == 0 and not it.origin.peers
            await it.at_rest()

    run(main)


def test_head_gets_no_body():
    async def main():
        async with rig(ruled(RETURN, {"deny": True})) as it:
            client = await it.connect()
            await client.send(get("/tea").replace(b"GET", b"HEAD") + get("/tea"))
            assert b"\r\ncontent-length: 3\r\n" in await client.head()
            assert (await client.head()).startswith(b"HTTP/1.1 418 ")
            await client.expect(b"tea")
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    "body", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
)
def test_the_body_of_an_answered_request_is_no_request(body):
    """The connection ends, whatever is in it."""

    async def main():
        async with rig(ruled({"deny": True})) as it:
            client = await it.connect()
            await client.send(b"POST / HTTP/1.1\r\nHost: t\r\n" + body + get())
            answer = await client.rest()
            assert answer.count(b"HTTP/1.1 ") == 1 and b"\r\nconnection: close\r\n" in answer
            await it.at_rest()
            assert it.front.req_tot == 1

    run(main)


def test_a_drop_is_silent():
    async def main():
        async with rig(ruled({"silent_drop": True})) as it:
            client = await it.connect()
            await client.send(get())
            assert await client.is_reset()
            record = await it.record()
            assert (record.status, record.termination, record.backend) == (-1, "PR--", "front")
            await it.at_rest()

    run(main)


def test_nobody_needs_a_backend_where_all_is_redirected():
    config = http(frontend={"http_request": ({"redirect": {"scheme": "https"}},)})
    del config["frontends"]["front"]["default_backend"]

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            await client.send(b"GET /a HTTP/1.0\r\nHost: t\r\n\r\n")
            assert b"\r\nlocation: https://t/a\r\n" in await client.rest()
            client = await it.connect()
            await client.send(b"GET /a HTTP/1.0\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
            await it.at_rest()

    run(main)


def test_who_is_allowed_past_the_answers_may_have_nowhere_to_go():
    config = http(frontend={"http_request": ({"allow": True, "if": {"path": "/a"}}, {"deny": True})})
    del config["frontends"]["front"]["default_backend"]

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            await client.send(get("/a"))
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            assert (await it.record()).why == "no rule leads to a backend"
            await it.at_rest()

    run(main)


def test_a_file_is_returned(tmp_path):
    (tmp_path / "page").write_bytes(b"\0page")
    config = ruled({"return": {"file": str(tmp_path / "page"), "content_type": "image/png"}})

    async def main():
        async with rig(config) as it:
            client = await it.connect()
            await client.send(get())
            assert b"\r\ncontent-type: image/png\r\n" in await client.head()
            await client.expect(b"\0page")
            await it.at_rest()

    run(main)
