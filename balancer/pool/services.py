"""What the process `kernel` tells of its services: addresses that clients come to, and how each server does."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

__all__ = ["Counts", "Listing", "ServiceFacts", "TargetFacts", "decode", "encode"]


class Counts(NamedTuple):
    """Totals, or how fast they grow (per second). None: not known."""

    flows: int | None = 0
    packets_in: int | None = 0
    """To the server."""
    packets_out: int | None = 0
    octets_in: int | None = 0
    octets_out: int | None = 0


class TargetFacts(NamedTuple):
    """A server that a service is spread over."""

    name: str
    address: str
    """IP address, or the path of a Unix socket."""
    port: int
    weight: int
    active: int
    inactive: int
    totals: Counts
    rate: Counts


class ServiceFacts(NamedTuple):
    """An address that clients come to."""

    protocol: str
    """tcp or udp."""
    address: str
    """IP address or path."""
    port: int
    balance: str
    is_consistent: bool
    """`hash_type: consistent`."""
    persistence: float | None
    """Seconds."""
    is_per_query: bool
    forwarding: str
    """masquerading of any kind: Masq; the user-space proxy: Proxy."""
    targets: tuple[TargetFacts, ...]


class Listing(NamedTuple):
    """All of them at one moment."""

    services: tuple[ServiceFacts, ...] = ()
    size: int = 0
    """Connections that the kernel's table holds at most."""
    trouble: str = ""
    """Why the rules are not as they should be; empty where they are."""


def encode(listing: Listing) -> bytes:
    """As JSON."""
    return json.dumps(listing, separators=(",", ":")).encode()


def decode(octets: bytes) -> Listing:
    """ValueError where it is none."""
    try:
        services, size, trouble = json.loads(octets)
        return Listing(tuple(_service(each) for each in services), int(size), str(trouble))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no list of services: {error}") from None


def _service(given: list[Any]) -> ServiceFacts:
    *own, targets = given
    return ServiceFacts._make((*own, tuple(_target(each) for each in targets)))


def _target(given: list[Any]) -> TargetFacts:
    *own, totals, rate = given
    return TargetFacts._make((*own, Counts(*totals), Counts(*rate)))
