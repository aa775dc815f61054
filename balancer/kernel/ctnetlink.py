"""What the kernel's table of connections says and is told, octet by octet: ctnetlink. Pure.

A dump of 100 000 entries is 24 MB of messages, so they are read by their shape: where a message has what is wanted is
found out once for each length that messages have, and from then on one `struct` reads those of that length. It reads
the attributes' headers too: a message that has others there is of another shape, and read attribute by attribute.

linux/netlink.h, linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_common.h, nf_conntrack_tcp.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

__all__ = [
    "ACTIVE",
    "AT_DESTINATION_PORT",
    "AT_STATUS",
    "COUNTED",
    "DESTINATION_TRANSLATED",
    "DST",
    "NUMBERS",
    "SRC",
    "TIMED",
    "TOLD",
    "End",
    "Entry",
    "Flow",
    "Shape",
    "Shapes",
    "attribute",
    "build",
    "deletion",
    "numbers",
    "of_processors",
    "of_table",
    "packed",
    "packed_end",
    "parse",
    "split",
    "translated",
    "untranslated",
    "what_happened",
]

End = tuple[str, int]
"""IP address and port."""

# Subsystem 1 of nfnetlink, and what is asked of it.
_NEW, _GET, _DELETE, _GET_STATS_CPU, _GET_STATS = 0x100, 0x101, 0x102, 0x104, 0x105
_ERROR, _DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMEOUT = 1, 2, 3, 4, 7
_COUNTERS_ORIG, _COUNTERS_REPLY, _ID, _ZONE, _FILTER, _STATUS_MASK = 9, 10, 12, 18, 25, 26
_TIMESTAMP, _TIMESTAMP_EVENT = 20, 27
_IP, _PROTO = 1, 2
SRC, DST = {4: 1, 6: 3}, {4: 2, 6: 4}
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_TCP, _TCP_STATE = 1, 1
_PACKETS, _OCTETS = 1, 2
_BEGAN, _ENDED = 1, 2
_FILTER_ORIG, _FILTER_REPLY = 1, 2
# Not by an address of IPv6: ctnetlink_filter_match_tuple (6.18 too) tells all but those asked for.
_BY_SRC, _BY_DST, _BY_PROTO, _BY_SRC_PORT, _BY_DST_PORT = {4: 0x1, 6: 0}, {4: 0x2, 6: 0}, 0x8, 0x10, 0x20
# Attributes of the numbers of the whole table, and of those of each processor.
_STATS_ENTRIES, _STATS_MAXIMUM = 1, 2
_STATS_DROP, _STATS_EARLY_DROP = 10, 11
_IPS_ASSURED, _IPS_DST_NAT = 0x4, 0x20

# struct nlmsghdr with struct nfgenmsg, struct nlattr.
_HEADER = struct.Struct("=IHHIIBBH")
_KIND = struct.Struct("=IH")
_RESULT = struct.Struct("=I4xi")
_FLAGS = struct.Struct("=I")
_ATTRIBUTE = struct.Struct("=HH")
_AT_SEQUENCE = 8
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NUMBERS = {"tcp": bytes([socket.IPPROTO_TCP]), "udp": bytes([socket.IPPROTO_UDP])}
# enum tcp_conntrack, in the words of conntrack(8).
_STATES = (
    *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"),
    "SYN_SENT2",
)
# As IPVS has it: tcp_state_active_table in net/netfilter/ipvs/ip_vs_proto_tcp.c.
ACTIVE = {"SYN_SENT", "SYN_RECV", "ESTABLISHED", "SYN_SENT2"}


class Flow(NamedTuple):
    """One connection that was sent to a server."""

    protocol: Literal["tcp", "udp"]
    client: End
    service: End
    """Where the client thinks it is connected to."""
    server: End
    state: str
    """TCP: conntrack(8)'s word, such as ESTABLISHED. UDP: empty."""
    timeout: int
    """Seconds until it is forgotten, if no packet comes."""
    packets_in: int
    """From the client. 0, as those below, where the kernel did not count when it began (nf_conntrack_acct)."""
    octets_in: int
    packets_out: int
    octets_out: int


Path = tuple[int, ...]


class Entry(NamedTuple):
    """Values of attributes as they are in a message; b"" for what it has not."""

    address: bytes
    number: bytes
    port: bytes
    server: bytes
    server_port: bytes
    status: bytes
    zone: bytes
    state: bytes
    client: bytes = b""
    client_port: bytes = b""
    timeout: bytes = b""
    packets_in: bytes = b""
    octets_in: bytes = b""
    packets_out: bytes = b""
    octets_out: bytes = b""
    began: bytes = b""
    ended: bytes = b""
    happened: bytes = b""

    @property
    def is_assured(self) -> bool:
        """TCP: it was established. UDP: both sides have sent, and for more than two seconds."""
        return bool(int.from_bytes(self.status, "big") & _IPS_ASSURED)

    @property
    def is_translated(self) -> bool:
        """Did a rule change where it goes? In a zone there are none of ours."""
        return not self.zone and bool(int.from_bytes(self.status, "big") & _IPS_DST_NAT)

    @property
    def protocol(self) -> Literal["tcp", "udp"]:
        return "tcp" if self.number == NUMBERS["tcp"] else "udp"

    @property
    def word(self) -> str:
        """Its state, "" for what is not TCP."""
        if not self.state:
            return ""
        return _STATES[self.state[0]] if self.state[0] < len(_STATES) else str(self.state[0])

    @property
    def target(self) -> End:
        """The server."""
        return _end(self.server, self.server_port)

    @property
    def flow(self) -> Flow:
        """For those who are not the kernel."""
        return Flow(
            self.protocol,
            _end(self.client, self.client_port),
            _end(self.address, self.port),
            self.target,
            self.word,
            int.from_bytes(self.timeout, "big"),
            int.from_bytes(self.packets_in, "big"),
            int.from_bytes(self.octets_in, "big"),
            int.from_bytes(self.packets_out, "big"),
            int.from_bytes(self.octets_out, "big"),
        )


AT_STATUS: Path = (_STATUS,)
AT_DESTINATION_PORT: Path = (_TUPLE_ORIG, _PROTO, _DST_PORT)
DESTINATION_TRANSLATED = _IPS_DST_NAT
"""A bit of the status."""

# In the order of Entry, by IP version.
COUNTED: dict[int, tuple[Path, ...]] = {
    family: (
        (_TUPLE_ORIG, _IP, DST[family]),
        (_TUPLE_ORIG, _PROTO, _PROTO_NUM),
        (_TUPLE_ORIG, _PROTO, _DST_PORT),
        (_TUPLE_REPLY, _IP, SRC[family]),
        (_TUPLE_REPLY, _PROTO, _SRC_PORT),
        (_STATUS,),
        (_ZONE,),
        (_PROTOINFO, _TCP, _TCP_STATE),
    )
    for family in FAMILIES
}
TOLD: dict[int, tuple[Path, ...]] = {
    family: (
        *COUNTED[family],
        (_TUPLE_ORIG, _IP, SRC[family]),
        (_TUPLE_ORIG, _PROTO, _SRC_PORT),
        (_TIMEOUT,),
        (_COUNTERS_ORIG, _PACKETS),
        (_COUNTERS_ORIG, _OCTETS),
        (_COUNTERS_REPLY, _PACKETS),
        (_COUNTERS_REPLY, _OCTETS),
    )
    for family in FAMILIES
}
# Events: and when (nanoseconds of Unix time).
TIMED: dict[int, tuple[Path, ...]] = {
    family: (*TOLD[family], (_TIMESTAMP, _BEGAN), (_TIMESTAMP, _ENDED), (_TIMESTAMP_EVENT,)) for family in FAMILIES
}


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def packed_end(end: End) -> tuple[bytes, bytes]:
    return packed(end[0]), end[1].to_bytes(2, "big")


def _end(address: bytes, port: bytes) -> End:
    family = socket.AF_INET6 if len(address) == 16 else socket.AF_INET
    return socket.inet_ntop(family, address), int.from_bytes(port, "big")


def _attributes(message: bytes, start: int, end: int, above: Path = ()) -> Iterator[tuple[Path, slice]]:
    """Where the values of all attributes are, a nest before what is in it."""
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        if not _ATTRIBUTE.size <= length <= end - start:
            return
        path = *above, kind & _NLA_TYPE_MASK
        yield path, slice(start + _ATTRIBUTE.size, start + length)
        if kind & _NLA_F_NESTED:
            yield from _attributes(message, start + _ATTRIBUTE.size, start + length, path)
        start += (length + 3) & ~3


def _places(message: bytes) -> dict[Path, slice]:
    return dict(_attributes(message, _HEADER.size, len(message)))


def parse(message: bytes, wanted: tuple[Path, ...]) -> Entry:
    """Read a message of any shape; `wanted` is COUNTED, TOLD or TIMED of its family."""
    places = _places(message)
    return Entry(*[message[places[path]] if path in places else b"" for path in wanted])


class Shape:
    """Where messages of one length have what is wanted, learnt of one of them."""

    def __init__(self, message: bytes, wanted: tuple[Path, ...]) -> None:
        places = _places(message)
        present = sorted(
            (places[path].start, places[path].stop, index) for index, path in enumerate(wanted) if path in places
        )
        layout, at = ["="], 0
        for start, stop, _ in present:
            begin = start - _ATTRIBUTE.size
            layout.append(f"{begin - at}x{stop - begin}s")
            at = stop
        self.read = struct.Struct("".join(layout)).unpack_from
        """The wanted attributes with their headers, as they lie in a message."""
        self._headers = [octets[: _ATTRIBUTE.size] for octets in self.read(message)]
        self._indexes = [index for _, _, index in present]
        self._nothing = [b""] * len(wanted)
        self.tally: dict[tuple[bytes, ...], int] = {}
        """How often what was read."""

    def entry(self, read: tuple[bytes, ...]) -> Entry | None:
        """None: that was a message of another shape."""
        values = self._nothing.copy()
        for index, header, octets in zip(self._indexes, self._headers, read, strict=True):
            if octets[: _ATTRIBUTE.size] != header:
                return None
            values[index] = octets[_ATTRIBUTE.size :]
        return Entry(*values)


class Shapes(dict[int, Shape]):
    """By the length of messages."""

    def __init__(self, wanted: tuple[Path, ...]) -> None:
        super().__init__()
        self.wanted = wanted

    def of(self, chunk: bytes, at: int, length: int) -> Shape:
        """The one for a message that is in `chunk`."""
        shape = self.get(length)
        if shape is None:
            shape = self[length] = Shape(chunk[at : at + length], self.wanted)
        return shape


def build(kind: int, family: int, body: bytes, *, flags: int = 0, sequence: int = 0) -> bytes:
    """A request to nfnetlink; `family` is 4, 6 or 0."""
    number = FAMILIES[family] if family else socket.AF_UNSPEC
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, sequence, 0, number, 0, 0) + body


def attribute(kind: int, value: bytes, *, is_nest: bool = False) -> bytes:
    header = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind | (_NLA_F_NESTED if is_nest else 0))
    return header + value + bytes(-len(value) % 4)


def translated(
    family: int,
    number: bytes = b"",
    server: tuple[bytes, bytes] | None = None,
    service: tuple[bytes, bytes] | None = None,
) -> bytes:
    """Ask for the connections whose destination was translated, of one server and of one service if given.

    Before Linux 5.8 nothing but the family limits what is told.
    """
    bit = _IPS_DST_NAT.to_bytes(4, "big")
    body = attribute(_STATUS, bit) + attribute(_STATUS_MASK, bit)
    filters = b""
    if service is not None:
        by = _BY_DST[family] | _BY_PROTO | _BY_DST_PORT
        body += _tuple(_TUPLE_ORIG, DST[family], service[0], number, _DST_PORT, service[1])
        filters += attribute(_FILTER_ORIG, _FLAGS.pack(by))
    if server is not None:
        by = _BY_SRC[family] | _BY_PROTO | _BY_SRC_PORT
        body += _tuple(_TUPLE_REPLY, SRC[family], server[0], number, _SRC_PORT, server[1])
        filters += attribute(_FILTER_REPLY, _FLAGS.pack(by))
    if filters:
        body += attribute(_FILTER, filters, is_nest=True)
    return build(_GET, family, body, flags=_NLM_F_DUMP)


def untranslated(family: int, number: bytes) -> bytes:
    """Ask for those of a protocol whose destination was left as it is. Before Linux 5.8 others are told too."""
    bit = _IPS_DST_NAT.to_bytes(4, "big")
    body = attribute(_STATUS, bytes(4)) + attribute(_STATUS_MASK, bit)
    nest = attribute(_PROTO, attribute(_PROTO_NUM, number), is_nest=True)
    body += attribute(_TUPLE_ORIG, nest, is_nest=True)
    body += attribute(_FILTER, attribute(_FILTER_ORIG, _FLAGS.pack(_BY_PROTO)), is_nest=True)
    return build(_GET, family, body, flags=_NLM_F_DUMP)


def _tuple(kind: int, which: int, address: bytes, number: bytes, which_port: int, port: bytes) -> bytes:
    """One end of a connection."""
    protocol = attribute(_PROTO_NUM, number) + attribute(which_port, port)
    nests = attribute(_IP, attribute(which, address), is_nest=True) + attribute(_PROTO, protocol, is_nest=True)
    return attribute(kind, nests, is_nest=True)


def what_happened(message: bytes) -> tuple[bool, int] | None:
    """Of a message that nobody asked for: has a connection ended (else it began), and its IP version; None: neither."""
    _, kind, _, _, _, family, *_ = _HEADER.unpack_from(message)
    for version, number in FAMILIES.items():
        if number == family and kind in (_NEW, _DELETE):
            return kind == _DELETE, version
    return None


def of_table() -> bytes:
    """Ask for the numbers of the whole table: entries, and how many there may be."""
    return build(_GET_STATS, 0, b"", flags=_NLM_F_ACK)


def of_processors() -> bytes:
    """Ask for those that each processor counts: entries that gave way to others, packets dropped."""
    return build(_GET_STATS_CPU, 0, b"", flags=_NLM_F_DUMP)


def numbers(message: bytes) -> tuple[int, int] | None:
    """The two of an answer to one of these; None where they are not in it."""
    _, kind, *_ = _HEADER.unpack_from(message)
    wanted = (_STATS_EARLY_DROP, _STATS_DROP) if kind == _GET_STATS_CPU else (_STATS_ENTRIES, _STATS_MAXIMUM)
    found = {path[0]: int.from_bytes(message[place], "big") for path, place in _places(message).items()}
    first, second = map(found.get, wanted)
    return None if first is None or second is None else (first, second)


def deletion(message: bytes, family: int, sequence: int, *, is_last: bool) -> bytes:
    """An order to forget the connection of this message. Only a failure is answered, and the last.

    With the entry's number it cannot hit one that has taken its place. KeyError where the message has none, or no
    addresses: an order without any would be one to forget everything.
    """
    places = _places(message)
    body = b"".join(_raw(message, places[kind,]) for kind in (_TUPLE_ORIG, _ID))
    return build(_DELETE, family, body, flags=_NLM_F_ACK if is_last else 0, sequence=sequence)


def _raw(message: bytes, place: slice) -> bytes:
    """An attribute with its header and padding."""
    return message[place.start - _ATTRIBUTE.size : (place.stop + 3) & ~3]


def split(chunk: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """What came at once: where messages begin, with their lengths; results, with the sequence numbers of requests.

    A result is 0 or an errno(3) below it. After one there is nothing more, but for requests that were sent together.
    """
    messages, results = [], []
    at = 0
    while at < len(chunk):
        length, kind = _KIND.unpack_from(chunk, at)
        if kind in (_ERROR, _DONE):
            results.append(_RESULT.unpack_from(chunk, at + _AT_SEQUENCE))
        else:
            messages.append((at, length))
        at += (length + 3) & ~3
    return messages, results
