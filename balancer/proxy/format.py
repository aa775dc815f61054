"""Text with variables, compiled: what is put into heads for each exchange."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Protocol

from balancer.config.format import Variable, parse
from balancer.pool.server import Server
from balancer.proxy.exchange import HttpBackend, HttpFrontend
from balancer.proxy.match import plain_address
from balancer.wire.fields import cookie_values, field_values, host_name, query_values
from balancer.wire.http1 import Request, Response
from balancer.wire.path import canonical

__all__ = ["NO_GROUPS", "Subject", "Template", "compile_template", "field_line"]

Groups = Sequence[bytes | None]
NO_GROUPS: Groups = ()

# What must never get into a head: RFC 9110 section 5.5 knows no control character in a value but the tab.
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# What is put into a URL as a host is one.
_HOST = re.compile(rb"[a-z0-9._~-]*")


class Subject(Protocol):
    """The exchange that a text is about."""

    frontend: HttpFrontend
    to: HttpBackend
    asked: Request
    """As it came, whatever rules made of it."""
    server: Server | None
    user: bytes
    """Who has logged in; empty if nobody had to."""
    source: tuple[str, int] | None
    """The client, by the word of trusted proxies."""
    is_https: bool
    """A trusted proxy said that the client speaks TLS."""
    request_id: bytes
    """The request's name; empty if it has none."""
    came: Response | None
    """The server's response as it came."""

    def endpoints(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """The client's address and the one it connected to."""


Template = Callable[[Subject, Groups], bytes]
"""The text for an exchange, with the groups of the expression beside it. It holds no control character."""


def compile_template(text: str) -> bytes | Template:
    """The octets of a text without variables; else a function."""
    parts = parse(text)
    if not any(isinstance(part, Variable) for part in parts):
        return "".join(map(str, parts)).encode()
    pieces = [part.encode() if isinstance(part, str) else _variable(part) for part in parts]

    def template(subject: Subject, groups: Groups) -> bytes:
        octets = b"".join([piece if isinstance(piece, bytes) else piece(subject, groups) for piece in pieces])
        return _CONTROL.sub(b"", octets)

    return template


def field_line(name: bytes, value: bytes | Template, subject: Subject) -> bytes:
    """A field's line."""
    return b"%b: %b\r\n" % (name, value if isinstance(value, bytes) else value(subject, NO_GROUPS))


def _variable(variable: Variable) -> Template:
    name = variable.name
    if name.isdigit():
        index = int(name) - 1
        return lambda _, groups: (groups[index] or b"") if index < len(groups) else b""
    if variable.argument:
        return _of_request(name, variable.argument.encode())
    return _PLAIN[name]


def _of_request(kind: str, argument: bytes) -> Template:
    """The first value of a header, cookie or parameter; nothing where there is none."""

    def values(subject: Subject) -> list[bytes]:
        section = subject.asked.section
        if kind == "header":
            return field_values(section.fields, section.lower, argument.lower())
        if kind == "cookie":
            return cookie_values(section.fields, section.lower, argument)
        return query_values(subject.asked.line.target, argument)

    return lambda subject, _: next(iter(values(subject)), b"")


def _address(end: tuple[str, int] | None) -> bytes:
    return plain_address(end[0]).encode() if end is not None and end[0] else b""


def _port(end: tuple[str, int] | None) -> bytes:
    return b"%d" % end[1] if end is not None and end[0] else b""


def _path(subject: Subject, _: Groups) -> bytes:
    path = canonical(subject.asked.line.target.partition(b"?")[0])
    return path if path.startswith(b"/") else b"/"


def _pathq(subject: Subject, groups: Groups) -> bytes:
    _, mark, query = subject.asked.line.target.partition(b"?")
    return _path(subject, groups) + mark + query


def _host(subject: Subject, _: Groups) -> bytes:
    host = host_name(subject.asked.section.host)
    if b":" in host:
        return b"[%b]" % host
    return host if _HOST.fullmatch(host) else b""


def _status(subject: Subject, _: Groups) -> bytes:
    return b"%d" % subject.came.status if subject.came is not None else b""


def _response_version(subject: Subject, _: Groups) -> bytes:
    return b"1.%d" % subject.came.minor if subject.came is not None else b""


_PLAIN: dict[str, Template] = {
    "src": lambda subject, _: _address(subject.source),
    "src_port": lambda subject, _: _port(subject.source),
    "dst": lambda subject, _: _address(subject.endpoints()[1]),
    "dst_port": lambda subject, _: _port(subject.endpoints()[1]),
    "host": _host,
    "method": lambda subject, _: subject.asked.line.method,
    "path": _path,
    "query": lambda subject, _: subject.asked.line.target.partition(b"?")[2],
    "pathq": _pathq,
    "frontend": lambda subject, _: subject.frontend.name.encode(),
    "backend": lambda subject, _: subject.to.backend.name.encode(),
    "server": lambda subject, _: subject.server.name.encode() if subject.server is not None else b"",
    "date": lambda subject, _: formatdate(subject.frontend.clock.wall, usegmt=True).encode(),
    "scheme": lambda subject, _: b"https" if subject.is_https else b"http",
    "req_ver": lambda subject, _: b"1.%d" % subject.asked.line.minor,
    "res_ver": _response_version,
    "status": _status,
    "request_id": lambda subject, _: subject.request_id,
    "uuid": lambda _, __: str(uuid.uuid4()).encode(),
    "user": lambda subject, _: subject.user,
    "timestamp": lambda subject, _: b"%d" % subject.frontend.clock.second,
}
