"""Requests that carry more than they may: refused before a server sees them, or so that none takes a part for all."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.e2e.bed.clients import talk
from tests.e2e.bed.process import PATIENCE, until

CONFIG = """
global: {workers: 2}
defaults: {max_body_size: 1}
frontends:
  web: {mode: http, bind: "127.0.0.1:${front}", max_body_size: 1000, default_backend: web}
backends:
  web: {http_reuse: always, servers: {s: {address: "127.0.0.1:${server}"}}}
"""


class Sink(threading.Thread):
    """A server that reads bodies to their end and remembers how each connection ended."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.received: list[bytes] = []
        self.ends: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
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
        data = b""
        with client:
            try:
                while part := client.recv(65536):
                    data += part
                    if data.endswith((b"0\r\n\r\n", b"END")):
                        self.received.append(data)
                        data = b""
                        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                self.ends.append("closed" if data else "idle")
            except ConnectionResetError:
                self.ends.append("reset" if data else "idle")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def sink():
    made = Sink()
    yield made
    made.close()


def post(port: int, framing: bytes, body: bytes) -> bytes:
    return talk(port, b"POST / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n%b\r\n\r\n%b" % (framing, body))


def test_what_is_too_much_is_refused(balancer, sink: Sink) -> None:
    running = balancer(CONFIG, server=sink.port)
    port = running.ports["front"]
    assert post(port, b"Content-Length: 1000\r\nX: y", b"x" * 997 + b"END").startswith(b"HTTP/1.1 200 ")
    refused = post(port, b"Content-Length: 1001", b"x" * 998 + b"END")
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close\r\n" in refused
    # Who asks first is told before he sends.
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
        peer.sendall(b"PUT / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n")
        assert peer.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert len(sink.received) == 1
    chunks = b"1f4\r\n%b\r\n" % (b"x" * 500)
    assert post(port, b"Transfer-Encoding: chunked", 2 * chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert len(sink.received) == 2
    until(lambda: running.metric("haproxy_frontend_requests_denied_total", proxy="web") == 2, "all counted")


def test_chunks_are_cut_at_the_limit_and_the_server_is_told(balancer, sink: Sink) -> None:
    running = balancer(CONFIG, server=sink.port)
    port = running.ports["front"]
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n%b\r\n" % (b"x" * 1000))
        until(lambda: running.metric("haproxy_backend_sessions_total", proxy="web") == 1, "it is on its way")
        peer.sendall(b"1\r\ny\r\n0\r\n\r\n")
        assert peer.recv(65536).startswith(b"HTTP/1.1 413 ")
    until(lambda: sink.ends, "the server is told")
    assert sink.ends == ["reset"]
    assert not sink.received
    running.wait_for_line(" 413 ")
    assert any(" PR-- " in line for line in running.log)
