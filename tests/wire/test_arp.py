from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from balancer.wire.arp import claim, gratuitous_arp, probe, solicitation, unsolicited_na

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


def test_a_probe_comes_from_nobody():
    """RFC 5227 section 2.1.1: the sender's IP address is all zeros, and so is the target's hardware address."""
    said = Ether(probe(MAC, VIP))
    assert (said.dst, said.src, len(bytes(said))) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01", 60)
    assert (said[ARP].op, said[ARP].psrc, said[ARP].pdst, said[ARP].hwdst) == (
        1, "0.0.0.0", "192.168.1.200", "00:00:00:00:00:00",
    )  # fmt: skip
    assert claim(probe(MAC, VIP)) is None


def test_a_solicitation_comes_from_nobody():
    """RFC 4862 section 5.4.2, and no option with our hardware address (RFC 4861 section 4.3)."""
    frame = solicitation(MAC, VIP_V6)
    said = Ether(frame)
    assert (said.dst, said[IPv6].src, said[IPv6].dst) == ("33:33:ff:00:00:c8", "::", "ff02::1:ff00:c8")
    assert said[IPv6].hlim == 255
    assert said[ICMPv6ND_NS].tgt == "2001:db8::c8" and not said[ICMPv6ND_NS].payload
    total = said[ICMPv6ND_NS].cksum
    del said[ICMPv6ND_NS].cksum
    assert Ether(bytes(said))[ICMPv6ND_NS].cksum == total
    assert claim(frame) is None


def test_who_claims_an_address():
    assert claim(gratuitous_arp(MAC, VIP)) == (VIP, MAC)
    assert claim(unsolicited_na(MAC, VIP_V6)) == (VIP_V6, MAC)
    reply = Ether(src="02:00:00:00:00:07") / ARP(op=2, hwsrc="02:00:00:00:00:02", psrc="192.168.1.200")
    assert claim(bytes(reply)) == (VIP, bytes.fromhex("020000000002"))
    bare = Ether(src="02:00:00:00:00:07") / IPv6(src="fe80::1", dst="ff02::1", hlim=255)
    bare /= ICMPv6ND_NA(tgt="2001:db8::c8")
    assert claim(bytes(bare)) == (VIP_V6, bytes.fromhex("020000000007"))


def test_what_crossed_a_router_claims_nothing():
    far = Ether() / IPv6(src="fe80::1", dst="ff02::1", hlim=254) / ICMPv6ND_NA(tgt="2001:db8::c8")
    assert claim(bytes(far)) is None


@given(st.binary(max_size=100), st.sampled_from([b"", b"\x08\x06", b"\x86\xdd"]))
def test_any_frame_may_come(octets, kind):
    said = claim(bytes(12) + kind + octets)
    assert said is None or (len(said[0]) in (4, 16) and len(said[1]) == 6)


@pytest.mark.parametrize("make", [probe, solicitation])
def test_questions_for_addresses_of_another_length(make):
    with pytest.raises(ValueError):
        make(MAC, bytes(5))
    with pytest.raises(ValueError):
        make(bytes(5), VIP if make is probe else VIP_V6)
