"""Each column of the statistics page, and of the CSV beside it, against what was sent."""

from __future__ import annotations

import contextlib
import csv
import io
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.bed.clients import talk
from tests.e2e.bed.process import PATIENCE, free_port, until
from tests.observe.test_page import read

CONFIG = """
global: {workers: 1}
defaults: {retries: 2, redispatch: true}
frontends:
  ft:
    mode: http
    bind: "127.0.0.1:${http}"
    default_backend: web
    maxconn: 50
    http_request: {deny: true, if: {path: /denied}}
  raw: {mode: tcp, bind: "127.0.0.1:${tcp}", default_backend: plain}
backends:
  web:
    cookie: {name: ID}
    check: {type: tcp, interval: 200ms, rise: 1, fall: 2}
    servers:
      one: {address: "127.0.0.1:${one}", cookie: c1, weight: 3, maxconn: 1, maxqueue: 9}
      spare: {address: "127.0.0.1:${spare}", backup: true}
  plain: {servers: {two: {address: "127.0.0.1:${two}"}}}
  unused: {servers: {gone: {address: "127.0.0.1:${gone}"}}}
"""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
COLUMNS = (
    "name", "qcur", "qmax", "qlimit", "rate", "rate_max", "rate_limit", "scur", "smax", "slim", "stot", "lbtot", "last",
    "bin", "bout", "dreq", "dresp", "ereq", "econ", "eresp", "wretr", "wredis", "status", "check", "weight", "act",
    "bck", "chkfail", "chkdown", "downtime", "throttle",
)  # fmt: skip
FRONTEND = (
    "name", "listens", "rate", "rate_max", "rate_limit", "scur", "smax", "slim", "stot", "bin", "bout", "dreq", "dresp",
    "ereq", "status",
)  # fmt: skip


class Server:
    """Answers each request alike: `/hold` once it may, `/bad` with what is no answer."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", free_port()))
        self.port = self.listening.getsockname()[1]
        self.may_go_on = threading.Event()
        self.held = threading.Semaphore(0)
        self.requests: list[bytes] = []
        self._is_over = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            if self._is_over:
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        with connection, contextlib.suppress(OSError):
            octets = b""
            while piece := connection.recv(4096):
                octets += piece
                while b"\r\n\r\n" in octets:
                    request, _, octets = octets.partition(b"\r\n\r\n")
                    self.requests.append(request + b"\r\n\r\n")
                    if request.startswith(b"GET /hold"):
                        self.held.release()
                        self.may_go_on.wait(PATIENCE)
                    connection.sendall(b"nonsense\r\n\r\n" if request.startswith(b"GET /bad") else ANSWER)
                    if not request.startswith(b"GET /h") and b"HTTP/1.0" in request:
                        return

    def end(self) -> None:
        self._is_over = True
        self.may_go_on.set()
        # close() alone does not wake who accepts.
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.fixture
def servers() -> Iterator[dict[str, Server]]:
    found = {name: Server() for name in ("one", "spare", "two")}
    yield found
    for server in found.values():
        if server.listening.fileno() >= 0:
            server.end()


def page(running, name: str, columns: tuple[str, ...] = COLUMNS) -> dict[str, str]:
    """A row as it is shown, groups of digits put together."""
    cells = [cell.replace("\u202f", "") for cell in read(running.stats("/haproxy?stats")).row(name)]
    return dict(zip(columns, cells, strict=True))


def rows(running) -> dict[tuple[str, str], dict[str, str]]:
    """The CSV."""
    text = running.stats("/haproxy?stats;csv").removeprefix("# ")
    return {(row["pxname"], row["svname"]): row for row in csv.DictReader(io.StringIO(text))}


def agree(shown: dict[str, str], told: dict[str, str], *names: str) -> None:
    """What stands in both says the same; empty in one is `-` or 0 in the other."""
    for name in names:
        wanted = octets(int(told[name])) if name in ("bin", "bout") else told[name]
        assert shown[name] in (wanted, {"": "-", "0": "-"}.get(wanted, "")), (name, shown, told[name])


def octets(number: int) -> str:
    """As the page has it; enough for what is sent here."""
    return str(number) if number < 1000 else f"{number / 1024:.1f} K"


def test_every_number_is_of_what_was_sent(balancer, servers) -> None:
    ports = {name: server.port for name, server in servers.items()}
    running = balancer(CONFIG, **ports, gone=free_port())
    running.wait_until_up("web/one", "web/spare")
    http, tcp = running.ports["http"], running.ports["tcp"]
    sent = received = 0
    plan = [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"] * 3
    plan += [b"GET / HTTP/1.1\r\nHost: x\r\nCookie: ID=c1\r\nConnection: close\r\n\r\n"] * 2
    plan += [b"GET /denied HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
    plan += [b"GET /bad HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
    for request in plan:
        sent += len(request)
        received += len(talk(http, request))
    sent_tcp = received_tcp = 0
    for _ in range(4):
        request = b"GET / HTTP/1.0\r\n\r\n"
        sent_tcp += len(request)
        received_tcp += len(talk(tcp, request))
    until(lambda: rows(running)["plain", "two"]["stot"] == "4", "all sessions are counted")
    until(lambda: rows(running)["ft", "FRONTEND"]["scur"] == "0", "they are over")

    # Of the server that got six of the seven requests, two by its cookie.
    one, told = page(running, "one"), rows(running)["web", "one"]
    assert (one["stot"], one["lbtot"]) == ("6", "4")
    assert (one["qcur"], one["qmax"], one["qlimit"]) == ("0", "0", "9")
    assert (one["scur"], one["smax"], one["slim"]) == ("0", "1", "1")
    assert (one["econ"], one["eresp"], one["wretr"], one["wredis"]) == ("0", "1", "0", "0")
    assert (one["weight"], one["act"], one["bck"], one["throttle"]) == ("3/3", "Y", "-", "-")
    assert one["status"].startswith("UP ") and one["check"].startswith("L4OK in ")
    assert (one["chkfail"], one["chkdown"], one["downtime"]) == ("0", "0", "0s")
    assert 0 <= int(one["last"].rstrip("s")) <= PATIENCE
    assert int(one["rate_max"]) <= 6
    agree(one, told, "qcur", "qmax", "qlimit", "scur", "smax", "slim", "stot", "lbtot", "bin", "bout", "econ", "eresp",
          "wretr", "wredis", "chkfail", "chkdown")  # fmt: skip
    assert (told["hrsp_2xx"], told["hrsp_5xx"], told["req_tot"]) == ("5", "1", "6")
    # Nobody else, and the one that nobody uses.
    assert page(running, "spare")["stot"] == page(running, "gone")["stot"] == "0"
    assert (page(running, "spare")["act"], page(running, "spare")["bck"]) == ("-", "Y")
    assert (page(running, "gone")["status"].split()[:2], page(running, "gone")["last"]) == (["no", "check"], "?")
    # Of the frontend: what its clients sent and got, to the octet.
    ft, told = page(running, "ft", FRONTEND), rows(running)["ft", "FRONTEND"]
    assert (int(told["bin"]), int(told["bout"])) == (sent, received)
    assert (ft["stot"], ft["slim"], ft["dreq"], ft["dresp"], ft["ereq"]) == ("7", "50", "1", "0", "0")
    assert (told["hrsp_2xx"], told["hrsp_4xx"], told["hrsp_5xx"]) == ("5", "1", "1")
    assert ft["status"] == "OPEN"
    agree(ft, told, "scur", "smax", "slim", "stot", "bin", "bout", "dreq", "dresp", "ereq")
    # TCP, all the way.
    two, told = page(running, "two"), rows(running)["plain", "two"]
    assert (two["stot"], two["lbtot"], told["bin"], told["bout"]) == ("4", "4", str(sent_tcp), str(received_tcp))
    assert received_tcp == 4 * len(ANSWER)
    agree(two, told, "stot", "lbtot", "bin", "bout")
    totals = rows(running)["web", "BACKEND"]
    assert (totals["stot"], totals["lbtot"], totals["eresp"], totals["act"], totals["bck"]) == ("6", "4", "1", "1", "1")

    # What goes on just now: one is served, two wait for it, one has come and said nothing.
    held = [socket.create_connection(("127.0.0.1", http), PATIENCE) for _ in range(4)]
    for client in held[:3]:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\nCookie: ID=c1\r\n\r\n")
    assert servers["one"].held.acquire(timeout=PATIENCE)
    until(lambda: rows(running)["web", "one"]["qcur"] == "2", "two wait")
    until(lambda: rows(running)["ft", "FRONTEND"]["scur"] == "4", "four are there")
    one, ft = page(running, "one"), page(running, "ft", FRONTEND)
    assert (one["qcur"], one["qmax"], one["scur"], one["smax"]) == ("2", "2", "1", "1")
    assert (ft["scur"], ft["smax"], ft["stot"]) == ("4", "4", "11")
    servers["one"].may_go_on.set()
    for client in held[:3]:
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    for client in held:
        client.close()
    until(lambda: rows(running)["web", "one"]["stot"] == "9", "the three are counted")
    assert page(running, "one")["qmax"] == "2"

    # Its end.
    servers["one"].end()
    running.wait_for_line("Server web/one is DOWN")
    one, told = page(running, "one"), rows(running)["web", "one"]
    assert one["status"].startswith("DOWN ") and one["check"].startswith("L4CON in ")
    assert int(one["chkfail"]) >= 2 and one["chkdown"] == "1"
    assert told["check_desc"] == "Layer4 connection problem"
    until(lambda: int(rows(running)["web", "one"]["downtime"]) >= 1, "a second of it has passed")
    totals = rows(running)["web", "BACKEND"]
    assert (totals["act"], totals["bck"], totals["status"]) == ("0", "1", "UP")
