"""Who the client is behind the proxies before us, and what the servers are told of it.

What a trusted proxy says in X-Forwarded-For and X-Forwarded-Proto is believed, and goes on with ours behind it. What
anybody else says of that kind is taken away, where there are trusted proxies at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Protocol

from balancer.config import forwarding, model
from balancer.proxy.format import NO_GROUPS, Subject, Template, compile_template
from balancer.proxy.match import Networks, plain_address
from balancer.wire.fields import field_values, with_fields, with_lines, without_fields
from balancer.wire.http1 import Section

__all__ = ["Forwarding", "Told"]

_FORWARDED_FOR = "X-Forwarded-For"
# What proxies say of clients; applications believe it by default, or are told to.
_OF_PROXIES = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix",
     b"x-forwarded-proto", b"x-forwarded-server", b"x-real-ip")
)  # fmt: skip
# Proxies in a row whose word is followed up.
_MOST_PROXIES = 32
# With a port, as some proxies write it.
_NODE = re.compile(rb"(?:\[([0-9A-Fa-f:.%]+)\]|([0-9.]+))(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")
# What of a name for a request may be taken over: it goes into the log, where it is to stand in braces.
_REQUEST_ID = re.compile(rb"[!#-z~]{1,128}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Told(Subject, Protocol):
    """An exchange that servers are told of."""

    is_trusted: bool
    """The request came from a trusted proxy."""


class Forwarding:
    """One frontend's."""

    def __init__(self, frontend: model.Frontend, networks: Networks) -> None:
        self.trusted = networks.bit(frontend.trusted_proxies or ())
        """The bit of the zones of trusted proxies."""
        self._strips = frontend.trusted_proxies is not None
        own = frontend.forwarded_for
        self._for = (own.header if own is not None else _FORWARDED_FOR).lower().encode()
        self._lines: list[tuple[bytes, bytes, Callable[[Told], bytes]]] = [
            (f"X-Forwarded-{what.title()}".encode(), f"x-forwarded-{what}".encode(), _X_FORWARDED[what])
            for what in (frontend.x_forwarded.headers if frontend.x_forwarded is not None else ())
        ]
        self._forwarded = _forwarded(frontend.forwarded) if frontend.forwarded is not None else None
        # Whose requests get none of them, and whether they may bring their own.
        self._x_except, self._x_if_none = _unless(frontend.x_forwarded, networks)
        self._except, self._if_none = _unless(frontend.forwarded, networks)
        self._id_header = self._id_lower = b""
        self._id: bytes | Template = b""
        if frontend.request_id is not None:
            self._id_header = frontend.request_id.header.encode()
            self._id_lower = _key(self._id_header)
            self._id = compile_template(frontend.request_id.format)
        self._stripped = _OF_PROXIES | {_key(self._for)} | ({self._id_lower} if self._id_lower else set())

    def received(self, section: Section) -> Section:
        """The fields of a request from nobody trusted as they are to be taken."""
        if not self._strips or not _holds(section, self._stripped):
            return section
        return with_fields(section, without_fields(section.end_to_end, self._stripped))

    def client(self, section: Section, host: str, is_trusted: Callable[[str], bool]) -> str:
        """The client's address, by the word of the trusted proxy at `host` and of those before it."""
        said = b",".join(field_values(section.fields, section.lower, self._for)).split(b",")
        for node in said[: -_MOST_PROXIES - 1 : -1]:
            match = _NODE.fullmatch(node.strip(b" \t"))
            try:
                address = ip_address((match[1] or match[2] or match[3]).decode()) if match is not None else None
            except ValueError:
                address = None
            if address is None:
                break
            host = plain_address(str(address))
            if not is_trusted(host):
                break
        return host

    @staticmethod
    def is_https(section: Section) -> bool | None:
        """Whether the trusted proxy that the request came from says that the client speaks TLS; None: it says nothing
        of it."""
        values = field_values(section.fields, section.lower, b"x-forwarded-proto")
        return values[-1].rpartition(b",")[2].strip(b" \t").lower() == b"https" if values else None

    def name(self, exchange: Told) -> bytes:
        """The request's name: a trusted proxy's, or a new one."""
        if not self._id_lower:
            return b""
        if exchange.is_trusted:
            section = exchange.asked.section
            said = field_values(section.fields, section.lower, self._id_header.lower())
            if len(said) == 1 and _REQUEST_ID.fullmatch(said[0]):
                return said[0]
        name = self._id if isinstance(self._id, bytes) else self._id(exchange, NO_GROUPS)
        return _NOT_IN_NAME.sub(b"", name)[:_LONGEST_NAME]

    def told(self, section: Section, exchange: Told, zone: int) -> Section:
        """The request's fields with what its server is told; `zone` is that of whom the connection is from."""
        names, lines = [], []
        may_bring = exchange.is_trusted or self._x_if_none
        for name, lower, value_of in () if zone & self._x_except else self._lines:
            if may_bring and field_values(section.fields, section.lower, lower):
                continue
            names.append(lower)
            value = value_of(exchange)
            if value:
                lines.append(b"%b: %b\r\n" % (name, value))
        if self._id_lower:
            names.append(self._id_lower)
            lines.append(b"%b: %b\r\n" % (self._id_header, exchange.request_id))
        if (
            self._forwarded is not None
            and not zone & self._except
            and not (self._if_none and field_values(section.fields, section.lower, b"forwarded"))
        ):
            lines.append(b"Forwarded: %b\r\n" % self._forwarded(exchange))
        if not lines and not names:
            return section
        if _holds(section, names):
            section = with_fields(section, without_fields(section.end_to_end, names))
        return with_lines(section, b"".join(lines))


_LONGEST_NAME = 128
_NOT_IN_NAME = re.compile(rb"[^!#-z~]")


def _key(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")


def _holds(section: Section, names: frozenset[bytes] | list[bytes]) -> bool:
    """Whether one of the fields may be there."""
    lower = section.lower.replace(b"_", b"-")
    return any(name in lower for name in names)


def _proto(exchange: Told) -> bytes:
    return b"https" if exchange.is_https else b"http"


def _port(exchange: Told) -> bytes:
    there = exchange.endpoints()[1]
    return b"%d" % there[1] if there is not None and there[0] else b""


_X_FORWARDED: dict[str, Callable[[Told], bytes]] = {
    "proto": _proto,
    "port": _port,
    "host": lambda exchange: exchange.asked.section.host,
}


def _unless(own: forwarding.Forwarded | forwarding.XForwarded | None, networks: Networks) -> tuple[int, bool]:
    """The bit of the zones that get none, and whether it is only for requests without."""
    return (networks.bit(own.exclude), own.if_none) if own is not None else (0, False)


def _forwarded(own: forwarding.Forwarded) -> Callable[[Told], bytes]:
    """The value of a Forwarded field (RFC 7239 section 4)."""

    def value(exchange: Told) -> bytes:
        here, there = exchange.endpoints()
        parts = []
        if own.for_ is not None:
            parts.append(f"for={_node(own.for_, here)}")
        if own.by is not None:
            parts.append(f"by={_node(own.by, there)}")
        host = exchange.asked.section.host.decode()
        if own.host and host:
            parts.append(f"host={_quoted(host)}")
        if own.proto:
            parts.append(f"proto={_proto(exchange).decode()}")
        return ";".join(parts).encode()

    return value


def _node(how: str, end: tuple[str, int] | None) -> str:
    """RFC 7239 section 6: an address, IPv6 in brackets, both these and ports quoted; or an identifier as it is."""
    if how.startswith("_"):
        return how
    if end is None or not end[0]:
        return "unknown"
    host = plain_address(end[0])
    host = f"[{host}]" if ":" in host else host
    return _quoted(f"{host}:{end[1]}" if how == "address_port" else host)


def _quoted(text: str) -> str:
    return text if _TOKEN.fullmatch(text) else f'"{text}"'
