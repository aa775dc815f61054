"""What servers are told of a client: `forwarded_for`, `forwarded`, `x_forwarded` and `request_id`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from balancer.config.kinds import ForwardedNode, Network, Template, Token
from balancer.config.values import Model, OneOrMany, Short

__all__ = ["Forwarded", "ForwardedFor", "RequestId", "XForwarded"]

_Told = Literal["proto", "port", "host"]
_SCHEMA = {"type": "string", "enum": ["proto", "port", "host"]}


class ForwardedFor(Model):
    """X-Forwarded-For (HAProxy's `option forwardfor`): a line of its own is added to each request."""

    header: Token = "X-Forwarded-For"
    """Name of the header."""
    exclude: Annotated[tuple[Network, ...], OneOrMany()] = Field((), alias="except")
    """Networks whose clients get no such line (they are proxies that added their own)."""
    if_none: bool = False
    """Only where the client sent none. Clients can then forge it."""


class Forwarded(Model):
    """Forwarded (RFC 7239; HAProxy's `option forwarded`)."""

    for_: ForwardedNode | None = Field("address", alias="for")
    """The client: address, address_port, or an obfuscated identifier (_NAME); null leaves it out."""
    by: ForwardedNode | None = None
    """Where it connected to: as `for`. Default: left out."""
    host: bool = False
    """The Host it asked for."""
    proto: bool = True
    """http, or https where the PROXY protocol or a trusted proxy said so."""
    exclude: Annotated[tuple[Network, ...], OneOrMany()] = Field((), alias="except")
    """Networks whose clients get no such line (they are proxies that added their own)."""
    if_none: bool = False
    """Only where the client sent none. Clients can then forge it."""


class _XForwarded(Model):
    """X-Forwarded-Proto, -Port and -Host, in place of what the client sent under these names."""

    headers: Annotated[tuple[_Told, ...], OneOrMany()]
    """proto (http, or https where the PROXY protocol or a trusted proxy said so), port (that the client connected to)
    or host (that it asked for); one or a list."""
    exclude: Annotated[tuple[Network, ...], OneOrMany()] = Field((), alias="except")
    """Networks whose clients' headers stay as they are (they are proxies that added their own)."""
    if_none: bool = False
    """Each only where the client sent none. Clients can then forge it."""


XForwarded = Annotated[
    _XForwarded,
    Short(
        "headers",
        (str, tuple),
        "proto, port or host, a list of them, or a mapping with headers, except and if_none",
        {"anyOf": [_SCHEMA, {"type": "array", "items": _SCHEMA}]},
    ),
]


class RequestId(Model):
    """A name for each request, for logs here and on the servers (HAProxy's `unique-id-header`)."""

    header: Token = "X-Request-ID"
    """Header in which servers get it; a trusted proxy's is kept."""
    format: Template = "%[uuid]"
    """Its text, with variables; %[uuid] is a random one."""
