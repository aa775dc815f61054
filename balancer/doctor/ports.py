"""Ports and files of sockets: are they free, and if not, who has them? And who else does our work here."""

from __future__ import annotations

import errno
import re
import socket
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from balancer.doctor.case import Case, Listener
from balancer.doctor.finding import Finding, ok, problem, unknown
from balancer.doctor.processes import Process, Socket

__all__ = ["binds", "files", "ipvs", "rivals"]

# linux/in.h and linux/in6.h, where Python has no name for it.
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_ROUTER_ID = re.compile(r"^\s*virtual_router_id\s+([0-9]+)", re.MULTILINE)
_LONGEST_LIST = 3
# Of findings that are counted.
_OWN = "own port"


def binds(case: Case) -> Iterator[Finding]:
    """Can each be bound, as the daemon binds it?"""
    table = list(case.processes.sockets())
    tried: set[tuple[object, ...]] = set()
    free, own = 0, []
    for listener in case.listeners:
        place = listener.protocol, listener.address, listener.bind.interface
        if place in tried:
            continue
        tried.add(place)
        error = _try(listener)
        if error is None:
            free += 1
            continue
        for finding in _taken(case, listener, error, table):
            if finding.check == _OWN:
                own.append(finding.what)
            else:
                yield finding
    for what, count in Counter(own).items():
        yield ok("port", f"{count} of {len(tried)} addresses to listen at are {what}")
    if free:
        yield ok("port", f"{free} of {len(tried)} addresses to listen at are free")
    for key, address in _unresolved(case):
        yield problem(
            "name", f"{address} has no address", f"{key}: the daemon does not start", f"getent ahosts {address}"
        )


def _unresolved(case: Case) -> Iterator[tuple[str, str]]:
    for name, frontend in case.config.frontends.items():
        for bind in frontend.bind:
            if bind.address.is_name and case.resolved(bind.address) is None:
                yield f"frontends.{name}.bind", bind.address.host
    for bind in case.config.stats.bind if case.config.stats is not None else ():
        if bind.address.is_name and case.resolved(bind.address) is None:
            yield "stats.bind", bind.address.host


def _try(listener: Listener) -> OSError | None:
    """As daemon.sockets does it, but nobody can connect meanwhile: it is let go at once."""
    kind = socket.SOCK_DGRAM if listener.protocol == "udp" else socket.SOCK_STREAM
    try:
        with socket.socket(listener.address.family, kind) as own:
            if own.family == socket.AF_INET6:
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not listener.bind.v4v6))
                own.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                own.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if kind == socket.SOCK_STREAM:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listener.bind.interface is not None:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, listener.bind.interface.encode())
            own.bind(listener.address.sockaddr)
    except OSError as error:
        return error
    return None


def _taken(case: Case, listener: Listener, error: OSError, table: Sequence[Socket]) -> Iterator[Finding]:
    effect = f"{listener.key}: the daemon does not start"
    match error.errno:
        case errno.EADDRINUSE:
            yield from _held(case, listener, effect, table)
        case errno.EACCES | errno.EPERM:
            # What binds it is the service, not who asks.
            if any(_clashes(listener, other) for other in table):
                yield from _held(case, listener, effect, table)
            else:
                yield ok("port", f"{listener} is free; to bind it takes CAP_NET_BIND_SERVICE, as the unit has it")
        case errno.EAFNOSUPPORT | errno.EADDRNOTAVAIL if listener.address.family == socket.AF_INET6:
            yield problem(
                "port",
                f"{listener} cannot be bound: IPv6 is switched off on this machine",
                effect,
                "cat /proc/cmdline /proc/sys/net/ipv6/conf/all/disable_ipv6",
            )
        case errno.ENODEV:
            # The interface's own check says more.
            return
        case _:
            yield problem("port", f"{listener} cannot be bound: {error.strerror}", effect)


def _held(case: Case, listener: Listener, effect: str, table: Sequence[Socket]) -> Iterator[Finding]:
    others = [other for other in table if _clashes(listener, other)]
    # A connection that somebody has made from that port holds it only where nobody listens there.
    others = [other for other in others if other.is_listening] or others
    holders = list({each.pid: each for other in others for each in case.processes.having(other.inode)}.values())
    port = listener.address.port
    look = f"ss -{'u' if listener.protocol == 'udp' else 't'}anp 'sport = :{port}'"
    if holders and all(each.is_ours for each in holders):
        its = holders[0].file
        yield ok(_OWN, f"the daemon's own (process {holders[0].pid}{f', {its}' if its else ''})")
        return
    if not holders:
        if case.processes.daemons and not case.processes.is_whole:
            yield unknown("port", f"{listener} is taken, by whom only root can see", effect, f"sudo {look}")
        else:
            who = "by whom only root can see" if not case.processes.is_whole else "by nobody in this PID namespace"
            yield problem("port", f"{listener} is taken, {who}", effect, f"sudo {look}")
        return
    strangers = [each for each in holders if not each.is_ours]
    shown = ", ".join(map(str, strangers[:_LONGEST_LIST])) + (", …" if len(strangers) > _LONGEST_LIST else "")
    now, always = _end(strangers[0], port)
    yield problem("port", f"{listener} is taken by {shown}", effect, *now, always=always)


def _end(process: Process, port: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if process.unit == "systemd-resolved.service" and port == 53:
        file = "/etc/systemd/resolved.conf.d/pybalancer.conf"
        line = f"mkdir -p {Path(file).parent} && printf '[Resolve]\\nDNSStubListener=no\\n' > {file}"
        link = "ln -sf /run/systemd/resolve/resolv.conf /etc/resolv.conf"
        return (line, link, "systemctl restart systemd-resolved"), ()
    if process.unit:
        return (f"systemctl stop {process.unit}",), (f"systemctl disable {process.unit}",)
    return (f"kill {process.pid}",), ()


def _clashes(listener: Listener, other: Socket) -> bool:
    if (other.protocol, other.port) != (listener.protocol, listener.address.port):
        return False
    own = ip_address(listener.address.host.partition("%")[0])
    families = set(listener.families)
    if other.address.version not in families and not (other.address.version == 6 and _is_any(other.address)):
        return False
    return _is_any(own) or _is_any(other.address) or own == other.address


def _is_any(ip: IPv4Address | IPv6Address) -> bool:
    return int(ip) == 0


def files(case: Case) -> Iterator[Finding]:
    """Unix sockets: is the directory there, and nothing else of that name?"""
    wanted = {
        bind.address.path: f"frontends.{name}.bind"
        for name, frontend in case.config.frontends.items()
        for bind in frontend.bind
        if bind.address.path
    }
    if case.config.stats is not None:
        wanted |= {bind.address.path: "stats.bind" for bind in case.config.stats.bind if bind.address.path}
    own = case.config.global_.runtime_socket
    if own is not None:
        wanted[own.path] = "global.runtime_socket"
    for path, key in wanted.items():
        yield from _file(case, Path(path), key)


def _file(case: Case, path: Path, key: str) -> Iterator[Finding]:
    effect = f"{key}: the daemon does not start"
    try:
        found = path.lstat()
    except FileNotFoundError:
        directory = path.parent
        # That of the runtime socket is made where it is missing, but nothing above it.
        is_made = key == "global.runtime_socket" and directory.parent.is_dir()
        if not directory.is_dir() and not is_made:
            yield problem("socket", f"there is no directory {directory}", effect, f"install -d -m 0755 {directory}")
        return
    except OSError as error:
        yield unknown("socket", f"{path}: {error.strerror}", effect)
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield problem("socket", f"{path} is there, and is no socket", effect, f"ls -l {path}", f"rm {path}")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        result = probe.connect_ex(str(path))
    if result == errno.ECONNREFUSED:
        yield ok("socket", f"{path} was left behind; the daemon puts its own in its place")
    elif result in (errno.EACCES, errno.EPERM):
        yield unknown("socket", f"{path}: only its owner can tell who listens there", effect)
    elif case.processes.daemons:
        yield ok("socket", f"{path} is the daemon's own")
    else:
        yield problem("socket", f"another program listens at {path}", effect, f"ss -lxp src {path}")


def rivals(case: Case) -> Iterator[Finding]:
    """keepalived and HAProxy, beside us."""
    for process in case.processes.named("keepalived"):
        if _is_child(case, process):
            continue
        yield from _keepalived(case, process)
    parents = [each for each in case.processes.named("haproxy") if not _is_child(case, each)]
    for process in parents:
        # Whose ports are ours is said with the ports.
        yield ok("haproxy", f"{process} runs beside us, which does no harm where it has ports of its own")


def _is_child(case: Case, process: Process) -> bool:
    stat_ = case.settings.text(f"proc/{process.pid}/stat") or ""
    with suppress(ValueError, IndexError):
        parent = case.processes.all.get(int(stat_.rpartition(")")[2].split()[1]))
        return parent is not None and parent.program == process.program
    return False


def _keepalived(case: Case, process: Process) -> Iterator[Finding]:
    path = "/etc/keepalived/keepalived.conf"
    for i, word in enumerate(process.command):
        if word in ("-f", "--use-file") and i + 1 < len(process.command):
            path = process.command[i + 1]
        elif word.startswith("--use-file="):
            path = word.partition("=")[2]
    if not path.startswith("/"):
        with suppress(OSError):
            path = str((case.settings.path(f"proc/{process.pid}/cwd") / path).resolve())
    text = case.settings.text(path.lstrip("/"))
    now, always = _end(process, 0)
    if text is None:
        if case.routers:
            yield unknown("keepalived", f"{process} runs here, {path} cannot be read", "has it our addresses too?")
        return
    # Addresses are words of their own.
    words = set(re.split(r"[\s/{}]+", text))
    shared = [str(vip.ip) for router in case.routers for vip in router.vips if str(vip.ip) in words]
    numbers = {int(found[1]) for found in _ROUTER_ID.finditer(text)}
    same = [router for router in case.routers if router.vrid in numbers and router.interface in words]
    if shared or same:
        what = f"has {', '.join(shared[:_LONGEST_LIST])}"
        if not shared:
            what = f"is virtual router {same[0].vrid} on {same[0].interface}"
        yield problem(
            "keepalived",
            f"{process} {what} too ({path})",
            "vrrp: two on one host do not hear each other, and put and take the same addresses",
            *now,
            always=always,
        )
    else:
        yield ok("keepalived", f"{process} runs beside us, with other addresses and virtual routers")


def ipvs(case: Case) -> Iterator[Finding]:
    """Services that ipvsadm or keepalived has left in the kernel: it would balance them, and we get nothing."""
    lines = case.settings.lines("proc/thread-self/net/ip_vs")
    services = {each for line in lines if (each := _ipvs_service(line)) is not None}
    if not services:
        return
    wanted: list[tuple[str, str, int, str]] = [
        (each.protocol, each.address.host, each.address.port, each.key) for each in case.listeners
    ]
    for name, frontend in case.config.frontends.items():
        if frontend.engine == "kernel":
            protocol = "udp" if frontend.mode == "udp" else "tcp"
            addresses = [case.resolved(bind.address) for bind in frontend.bind]
            wanted += [(protocol, each.host, each.port, f"frontends.{name}") for each in addresses if each is not None]
    for protocol, host, port, key in wanted:
        any_family = {"0.0.0.0": 4, "::": 6}.get(host)
        for service in sorted(services, key=str):
            its_protocol, ip, its_port = service
            if (its_protocol, its_port) == (protocol, port) and (str(ip) == host or any_family == ip.version):
                shown = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
                yield problem(
                    "ipvs",
                    f"IPVS balances {protocol} {shown}",
                    f"{key}: what comes there never gets to us",
                    f"ipvsadm -D -{protocol[0]} {shown}",
                    always=("# and take it out of /etc/ipvsadm.rules or keepalived.conf",),
                )


def _ipvs_service(line: str) -> tuple[str, IPv4Address | IPv6Address, int] | None:
    words = line.split()
    if len(words) < 2 or words[0] not in ("TCP", "UDP"):
        return None
    host, _, port = words[1].rpartition(":")
    with suppress(ValueError):
        ip = ip_address(host.strip("[]")) if "[" in host else ip_address(int(host, 16))
        return words[0].lower(), ip, int(port, 16)
    return None
