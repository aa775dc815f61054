"""The head of a message as it goes on to the other side (RFC 9110 section 7.6.1), and the cookies in it.

Field lines are only ever cut out or added at the end: what stays, stays octet for octet and in order.
"""

from __future__ import annotations

import re
from collections.abc import Container
from functools import lru_cache
from typing import Final

from balancer.wire.http1 import Request, Response, Section

__all__ = [
    "cookies",
    "find_cookie",
    "has_field",
    "is_cacheable",
    "request_head",
    "response_head",
    "sets_cookie",
    "strip_cookie",
    "strip_set_cookie",
    "take_cookie",
]


def request_head(request: Request, *, added: bytes = b"", fields: bytes | None = None, close: bool = False) -> bytes:
    """The request's head for the server: hop-by-hop fields out, `added` (complete lines) in.

    `fields` stands in for the request's end-to-end fields.
    `close` asks the server to close after its response. Proxy-Authorization goes on: it is not for us
    (RFC 9110 section 11.7.2). HTTP/1.0 without Host goes on as HTTP/1.0, since HTTP/1.1 requires one.
    """
    line, section = request.line, request.section
    if fields is None:
        fields = section.end_to_end
    if section.upgrade:
        added += b"connection: close, upgrade\r\n" if close else b"connection: upgrade\r\n"
        close = False
    if close:
        added += b"connection: close\r\n"
    if not section.host and not line.minor:
        return b"%b %b HTTP/1.0\r\n%b%b\r\n" % (line.method, line.target, fields, added)
    return b"".join((line.sent_on, fields, added, b"\r\n"))


def response_head(
    response: Response,
    *,
    added: bytes = b"",
    fields: bytes | None = None,
    keep_alive: bool,
    to_minor: int = 1,
    dechunk: bool = False,
) -> bytes:
    """The response's head for the client: hop-by-hop fields out, `added` (complete lines) in.

    `fields` stands in for `response.end_to_end`. `keep_alive` says whether the client's connection stays open,
    `to_minor` is the client's minor version; `dechunk` leaves out what announces chunks. HTTP/1.0 never sees
    Transfer-Encoding (RFC 9112 section 6.1), not even with a response to HEAD.
    """
    if fields is None:
        fields = response.end_to_end
    if response.upgrade:
        return b"".join((response.line, fields, added, b"connection: upgrade\r\n\r\n"))
    if dechunk or (not to_minor and has_field(response.lower, b"transfer-encoding")):
        fields = _without(fields, (b"transfer-encoding", b"trailer"))
    if not keep_alive:
        return b"".join((response.line, fields, added, b"connection: close\r\n\r\n"))
    if not to_minor:
        return b"".join((response.line, fields, added, b"connection: keep-alive\r\n\r\n"))
    return b"".join((response.line, fields, added, b"\r\n"))


def take_cookie(section: Section, name: bytes) -> tuple[bytes | None, bytes]:
    """A request's cookie `name` as by `find_cookie`, and its end-to-end fields without it."""
    taken = section.taken
    if taken is None or taken[0] != name:
        # Once for all requests with these fields: a client says the same again and again.
        value = find_cookie(section.fields, section.lower, name)
        others = section.end_to_end if value is None else strip_cookie(section.end_to_end, name)
        taken = section.taken = (name, value, others)
    return taken[1], taken[2]


def find_cookie(fields: bytes, lower: bytes, name: bytes) -> bytes | None:
    """Value of the first cookie `name` (case-sensitive), quotes included; None without one (RFC 6265 section 4.2)."""
    if name not in fields:
        return None
    plain = _plain_cookie(name)
    at = _cookie_field(lower, 0)
    while at:
        match = plain.match(fields, at)
        if match is not None:
            return match[1].strip(b" \t")
        end = fields.index(b"\r", at)
        if fields.find(b'"', at, end) >= 0:
            for pair in _pairs(fields[at:end]):
                if _name_of(pair) == name:
                    return pair.partition(b"=")[2].strip(b" \t")
        at = _cookie_field(lower, end)
    return None


def cookies(value: bytes, name: bytes) -> list[bytes]:
    """The values of the cookies `name` (case-sensitive) in a Cookie field's value, quotes included."""
    return [pair.partition(b"=")[2].strip(b" \t") for pair in _pairs(value) if _name_of(pair) == name]


def strip_cookie(fields: bytes, name: bytes) -> bytes:
    """`fields` without the cookies `name`; a Cookie line that held nothing else goes too.

    All other octets stay as they are (RFC 6265 section 4.2).
    """
    if name not in fields:
        return fields
    lower = fields.lower()
    pieces: list[bytes] = []
    since = 0
    at = _cookie_field(lower, 0)
    while at:
        end = fields.index(b"\r", at)
        pairs = _pairs(fields[at:end])
        kept = [pair for pair in pairs if name not in pair or _name_of(pair) != name]
        if len(kept) < len(pairs):
            rest = b";".join(kept)
            if rest.strip(b" \t;"):
                pieces += (fields[since:at], rest)
                since = end
            else:
                pieces.append(fields[since : at - len(b"cookie:")])
                since = end + 2
        at = _cookie_field(lower, end)
    pieces.append(fields[since:])
    return b"".join(pieces)


def sets_cookie(fields: bytes, name: bytes) -> bool:
    """Whether a Set-Cookie line sets the cookie `name` (case-sensitive)."""
    if name not in fields:
        return False
    return any(_is_set_cookie(line, name) for line in fields.splitlines(True))


def strip_set_cookie(fields: bytes, name: bytes) -> bytes:
    """`fields` without the Set-Cookie lines of the cookie `name`."""
    if name not in fields:
        return fields
    return b"".join([line for line in fields.splitlines(True) if not _is_set_cookie(line, name)])


def has_field(lower: bytes, name: bytes) -> bool:
    """Whether a field `name` (in lower case) stands in `lower`, the fields in lower case."""
    name += b":"
    return b"\n" + name in lower or lower.startswith(name)


def is_cacheable(method: bytes, response: Response) -> bool:
    """Whether a shared cache could store the response: HAProxy's notion, for the cookie's `nocache`.

    A safe method, a status that is cacheable by default (RFC 9110 section 15.1), no word against it in Pragma and
    Cache-Control, and either a lifetime or a validator.
    """
    if method not in _SAFE_METHODS or response.status not in _CACHEABLE_STATUSES:
        return False
    lower = response.lower
    if any(value.strip(b" \t") == b"no-cache" for value in _values(lower, b"pragma")):
        return False
    cacheable = True
    expires_at_once = has_lifetime = False
    for value in _values(lower, b"cache-control"):
        for directive in value.split(b","):
            directive = directive.strip(b" \t")
            word = directive.partition(b"=")[0]
            if directive == b"public":
                cacheable = True
            elif directive == b"max-age=0":
                expires_at_once = True
            elif directive == b'no-cache="set-cookie"':
                continue
            elif word in _NOT_IN_A_SHARED_CACHE or directive == b"s-maxage=0":
                cacheable = False
            elif word == b"s-maxage":
                has_lifetime = True
                expires_at_once = False
            elif word == b"max-age":
                has_lifetime = True
    if not cacheable or expires_at_once:
        return False
    return has_lifetime or any(has_field(lower, name) for name in (b"expires", b"etag", b"last-modified"))


_SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
_CACHEABLE_STATUSES: Final = frozenset((200, 203, 204, 206, 300, 301, 404, 405, 410, 414, 501))
_NOT_IN_A_SHARED_CACHE: Final = frozenset((b"private", b"no-cache", b"no-store"))

# One cookie with its value up to the semicolon; a semicolon in a quoted string does not end it, where the quote
# is closed and ends the value (RFC 2965 clients write these).
_PAIR: Final = re.compile(rb'(?:[^;="]*+=[ \t]*+"[^"\\]*+(?:\\.[^"\\]*+)*"[ \t]*+(?=;|\Z)|[^;]*+)')


def _without(fields: bytes, names: Container[bytes]) -> bytes:
    return b"".join([line for line in fields.splitlines(True) if line.partition(b":")[0].lower() not in names])


def _values(lower: bytes, name: bytes) -> list[bytes]:
    """The values of all lines of the field `name`, with the white space around them."""
    name += b":"
    if name not in lower:
        return []
    size = len(name)
    return [line[size:-2] for line in lower.splitlines(True) if line.startswith(name)]


def _cookie_field(lower: bytes, since: int) -> int:
    """Where the value of the next Cookie field from `since` on begins; 0 for none."""
    if not since and lower.startswith(b"cookie:"):
        return len(b"cookie:")
    at = lower.find(b"\ncookie:", since)
    return at + len(b"\ncookie:") if at >= 0 else 0


@lru_cache(maxsize=256)
def _plain_cookie(name: bytes) -> re.Pattern[bytes]:
    """The cookie `name` with no quote before or in it: there each semicolon ends a cookie."""
    return re.compile(rb'(?:[^;"\r]*+;)*?[ \t]*+' + re.escape(name) + rb'[ \t]*+=([^;"\r]*+)[;\r]')


def _pairs(value: bytes) -> list[bytes]:
    """What stands between the semicolons of a Cookie field; joined by semicolons it is the value again."""
    if b'"' not in value:
        return value.split(b";")
    pairs = []
    at = 0
    while True:
        match = _PAIR.match(value, at)
        assert match is not None
        pairs.append(match[0])
        at = match.end() + 1
        if at > len(value):
            return pairs


def _name_of(pair: bytes) -> bytes | None:
    name, equals, _ = pair.partition(b"=")
    return name.strip(b" \t") if equals else None


def _is_set_cookie(line: bytes, name: bytes) -> bool:
    return line[:11].lower() == b"set-cookie:" and _name_of(line[11:-2].partition(b";")[0]) == name
