"""DNS messages as far as a forwarder must understand them: the header and the first question.

Nothing behind the first question is read: whatever stands there is passed on as it came.
"""

from __future__ import annotations

__all__ = ["HEADER", "is_answer", "qname", "question_end", "question_text", "servfail"]

HEADER = 12
"""Octets of a header (RFC 1035 section 4.1.1)."""

# A name has at most 255 octets with its closing zero (RFC 1035 section 2.3.4), so that zero is here or earlier.
_LAST_OF_NAME = HEADER + 254
_LONGEST_LABEL = 63

_QR = 0x80
_OPCODE = 0x78
_UPDATE = 5 << 3
_RD = 0x01
_CD = 0x10
_NOERROR, _SERVFAIL, _NXDOMAIN = 0, 2, 3

# An OPT record's fixed part (RFC 6891 section 6.1): root name, type 41, payload size, rcode, version, flags, length.
_OPT = b"\0\0\x29"
_OPT_SIZE = 11
# The size that crosses nearly every path in one piece (DNS Flag Day 2020); it counts for what is sent to us.
_PAYLOAD = (1232).to_bytes(2, "big")

_CLASSES = {1: "", 3: "CH ", 4: "HS ", 254: "NONE ", 255: "ANY "}
# IANA's registry "Resource Record (RR) TYPEs"; a type not here is written as in RFC 3597 section 5.
_TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 17: "RP", 18: "AFSDB",
    24: "SIG", 25: "KEY", 28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 36: "KX", 37: "CERT", 39: "DNAME",
    41: "OPT", 42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 49: "DHCID",
    50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA", 55: "HIP", 59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY",
    62: "CSYNC", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 99: "SPF", 108: "EUI48", 109: "EUI64", 249: "TKEY",
    250: "TSIG", 251: "IXFR", 252: "AXFR", 253: "MAILB", 254: "MAILA", 255: "ANY", 256: "URI", 257: "CAA",
}  # fmt: skip


def question_end(message: bytes) -> int:
    """Where the first question of a query ends; 0 when this is no well-formed query.

    Refused are answers (QR set), messages without a question, a name over 255 octets, labels over 63,
    compression pointers (nothing stands before the first name that one could point to) and what is cut short.
    """
    size = len(message)
    if size < HEADER or message[2] & _QR or not (message[5] or message[4]):
        return 0
    at = HEADER
    try:
        while length := message[at]:
            at += length + 1
            if length > _LONGEST_LABEL or at > _LAST_OF_NAME:
                return 0
    except IndexError:
        return 0
    at += 5
    return at if at <= size else 0


def is_answer(message: bytes, query: bytes, end: int) -> bool:
    """Whether `message` answers `query`, whose first question ends at `end`. The ids are not compared.

    The question must be the same; letters in its name may differ in case (RFC 4343). An answer without
    any question is taken when it carries an error other than NXDOMAIN (servers answer so to what they
    refuse or do not understand) or when it answers an UPDATE (RFC 2136 section 3.8).
    """
    if len(message) < HEADER or not message[2] & _QR:
        return False
    if message[5] == query[5] and message[4] == query[4]:
        return message[HEADER:end] == query[HEADER:end] or (
            # Type and class do not fold: 0x41 is no letter there.
            message[end - 4 : end] == query[end - 4 : end]
            and message[HEADER : end - 4].lower() == query[HEADER : end - 4].lower()
        )
    if message[4] or message[5]:
        return False
    return message[3] & 0x0F not in (_NOERROR, _NXDOMAIN) or query[2] & _OPCODE == _UPDATE


def qname(query: bytes, end: int) -> bytes:
    """The first question's name in wire format, in lower case: equal names are equal octets (RFC 4343)."""
    # The octets before labels are at most 63 and so never a capital letter.
    return query[HEADER : end - 4].lower()


def servfail(query: bytes, end: int) -> bytes:
    """The answer SERVFAIL to `query`, whose first question ends at `end`; never longer than the query.

    RD and CD are copied (RFC 1035 section 4.1.1, RFC 4035 section 3.2.2). A query with EDNS gets EDNS back
    (RFC 6891 section 6.1.1) with its DO bit (RFC 3225 section 3), if its OPT is the first record after the question.
    """
    flags = bytes((_QR | query[2] & (_OPCODE | _RD), query[3] & _CD | _SERVFAIL))
    opt = query[end : end + _OPT_SIZE]
    has_opt = query[4:10] == b"\0\1\0\0\0\0" and query[10:12] != b"\0\0"
    if has_opt and opt.startswith(_OPT) and len(opt) == _OPT_SIZE:
        record = _OPT + _PAYLOAD + b"\0\0" + bytes((opt[7] & 0x80, 0, 0, 0))
        return query[:2] + flags + b"\0\1\0\0\0\0\0\1" + query[HEADER:end] + record
    return query[:2] + flags + b"\0\1\0\0\0\0\0\0" + query[HEADER:end]


def question_text(query: bytes, end: int) -> str:
    """The first question as text, `www.example.org. AAAA`: printable ASCII without spaces in the name.

    Octets other than letters, digits, hyphen and underscore are escaped (RFC 1035 section 5.1, RFC 4343 section 2.1).
    """
    labels = []
    at = HEADER
    while length := query[at]:
        labels.append("".join(map(_character, query[at + 1 : at + 1 + length])))
        at += length + 1
    kind = int.from_bytes(query[end - 4 : end - 2], "big")
    family = int.from_bytes(query[end - 2 : end], "big")
    name = ".".join((*labels, "")) or "."
    return f"{name} {_CLASSES.get(family, f'CLASS{family} ')}{_TYPES.get(kind, f'TYPE{kind}')}"


_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_*/")


def _character(octet: int) -> str:
    return chr(octet) if octet in _PLAIN else f"\\{octet:03}"
