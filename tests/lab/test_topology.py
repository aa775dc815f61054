"""The facts of the cluster are the ones it was described with."""

from __future__ import annotations

import ipaddress

from tests.lab.topology import MACHINES, VIPS

CARDS = [(machine.name, card) for machine in MACHINES.values() for card in machine.cards]


def test_addresses_and_hardware_addresses_are_unique_and_of_their_network() -> None:
    assert len({card.mac for _, card in CARDS}) == len({card.address for _, card in CARDS}) == len(CARDS)
    for _, card in CARDS:
        assert ipaddress.ip_address(card.address) in ipaddress.ip_network(card.network.prefix)


def test_leases_go_by_hardware_address() -> None:
    leased = {name: card.mac for name, card in CARDS if card.dhcp}
    assert leased["web1"] == "08:00:27:01:01:02"
    assert leased["dns3"] == "08:00:27:01:01:07"


def test_virtual_addresses_belong_to_no_machine() -> None:
    taken = {card.address for _, card in CARDS}
    assert taken.isdisjoint(VIPS)
    for address, network in VIPS.items():
        assert ipaddress.ip_address(address) in ipaddress.ip_network(network.prefix)


def test_names_of_plugs_fit_the_kernel() -> None:
    assert all(len(f"{name}-{card.name}") <= 15 for name, card in CARDS)
