"""Services and servers in the layout of `ipvsadm -L`, for people and for what reads that (ipvsadm(8)).

Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
UDP  192.168.1.200:domain rr ops
  -> cluster5:domain              Masq    1      0          12
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Literal

from balancer import __version__
from balancer.addr import parse_address
from balancer.observe.snapshot import BackendRow, Snapshot
from balancer.pool.orders import Admin, Condition
from balancer.pool.services import Counts, Listing, ServiceFacts, TargetFacts

__all__ = ["CONNECTIONS", "View", "connection", "proxied", "table"]

View = Literal["status", "stats", "rate"]


def _title(*columns: str) -> str:
    return f"{'Prot LocalAddress:Port':<33} {' '.join(f'{column:>8}' for column in columns)}\n  -> RemoteAddress:Port\n"


_TITLES = {
    "status": "Prot LocalAddress:Port Scheduler Flags\n"
    "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n",
    "stats": _title("Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"),
    "rate": _title("CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"),
}
CONNECTIONS = (
    "IPVS connection entries\n"
    f"pro expire {'state':<11} {'source':<18} {'virtual':<18} destination\n"
)  # fmt: skip
# From 100 million on: in thousands, from a billion on in millions, …
_LARGE = ((10**8, 1, ""), (10**9, 10**3, "K"), (10**11, 10**6, "M"), (10**14, 10**9, "G"))


def table(listing: Listing, *, view: View, is_numeric: bool) -> str:
    """All services, in whole lines."""
    lines = [f"IP Virtual Server version {__version__} (size={listing.size})\n", _TITLES[view]]
    for service in listing.services:
        lines += _service(service, view, is_numeric)
    if listing.trouble:
        lines.append(f"The kernel's rules are not as they should be: {listing.trouble}\n")
    return "".join(lines)


def _service(service: ServiceFacts, view: View, is_numeric: bool) -> Iterator[str]:
    local = f"{service.protocol.upper():<4} {_end(service.address, service.port, service.protocol, is_numeric)}"
    if view == "status":
        flags = f" persistent {service.persistence:.0f}" if service.persistence is not None else ""
        yield f"{local} {_scheduler(service)}{flags}{' ops' if service.is_per_query else ''}\n"
    else:
        of = _counts(view)
        yield f"{local:<33}{_numbers(_sum(of(target) for target in service.targets))}\n"
    for target in service.targets:
        host = target.address if is_numeric else target.name
        remote = f"  -> {_end(host, target.port, service.protocol, is_numeric):<28}"
        if view == "status":
            yield f"{remote} {service.forwarding:<7} {target.weight:<6} {target.active:<10} {target.inactive:<10}\n"
        else:
            yield f"{remote}{_numbers(_counts(view)(target))}\n"


def _counts(view: View) -> Callable[[TargetFacts], Counts]:
    return (lambda target: target.rate) if view == "rate" else (lambda target: target.totals)


def _sum(counts: Iterable[Counts]) -> Counts:
    columns = list(zip(*counts, strict=True)) or [()] * len(Counts._fields)
    return Counts(*(None if None in column else sum(column) for column in columns))


def _numbers(counts: Counts) -> str:
    return "".join(f"{_number(number):>9}" for number in counts)


def _number(number: int | None) -> str:
    if number is None:
        return "-"
    for below, unit, letter in _LARGE:
        if number < below:
            return f"{number // unit}{letter}"
    return f"{number // 10**12}T"


def _scheduler(service: ServiceFacts) -> str:
    """IPVS's word for it, where there is one."""
    match service.balance:
        case "roundrobin":
            weights = {target.weight for target in service.targets if target.weight}
            return "wrr" if len(weights) > 1 else "rr"
        case "leastconn":
            return "wlc"
        case "source":
            return "mh" if service.is_consistent else "sh"
        case "maglev":
            return "mh"
        case own:
            return own


def _end(host: str, port: int, protocol: str, is_numeric: bool) -> str:
    if host.startswith("/"):
        return host
    name = str(port) if is_numeric else _port(port, protocol)
    return f"[{host}]:{name}" if ":" in host else f"{host}:{name}"


@lru_cache(maxsize=1024)
def _port(port: int, protocol: str) -> str:
    """Its name in /etc/services, as ipvsadm has it."""
    try:
        return socket.getservbyport(port, protocol)
    except OSError:
        return str(port)


def connection(protocol: str, seconds: int, state: str, ends: Iterable[tuple[str, int]], *, is_numeric: bool) -> str:
    """A line of `ipvsadm -Lc`; the ends are client, service and server."""
    expires = f"{seconds // 60:02}:{seconds % 60:02}"
    source, virtual, destination = (_end(host, port, protocol, is_numeric) for host, port in ends)
    return f"{protocol.upper():<3} {expires:<6} {state or 'UDP':<11} {source:<18} {virtual:<18} {destination}\n"


def proxied(snapshot: Snapshot) -> tuple[ServiceFacts, ...]:
    """The frontends that the proxy serves. Its servers' numbers are over all frontends of a backend."""
    backends = {row.name: row for row in snapshot.backends}
    return tuple(
        ServiceFacts(
            protocol="udp" if row.entry.mode == "udp" else "tcp",
            address=address.path or address.host,
            port=address.port,
            balance=backends[row.entry.backend].entry.balance,
            is_consistent=False,
            persistence=None,
            is_per_query=False,
            forwarding="Proxy",
            targets=tuple(_targets(backends[row.entry.backend])),
        )
        for row in snapshot.frontends
        if row.entry.engine == "proxy" and row.entry.backend in backends
        for address in map(parse_address, row.entry.binds)
    )


def _targets(backend: BackendRow) -> Iterator[TargetFacts]:
    for row in backend.servers:
        if row.state.condition is Condition.DOWN or row.state.admin is Admin.MAINT:
            continue
        address = row.address
        counters = row.counters
        yield TargetFacts(
            name=address.path or row.name,
            address=address.path or address.host,
            port=address.port,
            weight=0 if row.state.admin is Admin.DRAIN or (row.entry.backup and backend.active) else row.state.weight,
            active=counters["scur"],
            inactive=counters["srv_icur"],
            totals=Counts(counters["stot"], None, None, counters["bin"], counters["bout"]),
            rate=Counts(row.rate.sessions, None, None, None, None),
        )
