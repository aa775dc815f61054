"""What holds for one frontend or backend once its own words, `defaults` and the built-in values are put together.

Asked once per frontend and backend, at start and at reload. An HTTP or TCP session takes connect, queue, server,
server_fin and tunnel from its backend, and client, http_request, http_keep_alive and client_fin from its frontend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from balancer.config.logs import Capture, Log
from balancer.config.model import Backend, Compression, Config, FlowLog, Frontend, TcpKeepalive, Timeouts
from balancer.config.resolvers import DEFAULT, NONE, Resolvers
from balancer.config.vrrp import VrrpInstance

__all__ = [
    "BackendSettings",
    "FrontendSettings",
    "Records",
    "Resolution",
    "Waits",
    "backend",
    "compression",
    "frontend",
    "is_ipv6",
    "resolution",
    "resolvers",
    "vrrp_version",
]

T = TypeVar("T")

_CONNECT = 5.0
_CLIENT = 30.0
_SERVER = 30.0
_HTTP_REQUEST = 10.0
_HTTP_KEEP_ALIVE = 10.0
_TUNNEL = 3600.0
_INIT_ADDR = ("last", "libc")


@dataclass(frozen=True, slots=True)
class Waits:
    """Timeouts in seconds, all of them filled in (model.Timeouts says what each is for)."""

    connect: float
    queue: float
    client: float
    server: float
    http_request: float
    http_keep_alive: float
    tunnel: float
    """For an idle tunnel after an Upgrade or CONNECT."""
    tunnel_given: bool
    """Whether the operator gave `tunnel`: only then it replaces client and server on TCP connections."""
    client_fin: float
    server_fin: float


@dataclass(frozen=True, slots=True)
class Records:
    """Which access records of a frontend are kept, and where they go."""

    targets: tuple[Log, ...] = ()
    """None: nobody wants them."""
    dontlog_normal: bool = False
    separate_errors: bool = False
    log_format: str | None = None
    capture: tuple[Capture, ...] = ()


@dataclass(frozen=True, slots=True)
class FrontendSettings:
    """A frontend's inherited values."""

    timeouts: Waits
    maxconn: int | None
    """Connections of this frontend over all workers; None: only `global.maxconn` holds."""
    max_body_size: int | None
    """Octets; None: any number."""
    dontlognull: bool
    records: Records
    flow_log: FlowLog
    tcp_keepalive: TcpKeepalive | None
    error_files: dict[int, str]
    """Status to path."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a server's name is resolved again while it runs."""

    section: str
    """Name of the section of `resolvers`."""
    prefer: Literal["ipv4", "ipv6"] | None
    allows_duplicates: bool
    ignores_weight: bool
    init_addr: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """A backend's inherited values."""

    timeouts: Waits
    retries: int
    redispatch: bool
    tcp_keepalive: TcpKeepalive | None
    error_files: dict[int, str]
    """Status to path."""


def frontend(config: Config, name: str) -> FrontendSettings:
    """What holds for the frontend `name`; KeyError if there is none."""
    own, defaults = config.frontends[name], config.defaults
    return FrontendSettings(
        timeouts=_waits(own.timeout, defaults.timeout),
        maxconn=_first(own.maxconn, defaults.maxconn),
        max_body_size=_first(own.max_body_size, defaults.max_body_size),
        dontlognull=own.dontlognull if own.dontlognull is not None else defaults.dontlognull,
        records=Records(
            targets=_targets(config.global_.log if own.log is None else own.log),
            dontlog_normal=_chosen(own.dontlog_normal, defaults.dontlog_normal),
            separate_errors=_chosen(own.log_separate_errors, defaults.log_separate_errors),
            log_format=own.log_format,
            capture=own.capture,
        ),
        flow_log=own.flow_log if own.flow_log is not None else defaults.flow_log,
        tcp_keepalive=_keepalive(own, config),
        error_files=defaults.error_files.paths | own.error_files.paths,
    )


def backend(config: Config, name: str) -> BackendSettings:
    """What holds for the backend `name`; KeyError if there is none."""
    own, defaults = config.backends[name], config.defaults
    return BackendSettings(
        timeouts=_waits(own.timeout, defaults.timeout),
        retries=own.retries if own.retries is not None else defaults.retries,
        redispatch=own.redispatch if own.redispatch is not None else defaults.redispatch,
        tcp_keepalive=_keepalive(own, config),
        error_files=defaults.error_files.paths | own.error_files.paths,
    )


def resolution(config: Config, name: str, server: str) -> Resolution | None:
    """That of a server of backend `name`; None where its address is none that changes, or is not to change."""
    of_backend = config.backends[name]
    own = of_backend.servers[server]
    if not own.address.is_name:
        return None
    told = own, of_backend, config.defaults
    section = next((each.resolvers for each in told if each.resolvers is not None), NONE)
    if section == NONE:
        return None
    options = next((each.resolve_opts for each in told if each.resolve_opts is not None), ())
    return Resolution(
        section=section,
        prefer=next((each.resolve_prefer for each in told if each.resolve_prefer is not None), None),
        allows_duplicates="allow-dup-ip" in options,
        ignores_weight="ignore-weight" in options,
        init_addr=next((each.init_addr for each in told if each.init_addr is not None), _INIT_ADDR),
    )


def resolvers(config: Config, section: str) -> Resolvers:
    """What holds for that section; `default` is there without being written."""
    return config.resolvers[section] if section != DEFAULT else config.resolvers.get(DEFAULT, Resolvers())


def fullconn(config: Config) -> dict[str, int]:
    """By backend, the load at which its servers are given their `maxconn`."""
    leading = dict.fromkeys(config.backends, 0)
    for name, its in config.frontends.items():
        most = frontend(config, name).maxconn or config.global_.maxconn
        for each in its.backends:
            if each in leading:
                leading[each] += most
    return {
        # HAProxy's default.
        name: own.fullconn if own.fullconn is not None else max(1, leading[name] // 10)
        for name, own in config.backends.items()
    }


def compression(config: Config, frontend: str, backend: str) -> Compression | None:
    """How responses of `backend` are compressed for clients of `frontend`; None: not at all."""
    own = config.backends[backend]
    return own.compression if "compression" in own.model_fields_set else config.frontends[frontend].compression


def _waits(own: Timeouts, defaults: Timeouts) -> Waits:
    def given(name: str) -> float | None:
        return _first(getattr(own, name), getattr(defaults, name))

    def wait(name: str, fallback: float) -> float:
        value = given(name)
        return fallback if value is None else value

    connect = wait("connect", _CONNECT)
    client = wait("client", _CLIENT)
    server = wait("server", _SERVER)
    return Waits(
        connect=connect,
        queue=wait("queue", connect),
        client=client,
        server=server,
        http_request=wait("http_request", min(_HTTP_REQUEST, client)),
        http_keep_alive=wait("http_keep_alive", min(_HTTP_KEEP_ALIVE, client)),
        tunnel=wait("tunnel", _TUNNEL),
        tunnel_given=given("tunnel") is not None,
        client_fin=wait("client_fin", client),
        server_fin=wait("server_fin", server),
    )


def _keepalive(own: Frontend | Backend, config: Config) -> TcpKeepalive | None:
    # `tcp_keepalive: false` reads as None too, but unlike silence it overrules the defaults.
    return own.tcp_keepalive if "tcp_keepalive" in own.model_fields_set else config.defaults.tcp_keepalive


def _targets(given: tuple[Log, ...]) -> tuple[Log, ...]:
    return tuple(each for each in dict.fromkeys(given) if each.target != "none")


def _chosen(own: bool | None, default: bool) -> bool:
    return default if own is None else own


def _first(own: T | None, default: T | None) -> T | None:
    return own if own is not None else default


def vrrp_version(instance: VrrpInstance) -> int:
    """2 or 3, as given or by the family of its addresses."""
    return instance.version or (3 if is_ipv6(instance) else 2)


def is_ipv6(instance: VrrpInstance) -> bool:
    """Whether its addresses are of IPv6."""
    return ":" in instance.virtual_ipaddress[0].address
