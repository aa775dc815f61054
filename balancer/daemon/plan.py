"""What every process derives from the configuration alike: which row counts for whom, and where servers are."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from balancer.addr import Address, parse_address
from balancer.config import effective, model
from balancer.config.effective import Records
from balancer.config.logs import Log
from balancer.config.model import Config
from balancer.daemon.limits import wanted
from balancer.daemon.resolve import first_addresses
from balancer.errors import StartError
from balancer.pool.facts import Layout
from balancer.pool.orders import ServerState
from balancer.pool.overrides import Overrides

__all__ = ["Plan", "Seat"]

# A resolver that does not answer must not keep the daemon from starting.
_RESOLVE_TIMEOUT = 3.0
# Descriptors of any child besides its sockets: doorbells, log, the loop's own, one look at /proc, and room to work.
_SPARE_FILES = 64
# A datagram forwarder's own towards the servers (`mode: udp` with a query protocol).
_UDP_FILES = 256
# One check under way each; more than that are never under way (health.runner).
_MOST_CHECKS = 2000


@dataclass(frozen=True, slots=True)
class Seat:
    """A server's place: its row on the board and the address it has now."""

    index: int
    backend: str
    server: str
    address: Address | None
    """At the start; None while its name has no address."""
    name: str = ""
    """Where its name is resolved again while it runs: what is resolved."""

    def at(self, state: ServerState) -> Address | None:
        """Where it is now."""
        if state.is_unresolved:
            return None
        return Address(state.host, state.port) if state.port else self.address


@dataclass(frozen=True)
class Plan:
    """The configuration as all processes of one start see it."""

    config: Config
    workers: int
    layout: Layout
    seats: Mapping[tuple[str, str], Seat]
    pages: Mapping[str, bytes]
    """Contents of files by path (pages of errors and of rules, the certificate of the statistics page), read while we
    may still read them."""
    log: tuple[Log, ...]
    """`global.log` with addresses in place of names: no child asks a resolver."""
    records: Mapping[str, Records]
    """By frontend, what becomes of its access records; addresses as in `log`."""
    maxconn: int
    """Connections of all workers together: `global.maxconn`, or what the limit of open files allows."""
    affordable: int = sys.maxsize
    """Connections that the limit of open files allows a worker."""
    bound: Mapping[str, str] = field(default_factory=dict)
    """Address by host name, for frontends of engine kernel that are bound to one."""
    found: Mapping[str, str] = field(default_factory=dict)
    """Address by host name, of all that have one."""
    written: Config = field(default_factory=Config)
    """The configuration without what operators have changed."""
    laid: Overrides = field(default_factory=dict)
    """Servers that operators have added, deleted or moved, as `config` has them."""
    keeps_flows: bool = False
    """Whether the kernel is to go on with what it once balanced, though it is to balance nothing any more."""

    @staticmethod
    def of(config: Config, *, cores: int, known: Mapping[str, str] | None = None) -> Plan:
        """Resolve names, read files, number the servers. A name that has no address now keeps the one in `known`.

        StartError where an error file cannot be read, a server's network interface does not exist, or the log's
        host or a bind's has no address. A server whose name has none is left out (`unresolved`).
        """
        names = [(backend, server) for backend, of in config.backends.items() for server in of.servers]
        written = {pair: config.backends[pair[0]].servers[pair[1]].address for pair in names}
        log_hosts = _log_hosts(config)
        changing = {pair: effective.resolution(config, *pair) for pair in names}
        hosts = {
            address.host
            for pair, address in written.items()
            if address.is_name and _is_asked_first(changing[pair], address, known)
        }
        hosts |= log_hosts
        bound = {
            bind.address.host
            for frontend in config.frontends.values()
            if frontend.engine == "kernel"
            for bind in frontend.bind
            if bind.address.is_name
        }
        hosts |= bound | {bind.address.host for bind in _binds(config) if bind.address.is_name}
        found = first_addresses(hosts, within=_RESOLVE_TIMEOUT)
        for host in hosts & (known or {}).keys():
            found.setdefault(host, (known or {})[host])
        workers = config.global_.workers
        return Plan(
            config=config,
            workers=cores if workers == "auto" else workers,
            layout=Layout.of(config.frontends, [(name, backend.servers) for name, backend in config.backends.items()]),
            seats={
                pair: Seat(i, *pair, _resolved(pair, written[pair], found))
                if (its := changing[pair]) is None
                else Seat(i, *pair, _first(its, written[pair], found), str(written[pair]))
                for i, pair in enumerate(names)
            },
            pages=_pages(config),
            log=tuple(_resolved_log(each, found) for each in config.global_.log),
            records={name: _resolved_records(config, name, found) for name in config.frontends},
            maxconn=config.global_.maxconn,
            bound=_bound(bound, found),
            found=found,
            written=config,
        )

    @property
    def log_targets(self) -> list[Log]:
        """Each once."""
        own = [each for records in self.records.values() for each in records.targets]
        return list(dict.fromkeys([*self.log, *own]))

    @property
    def has_kernel(self) -> bool:
        """Whether the kernel is to be given rules."""
        return bool(self.config.gateway.masquerade) or self.has_kernel_frontends or self.keeps_flows

    @property
    def has_kernel_frontends(self) -> bool:
        return any(frontend.engine == "kernel" for frontend in self.config.frontends.values())

    @property
    def has_flows(self) -> bool:
        """Whether workers remember which datagrams belong together."""
        return any(map(_has_flows, self.config.frontends.values()))

    @property
    def unresolved(self) -> list[str]:
        """Servers whose names have no address, and are not resolved again."""
        return [
            f"{seat.backend}/{seat.server}" for seat in self.seats.values() if seat.address is None and not seat.name
        ]

    @property
    def maxconn_per_worker(self) -> int:
        """As many as one may have to carry: the kernel does not spread them evenly."""
        return min(self.maxconn, self.affordable)

    @property
    def open_files(self) -> int:
        """How many descriptors the process that needs most of them needs."""
        own = self._own_files
        flows = sum(frontend.udp.max_flows for frontend in self.config.frontends.values() if _has_flows(frontend))
        supervisor = own * self.workers
        control = 2 * min(len(self.seats), _MOST_CHECKS) + _SPARE_FILES
        # A client's and a server's connection each.
        worker = own + 2 * self.maxconn_per_worker + flows
        return max(supervisor, control, worker)

    def within(self, open_files: int) -> Plan:
        """The same with as many connections as that many descriptors carry.

        StartError when they carry none.
        """
        affordable = (open_files - self._own_files) // 2
        if affordable < 1 or open_files < self._own_files * self.workers:
            raise StartError(
                f"{open_files} open files are too few to serve anybody, the limit must be "
                f"{max(self._own_files * self.workers, self._own_files + 2)} at least: raise it "
                "(LimitNOFILE=, ulimit -n)"
            )
        return dataclasses.replace(self, maxconn=min(self.maxconn, affordable * self.workers), affordable=affordable)

    @property
    def _own_files(self) -> int:
        """A worker's descriptors before the first connection, those of limits with them. Listening sockets count twice:
        the loop has its own."""
        files = _SPARE_FILES + len(wanted(self.config, self.maxconn))
        for frontend in self.config.frontends.values():
            if frontend.engine == "proxy":
                files += 2 * len(frontend.bind)
                if frontend.mode == "udp":
                    servers = len(self.config.backends[frontend.default_backend].servers)
                    files += min(_UDP_FILES, 8 * servers)
        return files


def _binds(config: Config) -> Iterator[model.Bind]:
    for frontend in config.frontends.values():
        yield from frontend.bind
    if config.stats is not None:
        yield from config.stats.bind


def _has_flows(frontend: model.Frontend) -> bool:
    return frontend.mode == "udp" and frontend.engine == "proxy" and frontend.udp.protocol != "dns"


def _resolved(pair: tuple[str, str], address: Address, found: Mapping[str, str]) -> Address | None:
    if address.is_name:
        return address.with_host(found[address.host]) if address.host in found else None
    try:
        _ = address.sockaddr
    except OSError:
        zone = address.host.partition("%")[2]
        raise StartError(
            f"backends.{pair[0]}.servers.{pair[1]}.address: {address}: there is no interface {zone!r}"
        ) from None
    return address


def _is_asked_first(its: effective.Resolution | None, address: Address, known: Mapping[str, str] | None) -> bool:
    """Whether the host's resolver is asked for a name. Where a server is that is resolved while it runs, is known after
    a reload."""
    if its is None:
        return True
    is_known = known is not None and address.host in known
    return "libc" in its.init_addr and not address.is_service and not is_known


def _first(its: effective.Resolution, address: Address, found: Mapping[str, str]) -> Address | None:
    """Until it is resolved; where it was before the restart is not known here."""
    for way in its.init_addr:
        if way == "none" or (address.is_service and way not in ("last", "libc")):
            break
        host = found.get(address.host) if way == "libc" else way
        if host is not None and way != "last":
            return address.with_host(host)
    return None


def _bound(hosts: Collection[str], found: Mapping[str, str]) -> dict[str, str]:
    for host in hosts:
        if host not in found:
            raise StartError(f"no address found for {host}, which a frontend is bound to; write an address or mend it")
    return {host: found[host] for host in hosts}


def _log_hosts(config: Config) -> set[str]:
    """Of syslog elsewhere, those that are names."""
    targets = {each.target for name in config.frontends for each in effective.frontend(config, name).records.targets}
    targets |= {each.target for each in config.global_.log}
    addresses = [parse_address(target.partition("://")[2]) for target in targets if "://" in target]
    return {address.host for address in addresses if address.is_name}


def _resolved_log(log: Log, found: Mapping[str, str]) -> Log:
    scheme, mark, where = log.target.partition("://")
    address = parse_address(where) if mark else None
    if address is None or not address.is_name:
        return log
    if address.host not in found:
        raise StartError(
            f"log target {log.target}: no address found for {address.host}; write an address or mend the name"
        )
    return log.model_copy(update={"target": f"{scheme}://{address.with_host(found[address.host])}"})


def _resolved_records(config: Config, name: str, found: Mapping[str, str]) -> Records:
    records = effective.frontend(config, name).records
    return dataclasses.replace(records, targets=tuple(_resolved_log(each, found) for each in records.targets))


# A response's head (RFC 9112 section 2.1), also with bare line feeds.
_HEAD = re.compile(rb"\AHTTP/[0-9.]+ [0-9]{3}[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n")


def _pages(config: Config) -> dict[str, bytes]:
    files = [effective.frontend(config, name).error_files for name in config.frontends]
    files += [effective.backend(config, name).error_files for name in config.backends]
    paths = {path: "error_files" for of_one in files for path in of_one.values()}
    paths |= {path: "http_request" for frontend in config.frontends.values() for path in frontend.files}
    tls = config.stats.tls if config.stats is not None else None
    if tls is not None:
        paths |= dict.fromkeys(filter(None, (tls.crt, tls.key)), "stats.tls")
    pages = {}
    for path, what in paths.items():
        try:
            octets = Path(path).read_bytes()
            # HAProxy's errorfile is a whole response; ours is the page, and its head made here.
            pages[path] = octets if what != "error_files" else _HEAD.sub(b"", octets, count=1)
        except OSError as error:
            raise StartError(f"{what}: cannot read {path}: {error.strerror}") from None
    return pages
