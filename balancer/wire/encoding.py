"""Content codings (RFC 9110 section 8.4): which one a client takes, what may be encoded, how its head changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from balancer.wire.fields import field_values, with_fields, with_lines, without_fields
from balancer.wire.http1 import CHUNKED, TOKEN, Response, Section

__all__ = [
    "ETAG", "Types", "accepted", "can_encode", "encoded", "list_members", "negotiate", "normal", "varied", "weakened",
    "weights",
]  # fmt: skip

ETAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*+"')
"""An entity tag (RFC 9110 section 8.8.3)."""

# RFC 9110 section 12.5.3: codings with their weights (section 12.4.2).
_MEMBER = re.compile(rb"(" + TOKEN + rb"++)(?:[ \t]*+;[ \t]*+[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")
# RFC 9110 section 8.4.1.3.
_ALIASES = {b"x-gzip": b"gzip", b"x-compress": b"compress"}
_LISTED = re.compile(rb'(?:[^",]++|"(?:[^"\\]++|\\.)*+"|")++')
# Clients send a handful of different values, and long ones nobody needs to remember.
_LONGEST_KNOWN = 256
# HAProxy's: 204 and 304 have no content, 206 has a part of it.
_STATUSES = frozenset((200, 201, 202, 203))
# Describe the content as it came (RFC 9530), or promise parts of it.
_NO_LONGER_TRUE = frozenset(
    (b"accept-ranges", b"content-digest", b"content-encoding", b"content-length", b"content-md5", b"digest", b"etag",
     b"repr-digest", b"transfer-encoding")
)  # fmt: skip
_FRAMING = b"Transfer-Encoding: chunked\r\n"
_VARY = b"Vary: Accept-Encoding\r\n"
_WHOLE = 1000


def list_members(values: Sequence[bytes]) -> list[bytes]:
    """The members of a list field that stands in these lines (RFC 9110 section 5.6.1). A comma within quotes ends no
    member."""
    return [member for value in values for part in _LISTED.findall(value) if (member := part.strip(b" \t"))]


def weights(value: bytes) -> dict[bytes, int]:
    """Codings in lower case with their weights in thousandths, of Accept-Encoding's lines joined by commas. One that is
    listed twice counts as the less wanted, and one with an invalid weight as unwanted."""
    found: dict[bytes, int] = {}
    for member in value.split(b","):
        member = member.strip(b" \t")
        match = _MEMBER.match(member)
        if match is None:
            continue
        coding = match[1].lower()
        coding = _ALIASES.get(coding, coding)
        weight = 0 if match.end() != len(member) else _WHOLE if match[2] is None else _thousandths(match[2])
        found[coding] = min(weight, found.get(coding, _WHOLE))
    return found


def _thousandths(digits: bytes) -> int:
    whole, _, fraction = digits.partition(b".")
    return _WHOLE if whole == b"1" else int(fraction.ljust(3, b"0"))


def negotiate(value: bytes, offered: tuple[bytes, ...]) -> bytes | None:
    """Which of `offered`, the best first, a client wants most; None to send the content as it is. `value` is
    Accept-Encoding's lines joined by commas: without any, there is nothing to be gained by guessing."""
    return _negotiate(value, offered) if len(value) <= _LONGEST_KNOWN else _chosen(value, offered)


def _chosen(value: bytes, offered: tuple[bytes, ...]) -> bytes | None:
    wanted = weights(value)
    rest = wanted.get(b"*", 0)
    best, most = None, 0
    for coding in offered:
        weight = wanted.get(coding, rest)
        if weight > most:
            best, most = coding, weight
    return best if most >= wanted.get(b"identity", 0) else None


_negotiate = lru_cache(maxsize=512)(_chosen)


def normal(value: bytes) -> bytes:
    """The same for all values of Accept-Encoding that mean the same."""
    return b",".join(sorted(b"%b;%d" % member for member in weights(value).items()))


class Types:
    """Media types: `text/html`, or `text/*` for all of a kind."""

    __slots__ = ("_exact", "_kinds")

    def __init__(self, types: Sequence[str]) -> None:
        self._exact = frozenset(each.lower().encode() for each in types)
        self._kinds = frozenset(each[:-1] for each in self._exact if each.endswith(b"/*"))

    def holds(self, value: bytes) -> bool:
        """Whether a Content-Type is of these."""
        kind = value.partition(b";")[0].strip(b" \t").lower()
        if kind.startswith(b"multipart/"):
            # RFC 2046 section 5.1: parts with heads of their own, which clients take apart as they come.
            return False
        return kind in self._exact or (bool(self._kinds) and kind[: kind.find(b"/") + 1] in self._kinds)


def can_encode(response: Response, types: Types, least: int) -> bool:
    """Whether the content may be encoded on the way, by HAProxy's rules (`compression` in its manual). `least`: fewer
    octets are not worth it."""
    body = response.body
    if response.status not in _STATUSES or not response.minor or not (body == CHUNKED or body >= least):
        return False
    fields, lower = response.fields, response.lower
    if b"content-encoding:" in lower or b"content-range:" in lower:
        return False
    kinds = field_values(fields, lower, b"content-type")
    if len(kinds) != 1 or not types.holds(kinds[0]):
        return False
    # RFC 9111 section 5.2.2.6.
    if b"no-transform" in lower and b"no-transform" in list_members(field_values(lower, lower, b"cache-control")):
        return False
    tags = field_values(fields, lower, b"etag")
    return not tags or (len(tags) == 1 and ETAG.fullmatch(tags[0]) is not None)


def encoded(response: Response, coding: bytes, length: int = CHUNKED) -> Response:
    """The head as it is with its content in `coding`, of so many octets. The entity tag becomes a weak one (RFC 9110
    section 8.8.1): the content is the same in meaning only."""
    kept = without_fields(response.end_to_end, _NO_LONGER_TRUE)
    tags = field_values(response.fields, response.lower, b"etag")
    if tags:
        kept += b"ETag: %b\r\n" % (tags[0] if tags[0].startswith(b"W/") else b"W/" + tags[0])
    framing = _FRAMING if length == CHUNKED else b"Content-Length: %d\r\n" % length
    head = with_fields(response, kept + b"Content-Encoding: %b\r\n" % coding + framing)
    head.body = length
    return varied(head)


def varied(response: Response) -> Response:
    """The response, saying that it depends on Accept-Encoding (RFC 9110 section 12.5.5)."""
    lower = response.lower
    named = list_members(field_values(lower, lower, b"vary"))
    return response if b"accept-encoding" in named or b"*" in named else with_lines(response, _VARY)


def weakened(response: Response, section: Section) -> Response:
    """A 304 with the weak entity tag by which the client knows the content that it has, where that was encoded here: of
    a strong one it would not know that it is the same (RFC 9111 section 4.3.4)."""
    tags = field_values(response.fields, response.lower, b"etag")
    if len(tags) != 1 or not tags[0].startswith(b'"'):
        return response
    weak = b"W/" + tags[0]
    known = list_members(field_values(section.fields, section.lower, b"if-none-match"))
    if weak not in known or tags[0] in known:
        return response
    return with_fields(response, without_fields(response.end_to_end, (b"etag",)) + b"ETag: %b\r\n" % weak)


def accepted(section: Section) -> bytes:
    """Accept-Encoding's lines joined by commas; empty without any."""
    values = field_values(section.fields, section.lower, b"accept-encoding")
    return values[0] if len(values) == 1 else b",".join(values)
