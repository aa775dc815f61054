from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.errors import BadRequest
from balancer.wire.proxyproto import ProxyHeader, _crc32c, encode_v1, encode_v2, parse

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = ("192.0.2.1", 56324), ("198.51.100.7", 443)
V6 = ("2001:db8::1", 1), ("2001:db8::2", 65535)
V4_BLOCK = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack("!HH", 56324, 443)
V6_BLOCK = IPv6Address("2001:db8::1").packed + IPv6Address("2001:db8::2").packed + struct.pack("!HH", 1, 65535)


def v2(command: int, family: int, body: bytes = b"", size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if size is None else size) + body


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


GOOD = {
    "the specification's example": (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1", 56324),
    "tcp4 at its longest": (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255", 65535),
    "tcp4 at its shortest": (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "0.0.0.0", 0),
    "tcp6": (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", "2001:db8::1", 1),
    "tcp6 in upper case": (b"PROXY TCP6 2001:DB8:0:0:0:0:0:1 :: 1 2\r\n", "2001:db8::1", 1),
    "tcp6 at its longest": (
        b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b":".join([b"ffff"] * 8),) * 2),
        "ffff:" * 8,
        65535,
    ),
    "tcp6 mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n", "::ffff:192.0.2.1", 1),
    "unknown": (b"PROXY UNKNOWN\r\n", None, 0),
    "unknown with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None, 0),
    "unknown with anything": (b"PROXY UNKNOWN \0\xff  \r\n", None, 0),
    "unknown at its longest": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None, 0),
    "v2 tcp4": (v2(0x21, 0x11, V4_BLOCK), "192.0.2.1", 56324),
    "v2 tcp6": (v2(0x21, 0x21, V6_BLOCK), "2001:db8::1", 1),
    "v2 mapped": (v2(0x21, 0x21, IPv6Address("::ffff:1.2.3.4").packed * 2 + b"\0\1\0\2"), "::ffff:1.2.3.4", 1),
    "v2 with TLVs": (v2(0x21, 0x11, V4_BLOCK + tlv(4, b"") + tlv(2, b"example.org")), "192.0.2.1", 56324),
    "v2 with an empty TLV at the end": (v2(0x21, 0x11, V4_BLOCK + tlv(4, b"")), "192.0.2.1", 56324),
    "v2 at its longest": (v2(0x21, 0x11, V4_BLOCK + tlv(4, bytes(4096 - 16 - 12 - 3))), "192.0.2.1", 56324),
    "v2 local": (v2(0x20, 0x00), None, 0),
    "v2 local with addresses": (v2(0x20, 0x11, V4_BLOCK), None, 0),
    "v2 local with nonsense": (v2(0x20, 0xFF, b"nonsense"), None, 0),
    "v2 unspec": (v2(0x21, 0x00), None, 0),
    "v2 unspec with addresses of its own": (v2(0x21, 0x00, b"whatever"), None, 0),
    "v2 inet, protocol unspec": (v2(0x21, 0x10, V4_BLOCK), None, 0),
    "v2 udp": (v2(0x21, 0x12, V4_BLOCK), None, 0),
    "v2 udp over IPv6": (v2(0x21, 0x22, V6_BLOCK), None, 0),
    "v2 unix": (v2(0x21, 0x31, bytes(216)), None, 0),
    "v2 unix datagram with a TLV": (v2(0x21, 0x32, bytes(216) + tlv(4, b"x")), None, 0),
}

BAD = {
    "http": b"GET / HTTP/1.1\r\n",
    "tls": b"\x16\x03\x01",
    "lower case": b"proxy",
    "proxy without a space": b"PROXY\r\n",
    "no family": b"PROXY  TCP4",
    "tcp5": b"PROXY TCP5",
    "udp4": b"PROXY UDP4",
    "family in lower case": b"PROXY tcp4",
    "two spaces": b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
    "a tab": b"PROXY TCP4\t",
    "a space before the end": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
    "one address": b"PROXY TCP4 1.2.3.4 1 2\r\n",
    "no ports": b"PROXY TCP4 1.2.3.4 5.6.7.8\r\n",
    "one port": b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
    "nothing": b"PROXY TCP4\r\n",
    "port too high": b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
    "port with a zero in front": b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
    "port below zero": b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
    "port with a plus": b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
    "octet too high": b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
    "octet with a zero in front": b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
    "three octets": b"PROXY TCP4 1.2.345 5.6.7.8 1 2\r\n",
    "IPv6 as tcp4": b"PROXY TCP4 ::1 ::2 1 2\r\n",
    "IPv4 as tcp6": b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
    "a zone": b"PROXY TCP6 fe80::1%1",
    "two double colons": b"PROXY TCP6 1::2::3 ::1 1 2\r\n",
    "nine groups": b"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n",
    "LF alone": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    "CR alone": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rG",
    "unknown, LF alone": b"PROXY UNKNOWN\n",
    "unknown, CR inside": b"PROXY UNKNOWN a\rb\r\n",
    "unknown, more letters": b"PROXY UNKNOWNS",
    "unknown, too long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "no end of line": b"PROXY UNKNOWN " + b"x" * 93,
    "v2 signature broken": SIGNATURE[:11] + b"\r",
    "v2 version 1": SIGNATURE + b"\x11",
    "v2 version 3": SIGNATURE + b"\x31",
    "v2 command 2": SIGNATURE + b"\x22",
    "v2 family 4": SIGNATURE + b"\x21\x41",
    "v2 protocol 3": SIGNATURE + b"\x21\x13",
    "v2 too long": v2(0x21, 0x11, size=4081),
    "v2 local too long": v2(0x20, 0x00, size=0xFFFF),
    "v2 tcp4 cut short": v2(0x21, 0x11, size=11),
    "v2 tcp6 with IPv4 addresses": v2(0x21, 0x21, size=12),
    "v2 unix cut short": v2(0x21, 0x31, size=215),
    "v2 TLV without a length": v2(0x21, 0x11, V4_BLOCK + b"\x04\0"),
    "v2 TLV overruns by one": v2(0x21, 0x11, V4_BLOCK + tlv(4, b"") + b"\x04\0\x03ab"),
    "v2 TLV overruns into the data": v2(0x21, 0x11, V4_BLOCK + b"\x04\xff\xff") + bytes(70000),
    "v2 TLV overruns by its high octet": v2(0x21, 0x11, V4_BLOCK + b"\x04\x01\x00"),
    "v2 checksum wrong": v2(0x21, 0x11, V4_BLOCK + tlv(3, bytes(4))),
    "v2 TLS too short": v2(0x21, 0x11, V4_BLOCK + tlv(0x20, bytes(4))),
    "v2 checksum too short": v2(0x21, 0x11, V4_BLOCK + tlv(3, bytes(3))),
}


@pytest.mark.parametrize(("header", "source", "port"), GOOD.values(), ids=GOOD)
def test_a_header_is_read_with_all_that_follows_left_alone(header, source, port):
    expected = None if source is None else (source.rstrip(":") if "ffff:ffff" in source else source, port)
    for data in (header, header + b"GET / HTTP/1.1\r\n\r\n", header + b"\r\n", header * 2):
        assert parse(data)[:2] == (len(header), expected)


@pytest.mark.parametrize("header", [header for header, *_ in GOOD.values()], ids=GOOD)
def test_a_header_that_comes_octet_by_octet_is_waited_for(header):
    assert [parse(header[:end]) for end in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_header_is_refused(data):
    with pytest.raises(BadRequest):
        parse(data)


@pytest.mark.parametrize(
    ("data", "last_hope"),
    [
        (b"GET / HTTP/1.1\r\n", 0),
        (b"PRI * HTTP/2.0\r\n", 2),
        (b"\r\nGET / HTTP/1.1\r\n", 2),
        (b"PROXY UDP4 ", 7),
        (b"PROXY TCP4 evil", 11),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3", 30),
        (SIGNATURE + b"\x31\x11\0\0", 12),
        (SIGNATURE + b"\x21\x51\0\0", 13),
        (SIGNATURE + b"\x21\x11\xff\xff", 15),
    ],
)
def test_it_is_refused_at_the_first_octet_that_cannot_be(data, last_hope):
    assert parse(data[:last_hope]) is None
    with pytest.raises(BadRequest):
        parse(data[: last_hope + 1])


def test_what_is_waited_for_is_bounded():
    endless = [b"PROXY UNKNOWN " + b"x" * 10_000, v2(0x21, 0x11, V4_BLOCK + tlv(4, bytes(5000)))]
    for data in endless:
        with pytest.raises(BadRequest):
            for end in range(4097):
                parse(data[:end])


def test_both_ends_are_told():
    assert parse(encode_v1(*V4)) == ProxyHeader(45, *V4)
    assert parse(encode_v2(*V6)) == ProxyHeader(52, *V6)


def test_a_correct_checksum_is_accepted_and_any_changed_octet_found():
    assert _crc32c(b"123456789") == 0xE3069283  # CRC-32C's own check value
    blank = v2(0x21, 0x11, V4_BLOCK + tlv(5, b"unique") + tlv(3, bytes(4)) + tlv(4, b"pad"))
    at = blank.index(tlv(3, bytes(4))) + 3
    header = blank[:at] + _crc32c(blank).to_bytes(4, "big") + blank[at + 4 :]
    assert parse(header) == ProxyHeader(len(header), *V4)
    for position in [*range(16, 28), *range(at, at + 4), len(header) - 1]:
        with pytest.raises(BadRequest):
            parse(header[:position] + bytes([header[position] ^ 1]) + header[position + 1 :])


def test_a_checksum_as_haproxy_sends_it_is_right():
    tlvs = b"\x03\x00\x04[3\x03\xc5" + tlv(5, b"127.0.0.1-37080")
    header = v2(0x21, 0x11, b"\x7f\0\0\1\x7f\0\0\1\x90\xd8\xc8\x03" + tlvs)
    assert parse(header) == ProxyHeader(len(header), ("127.0.0.1", 37080), ("127.0.0.1", 51203))


@pytest.mark.parametrize(
    ("ends", "line"),
    [
        (V4, b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"),
        (V6, b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n"),
        ((V4[0], V6[1]), b"PROXY TCP6 ::ffff:c000:201 2001:db8::2 56324 65535\r\n"),
        ((("::ffff:192.0.2.1", 1), ("::ffff:192.0.2.2", 2)), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        ((("::ffff:192.0.2.1", 1), ("192.0.2.2", 2)), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        ((("fe80::1%eth0", 1), ("fe80::2%eth0", 2)), b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"),
        ((None, V4[1]), b"PROXY UNKNOWN\r\n"),
        ((V4[0], None), b"PROXY UNKNOWN\r\n"),
        ((None, None), b"PROXY UNKNOWN\r\n"),
    ],
)
def test_the_line_that_is_sent(ends, line):
    assert encode_v1(*ends) == line


@pytest.mark.parametrize(
    ("ends", "header"),
    [
        (V4, v2(0x21, 0x11, V4_BLOCK)),
        (V6, v2(0x21, 0x21, V6_BLOCK)),
        (
            (V4[0], V6[1]),
            v2(0x21, 0x21, bytes(10) + b"\xff\xff\xc0\0\2\1" + V6_BLOCK[16:32] + struct.pack("!HH", 56324, 65535)),
        ),
        ((("::ffff:192.0.2.1", 56324), ("::ffff:198.51.100.7", 443)), v2(0x21, 0x11, V4_BLOCK)),
        ((None, V4[1]), v2(0x20, 0x00)),
        ((V4[0], None), v2(0x20, 0x00)),
    ],
)
def test_the_binary_header_that_is_sent(ends, header):
    assert encode_v2(*ends) == header


@pytest.mark.parametrize("encode", [encode_v1, encode_v2])
def test_what_is_no_address_is_not_sent(encode):
    with pytest.raises(ValueError, match=r"/run/app\.sock"):
        encode(("/run/app.sock", 0), V4[1])


PORTS = st.integers(0, 65535)
ENDS = st.tuples(st.ip_addresses(v=4).map(str), PORTS) | st.tuples(st.ip_addresses(v=6).map(str), PORTS)


@given(ENDS, ENDS, st.sampled_from([encode_v1, encode_v2]), st.binary(max_size=20))
def test_what_is_sent_is_understood(source, destination, encode, data):
    def plain(end):
        address = ip_address(end[0])
        return (getattr(address, "ipv4_mapped", None) or address), end[1]

    header = encode(source, destination)
    told = parse(header + data)
    assert told.size == len(header)
    assert [plain(told.source), plain(told.destination)] == [plain(source), plain(destination)]
    families = {type(ip_address(end[0])) for end in told[1:3]}
    assert families in ({IPv4Address}, {IPv6Address})


BEGINNINGS = (b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", SIGNATURE, SIGNATURE + b"\x21\x11\0")
ENDINGS = st.binary(max_size=300) | st.text("0123456789abcdef:. \r\n", max_size=100).map(str.encode)


@given(st.tuples(st.sampled_from(BEGINNINGS), ENDINGS).map(b"".join))
def test_any_octets_are_a_header_or_refused_or_not_enough(data):
    try:
        told = parse(data)
    except BadRequest as refusal:
        assert refusal.why
        assert refusal.status == 400
    else:
        assert told is None or 15 <= told.size <= len(data)


@given(st.data())
def test_no_split_changes_what_is_read(data):
    header, *_ = data.draw(st.sampled_from(list(GOOD.values())))
    position = data.draw(st.integers(0, len(header) - 1))
    stream = bytearray(header + b"rest")
    if data.draw(st.booleans()):
        stream[position] = data.draw(st.integers(0, 255))

    def verdict(octets):
        try:
            return parse(octets)
        except BadRequest:
            return "refused"

    whole = verdict(bytes(stream))
    verdicts = [verdict(bytes(stream[:end])) for end in range(len(stream) + 1)]
    decided = next((v for v in verdicts if v is not None), None)
    assert decided == whole
    # Once decided, more octets change nothing.
    assert all(v == whole for v in verdicts[verdicts.index(decided) :])


@pytest.mark.parametrize(
    ("tlvs", "is_tls"),
    [
        (b"", False),
        (tlv(0x20, b"\1" + bytes(4)), True),
        (tlv(0x20, b"\7" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"a client")), True),
        (tlv(4, b"x") + tlv(0x20, b"\6" + bytes(4)), False),
        (tlv(0x20, b"\1" + bytes(4)) + tlv(0x20, bytes(5)), True),
    ],
)
def test_whether_the_client_speaks_tls(tlvs: bytes, is_tls: bool) -> None:
    for header in (v2(0x21, 0x11, V4_BLOCK + tlvs), v2(0x21, 0x31, bytes(216) + tlvs)):
        parsed = parse(header)
        assert parsed is not None and parsed.is_tls is is_tls
    # What the balancer in between says of itself is nothing of the client.
    local = parse(v2(0x20, 0x11, V4_BLOCK + tlvs))
    assert local is not None and not local.is_tls
