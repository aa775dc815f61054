"""`pybalancer status --json`: what stands there for programs, with names that stay. Pure.

What is new gets a new name; a name that is there keeps its meaning. The types below are the documentation, and the
JSON schema that `pybalancer schema status` prints is made of them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, cast

from typing_extensions import TypedDict

from balancer.observe import routers
from balancer.terminal.picture import Backend, Check, Frontend, Picture, Server, Traffic

__all__ = ["Document", "Health", "document", "health", "schema"]

Health = Literal["ok", "degraded", "down"]
_VERSION: Literal[1] = 1


class TrafficFacts(TypedDict):
    """What was counted since the start, or since the counters were cleared."""

    sessions: int
    """At this moment; a server's are requests in flight (mode http)."""
    sessions_max: int
    sessions_limit: int | None
    """null: there is none."""
    sessions_total: int
    session_rate: int
    """In the last second."""
    session_rate_max: int
    requests_total: int | None
    """Of HTTP and UDP; null in mode tcp."""
    request_rate: int | None
    """In the last second; of frontends alone."""
    bytes_in: int
    bytes_out: int
    queue: int
    """Who waits for a place at the server."""
    queue_max: int
    errors_connection: int
    """Connections that could not be made."""
    errors_response: int
    """Responses that were none; of a frontend, requests that were none."""
    denied: int
    retries: int
    redispatches: int
    responses_5xx: int


class CheckFacts(TypedDict):
    """A server's last check."""

    status: str
    """L4OK, L4CON, L7STS, … as HAProxy has it; INI: none is through yet."""
    code: int | None
    """What the server answered on layer 7."""
    duration_ms: int | None
    description: str
    text: str
    """What the server or the system said of it; not to be trusted."""


class ServerFacts(TypedDict):
    """A server. Times are seconds."""

    name: str
    address: str
    status: str
    """UP, `UP 2/3` (going down), DOWN, `DOWN 1/2` (coming up), `no check`, DRAIN or MAINT."""
    takes_clients: bool
    since: int
    weight: int
    backup: bool
    cookie: str
    check: CheckFacts | None
    check_failures: int
    downs: int
    downtime: int
    last_session: int | None
    """Since the last one began."""
    traffic: TrafficFacts


class BackendFacts(TypedDict):
    """A backend. Times are seconds."""

    name: str
    mode: str
    balance: str
    status: str
    """UP or DOWN."""
    since: int
    weight: int
    active: int
    """Servers that get clients, or would but for the backups."""
    backup: int
    downs: int
    downtime: int
    traffic: TrafficFacts
    servers: list[ServerFacts]


class FrontendFacts(TypedDict):
    """A frontend."""

    name: str
    mode: str
    status: str
    """OPEN, FULL or STOP."""
    traffic: TrafficFacts


class Document(TypedDict):
    """The daemon at one moment."""

    version: Literal[1]
    """Of this document."""
    at: float
    """Unix time."""
    health: Health
    """down: a backend has no server; degraded: a server, a virtual router or another director is down."""
    pybalancer: str
    """Its version."""
    node: str
    description: str
    uptime: int
    """Seconds."""
    stopping: bool
    connections: int
    connections_max: int
    connection_rate: int
    request_rate: int
    frontends: list[FrontendFacts]
    backends: list[BackendFacts]
    vrrp: dict[str, Any] | None
    """As of `show vrrp json` at the runtime socket; null where there are no virtual routers."""


def health(seen: Picture, *, with_routers: bool = True) -> Health:
    """How it is. What an operator took out is not down, unless a backend is left without any."""
    if any(each.status == "DOWN" for each in seen.backends):
        return "down"
    standing = seen.routers if with_routers else None
    is_worse = any(each.is_down for each in seen.servers)
    if standing is not None:
        is_worse |= routers.is_stale(standing, seen.at)
        is_worse |= any(each.state == "FAULT" for each in standing.routers)
        is_worse |= any(not each.is_alive for each in standing.peers)
    return "degraded" if is_worse else "ok"


def document(seen: Picture, *, with_routers: bool = True) -> Document:
    """The same for programs."""
    return {
        "version": _VERSION,
        "at": round(seen.at, 3),
        "health": health(seen, with_routers=with_routers),
        "pybalancer": seen.version,
        "node": seen.node,
        "description": seen.description,
        "uptime": seen.uptime,
        "stopping": seen.is_stopping,
        "connections": seen.connections,
        "connections_max": seen.connections_max,
        "connection_rate": seen.connection_rate,
        "request_rate": seen.request_rate,
        "frontends": [_frontend(each) for each in seen.frontends],
        "backends": [_backend(each) for each in seen.backends],
        "vrrp": asdict(seen.routers) if seen.routers is not None and with_routers else None,
    }


def schema() -> dict[str, Any]:
    """JSON schema of a `Document`, draft 2020-12, with the words that stand here."""
    # Nobody else here has use for the library.
    from pydantic import TypeAdapter

    for kind in (TrafficFacts, CheckFacts, ServerFacts, BackendFacts, FrontendFacts, Document):
        setattr(kind, "__pydantic_config__", {"use_attribute_docstrings": True})  # noqa: B010 (a type has no such name)
    made = TypeAdapter(Document).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "pybalancer status"}


def _frontend(of: Frontend) -> FrontendFacts:
    return {"name": of.name, "mode": of.mode, "status": of.status, "traffic": _traffic(of.traffic)}


def _backend(of: Backend) -> BackendFacts:
    return {
        "name": of.name,
        "mode": of.mode,
        "balance": of.balance,
        "status": of.status,
        "since": of.since,
        "weight": of.weight,
        "active": of.active,
        "backup": of.backup,
        "downs": of.downs,
        "downtime": of.downtime,
        "traffic": _traffic(of.traffic),
        "servers": [_server(each) for each in of.servers],
    }


def _server(of: Server) -> ServerFacts:
    return {
        "name": of.name,
        "address": of.address,
        "status": of.status,
        "takes_clients": of.takes_clients,
        "since": of.since,
        "weight": of.weight,
        "backup": of.is_backup,
        "cookie": of.cookie,
        "check": _check(of.check) if of.check is not None else None,
        "check_failures": of.check_failures,
        "downs": of.downs,
        "downtime": of.downtime,
        "last_session": of.last_session,
        "traffic": _traffic(of.traffic),
    }


def _check(of: Check) -> CheckFacts:
    return {
        "status": of.status,
        "code": of.code,
        "duration_ms": of.duration_ms,
        "description": of.description,
        "text": of.text,
    }


def _traffic(of: Traffic) -> TrafficFacts:
    return cast(TrafficFacts, of._asdict())
