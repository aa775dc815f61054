"""What one connection, request or query was: handed over as it ends, formatted later, in batches.

The fields are those of HAProxy's log formats (configuration manual, section 8): times are whole
milliseconds, -1 where the phase was not reached; `began` is Unix time in seconds; `termination` is
the termination state code.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Details", "FlowRecord", "HttpRecord", "Record", "TcpRecord", "UdpRecord"]


class Details(NamedTuple):
    """What `capture` and `log_format` ask for. Octets as they came."""

    request: tuple[bytes, ...]
    """Captured headers, empty where there was none."""
    response: tuple[bytes, ...]
    cookie: bytes
    """`NAME=VALUE`, as far as wanted; empty where there was none."""
    set_cookie: bytes
    frontend: tuple[str, int] | None
    """Where the client connected to."""
    server: tuple[str, int] | None


class HttpRecord(NamedTuple):
    """One HTTP request (`option httplog`)."""

    client: str
    """Address, IPv6 without brackets; `unix` for a Unix socket."""
    client_port: int
    began: float
    frontend: str
    backend: str
    server: str
    """`<NOSRV>` when none was chosen."""
    tr_request: int
    """TR: from the first octet to the complete head."""
    tw: int
    """Tw: waiting in queues."""
    tc: int
    """Tc: connecting, retries included; 0 on a reused connection."""
    tr_response: int
    """Tr: from the request sent to the complete head of the response."""
    ta: int
    """Ta: from the first octet of the request to the last of the response."""
    status: int
    """-1 when the client left before there was one."""
    bytes_read: int
    """Octets sent to the client, head included."""
    termination: str
    """Four characters."""
    actconn: int
    feconn: int
    beconn: int
    srvconn: int
    retries: int
    redispatched: bool
    srv_queue: int
    backend_queue: int
    request_line: bytes
    """As received, without CRLF; empty when it could not be read (`<BADREQ>`)."""
    why: str = ""
    """Why pybalancer itself refused it or gave up; empty otherwise."""
    request_id: str = ""
    """The request's name, where requests get one: printable ASCII without quotes, braces and bars."""
    details: Details | None = None
    """What only some frontends note; None too where there was no request to speak of."""
    bytes_in: int = 0
    """Octets from the client, head included."""


class TcpRecord(NamedTuple):
    """One TCP connection (`option tcplog`)."""

    client: str
    client_port: int
    began: float
    frontend: str
    backend: str
    server: str
    tw: int
    tc: int
    tt: int
    """Tt: from accept to the end."""
    bytes_read: int
    """Octets from the server to the client."""
    termination: str
    """Two characters."""
    actconn: int
    feconn: int
    beconn: int
    srvconn: int
    retries: int
    redispatched: bool
    srv_queue: int
    backend_queue: int
    why: str = ""
    bytes_in: int = 0
    """Octets from the client to the server."""


class UdpRecord(NamedTuple):
    """One query and its answer, or one flow."""

    client: str
    client_port: int
    began: float
    frontend: str
    backend: str
    server: str
    tt: int
    bytes_in: int
    bytes_out: int
    termination: str
    """Two characters: `--` answered, `sH` no answer in time, `SC` no server."""
    retries: int
    query: str
    """Name and type asked for (dns), as presentation text; empty for generic flows."""


class FlowRecord(NamedTuple):
    """One TCP connection or UDP flow that the kernel has carried, as its table of connections has it."""

    client: str
    client_port: int
    began: float
    """Where nobody has noted it (`tt` -1), when it ended."""
    frontend: str
    backend: str
    server: str
    """Its address and port where it is none of the configuration's."""
    protocol: Literal["tcp", "udp"]
    is_end: bool
    """False: it has just begun."""
    tc: int
    """0, or -1 where the server has not answered."""
    tt: int
    """From the first packet to the last; -1 unknown."""
    bytes_in: int
    """In packets from the client, their IP headers included; as those below, 0 where nobody has counted."""
    bytes_out: int
    packets_in: int
    packets_out: int
    termination: str
    """Two characters."""
    actconn: int
    feconn: int
    beconn: int
    srvconn: int
    service: str
    """The address that the client knows."""
    service_port: int
    server_address: str
    server_port: int


Record = HttpRecord | TcpRecord | UdpRecord | FlowRecord
