"""What a request's path means to those who serve it (RFC 3986 sections 2, 3.3 and 6.2.2).

`/a/../admin`, `//admin`, `/%61dmin` and `/admin;x` lead to `/admin` on some servers and elsewhere on others. Whoever
forbids a path must know all the ways in which it can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["canonical", "encoded", "readings"]

# What stands for itself in a path, whether written as it is or as %XX: unreserved characters, sub-delims but for the
# semicolon, colon and at (RFC 3986 section 3.3). %2F and %3B are not quite the same as a slash and a semicolon.
_ITSELF = rb"A-Za-z0-9\-._~!$&'()*+,=:@"
_PLAIN = re.compile(rb"(?:/(?!\.\.?(?:/|\Z))[%b]++)*/?" % _ITSELF)
_TO_ENCODE = re.compile(rb"%%([0-9A-Fa-f]{2})|[^%b/;]" % _ITSELF)
_IS_ITSELF = re.compile(rb"[%b]" % _ITSELF)
_SLASHES = re.compile(rb"//+")
_OTHER_SLASHES = re.compile(rb"%2F|%5C")
_PARAMETERS = re.compile(rb"(?:;|%3B)[^/]*")
_NUL = b"%00"


def encoded(path: bytes) -> bytes:
    """`path` with each octet written in one way: as itself or as %XX in upper case."""
    return _TO_ENCODE.sub(_encode, path)


def _encode(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        return b"%%%02X" % match[0][0]
    octet = bytes((int(match[1], 16),))
    return octet if _IS_ITSELF.fullmatch(octet) else b"%%%02X" % octet[0]


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
    return tuple(dict.fromkeys((canonical(path), *_readings(encoded(path)))))


def _readings(path: bytes) -> Iterator[bytes]:
    for whole in (path, path.partition(_NUL)[0]):
        for slashed in (whole, _OTHER_SLASHES.sub(b"/", whole)):
            for bare in (slashed, _PARAMETERS.sub(b"", slashed)):
                yield bare
                yield _without_dots(bare)
                yield _without_dots(_SLASHES.sub(b"/", bare))


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4."""
    if b"/." not in path:
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
