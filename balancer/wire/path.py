"""What a request's path means to those who serve it (RFC 3986 sections 2, 3.3 and 6.2.2).

`/a/../admin`, `//admin`, `/%61dmin` and `/admin;x` lead to `/admin` on some servers and elsewhere on others. Whoever
forbids a path must know all the ways in which it can be read.
"""

from __future__ import annotations

import re

__all__ = ["canonical", "encoded", "readings"]

# What stands for itself in a path, whether written as it is or as %XX: unreserved characters, sub-delims but for the
# semicolon, colon and at (RFC 3986 section 3.3). %2F and %3B are not quite the same as a slash and a semicolon.
_ITSELF = rb"A-Za-z0-9\-._~!$&'()*+,=:@"
_PLAIN = re.compile(rb"(?:/(?!\.\.?(?:/|\Z))[%b]++)*/?" % _ITSELF)
_TO_ENCODE = re.compile(rb"%%[0-9A-Fa-f]{2}|[^%b/;]" % _ITSELF)
_IS_ITSELF = re.compile(rb"[%b]" % _ITSELF)
_DIGITS = b"0123456789ABCDEFabcdef"
_OCTETS = [bytes((octet,)) for octet in range(256)]
# All that may be found to encode, and what it becomes.
_ENCODED = {octet: b"%%%02X" % octet[0] for octet in _OCTETS} | {
    b"%%%c%c" % (high, low): octet if _IS_ITSELF.fullmatch(octet) else b"%%%02X" % octet[0]
    for high in _DIGITS
    for low in _DIGITS
    for octet in [_OCTETS[int(bytes((high, low)), 16)]]
}
_SLASHES = re.compile(rb"//+")
_OTHER_SLASHES = re.compile(rb"%2F|%5C")
_PARAMETERS = re.compile(rb"(?:;|%3B)[^/]*")
_DOTS = re.compile(rb"/\.\.?(?:/|\Z)")
_NUL = b"%00"


def encoded(path: bytes) -> bytes:
    """`path` with each octet written in one way: as itself or as %XX in upper case."""
    return _TO_ENCODE.sub(lambda match: _ENCODED[match[0]], path)


def canonical(path: bytes) -> bytes:
    """The usual reading: each octet written in one way, one slash for several, dot segments resolved."""
    if _PLAIN.fullmatch(path):
        return path
    return _without_dots(_SLASHES.sub(b"/", encoded(path)))


def readings(path: bytes) -> tuple[bytes, ...]:
    """All that a server may make of `path`, the usual reading first.

    Several slashes may be one; dot segments may be resolved; %2F, %5C and a backslash may be slashes; what follows a
    semicolon (or %3B) in a segment may be left out; a path may end at %00.
    """
    if _PLAIN.fullmatch(path):
        return (path,)
    path = encoded(path)
    # What two ways have in common is followed up once: long paths are cheap to send.
    ways = {path: None, path.partition(_NUL)[0]: None}
    ways |= dict.fromkeys([_OTHER_SLASHES.sub(b"/", way) for way in ways])
    ways |= dict.fromkeys([_PARAMETERS.sub(b"", way) for way in ways])
    whole = {way: _SLASHES.sub(b"/", way) for way in ways}
    resolved = {way: _without_dots(way) for way in {**whole, **dict.fromkeys(whole.values())}}
    return tuple(dict.fromkeys((resolved[whole[path]], *ways, *resolved.values())))


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4."""
    if _DOTS.search(path) is None:
        return path
    segments = path.split(b"/")[1:]
    if segments[-1] in (b".", b".."):
        segments.append(b"")
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    return b"/" + b"/".join(kept)
