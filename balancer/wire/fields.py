"""What stands in a message's fields under a name: every value, since whoever looks must not miss the second one."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from balancer.wire.http1 import Response, Section
from balancer.wire.rewrite import cookies

__all__ = ["cookie_values", "field_values", "host_name", "query_values", "with_fields", "with_lines", "without_fields"]

_ESCAPED = re.compile(rb"%([0-9a-f]{2})")
_Head = TypeVar("_Head", Section, Response)
# What more is known of than its line.
_TELLING = re.compile(rb"(?:\A|\n)(?:host|cookie|set-cookie):")
_PORT = re.compile(rb":[0-9]*\Z")
# Longer than any name that there is (RFC 1035 section 2.3.4), with a port: such are not remembered.
_LONGEST_KNOWN: Final = 262


def field_values(fields: bytes, lower: bytes, name: bytes) -> list[bytes]:
    """The values of all lines of the field `name` (in lower case), without the white space around them. `lower` is
    `fields` in lower case."""
    name += b":"
    if name not in lower:
        return []
    values = []
    size = len(name)
    if lower.startswith(name):
        values.append(fields[size : fields.index(b"\r")].strip(b" \t"))
    name = b"\n" + name
    at = lower.find(name)
    while at >= 0:
        end = fields.index(b"\r", at)
        values.append(fields[at + 1 + size : end].strip(b" \t"))
        at = lower.find(name, end)
    return values


def without_fields(fields: bytes, names: Collection[bytes]) -> bytes:
    """The fields without the lines of `names` (in lower case). An underscore counts as a hyphen: CGI's successors hand
    both to an application under one name (RFC 3875 section 4.1.18)."""
    lines = fields.splitlines(True)
    return b"".join([line for line in lines if line[: line.index(b":")].lower().replace(b"_", b"-") not in names])


def _copied(of: _Head) -> _Head:
    # Any: all that mypyc knows is that it is one of the two.
    copied: Any = of.copy()
    head: _Head = copied
    return head


def with_lines(of: _Head, lines: bytes) -> _Head:
    """The same with further end-to-end fields at the end: `with_fields`, for less."""
    low = lines.lower()
    if _TELLING.search(low) is not None:
        return with_fields(of, of.end_to_end + lines)
    head = _copied(of)
    head.end_to_end += lines
    head.fields += lines
    head.lower += low
    head.lines += lines.count(b"\n")
    if isinstance(head, Section):
        head.taken = None
    else:
        head.start += lines
    return head


def with_fields(of: _Head, end_to_end: bytes) -> _Head:
    """A request's section or a response with other end-to-end fields, and none for this hop alone."""
    head = _copied(of)
    head.fields = head.end_to_end = end_to_end
    head.lower = lower = end_to_end.lower()
    head.lines = end_to_end.count(b"\n")
    head.plain = True
    head.hop_by_hop = ()
    if isinstance(head, Section):
        head.taken = None
        head.has_cookie = lower.startswith(b"cookie:") or b"\ncookie:" in lower
        hosts = field_values(end_to_end, lower, b"host")
        head.host = hosts[0].lower() if hosts else b""
    else:
        head.start = head.line + end_to_end
        head.sets_cookie = lower.startswith(b"set-cookie:") or b"\nset-cookie:" in lower
    return head


def cookie_values(fields: bytes, lower: bytes, name: bytes) -> list[bytes]:
    """The values of all cookies `name` (case-sensitive) of a request, without white space and quotes around them."""
    if name not in fields:
        return []
    found = [value for line in field_values(fields, lower, b"cookie") for value in cookies(line, name)]
    return [value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value for value in found]


def query_values(target: bytes, name: bytes) -> list[bytes]:
    """The values of all parameters `name` in a target's query, as a form writes them: %XX and + decoded."""
    query = target.partition(b"?")[2]
    if not query:
        return []
    values = []
    for parameter in query.split(b"&"):
        key, _, value = parameter.partition(b"=")
        if key == name or ((b"%" in key or b"+" in key) and _decoded(key) == name):
            values.append(_decoded(value))
    return values


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def host_name(authority: bytes) -> bytes:
    """The host of a Host field that came in lower case: without its port, the dot at its end and %XX, an IPv6 address
    in its usual form without brackets."""
    return _host_name(authority) if len(authority) <= _LONGEST_KNOWN else _host_name_of(authority)


def _host_name_of(authority: bytes) -> bytes:
    if authority.startswith(b"["):
        literal = authority[1 : authority.index(b"]")]
        try:
            return str(ip_address(literal.decode())).encode()
        except ValueError:
            return literal
    name = _PORT.sub(b"", authority)
    if b"%" in name:
        name = _ESCAPED.sub(lambda escaped: bytes((int(escaped[1], 16),)), name).lower()
    return name[:-1] if name.endswith(b".") else name


_host_name = lru_cache(maxsize=1024)(_host_name_of)
