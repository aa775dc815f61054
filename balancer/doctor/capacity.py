"""Is there room for what the configuration allows? Descriptors, connections, queues, ports, memory, processors."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress

from balancer.daemon.plan import Plan
from balancer.doctor.case import Case, Listener
from balancer.doctor.finding import Finding, ok, problem, warning
from balancer.doctor.settings import Remedy, remedy
from balancer.doctor.units import UNIT, properties
from balancer.errors import StartError
from balancer.kernel.conntrack import Conntrack

__all__ = ["backlog", "connections", "descriptors", "local_ports", "memory", "processors"]

_NEARLY_FULL, _FULL = 0.8, 0.95
# Entries that share a place of the hash table, above which to look one up takes long.
_LONGEST_CHAIN = 8
# Of connections that came.
_MANY = 1e-3
_FEW = 100
_MIB = 1 << 20
# Resident, of a process before its first connection, and of each connection with what is on the way there: one that
# reads slowly takes 100 KiB, an idle one 3.
_PROCESS, _CONNECTION = 60 * _MIB, 16 * 1024
_OTHERS = 3
# linux/capability.h
_SYS_RESOURCE = 1 << 24
# A client of `limits` (pool.sources).
_CLIENT = 68


def descriptors(case: Case) -> Iterator[Finding]:
    """As the daemon reckons (daemon.plan)."""
    try:
        plan = Plan.of(case.config, cores=len(os.sched_getaffinity(0)), known=case.found)
    except StartError as error:
        yield problem("start", str(error), "the daemon does not start")
        return
    wanted = plan.open_files
    limit, whose = _open_files(case, wanted)
    effect = f"global.maxconn is {plan.maxconn}, and each connection takes two of a worker"
    fixes, always = _raise(case, whose, max(wanted, 1024))
    if limit >= wanted:
        yield ok("descriptors", f"{whose} {limit}, which carries global.maxconn {plan.maxconn} (wants {wanted})")
    else:
        try:
            within = plan.within(limit)
        except StartError as error:
            text = f"{whose} {limit}: {error}"
            yield problem("descriptors", text, "the daemon does not start", *fixes, always=always)
        else:
            yield warning(
                "descriptors",
                f"{whose} {limit}, {wanted} are wanted; all workers together serve {within.maxconn} connections so",
                effect,
                *fixes,
                always=always,
            )
    yield from _of_all(case, plan)


def _open_files(case: Case, wanted: int) -> tuple[int, str]:
    """What the daemon will have, or has, and where it comes from."""
    if case.daemon is not None:
        for line in case.settings.lines(f"proc/{case.daemon.pid}/limits"):
            if line.startswith("Max open files"):
                hard = line.split()[-2]
                return wanted if hard == "unlimited" else int(hard), "the daemon that runs may open"
    nr_open = case.settings.number("fs/nr_open") or wanted
    unit = properties(case)
    said = unit.get("LimitNOFILE", "")
    if said.isdigit():
        return min(int(said), nr_open), "pybalancer.service may open"
    if _may_raise(case):
        return nr_open, "fs.nr_open is"
    own = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return (wanted if own == resource.RLIM_INFINITY else own), "who asks may open"


def _may_raise(case: Case) -> bool:
    """Who has CAP_SYS_RESOURCE raises its own limit, up to fs.nr_open."""
    for line in case.settings.lines("proc/thread-self/status"):
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _SYS_RESOURCE)
    return False


def _raise(case: Case, whose: str, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if whose.startswith("fs."):
        now, always = remedy("fs/nr_open", number)
        return (now,), (always,)
    is_unit = case.daemon is not None and case.daemon.unit == UNIT
    if "service" in whose or is_unit:
        directory = "/etc/systemd/system/pybalancer.service.d"
        file = f"mkdir -p {directory} && printf '[Service]\\nLimitNOFILE={number}\\n' > {directory}/limits.conf"
        return (file, "systemctl daemon-reload", "systemctl restart pybalancer"), ()
    if os.geteuid() == 0 and not _may_raise(case):
        return (f"# when the container is started: docker run --ulimit nofile={number} …",), ()
    user = "root" if os.geteuid() == 0 else "'*'"
    return (f"ulimit -n {number}",), (f"echo {user} - nofile {number} > /etc/security/limits.d/pybalancer.conf",)


def _of_all(case: Case, plan: Plan) -> Iterator[Finding]:
    most = case.settings.number("fs/file-max")
    used = int(((case.settings.get("fs/file-nr") or "").split() or ["0"])[0])
    wanted = 2 * plan.maxconn
    if most is not None and case.daemon is None and used + wanted > most:
        now, always = remedy("fs/file-max", used + 2 * wanted)
        yield warning(
            "descriptors",
            f"the whole machine may open {most} files (fs.file-max), of which {used} are open",
            f"global.maxconn {plan.maxconn} may want {wanted} more",
            now,
            always=(always,),
        )


def connections(case: Case) -> Iterator[Finding]:
    """The kernel's table of connections."""
    maximum = case.settings.number("net/netfilter/nf_conntrack_max")
    count = case.settings.number("net/netfilter/nf_conntrack_count")
    if maximum is None or count is None:
        if case.uses_kernel:
            yield ok("conntrack", "the kernel follows no connections yet; its module comes with the first rule")
        return
    if not case.uses_kernel and not count:
        # No rule of this namespace wants connections followed.
        return
    users = " and ".join(dict.fromkeys(case.forwards.values())) if case.uses_kernel else "global.maxconn"
    effect = f"{users}: when it is full, packets of new connections are dropped, of all services"
    wanted = max(2 * maximum, 262144)
    now, always = remedy("net/netfilter/nf_conntrack_max", wanted)
    share = count / maximum if maximum else 0.0
    # A proxied connection is two: the client's and the server's.
    proxied = 2 * case.config.global_.maxconn if any(listener.protocol == "tcp" for listener in case.listeners) else 0
    if share >= _NEARLY_FULL:
        say = problem if share >= _FULL else warning
        what = f"the kernel's table of connections is {100 * count // maximum} % full ({count} of {maximum})"
        yield say("conntrack", what, effect, now, always=(always,))
    elif maximum < proxied and not case.uses_kernel:
        now, always = remedy("net/netfilter/nf_conntrack_max", 2 * proxied)
        yield warning(
            "conntrack",
            f"the kernel's table of connections has room for {maximum}, and rules here have it follow all of them",
            f"global.maxconn {case.config.global_.maxconn} may be {proxied} of it; {effect.partition(': ')[2]}",
            now,
            always=(always,),
        )
    else:
        yield ok("conntrack", f"{count} of {maximum} connections are followed")
    yield from _hash(case, maximum, effect)
    if case.is_root:
        with suppress(OSError, StartError):
            usage = Conntrack().usage()
            if usage.dropped or usage.evicted:
                # The same: it says how it was, not how it is.
                yield ok(
                    "conntrack",
                    f"since this machine started the table of connections was full for {usage.dropped} packets, and "
                    f"{usage.evicted} connections were forgotten for want of room",
                )


def _hash(case: Case, maximum: int, effect: str) -> Iterator[Finding]:
    buckets = case.settings.number("net/netfilter/nf_conntrack_buckets")
    if buckets and maximum > _LONGEST_CHAIN * buckets:
        now, always = remedy("net/netfilter/nf_conntrack_buckets", maximum // 2)
        yield warning(
            "conntrack",
            f"{maximum} connections share {buckets} places of the hash table: to find one takes long when it is full",
            effect.partition(":")[0],
            now,
            always=(always,),
        )


def backlog(case: Case) -> Iterator[Finding]:
    """The queues of those who wait to be accepted."""
    listeners = [each for each in case.listeners if each.protocol == "tcp" and each.key != "stats.bind"]
    if not listeners:
        return
    wanted = case.config.global_.backlog
    most = case.settings.number("net/core/somaxconn")
    if most is not None and most < wanted:
        now, always = remedy("net/core/somaxconn", wanted)
        yield warning(
            "backlog",
            f"net.core.somaxconn is {most}: the kernel keeps no more waiting at a socket",
            f"global.backlog is {wanted}; in a burst clients are made to try again, a second later",
            now,
            always=(always,),
        )
    elif most is not None:
        yield ok("backlog", f"net.core.somaxconn is {most}, global.backlog {wanted}")
    half = case.settings.number("net/ipv4/tcp_max_syn_backlog")
    if half is not None and half < wanted and case.settings.get("net/ipv4/tcp_syncookies") == "0":
        fixes = remedy("net/ipv4/tcp_syncookies", 1), remedy("net/ipv4/tcp_max_syn_backlog", wanted)
        yield warning(
            "backlog",
            f"net.ipv4.tcp_max_syn_backlog is {half}, and tcp_syncookies is off",
            f"global.backlog is {wanted}; a SYN flood, or a burst, keeps everybody out",
            *(fix.now for fix in fixes),
            always=tuple(fix.always for fix in fixes),
        )
    lost = case.settings.counted("netstat", "TcpExt", "ListenOverflows")
    came = case.settings.counted("snmp", "Tcp", "PassiveOpens")
    if lost >= _FEW and lost > _MANY * came:
        # What was, no remedy undoes: it would be complained of until the machine is started again.
        yield ok("backlog", f"since this machine started {lost} connections found a queue full ({came} came about)")


def local_ports(case: Case) -> Iterator[Finding]:
    """Those that connections to servers come from."""
    words = (case.settings.get("net/ipv4/ip_local_port_range") or "").split()
    if len(words) != 2:
        return
    first, last = map(int, words)
    reserved = _ranges(case.settings.get("net/ipv4/ip_local_reserved_ports") or "")
    room = last - first + 1 - sum(max(0, min(end, last) - max(begin, first) + 1) for begin, end in reserved)
    tight = []
    for name, backend in case.config.backends.items():
        users = [each for each in case.config.frontends.values() if name in each.backends and each.engine == "proxy"]
        ends = {str(server.address) for server in backend.servers.values() if not server.address.path}
        if not ends or not any(each.mode in ("tcp", "http") for each in users):
            continue
        each_limit = max((server.maxconn or case.config.global_.maxconn) for server in backend.servers.values())
        busy = min(each_limit, -(-case.config.global_.maxconn // len(ends)))
        if busy > room:
            tight.append((name, busy))
    if tight:
        # Those that are listened at would be among them then.
        fixes = remedy("net/ipv4/ip_local_port_range", "1024 65535"), _reserving(case, reserved, 1024, 65535)
        name, busy = tight[0]
        yield warning(
            "local_ports",
            f"{room} ports ({first} to {last}) are there for connections to any one server",
            f"global.maxconn may want {busy} to each server of backends.{name}",
            *(fix.now for fix in fixes),
            always=tuple(fix.always for fix in fixes),
        )
        return
    yield ok("local_ports", f"{room} ports are there for connections to each server")
    inside = _inside(case, reserved, first, last)
    if inside:
        now, always = _reserving(case, reserved, first, last)
        yield warning(
            "local_ports",
            f"port {inside[0].address.port} is one of those that connections to others come from ({first} to {last})",
            f"{inside[0].key}: where such a connection has it as the daemon starts, it does not start",
            now,
            always=(always,),
        )


def _inside(case: Case, reserved: list[tuple[int, int]], first: int, last: int) -> list[Listener]:
    """Those whose ports may be somebody's who connects."""
    return [
        each
        for each in case.listeners
        if first <= each.address.port <= last and not any(a <= each.address.port <= b for a, b in reserved)
    ]


def _reserving(case: Case, reserved: list[tuple[int, int]], first: int, last: int) -> Remedy:
    own = {(each.address.port, each.address.port) for each in _inside(case, reserved, first, last)}
    ports = [str(begin) if begin == end else f"{begin}-{end}" for begin, end in sorted({*own, *reserved})]
    return remedy("net/ipv4/ip_local_reserved_ports", ",".join(ports))


def _ranges(text: str) -> list[tuple[int, int]]:
    found = []
    for each in filter(None, text.split(",")):
        begin, _, end = each.partition("-")
        found.append((int(begin), int(end or begin)))
    return found


def memory(case: Case) -> Iterator[Finding]:
    """Enough for as many clients as may come?"""
    total = _memory(case)
    if total is None:
        return
    config = case.config
    workers = config.global_.workers if config.global_.workers != "auto" else len(os.sched_getaffinity(0))
    wanted = (workers + _OTHERS) * _PROCESS
    if any(each.protocol == "tcp" for each in case.listeners):
        wanted += config.global_.maxconn * _CONNECTION
    wanted += sum(each.cache.total_max_size for each in config.backends.values() if each.cache is not None)
    wanted += sum(
        each.limits.table_size * _CLIENT * workers for each in config.frontends.values() if each.limits is not None
    )
    compressing = [each.compression for each in config.frontends.values()]
    if any(each is not None for each in compressing + [each.compression for each in config.backends.values()]):
        wanted += config.global_.maxcompmem
    if wanted > total:
        yield warning(
            "memory",
            f"there are {total // _MIB} MiB of memory; with as many clients as may come, some {wanted // _MIB} MiB "
            "are wanted",
            f"{workers} workers, global.maxconn {config.global_.maxconn}, and what caches and tables may take",
            "# lower global.maxconn, or give the machine more",
        )
    else:
        yield ok(
            "memory",
            f"{total // _MIB} MiB are there, with all clients that may come {wanted // _MIB} are wanted",
        )


def _memory(case: Case) -> int | None:
    """Octets that there are for us: the machine's, or the control group's."""
    found = None
    for line in case.settings.lines("proc/meminfo"):
        if line.startswith("MemTotal:"):
            found = int(line.split()[1]) * 1024
    limit = (case.settings.text("sys/fs/cgroup/memory.max") or "").strip()
    if limit.isdigit():
        found = min(found or int(limit), int(limit))
    return found


def processors(case: Case) -> Iterator[Finding]:
    """More workers than processors?"""
    cores = len(os.sched_getaffinity(0))
    words = (case.settings.text("sys/fs/cgroup/cpu.max") or "").split()
    share = int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else float(cores)
    workers = case.config.global_.workers
    count = cores if workers == "auto" else workers
    available = min(float(cores), share)
    if count > max(available, 1.0):
        yield warning(
            "processors",
            f"{count} workers share {available:g} processors",
            "global.workers: they wait for one another, and so do clients",
            f"# global.workers: {max(int(available), 1)}",
        )
    else:
        yield ok("processors", f"{count} workers, {available:g} processors")
