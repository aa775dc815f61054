from __future__ import annotations

import http.client
import socket
from functools import partial

import pytest

from balancer.demo import process, webserver

# Threads that other tests left behind are none of the child's business (Python 3.12 and newer warn of them).
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def connection():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        pid = process.fork(partial(webserver.serve, "web7", sock))
        connection = http.client.HTTPConnection(*sock.getsockname(), timeout=20)
        yield connection
        connection.close()
        process.end(pid)


def ask(connection, method="GET", path="/", body=None, headers=()):
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    return response, response.read().decode()


def test_it_says_who_it_is_and_what_it_sees(connection):
    _, page = ask(connection, path="/a%20path?q=1", headers={"X-Forwarded-For": "203.0.113.9", "Cookie": "a=1; b=2"})
    assert page == (
        "server:          web7\n"
        "client:          127.0.0.1\n"
        "X-Forwarded-For: 203.0.113.9\n"
        "cookie:          a=1; b=2\n"
        "request:         GET /a%20path?q=1\n"
    )


def test_what_is_not_there_is_a_dash(connection):
    _, page = ask(connection)
    assert "X-Forwarded-For: -\ncookie:          -\n" in page


def test_one_connection_serves_every_method(connection):
    for method, body in (("GET", None), ("HEAD", None), ("OPTIONS", None), ("POST", b"x" * 100_000), ("PUT", b"")):
        response, page = ask(connection, method, body=body)
        assert response.status == 200
        assert (page == "") == (method == "HEAD")
        assert int(response.headers["Content-Length"]) > 0
    assert connection.sock is not None
