"""The facts of the cluster are the ones it was described with."""

from __future__ import annotations

import ipaddress

from tests.lab.topology import INSIDE, MACHINES, OUTSIDE, VIPS

CARDS = [(machine.name, card) for machine in MACHINES.values() for card in machine.cards]


def test_addresses_and_hardware_addresses_are_unique_and_of_their_network() -> None:
    assert len({card.mac for _, card in CARDS}) == len({card.address for _, card in CARDS}) == len(CARDS) == 12
    for _, card in CARDS:
        assert ipaddress.ip_address(card.address) in ipaddress.ip_network(card.network.prefix)


def test_leases_go_by_hardware_address() -> None:
    leased = {name: card.mac for name, card in CARDS if card.dhcp}
    assert leased["web1"] == "08:00:27:01:01:02"
    assert leased["dns3"] == "08:00:27:01:01:07"
    assert len(leased) == 6


def test_virtual_addresses_belong_to_no_machine() -> None:
    taken = {card.address for _, card in CARDS}
    assert taken.isdisjoint(address for addresses in VIPS.values() for address in addresses)
    for name, network in (("eth0", OUTSIDE), ("eth1", INSIDE)):
        for address in VIPS[name]:
            assert ipaddress.ip_address(address) in ipaddress.ip_network(network.prefix)


def test_names_of_plugs_fit_the_kernel() -> None:
    assert all(len(f"{name}-{card.name}") <= 15 for name, card in CARDS)
