"""Segments of connections that a director has not heard of, as right after it has taken over."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading
from collections.abc import Iterator

import pytest

from balancer.kernel.segments import ACK, FIN, Segment, Sender
from balancer.kernel.strays import GROUP, Strays

from .conftest import CLIENT, VIP, VIP_2, VIP_V6, Bed, Kernel, as_root, tcp, text, until, who

pytestmark = as_root

MAGLEV = "balance: maglev"
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@contextlib.contextmanager
def hearing(bed: Bed, config: str) -> Iterator[Strays]:
    """A director that has the rules, knows of no flow, and heeds what it is shown."""
    with bed.director:
        strays = Strays()
    strays.follow(Kernel(bed, config, group=GROUP).services)
    bed.forget_flows()
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            if select.select([strays], [], [], 0.02)[0]:
                strays.turn()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield strays
    finally:
        is_over.set()
        thread.join()
        strays.close()


def heard(server: socket.socket) -> None:
    """Until its client has acknowledged everything: then it sends nothing of its own accord."""
    until(lambda: not struct.unpack("i", fcntl.ioctl(server, termios.TIOCOUTQ, bytes(4)))[0])


def one(family: int, **more: str) -> str:
    bind = f"'{VIP}:80'" if family == 4 else f"'[{VIP_V6}]:80'"
    return text(bind=bind, family=family, backend=MAGLEV, **more)  # type: ignore[arg-type]


def place(family: int) -> str:
    return VIP if family == 4 else VIP_V6


@pytest.mark.parametrize(("family", "is_everywhere"), [(4, False), (6, False), (4, True)])
def test_a_client_that_only_closes_is_heard(bed: Bed, family: int, is_everywhere: bool) -> None:
    config = text(bind="'*:80'", backend=MAGLEV) if is_everywhere else one(family)
    Kernel(bed, config)
    sock, name, _ = tcp(bed.client, place(family))
    server = bed.servers[name].connections[sock.getsockname()[:2]]
    heard(server)
    with hearing(bed, config) as strays:
        sock.shutdown(socket.SHUT_WR)
        # The server has heard it, closes too, and is heard.
        assert sock.recv(1) == b""
        until(lambda: server.fileno() == -1)
    assert (strays.begun, strays.failed, strays.losses) == (1, 0, 0)
    sock.close()


@FAMILIES
def test_last_words_and_a_close_in_one_segment_are_heard(bed: Bed, family: int) -> None:
    config = one(family)
    Kernel(bed, config)
    sock, name, _ = tcp(bed.client, place(family))
    heard(bed.servers[name].connections[sock.getsockname()[:2]])
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    with hearing(bed, config):
        sock.sendall(b"farewell")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"farewell"
        assert sock.recv(100) == b""
    sock.close()


@FAMILIES
def test_a_client_that_resets_is_heard(bed: Bed, family: int) -> None:
    config = one(family)
    Kernel(bed, config)
    sock, name, _ = tcp(bed.client, place(family))
    server = bed.servers[name].connections[sock.getsockname()[:2]]
    heard(server)
    with hearing(bed, config) as strays:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        until(lambda: server.fileno() == -1)
    assert (strays.begun, strays.failed) == (1, 0)


def test_nobody_hears_of_closes_and_resets_that_may_be_of_another_service(bed: Bed) -> None:
    """A close where others balance otherwise, and a reset of a client's who may have been asked for nothing."""
    config = load_two(81, "balance: roundrobin", 8081, MAGLEV)
    Kernel(bed, config)
    socks = {port: tcp(bed.client, VIP, port) for port in (81, 8081)}
    for sock, name, _ in socks.values():
        heard(bed.servers[name].connections[sock.getsockname()])
    with hearing(bed, config) as strays:
        socks[81][0].shutdown(socket.SHUT_WR)
        socks[8081][0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socks[8081][0].close()
        # One that is shown, after those.
        last, name, _ = tcp(bed.client, VIP, 8081)
        heard(bed.servers[name].connections[last.getsockname()])
        bed.forget_flows()
        last.shutdown(socket.SHUT_WR)
        assert last.recv(1) == b""
        last.close()
    assert strays.begun == 1
    socks[81][0].close()


def test_what_a_server_refuses_is_brought_to_it_once(bed: Bed) -> None:
    """It answers the first segment with a reset, after which the second is of an unknown flow again."""
    with bed.client:
        sender = Sender()
    # Where no connection of another test is still being closed.
    with hearing(bed, text(bind=f"'{VIP_2}:81'", backend=MAGLEV)) as strays:
        for port in range(5000, 5020):
            sender.send(Segment((CLIENT, port), (VIP_2, 81), 1, 1, FIN | ACK))
        until(lambda: strays.begun == 20)
        # All that was sent meanwhile is through by now.
        assert who(bed.client, VIP_2, 81) in bed.servers
    sender.close()
    assert (strays.begun, strays.failed) == (20, 0)


# --- Two services of one server ---


def load_two(port: int, backend: str, other_port: int, other_backend: str, at: str = VIP) -> str:
    """The configuration of two services at the same servers."""
    servers = (
        "servers: {web1: {address: '10.0.100.2:80'}, web2: {address: '10.0.100.3:80'}, "
        "web3: {address: '10.0.100.4:80'}}"
    )
    return (
        f"frontends:\n  f: {{mode: tcp, engine: kernel, bind: '{VIP}:{port}', default_backend: b}}\n"
        f"  g: {{mode: tcp, engine: kernel, bind: '{at}:{other_port}', default_backend: c}}\n"
        f"backends:\n  b: {{{backend}, {servers}}}\n  c: {{{other_backend}, {servers}}}\n"
    )


@pytest.mark.parametrize("at", [VIP, VIP_2])
def test_a_client_is_asked_which_of_two_services_a_servers_segment_is_of(bed: Bed, at: str) -> None:
    config = load_two(82, MAGLEV, 8082, MAGLEV, at)
    Kernel(bed, config)
    ends = [tcp(bed.client, VIP, 82), tcp(bed.client, at, 8082)]
    servers = [bed.servers[name].connections[sock.getsockname()] for sock, name, _ in ends]
    for turn in range(3):
        for server in servers:
            heard(server)
        with hearing(bed, config) as strays:
            for server in servers:
                server.sendall(b"turn %d" % turn)
            for sock, _, _ in ends:
                assert sock.recv(100) == b"turn %d" % turn
            # Neither was killed by a reset for the one that it was not of.
            for sock, _, _ in ends:
                sock.sendall(b"and back")
                assert sock.recv(100) == b"and back"
        assert strays.asked >= 2 and strays.begun == strays.failed == 0
    for sock, _, _ in ends:
        sock.close()


def test_a_servers_last_word_of_one_of_two_services_comes_through(bed: Bed) -> None:
    config = load_two(80, MAGLEV, 8080, MAGLEV)
    Kernel(bed, config)
    ends = [tcp(bed.client, VIP, port) for port in (80, 8080)]
    servers = [bed.servers[name].connections[sock.getsockname()] for sock, name, _ in ends]
    for server in servers:
        heard(server)
    with hearing(bed, config):
        for server in servers:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            server.sendall(b"farewell")
            server.shutdown(socket.SHUT_WR)
        for sock, _, _ in ends:
            assert sock.recv(100) == b"farewell"
            assert sock.recv(100) == b""
            sock.close()


@pytest.mark.parametrize("other", [MAGLEV, "balance: roundrobin"])
def test_where_nobody_is_asked_a_connection_goes_on_once_its_client_sends(bed: Bed, other: str) -> None:
    config = load_two(80, other, 8080, MAGLEV)
    Kernel(bed, config)
    sock, name, _ = tcp(bed.client, VIP, 8080)
    bed.forget_flows()
    sock.sendall(b"from the client")
    assert sock.recv(100) == b"from the client"
    bed.servers[name].connections[sock.getsockname()].sendall(b"from the server")
    assert sock.recv(100) == b"from the server"
    sock.close()


def test_a_client_with_one_port_at_two_services_is_served_by_both(bed: Bed) -> None:
    """The server could not tell them apart, so that the later one gets another port, which no other director knows."""
    Kernel(bed, load_two(80, MAGLEV, 8080, MAGLEV))
    ends = [tcp(bed.client, VIP, port, source=CLIENT, source_port=40000) for port in (80, 8080)]
    (name,) = {name for _, name, _ in ends}
    (own, other) = bed.servers[name].seen
    assert own == (CLIENT, 40000) and other[0] == CLIENT and other[1] != 40000
    for sock, _, _ in ends:
        sock.sendall(b"both")
        assert sock.recv(100) == b"both"
    for sock, _, _ in ends:
        sock.close()


def test_only_one_is_shown_them(bed: Bed) -> None:
    with bed.director:
        strays = Strays()
        with pytest.raises(PermissionError):
            Strays()
        strays.close()
        Strays().close()
