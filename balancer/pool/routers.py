"""What is true of the virtual routers here: told by the supervisor, which speaks VRRP, to whoever shows it.

    Standing ─┬─ RouterFacts, one for each instance ─── Term, the sum that gives its priority
              ├─ ScriptFacts
              └─ PeerFacts

Times are Unix time in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from balancer.pool.notice import Notice

__all__ = [
    "COUNTERS",
    "PeerFacts",
    "RouterFacts",
    "ScriptFacts",
    "Standing",
    "Term",
    "Trouble",
    "decode",
    "encode",
    "look",
    "post",
]

COUNTERS = (
    "advert_rcvd", "advert_sent", "become_master", "release_master", "packet_len_err", "advert_interval_err",
    "ip_ttl_err", "invalid_type_rcvd", "addr_list_err", "invalid_authtype", "authtype_mismatch", "auth_failure",
    "pri_zero_rcvd", "pri_zero_sent", "checksum_err", "version_err", "vrid_err", "source_err", "lower_priority_rcvd",
    "equal_priority_rcvd", "garp_sent", "address_lost",
)  # fmt: skip
"""What is counted of a virtual router: keepalived's names as far as it has one."""


class Term(NamedTuple):
    """One line of the sum that gives a priority."""

    what: str
    """`priority`, `interface eth1`, `script check`, `file load`, `backend web`, `workers`, `limit`, `owner`."""
    amount: int
    text: str
    """What was found, for a person."""
    is_fault: bool = False
    """It allows no priority at all."""


class Trouble(NamedTuple):
    """Something in the network that should not be, such as a second master."""

    text: str
    first: float
    last: float
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterFacts:
    """One virtual router."""

    name: str
    interface: str
    vrid: int
    version: int
    state: str
    """INIT, BACKUP, MASTER, FAULT or STOPPED."""
    since: float
    why: str
    """The reason of the last transition."""
    base_priority: int
    priority: int
    """In effect now."""
    addresses: tuple[str, ...]
    """With their prefix length."""
    source: str
    """The address that advertisements come from; empty while there is none."""
    master: str
    """Address of the master that is followed; empty: none is heard, or it is us."""
    master_priority: int
    interval: float
    """Seconds between the master's advertisements."""
    heard_from: str
    """Address of the other director whose advertisement came last, master or not; empty: none ever came."""
    heard_priority: int
    """What it said; 0: that it leaves."""
    heard: float | None
    """When."""
    group: str
    """Its sync group; empty: none."""
    released_until: float | None
    """Until then it leaves the addresses to others, by hand."""
    terms: tuple[Term, ...]
    counters: Mapping[str, int] = field(default_factory=dict)
    """By the names in `COUNTERS`."""
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFacts:
    """One check script."""

    name: str
    is_good: bool | None
    """None: not known yet."""
    text: str
    """How its last run ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFacts:
    """Another director, as its heartbeat tells."""

    address: str
    is_alive: bool
    node: str
    """Its name; empty before it was heard."""
    last: float | None
    """When it was last heard."""
    states: Mapping[str, str] = field(default_factory=dict)
    """The states of its instances, by our names for them."""
    servers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """How many servers of a backend it has up, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All of it at one moment."""

    at: float
    routers: tuple[RouterFacts, ...] = ()
    scripts: tuple[ScriptFacts, ...] = ()
    peers: tuple[PeerFacts, ...] = ()


def encode(standing: Standing) -> bytes:
    """As JSON, for another process of this host."""
    return json.dumps(asdict(standing), separators=(",", ":")).encode()


def post(standing: Standing, notice: Notice) -> None:
    """Tell it the other processes. Where there is no room for all of it, the least important is left out."""
    for less in (_whole, _without_sums, _without_servers, _names):
        octets = encode(less(standing))
        if len(octets) <= notice.longest:
            notice.write(octets)
            return


def _whole(standing: Standing) -> Standing:
    return standing


def _without_sums(standing: Standing) -> Standing:
    return replace(standing, routers=tuple(replace(each, terms=(), troubles=()) for each in standing.routers))


def _without_servers(standing: Standing) -> Standing:
    return replace(_without_sums(standing), peers=tuple(replace(each, servers={}) for each in standing.peers))


def _names(standing: Standing) -> Standing:
    """Texts of others' making may be of any length, addresses many."""
    return Standing(
        at=standing.at, routers=tuple(replace(each, addresses=(), why="") for each in _without_sums(standing).routers)
    )


def look(notice: Notice) -> Standing | None:
    """What was told last; None while nothing was, or nothing that makes sense."""
    octets = notice.read()
    if octets is None:
        return None
    try:
        return decode(octets)
    except (ValueError, KeyError, TypeError):
        return None


def decode(octets: bytes) -> Standing:
    """What `encode` made. ValueError, KeyError or TypeError for anything else."""
    data = json.loads(octets)
    return Standing(
        at=data["at"],
        routers=tuple(map(_router, data["routers"])),
        scripts=tuple(ScriptFacts(**each) for each in data["scripts"]),
        peers=tuple(map(_peer, data["peers"])),
    )


def _router(data: dict[str, Any]) -> RouterFacts:
    lists = {
        "addresses": tuple(data["addresses"]),
        "terms": tuple(Term(*each) for each in data["terms"]),
        "troubles": tuple(Trouble(*each) for each in data["troubles"]),
    }
    return RouterFacts(**data | lists)


def _peer(data: dict[str, Any]) -> PeerFacts:
    servers = {name: (up, all_) for name, (up, all_) in data["servers"].items()}
    return PeerFacts(**data | {"servers": servers})
