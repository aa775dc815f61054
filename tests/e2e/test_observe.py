"""A server that fails its clients while its checks succeed: found out by the traffic, over two workers."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.bed.clients import Load, talk
from tests.e2e.bed.process import until

CONFIG = """
global: {workers: 2}
defaults: {retries: 0}
frontends:
  web: {mode: ${mode}, bind: "127.0.0.1:${front}", default_backend: web}
backends:
  web:
    check: {type: http, path: /health, interval: 60s, fast_interval: ${fast}, rise: 2, fall: 3}
    servers:
      good: {address: "127.0.0.1:${good}"}
      bad: {address: "127.0.0.1:${bad}", observe: ${observe}, error_limit: ${limit}, on_error: ${on_error}}
"""


class Fickle(threading.Thread):
    """A web server whose check is always answered 200; `how` says what others get."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True)
        self.how = "200 OK"
        self.label = name
        self.checks = self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            buffer = b""
            while True:
                try:
                    part = client.recv(65536)
                    buffer += part
                    if not part:
                        return
                    while b"\r\n\r\n" in buffer:
                        head, _, buffer = buffer.partition(b"\r\n\r\n")
                        if not self._answer(client, head):
                            return
                except OSError:
                    return

    def _answer(self, client: socket.socket, head: bytes) -> bool:
        how = self.how
        if b"/health" in head:
            self.checks += 1
            how = "200 OK"
        else:
            self.asked += 1
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        client.sendall(f"HTTP/1.1 {how}\r\nX-Server: {self.label}\r\nContent-Length: 2\r\n\r\nok".encode())
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def pair() -> Iterator[tuple[Fickle, Fickle]]:
    servers = Fickle("good"), Fickle("bad")
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def start(balancer, pair) -> Callable[..., object]:
    def run(on_error: str, *, observe: str = "layer7", limit: int = 10, mode: str = "http", fast: str = "60s"):
        good, bad = pair
        return balancer(
            CONFIG, good=good.port, bad=bad.port, on_error=on_error, observe=observe, limit=limit, mode=mode, fast=fast
        )

    return run


@pytest.mark.parametrize("how", ["500 Oops", "reset"])
def test_a_server_that_fails_is_marked_down_and_comes_back(start, pair, how: str) -> None:
    _, bad = pair
    running = start("mark-down", fast="200ms")
    running.wait_until_up("web/good", "web/bad")
    with Load(running.ports["front"], clients=8) as load:
        load.wait_for(200)
        assert load.done["bad"]
        assert not load.failed
        bad.how = how
        line = running.wait_for_line("Server web/bad is DOWN, reason: Health analyze")
        assert 'info: "Detected 10 consecutive errors"' in line
        bad.how = "200 OK"
        # Its checks bring it back, as after any other failure.
        running.wait_for_line("Server web/bad is UP")
        before = load.done["bad"]
        until(lambda: load.done["bad"] > before, "it serves again")


def test_a_few_errors_among_good_answers_are_none(start, pair) -> None:
    _, bad = pair
    running = start("mark-down")
    running.wait_until_up("web/good", "web/bad")
    port = running.ports["front"]
    for _ in range(6):
        bad.how = "503 No"
        while bad.asked % 9 and not any("is DOWN" in line for line in running.log):
            talk(port, b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        bad.how = "200 OK"
        while not bad.asked % 9:
            talk(port, b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert not any("is DOWN" in line for line in running.log), running.log
    with Load(port, clients=4) as load:
        load.wait_for(100)
        assert load.done["bad"]
    assert not any("is DOWN" in line for line in running.log)


@pytest.mark.parametrize(("on_error", "said"), [("fail-check", "status: 2/3 UP"), ("sudden-death", "status: 1/3 UP")])
def test_errors_count_as_a_failed_check(start, pair, on_error: str, said: str) -> None:
    _, bad = pair
    running = start(on_error, limit=20)
    running.wait_until_up("web/good", "web/bad")
    bad.how = "500 Oops"
    port = running.ports["front"]
    while bad.asked < 20:
        # On a connection of its own: either worker sees some of them.
        talk(port, b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert said in running.wait_for_line("Health check for server web/bad failed, reason: Health analyze")


def test_errors_have_it_checked_soon(start, pair) -> None:
    _, bad = pair
    running = start("fastinter", fast="100ms")
    running.wait_until_up("web/good", "web/bad")
    checks = bad.checks
    bad.how = "500 Oops"
    with Load(running.ports["front"], clients=2):
        until(lambda: bad.checks > checks, "a check out of turn")
    assert not any("Health analyze" in line for line in running.log)


def test_connections_that_fail_in_mode_tcp(start, pair) -> None:
    _, bad = pair
    running = start("mark-down", observe="layer4", mode="tcp", limit=5)
    running.wait_until_up("web/good", "web/bad")
    bad.close()
    port = running.ports["front"]

    def is_down() -> bool:
        with contextlib.suppress(ConnectionResetError), socket.create_connection(("127.0.0.1", port), 5):
            pass
        return any("Server web/bad is DOWN, reason: Health analyze" in line for line in running.log)

    until(is_down, "the server to be marked down")
