"""Servers whose names are resolved while the daemon runs: traffic follows the answers, and does not notice."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.bed.clients import dig
from tests.e2e.bed.process import until
from tests.e2e.test_steering import say
from tests.names.nameserver import NameServer

CONFIG = """
global:
  {workers: 2, hard_stop_after: 1s, runtime_socket: {path: "${admin}", level: admin}, state_directory: "${state}"}
resolvers:
  dns1:
    nameservers: {ns1: "127.0.0.1:${first}", ns2: "127.0.0.1:${second}"}
    timeout: {resolve: 100ms, retry: 200ms}
    hold: {nx: 300ms}
defaults: {resolvers: dns1}
stats: {bind: "127.0.0.1:${page}"}
frontends:
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
  many: {mode: http, bind: "127.0.0.1:${many}", default_backend: app}
  raw: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: plain}
backends:
  web:
    check: {type: tcp, interval: 200ms}
    servers: {s1: {address: "www.example:${port}", init_addr: [last, none]}}
  app:
    check: {type: tcp, interval: 200ms}
    server_template: {prefix: app, count: 5, address: _http._tcp.example}
  plain:
    servers: {s1: {address: "www.example:${port}"}}
"""
SERVERS = range(1, 7)


class _Page(http.server.BaseHTTPRequestHandler):
    """Says at which address it was asked."""

    protocol_version = "HTTP/1.1"
    # Head and page in one piece.
    wbufsize = 65536

    def do_GET(self) -> None:
        page = self.server.server_address[0].encode()  # type: ignore[union-attr]
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A connection that was cut."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server at each of 127.0.0.1 to 127.0.0.6."""
    with socket.socket() as free:
        free.bind(("", 0))
        number: int = free.getsockname()[1]
    servers = [_Server((f"127.0.0.{each}", number), _Page) for each in SERVERS]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield number
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def dns(port: int) -> Iterator[NameServer]:
    with NameServer() as server:
        server.set("www.example", "A", "127.0.0.1")
        for number, letter in enumerate("abcdef", 1):
            server.set(f"{letter}.example", "A", f"127.0.0.{number}")
        services(server, port, "a", "b")
        yield server


@pytest.fixture
def second() -> Iterator[NameServer]:
    with NameServer() as server:
        server.is_silent = True
        yield server


@pytest.fixture
def admin(tmp_path) -> str:
    return str(tmp_path / "admin.sock")


@pytest.fixture
def start(balancer, dns, second, port, admin, tmp_path) -> Callable:
    def start(wait: bool = True):
        running = balancer(
            CONFIG, wait=wait, admin=admin, state=tmp_path / "state", first=dns.port, second=second.port, port=port
        )
        for way in ("http", "tcp"):
            # All workers know.
            until(lambda way=way: answering(running.ports[way]) == addresses(1), "the name leads to its server")
        return running

    return start


def services(dns: NameServer, port: int, *letters: str, weight: int = 5) -> None:
    dns.set("_http._tcp.example", "SRV", *(f"0 {weight} {port} {letter}.example." for letter in letters))


def ask(port: int) -> str:
    """Who answers; empty where nobody does."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), 10) as peer, contextlib.suppress(ConnectionError):
        peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while part := peer.recv(65536):
            said += part
    return said.partition(b"\r\n\r\n")[2].decode() if b" 200 " in said[:20] else ""


def answering(port: int) -> set[str]:
    """Those who answer ten clients."""
    return {ask(port) for _ in range(10)}


def addresses(*numbers: int) -> set[str]:
    return {f"127.0.0.{number}" for number in numbers}


def rows(admin: str) -> dict[str, dict[str, str]]:
    """`show servers state`, by server."""
    lines = say(admin, "show servers state").splitlines()
    names = lines[1].removeprefix("# ").split()
    found = [dict(zip(names, line.split(), strict=True)) for line in lines[2:] if line]
    return {f"{row['be_name']}/{row['srv_name']}": row for row in found}


class Clients(threading.Thread):
    """Ask without a pause, a new connection each or on one that stays; every failure counts."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.seen: list[str] = []
        self.failed = 0
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 10) as kept, kept.makefile("rb") as answers:
            while not self._over.is_set():
                kept.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                self._note(b" 200 " in answers.readline(), answers)
                self.failed += ask(self.port) == ""

    def _note(self, is_good: bool, answers) -> None:
        size = 0
        while (line := answers.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        self.seen.append(answers.read(size).decode())
        self.failed += not is_good

    def close(self) -> None:
        self._over.set()
        self.join(10)


def test_traffic_follows_the_name_and_nobody_notices(start, dns, admin, port) -> None:
    running = start()
    workers = running.workers
    held = socket.create_connection(("127.0.0.1", running.ports["tcp"]), 10)
    held.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert held.recv(4096).endswith(b"127.0.0.1")
    clients = Clients(running.ports["http"])
    for number in (6, 2, 3):
        dns.set("www.example", "A", f"127.0.0.{number}")
        until(lambda number=number: clients.seen[-1:] == [f"127.0.0.{number}"], f"clients come to {number}")
    clients.close()
    assert clients.failed == 0, [line for line in running.log if " ft " in line and " 200 " not in line]
    assert running.workers == workers
    assert ask(running.ports["tcp"]) == "127.0.0.3"
    # Who was connected before the first move still is, to whom it was.
    held.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert held.recv(4096).endswith(b"127.0.0.1")
    held.close()
    running.wait_for_line("web/s1 changed its IP from 127.0.0.1 to 127.0.0.6 by dns1/ns1.")
    row = rows(admin)["web/s1"]
    assert (row["srv_addr"], row["srv_fqdn"], row["srv_port"]) == ("127.0.0.3", "www.example", str(port))
    said = say(admin, "show resolvers dns1")
    assert re.match(r"Resolvers section dns1\n nameserver ns1:\n  sent:        \d+\n  snd_error:   0\n  valid:  ", said)
    assert " nameserver ns2:\n" in said
    assert say(admin, "show resolvers nobody") == "Can't find that resolvers section\n\n"
    assert running.metric("haproxy_resolver_sent", resolver="dns1", nameserver="ns1") > 0


def test_a_template_grows_and_shrinks_with_its_records(start, dns, admin, port) -> None:
    running = start()
    many = running.ports["many"]
    until(lambda: answering(many) == addresses(1, 2), "two servers")
    services(dns, port, *"abcde", weight=70)
    until(lambda: answering(many) == addresses(1, 2, 3, 4, 5), "five servers")
    until(lambda: {rows(admin)[f"app/app{n}"]["srv_uweight"] for n in SERVERS[:5]} == {"70"}, "their weights")
    before = rows(admin)
    services(dns, port, *"eac")
    until(lambda: answering(many) == addresses(1, 3, 5), "three servers")
    after = rows(admin)
    kept = [name for name in after if after[name]["srv_addr"] in addresses(1, 3, 5) and name.startswith("app/")]
    assert len(kept) == 3
    assert all(after[name]["srv_addr"] == before[name]["srv_addr"] for name in kept)
    gone = next(name for name in after if name.startswith("app/") and name not in kept)
    assert (after[gone]["srv_admin_state"], after[gone]["srvrecord"]) == ("32", "_http._tcp.example")
    assert "MAINT (resolution)" in say(admin, "show stat")
    # A reload finds everything where it is, and a name server that is dead then is no hindrance.
    dns.is_silent = True
    os.kill(running.process.pid, signal.SIGHUP)
    running.wait_for_line("reloaded: nothing has changed")
    assert {name: row["srv_addr"] for name, row in rows(admin).items()} == {
        name: row["srv_addr"] for name, row in after.items()
    }
    assert answering(many) == addresses(1, 3, 5)

    dns.is_silent = False
    # A lower priority serves while none of the first is up.
    dns.set("_http._tcp.example", "SRV", f"10 5 {port} c.example.", f"20 5 {port} d.example.")
    until(lambda: answering(many) == addresses(3), "the first alone")
    dns.set("_http._tcp.example", "SRV", "10 5 1 c.example.", f"20 5 {port} d.example.")
    until(lambda: answering(many) == addresses(4), "the second, as nobody listens at the first's port")
    services(dns, port, "e")
    until(lambda: answering(many) == addresses(5), "the one that is left")


def test_no_answer_changes_nothing_and_a_name_that_is_gone_does(start, dns, second, admin) -> None:
    running = start()
    http = running.ports["http"]
    before = dict(dns.records)
    asked = len(second.asked)
    dns.is_silent = True
    until(lambda: len(second.asked) > asked + 4, "the second is asked in its place")
    assert ask(http) == "127.0.0.1"
    # Whoever sends nonsense is not heard.
    forged = bytes((127, 0, 0, 2))
    dns.over_udp = lambda answer: [
        b"", b"\xff" * 500, bytes(12), answer[:20], b"\0\0" + answer[2:].replace(bytes((127, 0, 0, 1)), forged)
    ]  # fmt: skip
    dns.is_silent = False
    time.sleep(0.5)
    assert ask(http) == "127.0.0.1"
    dns.over_udp = lambda answer: [answer]
    dns.records.clear()
    until(lambda: ask(http) == "", "the server is in maintenance")
    running.wait_for_line("Server web/s1 is going DOWN for maintenance (DNS NX status). 0 active and 0 backup servers")
    running.wait_for_line("backend web has no server available!")
    assert rows(admin)["web/s1"]["srv_admin_state"] == "32"
    dns.records.update(before)
    until(lambda: ask(http) == "127.0.0.1", "it is back")
    running.wait_for_line("Server web/s1 ('www.example:")


def test_the_last_answers_hold_over_a_restart_without_name_servers(start, dns, tmp_path) -> None:
    running = start()
    until(lambda: answering(running.ports["many"]) == addresses(1, 2), "two servers")
    kept = tmp_path / "state/resolved.json"
    until(lambda: kept.exists() and len(json.loads(kept.read_text())["servers"]) == 4, "it is kept")
    running.end()
    dns.is_silent = True
    again = start()
    assert ask(again.ports["http"]) == "127.0.0.1"
    assert answering(again.ports["many"]) == addresses(1, 2)
    again.end()
    # What makes no sense is no hindrance: it starts, and comes once there are answers.
    kept.write_bytes(b'{"version": 1, "servers": {"web/s1": [1, 2, 3]}}\xff')
    dns.is_silent = False
    last = start()
    until(lambda: answering(last.ports["many"]) == addresses(1, 2), "they are there")


def test_an_operators_word_holds_against_all_answers(start, dns, admin) -> None:
    http = start().ports["http"]
    said = "IP changed from '127.0.0.1' to '127.0.0.4' by 'stats socket command'\n\n"
    assert say(admin, "set server web/s1 addr 127.0.0.4") == said
    until(lambda: ask(http) == "127.0.0.4", "the operator's")
    asked = len(dns.asked)
    dns.set("www.example", "A", "127.0.0.2")
    until(lambda: len(dns.asked) > asked + 20, "names are asked for")
    assert ask(http) == "127.0.0.4"
    say(admin, "clear override web/s1")
    until(lambda: ask(http) == "127.0.0.2", "as the name says again")


def test_bind9_and_a_zone_that_changes(balancer, names, port, admin, tmp_path) -> None:
    server = names[0]
    zone = server.folder / "lab.local.zone"
    before = zone.read_text()

    def tell(serial: int, address: str) -> None:
        text = before.replace("IN SOA", "1 IN SOA") + f"moving 1 IN A {address}\n"
        zone.write_text(re.sub(r"\b1 (?=\d+ \d+ \d+ \d+|3600)", f"{serial} ", text, count=1) if serial else text)
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: address in dig(server.port, "moving.lab.local", "A", "+short"), f"bind9 says {address}")

    try:
        tell(2, "127.0.0.1")
        running = balancer(
            CONFIG.replace("www.example", "moving.lab.local"),
            admin=admin, state=tmp_path / "state", first=server.port, second=server.port, port=port,
        )  # fmt: skip
        until(lambda: answering(running.ports["http"]) == addresses(1), "the name leads to its server")
        clients = Clients(running.ports["http"])
        tell(3, "127.0.0.5")
        until(lambda: clients.seen[-1:] == ["127.0.0.5"], "clients come to the new one")
        clients.close()
        assert clients.failed == 0
    finally:
        zone.write_text(before)
        os.kill(server.process.pid, signal.SIGHUP)
