from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

import aiohttp
import pytest
import uvloop
from passlib.hash import sha256_crypt
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from balancer.config import model
from balancer.observe import live as live_module
from balancer.observe import web as web_module
from balancer.observe.live import Live
from balancer.observe.metrics import Tables
from balancer.observe.snapshot import Snapshot
from balancer.observe.steering import Change, Steering
from balancer.observe.trends import Trends
from balancer.observe.web import Web
from balancer.pool.orders import Admin

TCP_ESTABLISHED = 1
USERS = {"admin": "123", "z\u00fcrich": "p\u00e4ss:w\u00f6rt"}


def listening(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, 0), family=family)
    sock.setblocking(False)
    return sock


def config(**more: object) -> model.Stats:
    return model.Stats.model_validate({"bind": "127.0.0.1:7000", "refresh": "5s", "users": USERS, **more})


def run_on_uvloop(main: Coroutine[None, None, None]) -> None:
    """The loop that the daemon runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def serve(
    snapshot: Callable[[], Snapshot],
    talk: Callable[[int], Awaitable[None]],
    *,
    steer: Steering | None = None,
    live: Live | None = None,
    tables: Tables = tuple,
    **more: object,
) -> None:
    """Run a Web on loopback and let `talk` speak to its port."""

    async def run() -> None:
        with listening() as sock:
            web = Web(config(**more), snapshot, steer=steer, secret=b"s" * 16, live=live, tables=tables)
            await web.start([sock])
            try:
                async with asyncio.timeout(30):
                    await talk(sock.getsockname()[1])
            finally:
                await web.stop()

    run_on_uvloop(run())


async def ask(port: int, path: str, *, method: str = "GET", auth: str | None = "admin:123", **more: object):
    headers = {"Authorization": "Basic " + base64.b64encode(auth.encode()).decode()} if auth is not None else {}
    url = f"http://127.0.0.1:{port}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers, allow_redirects=False, **more) as response,
    ):
        return response.status, response.headers, await response.text()


CHANGES = {
    "admin": True,
    "users": {
        "admin": "123",
        "guest": {"password": "look", "admin": False},
        "ops": {"password": sha256_crypt.using(rounds=1000).hash("hashed")},
    },
}
SITE = {"Origin": "http://127.0.0.1:{port}"}


async def post(port: int, headers: dict[str, str] | None = None, *, path: str = "/haproxy?stats", **more: object):
    """Where the answer to a form leads to, or its status."""
    auth, data = more.pop("auth", "admin:123"), more.pop("data", None) or list(more.items())
    credentials = "Basic " + base64.b64encode(str(auth).encode()).decode()
    sent = {name: value.format(port=port) for name, value in (headers or {}).items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://127.0.0.1:{port}{path}",
            headers={"Authorization": credentials, "User-Agent": "curl/8", **sent},
            data=data,
            allow_redirects=False,
        ) as response,
    ):
        await response.read()
        return response.headers["Location"] if response.status == 303 else response.status


async def token_of(port: int, auth: str = "admin:123") -> str | None:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', (await ask(port, "/haproxy?stats", auth=auth))[2])
    return found[1] if found else None


async def exchange(port: int, sent: bytes) -> bytes:
    """Send octets, read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_the_page_and_the_metrics_are_served(house) -> None:
    async def talk(port: int) -> None:
        status, headers, text = await ask(port, "/haproxy?stats")
        assert (status, headers["Content-Type"], headers["Refresh"]) == (200, "text/html; charset=utf-8", "5")
        assert "Nodo Master" in text and text.endswith("</html>")
        status, headers, text = await ask(port, "/metrics")
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert len(list(text_string_to_metric_families(text))) > 50
        assert (await ask(port, "/metrics?scope=server"))[0] == 200

    serve(house.look, talk)


def test_a_head_has_no_body(house) -> None:
    async def talk(port: int) -> None:
        credentials = base64.b64encode(b"admin:123")
        for target in (b"/haproxy?stats", b"/metrics", b"/nothing"):
            answer = await exchange(
                port, b"HEAD " + target + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + credentials + b"\r\n\r\n"
            )
            head, end, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 ") and end and body == b""

    serve(house.look, talk)


def test_every_answer_is_guarded(house) -> None:
    async def talk(port: int) -> None:
        for path, auth in (
            ("/haproxy?stats", "admin:123"),
            ("/metrics", "admin:123"),
            ("/x", "admin:123"),
            ("/", "a:b"),
        ):
            _, headers, _ = await ask(port, path, auth=auth)
            assert headers["Cache-Control"] == "no-store"
            assert headers["Content-Security-Policy"].startswith("default-src 'none';")
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Server"] == "pybalancer"
            assert not [name for name in headers if name.lower().startswith("access-control")]

    serve(house.look, talk)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Basic", 401),
        ("Basic ", 401),
        (b"Basic " + base64.b64encode(b"admin:123"), 200),
        (b"basic " + base64.b64encode(b"admin:123"), 200),
        (b"Basic  " + base64.b64encode(b"admin:123"), 200),
        (b"Bearer " + base64.b64encode(b"admin:123"), 401),
        (b"Basic " + base64.b64encode(b"admin:12"), 401),
        (b"Basic " + base64.b64encode(b"admin:1234"), 401),
        (b"Basic " + base64.b64encode(b"admin:"), 401),
        (b"Basic " + base64.b64encode(b"admin"), 401),
        (b"Basic " + base64.b64encode(b":123"), 401),
        (b"Basic " + base64.b64encode(b"Admin:123"), 401),
        (b"Basic " + base64.b64encode(b"admin:123\0"), 401),
        (b"Basic " + base64.b64encode("z\u00fcrich:p\u00e4ss:w\u00f6rt".encode()), 200),
        (b"Basic " + base64.b64encode("z\u00fcrich:p\u00e4ss:w\u00f6rt".encode("latin-1")), 401),
        (b"Basic " + base64.b64encode(b"\xff\xfe:\x80"), 401),
        (b"Basic YWRtaW46MTIz!", 401),
        (b"Basic YWRtaW46MTI", 401),
        (b"Basic YWRt\xfcW46MTIz", 401),
        (b"Basic " + base64.b64encode(b"a" * 5000), 401),
    ],
)
def test_only_users_get_in(house, authorization: bytes | None, status: int) -> None:
    async def talk(port: int) -> None:
        if isinstance(authorization, str):
            field = b"Authorization: " + authorization.encode() + b"\r\n"
        else:
            field = b"" if authorization is None else b"Authorization: " + authorization + b"\r\n"
        answer = await exchange(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert (b'WWW-Authenticate: Basic realm="HAProxy Statistics", charset="UTF-8"' in answer) == (status == 401)
        assert (b"haproxy_process" in answer) == (status == 200)

    serve(house.look, talk)


def test_the_challenge_of_plain_names_is_haproxys(house) -> None:
    async def talk(port: int) -> None:
        _, headers, _ = await ask(port, "/", auth=None)
        assert headers["WWW-Authenticate"] == 'Basic realm="HAProxy Statistics"'

    serve(house.look, talk, users={"admin": "123"})


def test_without_users_everybody_may_look(house) -> None:
    async def talk(port: int) -> None:
        assert (await ask(port, "/haproxy?stats", auth=None))[0] == 200
        assert (await ask(port, "/haproxy?stats", auth="who:ever"))[0] == 200

    serve(house.look, talk, users={})


def test_other_places_and_methods(house) -> None:
    async def talk(port: int) -> None:
        for target in ("/", "/;up", "/?scope=x"):
            status, _, text = await ask(port, target)
            assert status == 200 and "</html>" in text
        assert (await ask(port, "/haproxy"))[0] == 404
        assert (await ask(port, "/metrics/x"))[0] == 404
        for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
            status, headers, _ = await ask(port, "/haproxy?stats", method=method)
            assert (status, headers["Allow"]) == (405, "GET, HEAD, POST")
        assert (await ask(port, "/metrics", method="POST"))[0] == 405

    serve(house.look, talk)


def test_metrics_are_in_the_format_and_of_the_scope_asked_for(house) -> None:
    async def talk(port: int) -> None:
        async def metrics(query: str = "", **fields: str) -> tuple[int, object, bytes]:
            lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
            answer = await exchange(port, f"GET /metrics{query} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
            head, _, body = answer.partition(b"\r\n\r\n")
            chunks = b""
            while b"chunked" in head and (size := int(body.partition(b"\r\n")[0] or b"0", 16)):
                start = body.index(b"\r\n") + 2
                chunks, body = chunks + body[start : start + size], body[start + size + 2 :]
            return int(head.split()[1]), head.lower(), chunks

        status, head, text = await metrics(Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        assert status == 200 and b"content-type: application/openmetrics-text; version=1.0.0" in head
        assert b"vary: accept, accept-encoding" in head
        assert list(openmetrics(text.decode()))
        _, head, plain = await metrics()
        assert b"text/plain; version=0.0.4" in head and b"content-encoding" not in head
        _, head, body = await metrics(Accept_Encoding="deflate, gzip")
        assert b"content-encoding: gzip" in head and len(body) < len(plain) / 5
        assert gzip.decompress(body) == plain
        _, _, text = await metrics("?scope=frontend&no-maint")
        assert text.count(b"# TYPE haproxy_frontend") == text.count(b"# TYPE haproxy") == text.count(b"# TYPE") - 3
        assert b'haproxy_sticktable_used{name="web",type="ipv6"} 2\n' in (await metrics("?scope=sticktable"))[2]
        assert (await metrics("?scope="))[::2] == (200, b"")
        assert (await metrics("?scope=nonsense"))[0] == 400
        assert (await metrics("?" + "&".join(["scope=*"] * 100)))[0] == 400

    serve(house.look, talk, users={}, tables=lambda: [("web", 100, iter([None, "a", "b"]))])


def test_metrics_can_be_off_and_the_page_at_the_root(house) -> None:
    async def talk(port: int) -> None:
        assert (await ask(port, "/"))[0] == 200
        assert (await ask(port, "/metrics"))[0] == 404

    serve(house.look, talk, uri="/", metrics=None)


def test_absolute_form_is_the_same_place(house) -> None:
    async def talk(port: int) -> None:
        answer = await exchange(port, b"GET http://h:7000/metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")

    serve(house.look, talk, users={})


def test_bodies_are_refused(house) -> None:
    async def talk(port: int) -> None:
        assert (await ask(port, "/haproxy?stats", method="POST", data=b"x" * 524_289))[0] == 413
        assert (await ask(port, "/haproxy?stats", method="POST", data=b"s=web1&action=drain"))[0] == 415
        assert (await ask(port, "/haproxy?stats", method="PUT", data=b"x"))[0] == 413
        assert (await ask(port, "/haproxy?stats", data=b"x"))[0] == 413

        async def endless():
            while True:
                yield b"x" * 65536

        status, _, _ = await ask(port, "/haproxy?stats", method="POST", data=endless())
        assert status == 413
        huge = await exchange(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc")
        assert huge.startswith(b"HTTP/1.1 401 ")

    serve(house.look, talk)


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 70 + b"\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_malformed_heads_learn_nothing(house, sent: bytes) -> None:
    async def talk(port: int) -> None:
        answer = await exchange(port, sent)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        for word in (b"Traceback", b"aiohttp", b"Python", b".py"):
            assert word not in answer

    serve(house.look, talk)


def test_a_fault_of_ours_is_logged_and_not_told(house, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Snapshot:
        raise ValueError("secret detail")

    async def talk(port: int) -> None:
        status, _, text = await ask(port, "/haproxy?stats")
        assert status == 500
        assert "secret" not in text and "Traceback" not in text

    with caplog.at_level(logging.ERROR):
        serve(broken, talk)
    assert [r.getMessage() for r in caplog.records] == [
        "the statistics could not be shown: ValueError('secret detail')"
    ]


def test_a_connection_carries_one_request(house) -> None:
    async def talk(port: int) -> None:
        answer = await exchange(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        assert answer.count(b"HTTP/1.1 200 ") == 1
        assert b"Connection: close" in answer

    serve(house.look, talk, users={})


def test_one_connection_too_many_costs_the_oldest_idle_one(house, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_MOST_CONNECTIONS", 20)

    async def talk(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        assert (await ask(port, "/haproxy?stats"))[0] == 200
        assert await idle[0][0].read() == b""
        more = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        assert (await ask(port, "/haproxy?stats"))[0] == 200
        for _, writer in idle + more:
            writer.close()

    serve(house.look, talk)


def test_who_sends_no_head_is_closed(house, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_HEAD_SECONDS", 0.3)

    async def talk(port: int) -> None:
        assert await exchange(port, b"") == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        done = asyncio.create_task(reader.read())
        # A drop now and then does not help.
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        while not done.done():
            writer.write(b"a")
            await asyncio.wait([done], timeout=0.05)
        writer.close()
        assert done.exception() is not None or done.result() == b""

    serve(house.look, talk)


def test_who_does_not_read_is_cut_off_and_holds_nobody_up(house, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_ANSWER_SECONDS", 0.5)

    async def talk(port: int) -> None:
        stuck = []
        for _ in range(3):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(sock, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            stuck.append(sock)
        assert (await ask(port, "/haproxy?stats"))[0] == 200
        for sock in stuck:
            await cut_off(sock)
            sock.close()

    async def cut_off(sock: socket.socket) -> None:
        """Read only once the server has given up: what is left in the way is followed by a reset."""
        while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED:
            await asyncio.sleep(0.05)
        with pytest.raises(ConnectionResetError):
            while await asyncio.get_running_loop().sock_recv(sock, 65536):
                pass

    def endless(snapshot: Snapshot, *_: object, **__: object):
        while True:
            yield "x" * 100_000

    monkeypatch.setattr(web_module.metrics, "pieces", endless)
    serve(house.look, talk, users={})


def test_an_answer_that_breaks_off_is_not_taken_for_whole(
    house, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(snapshot: Snapshot, *_: object, **__: object):
        yield "haproxy_up 1\n"
        raise ValueError("half way")

    monkeypatch.setattr(web_module.metrics, "pieces", broken)

    async def talk(port: int) -> None:
        with pytest.raises(aiohttp.ClientError):
            await ask(port, "/metrics")

    serve(house.look, talk)
    assert [r.getMessage() for r in caplog.records] == ["the statistics could not be shown: ValueError('half way')"]


def test_a_client_that_leaves_is_no_error(
    house, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    def endless(snapshot: Snapshot, *_: object, **__: object):
        try:
            while True:
                yield "x" * 100_000
        finally:
            ended.set()

    monkeypatch.setattr(web_module.metrics, "pieces", endless)

    async def talk(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        writer.transport.abort()
        await ended.wait()

    serve(house.look, talk, users={})
    assert caplog.records == []


def test_a_long_answer_leaves_others_their_turn(house, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    def pieces(snapshot: Snapshot, *_: object, **__: object):
        for _ in range(200):
            yield "x"

    monkeypatch.setattr(web_module.metrics, "pieces", pieces)

    async def talk(port: int) -> None:
        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        _, _, text = await ask(port, "/metrics")
        counting.cancel()
        assert text == "x" * 200

    serve(house.look, talk)
    assert turns >= 200


def test_it_serves_on_all_its_sockets_and_leaves_them_open(house, tmp_path: Path) -> None:
    async def run() -> None:
        path = str(tmp_path / "stats.sock")
        local = socket.socket(socket.AF_UNIX)
        local.bind(path)
        local.listen()
        local.setblocking(False)
        with local, listening() as four, listening("::1") as six:
            web = Web(config(users={}), house.look)
            await web.start([four, six, local])
            for url, connector in (
                (f"http://127.0.0.1:{four.getsockname()[1]}/metrics", aiohttp.TCPConnector()),
                (f"http://[::1]:{six.getsockname()[1]}/metrics", aiohttp.TCPConnector()),
                ("http://local/metrics", aiohttp.UnixConnector(path=path)),
            ):
                async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
                    assert response.status == 200
            await web.stop()
            # The next control process goes on with the same sockets.
            again = Web(config(users={}), house.look)
            await again.start([four])
            assert (await ask(four.getsockname()[1], "/metrics"))[0] == 200
            await again.stop()

    run_on_uvloop(run())


def test_stop_ends_answers_that_never_end(house, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(snapshot: Snapshot, *_: object, **__: object):
        while True:
            yield "x" * 100_000

    monkeypatch.setattr(web_module.metrics, "pieces", endless)

    async def run() -> None:
        with listening() as sock:
            web = Web(config(users={}), house.look)
            await web.start([sock])
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(10):
                await web.stop()
            writer.close()

    run_on_uvloop(run())


# Changes


class Wheel:
    """Notes what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Change, str]] = []

    def __call__(self, change: Change, by: str) -> None:
        self.told.append((change, by))


def test_a_script_changes_servers_as_with_haproxy(house) -> None:
    wheel = Wheel()

    async def talk(port: int) -> None:
        both = [("s", "up"), ("s", "spare"), ("action", "maint"), ("action", "drain"), ("b", "app")]
        assert await post(port, data=both) == "/haproxy?stats;st=DONE"
        assert await post(port, path="/haproxy?stats;up;norefresh?scope=a/b", data=[("s", "x"), *both]) == (
            "/haproxy?stats;st=PART;up;norefresh;scope=a"
        )
        # Frontends have the numbers 2 to 4.
        assert await post(port, s="one", action="maint", b="#6", auth="ops:hashed") == "/haproxy?stats;st=DONE"
        assert await post(port, s="app/up", action="weight", weight="200%", path="/") == "/haproxy?stats;st=DONE"
        assert await post(port, action="drain", b="app") == "/haproxy?stats;st=NONE"
        for wrong in (
            {"s": "up", "action": "drain", "b": "#9"},
            {"s": "up", "action": "drain", "b": "#\u00b2"},
            {"s": "up", "action": "explode", "b": "app"},
            {"s": "up", "action": "dagent", "b": "app"},
            {"s": "up", "b": "app"},
            {"s": "up", "action": "drain"},
            {"s": "app/up", "action": "weight", "weight": "257"},
            {"s": "ns", "action": "dhlth", "b": "names"},
        ):
            assert await post(port, **wrong) == "/haproxy?stats;st=ERRP", wrong

    serve(house.look, talk, steer=wheel, **CHANGES)
    by = "admin at 127.0.0.1 (page)"
    assert wheel.told == [
        *[(Change(backend="app", server=name, admin=Admin.DRAIN), by) for name in ("up", "spare") * 2],
        (Change(backend="raw", server="one", admin=Admin.MAINT), "ops at 127.0.0.1 (page)"),
        (Change(backend="app", server="up", weight=6), by),
    ]


def test_who_may_only_look_changes_nothing(house) -> None:
    wheel = Wheel()

    async def talk(port: int) -> None:
        form = {"s": "up", "action": "drain", "b": "app"}
        assert await post(port, auth="guest:look", **form) == "/haproxy?stats;st=DENY"
        assert await token_of(port, "guest:look") is None
        stolen = await token_of(port)
        assert await post(port, SITE, auth="guest:look", token=stolen, **form) == "/haproxy?stats;st=DENY"
        assert await post(port, auth="admin:1234", **form) == 401
        assert "You may not change servers" in (await ask(port, "/haproxy?stats;st=DENY"))[2]

    serve(house.look, talk, steer=wheel, **CHANGES)
    serve(house.look, talk=lambda port: _denied(port), steer=wheel)
    assert wheel.told == []


async def _denied(port: int) -> None:
    """The page may not change anything."""
    assert await post(port, s="up", action="drain", b="app") == "/haproxy?stats;st=DENY"
    assert await token_of(port) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_another_sites_form_is_refused_whatever_it_holds(house, headers: dict[str, str], caplog) -> None:
    wheel = Wheel()

    async def talk(port: int) -> None:
        token = await token_of(port)
        assert await post(port, headers, s="app/up", action="ready", token=token) == 403

    serve(house.look, talk, steer=wheel, **CHANGES)
    assert wheel.told == []
    assert "sent by admin at 127.0.0.1 (page)" in caplog.text


@pytest.mark.parametrize(
    "headers",
    [SITE, {"Sec-Fetch-Site": "same-origin"}, {"Referer": "http://x/"}, {"User-Agent": "Mozilla/5.0 (X11) Gecko/1"}],
)
def test_a_browser_has_to_bring_the_token_of_its_user(house, headers: dict[str, str]) -> None:
    wheel = Wheel()

    async def talk(port: int) -> None:
        form = {"s": "app/up", "action": "ready"}
        theirs, own = await token_of(port, "ops:hashed"), await token_of(port)
        assert theirs != own
        for wrong in ({}, {"token": theirs}, {"token": ""}, {"token": "\u00fc"}):
            assert await post(port, headers, **form, **wrong) == "/haproxy?stats;st=DENY"
        assert await post(port, token="x", **form) == "/haproxy?stats;st=DENY"
        assert not wheel.told
        assert await post(port, headers, **form, token=own) == "/haproxy?stats;st=DONE"

    serve(house.look, talk, steer=wheel, **CHANGES)
    assert len(wheel.told) == 1


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"s": "app/up", "action": "shutdown"}, "This ends 5 sessions that go on now."),
        ({"s": "app/up", "action": "maint"}, None),
        (
            {"data": [("s", "app/up"), ("s", "app/spare"), ("action", "maint")]},
            "leaves the backend app without a server",
        ),
        ({"s": "raw/one", "action": "weight", "weight": "0"}, "leaves the backend raw without a server"),
        ({"s": "raw/one", "action": "hdown"}, "leaves the backend raw without a server"),
        ({"s": "raw/one", "action": "ready"}, None),
    ],
)
def test_what_ends_connections_is_asked_for_twice(house, form: dict[str, object], says: str | None) -> None:
    wheel = Wheel()

    async def talk(port: int) -> None:
        data = [*form.get("data", form.items()), ("token", await token_of(port))]
        headers = {"Authorization": "Basic " + base64.b64encode(b"admin:123").decode(), "Sec-Fetch-Site": "same-origin"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"http://127.0.0.1:{port}/;up", data=data, allow_redirects=False) as response,
        ):
            text = await response.text()
            assert response.status == (303 if says is None else 200)
            if says is None:
                assert wheel.told
                return
            assert says in text and not wheel.told
            hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text)
            target = re.search(r'action="([^"]*)"', text)[1]
            async with session.post(f"http://127.0.0.1:{port}{target}", data=hidden, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/haproxy?stats;st=DONE;up")
            assert wheel.told

    serve(house.look, talk, steer=wheel, **CHANGES)


def test_a_change_goes_on_when_the_client_leaves(house) -> None:
    """Thousands of servers take a while."""

    class Slow(Wheel):
        def __call__(self, change: Change, by: str) -> None:
            super().__call__(change, by)
            if len(self.told) == 1:
                self.writer.transport.abort()

    wheel = Slow()
    base = house.look()
    app = base.backends[0]
    many = tuple(app.servers[0]._replace(entry=app.servers[0].entry._replace(name=f"s{i}")) for i in range(2000))
    large = base._replace(backends=(app._replace(servers=many),))

    async def talk(port: int) -> None:
        body = b"action=ready&b=app" + b"".join(b"&s=s%d" % i for i in range(2000))
        _, wheel.writer = await asyncio.open_connection("127.0.0.1", port)
        wheel.writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + base64.b64encode(b"admin:123")
            + b"\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )  # fmt: skip
        while len(wheel.told) < 2000:
            await asyncio.sleep(0.01)

    serve(lambda: large, talk, steer=wheel, **CHANGES)


def test_a_form_of_too_many_fields_is_refused(house) -> None:
    async def talk(port: int) -> None:
        assert await post(port, data=[("s", "")] * 20_001) == 413

    serve(house.look, talk, steer=Wheel(), **CHANGES)


# News


def told(house) -> Live:
    def picture():
        yield
        return house.look()

    return Live(house.roster, picture, trends=Trends(house.roster), recent=(), drains=list, period=0.01)


def test_news_are_told_to_users(house) -> None:
    async def talk(port: int) -> None:
        text = (await ask(port, "/haproxy?stats"))[2]
        assert 'data-source="/haproxy?stats;live"' in text and "<script>" in text
        assert "Refresh" not in (await ask(port, "/haproxy?stats"))[1]
        assert (await ask(port, "/haproxy?stats;live", auth=None))[0] == 401
        credentials = base64.b64encode(b"admin:123")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /;live HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + credentials + b"\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Type: text/event-stream" in head and b"Cache-Control: no-store" in head
        await reader.readuntil(b"event: hello\n")
        for _ in range(3):
            await reader.readuntil(b"event: tick\n")
        writer.close()

    serve(house.look, talk, live=told(house))


def test_only_so_many_are_told(house, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_MOST_LISTENERS", 1)

    async def talk(port: int) -> None:
        assert (await ask(port, "/haproxy?stats;live", method="HEAD"))[0] == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /;live HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"event: tick\n")
        assert (await ask(port, "/haproxy?stats;live"))[0] == 503
        writer.close()
        while (await ask(port, "/haproxy?stats;live", method="HEAD"))[0] != 200:
            await asyncio.sleep(0.01)

    serve(house.look, talk, users={}, live=told(house))


def test_who_does_not_read_news_is_let_go(house, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_READ_SECONDS", 0.2)
    live = told(house)
    monkeypatch.setattr(live, "_tick", lambda snapshot: {"padding": "x" * 1_000_000})

    async def talk(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /;live HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        while not live._listeners:
            await asyncio.sleep(0.01)
        while live._listeners:
            await asyncio.sleep(0.01)
        writer.close()

    serve(house.look, talk, users={}, live=live)


def test_stop_ends_the_news(house) -> None:
    live = told(house)

    async def run() -> None:
        with listening() as sock:
            web = Web(config(users={}), house.look, live=live)
            await web.start([sock])
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"GET /;live HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"event: tick\n")
            async with asyncio.timeout(10):
                await web.stop()
                assert (await reader.read()).endswith(b"0\r\n\r\n"), "ended, not broken off"
            writer.close()

    run_on_uvloop(run())
