from __future__ import annotations

import socket

import pytest

from balancer.demo.ports import next_free
from balancer.errors import StartError


def test_a_free_port_is_taken_as_it_is():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert next_free(port) == port


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_one_in_use_is_passed_over(kind):
    with socket.socket(type=kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            sock.listen()
        port = sock.getsockname()[1]
        assert next_free(port) > port


def test_one_in_use_on_all_addresses_is_passed_over():
    with socket.create_server(("0.0.0.0", 0)) as sock:
        assert next_free(sock.getsockname()[1]) > sock.getsockname()[1]


def test_one_shared_by_reuseport_is_passed_over():
    """As another pybalancer holds it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        assert next_free(sock.getsockname()[1]) > sock.getsockname()[1]


def test_a_reserved_one_is_passed_over():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert next_free(port, reserved={port}) > port


def test_past_the_last_port_there_is_none():
    with pytest.raises(StartError, match="no free port from 65535 to 65535"):
        next_free(65535, reserved={65535})
    with pytest.raises(StartError):
        next_free(65536)
