"""`show errors`: what was refused, as HAProxy shows it after the same traffic."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.bed.clients import talk
from tests.e2e.bed.process import PATIENCE, free_port, until
from tests.e2e.test_steering import say

CONFIG = """
global: {workers: 2, runtime_socket: {path: "${admin}", level: operator}}
frontends:
  ft: {mode: http, bind: "127.0.0.1:${http}", default_backend: web}
  other: {mode: http, bind: "127.0.0.1:${other}", default_backend: web}
backends:
  web:
    servers:
      one: {address: "127.0.0.1:${odd}"}
      odd: {address: "127.0.0.1:${odd}"}
"""
HAPROXY = """
global
  stats socket {admin} level operator
defaults
  mode http
frontend ft
  bind 127.0.0.1:{http}
  default_backend web
frontend other
  bind 127.0.0.1:{other}
  default_backend web
backend web
  server one 127.0.0.1:{odd}
  server odd 127.0.0.1:{odd}
"""
LONG = b"x" * 150 + b"\\\t\xe9"
REQUESTS = {
    b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n": 5,
    b"GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n": 26,
    b"GET / HTTP/1.1\r\nHost: a\r\nA: " + LONG + b"\r\nB c: d\r\n\r\n": 31 + len(LONG),
}
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n: b\r\n\r\nok",
)


class Odd:
    """A server that says what it is told to say."""

    def __init__(self, listening: socket.socket) -> None:
        self.says = b""
        self._listening = listening
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._listening.getsockname()[1]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                with sock, contextlib.suppress(OSError):
                    sock.settimeout(PATIENCE)
                    if sock.recv(65536):
                        sock.sendall(self.says)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listening.close()


@pytest.fixture
def odd() -> Iterator[Odd]:
    it = Odd(socket.create_server(("127.0.0.1", 0)))
    yield it
    it.close()


def test_what_was_refused_is_shown_as_haproxy_shows_it(balancer, haproxy, odd, tmp_path) -> None:
    admin = str(tmp_path / "admin.sock")
    running = balancer(CONFIG, admin=admin, odd=odd.port)
    theirs, ports = str(tmp_path / "haproxy.sock"), {"http": free_port(), "other": free_port()}
    haproxy(HAPROXY.format(admin=theirs, odd=odd.port, **ports), ports=tuple(ports.values()))
    assert say(admin, "show errors").splitlines()[0].endswith(" : 0")

    def told(words: str) -> tuple[list[str], list[str]]:
        said = []
        for path in (admin, theirs):
            text = say(path, f"show errors {words}")
            # What it has of its own inside, ours for it, and what is another's: times, ports, room, the server's turn.
            text = re.sub(r"  (H1|reason:) .*\n", "", text)
            text = re.sub(
                r"\[\d\d/.*?\]|event #\d+|src 127.0.0.1:\d+|wraps at \d+|\d+ free|(?<=server )\w+ \(#\d\)", "", text
            )
            said.append(text.splitlines())
        return said[0], said[1]

    for seen, (octets, position) in enumerate(REQUESTS.items(), 1):
        for port in (running.ports["http"], ports["http"]):
            talk(port, octets)
        ours, others = told("ft request")
        assert ours == others
        assert ours[0] == f"Total events captured on  : {seen}"
        assert any(line.endswith(f"error at position {position}") for line in ours)
    for octets in RESPONSES:
        odd.says = octets
        for port in (running.ports["http"], ports["http"]):
            assert talk(port, b"GET / HTTP/1.0\r\n\r\n").split()[1] == b"502"
        ours, others = told("web response")
        assert ours == others
    for port in (running.ports["other"], ports["other"]):
        talk(port, next(iter(REQUESTS)))
    for words in ("", "-1", "2", "3", "4", "99", "web", "other request", "nobody", "ft response"):
        ours, others = told(words)
        assert ours == others, words
    assert say(admin, "user; show errors") == say(theirs, "user; show errors")


def test_what_is_wrong_in_a_body_is_shown_with_its_head(balancer, odd, tmp_path) -> None:
    admin = str(tmp_path / "admin.sock")
    running = balancer(CONFIG, admin=admin, odd=odd.port)
    odd.says = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    talk(running.ports["http"], head + b"3\r\nabc\r\nzz\r\n")
    said = until(lambda: "invalid request" in (text := say(admin, "show errors")) and text, "it is kept")
    assert f"error at position {len(head) + 8}\n" in said and f"  {len(head) + 8:05}  zz\\r\\n\n" in said
    odd.says = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"
    with contextlib.suppress(ConnectionResetError):
        talk(running.ports["http"], b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    said = until(lambda: "invalid response" in (text := say(admin, "show errors web")) and text, "it is kept")
    assert "  reason: " in said and "zz\\r\\n\n" in said
