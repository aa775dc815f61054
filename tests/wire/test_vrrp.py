from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.vrrp import VRRP, VRRPv3

from balancer.errors import BadAdvertisement
from balancer.wire.vrrp import (
    GROUP_V4,
    GROUP_V6,
    HOP_LIMIT,
    PROTOCOL,
    Advertisement,
    Header,
    build,
    checksum,
    parse,
    pseudo_header,
    take_ipv4_header,
    vrid_of,
)


def packed(*addresses):
    return tuple(ip_address(address).packed for address in addresses)


OURS, THEIRS, OTHER = packed("192.168.1.1", "192.168.1.2", "192.168.1.3")
OURS_V6, THEIRS_V6 = packed("fe80::1", "fe80::2")
VIPS = packed("192.168.1.200", "192.168.1.202")
VIPS_V6 = packed("fe80::c8", "2001:db8::c8")

TWO = Advertisement(version=2, vrid=51, priority=150, interval=1.0, addresses=VIPS)
PASS = replace(TWO, password=b"mypasswd")
THREE = replace(TWO, version=3)
SIX = replace(THREE, addresses=VIPS_V6)
TO_GROUP = {"source": THEIRS, "destination": GROUP_V4}
TO_GROUP_V6 = {"source": THEIRS_V6, "destination": GROUP_V6}


def octets(text):
    return bytes.fromhex(text)


# Made with scapy 2.8.0.
GOLDEN = {
    "v2 with a password": (
        PASS,
        TO_GROUP,
        {},
        octets("21 33 96 02 01 01 fa32  c0a801c8 c0a801ca  6d79706173737764"),
    ),
    "v3": (THREE, TO_GROUP, {}, octets("31 33 96 02 0064 1145  c0a801c8 c0a801ca")),
    "v3 over IPv6": (
        SIX,
        TO_GROUP_V6,
        {},
        octets("31 33 96 02 0064 0c6c  fe8000000000000000000000000000c8 20010db80000000000000000000000c8"),
    ),
    # By hand: the words that differ from the first; the third without its pseudo-header, which adds up to a23d.
    "v2": (TWO, TO_GROUP, {}, octets("21 33 96 02 00 01 c3e5  c0a801c8 c0a801ca  0000000000000000")),
    "v2 with a short password": (
        replace(TWO, password=b"my"),
        TO_GROUP,
        {},
        octets("21 33 96 02 01 01 556c  c0a801c8 c0a801ca  6d79000000000000"),
    ),
    "v3 as v2": (THREE, TO_GROUP, {"checksum_as_v2": True}, octets("31 33 96 02 0064 b382  c0a801c8 c0a801ca")),
}


@pytest.mark.parametrize(("advertisement", "way", "keys", "message"), GOLDEN.values(), ids=GOLDEN)
def test_octets(advertisement, way, keys, message):
    assert build(advertisement, **way, **keys) == message
    read = parse(message, version=advertisement.version, hop_limit=255, password=advertisement.password, **way)
    assert read == advertisement


def test_a_password_is_not_shown():
    assert "mypasswd" not in repr(PASS)


# Messages for the tables, made by nothing that is tested here.


def rfc1071(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def sealed(message, before=b""):
    blank = message[:6] + b"\0\0" + message[8:]
    return blank[:6] + struct.pack("!H", rfc1071(before + blank)) + blank[8:]


def pseudo(message, source=THEIRS, destination=GROUP_V4):
    return source + destination + struct.pack("!BBH", 0, 112, len(message))


def v2(*, first=0x21, vrid=51, priority=200, count=None, kind=0, interval=1, vips=VIPS[:1], data=bytes(8), more=b""):
    count = len(vips) if count is None else count
    head = struct.pack("!BBBBBBH", first, vrid, priority, count, kind, interval, 0)
    return sealed(head + b"".join(vips) + data + more)


def v3(*, first=0x31, vrid=51, priority=200, interval=100, vips=VIPS[:1], with_pseudo=True, **way):
    message = struct.pack("!BBBBHH", first, vrid, priority, len(vips), interval, 0) + b"".join(vips)
    return sealed(message, pseudo(message, **way) if with_pseudo else b"")


def damaged(message):
    return message[:6] + bytes([message[6] ^ 0x55]) + message[7:]


def ipv4(payload, *, first=0x45, options=b"", total=None, fragment=0, ttl=255, protocol=112, way=(THEIRS, GROUP_V4)):
    total = 20 + len(options) + len(payload) if total is None else total
    return struct.pack("!BBHHHBBH4s4s", first, 0xC0, total, 7, fragment, ttl, protocol, 0, *way) + options + payload


def verdict(packet, *, version=2, password=None, is_unicast=False):
    """What a raw socket's reader does with a packet."""
    try:
        header, message = take_ipv4_header(packet)
        parse(
            message,
            version=version,
            source=header.source,
            destination=header.destination,
            hop_limit=header.ttl,
            password=password,
            is_unicast=is_unicast,
        )
    except BadAdvertisement as refusal:
        assert refusal.why
        return refusal.cause
    return "accepted"


def from_(address, destination=GROUP_V4):
    return (ip_address(address).packed, destination)


SECRET = {"password": b"mypasswd"}
UNICAST = {"is_unicast": True}
V3 = {"version": 3}

# The streams that keepalived 2.2.7 was measured with, as far as the packet alone decides. Where the verdict differs,
# the line says so: `stricter` for what keepalived believes, `RFC 9568` for what that came to ask for.
MEASURED = [
    ("valid, priority 200", ipv4(v2()), {}, "accepted"),
    ("priority 50", ipv4(v2(priority=50)), {}, "accepted"),
    ("priority 1", ipv4(v2(priority=1)), {}, "accepted"),
    ("priority 255", ipv4(v2(priority=255)), {}, "accepted"),
    ("priority 0", ipv4(v2(priority=0)), {}, "accepted"),
    ("TTL 254", ipv4(v2(), ttl=254), {}, "ip_ttl_err"),
    ("TTL 1", ipv4(v2(), ttl=1), {}, "ip_ttl_err"),
    ("bad checksum", ipv4(damaged(v2())), {}, "checksum_err"),
    ("version 1", ipv4(v2(first=0x11)), {}, "version_err"),
    ("version 15", ipv4(v2(first=0xF1)), {}, "version_err"),
    ("v3 to v2", ipv4(v3()), {}, "version_err"),
    ("v2 to v3", ipv4(v2()), V3, "version_err"),
    ("type 0", ipv4(v2(first=0x20)), {}, "invalid_type_rcvd"),
    ("type 2", ipv4(v2(first=0x22)), {}, "invalid_type_rcvd"),
    ("payload of 0 octets", ipv4(b""), {}, "packet_len_err"),
    ("payload of 4 octets", ipv4(v2()[:4]), {}, "packet_len_err"),
    ("payload of 8 octets", ipv4(v2()[:8]), {}, "packet_len_err"),
    ("payload of 12 octets, no authentication data", ipv4(v2(data=b"")), {}, "packet_len_err"),
    ("1 octet more", ipv4(v2(more=b"\0\0")[:-1]), {}, "packet_len_err"),
    ("6 octets more", ipv4(v2(more=bytes(6))), {}, "packet_len_err"),
    ("40 octets more", ipv4(v2(more=bytes(40))), {}, "packet_len_err"),
    ("count 20 with 1 address", ipv4(v2(count=20)), {}, "packet_len_err"),
    ("count 0 with 1 address", ipv4(v2(count=0)), {}, "packet_len_err"),
    ("count 0", ipv4(v2(vips=())), {}, "addr_list_err"),
    ("total length short", ipv4(v2(), total=30), {}, "packet_len_err"),
    ("IP options, 4 NOP", ipv4(v2(), first=0x46, options=b"\1\1\1\1"), {}, "accepted"),
    ("authentication type 1, none configured", ipv4(v2(kind=1, data=b"mypasswd")), {}, "authtype_mismatch"),
    ("authentication type 2, none configured", ipv4(v2(kind=2)), {}, "authtype_mismatch"),
    ("authentication type 9, none configured", ipv4(v2(kind=9)), {}, "invalid_authtype"),
    ("right password", ipv4(v2(kind=1, data=b"mypasswd")), SECRET, "accepted"),
    ("wrong password", ipv4(v2(kind=1, data=b"yourpass")), SECRET, "auth_failure"),
    ("prefix of the password", ipv4(v2(kind=1, data=b"mypass\0\0")), SECRET, "auth_failure"),
    ("authentication type 0, password configured", ipv4(v2()), SECRET, "authtype_mismatch"),
    ("unicast copy to a multicast router", ipv4(v2(), way=(THEIRS, OURS)), {}, "addr_list_err"),
    ("multicast source", ipv4(v2(), way=from_("224.0.0.18")), {}, "source_err"),
    ("broadcast source", ipv4(v2(), way=from_("255.255.255.255")), {}, "source_err"),
    ("source 0.0.0.0: stricter", ipv4(v2(), way=from_("0.0.0.0")), {}, "source_err"),
    ("fragment, more to come", ipv4(v2(), fragment=0x2000), {}, "packet_len_err"),
    ("IP protocol 51", ipv4(v2(), protocol=51), {}, "invalid_type_rcvd"),
    ("v3", ipv4(v3()), V3, "accepted"),
    ("v3, reserved bits set", ipv4(v3(interval=0xF064)), V3, "accepted"),
    ("v3, interval 40.95 s", ipv4(v3(interval=4095)), V3, "accepted"),
    ("v3, interval 0", ipv4(v3(interval=0)), V3, "advert_interval_err"),
    ("v3, bad checksum", ipv4(damaged(v3())), V3, "checksum_err"),
    ("v3, no pseudo-header: RFC 9568", ipv4(v3(with_pseudo=False)), V3, "accepted"),
    ("master: priority 200, TTL 254", ipv4(v2(), ttl=254), {}, "ip_ttl_err"),
    ("master: wrong password", ipv4(v2(kind=1, data=b"wrong\0\0\0")), SECRET, "auth_failure"),
    # The addresses' own values, the interval in v2 and what the interface's subnet says are the receiver's to judge.
    ("another address", ipv4(v2(vips=VIPS[1:])), {}, "accepted"),
    ("one address more", ipv4(v2(vips=VIPS)), {}, "accepted"),
    ("v2, interval 5 s", ipv4(v2(interval=5)), {}, "accepted"),
    ("source outside the subnet", ipv4(v2(), way=from_("203.0.113.9")), {}, "accepted"),
]

MORE = [
    ("padded by Ethernet", ipv4(v2()) + bytes(6), {}, "accepted"),
    ("padded by Ethernet, v3", ipv4(v3()) + bytes(14), V3, "accepted"),
    ("all the addresses there is room for", ipv4(v2(vips=VIPS * 127 + VIPS[:1])), {}, "accepted"),
    ("not to be fragmented", ipv4(v2(), fragment=0x4000), {}, "accepted"),
    ("the last fragment", ipv4(v2(), fragment=0x0003), {}, "packet_len_err"),
    ("longest header", ipv4(v2(), first=0x4F, options=b"\1" * 40), {}, "accepted"),
    ("header beyond the packet", ipv4(b"", first=0x4F, total=60), {}, "packet_len_err"),
    ("header beyond the total length", ipv4(v2(), first=0x46, options=b"\1\1\1\1", total=23), {}, "packet_len_err"),
    ("header too short", ipv4(v2(), first=0x44), {}, "packet_len_err"),
    ("packet shorter than its total length", ipv4(v2())[:-1], {}, "packet_len_err"),
    ("IPv4 header cut short", ipv4(v2())[:19], {}, "packet_len_err"),
    ("nothing", b"", {}, "packet_len_err"),
    ("IP version 6", ipv4(v2(), first=0x65), {}, "version_err"),
    ("loopback source", ipv4(v2(), way=from_("127.0.0.1")), {}, "source_err"),
    ("payload of 7 octets", ipv4(v2()[:7]), {}, "packet_len_err"),
    ("VRID 0", ipv4(v2(vrid=0)), {}, "vrid_err"),
    ("VRID 255", ipv4(v2(vrid=255)), {}, "accepted"),
    ("v2, interval 0", ipv4(v2(interval=0)), {}, "advert_interval_err"),
    ("v2, summed up with a pseudo-header", ipv4(sealed(v2(), pseudo(v2()))), {}, "checksum_err"),
    ("v3, count 0", ipv4(v3(vips=())), V3, "addr_list_err"),
    ("v3, one octet short", ipv4(v3()[:-1]), V3, "packet_len_err"),
    ("v3, the length of v2", ipv4(v3() + bytes(8)), V3, "packet_len_err"),
    ("v3, a password configured", ipv4(v3()), {**V3, **SECRET}, "accepted"),
    ("data with authentication type 0", ipv4(v2(data=b"whatever")), {}, "accepted"),
    ("empty password", ipv4(v2(kind=1)), {"password": b""}, "accepted"),
    ("padded password", ipv4(v2(kind=1, data=b"my\0\0\0\0\0\0")), {"password": b"my"}, "accepted"),
    ("password longer than ours", ipv4(v2(kind=1, data=b"mypasswd")), {"password": b"mypass"}, "auth_failure"),
    ("unicast", ipv4(v2(), way=(THEIRS, OURS)), UNICAST, "accepted"),
    ("unicast over a router", ipv4(v2(), ttl=63, way=(THEIRS, OURS)), UNICAST, "accepted"),
    ("multicast copy to a unicast router", ipv4(v2()), UNICAST, "addr_list_err"),
    ("another group", ipv4(v2(), way=(THEIRS, packed("224.0.0.81")[0])), {}, "addr_list_err"),
    ("v3 unicast", ipv4(v3(destination=OURS), way=(THEIRS, OURS)), {**V3, **UNICAST}, "accepted"),
    ("v3 unicast, summed up for another", ipv4(v3(), way=(THEIRS, OURS)), {**V3, **UNICAST}, "checksum_err"),
    ("v3 from another source", ipv4(v3(), way=(OTHER, GROUP_V4)), V3, "checksum_err"),
]


@pytest.mark.parametrize(
    ("packet", "here", "expected"), [row[1:] for row in MEASURED + MORE], ids=[row[0] for row in MEASURED + MORE]
)
def test_verdict(packet, here, expected):
    assert verdict(packet, **here) == expected


# Each with the faults of all the lines below it as well.
FAULTS = [
    ("vrid_err", v2(vrid=0, first=0x20, kind=9, count=3), 3),
    ("packet_len_err", v2(first=0x20, kind=9, count=3), 3),
    ("ip_ttl_err", v2(first=0x50, kind=9, vips=()), 3),
    ("version_err", v2(first=0x50, kind=9, vips=(), interval=0), 255),
    ("invalid_authtype", v2(first=0x20, kind=9, vips=(), interval=0), 255),
    ("authtype_mismatch", v2(first=0x20, kind=0, vips=(), interval=0), 255),
    ("auth_failure", v2(first=0x20, kind=1, vips=(), interval=0), 255),
    ("invalid_type_rcvd", v2(first=0x20, kind=1, vips=(), interval=0, data=b"mypasswd"), 255),
    ("checksum_err", v2(kind=1, vips=(), interval=0, data=b"mypasswd"), 255),
]


@pytest.mark.parametrize(("cause", "message", "ttl"), FAULTS, ids=[row[0] for row in FAULTS])
def test_of_several_faults_the_first_in_keepalived_s_order_counts(cause, message, ttl):
    assert verdict(ipv4(damaged(message), ttl=ttl), password=b"mypasswd") == cause


@pytest.mark.parametrize(
    ("keys", "cause"),
    [
        ({}, None),
        ({"hop_limit": 254}, "ip_ttl_err"),
        ({"version": 2}, "packet_len_err"),
        ({"destination": GROUP_V6[:15] + b"\x13"}, "checksum_err"),
        ({"destination": OURS_V6}, "checksum_err"),
        ({"source": OURS_V6}, "checksum_err"),
        ({"source": bytes(16)}, "source_err"),
        ({"source": ip_address("::1").packed}, "source_err"),
        ({"source": GROUP_V6}, "source_err"),
    ],
)
def test_verdict_over_ipv6(keys, cause):
    message = build(SIX, **TO_GROUP_V6)
    if keys.get("version") == 2:
        message = b"\x21" + message[1:]
    if cause is None:
        assert parse(message, version=3, hop_limit=255, **TO_GROUP_V6) == SIX
        return
    with pytest.raises(BadAdvertisement) as refusal:
        parse(message, **{"version": 3, "hop_limit": 255, **TO_GROUP_V6, **keys})
    assert refusal.value.cause == cause


def test_over_ipv6_the_pseudo_header_is_never_left_out():
    plain = sealed(build(SIX, **TO_GROUP_V6))
    with pytest.raises(BadAdvertisement, match="wrong checksum"):
        parse(plain, version=3, hop_limit=255, **TO_GROUP_V6)
    assert build(SIX, checksum_as_v2=True, **TO_GROUP_V6) == build(SIX, **TO_GROUP_V6)


def test_the_header_is_told_and_the_payload_cut_out():
    packet = ipv4(b"payload!", first=0x46, options=b"\1\1\1\1", ttl=64, way=(THEIRS, OURS)) + b"padding"
    assert take_ipv4_header(packet) == (Header(THEIRS, OURS, 64), b"payload!")
    assert take_ipv4_header(ipv4(b"")) == (Header(THEIRS, GROUP_V4, 255), b"")


def test_a_payload_that_is_not_all_there_is_not_handed_on():
    with pytest.raises(BadAdvertisement, match="header of 20 octets, total length 44, received 43"):
        take_ipv4_header(ipv4(bytes(24))[:-1])


def test_the_router_that_is_meant():
    assert [vrid_of(v2(vrid=vrid)) for vrid in (1, 51, 255)] == [1, 51, 255]
    assert vrid_of(v3()[:8]) == 51


def test_zero_has_two_forms_in_one_s_complement():
    # The words of the message add up to 0xffff before the checksum; then it is 0x0000, or 0xffff.
    last = 0xFFFF - (0x2133 + 0x9601 + 0x0001 + 0x0A00)
    message = build(replace(TWO, addresses=(b"\x0a\0" + struct.pack("!H", last),)), **TO_GROUP)
    assert message[6:8] == b"\0\0"
    for form in (b"\0\0", b"\xff\xff"):
        assert verdict(ipv4(message[:6] + form + message[8:])) == "accepted"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 1}, "no VRRP version 1 over addresses of 4 octets"),
        ({"version": 4}, "no VRRP version 4"),
        ({"vrid": 0}, "VRID 0"),
        ({"vrid": 256}, "VRID 256"),
        ({"priority": -1}, "priority -1"),
        ({"priority": 256}, "priority 256"),
        ({"addresses": ()}, "0 addresses"),
        ({"addresses": VIPS * 128}, "256 addresses"),
        ({"addresses": VIPS + VIPS_V6}, "other than the 4 octets"),
        ({"password": b"ninechars"}, "at most 8"),
        ({"version": 3, "password": b"my"}, "no password"),
        ({"interval": 0.0}, "interval 0.0"),
        ({"interval": 1.5}, "interval 1.5"),
        ({"interval": 256.0}, "interval 256.0"),
        ({"version": 3, "interval": 0.001}, "interval 0.001"),
        ({"version": 3, "interval": 0.015}, "interval 0.015"),
        ({"version": 3, "interval": 40.96}, "interval 40.96"),
    ],
)
def test_what_has_no_place_is_not_sent(change, why):
    with pytest.raises(ValueError, match=why):
        build(replace(TWO, **change), **TO_GROUP)


def test_version_2_knows_no_ipv6():
    with pytest.raises(ValueError, match="no VRRP version 2 over addresses of 16 octets"):
        build(replace(SIX, version=2), **TO_GROUP_V6)


VRIDS, PRIORITIES = st.integers(1, 255), st.integers(0, 255)
V4, V6 = st.ip_addresses(v=4).map(lambda ip: ip.packed), st.ip_addresses(v=6).map(lambda ip: ip.packed)
V6_ROUTERS = st.binary(min_size=14, max_size=14).map(lambda tail: b"\xfe\x80" + tail)


def advertisements(version, addresses, passwords=st.none()):  # noqa: B008  a strategy is a value
    return st.builds(
        Advertisement,
        version=st.just(version),
        vrid=VRIDS,
        priority=PRIORITIES,
        interval=st.integers(1, 255).map(float) if version == 2 else st.integers(1, 4095).map(lambda cs: cs / 100),
        addresses=st.lists(addresses, min_size=1, max_size=255 if version == 2 else 6).map(tuple),
        password=passwords,
    )


TWOS = advertisements(2, V4, st.none() | st.binary(max_size=8))
THREES = advertisements(3, V4)
SIXES = advertisements(3, V6)


@given(
    st.one_of(
        st.tuples(TWOS | THREES, V4, st.just(GROUP_V4) | V4),
        st.tuples(SIXES, V6_ROUTERS, st.just(GROUP_V6) | V6),
    ),
    st.booleans(),
)
def test_what_is_sent_is_understood(sent, checksum_as_v2):
    advertisement, source, destination = sent
    is_group = destination in (GROUP_V4, GROUP_V6)
    assume(is_group or not ip_address(destination).is_multicast)
    message = build(advertisement, source=source, destination=destination, checksum_as_v2=checksum_as_v2)
    read = parse(
        message,
        version=advertisement.version,
        source=source,
        destination=destination,
        hop_limit=HOP_LIMIT,
        # In version 3 there is none to compare.
        password=advertisement.password if advertisement.version == 2 else b"mypasswd",
        is_unicast=not is_group,
    )
    assert read == advertisement
    assert vrid_of(message) == advertisement.vrid


@given(TWOS)
def test_version_2_is_what_scapy_sends(advertisement):
    auth1, auth2 = struct.unpack("!II", (advertisement.password or b"").ljust(8, b"\0"))
    theirs = VRRP(
        vrid=advertisement.vrid,
        priority=advertisement.priority,
        addrlist=[str(ip_address(address)) for address in advertisement.addresses],
        authtype=0 if advertisement.password is None else 1,
        adv=int(advertisement.interval),
        auth1=auth1,
        auth2=auth2,
    )
    assert build(advertisement, **TO_GROUP) == bytes(theirs)


@given(st.tuples(THREES, V4, V4) | st.tuples(SIXES, V6_ROUTERS, V6))
def test_version_3_is_what_scapy_sends(sent):
    advertisement, source, destination = sent
    ends = {"src": str(ip_address(source)), "dst": str(ip_address(destination))}
    header = IP(proto=PROTOCOL, **ends) if len(source) == 4 else IPv6(nh=PROTOCOL, **ends)
    theirs = header / VRRPv3(
        vrid=advertisement.vrid,
        priority=advertisement.priority,
        addrlist=[str(ip_address(address)) for address in advertisement.addresses],
        adv=round(advertisement.interval * 100),
    )
    assert build(advertisement, source=source, destination=destination) == bytes(theirs)[len(header) :]


@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=600).filter(any))
def test_the_checksum_is_rfc_1071_s(words):
    data = struct.pack(f"!{len(words)}H", *words)
    assert checksum(data) == rfc1071(data)
    assert checksum(data + struct.pack("!H", checksum(data))) == 0


def flipped(message):
    for bit in range(len(message) * 8):
        changed = bytearray(message)
        changed[bit // 8] ^= 0x80 >> bit % 8
        yield bit, bytes(changed)


def forgiven_bits(message, way, version):
    """Those whose change is not noticed."""
    forgiven = []
    for bit, changed in flipped(message):
        try:
            parse(changed, version=version, hop_limit=255, **way)
        except BadAdvertisement:
            continue
        forgiven.append(bit)
    return forgiven


ONE_BIT = {1 << bit for bit in range(16)}
SHORT_TWOS = advertisements(2, V4).map(lambda two: replace(two, addresses=two.addresses[:3]))


@given(SHORT_TWOS | SIXES)
def test_no_bit_changes_unnoticed(advertisement):
    way = TO_GROUP if advertisement.version == 2 else TO_GROUP_V6
    message = build(advertisement, **way)
    assert forgiven_bits(message, way, advertisement.version) == []


@given(THREES, V4, st.booleans())
def test_no_bit_changes_unnoticed_where_there_are_two_checksums(advertisement, source, checksum_as_v2):
    message = build(advertisement, source=source, destination=GROUP_V4, checksum_as_v2=checksum_as_v2)
    difference = rfc1071(pseudo(message, source))
    assume(difference not in ONE_BIT and 0xFFFF - difference not in ONE_BIT)
    way = {"source": source, "destination": GROUP_V4}
    assert forgiven_bits(message, way, 3) == []


def test_the_price_of_two_checksums():
    message = build(THREE, **TO_GROUP)
    # With a source that makes the pseudo-header add up to 1.
    rest = 0xE000 + 0x0012 + 112 + len(message) + 0x0A00
    way = {"source": b"\x0a\0" + struct.pack("!H", 0x10000 - rest), "destination": GROUP_V4}
    message = build(THREE, **way)
    assert rfc1071(pseudo(message, way["source"])) == 0xFFFE
    low_bits_of_words = {bit for bit in range(len(message) * 8) if bit % 16 == 15}
    assert forgiven_bits(message, way, 3)
    assert set(forgiven_bits(message, way, 3)) <= low_bits_of_words


ANYTHING = st.binary(max_size=80)
# Right in length and sum, so that what comes after those two is reached.
SOUND = st.builds(
    lambda first, fields, timing, vips, data: sealed(
        struct.pack("!B2sBHH", first, fields, len(vips), timing, 0) + b"".join(vips) + (data if first == 0x21 else b"")
    ),
    st.sampled_from([0x21, 0x31]),
    st.binary(min_size=2, max_size=2),
    st.integers(0, 3) | st.integers(0x0100, 0x0103) | st.integers(0, 0xFFFF),
    st.lists(V4, max_size=3) | st.lists(V6, max_size=3),
    st.sampled_from([bytes(8), b"mypasswd"]) | st.binary(min_size=8, max_size=8),
)
CAUSES = {
    "packet_len_err",
    "ip_ttl_err",
    "version_err",
    "invalid_authtype",
    "authtype_mismatch",
    "auth_failure",
    "invalid_type_rcvd",
    "checksum_err",
    "vrid_err",
    "addr_list_err",
    "advert_interval_err",
    "source_err",
}


@given(
    ANYTHING | SOUND,
    st.sampled_from([2, 3]),
    st.sampled_from([TO_GROUP, TO_GROUP_V6, {"source": THEIRS, "destination": OURS}]),
    st.sampled_from([255, 255, 64]),
    st.sampled_from([None, b"", b"mypasswd"]),
    st.booleans(),
)
def test_any_octets_are_an_advertisement_or_refused(message, version, way, hop_limit, password, is_unicast):
    here = {"version": version, "hop_limit": hop_limit, "password": password, "is_unicast": is_unicast, **way}
    try:
        read = parse(message, **here)
    except BadAdvertisement as refusal:
        assert refusal.cause in CAUSES
        assert refusal.why
    else:
        # What is believed can be said again, and means the same.
        assert parse(build(read, **way), **here) == read


@given(st.binary(max_size=100) | st.binary(max_size=60).map(ipv4))
def test_any_packet_has_a_payload_or_is_refused(packet):
    try:
        header, payload = take_ipv4_header(packet)
    except BadAdvertisement as refusal:
        assert refusal.cause in CAUSES
    else:
        assert (header.source, header.destination) == (packet[12:16], packet[16:20])
        assert payload in packet[20:]


@given(st.sampled_from([v2(), v3(), v2(kind=1, data=b"mypasswd")]).map(ipv4), st.data())
def test_no_packet_cut_short_is_believed(packet, data):
    end = data.draw(st.integers(0, len(packet) - 1))
    here = {"version": packet[20] >> 4, "password": b"mypasswd" if packet[24] == 1 else None}
    assert verdict(packet, **here) == "accepted"
    assert verdict(packet[:end], **here) == "packet_len_err"


def test_the_pseudo_header():
    assert pseudo_header(THEIRS, GROUP_V4, 112, 20) == octets("c0a80102 e0000012 00 70 0014")
    assert pseudo_header(THEIRS_V6, GROUP_V6, 58, 32) == THEIRS_V6 + GROUP_V6 + octets("00000020 000000 3a")
