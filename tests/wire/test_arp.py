from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from balancer.wire.arp import gratuitous_arp, unsolicited_na

MAC = bytes.fromhex("020000000001")
VIP, VIP_V6 = (ip_address(address).packed for address in ("192.168.1.200", "2001:db8::c8"))
ROUTER = ip_address("fe80::2").packed


# Made with scapy 2.8.0, but for the padding.
def test_a_gratuitous_arp():
    frame = bytes.fromhex(
        "ffffffffffff 020000000001 0806"
        "0001 0800 06 04 0001"
        "020000000001 c0a801c8"
        "ffffffffffff c0a801c8"
        "000000000000000000000000000000000000"
    )
    assert len(frame) == 60
    assert gratuitous_arp(MAC, VIP) == frame


def test_an_unsolicited_neighbor_advertisement():
    frame = bytes.fromhex(
        "333300000001 020000000001 86dd"
        "60000000 0020 3a ff"
        "20010db80000000000000000000000c8"
        "ff020000000000000000000000000001"
        "88 00 779c a0000000"
        "20010db80000000000000000000000c8"
        "02 01 020000000001"
    )
    assert unsolicited_na(MAC, VIP_V6) == frame
    assert unsolicited_na(MAC, VIP_V6, source=VIP_V6) == frame


@pytest.mark.parametrize(
    ("announce", "mac", "address", "keys"),
    [
        (gratuitous_arp, MAC[:5], VIP, {}),
        (gratuitous_arp, MAC + b"\0", VIP, {}),
        (gratuitous_arp, MAC, VIP_V6, {}),
        (gratuitous_arp, MAC, VIP[:3], {}),
        (unsolicited_na, MAC[:5], VIP_V6, {}),
        (unsolicited_na, MAC, VIP, {}),
        (unsolicited_na, MAC, VIP_V6, {"source": VIP}),
    ],
)
def test_what_has_another_length_is_not_cut_to_fit(announce, mac, address, keys):
    with pytest.raises(ValueError, match="octets"):
        announce(mac, address, **keys)


MACS = st.binary(min_size=6, max_size=6)
V4, V6 = (st.ip_addresses(v=version).map(lambda ip: ip.packed) for version in (4, 6))


@given(MACS, V4)
def test_scapy_sends_the_same_arp(mac, address):
    ours, vip, everyone = mac.hex(":"), str(ip_address(address)), "ff:ff:ff:ff:ff:ff"
    theirs = Ether(src=ours, dst=everyone) / ARP(op=1, hwsrc=ours, psrc=vip, hwdst=everyone, pdst=vip)
    assert gratuitous_arp(mac, address) == bytes(theirs).ljust(60, b"\0")


@given(MACS, V6, st.none() | V6 | st.just(ROUTER))
def test_scapy_sends_the_same_neighbor_advertisement(mac, address, source):
    ours, vip = mac.hex(":"), str(ip_address(address))
    theirs = (
        Ether(src=ours, dst="33:33:00:00:00:01")
        / IPv6(src=str(ip_address(source or address)), dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(R=1, S=0, O=1, tgt=vip)
        / ICMPv6NDOptDstLLAddr(lladdr=ours)
    )
    assert unsolicited_na(mac, address, source=source) == bytes(theirs)
