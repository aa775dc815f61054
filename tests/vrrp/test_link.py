from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from balancer.errors import BadAdvertisement
from balancer.vrrp.address import Addresses
from balancer.vrrp.link import Link, Packet
from tests.vrrp.conftest import (
    GROUP_MAC_V4,
    GROUP_MAC_V6,
    VIP,
    VIP_V6,
    Host,
    Stage,
    Switch,
    as_root,
    descriptors,
    ipv4_frame,
)
from tests.vrrp.frames import Advert, Advertised, Arp

pytestmark = as_root

MESSAGE = bytes(range(20))
Open = Callable[..., Link]


@pytest.fixture
def hosts(stage: Stage, switch: Switch) -> list[Host]:
    return stage.hosts(switch, 2)


@pytest.fixture
def opened() -> Iterator[Open]:
    """Makes links, and closes them at the end."""
    links: list[Link] = []

    def open_link(host: Host, version: int = 4, name: str = "eth0") -> Link:
        with host:
            addresses = Addresses()
            card = addresses.card(name)
            addresses.close()
            assert card is not None
            source = next(address.ip for address in card.addresses if address.version == version)
            links.append(Link(name, card.index, card.mac, source))
        return links[-1]

    yield open_link
    for link in links:
        link.close()


def received(link: Link, wait: float = 5.0) -> list[Packet | str]:
    """The packets that came, and the causes of those that were refused; all that are there, once there is one."""
    select.select([link], [], [], wait)
    found: list[Packet | str] = []
    while select.select([link], [], [], 0)[0]:
        found.extend(link.receive(lambda error: found.append(error.cause)))
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_one_sends_and_the_other_hears(switch: Switch, hosts: list[Host], opened: Open, version: int) -> None:
    sender, hearer = (opened(host, version) for host in hosts)
    sender.send(MESSAGE, sender.group)
    assert received(hearer) == [Packet(MESSAGE, sender.source.packed, sender.group, 255)]
    assert not received(sender, 0.1), "we do not hear ourselves"


@pytest.mark.parametrize("version", [4, 6])
def test_one_sends_to_another_alone(hosts: list[Host], opened: Open, version: int) -> None:
    sender, hearer = (opened(host, version) for host in hosts)
    sender.send(MESSAGE, hearer.source.packed)
    assert received(hearer) == [Packet(MESSAGE, sender.source.packed, hearer.source.packed, 255)]


@pytest.mark.parametrize(
    ("version", "group", "mac"), [(4, "224.0.0.18", GROUP_MAC_V4), (6, "ff02::12", GROUP_MAC_V6)], ids=["IPv4", "IPv6"]
)
def test_what_an_advertisement_looks_like(
    stage: Stage, switch: Switch, hosts: list[Host], opened: Open, version: int, group: str, mac: bytes
) -> None:
    link = opened(hosts[0], version)
    link.send(MESSAGE, link.group)
    stage.until(switch.tap.adverts)
    (seen,) = switch.tap.adverts()
    assert isinstance(seen, Advert)
    assert (seen.frame.destination, seen.frame.source) == (mac, hosts[0].mac())
    assert (seen.source, seen.destination, seen.ttl, seen.tos) == (str(link.source), group, 255, 0xC0)
    assert seen.message == MESSAGE


def test_a_second_address_of_ours_is_not_the_source(
    stage: Stage, switch: Switch, hosts: list[Host], opened: Open
) -> None:
    hosts[0].ip("address add 198.51.100.1/24 dev eth0")
    hosts[0].ip("address add fe80::1/64 dev eth0")
    for version in (4, 6):
        switch.tap.forget()
        link = opened(hosts[0], version)
        link.send(MESSAGE, link.group)
        stage.until(switch.tap.adverts)
        assert switch.tap.adverts()[0].source == str(link.source)


def test_an_ipv4_address_is_announced_by_gratuitous_arp(
    stage: Stage, switch: Switch, hosts: list[Host], opened: Open
) -> None:
    opened(hosts[0]).announce(IPv4Address(VIP))
    stage.until(switch.tap.arps)
    (seen,) = switch.tap.arps()
    mac, everybody = hosts[0].mac(), b"\xff" * 6
    assert (seen.frame.destination, seen.frame.source) == (everybody, mac)
    assert seen == Arp(seen.frame, 1, mac, VIP, everybody, VIP)


def test_an_ipv6_address_is_announced_by_a_neighbor_advertisement(
    stage: Stage, switch: Switch, hosts: list[Host], opened: Open
) -> None:
    opened(hosts[0], 6).announce(IPv6Address(VIP_V6))
    stage.until(lambda: any(isinstance(each, Advertised) for each in switch.tap.said))
    (seen,) = (each for each in switch.tap.said if isinstance(each, Advertised))
    mac = hosts[0].mac()
    assert (seen.frame.destination, seen.frame.source) == (bytes.fromhex("333300000001"), mac)
    router_and_override = 0xA0
    assert seen == Advertised(seen.frame, 255, VIP_V6, "ff02::1", router_and_override, VIP_V6, mac)


def test_what_a_neighbour_has_learned_is_corrected(
    stage: Stage, switch: Switch, hosts: list[Host], opened: Open
) -> None:
    client = stage.host()
    switch.plug(client, "192.0.2.9/24")
    client.ip(f"neighbour add {VIP} lladdr 02:00:00:00:00:99 dev eth0 nud reachable")
    mac = hosts[0].mac().hex(":")
    link = opened(hosts[0])

    # The kernel keeps what it has for a second (locktime), by which it tells two that say the same.
    def is_learned() -> bool:
        link.announce(IPv4Address(VIP))
        return mac in client.ip("neighbour show dev eth0")

    stage.until(is_learned)


def test_what_is_for_another_interface_is_not_heard(
    stage: Stage, switch: Switch, hosts: list[Host], opened: Open
) -> None:
    elsewhere = stage.switch()
    elsewhere.plug(hosts[1], "198.51.100.2/24", name="eth1")
    here, there = opened(hosts[1]), opened(hosts[1], name="eth1")
    link = opened(hosts[0])
    link.send(MESSAGE, link.group)
    assert len(received(here)) == 1
    assert not received(there, 0.1)


def test_what_nothing_may_be_made_of_is_refused(switch: Switch, hosts: list[Host], opened: Open) -> None:
    hearer = opened(hosts[1])
    switch.tap.send(ipv4_frame(MESSAGE, "0.0.0.0"))
    switch.tap.send(ipv4_frame(MESSAGE, "203.0.113.9", ttl=7))
    group = ip_address("224.0.0.18").packed
    assert received(hearer) == ["source_err", Packet(MESSAGE, ip_address("203.0.113.9").packed, group, 7)]


def test_what_is_for_us_alone_is_heard_with_its_destination(switch: Switch, hosts: list[Host], opened: Open) -> None:
    hearer = opened(hosts[1])
    frame = ipv4_frame(MESSAGE, "192.0.2.9", destination="192.0.2.2")
    switch.tap.send(hosts[1].mac() + frame[6:])
    source, own = (ip_address(address).packed for address in ("192.0.2.9", "192.0.2.2"))
    assert received(hearer) == [Packet(MESSAGE, source, own, 255)]


def test_what_is_taken_in_one_go_is_bounded(switch: Switch, hosts: list[Host], opened: Open) -> None:
    hearer = opened(hosts[1])
    for _ in range(100):
        switch.tap.send(ipv4_frame(MESSAGE, "192.0.2.9"))
    select.select([hearer], [], [], 5.0)

    def refused(error: BadAdvertisement) -> None:
        raise AssertionError(error)

    assert 0 < len(list(hearer.receive(refused))) < 100
    assert received(hearer), "the others wait"


@pytest.mark.parametrize("version", [4, 6])
def test_on_an_interface_that_is_down_or_gone_it_cannot_send(hosts: list[Host], opened: Open, version: int) -> None:
    link = opened(hosts[0], version)
    vip = ip_address(VIP if version == 4 else VIP_V6)
    for command in ("link set dev eth0 down", "link del dev eth0"):
        hosts[0].ip(command)
        with pytest.raises(OSError, match=r"\[Errno"):
            link.send(MESSAGE, link.group)
        with pytest.raises(OSError, match=r"\[Errno"):
            link.announce(vip)
        assert received(link, 0) == []


def test_no_interface_no_link(hosts: list[Host]) -> None:
    before = descriptors()
    with hosts[0], pytest.raises(OSError, match=r"\[Errno") as caught:
        Link("eth9", 9, b"", IPv4Address("192.0.2.1"))
    assert caught.value.errno == errno.ENODEV
    assert descriptors() == before


def test_without_a_hardware_address_there_is_nothing_to_announce(stage: Stage) -> None:
    host = stage.host()
    host.ip("link set dev lo up")
    with host:
        link = Link("lo", socket.if_nametoindex("lo"), b"", IPv4Address("127.0.0.1"))
    try:
        link.announce(IPv4Address(VIP))
        link.send(MESSAGE, link.group)
    finally:
        link.close()
