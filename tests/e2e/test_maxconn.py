"""Limits changed while it runs, exact over all workers; frontends closed and opened."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bed.clients import get
from tests.e2e.bed.process import PATIENCE, is_bound, until
from tests.e2e.test_reload import Datagrams
from tests.e2e.test_steering import say, stat

CONFIG = """
global: {workers: 2, hard_stop_after: 2s, maxconn: 200, runtime_socket: {path: "${admin}", level: admin}}
frontends:
  raw: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: plain}
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web, maxconn: 50}
  dns: {mode: udp, bind: "127.0.0.1:${udp}", default_backend: plain}
backends:
  web:
    timeout: {queue: 1m}
    servers:
      web1: {address: "127.0.0.1:${web1}", maxconn: 2}
  plain:
    servers:
      web1: {address: "127.0.0.1:${web1}"}
"""
UDP = """
global: {workers: 2, hard_stop_after: 2s, maxconn: 200, runtime_socket: {path: "${admin}", level: admin}}
frontends:
  flows: {mode: udp, bind: "127.0.0.1:${udp}", udp: {protocol: generic}, default_backend: plain}
backends:
  plain: {servers: {s: {address: "127.0.0.1:${server}"}}}
"""


@pytest.fixture
def admin(tmp_path) -> str:
    return str(tmp_path / "admin.sock")


@pytest.fixture
def running(balancer, web, admin):
    return balancer(CONFIG, admin=admin, web1=web[0].port)


class Crowd(contextlib.ExitStack):
    """Clients that stay."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self.clients: list[socket.socket] = []

    def come(self, count: int, said: bytes = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n") -> None:
        for _ in range(count):
            client = self.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE))
            client.sendall(said)
            client.setblocking(False)
            self.clients.append(client)

    @property
    def served(self) -> int:
        """How many have been answered by now."""
        return sum(_has_something(client) for client in self.clients)

    def go(self, count: int) -> None:
        """So many of those who have been served."""
        for client in [client for client in self.clients if _has_something(client)][:count]:
            self.clients.remove(client)
            client.close()


def _has_something(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


@pytest.fixture
def crowd(running) -> Iterator[Crowd]:
    with Crowd(running.ports["tcp"]) as crowd:
        yield crowd


def sessions(admin: str, *row: str) -> tuple[int, int]:
    """How many, and how many there may be."""
    found = stat(admin)[row]
    return int(found["scur"]), int(found["slim"])


def test_a_frontend_takes_as_many_as_was_said_last(running, admin, crowd) -> None:
    assert sessions(admin, "raw", "FRONTEND") == (0, 200)
    assert say(admin, "set maxconn frontend raw 3") == "\n"
    crowd.come(12)
    until(lambda: crowd.served == 3, "as many as may")
    until(lambda: sessions(admin, "raw", "FRONTEND") == (3, 3), "and that is told")
    assert stat(admin)["raw", "FRONTEND"]["status"] == "FULL"
    assert say(admin, "set maxconn frontend raw 8") == "\n"
    until(lambda: crowd.served == 8, "more")
    assert say(admin, "set maxconn frontend raw 5") == "\n"
    steps = 0
    while crowd.served > 5:
        # Who is in stays; of whom goes nobody takes the place, as soon as all have heard of it.
        crowd.go(1)
        steps += 1
        until(lambda: sessions(admin, "raw", "FRONTEND") == (crowd.served, 5), "one less")
    assert steps <= 5 and crowd.served == 5 and len(crowd.clients) == 12 - steps
    # What holds does so over the death of control and a reload.
    (control,) = running.control
    os.kill(control, signal.SIGKILL)
    until(lambda: running.control not in ([], [control]), "another one is there")
    until(lambda: Path(admin).is_socket() and sessions(admin, "raw", "FRONTEND") == (5, 5), "it knows")
    assert say(admin, "clear override frontend raw maxconn") == "\n"
    until(lambda: crowd.served == 12 - steps, "as the configuration says")
    assert sessions(admin, "raw", "FRONTEND")[1] == 200


def test_all_together_are_as_many_as_was_said_last(running, admin, crowd) -> None:
    assert say(admin, "set maxconn global 201") == "Value out of range.\n\n"
    assert say(admin, "set maxconn global 4") == "\n"
    crowd.come(10)
    until(lambda: crowd.served == 4, "no more")
    assert "\nMaxconn: 4\nHard_maxconn: 200\n" in say(admin, "show info")
    at = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded", after=at)
    until(lambda: "\nMaxconn: 4\nHard_maxconn: 200\n" in say(admin, "show info"), "after a reload too")
    assert say(admin, "set maxconn global 0") == "\n"
    assert "\nMaxconn: 200\n" in say(admin, "show info")


def test_a_server_gets_as_many_as_was_said_last(running, admin) -> None:
    with Crowd(running.ports["http"]) as crowd:
        crowd.come(9, b"PUT /upload/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
        until(lambda: sessions(admin, "web", "web1") == (2, 2), "as configured")
        assert say(admin, "set maxconn server web/web1 5") == "\n"
        until(lambda: sessions(admin, "web", "web1") == (5, 5), "more")
        assert say(admin, "set maxconn server web/web1 0") == "\n"
        until(lambda: stat(admin)["web", "web1"]["scur"] == "9", "all")
        assert stat(admin)["web", "web1"]["slim"] == ""
        assert say(admin, "set maxconn server web/web1 1") == "\n"
        for client in crowd.clients:
            client.sendall(b"abc")
        until(lambda: crowd.served == 9, "each is answered in its turn")
    assert "has no maxconn in the configuration" in say(admin, "set maxconn server plain/web1 3")


def test_a_frontend_that_is_disabled_refuses(running, admin, crowd) -> None:
    port = running.ports["http"]
    crowd.come(1)
    until(lambda: crowd.served == 1, "a client of another")
    assert get(port)["server"] == "web1"
    for _ in range(2):
        assert say(admin, "disable frontend ft") == "\n"
        until(lambda: not is_bound(port), "who comes is refused")
        assert stat(admin)["ft", "FRONTEND"]["status"] == "PAUSED"
        worker = running.workers[0]
        os.kill(worker, signal.SIGKILL)
        until(lambda worker=worker: worker not in running.workers and len(running.workers) == 2, "another worker")
        assert not is_bound(port), "nor does it take anybody"
        assert say(admin, "enable frontend ft") == "\n"
        until(lambda: is_bound(port), "again")
        assert [get(port)["server"] for _ in range(20)] == ["web1"] * 20
        assert stat(admin)["ft", "FRONTEND"]["status"] == "OPEN"
    say(admin, "disable frontend ft; disable frontend raw")
    until(lambda: not is_bound(port) and not is_bound(running.ports["tcp"]), "both")
    at = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded", after=at)
    until(lambda: is_bound(port) and is_bound(running.ports["tcp"]), "a reload opens them")
    assert [get(port)["server"] for _ in range(20)] == ["web1"] * 20
    assert stat(admin)["ft", "FRONTEND"]["status"] == "OPEN"


def test_a_frontend_of_datagrams_that_is_disabled_takes_no_new_flows(balancer, admin) -> None:
    server = Datagrams("one")
    with contextlib.closing(server), contextlib.ExitStack() as clients:
        running = balancer(UDP, admin=admin, server=server.port)

        def client(patience: float = PATIENCE) -> socket.socket:
            made = clients.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made.settimeout(patience)
            made.connect(("127.0.0.1", running.ports["udp"]))
            return made

        def dropped() -> float:
            return running.metric("pybalancer_frontend_udp_dropped_total", proxy="flows")

        first = client()
        first.send(b"1")
        assert first.recv(100).startswith(b"one ")
        assert say(admin, "disable frontend flows") == "\n"
        assert stat(admin)["flows", "FRONTEND"]["status"] == "PAUSED"

        def is_refused() -> bool:
            another = client(0.05)
            another.send(b"2")
            with contextlib.suppress(TimeoutError):
                another.recv(100)
                return False
            return dropped() > 0

        until(is_refused, "no flow begins")
        first.send(b"3")
        assert first.recv(100).endswith(b"3"), "one that is there goes on"
        assert "is of mode udp: 'disable frontend' has it refuse" in say(admin, "shutdown frontend flows")
        assert say(admin, "enable frontend flows") == "\n"
        another = client(0.1)

        def is_served() -> bool:
            another.send(b"4")
            with contextlib.suppress(TimeoutError):
                return another.recv(100).endswith(b"4")
            return False

        until(is_served, "again")


def test_the_port_of_a_frontend_that_was_shut_down_is_anybodys(running, admin) -> None:
    port = running.ports["http"]
    assert say(admin, "shutdown frontend ft") == "\n"

    def taken() -> socket.socket | None:
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
        return None

    until(taken, "it is free").close()
    assert stat(admin)["ft", "FRONTEND"]["status"] == "STOP"
    assert say(admin, "enable frontend ft") == "Frontend was previously shut down, cannot enable.\n\n"
    os.kill(running.workers[0], signal.SIGKILL)
    until(lambda: len(running.workers) == 2, "another worker")
    assert not is_bound(port)
    at = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded", after=at)
    until(lambda: is_bound(port), "a reload brings it back")
    assert get(port)["server"] == "web1"
