"""The PROXY protocol: a proxy names the client at the start of a connection.

The PROXY protocol, versions 1 and 2, https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt (the sections
named here are its own).
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from balancer.errors import BadRequest

__all__ = ["ProxyHeader", "encode_v1", "encode_v2", "parse"]

Endpoint = tuple[str, int]
_Ip = IPv4Address | IPv6Address

# Section 2.1: "PROXY UNKNOWN" with all optional fields at their longest, CRLF included.
_LONGEST_V1 = 107
# Ours, for the whole header: 16 bits would allow 64 KiB for each silent connection. TLS client certificates and
# the TLVs of the clouds take less than 2 KiB.
_LONGEST_V2 = 4096

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD = struct.Struct("!12sBBH")
_V2_IPV4 = struct.Struct("!4s4sHH")
_V2_IPV6 = struct.Struct("!16s16sHH")
_LOCAL, _PROXY = 0, 1
_UNIX_SIZE = 216
_STREAM = 1
_CRC32C = 3
# Section 2.2.6: a bit field that tells how the client is connected, the outcome of its certificate's check, TLVs.
_SSL = 0x20
_SSL_HEAD = 5
_CLIENT_SSL = 1

_PORT = rb"(0|[1-9][0-9]{0,4})"
_V1_IPV4 = re.compile(rb"PROXY TCP4 ([0-9.]{7,15}) ([0-9.]{7,15}) %b %b\r\n" % (_PORT, _PORT))
_V1_IPV6 = re.compile(rb"PROXY TCP6 ([0-9A-Fa-f:.]{2,45}) ([0-9A-Fa-f:.]{2,45}) %b %b\r\n" % (_PORT, _PORT))
# What may stand in a line that is not complete yet.
_V1_BEGUN = re.compile(
    rb"(TCP4 [0-9.]{0,15}( [0-9.]{0,15}%b)?|TCP6 [0-9A-Fa-f:.]{0,45}( [0-9A-Fa-f:.]{0,45}%b)?|UNKNOWN( [^\r\n]*)?)\r?"
    % ((rb"( [0-9]{0,5}( [0-9]{0,5})?)?",) * 2)
)
_V1_FAMILIES = (b"TCP4 ", b"TCP6 ", b"UNKNOWN")


class ProxyHeader(NamedTuple):
    """A header at the start of a connection, `size` octets long."""

    size: int
    source: Endpoint | None
    """The client's address and port. None where the header names none that fits here (UNKNOWN, LOCAL, AF_UNSPEC,
    AF_UNIX, datagrams): then the connection's own addresses count (sections 2.1 and 2.2)."""
    destination: Endpoint | None
    is_tls: bool = False
    """The client speaks TLS with the proxy that says so (section 2.2.6: PP2_TYPE_SSL)."""


def parse(data: bytes) -> ProxyHeader | None:
    """Read the header that `data` begins with; None while it is incomplete and could still become one.

    Raises BadRequest as soon as it cannot: other protocols at the first octet that differs, a line of
    more than 107 octets, a v2 header of more than 4096, unknown versions, commands, families and protocols,
    addresses cut short, TLVs that overrun the header, a wrong CRC32c.
    """
    if data.startswith(_V1):
        return _parse_v1(data)
    if data.startswith(_V2):
        return _parse_v2(data)
    if _V1.startswith(data) or _V2.startswith(data):
        return None
    raise BadRequest("no PROXY protocol header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _LONGEST_V1)
    if end < 0:
        rest = data[len(_V1) : _LONGEST_V1]
        if not _V1_BEGUN.fullmatch(rest) and not any(family.startswith(rest) for family in _V1_FAMILIES):
            raise BadRequest("PROXY v1: malformed line")
        if len(data) >= _LONGEST_V1:
            raise BadRequest(f"PROXY v1: no end of line in {_LONGEST_V1} octets")
        return None
    size = end + 2
    if match := _V1_IPV4.match(data):
        return ProxyHeader(size, *_endpoints_v1(IPv4Address, match))
    if match := _V1_IPV6.match(data):
        return ProxyHeader(size, *_endpoints_v1(IPv6Address, match))
    # Whatever follows UNKNOWN is to be ignored (section 2.1), but a CR or LF of its own ends no line.
    if data.startswith(b"UNKNOWN", len(_V1)) and _V1_BEGUN.fullmatch(data, len(_V1), end):
        return ProxyHeader(size, None, None)
    raise BadRequest("PROXY v1: malformed line")


def _endpoints_v1(address: type[_Ip], match: re.Match[bytes]) -> tuple[Endpoint, Endpoint]:
    try:
        source, destination = (_text(address(text.decode())) for text in match.group(1, 2))
    except ValueError as error:
        raise BadRequest(f"PROXY v1: {error}") from None
    source_port, destination_port = map(int, match.group(3, 4))
    if source_port > 0xFFFF or destination_port > 0xFFFF:
        raise BadRequest("PROXY v1: port above 65535")
    return (source, source_port), (destination, destination_port)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    # Each octet is judged as soon as it is there.
    version, command = divmod(data[12], 16) if len(data) > 12 else (2, _LOCAL)
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise BadRequest(f"PROXY v2: version {version}, command {command}")
    family, protocol = divmod(data[13], 16) if len(data) > 13 else (0, 0)
    # Of a LOCAL header all but the length is ignored.
    if command == _PROXY and (family > 3 or protocol > 2):
        raise BadRequest(f"PROXY v2: address family {family}, protocol {protocol}")
    if len(data) < _V2_HEAD.size:
        return None
    size = _V2_HEAD.size + int.from_bytes(data[14:16])
    known = command == _PROXY and protocol != 0
    addresses = (0, _V2_IPV4.size, _V2_IPV6.size, _UNIX_SIZE)[family] if known else 0
    if size > _LONGEST_V2:
        raise BadRequest(f"PROXY v2: {size} octets, more than {_LONGEST_V2}")
    if size < _V2_HEAD.size + addresses:
        raise BadRequest(f"PROXY v2: {size - _V2_HEAD.size} octets are too few for the addresses")
    if len(data) < size:
        return None
    if not addresses:
        return ProxyHeader(size, None, None)
    is_tls = _check_tlvs(data[:size], _V2_HEAD.size + addresses)
    # UDP cannot have come through a stream listener: taken as AF_UNSPEC, as section 2.2 allows.
    if protocol != _STREAM or addresses == _UNIX_SIZE:
        return ProxyHeader(size, None, None, is_tls)
    layout = _V2_IPV4 if family == 1 else _V2_IPV6
    address: type[_Ip] = IPv4Address if family == 1 else IPv6Address
    source, destination, source_port, destination_port = layout.unpack_from(data, _V2_HEAD.size)
    client, server = (_text(address(source)), source_port), (_text(address(destination)), destination_port)
    return ProxyHeader(size, client, server, is_tls)


def _check_tlvs(header: bytes, offset: int) -> bool:
    """The TLVs from `offset` to the end of the header (section 2.2): whole, and the checksum right if there is one.
    Whether the client speaks TLS."""
    is_tls = False
    while offset < len(header):
        value = offset + 3
        end = value + int.from_bytes(header[offset + 1 : value])
        if value > len(header) or end > len(header):
            raise BadRequest("PROXY v2: a TLV overruns the header")
        if header[offset] == _CRC32C:
            zeroed = header[:value] + bytes(end - value) + header[end:]
            if end - value != 4 or int.from_bytes(header[value:end]) != _crc32c(zeroed):
                raise BadRequest("PROXY v2: wrong CRC32c")
        elif header[offset] == _SSL:
            if end - value < _SSL_HEAD:
                raise BadRequest("PROXY v2: a TLV about TLS is too short")
            is_tls = is_tls or header[value] & _CLIENT_SSL != 0
        offset = end
    return is_tls


def encode_v1(source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """The line that names a client. None for either: `PROXY UNKNOWN`, the receiver keeps the real addresses.

    IPv4 and IPv6 mixed become IPv6, the IPv4 address mapped (RFC 4291 section 2.5.5.2); IPv4 on a dual-stack
    socket is named as IPv4. ValueError for what is no IP address.
    """
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    one, other = _of_one_family(source[0], destination[0])
    return f"PROXY TCP{one.version} {_groups(one)} {_groups(other)} {source[1]} {destination[1]}\r\n".encode()


def encode_v2(source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """The binary header that names a client. None for either: LOCAL, the receiver keeps the real addresses.
    Families and errors as in `encode_v1`."""
    if source is None or destination is None:
        return _V2_HEAD.pack(_V2, 0x20 | _LOCAL, 0, 0)
    one, other = _of_one_family(source[0], destination[0])
    family, layout = (0x10, _V2_IPV4) if one.version == 4 else (0x20, _V2_IPV6)
    head = _V2_HEAD.pack(_V2, 0x20 | _PROXY, family | _STREAM, layout.size)
    return head + layout.pack(one.packed, other.packed, source[1], destination[1])


def _of_one_family(source: str, destination: str) -> tuple[_Ip, _Ip]:
    one, other = _address(source), _address(destination)
    if one.version == other.version:
        return one, other
    return _mapped(one), _mapped(other)


def _address(host: str) -> _Ip:
    address = ip_address(host.partition("%")[0])
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _mapped(address: _Ip) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(0xFFFF << 32 | int(address))


def _text(address: _Ip) -> str:
    """As the operating system writes it: a mapped address with its IPv4 part in dots, in every Python."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(address)


def _groups(address: _Ip) -> str:
    """As section 2.1 wants it: IPv6 in groups of hexadecimal digits alone."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}" if mapped else str(address)


def _crc32c_table() -> list[int]:
    table = []
    for octet in range(256):
        for _ in range(8):
            octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
        table.append(octet)
    return table


_CRC32C_TABLE = _crc32c_table()


def _crc32c(data: bytes) -> int:
    """RFC 4960 appendix B."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ _CRC32C_TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF
