"""Limits over several workers: what a server is given at a time, who waits and for how long, and what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import yaml

from tests.e2e.bed.process import PATIENCE, free_port, until

HTTP = """
global: {workers: 3, hard_stop_after: 20s}
defaults: {timeout: {queue: 10s}}
frontends:
  http: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
backends:
  web:
    balance: leastconn
    servers:
      slow: {address: "127.0.0.1:${slow}", maxconn: 5}
"""


class Slow(threading.Thread):
    """An HTTP server that answers when it is told to, or after `pause`, and knows how many requests it has at once."""

    def __init__(self, pause: float | None = None) -> None:
        super().__init__(daemon=True)
        self.pause = pause
        self.most = self.total = self.connections = self.most_connections = 0
        self.asked: list[str] = []
        self.unanswered: list[Connection] = []
        """The oldest first."""
        self._ready = threading.Event()
        self.start()
        assert self._ready.wait(PATIENCE)

    def run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self.transports: set[asyncio.Transport] = set()
        server = await self.loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=1024)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for transport in list(self.transports):
            transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)

    @property
    def now(self) -> int:
        return len(self.unanswered)

    def asks(self, connection: Connection, head: bytes) -> None:
        self.asked.append(head.split()[1].decode())
        self.unanswered.append(connection)
        self.total += 1
        self.most = max(self.most, self.now)
        if self.pause is not None:
            self.loop.call_later(self.pause, self._answer, connection)

    def _answer(self, connection: Connection | None = None) -> None:
        if connection is None and self.unanswered:
            connection = self.unanswered[0]
        if connection in self.unanswered:
            self.unanswered.remove(connection)
            connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def answer(self, count: int = 1) -> None:
        """So many requests as they come, the oldest first."""
        for _ in range(count):
            until(lambda: self.now, "a request")
            done = threading.Event()
            self.loop.call_soon_threadsafe(lambda done=done: (self._answer(), done.set()))
            assert done.wait(PATIENCE)

    def answer_all(self) -> None:
        """From now on, soon after they come."""

        def go_on() -> None:
            self.pause = 0.002
            while self.unanswered:
                self._answer()

        self.loop.call_soon_threadsafe(go_on)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self.join(PATIENCE)


class Connection(asyncio.Protocol):
    def __init__(self, server: Slow) -> None:
        self.server = server
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.server.transports.add(transport)
        self.server.connections += 1
        self.server.most_connections = max(self.server.most_connections, self.server.connections)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self.server.asks(self, head)

    def connection_lost(self, _: Exception | None) -> None:
        self.server.transports.discard(self.transport)
        self.server.connections -= 1
        if self in self.server.unanswered:
            self.server.unanswered.remove(self)


@pytest.fixture
def slow() -> Iterator[Slow]:
    server = Slow()
    yield server
    server.close()


class Client(threading.Thread):
    """One request on a connection of its own."""

    def __init__(self, port: int, path: str = "/", **headers: str) -> None:
        super().__init__(daemon=True)
        self._sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._sock.sendall(f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{lines}\r\n".encode())
        self.answer = b""
        self.start()

    def run(self) -> None:
        with self._sock, contextlib.suppress(OSError):
            while not self.answer.endswith(b"ok") and (part := self._sock.recv(65536)):
                self.answer += part

    @property
    def status(self) -> int:
        """0: none came."""
        self.join(PATIENCE)
        assert not self.is_alive(), "it still waits"
        return int(self.answer.split()[1]) if self.answer else 0

    def close(self) -> None:
        """Leave."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def counts(running, name: str, **labels: str) -> int:
    return int(running.metric(f"haproxy_{name}", **labels))


def waiting(running, backend: str = "web") -> int:
    return counts(running, "backend_current_queue", proxy=backend)


def test_a_server_is_never_given_more_and_all_of_it_is_used(balancer, slow):
    running = balancer(HTTP, slow=slow.port)
    clients = [Client(running.ports["http"]) for _ in range(40)]
    until(lambda: slow.now == 5, "it has what it may have")
    until(lambda: waiting(running) == 35, "all others wait")
    slow.answer_all()
    assert [client.status for client in clients] == [200] * 40
    clients = [Client(running.ports["http"]) for _ in range(200)]
    assert {client.status for client in clients} == {200}
    assert slow.most == 5
    until(lambda: slow.connections <= 5, "no more connections are kept")
    assert counts(running, "server_max_sessions", server="slow") <= 5
    assert counts(running, "server_limit_sessions", server="slow") == 5
    rows = csv.DictReader(running.stats("/haproxy?stats;csv").splitlines())
    (row,) = (row for row in rows if row["svname"] == "slow")
    assert (row["slim"], row["qlimit"]) == ("5", "")
    until(lambda: waiting(running) == 0, "nobody waits any more")


def test_whoever_waits_longest_is_next_whichever_worker_has_him(balancer, slow):
    running = balancer(HTTP.replace("maxconn: 5", "maxconn: 1"), slow=slow.port)
    clients = []
    for i in range(7):
        clients.append(Client(running.ports["http"], f"/{i}"))
        if i:
            until(lambda i=i: waiting(running) == i, "it waits")
        else:
            until(lambda: slow.now == 1, "the first is served")
    for i in range(7):
        until(lambda i=i: slow.total == i + 1, "the next one")
        slow.answer()
    assert [client.status for client in clients] == [200] * 7
    assert slow.asked == [f"/{i}" for i in range(7)]


# Codes and fields of the log, as HAProxy has them


def line_of(lines: list[str], path: str) -> str:
    return next((line for line in lines if f"GET {path} " in line), "")


def told(line: str) -> tuple[str, str, str, str]:
    """Backend and server, status, termination and queue positions of a line of `option httplog`."""
    found = re.search(r"\] \S+ (\S+/\S+) \S+ (-?\d+) \d+ - - (\S{4}) \S+ (\d+/\d+) ", line)
    assert found, line
    return found[1], found[2], found[3], found[4]


def times(line: str) -> list[int]:
    """TR, Tw, Tc, Tr, Ta."""
    found = re.search(r" (-?\d+)/(-?\d+)/(-?\d+)/(-?\d+)/(-?\d+) ", line)
    assert found, line
    return [int(each) for each in found.groups()]


ONE = """
global: {workers: 1}
defaults: {timeout: {connect: 1s, queue: 700ms}}
frontends:
  http:
    mode: http
    bind: "127.0.0.1:${http}"
    use_backend: {backend: hashed, if: {path_beg: /hash}}
    default_backend: web
backends:
  web:
    cookie: {name: S}
    servers: {s1: {address: "127.0.0.1:${slow}", maxconn: 1, maxqueue: 1, cookie: s1}}
  hashed:
    balance: source
    servers: {s1: {address: "127.0.0.1:${slow}", maxconn: 1, maxqueue: 1}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout queue 700ms
  option redispatch
  option httplog
  log stdout format raw local0
frontend http
  bind 127.0.0.1:{http}
  use_backend hashed if {{ path_beg /hash }}
  default_backend web
backend web
  cookie S insert
  server s1 127.0.0.1:{slow} maxconn 1 maxqueue 1 cookie s1
backend hashed
  balance source
  server s1 127.0.0.1:{slow} maxconn 1 maxqueue 1
"""


@pytest.fixture(params=["ours", "HAProxy"])
def either(request, balancer, haproxy, slow):
    """A port, and the lines logged."""
    if request.param == "ours":
        running = balancer(ONE, slow=slow.port)
        return running.ports["http"], running.process.out
    port = free_port()
    return port, haproxy(HAPROXY.format(http=port, slow=slow.port), ports=(port,)).process.out


def asked(port: int, paths: list[str], slow: Slow, **headers: str) -> list[Client]:
    """One after the other, the first of them at the server."""
    clients = []
    for path in paths:
        clients.append(Client(port, path, **headers))
        until(lambda: slow.now, "the first")
        # HAProxy does not say who waits already.
        time.sleep(0.05)
    return clients


def test_those_who_wait_are_told_of_as_in_haproxy(either, slow):
    port, lines = either

    clients = asked(port, ["/1", "/2", "/3"], slow)
    slow.answer(3)
    assert [client.status for client in clients] == [200] * 3
    until(lambda: line_of(lines, "/3"), "the line")
    assert told(line_of(lines, "/1")) == ("web/s1", "200", "--NI", "0/0")
    assert told(line_of(lines, "/2")) == ("web/s1", "200", "--NI", "0/1")
    assert told(line_of(lines, "/3")) == ("web/s1", "200", "--NI", "0/2")
    assert times(line_of(lines, "/1"))[1] == 0
    assert times(line_of(lines, "/2"))[1] >= 50
    assert times(line_of(lines, "/2"))[2] < 50

    # Too many for the server that a hash leads to.
    first, second, third = asked(port, ["/hash1", "/hash2", "/hash3"], slow)
    assert third.status == 503
    slow.answer(2)
    assert (first.status, second.status) == (200, 200)
    until(lambda: line_of(lines, "/hash2") and line_of(lines, "/hash3"), "the lines")
    assert told(line_of(lines, "/hash2")) == ("hashed/s1", "200", "----", "1/0")
    assert told(line_of(lines, "/hash3")) == ("hashed/s1", "503", "SQ--", "0/0")

    # Too many for the server that a cookie names.
    clients = asked(port, ["/c1", "/c2", "/c3"], slow, Cookie="S=s1")
    slow.answer(3)
    assert [client.status for client in clients] == [200] * 3
    until(lambda: line_of(lines, "/c3"), "the line")
    assert told(line_of(lines, "/c2")) == ("web/s1", "200", "--VN", "1/0")
    assert told(line_of(lines, "/c3")) == ("web/s1", "200", "--DI", "0/1")
    assert re.search(r"/\+0 0/1", line_of(lines, "/c3")), "redispatched"

    # Too long.
    first, second = asked(port, ["/t1", "/t2"], slow)
    assert second.status == 503
    slow.answer()
    assert first.status == 200
    until(lambda: line_of(lines, "/t2"), "the line")
    assert told(line_of(lines, "/t2")) == ("web/<NOSRV>", "503", "sQNN", "0/1")
    _, tw, tc, tr_, ta = times(line_of(lines, "/t2"))
    assert 600 <= tw <= ta < 2000
    assert (tc, tr_) == (-1, -1)


def test_a_client_that_leaves_while_it_waits(balancer, slow):
    running = balancer(ONE.replace("700ms", "20s"), slow=slow.port)
    port = running.ports["http"]
    first = Client(port, "/1")
    until(lambda: slow.now == 1, "the first")
    gone = [Client(port, "/2"), Client(port, "/3", Cookie="S=s1")]
    until(lambda: waiting(running) + counts(running, "server_current_queue", proxy="web") == 2, "they wait")
    last = Client(port, "/4")
    until(lambda: waiting(running) == 2, "it waits")
    for client in gone:
        client.close()
    until(lambda: waiting(running) == 1, "they wait no more")
    slow.answer(2)
    assert (first.status, last.status) == (200, 200)
    assert slow.asked == ["/1", "/4"]
    lines = running.process.out
    until(lambda: line_of(lines, "/3") and line_of(lines, "/2"), "the lines")
    assert told(line_of(lines, "/2")) == ("web/<NOSRV>", "-1", "CQNN", "0/1")
    assert told(line_of(lines, "/3")) == ("web/s1", "-1", "CQVN", "1/0")


def test_a_worker_that_is_killed_gives_back_what_it_held(balancer, slow):
    running = balancer(HTTP, slow=slow.port)
    clients = [Client(running.ports["http"]) for _ in range(60)]
    until(lambda: slow.now == 5 and waiting(running) == 55, "they wait")
    for pid in running.workers:
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: len(running.workers) == 3 and pid not in running.workers, "another in its place")
        until(lambda: slow.now == min(5, slow.now + waiting(running)), "others use its places")
    assert [client.status for client in clients] == [0] * 60
    clients = [Client(running.ports["http"]) for _ in range(30)]
    until(lambda: slow.now == 5 and waiting(running) == 25, "all of it is used")
    slow.answer_all()
    assert [client.status for client in clients] == [200] * 30
    assert slow.most == 5


def change(running, how: Callable[[dict], None]) -> None:
    """Reload with another configuration."""
    config = yaml.safe_load(running.file.read_text())
    how(config)
    running.file.write_text(yaml.safe_dump(config, sort_keys=False))
    seen = len(running.log)
    running.process.signal(signal.SIGHUP)
    running.wait_for_line("reloaded: ", after=seen)


def test_a_reload_changes_the_limit_and_those_of_before_still_count(balancer, slow):
    running = balancer(HTTP, slow=slow.port)
    port = running.ports["http"]
    clients = [Client(port) for _ in range(5)]
    until(lambda: slow.now == 5, "five")
    change(running, lambda config: config["backends"]["web"]["servers"]["slow"].update(maxconn=3))
    clients += [Client(port) for _ in range(5)]
    until(lambda: waiting(running) == 5, "they wait")
    slow.answer(2)
    until(lambda: slow.now == 3, "three are left")
    slow.answer()
    until(lambda: slow.now == 3 and slow.total == 6, "one goes and one comes")
    slow.most = 0
    change(running, lambda config: config["backends"]["web"]["servers"]["slow"].update(maxconn=6))
    clients += [Client(port) for _ in range(6)]
    until(lambda: slow.now == 6, "six")
    slow.answer_all()
    assert [client.status for client in clients] == [200] * 16
    assert slow.most == 6


TCP = """
global: {workers: 2}
defaults: {timeout: {queue: 700ms}}
frontends:
  tcp: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: web}
backends:
  web:
    servers: {s1: {address: "127.0.0.1:${slow}", maxconn: 2}}
"""


def test_tcp_connections_wait_too(balancer, slow):
    running = balancer(TCP, slow=slow.port)
    port = running.ports["tcp"]
    clients = [Client(port), Client(port)]
    until(lambda: slow.now == 2, "two")
    third, late = Client(port), Client(port)
    until(lambda: waiting(running) == 2, "they wait")
    line = running.wait_for_line(" sQ ")
    assert re.search(r" tcp web/<NOSRV> [678]\d\d/-1/[6789]\d\d 0 sQ \d+/\d+/\d+/0/0 0/[12]$", line), line
    assert (third.status, late.status) == (0, 0)
    fifth = Client(port)
    until(lambda: waiting(running) == 1, "it waits")
    slow.answer(3)
    assert [client.status for client in (*clients, fifth)] == [200] * 3
    assert slow.most == slow.most_connections == 2


CROWD = """
global: {{workers: 3, hard_stop_after: 20s{of_process}}}
frontends:
  http: {{mode: {mode}, bind: "127.0.0.1:${{http}}", default_backend: web{of_frontend}}}
backends:
  web:
    servers: {{slow: {{address: "127.0.0.1:${{slow}}"}}}}
"""


@pytest.mark.parametrize(("mode", "of"), [("http", "frontend"), ("tcp", "process")])
def test_clients_over_the_limit_wait_until_others_leave_whichever_worker_has_them(balancer, slow, mode, of):
    limit = {"of_process": "", "of_frontend": ""} | {f"of_{of}": ", maxconn: 7"}
    running = balancer(CROWD.format(mode=mode, **limit), slow=slow.port)
    clients = [Client(running.ports["http"]) for _ in range(40)]
    until(lambda: slow.now == 7, "all places are taken")
    os.kill(running.workers[0], signal.SIGKILL)
    until(lambda: slow.now == 7, "also after one of them has died")
    slow.answer_all()
    lost = [client.status for client in clients].count(0)
    assert lost <= 8, "the dead one's: no more than were served, and one that it had just accepted"
    assert slow.most == 7
    assert counts(running, "process_max_connections") == (7 if of == "process" else 20000)


def test_a_reload_changes_a_frontends_limit_and_those_of_before_still_count(balancer, slow):
    running = balancer(CROWD.format(mode="http", of_process="", of_frontend=", maxconn: 4"), slow=slow.port)
    clients = [Client(running.ports["http"]) for _ in range(20)]
    until(lambda: slow.now == 4, "four")
    change(running, lambda config: config["frontends"]["http"].update(maxconn=9))
    until(lambda: slow.now == 9, "nine")
    assert slow.most == 9
    change(running, lambda config: config["frontends"]["http"].update(maxconn=2))
    slow.answer(7)
    assert slow.now == 2
    slow.most = 0
    slow.answer_all()
    assert [client.status for client in clients] == [200] * 20
    assert slow.most <= 2
