"""A client, a director and three servers, each in a network namespace, and traffic between them.

    client 192.168.1.10 ── switch ── eth0 director eth1 ── switch ── web1 10.0.100.2, web2 .3, web3 .4
           2001:db8:1::10            VIPs 192.168.1.200, .202           fd00:100::2, ::3, ::4
                                     2001:db8:1::c8

The servers' way out is the director. Sockets stay in the namespace that they were made in.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from balancer.addr import Address
from balancer.config import read
from balancer.config.model import Config
from balancer.errors import KernelError, StartError
from balancer.kernel import render
from balancer.kernel.nft import Nft
from balancer.kernel.plan import Planner, Service
from balancer.kernel.render import Desired
from balancer.pool.orders import Admin, Condition, ServerState
from tests.kernel.stage import Site
from tests.lab.space import why_not
from tests.vrrp.conftest import Net, Stage, Switch

as_root = pytest.mark.skipif(why_not() != "", reason=why_not())

CLIENT, VIP, VIP_2, OUTSIDE, INSIDE = "192.168.1.10", "192.168.1.200", "192.168.1.202", "192.168.1.101", "10.0.100.1"
CLIENT_V6, VIP_V6, INSIDE_V6 = "2001:db8:1::10", "2001:db8:1::c8", "fd00:100::1"
SERVERS = ("web1", "web2", "web3")
ADDRESSES = {"web1": "10.0.100.2", "web2": "10.0.100.3", "web3": "10.0.100.4"}
ADDRESSES_V6 = {"web1": "fd00:100::2", "web2": "fd00:100::3", "web3": "fd00:100::4"}
NETWORKS = tuple(map(ip_network, ("192.168.1.0/24", "10.0.100.0/24", "2001:db8:1::/64", "fd00:100::/64")))
# So many that they are looked up, not compared.
MANY_NETWORKS = (
    *NETWORKS,
    *(ip_network(f"10.77.{i}.0/24") for i in range(3)), *(ip_network(f"2001:db8:77:{i}::/64") for i in range(3)),
)  # fmt: skip
QR = 0x80
# Nothing here takes as long, unless it never comes.
DEADLINE = 5.0


def query(text: str = "") -> bytes:
    """A DNS header that asks, and some text in place of the question."""
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + text.encode()


class Server(threading.Thread):
    """Says to each TCP connection, and answers to each datagram: its name and the client it sees. TCP is then echoed,
    but for `big N`, answered with N octets. A datagram's answer has QR set."""

    def __init__(self, net: Net, name: str) -> None:
        super().__init__(daemon=True)
        self.net, self.name_ = net, name
        self.seen: list[tuple[str, int]] = []
        self.connections: dict[tuple[str, int], socket.socket] = {}
        self.datagrams: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._bell = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._is_over = False

    def listen(self, port: int, address: str = "::") -> None:
        """TCP and UDP, both families, or at one address."""
        at = address if ":" in address else f"::ffff:{address}"
        with self.net:
            tcp = socket.create_server((at, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
            udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            udp.bind((at, port))
        for sock in (tcp, udp):
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)
        self.datagrams[port] = udp
        self._bell.send(b"!")

    def run(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select():
                self._turn(key.fileobj)

    def _turn(self, sock: Any) -> None:
        if sock is self._wake:
            sock.recv(64)
        elif sock.type == socket.SOCK_DGRAM:
            with contextlib.suppress(OSError):
                data, peer = sock.recvfrom(65536)
                peer = (peer[0].removeprefix("::ffff:"), peer[1])
                self.seen.append(peer)
                answer = bytearray(data + b"\0" * max(0, 3 - len(data)))
                answer[2] |= QR
                padding = b"." * int(data[12:].split()[1]) if data[12:].startswith(b"big ") else b""
                place = f"::ffff:{peer[0]}" if "." in peer[0] else peer[0]
                sock.sendto(bytes(answer[:12]) + f"{self.name_} {peer[0]}".encode() + padding, (place, peer[1]))
        elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            connection, peer = sock.accept()
            peer = (peer[0].removeprefix("::ffff:"), peer[1])
            self.seen.append(peer)
            self.connections[peer] = connection
            self._selector.register(connection, selectors.EVENT_READ)
            connection.sendall(f"{self.name_} {peer[0]}\n".encode())
        else:
            try:
                data = sock.recv(65536)
            except OSError:
                data = b""
            if data:
                with contextlib.suppress(OSError):
                    sock.sendall(data)
            else:
                self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        sock.close()

    def drop(self) -> None:
        """End all connections; one whose flow was forgotten cannot come to its end by itself."""
        for connection in self.connections.values():
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RD)
        self.connections.clear()

    def stop(self) -> None:
        self._is_over = True
        self._bell.send(b"!")
        self.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._bell.close()


class Bed:
    """All of them."""

    def __init__(self) -> None:
        self.outer, self.inner = Switch(), Switch()
        self.client, self.director = Net(), Net()
        self.hosts = {name: Net() for name in SERVERS}
        self.nets = [self.outer, self.inner, self.client, self.director, *self.hosts.values()]
        for net in self.nets:
            net.ip("link set lo up")
        self.outer.plug(self.client, f"{CLIENT}/24", f"{CLIENT_V6}/64")
        self.outer.plug(self.director, f"{OUTSIDE}/24", f"{VIP}/32", f"{VIP_2}/32", "2001:db8:1::1/64", f"{VIP_V6}/128")
        self.inner.plug(self.director, f"{INSIDE}/24", f"{INSIDE_V6}/64", name="eth1")
        with self.director:
            for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "netfilter/nf_conntrack_tcp_be_liberal"):
                Path("/proc/sys/net", path).write_text("1")
        self.servers = {}
        for name, net in self.hosts.items():
            with net:
                # Whose client is gone, and whose flow is forgotten, would try for minutes.
                for word in ("tcp_orphan_retries", "tcp_synack_retries"):
                    Path("/proc/sys/net/ipv4", word).write_text("1")
            self.inner.plug(net, f"{ADDRESSES[name]}/24", f"{ADDRESSES_V6[name]}/64")
            net.ip(f"route add default via {INSIDE}")
            net.ip(f"route add default via {INSIDE_V6}")
            self.servers[name] = server = Server(net, name)
            for port in (80, 53, 8080):
                server.listen(port)
            server.start()
        # Straight to a server, past the service.
        self.client.ip(f"route add 10.0.100.0/24 via {OUTSIDE}")
        with self.director:
            self.nft = Nft()
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)

    def forget_flows(self) -> None:
        """conntrack is empty, as on a director that has just taken over."""
        message = struct.pack("=IHHII", 20, 1 << 8 | 2, 1 | 4, 1, 0) + struct.pack("=BBH", 0, 0, 0)
        self._netlink.send(message)
        assert struct.unpack_from("=i", self._netlink.recv(4096), 16)[0] == 0

    def flows(self) -> int:
        """How many conntrack has."""
        with self.director:
            return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())

    def is_quiet(self) -> bool:
        """No connection is being closed any more: its last words would have their turn too."""
        for net in self.hosts.values():
            with net:
                lines = "".join(Path(f"/proc/thread-self/net/{name}").read_text() for name in ("tcp", "tcp6"))
            # include/net/tcp_states.h: TIME_WAIT says nothing of its own, LISTEN neither.
            if any(line.split()[3] not in ("st", "06", "0A") for line in lines.splitlines()):
                return False
        return True

    def reset(self) -> None:
        with contextlib.suppress(AssertionError):
            until(self.is_quiet, within=0.1)
        for server in self.servers.values():
            server.drop()
        until(self.is_quiet)
        self.nft.run("flush ruleset")
        self.forget_flows()
        for server in self.servers.values():
            server.seen.clear()

    def close(self) -> None:
        for server in self.servers.values():
            server.stop()
        self.nft.close()
        self._netlink.close()
        for net in reversed(self.nets):
            net.close()


class Kernel:
    """A configuration's rules on the director, changed as a daemon would."""

    def __init__(
        self, bed: Bed, text: str, *, networks: tuple[Any, ...] = NETWORKS, is_there: bool = False, group: int = 0
    ) -> None:
        """`is_there`: do nothing about the rules yet."""
        self.bed, self.config = bed, load(text)
        pairs = pairs_of(self.config)
        self.addresses: dict[tuple[str, str], Address | None] = {
            (backend, server): self.config.backends[backend].servers[server].address for backend, server in pairs
        }
        self.index = {pair: i for i, pair in enumerate(pairs)}
        self.planner = Planner(self.config, self.addresses, lambda *pair: self.index[pair])
        self.states = [
            ServerState(Condition.UP, weight=self.config.backends[backend].servers[server].weight)
            for backend, server in pairs
        ]
        self.loads: dict[int, float] = {}
        self.networks, self.group = networks, group
        self.desired = self._wanted()
        if not is_there:
            bed.nft.run(render.whole(self.desired))

    def _wanted(self) -> Desired:
        services = self.planner.services(self.states.__getitem__, self.loads)
        return Desired(services, self.config.gateway, self.networks, self.group)

    @property
    def services(self) -> tuple[Service, ...]:
        return self.desired.services

    def put(self, server: str, backend: str = "b", **state: Any) -> str:
        """Another state of a server; the text of the change."""
        row = self.index[backend, server]
        self.states[row] = self.states[row]._replace(**state)
        return self.apply()

    def down(self, *servers: str, backend: str = "b") -> None:
        for server in servers:
            self.put(server, backend, condition=Condition.DOWN)

    def up(self, *servers: str, backend: str = "b") -> None:
        for server in servers:
            self.put(server, backend, condition=Condition.UP, admin=Admin.READY)

    def move(self, server: str, to: Address, backend: str = "b") -> str:
        """It is elsewhere; the text of the change."""
        self.addresses[backend, server] = to
        self.planner = Planner(self.config, self.addresses, lambda *pair: self.index[pair])
        return self.apply()

    def apply(self) -> str:
        old, self.desired = self.desired, self._wanted()
        text = render.change(old, self.desired)
        try:
            self.bed.nft.run(text)
        except KernelError as error:
            raise AssertionError(f"{error}\n{text}") from error
        return text


def load(text: str) -> Config:
    return read.loads(text, file="b.yaml", node="this", environ={})


def pairs_of(config: Config) -> list[tuple[str, str]]:
    return [(name, server) for name, backend in config.backends.items() for server in backend.servers]


def tcp(net: Net, to: str, port: int = 80, *, source: str = "", source_port: int = 0) -> tuple[socket.socket, str, str]:
    """A connection, the name of the server, and the client as the server sees it."""
    with net:
        sock = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
    sock.settimeout(DEADLINE)
    try:
        if source or source_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((source, source_port))
        sock.connect((to, port))
        line = b""
        while not line.endswith(b"\n"):
            got = sock.recv(1)
            assert got, "closed before it said who it is"
            line += got
    except BaseException:
        sock.close()
        raise
    name, seen = line.decode().split()
    return sock, name, seen


def who(net: Net, to: str, port: int = 80, **how: Any) -> str:
    """Which server a new connection comes to."""
    sock, name, _ = tcp(net, to, port, **how)
    sock.close()
    return name


def seen_as(net: Net, to: str, port: int = 80) -> str:
    """What the server takes for the client."""
    sock, _, seen = tcp(net, to, port)
    sock.close()
    return seen


class Asker:
    """A UDP socket, connected: it hears nothing from any other address."""

    def __init__(self, net: Net, to: str, port: int = 53, *, source: str = "") -> None:
        with net:
            self.sock = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(DEADLINE)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect((to, port))

    def ask(self, text: str = "") -> tuple[str, str]:
        """The server that answers, and the client as it sees it."""
        self.sock.send(query(text))
        answer = self.sock.recv(65536)
        assert answer[2] & QR
        name, seen = answer[12:].decode().rstrip(".").split()
        return name, seen

    def close(self) -> None:
        self.sock.close()


@contextlib.contextmanager
def asking(net: Net, to: str, port: int = 53, *, source: str = "") -> Iterator[Asker]:
    asker = Asker(net, to, port, source=source)
    try:
        yield asker
    finally:
        asker.close()


def tried(count: int, one: Callable[[], str]) -> Counter[str]:
    """How often each was the answer."""
    return Counter(one() for _ in range(count))


def until(condition: Callable[[], object], within: float = DEADLINE) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.005)


@pytest.fixture
def site() -> Iterator[Site]:
    stage = Stage()
    site = Site(stage)
    yield site
    site.close()
    stage.close()


def refused(begin: Callable[[], object]) -> str:
    """What it says to somebody without rights, in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setresuid(65534, 65534, 65534)
            begin()
        except StartError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as said:
        text = said.read()
    os.waitpid(pid, 0)
    return text


@pytest.fixture(scope="module")
def _bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture
def bed(_bed: Bed) -> Iterator[Bed]:
    """With no rule and no flow on the director."""
    _bed.reset()
    yield _bed
    _bed.reset()


def text(
    *, bind: str = f"'{VIP}:80'", mode: str = "tcp", frontend: str = "", backend: str = "", servers: str = "",
    port: int = 80, family: int = 4,
) -> str:  # fmt: skip
    """A configuration of one kernel frontend, f, and one backend, b."""
    if not servers:
        at = ADDRESSES if family == 4 else {name: f"[{address}]" for name, address in ADDRESSES_V6.items()}
        servers = ", ".join(f"{name}: {{address: '{at[name]}:{port}'}}" for name in SERVERS)
    more = f", {frontend}" if frontend else ""
    return (
        f"frontends:\n  f: {{mode: {mode}, engine: kernel, bind: {bind}, default_backend: b{more}}}\n"
        f"backends:\n  b: {{{backend}{', ' if backend else ''}servers: {{{servers}}}}}\n"
    )
