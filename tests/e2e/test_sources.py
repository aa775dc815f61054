"""What one client may take, over two workers: exact to the connection, whichever worker it comes to."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import yaml

from balancer.observe.client import ask
from tests.e2e.bed.process import PATIENCE, until
from tests.e2e.bed.pybalancer import Balancer

# An hour for a period: no window ends while a test counts.
CONFIG = """
global: {{workers: 2, runtime_socket: {{path: {folder}/admin.sock, level: user}}}}
frontends:
  web:
    mode: http
    bind: ["127.0.0.1:${{front}}", {{address: "127.0.0.1:${{behind}}", accept_proxy: true}}]
    default_backend: web
    {more}
    limits: {limits}
backends:
  web: {{servers: {{web1: {{address: "127.0.0.1:{port}"}}}}}}
"""
TCP = """
global: {{workers: 2}}
frontends:
  tcp:
    mode: tcp
    bind: ["127.0.0.1:${{front}}", {{address: "127.0.0.1:${{behind}}", accept_proxy: true}}]
    default_backend: web
    limits: {limits}
backends:
  web: {{servers: {{web1: {{address: "127.0.0.1:{port}"}}}}}}
"""
PEERS: list[socket.socket] = []


def connect(port: int, source: str = "127.0.0.2") -> socket.socket:
    """It may be reset by the time that it is there."""
    peer = socket.socket()
    PEERS.append(peer)
    peer.settimeout(PATIENCE)
    peer.bind((source, 0))
    with contextlib.suppress(ConnectionResetError):
        peer.connect(("127.0.0.1", port))
    return peer


def get(port: int, source: str = "127.0.0.2", path: str = "/", **headers: str) -> http.client.HTTPResponse:
    """On a connection of its own: the kernel gives it to either worker."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(source, 0))
    connection.request("GET", path, headers={"Connection": "close", **headers})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def is_open(peer: socket.socket) -> bool:
    """It answers, or was reset."""
    try:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        return peer.recv(65536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def table(folder: object, *words: str) -> list[str]:
    said = ask(f"{folder}/admin.sock", "show", "table", *words)
    assert not said.is_error, said.text
    return said.text.splitlines()


@pytest.fixture
def start(balancer: Callable[..., Balancer], web, tmp_path) -> Iterator[Callable[..., Balancer]]:
    def run(limits: str, text: str = CONFIG, *, more: str = "") -> Balancer:
        return balancer(text.format(limits=limits, more=more, port=web[0].port, folder=tmp_path))

    yield run
    while PEERS:
        PEERS.pop().close()


def test_so_many_requests_pass_and_not_one_more(start, tmp_path) -> None:
    running = start("{request_rate: {limit: 40/1h, retry_after: 7s}}")
    port = running.ports["front"]
    found = Counter(get(port).status for _ in range(90))
    assert found == {200: 40, 429: 50}
    refused = get(port)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "7")
    # Another client has its own.
    assert get(port, "127.0.0.3").status == 200
    head, mine = table(tmp_path, "web", "data.http_req_rate", "gt", "2")
    assert head == "# table: web, type: ipv6, size:102400, used:2"
    assert mine.split()[1:] == [
        "key=127.0.0.2", "use=0", mine.split()[3], "shard=0", "conn_cur=0", "http_req_rate(3600000)=91",
    ]  # fmt: skip
    assert table(tmp_path) == [head]
    assert table(tmp_path, "web", "key", "127.0.0.3")[1].endswith("http_req_rate(3600000)=1")
    until(lambda: running.metric("haproxy_frontend_requests_denied_total", proxy="web") == 51, "all counted")
    # A flood of refusals is no flood of log lines.
    running.wait_for_line(" PR-- ")
    refusals = [line for line in running.log if " PR-- " in line]
    assert len(refusals) <= 2 * 20 * 3
    assert " web web/<NOSRV> " in refusals[0] and " 429 " in refusals[0]


def test_so_many_connections_and_not_one_more(start, tmp_path) -> None:
    port = start("{connections: 12}").ports["front"]
    kept = []
    for _ in range(40):
        peer = connect(port)
        if is_open(peer):
            kept.append(peer)
        else:
            peer.close()
    assert len(kept) == 12
    assert table(tmp_path, "web")[1].split()[-1] == "conn_cur=12"
    with connect(port, "127.0.0.3") as other:
        assert is_open(other)
    # Who leaves makes room.
    kept.pop().close()

    def has_room() -> bool:
        peer = connect(port)
        kept.append(peer)
        return is_open(peer)

    until(has_room, "room for another")
    for peer in kept:
        peer.close()
    until(lambda: not any("conn_cur=1" in line for line in table(tmp_path, "web")), "all have left")


def test_new_connections_of_a_time_in_mode_tcp(start) -> None:
    running = start("{connection_rate: 25/1h}", TCP)
    port = running.ports["front"]
    assert sum(is_open(connect(port)) for _ in range(60)) == 25
    assert is_open(connect(port, "127.0.0.3"))
    until(lambda: running.metric("haproxy_frontend_denied_connections_total", proxy="tcp") == 35, "all counted")
    assert any(" tcp web/<NOSRV> " in line and " PR " in line for line in running.log)


@pytest.mark.parametrize("text", [CONFIG, TCP], ids=["http", "tcp"])
def test_behind_a_balancer_that_names_the_client(start, text: str) -> None:
    running = start("{connections: 3}", text)

    def may_stay(client: bytes) -> bool:
        peer = connect(running.ports["behind"], "127.0.0.9")
        peer.sendall(b"PROXY TCP4 %b 192.0.2.1 1000 80\r\n" % client)
        return is_open(peer)

    assert [may_stay(b"198.51.100.1") for _ in range(8)] == [True] * 3 + [False] * 5
    assert may_stay(b"198.51.100.2")
    name = running.config["frontends"].keys()
    until(lambda: running.metric("haproxy_frontend_denied_sessions_total", proxy=next(iter(name))) == 5, "all counted")


def test_behind_a_proxy_that_is_trusted(start) -> None:
    limits = "{connections: 1, request_rate: 10/1h}"
    port = start(limits, more="trusted_proxies: 127.0.0.9/32").ports["front"]

    def asked(client: str, times: int) -> Counter[int]:
        return Counter(get(port, "127.0.0.9", **{"X-Forwarded-For": client}).status for _ in range(times))

    # A proxy's connections are not one client's.
    with connect(port, "127.0.0.9") as first:
        assert is_open(first)
        assert asked("198.51.100.1", 15) == {200: 10, 429: 5}
    assert asked("198.51.100.2", 1) == {200: 1}
    # An IPv6 client is its network.
    assert asked("2001:db8::1", 6) == {200: 6}
    assert asked("2001:db8::ffff:2", 6) == {200: 4, 429: 2}
    assert asked("2001:db8:0:1::1", 1) == {200: 1}
    # Nobody else is believed.
    assert Counter(get(port, "127.0.0.2", **{"X-Forwarded-For": f"203.0.113.{i}"}).status for i in range(12)) == {
        200: 10,
        429: 2,
    }


def test_who_makes_errors_is_kept_out(start) -> None:
    gone = "http_request: {deny: 404, if: {path: /gone}}"
    running = start("{error_rate: 5/1h, exempt: 127.0.0.7}", more=gone)
    port = running.ports["front"]
    for answered in range(1, 7):
        assert get(port, path="/gone").status == 404
        # An error is counted once it is answered, right before its line is written.
        until(lambda answered=answered: sum(" 404 " in line for line in running.log) == answered, "it is counted")
    assert {get(port, path="/gone").status for _ in range(3)} == {429}
    assert get(port).status == 429
    assert get(port, "127.0.0.3").status == 200
    assert {get(port, "127.0.0.7", "/gone").status for _ in range(12)} == {404}
    # What is no request is an error too.
    for _ in range(6):
        with connect(port, "127.0.0.4") as peer:
            peer.sendall(b"nonsense\r\n\r\n")
            assert peer.recv(65536).startswith(b"HTTP/1.1 400")
    # The last one is counted once it is answered.
    until(lambda: get(port, "127.0.0.4").status == 429, "it is kept out")


def test_a_tarpit(start) -> None:
    running = start("{request_rate: {limit: 1/1h, tarpit: 700ms, status: 503}}")
    port = running.ports["front"]
    assert get(port).status == 200
    assert get(port).status == 503
    line = running.wait_for_line(" PT-- ")
    total = int(line.split(" 503 ")[0].rpartition("/")[2])
    assert 600 <= total < 2000


def test_datagrams(balancer, names) -> None:
    text = """
    global: {workers: 2}
    frontends:
      dns:
        mode: udp
        bind: "127.0.0.1:${front}"
        default_backend: dns
        udp: {protocol: dns}
        limits: {request_rate: 20/1h}
    backends:
      dns: {servers: {d: {address: "127.0.0.1:${server}"}}}
    """
    running = balancer(text, server=names[0].port)
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0\0\0\6\0\1"

    def answered(source: str, times: int) -> int:
        found = 0
        for number in range(times):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.bind((source, 0))
                # The last ones get no answer.
                peer.settimeout(PATIENCE if number < 20 else 0.05)
                peer.sendto(struct.pack("!H", number + 1) + question[2:], ("127.0.0.1", running.ports["front"]))
                try:
                    peer.recv(4096)
                    found += 1
                except TimeoutError:
                    assert number >= 20
        return found

    assert answered("127.0.0.2", 40) == 20
    assert answered("127.0.0.3", 1) == 1
    until(lambda: running.metric("haproxy_frontend_requests_denied_total", proxy="dns") == 20, "all counted")


def test_a_worker_that_dies_takes_its_connections_with_it(start, tmp_path) -> None:
    running = start("{connections: 8, request_rate: 100/1h}")
    port = running.ports["front"]
    peers = [connect(port) for _ in range(8)]
    assert all(is_open(peer) for peer in peers)
    assert not is_open(connect(port))
    workers = running.workers
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    until(lambda: len(set(running.workers) - set(workers)) == 2, "other workers")
    until(lambda: is_open(connect(port)), "room for another")
    assert sum(int(line.split("conn_cur=")[1].split()[0]) for line in table(tmp_path, "web")[1:]) <= 8
    # What was asked before still counts.
    assert int(table(tmp_path, "web")[1].rpartition("=")[2]) >= 9


def test_a_reload_forgets_nothing(start, tmp_path) -> None:
    running = start("{connections: 7, request_rate: 30/1h}")
    port = running.ports["front"]
    peers = [connect(port) for _ in range(5)]
    assert all(is_open(peer) for peer in peers)
    assert Counter(get(port).status for _ in range(15)) == {200: 15}
    before = len(running.log)
    running.config["frontends"]["web"]["limits"]["request_rate"] = "40/1h"
    running.file.write_text(yaml.safe_dump(running.config))
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded: ", after=before)
    # 20 have been made, and five connections of before are there still.
    assert Counter(get(port).status for _ in range(10)) == {200: 10}
    until(lambda: " conn_cur=5 " in table(tmp_path, "web")[1], "those of before are left")
    assert [is_open(connect(port)) for _ in range(3)] == [True, True, False]
    assert " http_req_rate(3600000)=32" in table(tmp_path, "web")[1]
