from __future__ import annotations

import socket
import time

import pytest

from balancer.doctor import servers
from balancer.doctor.case import Wish

from .conftest import OK, PROBLEM, here, tcp

ASKING = Wish(asks_servers=True)


def test_nobody_is_asked_unless_that_is_wished_for() -> None:
    assert list(servers.connects(here(tcp(server="127.0.0.1:1")))) == []


def test_a_server_that_is_there_and_one_that_is_not() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        (found,) = servers.connects(here(tcp(server=f"127.0.0.1:{port}"), wish=ASKING))
        assert found.verdict is PROBLEM and found.what == f"127.0.0.1:{port} cannot be connected to: Connection refused"
        server.listen()
        (found,) = servers.connects(here(tcp(server=f"127.0.0.1:{port}"), wish=ASKING))
        assert (found.verdict, found.what) == (OK, "each of 1 servers takes connections")


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_PATIENCE", 0.1)
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        # Its queue is full with these.
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        began = time.monotonic()
        (found,) = servers.connects(here(tcp(server=f"127.0.0.1:{server.getsockname()[1]}"), wish=ASKING))
        assert "no answer in 0.1 s" in found.what and time.monotonic() - began < 1
