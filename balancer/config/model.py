"""Every key of balancer.yaml: type, default, unit and meaning. The one place where a default stands.

Values are frozen: a changed configuration is another `Config`. The docstring under a key is its
text in `pybalancer schema`. Durations are seconds (float) and sizes octets (int) once read.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from balancer.addr import Address
from balancer.config import units

__all__ = [
    "Authentication",
    "Backend",
    "Balance",
    "Bind",
    "Check",
    "CheckOverride",
    "Config",
    "Cookie",
    "Defaults",
    "DnsCheck",
    "ErrorFiles",
    "ForwardedFor",
    "Frontend",
    "Gateway",
    "Global",
    "HttpCheck",
    "HttpExpect",
    "Log",
    "Masquerade",
    "NoCheck",
    "Node",
    "RuntimeSocket",
    "Server",
    "Stats",
    "TcpCheck",
    "TcpKeepalive",
    "Timeouts",
    "Udp",
    "Vrrp",
    "VrrpInstance",
]

Duration = Annotated[float, BeforeValidator(units.duration)]
Size = Annotated[int, BeforeValidator(units.size)]
FileMode = Annotated[int, BeforeValidator(units.file_mode)]
Endpoint = Annotated[Address, BeforeValidator(units.endpoint)]
Network = Annotated[str, BeforeValidator(units.network)]
IpAddress = Annotated[str, BeforeValidator(units.ip_address)]
# An RFC 9110 token: it stands in a header line as it is.
Token = Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", max_length=256)]
# RFC 6265 cookie-octet: no space, quote, comma, semicolon or backslash.
CookieValue = Annotated[str, StringConstraints(pattern=r"^[!#-+\--:<-\[\]-~]+$", max_length=256)]
# HAProxy's rule for proxy and server names; they end up in logs, CSV and metrics.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=128)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00\r\n]+$")]
Count = Annotated[int, Field(ge=1)]
# HAProxy's range of weights.
Weight = Annotated[int, Field(ge=0, le=256)]
Status = Annotated[int, Field(ge=100, le=599)]


class Model(BaseModel):
    """Frozen, no unknown keys, no silent conversion (`port: "80"` is an error, not 80)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, arbitrary_types_allowed=True
    )


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


class Balance(StrEnum):
    """How a backend spreads its traffic."""

    ROUNDROBIN = "roundrobin"
    LEASTCONN = "leastconn"
    SOURCE = "source"
    RANDOM = "random"
    FIRST = "first"
    URI = "uri"
    MAGLEV = "maglev"


class Log(Model):
    """Where access and event records go, and what they look like."""

    target: Annotated[str, BeforeValidator(units.log_target)] = "stdout"
    """syslog (the local /dev/log), stdout, udp://HOST:PORT, or none."""
    facility: Literal[
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
        "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ] = "local0"  # fmt: skip
    """syslog facility (RFC 5424 section 6.2.1)."""
    format: Literal["haproxy", "json"] = "haproxy"
    """haproxy: the lines of `option httplog` and `option tcplog`; json: one object a line."""


class RuntimeSocket(Model):
    """The Unix socket for commands while running (HAProxy's `stats socket`)."""

    path: Annotated[str, StringConstraints(pattern=r"^/[^\x00]+$", max_length=107)] = "/run/pybalancer/admin.sock"
    mode: FileMode = 0o660
    """Permission bits of the socket, in octal and quoted: "0660"."""
    level: Literal["user", "operator", "admin"] = "operator"
    """What a client may do: user reads, operator clears counters, admin changes servers."""


class ErrorFiles(Model):
    """Files with the body (an HTML page) of the answers that pybalancer makes itself."""

    e400: Text | None = Field(None, alias="400")
    e401: Text | None = Field(None, alias="401")
    e403: Text | None = Field(None, alias="403")
    e404: Text | None = Field(None, alias="404")
    e408: Text | None = Field(None, alias="408")
    e413: Text | None = Field(None, alias="413")
    e414: Text | None = Field(None, alias="414")
    e417: Text | None = Field(None, alias="417")
    e429: Text | None = Field(None, alias="429")
    e431: Text | None = Field(None, alias="431")
    e500: Text | None = Field(None, alias="500")
    e501: Text | None = Field(None, alias="501")
    e502: Text | None = Field(None, alias="502")
    e503: Text | None = Field(None, alias="503")
    e504: Text | None = Field(None, alias="504")
    e505: Text | None = Field(None, alias="505")

    @property
    def paths(self) -> dict[int, str]:
        return {int(key[1:]): path for key, path in self if path is not None}


class Timeouts(Model):
    """How long to wait. A value not given here comes from `defaults.timeout`, then from the text at the key."""

    connect: Duration | None = None
    """For a server to accept a connection. Default 5s."""
    client: Duration | None = None
    """For a client that should send or read. Default 30s."""
    server: Duration | None = None
    """For a server that should send or read. Default 30s."""
    http_request: Duration | None = None
    """For the whole head of a request, from its first octet (or from accept). Default 10s, or `client` when that is shorter."""
    http_keep_alive: Duration | None = None
    """For the next request on an idle client connection. Default 10s, or `client` when that is shorter."""
    tunnel: Duration | None = None
    """For an idle tunnel (WebSocket) or TCP connection where it is given. Tunnels default to 1h, TCP to client and server."""
    client_fin: Duration | None = None
    """For the client's data once the server has closed its side. Default `client`."""
    server_fin: Duration | None = None
    """For the server's data once the client has closed its side. Default `server`."""


class TcpKeepalive(Model):
    """Probes of the kernel on idle connections (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT)."""

    idle: Duration = 60.0
    interval: Duration = 10.0
    count: Annotated[int, Field(ge=1, le=127)] = 5


def _keepalive(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


Keepalive = Annotated[TcpKeepalive | None, BeforeValidator(_keepalive)]


class Global(Model):
    """What holds for the whole daemon."""

    user: Text | None = None
    """Workers and control drop to this user when started as root."""
    group: Text | None = None
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    """Worker processes; auto is one per core."""
    maxconn: Count = 20000
    """Client connections of all workers together; past it new ones wait in the kernel's backlog."""
    log: Log = Log()
    runtime_socket: RuntimeSocket | None = None
    hard_stop_after: Duration = 30.0
    """After SIGTERM, how long connections in flight may still last."""
    backlog: Annotated[int, Field(ge=1, le=65535)] = 4096
    """Connections that the kernel holds for us until they are accepted (listen(2))."""
    max_header_size: Size = 65536
    """Octets of a request's or response's head; more is answered 431 or 502."""
    max_uri_size: Size = 16384
    """Octets of a request's target; more is answered 414."""
    max_headers: Count = 200
    """Field lines of a request or response; more is answered 431 or 502."""


class Defaults(Model):
    """What frontends and backends take where they say nothing themselves."""

    timeout: Timeouts = Timeouts()
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    redispatch: bool = True
    """Whether a retry may go to another server."""
    maxconn: Count | None = None
    """Per frontend; none means only `global.maxconn` holds."""
    error_files: ErrorFiles = ErrorFiles()
    tcp_keepalive: Keepalive = None
    """true or {idle, interval, count}; on client and server connections."""
    dontlognull: bool = True
    """No log line for connections that carried no octet (probes of other balancers)."""


class Bind(Model):
    """One listening address."""

    address: Endpoint
    accept_proxy: bool = False
    """Expect the PROXY protocol (v1 or v2) at the start of each connection, and nothing else."""
    v4v6: bool = False
    """A bind to [::] takes IPv4 as well."""
    interface: Annotated[str, StringConstraints(pattern=r"^[^\s/\x00]{1,15}$")] | None = None
    """Only what arrives through this interface (SO_BINDTODEVICE)."""
    mode: FileMode | None = None
    """Permission bits of a Unix socket, in octal and quoted: "0660"."""


def _binds(value: Any) -> Any:
    return tuple({"address": item} if isinstance(item, str) else item for item in _one_or_many(value))


Binds = Annotated[tuple[Bind, ...], BeforeValidator(_binds), Field(min_length=1)]


class ForwardedFor(Model):
    """X-Forwarded-For (HAProxy's `option forwardfor`): a line of its own is added to each request."""

    header: Token = "X-Forwarded-For"
    exclude: Annotated[tuple[Network, ...], BeforeValidator(_one_or_many)] = Field((), alias="except")
    """Networks whose clients get no such line (they are proxies that added their own)."""
    if_none: bool = False
    """Only where the client sent none. Clients can then forge it."""


def _forwarded_for(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class Udp(Model):
    """How datagrams are taken apart (`mode: udp`, `engine: proxy`)."""

    protocol: Literal["auto", "dns", "generic"] = "auto"
    """dns: every query is balanced on its own; generic: a client (address and port) stays with its
    server until `timeout`. auto is dns on port 53 or where the backend's check is of type dns."""
    timeout: Duration | None = None
    """dns: how long to wait for an answer before the query goes to another server (default 2s);
    generic: how long a flow lives without a datagram (default 30s)."""
    responses: Annotated[int, Field(ge=0)] | None = None
    """generic: a flow ends after this many answers (1 fits query protocols); none means only `timeout` ends it."""
    max_flows: Count = 65536
    """Clients (generic) or outstanding queries (dns) that a worker remembers at most."""


class Frontend(Model):
    """Where clients come in."""

    mode: Literal["tcp", "http", "udp"]
    bind: Binds
    """HOST:PORT, [IPV6]:PORT, *:PORT, /path/of.sock, or {address, accept_proxy, …}; one or a list."""
    engine: Literal["proxy", "kernel"] = "proxy"
    """proxy: user space; kernel: nftables NAT, no byte passes through the daemon (mode tcp and udp)."""
    forwarding: Literal["nat", "masquerade"] = "nat"
    """engine kernel: nat keeps the client's address towards the server, masquerade does not."""
    default_backend: Name
    maxconn: Count | None = None
    timeout: Timeouts = Timeouts()
    forwarded_for: Annotated[ForwardedFor | None, BeforeValidator(_forwarded_for)] = None
    """true, or {header, except, if_none}: tell servers the client's address in X-Forwarded-For."""
    error_files: ErrorFiles = ErrorFiles()
    tcp_keepalive: Keepalive = None
    udp: Udp = Udp()
    log: bool = True
    """false: no access records of this frontend."""
    dontlognull: bool | None = None


class Cookie(Model):
    """Persistence by a cookie (HAProxy's `cookie NAME insert …`)."""

    name: Token
    mode: Literal["insert"] = "insert"
    indirect: bool = False
    """Strip our cookie from requests before the server sees them."""
    nocache: bool = False
    """Add `cache-control: private` to a cacheable response that gets the cookie."""
    postonly: bool = False
    """Insert only in answers to POST."""
    preserve: bool = False
    """Leave a cookie of the same name that the server set itself, and insert none."""
    httponly: bool = False
    secure: bool = False
    domain: Annotated[tuple[Token, ...], BeforeValidator(_one_or_many)] = ()
    attr: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[\x20-:<-~]+$", max_length=256)], ...],
        BeforeValidator(_one_or_many),
    ] = ()
    """Further attributes as they are to appear: "SameSite=Lax"."""
    maxidle: Duration | None = None
    """A cookie not used for longer is ignored."""
    maxlife: Duration | None = None
    """A cookie first given longer ago is ignored."""


class CheckBase(Model):
    """What all checks share (HAProxy's inter, fastinter, downinter, rise, fall)."""

    interval: Duration = 2.0
    fast_interval: Duration | None = None
    """Between checks while the state is changing or not yet known. Default: `interval`, at most 1s."""
    down_interval: Duration | None = None
    """Between checks of a server that is down. Default: `interval`."""
    timeout: Duration | None = None
    """For one check, connecting included. Default: `interval`."""
    rise: Count = 2
    """Successes in a row that bring a server up (the very first check needs one)."""
    fall: Count = 3
    """Failures in a row that take a server down (the very first check needs one)."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Check this port instead of the server's."""
    send_proxy: bool = False
    """Begin a tcp or http check with a PROXY protocol v1 header (LOCAL traffic of the balancer)."""


class NoCheck(Model):
    """No check: the server counts as up."""

    type: Literal["none"] = "none"


class TcpCheck(CheckBase):
    """The server accepts a TCP connection."""

    type: Literal["tcp"]


class HttpExpect(Model):
    """What a good answer looks like."""

    status: Annotated[str, BeforeValidator(units.status_set)] = "200-399"
    """Statuses and ranges: 200, "200-299", "200,204,301-303"."""
    text: Text | None = None
    """Text that the body must contain (within its first 64 KiB)."""


class HttpTls(Model):
    """A check over TLS."""

    verify: bool = False
    """Whether the server's certificate must be valid for its name."""
    ca_file: Text | None = None
    sni: Text | None = None
    """Server name to ask for. Default: the check's `host`, if it has one."""


class HttpCheck(CheckBase):
    """The server answers an HTTP request as expected (HAProxy's `option httpchk`)."""

    type: Literal["http"]
    method: Literal["OPTIONS", "GET", "HEAD", "POST", "PUT"] = "OPTIONS"
    path: Annotated[str, StringConstraints(pattern=r"^(/[!-~]*|\*)$", max_length=8192)] = "/"
    host: Annotated[str, StringConstraints(pattern=r"^[!-~]+$", max_length=256)] | None = None
    """Host header. Default: the server's address."""
    headers: dict[Token, Text] = {}
    expect: HttpExpect = HttpExpect()
    tls: Annotated[HttpTls | None, BeforeValidator(_keepalive)] = None
    """true, or {verify, ca_file, sni}."""


class DnsCheck(CheckBase):
    """The server answers a DNS query over UDP."""

    type: Literal["dns"]
    query: Annotated[str, BeforeValidator(units.dns_name)] = "."
    """Name to ask for; choose one that the servers know without the Internet."""
    qtype: Annotated[str, BeforeValidator(units.dns_type)] = "SOA"
    rcodes: Annotated[tuple[Annotated[str, BeforeValidator(units.dns_rcode)], ...], BeforeValidator(_one_or_many)] = (
        "NOERROR",
        "NXDOMAIN",
    )
    """Response codes that count as success."""


Check = Annotated[NoCheck | TcpCheck | HttpCheck | DnsCheck, Field(discriminator="type")]


class CheckOverride(Model):
    """What one server's check does differently from its backend's."""

    enabled: bool = True
    address: IpAddress | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


def _check_override(value: Any) -> Any:
    return {"enabled": value} if isinstance(value, bool) else value


class Server(Model):
    """One server of a backend."""

    address: Endpoint
    weight: Weight = 1
    """Share of the traffic; 0 drains: nothing new but clients that hold its cookie."""
    cookie: CookieValue | None = None
    """Its value in the persistence cookie."""
    backup: bool = False
    """Used only when no other server of the backend is up."""
    check: Annotated[CheckOverride, BeforeValidator(_check_override)] = CheckOverride()
    """false: no check; or {address, port}: check there."""
    send_proxy: Literal["v1", "v2"] | None = None
    """Begin each connection with a PROXY protocol header naming the client."""
    init_state: Literal["check", "up", "down"] = "check"
    """Before the first check: check = used only while no server is known to be up; the first check decides."""
    on_marked_down: Literal["none", "shutdown-sessions"] = "none"
    """Whether its connections are closed when it goes down."""


class Backend(Model):
    """Servers that share a task."""

    balance: Balance = Balance.ROUNDROBIN
    hash_type: Literal["map-based", "consistent"] = "map-based"
    """balance source and uri: map-based moves most clients when a server changes, consistent about 1/N (maglev always is)."""
    servers: Annotated[dict[Name, Server], Field(min_length=1)]
    check: Check = NoCheck()
    cookie: Cookie | None = None
    redispatch: bool | None = None
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    timeout: Timeouts = Timeouts()
    http_reuse: Literal["never", "safe", "always"] = "safe"
    """Idle server connections serve any client. never: each client its own; safe: a request that could not be
    sent again (not idempotent) begins on a connection that has just proved alive; always: without that care."""
    pool_max_conn: Annotated[int, Field(ge=0)] = 256
    """Idle connections kept per server and worker."""
    pool_purge_delay: Duration = 5.0
    """An idle server connection is closed after this time."""
    allbackups: bool = False
    """All backup servers share the traffic, not the first alone."""
    error_files: ErrorFiles = ErrorFiles()
    tcp_keepalive: Keepalive = None


class Stats(Model):
    """The statistics page and the metrics."""

    bind: Binds
    uri: Annotated[str, StringConstraints(pattern=r"^/[!-~]*$", max_length=256)] = "/haproxy?stats"
    realm: Annotated[str, StringConstraints(pattern=r"^[\x20!#-\[\]-~]*$", max_length=256)] = "HAProxy Statistics"
    description: Text | None = None
    refresh: Duration | None = None
    users: dict[Annotated[str, StringConstraints(pattern=r"^[^:\x00-\x1f]+$")], str] = {}
    """Name to password. None at all: the page is open to everyone."""
    admin: bool = False
    """Whether the page may change servers."""
    metrics: Annotated[str, StringConstraints(pattern=r"^/[!-~]*$", max_length=256)] | None = "/metrics"
    """Path of the Prometheus metrics."""


class Authentication(Model):
    """VRRPv2 simple text authentication (RFC 2338), for peers that ask for it."""

    type: Literal["none", "pass"]
    password: Annotated[str, StringConstraints(min_length=1)] | None = None
    """The first 8 octets are used."""


class VrrpInstance(Model):
    """One virtual router (RFC 9568)."""

    interface: Annotated[str, StringConstraints(pattern=r"^[^\s/\x00]{1,15}$")]
    state: Literal["MASTER", "BACKUP"] = "BACKUP"
    virtual_router_id: Annotated[int, Field(ge=1, le=255)]
    priority: Annotated[int, Field(ge=1, le=255)] = 100
    advert_int: Duration = 1.0
    authentication: Authentication | None = None
    virtual_ipaddress: Annotated[tuple[Annotated[str, BeforeValidator(units.interface_address)], ...], Field(min_length=1)]


class Vrrp(Model):
    """Who holds the addresses."""

    instances: dict[Name, VrrpInstance] = {}
    sync_groups: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1)]] = {}


class Masquerade(Model):
    """Traffic of an inner network that leaves with this host's address."""

    source: Network
    interface: Annotated[str, StringConstraints(pattern=r"^[^\s/\x00]{1,15}$")]


class Gateway(Model):
    """The inner network's way out."""

    masquerade: tuple[Masquerade, ...] = ()


class Node(Model):
    """Overrides of one host. Any part of the file may stand here; it was merged before this model was made."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Config(Model):
    """A whole balancer.yaml, the overrides of this node merged in."""

    global_: Global = Field(Global(), alias="global")
    defaults: Defaults = Defaults()
    frontends: dict[Name, Frontend] = {}
    backends: dict[Name, Backend] = {}
    stats: Stats | None = None
    vrrp: Vrrp = Vrrp()
    gateway: Gateway = Gateway()
    nodes: dict[Name, Node] = {}

    @model_validator(mode="after")
    def _something_to_do(self) -> Config:
        if not self.frontends and not self.vrrp.instances and self.stats is None:
            raise ValueError("nothing to do: give at least one of frontends, vrrp.instances or stats")
        return self
