"""The real command with servers of the test's own, and parts of it in this process."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from balancer.config.model import Config
from balancer.daemon.logbook import Logbook
from balancer.daemon.memory import Memory
from balancer.daemon.plan import Plan
from tests.daemon.whole import CONFIG, SPEAKING, Director
from tests.e2e.bed.pybalancer import COMMAND, Balancer

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            return


class EchoServer(socketserver.ThreadingTCPServer):
    """Sends back what it gets. `stop` closes its port, connections go on; `start` opens it again."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024
    block_on_close = False

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Echo)
        self.port: int = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.stop()


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Callable[..., Balancer]]:
    """Starts the command with a configuration; at the end nothing of it may be left."""
    running: list[Balancer] = []
    number = itertools.count()

    def start(text: str, *, wait: bool = True, **ports: Any) -> Balancer:
        started = Balancer(text, tmp_path / f"balancer{next(number)}", ports)
        running.append(started)
        if wait:
            started.wait_until_serving()
        return started

    yield start
    try:
        for started in running:
            started.end()
    finally:
        for started in running:
            started.process.end()


def talks(port: int, *, host: str = "127.0.0.1", within: float = 5.0) -> bool:
    """Whether the echo server answers behind this port."""
    try:
        with socket.create_connection((host, port), timeout=within) as client:
            client.sendall(b"hello")
            return client.recv(5) == b"hello"
    except OSError:
        return False


@pytest.fixture
def start(balancer, echo, tmp_path):
    """start(): the daemon in front of the echo server, serving unless `wait` is false."""

    def start_(text=CONFIG, *, wait=True, **more):
        it = balancer(text, server=echo.port, path=str(tmp_path / "s.sock"), wait=wait, **more)
        if wait:
            it.process.wait_until(lambda: len(it.process.children) == 3 and talks(it.ports["port"]), "it serves")
        return it

    return start_


@pytest.fixture
def running(start):
    return start()


@pytest.fixture
def speaking(tmp_path):
    """speaking(change…): the daemon as master, unless `wait` is false. At the end it stops as it should."""
    made = []

    def start(*changes, wait=True, command=(COMMAND,)):
        text = SPEAKING
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        it = Director(tmp_path, text, command)
        made.append(it)
        if wait:
            it.process.wait_for_line("(VI) Entering MASTER STATE")
            it.process.wait_until(lambda: it.says("VI  MASTER", "why"), "it says why")
        return it

    yield start
    for it in made:
        if it.process.status is None:
            it.process.signal(signal.SIGTERM)
            assert it.process.wait() == 0, it.process.said()
        it.process.end()
        assert "Traceback" not in it.process.said()


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """plan({"backends": …}): a TCP frontend in front of the first backend unless the test has its own. A server may be
    its address alone."""

    def make(config: dict[str, Any], *, cores: int = 1) -> Plan:
        backends = config.setdefault("backends", {"b": {"servers": {"s": "127.0.0.1:9"}}})
        for backend in backends.values():
            for name, server in backend["servers"].items():
                backend["servers"][name] = {"address": server} if isinstance(server, str) else server
        front = {"mode": "tcp", "bind": "127.0.0.1:9999", "default_backend": next(iter(backends))}
        config.setdefault("frontends", {"f": front})
        config.setdefault("global", {}).setdefault("log", {"target": "none"})
        return Plan.of(Config.model_validate(config, strict=False), cores=cores)

    return make


@pytest.fixture
def memory() -> Iterator[Callable[[Plan], Memory]]:
    made: list[Memory] = []

    def make(plan: Plan, logbook: Logbook | None = None) -> Memory:
        made.append(Memory(plan, logbook=logbook))
        return made[-1]

    yield make
    for one in made:
        one.close()
