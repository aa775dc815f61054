"""Services of IPVS, from keepalived.conf or `ipvsadm-save`, as frontends of engine kernel and their backends."""

from __future__ import annotations

import ipaddress
import re
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from balancer.convert.tree import Map, Seq
from balancer.convert.words import CannotError, Line, Place, Report, number

__all__ = ["RealServer", "Service", "add", "convert", "hosts_of"]

_SCHEDULERS = {
    "rr": "roundrobin", "wrr": "roundrobin", "lc": "leastconn", "wlc": "leastconn", "sed": "leastconn",
    "nq": "leastconn", "sh": "source", "dh": "source", "mh": "maglev", "fo": "first", "twos": "random",
}  # fmt: skip
_LIKE = {"sed": "the shortest expected delay is near leastconn", "nq": "never queue is near leastconn",
         "dh": "by the client's address, not the one it connects to"}  # fmt: skip
_WAYS = {"NAT": "nat", "-m": "nat", "--masquerading": "nat"}
_HEAVIEST = 256


@dataclass
class RealServer:
    """A server of a service."""

    host: str
    port: int
    line: Line
    weight: int = 1
    is_backup: bool = False
    check: dict[str, Any] = field(default_factory=dict)


@dataclass
class Service:
    """A virtual service: TCP or UDP, at one or several addresses."""

    line: Line
    name: str
    transport: str
    addresses: list[tuple[str, int]]
    scheduler: str = "rr"
    way: str = "NAT"
    persistence: int | None = None
    servers: list[RealServer] = field(default_factory=list)
    check: Map | None = None
    check_line: Line | None = None


def hosts_of(text: str) -> dict[str, str]:
    """Addresses to names as of hosts(5), without their domains."""
    names: dict[str, str] = {}
    for row in text.splitlines():
        words = row.partition("#")[0].split()
        if len(words) > 1:
            names.setdefault(words[0], words[1].partition(".")[0])
    return names


def add(service: Service, root: Map, report: Report, names: Mapping[str, str]) -> None:
    """A frontend and a backend for a service; CannotError where there can be none."""
    if not service.addresses:
        raise CannotError("has no address of its own here")
    if not service.servers:
        raise CannotError("has no servers")
    frontends, backends = root.under("frontends"), root.under("backends")
    own, line = Map(), service.line
    mode = "udp" if service.transport == "udp" else "tcp"
    binds = Seq()
    for host, port in service.addresses:
        binds.add(_joined(host, port))
    taken = _taken(root)
    for bind in [bind for bind in binds if (mode == "udp", bind) in taken]:
        raise CannotError(f"{bind} is balanced already ({taken[mode == 'udp', bind]})")
    own.put("mode", mode)
    own.put("bind", binds[0] if len(binds) == 1 else binds)
    own.put("engine", "kernel")
    if service.way in _WAYS:
        own.put("forwarding", "nat")
    else:
        why = (
            "masqueraded in its place: servers see the director, answers pass it, and they listen on their own address"
        )
        report.lost(line, f"there is no {service.way}; {why}")
        own.put("forwarding", "masquerade")
    name = service.name
    while name in frontends or name in backends:
        name += "-ipvs"
    own.put("default_backend", name)
    frontends.put(name, own, line)
    backends.put(name, _backend(service, report, names), line)


def _taken(root: Map) -> dict[tuple[bool, str], str]:
    """Addresses that frontends have: whether they are of UDP, and the frontend."""
    taken = {}
    for name, frontend in root.get("frontends", {}).items():
        binds = frontend["bind"] if isinstance(frontend["bind"], list) else [frontend["bind"]]
        for bind in binds:
            address = bind["address"] if isinstance(bind, dict) else bind
            taken[frontend["mode"] == "udp", address] = name
    return taken


def _backend(service: Service, report: Report, names: Mapping[str, str]) -> Map:
    own, line = Map(), service.line
    if service.scheduler not in _SCHEDULERS:
        report.lost(line, f"there is no scheduler {service.scheduler}; roundrobin in its place")
    elif service.scheduler in _LIKE:
        report.other(line, _LIKE[service.scheduler])
    own.put("balance", _SCHEDULERS.get(service.scheduler, "roundrobin"))
    if service.persistence:
        own.put("persistence_timeout", f"{service.persistence}s")
    if service.check is not None:
        own.put("check", service.check, service.check_line)
    servers = Map()
    heaviest = max(server.weight for server in service.servers)
    if heaviest > _HEAVIEST:
        report.other(line, f"weights are at most {_HEAVIEST}; all are made smaller alike")
    for server in service.servers:
        weight = server.weight
        if heaviest > _HEAVIEST and weight:
            weight = max(1, round(weight * _HEAVIEST / heaviest))
        each = Map()
        each.put("address", _joined(server.host, server.port))
        if weight != 1:
            each.put("weight", weight)
        if server.is_backup:
            each.put("backup", True)
        if server.check and service.check is not None:
            each.put("check", server.check if server.check != {"enabled": False} else False)
        servers.put(_name(server, servers, names), each, server.line)
    own.put("servers", servers)
    return own


def _name(server: RealServer, servers: Map, names: Mapping[str, str]) -> str:
    name = names.get(server.host, server.host).replace("%", ".")
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", name):
        name = "server"
    for candidate in (name, f"{name}-{server.port}", *(f"{name}-{i}" for i in range(2, 100_000))):
        if candidate not in servers:
            return candidate
    raise CannotError("has too many servers")


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def convert(text: str, file: str, root: Map, report: Report, names: Mapping[str, str]) -> None:
    """Add the services of `ipvsadm-save`, with or without -n, to `root`."""
    services: dict[tuple[str, str], Service] = {}
    for count, row in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(row, comments=True)
        except ValueError:
            words = row.split()
        if not words:
            continue
        line = Line(tuple(words), Place(file, count))
        try:
            if words[0] in ("-A", "--add-service"):
                service = _service(line, report)
                services[service.transport, _option(words, _OF_SERVICE)] = service
            elif words[0] in ("-a", "--add-server"):
                _real_server(line, services, report)
            elif words[0] not in ("-C", "--clear", "-n"):
                raise CannotError("there are services (-A) and servers (-a)")
        except CannotError as error:
            report.lost(line, error.why)
    for service in services.values():
        if service.transport == "udp" and "ops" not in service.line.words and "-o" not in service.line.words:
            service.persistence = service.persistence or None
        try:
            add(service, root, report, names)
        except CannotError as error:
            for line in (service.line, *(server.line for server in service.servers)):
                report.lost(line, error.why)


_OF_SERVICE = ("-t", "-u", "-f", "--tcp-service", "--udp-service", "--fwmark-service", "--sctp-service")


def _option(words: list[str], names: tuple[str, ...]) -> str:
    return next((words[i + 1] for i, word in enumerate(words[:-1]) if word in names), "")


def _transport(words: tuple[str, ...]) -> str:
    if "-t" in words or "--tcp-service" in words:
        return "tcp"
    if "-u" in words or "--udp-service" in words:
        return "udp"
    raise CannotError("services have an address and port of TCP or UDP, no mark")


def _service(line: Line, report: Report) -> Service:
    words = list(line.words)
    transport = _transport(line.words)
    address = _option(words, _OF_SERVICE)
    host, port = _endpoint(address, transport)
    suffix = "-udp" if transport == "udp" else ""
    own = Service(
        line, f"ipvs-{host}-{port}{suffix}", transport, [(host, port)], _option(words, ("-s", "--scheduler")) or "wlc"
    )
    if "-p" in words or "--persistent" in words:
        given = _option(words, ("-p", "--persistent"))
        own.persistence = number(given, least=1) if given.isdigit() else 360
    for word in ("-M", "--netmask", "-b", "--sched-flags", "--pe"):
        if word in words:
            report.lost(Line((*line.words[:3], "…", word), line.place), "has no counterpart")
    if "-o" in words or "--ops" in words:
        report.idle(line, "DNS queries are balanced each on its own (--ops)")
    return own


def _real_server(line: Line, services: Mapping[tuple[str, str], Service], report: Report) -> None:
    words = list(line.words)
    transport = _transport(line.words)
    service = services.get((transport, _option(words, _OF_SERVICE)))
    if service is None:
        raise CannotError("belongs to no service above")
    host, port = _endpoint(_option(words, ("-r", "--real-server")), transport, default=service.addresses[0][1])
    weight = number(_option(words, ("-w", "--weight")) or "1", most=65535)
    ways = [word for word in ("-g", "--gatewaying", "-i", "--ipip") if word in words]
    if ways:
        service.way = {"g": "DR", "i": "TUN"}[ways[0].lstrip("-")[0]]
    for word in ("-x", "--u-threshold", "-y", "--l-threshold"):
        if word in words and _option(words, (word,)) != "0":
            report.lost(Line((*line.words[:5], "…", word), line.place), "the kernel counts no connections of servers")
    service.servers.append(RealServer(host, port, line, weight))


def _endpoint(text: str, transport: str, *, default: int | None = None) -> tuple[str, int]:
    """Host and port of `10.0.0.1:80`, `[fe80::1]:80`, `lb:http`."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, ""
    host = host.strip("[]")
    if not port and default is not None:
        return host, default
    if port.isdigit():
        value = int(port[:6])
    else:
        try:
            value = socket.getservbyname(port, transport)
        except OSError:
            raise CannotError(f"there is no port {port!r}; `ipvsadm-save -n` writes numbers") from None
    if value == 0:
        raise CannotError("a service is one port, not all of them")
    if not 1 <= value <= 65535 or not host:
        raise CannotError(f"{text!r} is no address")
    try:
        host = str(ipaddress.ip_address(host))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", host):
            raise CannotError(f"{text!r} is no address") from None
    return host, value
