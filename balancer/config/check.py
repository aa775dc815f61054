"""What no single key can know: names that resolve to nothing, parts that do not fit together."""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from collections.abc import Collection, Iterator

from balancer.addr import Address
from balancer.config import htpasswd
from balancer.config.certificate import troubles
from balancer.config.check_logs import check_logs
from balancer.config.check_rules import FRAMING, check_acls, check_rules
from balancer.config.check_vrrp import check_vrrp
from balancer.config.clash import clashes
from balancer.config.engines import unreachable
from balancer.config.files import LARGEST_PAGE, unreadable
from balancer.config.format import variables
from balancer.config.model import (
    Backend,
    Balance,
    Bind,
    CheckBase,
    Compression,
    Config,
    DnsCheck,
    ErrorFiles,
    Frontend,
    HttpCheck,
    Server,
    TcpCheck,
)
from balancer.config.resolvers import NONE, check_resolution, check_resolvers
from balancer.config.sources import RequestLimit, SourceLimits
from balancer.config.tree import Finding, Loc
from balancer.config.warn import warnings
from balancer.config.words import did_you_mean, printable

__all__ = ["check", "warnings"]

# A shorter head refuses every browser.
_SMALLEST_HEAD = 1024
# More often than this, the checks of a few servers keep a core busy.
_SHORTEST_INTERVAL = 0.01
# The kernel's sets forget on a clock of their own, and a shorter stay is none.
_SHORTEST_STAY = 1.0
# Algorithm to the Python module that it wants, and Debian's package of it.
_MODULES = {"br": ("brotli", "python3-brotli"), "zstd": ("zstandard", "python3-zstandard")}
# What a worker that dies leaves in a table is wiped by the supervisor, who has other things to do: a millisecond.
_LARGEST_TABLE = 1 << 20
_MODES_OF_LIMITS = {
    "connections": ("tcp", "http"),
    "connection_rate": ("tcp", "http"),
    "request_rate": ("http", "udp"),
    "error_rate": ("http",),
}
# What rules and balancing find out later.
_NOT_IN_REQUEST_ID = frozenset(("request_id", "user", "backend", "server", *"123456789"))
# What a rule can name: nftables has no way to write a quotation mark, and a star at the end stands for any name.
_RULE_INTERFACE = re.compile(r"[A-Za-z0-9_.@:-]+")


def check(
    config: Config,
    *,
    whole: Config | None = None,
    broken: frozenset[str] = frozenset(),
    broken_acls: frozenset[str] = frozenset(),
    broken_resolvers: frozenset[str] = frozenset(),
    emptied: Collection[str] = (),
) -> list[Finding]:
    """All that is wrong between the parts of `config`. Reads error files, and nothing else outside it.

    Where frontends or backends were left out because something else is wrong with them, `whole` has the frontends'
    outlines too (an empty name or no bind is not known), and `broken` names the backends, `broken_acls` the acls,
    and `broken_resolvers` the sections of `resolvers`. `emptied` backends may be without a server.
    """
    whole = whole or config
    users = _users(config)
    known = dict.fromkeys([*config.backends, *sorted(broken)])
    acls = config.acls | dict.fromkeys(sorted(broken_acls - config.acls.keys()))
    sections = [*config.resolvers, *sorted(broken_resolvers)]
    findings = [
        *_global(config),
        *_error_files(("defaults", "error_files"), config.defaults.error_files),
        *clashes(whole),
        *_stats(config),
        *_gateway(config),
        *check_vrrp(config),
        *check_logs(config),
        *check_acls(config, acls),
        *check_resolvers(config.resolvers),
        *check_resolution(("defaults",), config.defaults, sections),
    ]
    for name, frontend in whole.frontends.items():
        if frontend.default_backend:
            findings += _backend_of(("frontends", name, "default_backend"), frontend.default_backend, known)
    for name, frontend in config.frontends.items():
        findings += _frontend(name, frontend)
        findings += check_rules(("frontends", name), frontend, acls)
        for i, rule in enumerate(frontend.use_backend):
            findings += _backend_of(("frontends", name, "use_backend", i, "backend"), rule.backend, known)
    for name, backend in config.backends.items():
        findings += _backend(name, backend, users[name], may_be_empty=name in emptied)
        findings += _names(name, backend, config.defaults.resolvers or NONE, sections)
    return findings


def _gateway(config: Config) -> Iterator[Finding]:
    for i, way in enumerate(config.gateway.masquerade):
        if not _RULE_INTERFACE.fullmatch(way.interface):
            yield Finding(("gateway", "masquerade", i, "interface"), f"no rule can name an interface {way.interface!r}")


def _users(config: Config) -> dict[str, list[tuple[str, Frontend]]]:
    """Backend to the frontends that use it, with their names."""
    users = defaultdict(list)
    for name, frontend in config.frontends.items():
        for backend in frontend.backends:
            users[backend].append((name, frontend))
    return users


def _global(config: Config) -> Iterator[Finding]:
    if config.global_.max_header_size < _SMALLEST_HEAD:
        yield Finding(("global", "max_header_size"), f"is too small; at least {_SMALLEST_HEAD} octets are needed")
    if config.global_.max_uri_size > config.global_.max_header_size:
        yield Finding(
            ("global", "max_uri_size"),
            f"is larger than max_header_size ({config.global_.max_header_size}), which the request line is part of",
        )


def _backend_of(loc: Loc, wanted: str, known: Collection[str]) -> Iterator[Finding]:
    if wanted in known:
        return
    if not known:
        yield Finding(loc, f"there is no backend {wanted!r}, and no other; add it under `backends:`")
    else:
        some = ", ".join(map(printable, list(known)[:10])) + (", …" if len(known) > 10 else "")
        yield Finding(loc, f"there is no backend {wanted!r}; there are {some}{did_you_mean(wanted, known)}")


def _frontend(name: str, frontend: Frontend) -> Iterator[Finding]:
    loc: Loc = ("frontends", name)
    is_kernel = frontend.engine == "kernel"
    if is_kernel and frontend.mode == "http":
        yield Finding((*loc, "engine"), "the kernel cannot read requests; mode http wants engine proxy")
    if frontend.forwarded_for is not None and frontend.mode != "http":
        yield Finding((*loc, "forwarded_for"), f"is for mode http only, this is mode {frontend.mode}", "key")
    for key in ("forwarded", "x_forwarded", "trusted_proxies", "request_id", "max_body_size"):
        given = getattr(frontend, key)
        if given is not None and given != () and frontend.mode != "http":
            yield Finding((*loc, key), f"is for mode http only, this is mode {frontend.mode}", "key")
    if frontend.forwarded_for is not None and frontend.forwarded_for.header.lower() in FRAMING:
        text = f"{frontend.forwarded_for.header} has a meaning of its own in HTTP; choose another header"
        yield Finding((*loc, "forwarded_for", "header"), text)
    if frontend.request_id is not None:
        if frontend.request_id.header.lower() in FRAMING:
            text = f"{frontend.request_id.header} has a meaning of its own in HTTP; choose another header"
            yield Finding((*loc, "request_id", "header"), text)
        for name in sorted(variables(frontend.request_id.format) & _NOT_IN_REQUEST_ID):
            yield Finding((*loc, "request_id", "format"), f"%[{name}] is not known yet when a request gets its name")
    if frontend.compression is not None:
        if frontend.mode != "http":
            yield Finding((*loc, "compression"), f"is for mode http only, this is mode {frontend.mode}", "key")
        yield from _compression((*loc, "compression"), frontend.compression)
    for i, bind in enumerate(frontend.bind):
        at = (*loc, "bind", i)
        yield from _bind(at, bind)
        if bind.accept_proxy and frontend.mode == "udp":
            yield Finding((*at, "accept_proxy"), "the PROXY protocol needs a connection; not with mode udp", "key")
        elif bind.accept_proxy and is_kernel:
            yield Finding((*at, "accept_proxy"), "the kernel knows no PROXY protocol; wants engine proxy", "key")
        if is_kernel and bind.interface is not None and not _RULE_INTERFACE.fullmatch(bind.interface):
            yield Finding((*at, "interface"), f"engine kernel cannot write a rule for an interface {bind.interface!r}")
        if bind.address.path and frontend.mode == "udp":
            yield Finding((*at, "address"), f"mode udp wants an IP address and port, not the path {bind.address.path}")
        elif bind.address.path and is_kernel:
            text = f"engine kernel wants an IP address and port, not the path {bind.address.path}"
            yield Finding((*at, "address"), text)
        elif is_kernel and not bind.address.is_name and (why := unreachable(bind.address.host)):
            yield Finding((*at, "address"), f"{bind.address} {why}; wants engine proxy")
    if frontend.limits is not None:
        yield from _limits((*loc, "limits"), frontend, frontend.limits)
    yield from _error_files((*loc, "error_files"), frontend.error_files)


def _compression(loc: Loc, own: Compression) -> Iterator[Finding]:
    for i, algorithm in enumerate(own.algorithms):
        module, package = _MODULES.get(algorithm, ("zlib", ""))
        if importlib.util.find_spec(module) is None:
            text = f"{algorithm} wants the Python module {module}: pip install 'pybalancerd[compression]', or {package}"
            yield Finding((*loc, "algorithms", i), text)
        if algorithm in own.algorithms[:i]:
            yield Finding((*loc, "algorithms", i), f"{algorithm} stands here twice")


def _limits(loc: Loc, frontend: Frontend, limits: SourceLimits) -> Iterator[Finding]:
    if frontend.engine == "kernel":
        yield Finding(loc, "the kernel does not count what a client takes; wants engine proxy", "key")
    for key, modes in _MODES_OF_LIMITS.items():
        given = getattr(limits, key)
        if given is None:
            continue
        if frontend.mode not in modes:
            text = f"is for mode {' and '.join(modes)} only, this is mode {frontend.mode}"
            yield Finding((*loc, key), text, "key")
        elif isinstance(given, RequestLimit) and frontend.mode == "udp":
            for answer in sorted(given.model_fields_set - {"limit"}):
                yield Finding((*loc, key, answer), "is for mode http only: a datagram gets no answer", "key")
    if all(getattr(limits, key) is None for key in _MODES_OF_LIMITS):
        yield Finding(loc, f"limits nothing; give one of {', '.join(_MODES_OF_LIMITS)}", "key")
    if limits.table_size > _LARGEST_TABLE:
        yield Finding((*loc, "table_size"), f"is too large; at most {_LARGEST_TABLE >> 20}m")


def _bind(loc: Loc, bind: Bind) -> Iterator[Finding]:
    if bind.v4v6 and bind.address.host != "::":
        yield Finding((*loc, "v4v6"), "is for the address [::]:PORT only", "key")
    if bind.mode is not None and not bind.address.path:
        yield Finding((*loc, "mode"), "permission bits are for a Unix socket only, this is an IP address", "key")
    if bind.interface is not None and bind.address.path:
        yield Finding((*loc, "interface"), "a Unix socket is on no interface", "key")


def _backend(
    name: str, backend: Backend, users: list[tuple[str, Frontend]], *, may_be_empty: bool
) -> Iterator[Finding]:
    loc: Loc = ("backends", name)
    other = next(((user, frontend.mode) for user, frontend in users if frontend.mode != "http"), None)
    if backend.balance is Balance.URI and other is not None:
        text = f"uri is for requests, but frontend {other[0]} (mode {other[1]}) uses this backend"
        yield Finding((*loc, "balance"), text)
    if backend.cookie is not None:
        if users and all(frontend.mode != "http" for _, frontend in users):
            text = f"a cookie needs a frontend of mode http, but {users[0][0]} is of mode {users[0][1].mode}"
            yield Finding((*loc, "cookie"), text, "key")
        yield from _cookies(loc, backend)
    if backend.compression is not None:
        if users and all(frontend.mode != "http" for _, frontend in users):
            text = f"compression needs a frontend of mode http, but {users[0][0]} is of mode {users[0][1].mode}"
            yield Finding((*loc, "compression"), text, "key")
        yield from _compression((*loc, "compression"), backend.compression)
    if backend.cache is not None:
        if users and all(frontend.mode != "http" for _, frontend in users):
            text = f"a cache needs a frontend of mode http, but {users[0][0]} is of mode {users[0][1].mode}"
            yield Finding((*loc, "cache"), text, "key")
        largest = backend.cache.max_object_size
        if largest is not None and largest > backend.cache.total_max_size // 2:
            text = f"is more than half of total_max_size ({backend.cache.total_max_size})"
            yield Finding((*loc, "cache", "max_object_size"), text)
    if not backend.servers and not may_be_empty:
        is_written = "servers" in backend.model_fields_set
        text = "must not be empty" if is_written else "is missing; it has no default"
        yield Finding((*loc, "servers"), text, "value" if is_written else "missing")
    yield from _servers(loc, backend, users)
    if backend.persistence_timeout is not None and backend.persistence_timeout < _SHORTEST_STAY:
        yield Finding((*loc, "persistence_timeout"), "is too short; the shortest is 1s")
    if isinstance(backend.check, CheckBase):
        yield from _check((*loc, "check"), backend.check)
    yield from _error_files((*loc, "error_files"), backend.error_files)


def _names(name: str, backend: Backend, default: str, sections: Collection[str]) -> Iterator[Finding]:
    """Of servers that are to be resolved while it runs."""
    loc: Loc = ("backends", name)
    yield from check_resolution(loc, backend, sections)
    default = backend.resolvers or default
    templates = [((*loc, "server_template", i), each) for i, each in enumerate(backend.server_template)]
    of_template = {server for _, each in templates for server in each.servers}
    own = [((*loc, "servers", at), each) for at, each in backend.servers.items() if at not in of_template]
    for at, each in (*own, *templates):
        yield from check_resolution(at, each, sections)
        is_resolved = (each.resolvers or default) != NONE
        if each.address.is_service and not is_resolved:
            text = (
                f"{each.address} names SRV records, which want `resolvers: default` (or another) beside it; or a port"
            )
            yield Finding((*at, "address"), text)
        elif (at, each) in templates and not (is_resolved and each.address.is_name):
            text = "wants a name, and `resolvers: default` (or another) beside it: else all servers were the same one"
            yield Finding((*at, "address"), text)


def _cookies(loc: Loc, backend: Backend) -> Iterator[Finding]:
    if all(server.cookie is None for server in backend.servers.values()):
        yield Finding((*loc, "cookie"), "no server of this backend has a `cookie: VALUE` of its own", "key")
    owners: dict[str, tuple[str, Address]] = {}
    for name, server in backend.servers.items():
        if server.cookie is None:
            continue
        owner, address = owners.setdefault(server.cookie, (name, server.address))
        # Two names for one server may well share their clients.
        if owner != name and address != server.address:
            text = f"{server.cookie!r} is the value of server {owner} too, so a client could not be told apart"
            yield Finding((*loc, "servers", name, "cookie"), text)


def _servers(loc: Loc, backend: Backend, users: list[tuple[str, Frontend]]) -> Iterator[Finding]:
    udp = next((f"frontend {user} (mode udp)" for user, frontend in users if frontend.mode == "udp"), None)
    kernel = next((f"frontend {user} (engine kernel)" for user, frontend in users if frontend.engine == "kernel"), None)
    user = udp or kernel
    for name, server in backend.servers.items():
        at = (*loc, "servers", name)
        if server.address.is_wildcard:
            yield Finding((*at, "address"), f"{server.address} is no server's address; write the one it listens on")
        if user is not None and server.address.path:
            yield Finding((*at, "address"), f"{user} cannot reach a Unix socket")
        if user is not None and server.send_proxy is not None:
            yield Finding((*at, "send_proxy"), f"{user} cannot send the PROXY protocol", "key")
        if server.maxconn is not None and udp is not None:
            yield Finding((*at, "maxconn"), f"{udp} has no connections to count; give it a backend of its own", "key")
        if server.minconn is not None and (server.maxconn is None or server.minconn > server.maxconn):
            text = "wants a `maxconn` beside it, to which it rises" if server.maxconn is None else "is above `maxconn`"
            yield Finding((*at, "minconn"), text, "key")
        if server.maxqueue is not None and server.maxconn is None:
            yield Finding((*at, "maxqueue"), "wants a `maxconn` beside it, without which nobody waits", "key")
        if server.observe != "none":
            yield from _observation(at, backend, server, users)
        if server.address.path:
            yield from _unix_check(at, backend, server)


def _observation(loc: Loc, backend: Backend, server: Server, users: list[tuple[str, Frontend]]) -> Iterator[Finding]:
    if not isinstance(backend.check, CheckBase) or not server.check.enabled:
        yield Finding((*loc, "observe"), "wants a check: nothing else would tell that the server is well again", "key")
    for name, frontend in users:
        if server.observe == "layer7" and frontend.mode != "http":
            text = f"layer7 is for requests, but frontend {name} (mode {frontend.mode}) uses this backend"
            yield Finding((*loc, "observe"), text)
        elif frontend.mode == "udp" or frontend.engine == "kernel":
            what = "mode udp" if frontend.mode == "udp" else "engine kernel"
            yield Finding((*loc, "observe"), f"frontend {name} ({what}) does not see connections fail", "key")


def _unix_check(loc: Loc, backend: Backend, server: Server) -> Iterator[Finding]:
    """A check of a server that has no port: of its socket, or of an address and port given for it."""
    own = server.check
    if not own.enabled or not isinstance(backend.check, CheckBase):
        return
    if own.address is not None and own.port is None and backend.check.port is None:
        text = "wants a `port` beside it: the server is a Unix socket and has none"
        yield Finding((*loc, "check", "address"), text, "key")
    elif own.port is not None and own.address is None:
        text = "wants an `address` beside it: the server is a Unix socket"
        yield Finding((*loc, "check", "port"), text, "key")
    elif own.address is None and backend.check.port is not None:
        text = "is a Unix socket and has no port, which the backend's check wants; give it a check.address"
        yield Finding((*loc, "address"), text)
    elif own.address is None and isinstance(backend.check, DnsCheck):
        text = "a check of type dns cannot ask a Unix socket; give the server a check.address and check.port"
        yield Finding((*loc, "address"), text)


def _check(loc: Loc, own: CheckBase) -> Iterator[Finding]:
    for key in ("interval", "fast_interval", "down_interval"):
        value = getattr(own, key)
        if value is not None and value < _SHORTEST_INTERVAL:
            yield Finding((*loc, key), "is too short; the shortest is 10ms")
    if own.send_proxy and not isinstance(own, (TcpCheck, HttpCheck)):
        yield Finding((*loc, "send_proxy"), "is for checks of type tcp and http only", "key")
    if isinstance(own, HttpCheck):
        yield from _http_check(loc, own)


def _http_check(loc: Loc, own: HttpCheck) -> Iterator[Finding]:
    if own.path == "*" and own.method != "OPTIONS":
        yield Finding((*loc, "path"), f"`*` is for method OPTIONS only, not {own.method}")
    for header in own.headers:
        if header.lower() in FRAMING:
            hint = "; the key `host` beside `headers` sets it" if header.lower() == "host" else ""
            yield Finding((*loc, "headers", header), f"{header} cannot be set by hand{hint}", "key")
    if own.tls is not None and own.tls.ca_file is not None:
        trouble = unreadable(own.tls.ca_file, largest=None)
        if trouble:
            yield Finding((*loc, "tls", "ca_file"), trouble)


def _error_files(loc: Loc, files: ErrorFiles) -> Iterator[Finding]:
    for status, path in files.paths.items():
        trouble = unreadable(path, largest=LARGEST_PAGE)
        if trouble:
            yield Finding((*loc, str(status)), trouble)


def _stats(config: Config) -> Iterator[Finding]:
    stats = config.stats
    if stats is None:
        return
    for i, bind in enumerate(stats.bind):
        yield from _bind(("stats", "bind", i), bind)
    if stats.tls is not None:
        for key, trouble in troubles(stats.tls):
            yield Finding(("stats", "tls", key), trouble)
    if stats.metrics is not None and stats.metrics.partition("?")[0] == stats.uri.partition("?")[0]:
        yield Finding(("stats", "metrics"), f"has the same path as the page ({stats.uri}); give one of them another")
    if stats.admin and not stats.users:
        text = "wants `users`: without them anyone who reaches the page could change servers"
        yield Finding(("stats", "admin"), text, "key")
    elif stats.admin and not any(user.admin for user in stats.users.values()):
        yield Finding(("stats", "admin"), "has no user who may: every one of `users` is `admin: false`", "key")
    for name, user in stats.users.items():
        why = htpasswd.unusable(user.password) if htpasswd.is_hash(user.password) else ""
        if why:
            yield Finding(("stats", "users", name), f"the password {why}; make it with htpasswd -nB")
