"""Settings of the kernel that forwarding needs: set at start, put back as found at stop, crashes between or not.

A setting is written `net/ipv4/ip_forward`, its path below /proc/sys: names of interfaces have dots in them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from balancer.kernel.conntrack import Usage

__all__ = ["Sysctl", "timeouts"]

_SYS = Path("/proc/sys")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/thread-self/ns/net")
_NETSTAT = Path("/proc/thread-self/net/netstat")
# Each switches all interfaces, the future ones too, and so does putting it back.
_FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_INTERFACES = {4: "net/ipv4/conf", 6: "net/ipv6/conf"}
# Entries that stand for more than one interface, or cannot matter.
_NO_INTERFACES = {"all", "default", "lo"}
_CONNTRACK = {
    # A connection may be taken up in its middle.
    "net/netfilter/nf_conntrack_tcp_loose": "1",
}
# What is taken up in its middle has a window of unknown scale.
_LIBERAL = {"net/netfilter/nf_conntrack_tcp_be_liberal": "1"}
_LOGGED = {
    # Packets and octets of each connection.
    "net/netfilter/nf_conntrack_acct": "1",
    # When a connection began and ended.
    "net/netfilter/nf_conntrack_timestamp": "1",
    # Told of also where it began while nobody listened: we may have to be started anew.
    "net/netfilter/nf_conntrack_events": "1",
}
_PASSING = {
    # Each packet that comes in is looked for among this host's own sockets before its route is: for one that passes
    # through, lost time (ip-sysctl.rst). Of both versions of IP.
    "net/ipv4/ip_early_demux": "0",
}
_TIMEOUTS = {
    **{
        word: f"tcp_timeout_{word.lower()}"
        for word in (
            *("SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"),
            "UNACKNOWLEDGED",
        )
    },
    "SYN_SENT2": "tcp_timeout_syn_sent",
    "UDP": "udp_timeout",
    "UDP_STREAM": "udp_timeout_stream",
}
_STRICT = "1"
# Part of the table above which it is nearly full.
_NEARLY_FULL = 0.8
_LONGEST_STATE = 1 << 20


class _Change(NamedTuple):
    name: str
    found: str
    put: str


class Sysctl:
    """This network namespace's settings. What was found is kept in the file `state` until it is put back."""

    def __init__(self, state: Path) -> None:
        self._state = state
        # Before what they depend on: they are put back in the opposite order.
        self._changes = self._load()
        self._wanted: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self._unsaved: list[str] = []
        self._usage: Usage | None = None
        self._strays = _strays()

    def apply(
        self, families: Collection[int], *, is_liberal: bool, is_logged: bool = False, is_passing: bool = False
    ) -> list[str]:
        """Set what forwarding for these IP versions needs, and say what was changed.

        `is_liberal`: connections are to survive a change of the director. `is_logged`: it is to be known when they
        began and ended. `is_passing`: what comes here passes through, and hardly anything is for this host itself.
        Where these are not so, what an earlier run has set for them is put back. May be repeated, and should once the
        rules are there, with which the kernel begins to have settings for connections. What fails is in `findings`.
        """
        self._wanted = {_FORWARDING[family]: "1" for family in families} | _CONNTRACK | (_LIBERAL if is_liberal else {})
        self._missing = {}
        said: list[str] = []
        for is_so, settings in ((is_logged, _LOGGED), (is_passing, _PASSING)):
            if is_so:
                self._wanted |= settings
            else:
                said += self._forget(settings)
        for name, value in self._wanted.items():
            try:
                found = _read(name)
                if found != value:
                    changes = [*_concerned(name), _Change(name, found, value)]
                    self._remember(changes)
                    for change in changes:
                        _write(change.name, change.put)
                    said.append(f"{_shown(name)} set from {found} to {value}")
            except OSError as error:
                self._missing[name] = _why(name, error)
        return said

    def restore(self) -> list[str]:
        """Put back what was found, where nobody else has changed it since, and say what."""
        said = []
        changes = list(reversed(self._changes))
        # All are looked at first: to put back one changes others.
        standing = {}
        for change in changes:
            with suppress(OSError):
                standing[change.name] = _read(change.name)
        for change in changes:
            # An interface may have gone.
            if standing.get(change.name) != change.put:
                continue
            try:
                _write(change.name, change.found)
                if change.found != change.put:
                    said.append(f"{_shown(change.name)} put back to {change.found}")
            except OSError as error:
                said.append(_why(change.name, error))
        self._changes = []
        self._state.unlink(missing_ok=True)
        return said

    def _forget(self, names: Collection[str]) -> list[str]:
        """Put these back, if an earlier run has set them."""
        forgotten = [change for change in self._changes if change.name in names]
        if not forgotten:
            return []
        said = []
        for change in forgotten:
            with suppress(OSError):
                if _read(change.name) == change.put:
                    _write(change.name, change.found)
                    said.append(f"{_shown(change.name)} put back to {change.found}")
        self._changes = [change for change in self._changes if change.name not in names]
        self._remember([])
        return said

    def findings(self, usage: Usage | None = None) -> list[str]:
        """What stands in the way now, each in one sentence; `usage`: of the table of connections.

        Called once in a while, it also tells of what was dropped since the last call.
        """
        said = [*self._missing.values(), *self._unsaved]
        for name, value in self._wanted.items():
            with suppress(OSError):
                if name not in self._missing and (found := _read(name)) != value:
                    said.append(f"{_shown(name)} was set to {found} by somebody else, and must be {value}")
        for family in (4, 6):
            if _FORWARDING[family] in self._wanted:
                said += [
                    f"{interface} does not forward IPv{family}: its setting `forwarding` is 0"
                    for interface, value in _each_interface(family, "forwarding")
                    if value == "0" and interface not in _NO_INTERFACES
                ]
        return said + self._stray_packets() + self._table(usage)

    def _stray_packets(self) -> list[str]:
        """A strict filter is right where packets come in by the way that answers take. Is it?"""
        before, self._strays = self._strays, _strays()
        strict = [name for name, value in _each_interface(4, "rp_filter") if value == _STRICT and name != "default"]
        if self._strays <= before or not strict:
            return []
        return [
            f"{self._strays - before} packets were dropped, the way back to their source being another: rp_filter is "
            f"strict ({', '.join(strict)}); set {_shown('net/ipv4/conf/*/rp_filter')} to 2"
        ]

    def _table(self, usage: Usage | None) -> list[str]:
        before, self._usage = self._usage, usage
        if usage is None:
            return []
        said = []
        hint = f"raise {_shown('net/netfilter/nf_conntrack_max')}"
        if usage.maximum and usage.entries >= _NEARLY_FULL * usage.maximum:
            share = 100 * usage.entries // usage.maximum
            said.append(f"the table of connections is {share} % full ({usage.entries} of {usage.maximum}): {hint}")
        if before is not None and (usage.evicted > before.evicted or usage.dropped > before.dropped):
            said.append(
                f"the table of connections was full: {usage.evicted - before.evicted} connections were forgotten and "
                f"{usage.dropped - before.dropped} packets dropped: {hint}"
            )
        return said

    def _remember(self, changes: list[_Change]) -> None:
        """Before they are made. What was found first is what counts."""
        known = {change.name: change for change in self._changes}
        for change in changes:
            old = known.pop(change.name, None)
            known[change.name] = _Change(change.name, change.found if old is None else old.found, change.put)
        self._changes = list(known.values())
        try:
            self._save()
            self._unsaved = []
        except OSError as error:
            self._unsaved = [f"{self._state} cannot be written ({error.strerror}): settings would outlive a crash"]

    def _save(self) -> None:
        text = json.dumps({"of": _place(), "changes": self._changes})
        draft = self._state.with_name(f".{self._state.name}.new")
        draft.unlink(missing_ok=True)
        # Through no link that somebody put there.
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
        draft.replace(self._state)

    def _load(self) -> list[_Change]:
        """What an earlier run left, of this boot and namespace; nothing, where it makes no sense."""
        try:
            with os.fdopen(os.open(self._state, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
                kept = json.loads(file.read(_LONGEST_STATE))
            if kept["of"] != _place():
                return []
            changes = [_Change(*map(str, each)) for each in kept["changes"]]
        except (OSError, ValueError, TypeError, KeyError):
            return []
        return [change for change in changes if change.name.startswith("net/") and ".." not in change.name.split("/")]


def timeouts() -> dict[str, int]:
    """Seconds without a packet after which a connection is forgotten, by the word of its TCP state, UDP or UDP_STREAM;
    UNACKNOWLEDGED is of one with data that nobody acknowledges. What the kernel does not say is not there."""
    found = {}
    for word, name in _TIMEOUTS.items():
        with suppress(OSError, ValueError):
            found[word] = int(_read(f"net/netfilter/nf_conntrack_{name}"))
    return found


def _place() -> list[str]:
    """Settings of another boot or another namespace are none of this one's."""
    return [_BOOT.read_text().strip(), str(_NAMESPACE.stat().st_ino)]


def _concerned(name: str) -> list[_Change]:
    """What goes by the board with a setting, and must be remembered or changed before."""
    changes = []
    for family in (4, 6):
        if name == _FORWARDING[family]:
            changes += [
                _Change(f"{_INTERFACES[family]}/{interface}/forwarding", value, value)
                for interface, value in _each_interface(family, "forwarding")
                if value != "0"
            ]
    if name == _FORWARDING[6]:
        # A host that forwards heeds no Router Advertisements, and loses the default route that it has from one,
        # unless it is told to (ip-sysctl.rst).
        changes += [
            _Change(f"{_INTERFACES[6]}/{interface}/accept_ra", value, "2")
            for interface, value in _each_interface(6, "accept_ra")
            if value == "1" and interface not in ("all", "lo")
        ]
    return changes


def _each_interface(family: int, name: str) -> list[tuple[str, str]]:
    found = []
    with suppress(OSError):
        for place in sorted((_SYS / _INTERFACES[family]).iterdir()):
            # One may go meanwhile.
            with suppress(OSError):
                found.append((place.name, (place / name).read_text().strip()))
    return found


def _strays() -> int:
    """Packets that rp_filter has dropped in this namespace."""
    with suppress(OSError, ValueError):
        lines = [line.split() for line in _NETSTAT.read_text().splitlines()]
        for names, numbers in zip(lines[::2], lines[1::2], strict=True):
            if "IPReversePathFilter" in names:
                return int(numbers[names.index("IPReversePathFilter")])
    return 0


def _read(name: str) -> str:
    return (_SYS / name).read_text().strip()


def _write(name: str, value: str) -> None:
    (_SYS / name).write_text(value)


def _shown(name: str) -> str:
    """As sysctl(8) takes it."""
    return name if "." in name else name.replace("/", ".")


def _why(name: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {_shown(name)}: is the kernel's module loaded?"
    return f"{_shown(name)} cannot be set: {error.strerror}"
