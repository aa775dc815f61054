"""Batches of datagrams through real sockets."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from balancer.proxy.mmsg import Batch
from tests.proxy.datagrams import closed_port


@pytest.fixture
def pair():
    """Two sockets, the second connected to the first."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        other.connect(one.getsockname())
        yield one, other


def name(address):
    """struct sockaddr_in."""
    return struct.pack("=H2s4s8x", socket.AF_INET, address[1].to_bytes(2, "big"), socket.inet_aton(address[0]))


def test_datagrams_come_whole_in_their_order_and_each_once(pair):
    one, other = pair
    sent = [b"one", b"", os.urandom(65507), b"four"]
    for data in sent:
        other.send(data)
    batch = Batch(8)
    assert batch.receive(one.fileno()) == sent
    assert batch.receive(one.fileno()) == []


def test_what_there_is_no_room_for_stays_for_the_next_time(pair):
    one, other = pair
    for i in range(5):
        other.send(bytes((i,)))
    batch = Batch(2)
    assert [batch.receive(one.fileno()) for _ in range(4)] == [[b"\0", b"\1"], [b"\2", b"\3"], [b"\4"], []]


def test_a_short_datagram_after_a_long_one_is_short(pair):
    one, other = pair
    batch = Batch(1)
    for data in (b"x" * 1000, b"y"):
        other.send(data)
        assert batch.receive(one.fileno()) == [data]


def test_each_comes_with_its_sender(pair):
    one, other = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as third:
        third.bind(("127.0.0.1", 0))
        third.sendto(b"first", one.getsockname())
        other.send(b"second")
        batch = Batch(4, name=16)
        assert batch.receive_from(one.fileno()) == [
            (b"first", name(third.getsockname())),
            (b"second", name(other.getsockname())),
        ]


def test_more_than_a_batch_is_sent_in_several(pair):
    one, other = pair
    batch = Batch(2, name=16)
    to = name(other.getsockname())
    assert batch.send_to(one.fileno(), [(bytes((i,)), to) for i in range(5)]) == 0
    assert [other.recv(10) for _ in range(5)] == [bytes((i,)) for i in range(5)]


def test_a_batch_receives_what_is_larger_than_it_has_sent(pair):
    one, other = pair
    batch = Batch(2, name=16)
    batch.send_to(one.fileno(), [(b"x", name(other.getsockname()))])
    other.send(b"y" * 2000)
    assert [data for data, _ in batch.receive_from(one.fileno())] == [b"y" * 2000]


@pytest.mark.parametrize("bad", [{0}, {1}, {3}, {0, 1}, {1, 3}, {0, 1, 2, 3}])
def test_what_the_kernel_refuses_is_counted_and_the_rest_is_sent(pair, bad):
    one, other = pair
    right, nowhere = name(other.getsockname()), name(("127.0.0.1", 0))
    batch = Batch(4, name=16)
    datagrams = [(bytes((i,)), nowhere if i in bad else right) for i in range(4)]
    assert batch.send_to(one.fileno(), datagrams) == len(bad)
    for i in set(range(4)) - bad:
        assert other.recv(10) == bytes((i,))


def test_what_is_too_large_for_a_datagram_is_refused(pair):
    one, other = pair
    batch = Batch(2, name=16)
    to = name(other.getsockname())
    assert batch.send_to(one.fileno(), [(bytes(65508), to), (b"next", to)]) == 1
    assert other.recv(10) == b"next"


def test_a_refusal_is_an_error_and_what_came_before_it_is_still_there(pair):
    one, other = pair
    one.connect(other.getsockname())
    other.send(b"last words")
    other.close()
    one.send(b"too late")
    batch = Batch(4)
    with pytest.raises(ConnectionRefusedError):
        batch.receive(one.fileno())
    assert batch.receive_rest(one.fileno()) == [b"last words"]


def test_the_rest_is_nothing_when_the_error_stays():
    assert Batch(1).receive_rest(-1) == []


def test_a_closed_socket_is_an_error():
    with pytest.raises(OSError) as caught:
        Batch(1).receive(-1)
    assert caught.value.errno == errno.EBADF


def test_an_unconnected_socket_hears_of_no_refusal(pair):
    one, _ = pair
    batch = Batch(2, name=16)
    assert batch.send_to(one.fileno(), [(b"x", name(closed_port()))] * 2) == 0
    assert batch.receive_from(one.fileno()) == []
