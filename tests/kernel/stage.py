"""A client, a director with two servers behind it, and rules that send connections to one of them or to none.

client 192.0.2.10 ─── eth0 director eth1 ─┬─ 10.0.100.2   server 1
                 VIP 192.0.2.200          └─ 10.0.100.3   server 2
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal, NamedTuple

from balancer.kernel.nft import Nft
from tests.vrrp.conftest import Host, Stage

VIP, VIP_V6 = "192.0.2.200", "2001:db8:1::c8"
VPORT, PORT = 80, 8080
CLIENT, CLIENT_V6 = "192.0.2.10", "2001:db8:1::10"
SERVERS, SERVERS_V6 = ("10.0.100.2", "10.0.100.3"), ("2001:db8:2::2", "2001:db8:2::3")


class Target(NamedTuple):
    address: str
    port: int


class Service(NamedTuple):
    """As much of one as is looked at."""

    frontend: str
    protocol: Literal["tcp", "udp"]
    family: Literal[4, 6]
    address: str
    port: int
    targets: tuple[Target, ...] = ()
    is_per_query: bool = False
    backend: str = ""


TCP, UDP = Service("web", "tcp", 4, VIP, VPORT), Service("dns", "udp", 4, VIP, VPORT)
TCP_V6 = Service("web6", "tcp", 6, VIP_V6, VPORT)


class Site:
    """All of them; `client`, `director` and `servers` are namespaces."""

    def __init__(self, stage: Stage) -> None:
        self.outside, self.inside = stage.switch(), stage.switch()
        self.client, self.director = stage.host(), stage.host()
        self.servers = [stage.host(), stage.host()]
        self.outside.plug(self.client, f"{CLIENT}/24", f"{CLIENT_V6}/64")
        self.outside.plug(self.director, "192.0.2.1/24", f"{VIP}/24", f"{VIP_V6}/64")
        self.inside.plug(self.director, "10.0.100.1/24", "2001:db8:2::1/64", name="eth1")
        for server, address, address_v6 in zip(self.servers, SERVERS, SERVERS_V6, strict=True):
            self.inside.plug(server, f"{address}/24", f"{address_v6}/64")
            server.ip("route add default via 10.0.100.1")
            server.ip("-6 route add default via 2001:db8:2::1")
        with self.director:
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", name).write_text("1")
        self._open: list[socket.socket] = []

    def lead(self, server: int | None) -> None:
        """New connections go to this one; None: they are rejected."""
        rules = ["table inet test", "delete table inet test", "table inet test {"]
        if server is None:
            rules.append("chain pre { type filter hook prerouting priority -150; ct state invalid drop;")
            rules.append(f"fib daddr type local tcp dport {VPORT} reject with tcp reset; }}")
        else:
            rules.append("chain bad { type filter hook prerouting priority -150; ct state invalid drop; }")
            rules.append("chain pre { type nat hook prerouting priority dstnat;")
            for family, vip, address in (("ip", VIP, SERVERS[server]), ("ip6", VIP_V6, f"[{SERVERS_V6[server]}]")):
                for protocol in ("tcp", "udp"):
                    rules.append(f"{family} daddr {vip} {protocol} dport {VPORT} dnat {family} to {address}:{PORT};")
            rules.append("}")
        with self.director:
            nft = Nft()
            nft.run("\n".join([*rules, "}"]))
            nft.close()

    def listen(self, server: int, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        """Where one server takes connections."""
        with self.servers[server]:
            return self._kept(socket.create_server(("", PORT), family=family))

    def connect(self, address: str = VIP) -> socket.socket:
        """The client's end of a connection that is established."""
        with self.client:
            return self._kept(socket.create_connection((address, VPORT), timeout=5))

    def ask(self, text: bytes, host: Host | None = None) -> socket.socket:
        """The client's end of a datagram's way."""
        with host or self.client:
            opened = self._kept(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            opened.connect((VIP, VPORT))
            opened.send(text)
        return opened

    def _kept(self, opened: socket.socket) -> socket.socket:
        self._open.append(opened)
        return opened

    def close(self) -> None:
        for each in self._open:
            each.close()
