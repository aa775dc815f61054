"""Where one message ends and the next begins: nginx, Apache and a server in Python see it where pybalancer does.

Every message of the table of `wire.strictness`, with two requests behind it in the same piece, goes through the real
command to each of them. A server that read a message to another end would take a part of a body for a request, or a
request for a part of a body: its log would show a request that nobody made, or would lack one that was.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterator

import h11
import pytest

from balancer.wire.strictness import REQUESTS, Fate, Row
from tests.e2e.bed.process import PATIENCE, until

CONFIG = """
global: {workers: 1}
frontends:
  web: {mode: http, bind: "127.0.0.1:${front}", default_backend: web}
backends:
  web:
    http_reuse: always
    check: {type: tcp, interval: 60s}
    servers:
      web1: {address: "127.0.0.1:${server}"}
"""
# What is to end in the middle has nothing behind it.
ROWS = [row for row in REQUESTS if not row.ends]


def named(row: Row, octets: bytes) -> bytes:
    """With a target of its own."""
    return octets.replace(b"/m", b"/m-" + row.name.encode())


def after(row: Row, count: int) -> bytes:
    return b"/after/%d/%b" % (count, row.name.encode())


def request_line(octets: bytes) -> bytes:
    """Method and target."""
    return octets.rpartition(b" HTTP/1.")[0]


def exchange(port: int, row: Row) -> list[tuple[int, bytes]]:
    """Send the message with two requests behind it; status and body of each answer."""
    first, second = after(row, 1), after(row, 2)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
        peer.sendall(
            named(row, row.octets)
            + b"GET %b HTTP/1.1\r\nHost: t\r\n\r\n" % first
            + b"GET %b HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n" % second
        )
        data = b""
        while part := peer.recv(65536):
            data += part
    return list(answers(data))


def answers(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        conn = h11.Connection(h11.CLIENT)
        conn.send(h11.Request(method="GET", target="/", headers=[("Host", "t")]))
        conn.send(h11.EndOfMessage())
        conn.receive_data(data)
        status, body = 0, b""
        while not isinstance(event := conn.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA, f"an answer that is not complete: {data!r}"
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
        yield status, body
        data = conn.trailing_data[0]


@pytest.fixture(params=["nginx", "apache", "python"])
def server(request: pytest.FixtureRequest) -> tuple[str, object, int]:
    """Its name, itself and its port."""
    if request.param == "nginx":
        nginx = request.getfixturevalue("web")[0]
        return "nginx", nginx, nginx.port
    it = request.getfixturevalue(request.param)
    return request.param, it, it.ports[0]


def logged(name: str, lines: list[str]) -> list[bytes]:
    """Method and target of each request."""
    if name == "python":
        return [line.encode() for line in lines]
    if name == "nginx":
        lines = [re.fullmatch(r'\S+ "(.*)" [0-9]+ ".*"', line)[1] for line in lines]  # type: ignore[index]
    return [request_line(line.encode().decode("unicode_escape").encode("latin-1")) for line in lines]


def test_servers_see_the_requests_that_were_passed_on_and_no_other(balancer, server):
    name, it, port = server
    running = balancer(CONFIG, server=port)
    running.wait_until_up("web/web1")
    front = running.ports["front"]
    seen_before = len(it.requests)
    expected: Counter[bytes] = Counter()
    possible: Counter[bytes] = Counter()
    refused_by_server: Counter[bytes] = Counter()

    for row in ROWS:
        got = exchange(front, row)
        if row.fate is Fate.REFUSED:
            assert [status for status, _ in got] == [row.status], row.name
            if row.passed:
                # Its head went on before its body was found to be wrong.
                possible[request_line(named(row, row.passed).partition(b"\r\n")[0])] += 1
            continue
        count = 1 if row.closes else 3
        assert len(got) == count, (row.name, got)
        line = request_line(named(row, row.passed).partition(b"\r\n")[0])
        if name == "python" and got[0][0] == 400:
            # A method that it does not know, a field longer than it takes.
            refused_by_server[line] += 1
        else:
            expected[line] += 1
        for number in range(1, count):
            path = after(row, number)
            expected[b"GET " + path] += 1
            status, body = got[number]
            assert status in (200, 404), (row.name, status)
            assert name == "apache" or b"request: GET " + path in body, "its own answer"

    # On a connection of its own, so that all before it is in the log by then.
    exchange(front, Row(name="last", clause="", octets=b"GET /m HTTP/1.0\r\n\r\n", fate=Fate.PASSED))
    until(lambda: any("/m-last" in line for line in it.requests), "the log is written")
    expected[b"GET /m-last"] += 1
    until(lambda: len(it.requests) - seen_before >= expected.total(), "all are in the log")
    found = Counter(logged(name, it.requests[seen_before:]))
    unread = found.pop(b"UNKNOWN /", 0)
    assert expected - found == Counter(), "requests that it did not see"
    assert found - expected - possible == Counter(), "requests that nobody made"
    assert unread == refused_by_server.total()
    assert refused_by_server.total() < 15
