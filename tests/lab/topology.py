"""The machines of the cluster and the networks between them, as data. One more machine is one more entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["INSIDE", "MACHINES", "NETWORKS", "OUTSIDE", "VIPS", "Card", "Machine", "Network"]


@dataclass(frozen=True)
class Network:
    """An Ethernet segment."""

    name: str
    prefix: str
    mtu: int


OUTSIDE = Network("outside", "192.168.1.0/24", 1500)
INSIDE = Network("inside", "10.0.100.0/24", 9000)
NETWORKS = (OUTSIDE, INSIDE)

VIPS = {"192.168.1.200": OUTSIDE, "192.168.1.202": OUTSIDE, "10.0.100.200": INSIDE}
"""The virtual addresses, and the networks they are of."""


@dataclass(frozen=True)
class Card:
    """A network card. With `dhcp` its machine asks for the address and finds the rest out with it."""

    name: str
    network: Network
    mac: str
    address: str
    dhcp: bool = False


@dataclass(frozen=True)
class Machine:
    """A machine: its host name, what kind it is (see `services`), and its cards."""

    name: str
    kind: Literal["director", "web", "dns", "nas", "client"]
    cards: tuple[Card, ...]
    gateway: str = ""
    alias: str = ""
    """What the configuration of the balancer calls it."""
    second_alias: str = ""

    @property
    def address(self) -> str:
        """Its first card's."""
        return self.cards[0].address


def _director(name: str, last: int, outer: str, inner: str) -> Machine:
    cards = (
        Card("eth0", OUTSIDE, f"08:00:27:02:02:{last:02x}", outer),
        Card("eth1", INSIDE, f"08:00:27:01:02:{last:02x}", inner),
    )
    return Machine(name, "director", cards, alias="cluster1" if name == "master" else "", second_alias=f"lb{last}")


def _inner(name: str, kind: Literal["web", "dns"], host: int) -> Machine:
    """A machine of the inner network whose lease goes by its MAC."""
    card = Card("eth0", INSIDE, f"08:00:27:01:01:{host:02x}", f"10.0.100.{host}", dhcp=True)
    return Machine(name, kind, (card,), alias=f"cluster{host}")


MACHINES = {
    machine.name: machine
    for machine in (
        _director("master", 1, "192.168.1.101", "10.0.100.1"),
        _director("standby", 2, "192.168.1.102", "10.0.100.50"),
        _inner("web1", "web", 2),
        _inner("web2", "web", 3),
        _inner("web3", "web", 4),
        _inner("dns1", "dns", 5),
        _inner("dns2", "dns", 6),
        _inner("dns3", "dns", 7),
        Machine("nas", "nas", (Card("eth0", INSIDE, "08:00:27:01:01:64", "10.0.100.100"),), gateway="10.0.100.200"),
        Machine("client", "client", (Card("eth0", OUTSIDE, "08:00:27:02:02:10", "192.168.1.10"),)),
    )
}
