"""Keys for server names that are resolved again while it runs: `resolvers`, and what servers say of theirs."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from balancer.addr import Address, parse_address
from balancer.config import units
from balancer.config.kinds import ADDRESS_PATTERN, Count, Duration, DurationOrOff, Name
from balancer.config.tree import Finding, Loc
from balancer.config.values import Model, OneOrMany, Unit, Whole
from balancer.config.words import did_you_mean, printable, shown

__all__ = [
    "DEFAULT",
    "NONE",
    "Hold",
    "NameServer",
    "Resolution",
    "ResolveTimeouts",
    "Resolvers",
    "ServerEndpoint",
    "Template",
    "check_resolution",
    "check_resolvers",
]

DEFAULT = "default"
"""The section that is always there: the name servers of resolv.conf(5)."""
NONE = "none"
"""In place of a section's name: resolved at start and at reload only."""
_DNS_PORT = 53
_TCP = "tcp@"


class NameServer(NamedTuple):
    """Where one answers, and whether it is asked over TCP alone."""

    address: Address
    is_tcp: bool = False


def _name_server(value: Any) -> str:
    """`192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1`, `[2001:db8::1]:5353`; tcp@ before it: over TCP alone."""
    if not isinstance(value, str) or len(value) > 100 or not value.isprintable():
        raise ValueError(f"{shown(value)} is no name server; write an IP address, with a port where that is not 53")
    text = value.removeprefix(_TCP)
    try:
        host, port = str(ipaddress.ip_address(text)), _DNS_PORT
    except ValueError:
        try:
            address = parse_address(text)
        except ValueError:
            address = Address("", 0, "-")
        if address.path or address.is_name or address.is_wildcard:
            raise ValueError(
                f"{shown(value)} is no name server; write an IP address, with a port where that is not 53"
            ) from None
        host, port = address.host, address.port
    return f"{_TCP if text != value else ''}{Address(host, port)}"


def _server_endpoint(value: Any) -> Address:
    """Where a server is; `_http._tcp.example.org` names SRV records."""
    if isinstance(value, str) and value.startswith("_") and ":" not in value:
        return Address(units.endpoint(f"{value}:1").host, 0)
    return units.endpoint(value)


def _first_address(value: Any) -> str:
    if value in ("last", "libc", "none"):
        return str(value)
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{shown(value)} is not allowed; write last, libc, none or an IP address") from None


ServerEndpoint = Annotated[
    Address, Unit(_server_endpoint, {"type": "string", "pattern": f"{ADDRESS_PATTERN[:-1]}|^_[^:]+$"})
]
_NameServerText = Annotated[str, Unit(_name_server, {"type": "string", "pattern": "^(?:tcp@)?[0-9a-fA-F.:%\\[\\]]+$"})]
_FirstAddress = Annotated[
    str, Unit(_first_address, {"anyOf": [{"enum": ["last", "libc", "none"]}, {"type": "string", "format": "ip"}]})
]


_Option = Literal["allow-dup-ip", "ignore-weight", "prevent-dup-ip"]


class ResolveTimeouts(Model):
    """How long to wait."""

    resolve: Duration = 1.0
    """Between two queries for the same name at least, however short the TTL of its records."""
    retry: Duration = 1.0
    """For an answer, before the next name server is asked."""


class Hold(Model):
    """How long what is known of a name holds."""

    valid: Duration = 300.0
    """An answer holds for its TTL, and at most so long: then the name is asked for again."""
    obsolete: DurationOrOff = 0.0
    """A record that answers do not have any more goes after this time. Where a name has more records than there are in
    an answer, longer than it takes to see them all."""
    nx: DurationOrOff = 30.0
    """Of a name that does not exist, or has no address, the last addresses are kept for so long."""
    timeout: DurationOrOff | None = None
    """The same where no name server answers. Default: until one does."""
    refused: DurationOrOff | None = None
    """The same where they refuse to."""
    other: DurationOrOff | None = None
    """The same after other errors (SERVFAIL, an answer that makes no sense)."""


class Resolvers(Model):
    """Name servers, and how they are asked (HAProxy's `resolvers` section)."""

    nameservers: dict[Name, _NameServerText] = {}
    """Name to IP address, with a port where that is not 53; tcp@ before it: over TCP alone. Each name is asked for at
    the one that answered last, then at the next."""
    parse_resolv_conf: bool | None = None
    """The name servers of /etc/resolv.conf, after those. Default: where there are no others."""
    resolve_retries: Count = 3
    """How often a query is sent before it has failed."""
    timeout: ResolveTimeouts = ResolveTimeouts()
    """How long to wait."""
    hold: Hold = Hold()
    """How long what is known of a name holds."""
    accepted_payload_size: Annotated[int, Whole(512, 65535)] = 1232
    """Octets of an answer over UDP (EDNS0); a longer one is asked for over TCP."""

    @property
    def is_of_host(self) -> bool:
        """Whether /etc/resolv.conf is read."""
        return self.parse_resolv_conf if self.parse_resolv_conf is not None else not self.nameservers

    @property
    def written(self) -> dict[str, NameServer]:
        """Those that are named."""
        return {
            name: NameServer(parse_address(text.removeprefix(_TCP)), text.startswith(_TCP))
            for name, text in self.nameservers.items()
        }


class Resolution(Model):
    """How names of servers are resolved; what a server does not say is its backend's, then that of `defaults`."""

    resolvers: Name | None = None
    """Its name is resolved again while it runs, by this section of `resolvers` (default: the name servers of
    /etc/resolv.conf); none: at start and at reload only, which is the default."""
    resolve_prefer: Literal["ipv4", "ipv6"] | None = None
    """Which addresses of a name are used where there are both. Default: ipv6 if this host has a way there."""
    resolve_opts: Annotated[tuple[_Option, ...], OneOrMany()] | None = None
    """allow-dup-ip: servers of one name may share an address; ignore-weight: SRV records do not change weights."""
    init_addr: Annotated[tuple[_FirstAddress, ...], Field(min_length=1), OneOrMany()] | None = None
    """Its address until the first answer, the first of these that there is: last (before the restart), libc (by the
    host's resolver), none, or an IP address. Default: last, libc."""


class Template(Model):
    """What makes servers of a template."""

    prefix: Name
    """Its servers are called so, with a number from 1 on: app1, app2, …"""
    count: Annotated[int, Whole(1, 10_000)]
    """How many there may be. Those that the name has no record for are in maintenance."""


def check_resolvers(sections: Mapping[str, Resolvers]) -> Iterator[Finding]:
    """What is wrong with the sections."""
    for name, section in sections.items():
        if name == NONE:
            text = "cannot be called none, which stands for no such section; call it otherwise"
            yield Finding(("resolvers", name), text, "key")
        if not section.nameservers and not section.is_of_host:
            text = "has nobody to ask; give nameservers, or parse_resolv_conf: true"
            yield Finding(("resolvers", name), text, "key")


def check_resolution(loc: Loc, own: Resolution, sections: Collection[str]) -> Iterator[Finding]:
    """What is wrong with what a server, a backend or `defaults` says."""
    if own.resolvers is not None and own.resolvers not in (DEFAULT, NONE, *sections):
        names = [*sections, *({DEFAULT, NONE} - set(sections))]
        some = ", ".join(map(printable, sorted(names)[:10]))
        text = f"there are no resolvers {own.resolvers!r}; there are {some}{did_you_mean(own.resolvers, names)}"
        yield Finding((*loc, "resolvers"), text)
