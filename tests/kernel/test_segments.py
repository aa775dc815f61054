"""Heads of segments, as others write and read them."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import inet
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from balancer.kernel.segments import ACK, FIN, Segment, Sender, packet, read

PORTS, NUMBERS = st.integers(0, 65535), st.integers(0, (1 << 32) - 1)


def ends(version: int) -> st.SearchStrategy[tuple[str, int]]:
    return st.tuples(st.ip_addresses(v=version).map(str), PORTS)  # type: ignore[arg-type]


def segments(version: int) -> st.SearchStrategy[Segment]:
    return st.builds(Segment, ends(version), ends(version), NUMBERS, NUMBERS, st.integers(0, 0x3F), PORTS, st.just(0))


SEGMENTS = segments(4) | segments(6)


@given(SEGMENTS)
def test_what_is_made_is_what_is_read(segment: Segment) -> None:
    found = read(packet(segment))
    assert found is not None
    # An IPv6 address has more spellings than one.
    assert [ipaddress.ip_address(end[0]) for end in found[:2]] == [ipaddress.ip_address(end[0]) for end in segment[:2]]
    assert found[2:] == segment[2:]
    assert [port for _, port in found[:2]] == [port for _, port in segment[:2]]


@given(st.binary(max_size=120))
def test_no_octets_are_too_strange_to_be_read(octets: bytes) -> None:
    for head in (octets, b"\x45" + octets, b"\x4f" + octets, b"\x60" + octets):
        found = read(head)
        assert found is None or found.length >= 0


@given(SEGMENTS, st.integers(0, 59))
def test_part_of_a_head_is_none(segment: Segment, size: int) -> None:
    whole = packet(segment)
    assert size >= len(whole) or read(whole[:size]) is None


@pytest.mark.parametrize("ip", [inet.IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")])
@pytest.mark.parametrize("data", [b"", b"farewell"])
def test_what_others_make_is_read(ip: inet.IP | IPv6, data: bytes) -> None:
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
    made = ip / inet.TCP(sport=5000, dport=80, seq=7, ack=9, flags="FA", window=512, options=options)
    octets = bytes(made / Raw(data)) if data else bytes(made)
    # Of the data nothing is seen.
    found = read(octets[: len(octets) - len(data)])
    assert found == Segment((ip.src, 5000), (ip.dst, 80), 7, 9, FIN | ACK, 512, len(data))


@given(SEGMENTS, st.integers(0, 19), st.integers(0, 7))
def test_a_damaged_one_is_none(segment: Segment, octet: int, bit: int) -> None:
    damaged = bytearray(packet(segment))
    damaged[len(damaged) - 20 + octet] ^= 1 << bit
    assert read(bytes(damaged)) is None


def test_other_protocols_are_none() -> None:
    assert read(bytes(inet.IP(src="192.0.2.1", dst="192.0.2.2") / inet.UDP(sport=1, dport=2) / Raw(bytes(40)))) is None


def test_what_cannot_be_sent_is_told() -> None:
    sender = Sender()
    # Of no family that this host reaches.
    assert not sender.send(Segment(("127.0.0.1", 1), ("255.255.255.255", 2), 0, 0, ACK))
    sender.close()
