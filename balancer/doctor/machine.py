"""What else the daemon wants of the machine: rights, features, users, places to write, the time, a unit of systemd."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import re
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from balancer.config import effective
from balancer.config.certificate import expiry
from balancer.daemon import kerneld, privileges
from balancer.doctor.case import Case
from balancer.doctor.finding import Finding, ok, problem, unknown, warning
from balancer.doctor.units import UNIT, is_enabled, properties
from balancer.errors import StartError

__all__ = [
    "certificate",
    "clock",
    "cloud",
    "managers",
    "names",
    "places",
    "rights",
    "service",
    "unit_rights",
    "version",
]

# Octets and files that should be left.
_LEAST_ROOM, _FEWEST_FILES = 64 << 20, 1000
_MIB = 1 << 20
_SOON = 14 * 86400.0
# adjtimex(2)
_UNSYNCHRONISED = 0x0040
_CLOCK_KEEPERS = ("chronyd", "ntpd", "ntpsec", "systemd-timesyn", "systemd-timesyncd", "openntpd", "ptp4l", "phc2sys")
_GUEST_TOOLS = ("VBoxService", "vmtoolsd", "hv_utils")
# Where multicast, and addresses that nobody was told of, do not reach others (sys_vendor, product_name).
_CLOUDS = (
    (re.compile(r"Amazon EC2"), "Amazon EC2", True),
    (re.compile(r"Google"), "Google Compute Engine", True),
    (re.compile(r"7783-7084-3265-9085-8269-3286-77"), "Azure", True),
    (re.compile(r"DigitalOcean"), "DigitalOcean", True),
    (re.compile(r"OpenStack"), "OpenStack", False),
)


def version(case: Case) -> Iterator[Finding]:
    """Who we are."""
    python = ".".join(map(str, sys.version_info[:3]))
    runs = (
        f"the daemon runs (process {case.daemon.pid})" if case.daemon is not None else "no daemon runs with this file"
    )
    yield ok("host", f"{os.uname().nodename}: Linux {os.uname().release}, Python {python}; {runs}")


def rights(case: Case) -> Iterator[Finding]:
    """What only some may do, and the library and features behind engine kernel."""
    wanted = [key for key, is_so in (("vrrp.instances", case.routers), ("engine kernel", case.uses_kernel)) if is_so]
    if not wanted:
        return
    if not case.is_root:
        if os.geteuid() == 0:
            yield problem(
                "rights",
                "root has no CAP_NET_ADMIN or no CAP_NET_RAW here, as in a container",
                f"{' and '.join(wanted)}: the daemon does not start",
                "# when the container is started: docker run --cap-add NET_ADMIN --cap-add NET_RAW --network host …",
            )
        else:
            yield unknown(
                "rights",
                "who asks is not root: firewall, advertisements, duplicate addresses and others' sockets are not seen",
                "",
                "sudo pybalancer doctor",
            )
        return
    if case.uses_kernel:
        why = kerneld.hindrance()
        if why:
            yield problem(
                "nftables",
                why,
                f"{' and '.join(dict.fromkeys(case.forwards.values()))}: the daemon does not start",
                "apt-get install nftables && modprobe -a nf_tables nf_conntrack_netlink",
                always=("printf 'nf_tables\\nnf_conntrack_netlink\\n' > /etc/modules-load.d/pybalancer.conf",),
            )
        else:
            yield ok("nftables", "the kernel and its library take rules")


def places(case: Case) -> Iterator[Finding]:
    """The user that it becomes, and where it writes."""
    user = case.config.global_.user
    try:
        privileges.identity(user, case.config.global_.group)
        if user is not None:
            pwd.getpwnam(user)
    except (StartError, KeyError):
        yield problem(
            "user",
            f"there is no user {user} or no group {case.config.global_.group or user}",
            "global.user: the daemon, started as root, does not start",
            f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {user or 'pybalancer'}",
        )
    wanted: dict[str, str] = {}
    if case.config.global_.state_directory is not None:
        wanted[case.config.global_.state_directory] = "global.state_directory"
    for key, target in _targets(case):
        if target.startswith("/"):
            wanted.setdefault(str(Path(target).parent), key)
        elif target in ("syslog", "journald") or target.startswith("unix:"):
            yield from _log_socket(case, key, target)
    for directory, key in wanted.items():
        yield from _room(case, directory, key)


def _targets(case: Case) -> list[tuple[str, str]]:
    """Of logs, each once."""
    found = {log.target: "global.log" for log in case.config.global_.log}
    for name in case.config.frontends:
        for log in effective.frontend(case.config, name).records.targets:
            found.setdefault(log.target, f"frontends.{name}.log")
    return [(key, target) for target, key in found.items()]


def _room(case: Case, directory: str, key: str) -> Iterator[Finding]:
    place = case.settings.path(directory.lstrip("/"))
    if not place.is_dir():
        owner = case.config.global_.user or "root"
        yield problem(
            "directory",
            f"there is no directory {directory}",
            f"{key}: nothing is written there",
            f"install -d -m 0750 -o {owner} {directory}",
        )
        return
    try:
        left = os.statvfs(place)
    except OSError as error:
        yield unknown("disk", f"{directory}: {error.strerror}", key)
        return
    free = left.f_bavail * left.f_frsize
    look = f"df -h {directory}; df -i {directory}"
    if left.f_flag & os.ST_RDONLY:
        yield problem("disk", f"{directory} is on a file system that is read-only", f"{key}: nothing is written", look)
    elif free < _LEAST_ROOM:
        yield warning("disk", f"{free // _MIB} MiB are left for {directory}", f"{key}: lost otherwise", look)
    elif left.f_files and left.f_favail < _FEWEST_FILES:
        yield warning("disk", f"{left.f_favail} files more can be in {directory}", f"{key}: lost otherwise", look)
    else:
        yield ok("disk", f"{free // _MIB} MiB are left for {directory}")


def _log_socket(case: Case, key: str, target: str) -> Iterator[Finding]:
    path = {"syslog": "/dev/log", "journald": "/run/systemd/journal/socket"}.get(target, target.removeprefix("unix:"))
    place = case.settings.path(path.lstrip("/"))
    why = ""
    try:
        if not stat.S_ISSOCK(place.stat().st_mode):
            why = "is no socket"
    except OSError as error:
        why = "is not there" if error.errno == errno.ENOENT else f"cannot be reached: {error.strerror}"
    if not why:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            # EPROTOTYPE: somebody listens there for streams.
            result = probe.connect_ex(str(place))
            if result == errno.ECONNREFUSED:
                why = "has nobody who listens"
    if why:
        yield problem(
            "log",
            f"{path} {why}",
            f"{key}: nothing is logged there",
            "apt-get install rsyslog" if target == "syslog" else f"ls -l {path}",
        )
    else:
        yield ok("log", f"somebody listens at {path}")


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def clock(case: Case) -> Iterator[Finding]:
    """Does somebody keep it? What is timed here is not by it; but logs, certificates and cookies are."""
    timex = _Timex()
    result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    is_kept = result >= 0 and not timex.status & _UNSYNCHRONISED
    effect = "logs of both directors, certificates, and cookies with maxidle or maxlife go by it"
    keepers = case.processes.named(*_CLOCK_KEEPERS, *_GUEST_TOOLS)
    if is_kept or case.settings.path("run/systemd/timesync/synchronized").exists():
        yield ok("clock", "the clock is kept right")
    elif result < 0 or keepers:
        who = f", though {keepers[0].program} runs" if keepers else ""
        yield unknown("clock", f"whether the clock is right the kernel does not know{who}", effect, "chronyc tracking")
    elif _is_contained(case):
        yield unknown("clock", "whether the clock is right only the container's host knows", effect)
    else:
        yield warning(
            "clock",
            "nobody keeps the clock right",
            effect,
            "apt-get install chrony" if not case.settings.path("lib/systemd/systemd-timesyncd").exists() else
            "timedatectl set-ntp true",
        )  # fmt: skip
    source = (case.settings.text("sys/devices/system/clocksource/clocksource0/current_clocksource") or "").strip()
    if source in ("jiffies", "refined-jiffies"):
        yield warning(
            "clock",
            f"the kernel counts time by {source}",
            "vrrp: an advertisement is as exact as that, some milliseconds",
            "cat /sys/devices/system/clocksource/clocksource0/available_clocksource",
        )


def _is_contained(case: Case) -> bool:
    """Are we in a container, where others' processes are not seen?"""
    environment = case.settings.text("run/systemd/container") or case.settings.text("run/.containerenv")
    return environment is not None or case.settings.path(".dockerenv").exists()


def certificate(case: Case) -> Iterator[Finding]:
    """Of the statistics page."""
    tls = case.config.stats.tls if case.config.stats is not None else None
    if tls is None:
        return
    try:
        until = expiry(Path(tls.crt).read_bytes())
    except OSError as error:
        yield unknown("certificate", f"{tls.crt}: {error.strerror}", "stats.tls.crt")
        return
    if until is None:
        return
    day = datetime.fromtimestamp(until, UTC).date().isoformat()
    renew = f"# renew {tls.crt}, then: systemctl reload pybalancer"
    if until < time.time():
        yield problem("certificate", f"{tls.crt} expired on {day}", "stats.tls: browsers refuse the page", renew)
    elif until < time.time() + _SOON:
        yield warning("certificate", f"{tls.crt} expires on {day}", "stats.tls: browsers will refuse the page", renew)
    else:
        yield ok("certificate", f"{tls.crt} is good until {day}")


def names(case: Case) -> Iterator[Finding]:
    """Host names in the configuration."""
    if not case.names:
        return
    lost = sorted(case.names - case.found.keys())
    for name in lost[:8]:
        users = [server for server, address in case.servers.items() if address.host == name]
        if users:
            yield problem(
                "name",
                f"{name} has no address{f' (and {len(lost) - 8} names more)' if len(lost) > 8 else ''}",
                f"backends: {', '.join(users[:3])} is down until it has one",
                f"getent ahosts {name}",
                "cat /etc/resolv.conf",
                always=(f"echo 'ADDRESS {name}' >> /etc/hosts",),
            )
    if not lost:
        yield ok("name", f"each of {len(case.names)} host names has an address")


def service(case: Case) -> Iterator[Finding]:
    """The systemd unit."""
    found = properties(case)
    if not found:
        return
    stop, longest = _microseconds(found.get("TimeoutStopUSec", "")), case.config.global_.hard_stop_after
    directory = f"/etc/systemd/system/{UNIT}.d"
    if stop is not None and stop <= longest:
        seconds = int(longest) + 30
        yield warning(
            "service",
            f"{UNIT} is killed {stop:g} s after it was told to stop",
            f"global.hard_stop_after leaves connections {longest:g} s",
            f"mkdir -p {directory} && printf '[Service]\\nTimeoutStopSec={seconds}\\n' > {directory}/stop.conf",
            "systemctl daemon-reload",
        )
    if not is_enabled(found):
        yield warning(
            "service",
            f"{UNIT} is not started with the machine ({found.get('UnitFileState') or 'not enabled'})",
            "after a restart of this host nobody balances here",
            f"systemctl enable {UNIT}",
        )
    else:
        yield ok("service", f"{UNIT} is {found.get('UnitFileState')}, {found.get('ActiveState') or 'unknown'}")


def unit_rights(case: Case) -> Iterator[Finding]:
    """Has the unit's user the capabilities that the configuration wants, and may it read what it names?"""
    found = properties(case)
    user = found.get("User", "")
    if not found or user in ("", "root", "0"):
        return
    given = set(found.get("AmbientCapabilities", "").split())
    lacking = {capability: key for capability, key in _wanted_rights(case).items() if capability not in given}
    if lacking:
        directory = f"/etc/systemd/system/{UNIT}.d"
        line = " ".join(sorted(word.upper() for word in lacking))
        text = f"[Service]\\nAmbientCapabilities={line}\\nCapabilityBoundingSet={line}\\n"
        yield problem(
            "service",
            f"{UNIT} runs as {user}, without {', '.join(sorted(word.upper() for word in lacking))}",
            f"{', '.join(dict.fromkeys(lacking.values()))}: cannot be done without",
            f"mkdir -p {directory} && printf '{text}' > {directory}/rights.conf",
            "systemctl daemon-reload",
            "systemctl restart pybalancer",
        )
    for path, key in _named_files(case).items():
        barrier = _barrier(Path(path), user)
        if barrier is not None:
            fix = f"chmod g+x {barrier}" if barrier.is_dir() else f"chmod g+r {barrier}"
            yield problem(
                "service",
                f"{user}, as whom {UNIT} runs, may not {'enter' if barrier.is_dir() else 'read'} {barrier}",
                f"{key}: the daemon does not start",
                f"chgrp {user} {barrier}",
                fix,
            )


def _wanted_rights(case: Case) -> dict[str, str]:
    """By capability, what of the file wants it."""
    wanted: dict[str, str] = {}
    for is_so, key in ((case.routers, "vrrp.instances"), (case.uses_kernel, "engine kernel")):
        if is_so:
            wanted |= {"cap_net_admin": key, "cap_net_raw": key}
    first = case.settings.number("net/ipv4/ip_unprivileged_port_start")
    low = [each for each in case.listeners if each.address.port < (1024 if first is None else first)]
    if low:
        wanted["cap_net_bind_service"] = low[0].key
    if case.config.vrrp.script_user is not None:
        wanted |= {"cap_setuid": "vrrp.script_user", "cap_setgid": "vrrp.script_user"}
    return wanted


def _named_files(case: Case) -> dict[str, str]:
    """What has to be read, and where it is named."""
    found = {case.wish.file: "the configuration"} if case.wish.file else {}
    tls = case.config.stats.tls if case.config.stats is not None else None
    if tls is not None:
        found |= dict.fromkeys(filter(None, (tls.crt, tls.key)), "stats.tls")
    for name, frontend in case.config.frontends.items():
        found |= dict.fromkeys(frontend.files, f"frontends.{name}.http_request")
        found |= dict.fromkeys(effective.frontend(case.config, name).error_files.values(), "error_files")
    return found


def _barrier(path: Path, user: str) -> Path | None:
    """What keeps a user from reading a file: a directory, or itself. None too where it is not known."""
    try:
        entry = pwd.getpwnam(user)
        groups = set(os.getgrouplist(user, entry.pw_gid))
        whole = path.resolve(strict=True)
        for place in (*reversed(whole.parents), whole):
            found = place.stat()
            # Entering a directory, reading a file.
            bit = 1 if place != whole else 4
            shift = 6 if found.st_uid == entry.pw_uid else 3 if found.st_gid in groups else 0
            if not found.st_mode & bit << shift and not _has_list(place):
                return place
    except (OSError, KeyError):
        return None
    return None


def _has_list(place: Path) -> bool:
    """An access control list (acl(5)) says more than the mode."""
    try:
        return bool(os.getxattr(place, "system.posix_acl_access"))
    except OSError:
        return False


_SPAN = re.compile(r"([0-9.]+)(us|ms|s|min|h|d)\b")


def _microseconds(text: str) -> float | None:
    """Seconds of what systemctl(1) says, such as `1min 30s`; None for ever, or where it says something else."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    found = _SPAN.findall(text)
    return sum(float(number) * units[unit] for number, unit in found) if found else None


def managers(case: Case) -> Iterator[Finding]:
    """systemd-networkd takes addresses away that it does not know, when it is restarted."""
    for name in dict.fromkeys(router.interface for router in case.routers):
        card = case.network.cards.get(name)
        text = case.settings.text(f"run/systemd/netif/links/{card.index}") if card is not None else None
        if text is None:
            continue
        said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        file = said.get("NETWORK_FILE", "")
        if said.get("ADMIN_STATE") not in ("configured", "configuring") or not file:
            continue
        keep = _kept(case, file)
        if keep in ("yes", "true", "1", "on", "static"):
            yield ok("networkd", f"{name}: systemd-networkd leaves others' addresses alone (KeepConfiguration={keep})")
            continue
        directory = f"/etc/systemd/network/{Path(file).name}.d"
        line = f"printf '[Network]\\nKeepConfiguration=static\\n' > {directory}/pybalancer.conf"
        yield warning(
            "networkd",
            f"{name}: systemd-networkd takes others' addresses away when it is restarted, as an update does it",
            f"{case.interfaces[name][0]}: its addresses are gone then, for up to a second",
            f"mkdir -p {directory} && {line}",
            "networkctl reload",
        )


def _kept(case: Case, file: str) -> str:
    """KeepConfiguration= of a .network file and what is beside it, the last word."""
    files = [file]
    for directory in ("usr/lib/systemd/network", "run/systemd/network", "etc/systemd/network"):
        with suppress(OSError):
            place = case.settings.path(f"{directory}/{Path(file).name}.d")
            files += [str(each.relative_to(case.settings.path(""))) for each in sorted(place.glob("*.conf"))]
    kept = ""
    for each in files:
        section = ""
        for line in case.settings.lines(each.lstrip("/")):
            word = line.strip()
            if word.startswith("["):
                section = word
            elif section == "[Network]" and word.partition("=")[0].strip() == "KeepConfiguration":
                kept = word.partition("=")[2].strip().lower()
    return kept


def cloud(case: Case) -> Iterator[Finding]:
    """Networks that carry no multicast, and know of no address that moves."""
    said = " ".join(
        (case.settings.text(f"sys/class/dmi/id/{name}") or "").strip()
        for name in ("sys_vendor", "product_name", "chassis_asset_tag")
    )
    groups = [router for router in case.routers if not router.is_unicast]
    for pattern, name, is_certain in _CLOUDS:
        if case.routers and pattern.search(said):
            key = (groups or case.routers)[0].key
            if groups and is_certain:
                yield problem(
                    "cloud",
                    f"this is {name}, whose network carries no multicast",
                    f"{key}: no director hears another, and both will be master",
                    f"# {key}: unicast_src_ip and unicast_peer; and notify_master has to tell {name} of the address",
                )
            else:
                yield warning(
                    "cloud",
                    f"this is {name}, whose network passes only addresses that it was told of",
                    f"{key}: its addresses may be on a director and reach nobody",
                    "openstack port set --allowed-address ip-address=ADDRESS PORT"
                    if name == "OpenStack"
                    else f"# {key}.notify_master: a program that tells {name} where the address is",
                )
            return
