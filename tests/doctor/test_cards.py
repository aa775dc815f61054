from __future__ import annotations

from ipaddress import ip_address

from balancer.doctor.cards import Network
from tests.vrrp.conftest import Host, Net, Switch, as_root

pytestmark = as_root


def test_interfaces_and_their_addresses(host: Host) -> None:
    host.ip("address add 192.0.2.7/24 dev eth0 valid_lft 60 preferred_lft 60")
    with host:
        network = Network()
    card = network.cards["eth0"]
    assert card.is_up and card.is_on and card.asks and card.takes_groups and card.mac == host.mac()
    first, second = card.has(ip_address("192.0.2.1")), card.has(ip_address("192.0.2.7"))
    assert first is not None and first.is_permanent and not first.is_secondary
    assert second is not None and not second.is_permanent and second.is_secondary
    assert card.has(ip_address("192.0.2.8")) is None
    assert network.cards["lo"].is_loopback and not network.cards["lo"].asks
    assert [each.name for each, _ in network.holders(ip_address("192.0.2.1"))] == ["eth0"]


def test_a_cable_that_is_cut(host: Host, switch: Switch) -> None:
    switch.cut(host)
    with host:
        card = Network().cards["eth0"]
    assert card.is_on and not card.is_up


def test_the_way_to_others(host: Host) -> None:
    host.ip("link set dev lo up")
    host.ip("route add 198.51.100.0/24 via 192.0.2.254")
    host.ip("route add unreachable 203.0.113.0/24")
    with host:
        network = Network()
        near, far, own = network.way("192.0.2.9"), network.way("198.51.100.1"), network.way("192.0.2.1")
        assert network.ways(["203.0.113.1", "8.8.8.8", "2001:db8:7::1"]) == dict.fromkeys(
            ["203.0.113.1", "8.8.8.8", "2001:db8:7::1"]
        )
    assert near == ("eth0", False, "") and far == ("eth0", False, "192.0.2.254")
    assert own is not None and own.is_local


def test_who_was_found_lately(host: Host) -> None:
    host.ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable")
    with host:
        network = Network()
    assert network.macs("192.0.2.9") == {bytes.fromhex("020000000009")} and network.macs("192.0.2.8") == set()


def test_a_host_without_interfaces(net: Net) -> None:
    with net:
        assert [*Network().cards] == ["lo"]
