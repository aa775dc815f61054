"""Every key of balancer.yaml: type, default, unit and meaning. The one place where a default stands.

Values are frozen: a changed configuration is another `Config`. The docstring under a key is its
text in `pybalancer schema`. Durations are seconds (float) and sizes octets (int) once read.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from balancer.config.certificate import PageTls
from balancer.config.forwarding import Forwarded, ForwardedFor, RequestId, XForwarded
from balancer.config.kinds import (
    ADDRESS_PATTERN,
    BodySize,
    CookieAttribute,
    CookieValue,
    Count,
    Directory,
    DnsName,
    DnsRcode,
    DnsType,
    Duration,
    Endpoint,
    FieldValue,
    FileMode,
    Interface,
    IpAddress,
    LogFormat,
    MediaType,
    Name,
    Network,
    Password,
    Path,
    Port,
    Realm,
    Retries,
    Size,
    SocketPath,
    StatusSet,
    Text,
    Token,
    UrlPath,
    UserName,
    Weight,
    Workers,
)
from balancer.config.logs import Capture, FrontendLogs, Log, Logs
from balancer.config.resolvers import Resolution, Resolvers, ServerEndpoint, Template
from balancer.config.rules import AnyCondition, Condition, HttpRequestRule, HttpResponseRule, UseBackend
from balancer.config.sources import SourceLimits
from balancer.config.values import Model, OneOrMany, Short, Switch, Whole, Written
from balancer.config.vrrp import Vrrp

__all__ = [
    "Backend",
    "Balance",
    "Bind",
    "Cache",
    "Capture",
    "Check",
    "CheckOverride",
    "Compression",
    "CompressionLevel",
    "Config",
    "Cookie",
    "Defaults",
    "DnsCheck",
    "ErrorFiles",
    "FlowLog",
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
    "User",
]


class Balance(StrEnum):
    """How a backend spreads its traffic."""

    ROUNDROBIN = "roundrobin"
    LEASTCONN = "leastconn"
    SOURCE = "source"
    RANDOM = "random"
    FIRST = "first"
    URI = "uri"
    MAGLEV = "maglev"


class RuntimeSocket(Model):
    """The Unix socket for commands while running (HAProxy's `stats socket`)."""

    path: SocketPath = "/run/pybalancer/admin.sock"
    """Where the socket is made."""
    mode: FileMode = 0o660
    """Permission bits of the socket, in octal and quoted: "0660"."""
    level: Literal["user", "operator", "admin"] = "operator"
    """What a client may do: user reads, operator sees sessions and clears counters, admin changes things."""


class ErrorFiles(Model):
    """Files with the body (an HTML page) of the answers made here; a head, as HAProxy's have it, is left out."""

    e400: Path | None = Field(None, alias="400")
    """The request could not be read."""
    e401: Path | None = Field(None, alias="401")
    """The statistics page wants a password."""
    e403: Path | None = Field(None, alias="403")
    """Forbidden."""
    e404: Path | None = Field(None, alias="404")
    """Not found."""
    e408: Path | None = Field(None, alias="408")
    """The client was too slow."""
    e413: Path | None = Field(None, alias="413")
    """The body is too large."""
    e414: Path | None = Field(None, alias="414")
    """The target is too long."""
    e417: Path | None = Field(None, alias="417")
    """The expectation cannot be met."""
    e429: Path | None = Field(None, alias="429")
    """Too many requests."""
    e431: Path | None = Field(None, alias="431")
    """The head is too large."""
    e500: Path | None = Field(None, alias="500")
    """An error of the balancer."""
    e501: Path | None = Field(None, alias="501")
    """The transfer coding is unknown."""
    e502: Path | None = Field(None, alias="502")
    """The server answered badly."""
    e503: Path | None = Field(None, alias="503")
    """No server is available."""
    e504: Path | None = Field(None, alias="504")
    """The server was too slow."""
    e505: Path | None = Field(None, alias="505")
    """The HTTP version is unknown."""

    @property
    def paths(self) -> dict[int, str]:
        if not self.model_fields_set:
            return {}
        return {int(key[1:]): path for key, path in self if path is not None}


class Timeouts(Model):
    """How long to wait. A value not given here comes from `defaults.timeout`, then from the text at the key."""

    connect: Duration | None = None
    """For a server to accept a connection. Default 5s."""
    queue: Duration | None = None
    """For a place at a server, where all have as much as their `maxconn`. Default `connect`."""
    client: Duration | None = None
    """For a client that should send or read. Default 30s."""
    server: Duration | None = None
    """For a server that should send or read. Default 30s."""
    http_request: Duration | None = None
    """For the whole head of a request, from its first octet (or from accept). Default 10s, or `client` if shorter."""
    http_keep_alive: Duration | None = None
    """For the next request on an idle client connection. Default 10s, or `client` when that is shorter."""
    tunnel: Duration | None = None
    """For an idle tunnel (WebSocket), or TCP connection where it is given. Tunnels default to 1h, TCP to client and
    server."""
    client_fin: Duration | None = None
    """For the client's data once the server has closed its side. Default `client`."""
    server_fin: Duration | None = None
    """For the server's data once the client has closed its side. Default `server`."""


class TcpKeepalive(Model):
    """Probes of the kernel on idle connections (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT)."""

    idle: Duration = 60.0
    """Without traffic before the first probe."""
    interval: Duration = 10.0
    """Between probes."""
    count: Annotated[int, Whole(1, 127)] = 5
    """Probes without an answer after which the connection is dead."""


FlowLog = Literal["none", "end", "both"]
Keepalive = Annotated[TcpKeepalive | None, Switch()]


class Global(Model):
    """What holds for the whole daemon."""

    user: Text | None = None
    """Workers and control drop to this user when started as root."""
    group: Text | None = None
    """Workers and control drop to this group when started as root. Default: the user's own."""
    workers: Workers = "auto"
    """Worker processes; auto is one per core."""
    maxconn: Count = 20000
    """Client connections, of all workers together; past it new ones wait in the kernel's backlog."""
    log: Logs = (Log(),)
    """Where records and events go; one target or a list."""
    runtime_socket: RuntimeSocket | None = None
    """Commands while running. Without this key there is no such socket."""
    state_directory: Directory | None = None
    """Where changes made while running are kept for after a restart. Default: $STATE_DIRECTORY (systemd) or nowhere."""
    hard_stop_after: Duration = 30.0
    """After SIGTERM or a reload, how long connections of before may still last."""
    backlog: Annotated[int, Whole(1, 65535)] = 4096
    """Connections that the kernel holds for us until they are accepted (listen(2))."""
    max_header_size: Size = 65536
    """Octets of a request's or response's head; more is answered 431 or 502."""
    max_uri_size: Size = 16384
    """Octets of a request's target; more is answered 414."""
    max_headers: Count = 200
    """Field lines of a request or response; more is answered 431 or 502."""
    maxcompcpuusage: Annotated[int, Whole(1, 100)] = 100
    """Percent of each worker's time that `compression` may take; above it further responses go as they are. 100: no
    limit."""
    maxcompmem: Size = 128 * 1024 * 1024
    """Octets of memory that `compression` may take in all (HAProxy's `maxzlibmem`), about a MiB for each response that
    is compressed at a time, an equal share for each worker; further responses go as they are."""


class _Defaults(Model):
    timeout: Timeouts = Timeouts()
    """How long to wait."""
    retries: Retries = 3
    """Further attempts to connect after the first."""
    redispatch: bool = True
    """Whether a retry may go to another server."""
    maxconn: Count | None = None
    """Per frontend; none means only `global.maxconn` holds."""
    max_body_size: BodySize | None = None
    """Octets of a request's content; more is answered 413 (nginx's client_max_body_size). Default: any number."""
    error_files: ErrorFiles = ErrorFiles()
    """Pages in place of the built-in ones."""
    tcp_keepalive: Keepalive = None
    """true or {idle, interval, count}; on client and server connections."""
    dontlognull: bool = True
    """No log line for connections that carried no octet (probes of other balancers)."""
    dontlog_normal: bool = False
    """Log lines only of what failed, was sent again or answered 500 and above (HAProxy's `option dontlog-normal`)."""
    log_separate_errors: bool = False
    """These have level err in place of info (HAProxy's `option log-separate-errors`)."""
    flow_log: FlowLog = "none"
    """engine kernel: end is a log line when a connection or flow ends, both another one when it begins."""


# What they have in common with others comes after what is their own: such classes have it as their first base.
class Defaults(Resolution, _Defaults):
    """What frontends and backends take where they say nothing themselves."""


class Bind(Model):
    """One listening address."""

    address: Endpoint
    """HOST:PORT, [IPV6]:PORT, *:PORT (every IPv4 address) or /path/of.sock."""
    accept_proxy: bool = False
    """Expect the PROXY protocol (v1 or v2) at the start of each connection, and nothing else."""
    v4v6: bool = False
    """A bind to [::] takes IPv4 as well."""
    interface: Interface | None = None
    """Only what arrives through this interface (SO_BINDTODEVICE)."""
    mode: FileMode | None = None
    """Permission bits of a Unix socket, in octal and quoted: "0660". Default "0666", everyone."""


_BareBind = Short(
    "address",
    str,
    "an address (HOST:PORT, [IPV6]:PORT, *:PORT or /path/of.sock) or a mapping",
    {"type": "string", "pattern": ADDRESS_PATTERN},
)
Binds = Annotated[tuple[Annotated[Bind, _BareBind], ...], Field(min_length=1), OneOrMany()]


class CompressionLevel(Model):
    """How hard to try, by algorithm: more costs more time for each response. Higher ones than these would hold up
    everybody else's traffic."""

    gzip: Annotated[int, Whole(1, 9)] = 1
    """1 (some 100 MB/s; 400 MB/s with the module isal, which does 1 to 3) to 9 (15 MB/s)."""
    br: Annotated[int, Whole(1, 9)] = 3
    """1 (250 MB/s) to 9 (10 MB/s); 3 is smaller than gzip's 9 at the speed of its 1."""
    zstd: Annotated[int, Whole(1, 9)] = 3
    """1 (350 MB/s) to 9 (50 MB/s)."""

    def of(self, algorithm: Literal["zstd", "br", "gzip"]) -> int:
        """That of one algorithm."""
        level: int = getattr(self, algorithm)
        return level


class Compression(Model):
    """Compressed responses for clients that take them (HAProxy's `compression algo`, `type` and `offload`)."""

    algorithms: Annotated[tuple[Literal["zstd", "br", "gzip"], ...], Field(min_length=1), OneOrMany()] = ("gzip",)
    """zstd, br (Brotli) or gzip; one or a list, of which clients get the first of those that they want most. zstd and
    br want Python modules, and gzip is faster with one: `pip install 'pybalancerd[compression]'`."""
    types: Annotated[tuple[MediaType, ...], Field(min_length=1), OneOrMany()] = (
        "text/*", "application/javascript", "application/json", "application/ld+json", "application/manifest+json",
        "application/rss+xml", "application/atom+xml", "application/xhtml+xml", "application/xml",
        "application/wasm", "image/svg+xml", "font/ttf", "font/otf", "image/x-icon",
    )  # fmt: skip
    """Media types that are compressed, `text/*` for all of a kind; one or a list."""
    min_size: Size = 1024
    """Shorter content is left as it is, where its length is known."""
    level: CompressionLevel = CompressionLevel()
    """How hard to try, by algorithm: {gzip, br, zstd}."""
    offload: bool = False
    """Hide from the servers that clients take compressed content, so that all is compressed here."""


class Cache(Model):
    """Small objects that servers let everybody keep (HAProxy's `cache` section, `cache-use` and `cache-store`)."""

    total_max_size: Size = 16 * 1024 * 1024
    """Octets of memory for all of them, an equal share for each worker, which has a cache of its own."""
    max_object_size: Size | None = None
    """Octets; larger content is not kept. Default: a 256th of `total_max_size`. At most half a worker's share."""
    max_age: Duration = 60.0
    """Nothing is kept for longer than this, whatever the server allows."""
    process_vary: bool = False
    """Keep responses with a Vary header too, one for each value of the headers that it names."""
    max_secondary_entries: Count = 10
    """So many of one host and target."""


class Udp(Model):
    """How datagrams are taken apart (`mode: udp`, `engine: proxy`)."""

    protocol: Literal["auto", "dns", "generic"] = "auto"
    """dns: every query is balanced on its own; generic: a client (address and port) stays with its
    server until `timeout`. auto is dns on port 53 or where the backend's check is of type dns."""
    timeout: Duration | None = None
    """dns: how long to wait for an answer before the query goes to another server (default 2s);
    generic: how long a flow lives without a datagram (default 30s)."""
    responses: Annotated[int, Whole(0, 1_000_000_000)] | None = None
    """generic: a flow ends after this many answers (1 fits query protocols); none means only `timeout` ends it."""
    max_flows: Count = 65536
    """Clients (generic) or outstanding queries (dns) that a worker remembers at most."""


class Frontend(Model):
    """Where clients come in."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [key]} for key in ("default_backend", "use_backend", "http_request")]}
    )

    mode: Literal["tcp", "http", "udp"]
    """tcp: connections are relayed as they are; http: each request is balanced; udp: datagrams."""
    bind: Binds
    """HOST:PORT, [IPV6]:PORT, *:PORT, /path/of.sock, or {address, accept_proxy, …}; one or a list."""
    engine: Literal["proxy", "kernel", "auto"] = "proxy"
    """proxy: user space; kernel: nftables NAT, no byte passes through the daemon (mode tcp and udp); auto: kernel where
    that can do all that is asked for and works here, else proxy."""
    forwarding: Literal["nat", "masquerade"] = "nat"
    """engine kernel: nat keeps the client's address towards the server, masquerade does not."""
    default_backend: Name = ""
    """Name of the backend that serves it. mode http: where no rule of `use_backend` says otherwise; may be left out if
    a rule is for all requests."""
    http_request: Annotated[tuple[HttpRequestRule, ...], OneOrMany()] = ()
    """mode http: what happens to requests before that; one or a list of rules, looked at in order."""
    http_response: Annotated[tuple[HttpResponseRule, ...], OneOrMany()] = ()
    """mode http: what happens to the servers' responses; one or a list of rules, in order."""
    use_backend: Annotated[tuple[UseBackend, ...], OneOrMany()] = ()
    """mode http: which requests go elsewhere; the first rule that holds counts."""
    maxconn: Count | None = None
    """Connections of this frontend, of all workers together. Default `defaults.maxconn`."""
    max_body_size: BodySize | None = None
    """mode http: octets of a request's content; more is answered 413. Default `defaults.max_body_size`."""
    limits: SourceLimits | None = None
    """engine proxy: what one client address may take. Default: no limits."""
    timeout: Timeouts = Timeouts()
    """client, client_fin, http_request and http_keep_alive are taken from here."""
    forwarded_for: Annotated[ForwardedFor | None, Switch()] = None
    """true, or {header, except, if_none}: tell servers the client's address in X-Forwarded-For."""
    forwarded: Annotated[Forwarded | None, Switch()] = None
    """mode http: true, or {for, by, host, proto, …}: tell servers of the client in Forwarded (RFC 7239)."""
    x_forwarded: XForwarded | None = None
    """mode http: proto, port or host; one or a list, or {headers, except, if_none}: X-Forwarded-Proto, -Port and -Host
    for the servers."""
    trusted_proxies: Annotated[tuple[Network, ...], OneOrMany()] | None = None
    """mode http: networks of proxies before us, which tell of the client. From all others such headers are taken away.
    Default: nobody is trusted, and nothing is taken away."""
    request_id: Annotated[RequestId | None, Switch()] = None
    """mode http: true, or {header, format}: a name for each request, in the log and for the servers."""
    compression: Annotated[Compression | None, Switch()] = None
    """mode http: true, or {algorithms, types, …}: compress responses of backends that say nothing of it themselves."""
    error_files: ErrorFiles = ErrorFiles()
    """mode http: used in place of those in `defaults`, status by status."""
    tcp_keepalive: Keepalive = None
    """true, false or {idle, interval, count}; on connections of clients. Default `defaults.tcp_keepalive`."""
    udp: Udp = Udp()
    """mode udp: how datagrams are taken apart."""
    log: FrontendLogs = None
    """false: no access records of this frontend; true: to `global.log`; or targets of its own, one or a list."""
    dontlognull: bool | None = None
    """No log line for connections that carried no octet. Default `defaults.dontlognull`."""
    log_format: LogFormat | None = None
    """mode http and tcp: the line in place of `option httplog`'s or `tcplog`'s, with HAProxy's variables."""
    capture: Annotated[tuple[Capture, ...], OneOrMany()] = ()
    """mode http: headers and cookies for the log, {request_header, len} and the like; one or a list."""
    dontlog_normal: bool | None = None
    """Log lines only of what failed. Default `defaults.dontlog_normal`."""
    log_separate_errors: bool | None = None
    """Log lines of what failed have level err. Default `defaults.log_separate_errors`."""
    flow_log: FlowLog | None = None
    """engine kernel: none; end, a log line when a connection or flow ends; both, another one when it begins.
    Default `defaults.flow_log`."""

    @property
    def conditions(self) -> list[Condition]:
        """Those of all its rules."""
        given = [rule.if_ for rule in self.http_request] + [rule.if_ for rule in self.http_response]
        given += [rule.if_ for rule in self.use_backend]
        return [condition for condition in given if condition is not None]

    @property
    def files(self) -> list[str]:
        """Files that its rules need the contents of."""
        named = [rule.return_ or rule.auth for rule in self.http_request]
        return [each.file for each in named if each is not None and each.file is not None]

    @property
    def has_rules(self) -> bool:
        """Whether more happens to its requests than that they are balanced."""
        rules = self.use_backend or self.http_request or self.http_response
        told = self.forwarded is not None or self.x_forwarded is not None or self.request_id is not None
        noted = self.capture or (self.log_format is not None and self.mode == "http")
        return bool(rules or told or noted or self.trusted_proxies is not None)

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that it may send to, each once."""
        named = dict.fromkeys(rule.backend for rule in self.use_backend)
        return tuple(named | {self.default_backend: None} if self.default_backend else named)


class Cookie(Model):
    """Persistence by a cookie (HAProxy's `cookie NAME insert …`)."""

    name: Token
    """The cookie's name."""
    mode: Literal["insert"] = "insert"
    """insert: the balancer adds a cookie of its own to a response whose client has none that is valid."""
    indirect: bool = False
    """Strip our cookie from requests before the server sees them."""
    nocache: bool = False
    """Add `cache-control: private` to a cacheable response that gets the cookie."""
    postonly: bool = False
    """Insert only in answers to POST."""
    preserve: bool = False
    """Leave a cookie of the same name that the server set itself, and insert none."""
    httponly: bool = False
    """Hide it from scripts (attribute HttpOnly)."""
    secure: bool = False
    """Browsers send it over TLS only (attribute Secure)."""
    domain: Annotated[tuple[Token, ...], OneOrMany()] = ()
    """Domains that get it back (attribute Domain); one or a list."""
    attr: Annotated[tuple[CookieAttribute, ...], OneOrMany()] = ()
    """Further attributes as they are to appear: "SameSite=Lax"."""
    maxidle: Duration | None = None
    """A cookie not used for longer is ignored."""
    maxlife: Duration | None = None
    """A cookie first given longer ago is ignored."""


class CheckBase(Model):
    """What all checks share (HAProxy's inter, fastinter, downinter, rise, fall)."""

    interval: Duration = 2.0
    """Between two checks of a server."""
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
    port: Port | None = None
    """Check this port instead of the server's."""
    send_proxy: bool = False
    """Begin a tcp or http check with a PROXY protocol v1 header (LOCAL traffic of the balancer)."""


class NoCheck(Model):
    """No check: the server counts as up."""

    model_config = ConfigDict(json_schema_extra={"required": ["type"]})

    type: Literal["none"] = "none"
    """No check."""


class TcpCheck(CheckBase):
    """The server accepts a TCP connection."""

    type: Literal["tcp"]
    """A TCP connection."""


class HttpExpect(Model):
    """What a good answer looks like."""

    status: StatusSet = "200-399"
    """Statuses and ranges: 200, "200-299", "200,204,301-303"."""
    text: Text | None = None
    """Text that the body must contain (within its first 64 KiB)."""


class HttpTls(Model):
    """A check over TLS."""

    verify: bool = False
    """Whether the server's certificate must be valid for its name."""
    ca_file: Path | None = None
    """Who signs the servers' certificates, in PEM. Default: the system's authorities."""
    sni: Text | None = None
    """Server name to ask for. Default: the check's `host`, if it has one."""


class HttpCheck(CheckBase):
    """The server answers an HTTP request as expected (HAProxy's `option httpchk`)."""

    type: Literal["http"]
    """An HTTP request."""
    method: Literal["OPTIONS", "GET", "HEAD", "POST", "PUT"] = "OPTIONS"
    """Method of the request."""
    path: Annotated[str, Written(r"/[!-~]*|\*", "a path starts with / and has no spaces", 8192)] = "/"
    """Target of the request."""
    host: Annotated[str, Written(r"[!-~]+", "a host is printable ASCII without spaces", 256)] | None = None
    """Host header. Default: the server's address."""
    headers: dict[Token, FieldValue] = {}
    """Further headers, name to value."""
    expect: HttpExpect = HttpExpect()
    """What a good answer looks like."""
    tls: Annotated[HttpTls | None, Switch()] = None
    """true, or {verify, ca_file, sni}."""


class DnsCheck(CheckBase):
    """The server answers a DNS query over UDP."""

    type: Literal["dns"]
    """A DNS query."""
    query: DnsName = "."
    """Name to ask for; choose one that the servers know without the Internet."""
    qtype: DnsType = "SOA"
    """Record type to ask for."""
    rcodes: Annotated[tuple[DnsRcode, ...], Field(min_length=1), OneOrMany()] = ("NOERROR", "NXDOMAIN")
    """Response codes that count as success."""


Check = Annotated[NoCheck | TcpCheck | HttpCheck | DnsCheck, Field(discriminator="type")]


class CheckOverride(Model):
    """What one server's check does differently from its backend's."""

    enabled: bool = True
    """false: this server is not checked and counts as up."""
    address: IpAddress | None = None
    """Check this address instead of the server's."""
    port: Port | None = None
    """Check this port instead of the server's and of the backend's check."""


class _Server(Model):
    address: ServerEndpoint
    """HOST:PORT, [IPV6]:PORT or /path/of.sock; with `resolvers` _SERVICE._PROTO.NAME too: the host, port and weight of
    an SRV record, of the lowest priority of which a server is up."""
    weight: Weight = 1
    """Share of the traffic; 0 drains: nothing new but clients that hold its cookie."""
    cookie: CookieValue | None = None
    """Its value in the persistence cookie."""
    maxconn: Count | None = None
    """Requests (mode tcp: connections) that it is given at a time, by all workers together; the others wait for
    `timeout.queue`. Default: no limit."""
    minconn: Count | None = None
    """So many at a time while the backend has little to do; rises to `maxconn` at the backend's `fullconn`. Default:
    always `maxconn`."""
    maxqueue: Count | None = None
    """Clients with its cookie that wait for it at most; the others go elsewhere. Default: no limit."""
    backup: bool = False
    """Used only when no other server of the backend is up."""
    check: Annotated[
        CheckOverride, Short("enabled", bool, "true, false or a mapping with address and port", {"type": "boolean"})
    ] = CheckOverride()
    """false: no check; or {address, port}: check there."""
    send_proxy: Literal["v1", "v2"] | None = None
    """Begin each connection with a PROXY protocol header naming the client."""
    init_state: Literal["check", "up", "down"] = "check"
    """Before the first check: check = used only while no server is known to be up; the first check decides."""
    on_marked_down: Literal["none", "shutdown-sessions"] = "none"
    """Whether its connections are closed when it goes down."""
    slowstart: Duration | None = None
    """After it has come back (not at the start), how long its weight takes to rise from next to nothing (balance
    roundrobin, leastconn and random), and its `maxconn`. Default: no time."""
    observe: Literal["none", "layer4", "layer7"] = "none"
    """Whether clients' traffic counts besides the checks, which it needs. layer4: a connection that fails is an error;
    layer7 (mode http): a response that is 500 or above (not 501 and 505), is none or does not come, too."""
    error_limit: Count = 10
    """With `observe`: how many errors in a row are too many."""
    on_error: Literal["fastinter", "fail-check", "sudden-death", "mark-down"] = "fail-check"
    """With `observe`: what they do. All have the server checked soon; fail-check counts as a failed check, sudden-death
    leaves it one such check from being down, mark-down takes it down."""


class Server(Resolution, _Server):
    """One server of a backend."""


class ServerTemplate(Server, Template):
    """Servers that are the same but for the record of their name that they take (HAProxy's `server-template`)."""

    @property
    def servers(self) -> dict[str, Server]:
        """By name."""
        own = {name: getattr(self, name) for name in self.model_fields_set - Template.model_fields.keys()}
        server = Server.model_construct(**own)
        return {f"{self.prefix}{number}": server for number in range(1, self.count + 1)}


class _Backend(Model):
    balance: Annotated[Balance, Field(strict=False)] = Balance.ROUNDROBIN
    """roundrobin, leastconn, source (by client address), random (the less busy of two), first (one after the other),
    uri (by request target), maglev (by client address, stable when servers change)."""
    hash_type: Literal["map-based", "consistent"] = "map-based"
    """balance source and uri: map-based moves most clients when a server changes, consistent about 1/N (as maglev)."""
    servers: Annotated[dict[Name, Server], Field(json_schema_extra={"minProperties": 1})] = {}
    """Name to server. The order counts for balance first and for backups."""
    server_template: Annotated[tuple[ServerTemplate, ...], OneOrMany()] = ()
    """{prefix, count, address, resolvers, …}: as many servers as a name has records, after those; one or a list."""
    check: Check = NoCheck()
    """How to tell that a server is alive. Without it, servers always count as up."""
    fullconn: Count | None = None
    """So many requests (mode tcp: connections), served and waiting, that servers with a `minconn` are given their
    `maxconn`. Default: a tenth of the maxconn of all frontends that lead here."""
    cookie: Cookie | None = None
    """mode http: clients stay with their server by a cookie."""
    compression: Annotated[Compression | None, Switch()] = None
    """mode http: true, false or {algorithms, types, …}: whether its responses are compressed. Default: as the frontend
    says."""
    cache: Annotated[Cache | None, Switch()] = None
    """mode http: true, or {total_max_size, max_age, …}: answer from memory what its servers let everybody keep."""
    redispatch: bool | None = None
    """Whether a retry may go to another server. Default `defaults.redispatch`."""
    retries: Retries | None = None
    """Further attempts to connect after the first. Default `defaults.retries`."""
    timeout: Timeouts = Timeouts()
    """connect, queue, server, server_fin and tunnel are taken from here; udp frontends take none."""
    http_reuse: Literal["never", "safe", "always"] = "safe"
    """Idle server connections serve any client. never: each client its own; safe: a request that could not be
    sent again (not idempotent) begins on a connection that has just proved alive; always: without that care."""
    pool_max_conn: Annotated[int, Whole(0, 1_000_000)] = 256
    """Idle connections kept per server and worker."""
    pool_purge_delay: Duration = 5.0
    """An idle server connection is closed after this time."""
    allbackups: bool = False
    """All backup servers share the traffic, not the first alone."""
    persistence_timeout: Duration | None = None
    """engine kernel: a client (its address) stays with its server until it has begun no flow for so long
    (`ipvsadm -p`)."""
    error_files: ErrorFiles = ErrorFiles()
    """Used in place of those in `defaults`, status by status."""
    tcp_keepalive: Keepalive = None
    """true, false or {idle, interval, count}; on connections to servers. Default `defaults.tcp_keepalive`."""

    @property
    def is_limited(self) -> bool:
        """Whether one of its servers takes only so many at a time."""
        return any(server.maxconn is not None for server in self.servers.values())

    @property
    def is_paced(self) -> bool:
        """Whether such a server is given less for a time."""
        servers = [server for server in self.servers.values() if server.maxconn is not None]
        return any(server.minconn is not None or server.slowstart is not None for server in servers)


class Backend(Resolution, _Backend):
    """Servers that share a task."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [key]} for key in ("servers", "server_template")]}
    )

    @model_validator(mode="after")
    def _lay_out(self) -> Backend:
        for template in self.server_template:
            for name, server in template.servers.items():
                if self.servers.setdefault(name, server) != server:
                    raise ValueError(f"has two servers {name}, one of them of its server_template")
        return self


class User(Model):
    """Who may see the statistics page."""

    password: Password
    """As it is, or hashed by htpasswd(1): bcrypt (-B), SHA-crypt or apr1."""
    admin: bool = True
    """Whether this user may change servers, where `stats.admin` lets anybody; false: only look."""


class Stats(Model):
    """The statistics page and the metrics."""

    bind: Binds
    """HOST:PORT, [IPV6]:PORT, *:PORT, /path/of.sock, or {address, interface, …}; one or a list."""
    tls: PageTls | None = None
    """{crt, key, ssl_min_ver}: https (HAProxy's `bind … ssl crt`). Unix sockets stay as they are."""
    uri: UrlPath = "/haproxy?stats"
    """Path of the page."""
    realm: Realm = "HAProxy Statistics"
    """What a browser shows when it asks for the password."""
    description: Text | None = None
    """A line on top of the page."""
    refresh: Duration | None = None
    """Without JavaScript the page loads itself anew after this time; with it, it is up to date anyway."""
    users: dict[
        UserName,
        Annotated[
            User,
            Short(
                "password",
                (str, int, float),
                "a password or a mapping with password and admin",
                {"type": "string", "minLength": 1, "maxLength": 256},
            ),
        ],
    ] = {}
    """Name to password, or to {password, admin}. None at all: the page is open to everyone."""
    admin: bool = False
    """Whether the page may change servers: its users do, but for those with `admin: false`."""
    metrics: UrlPath | None = "/metrics"
    """Path of the Prometheus metrics."""


class Masquerade(Model):
    """Traffic of an inner network that leaves with this host's address."""

    source: Network
    """The inner network."""
    interface: Interface
    """The interface through which its traffic leaves."""


class Gateway(Model):
    """The inner network's way out."""

    masquerade: tuple[Masquerade, ...] = ()
    """Networks to masquerade."""


class Node(Model):
    """What is different on the host of this name: any part of the file, merged before this model is made."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Config(Model):
    """A whole balancer.yaml, the overrides of this node merged in."""

    global_: Global = Field(Global(), alias="global")
    """What holds for the whole daemon."""
    defaults: Defaults = Defaults()
    """What frontends and backends take where they say nothing themselves."""
    resolvers: dict[Name, Resolvers] = {}
    """Name servers for servers' names, by the name of the section."""
    acls: dict[Name, AnyCondition] = {}
    """Conditions by name, for the rules of frontends (HAProxy's `acl`)."""
    frontends: dict[Name, Frontend] = {}
    """Where clients come in, by name."""
    backends: dict[Name, Backend] = {}
    """Groups of servers, by name."""
    stats: Stats | None = None
    """The statistics page and the metrics. Without this key there are none."""
    vrrp: Vrrp = Vrrp()
    """The addresses that move between directors."""
    gateway: Gateway = Gateway()
    """The inner network's way out."""
    nodes: dict[Name, Node] = {}
    """Host name to what is different there, merged over the rest (mappings key by key, all else replaced)."""

    @model_validator(mode="after")
    def _something_to_do(self, info: ValidationInfo) -> Config:
        is_part = info.context is not None and info.context.get("part", False)
        if not is_part and not self.frontends and not self.vrrp.instances and self.stats is None:
            raise ValueError("nothing to do: give at least one of frontends, vrrp.instances or stats")
        return self
