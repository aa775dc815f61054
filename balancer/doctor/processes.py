"""Who runs here, and who has which socket, as far as /proc tells."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

__all__ = ["Process", "Processes", "Socket"]

_SOCKET = re.compile(r"socket:\[([0-9]+)\]")
_UNIT = re.compile(r"/([^/]+\.service)(?:/|$)")
# net/tcp_states.h
_LISTEN, _CLOSE = 0x0A, 0x07
_STATE, _LOCAL, _INODE = 3, 1, 9
_DEFAULT_FILE = "/etc/pybalancer/balancer.yaml"


class Process(NamedTuple):
    """One that runs in this network namespace, or may."""

    pid: int
    command: tuple[str, ...]
    """What it was started with."""
    name: str
    """As the kernel has it, 15 characters at most."""
    unit: str
    """The systemd unit that it belongs to; empty: none, or nobody knows."""

    @property
    def program(self) -> str:
        return Path(self.command[0]).name if self.command else self.name

    @property
    def is_ours(self) -> bool:
        """A pybalancer that balances (its children look like it)."""
        words = [Path(word).name if i < 3 else word for i, word in enumerate(self.command)]
        if "pybalancer" in words[:2]:
            rest = words[words.index("pybalancer") + 1 :]
        elif words[1:3] == ["-m", "balancer"] or ("balancer" in words[2:4] and "-m" in words[1:3]):
            rest = words[words.index("balancer") + 1 :]
        else:
            return False
        return not rest or rest[0].startswith("-")

    @property
    def file(self) -> str:
        """The configuration that it was given, if it is ours; empty: the default."""
        for i, word in enumerate(self.command[:-1]):
            if word in ("-c", "--config"):
                return self.command[i + 1]
        return next((word.partition("=")[2] for word in self.command if word.startswith("--config=")), "")

    def __str__(self) -> str:
        return f"{self.program} (process {self.pid}{f', {self.unit}' if self.unit else ''})"


class Socket(NamedTuple):
    """One with a port of this host."""

    protocol: str
    address: IPv4Address | IPv6Address
    port: int
    is_listening: bool
    """TCP; of UDP: it takes what anybody sends."""
    inode: int


class Processes:
    """Of the namespaces that we are in, at one moment."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._of_socket: dict[int, list[int]] | None = None
        own = _namespace(proc / "thread-self")
        self.all: dict[int, Process] = {}
        for pid in _pids(proc):
            # One may have ended.
            with suppress(OSError):
                process = self._read(pid)
                if process.command and _namespace(proc / str(pid)) in (own, None):
                    self.all[pid] = process
        self.is_whole = os.geteuid() == 0
        """Whether it can be told who has which socket."""

    def _read(self, pid: int) -> Process:
        place = self._proc / str(pid)
        command = (place / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        unit = ""
        with suppress(OSError):
            found = _UNIT.search((place / "cgroup").read_text(errors="replace"))
            unit = found[1] if found else ""
        words = tuple(word.decode(errors="replace") for word in command) if command != [b""] else ()
        return Process(pid, words, (place / "comm").read_text(errors="replace").strip(), unit)

    def named(self, *names: str) -> list[Process]:
        """Those that run such a program."""
        return [each for each in self.all.values() if each.program in names or each.name in names]

    @property
    def daemons(self) -> list[Process]:
        """Copies of pybalancer that run here, each with its children."""
        return [each for each in self.all.values() if each.is_ours and each.pid != os.getpid()]

    def serving(self, file: str) -> Process | None:
        """The daemon that was started with this configuration, and not one of its children."""
        wanted = Path(file).absolute()
        found = []
        for each in self.daemons:
            place = Path(each.file or _DEFAULT_FILE)
            if not place.is_absolute():
                with suppress(OSError):
                    place = (self._proc / str(each.pid) / "cwd").readlink() / place
            if os.path.normpath(place) == os.path.normpath(wanted):
                found.append(each)
        return min(found, key=lambda each: each.pid, default=None)

    def having(self, inode: int) -> list[Process]:
        """Who has a socket; nobody where it cannot be told."""
        if self._of_socket is None:
            self._of_socket = {}
            for pid in self.all:
                with suppress(OSError):
                    for entry in os.scandir(self._proc / str(pid) / "fd"):
                        with suppress(OSError):
                            found = _SOCKET.fullmatch(os.readlink(entry.path))  # noqa: PTH115
                            if found:
                                self._of_socket.setdefault(int(found[1]), []).append(pid)
        return [self.all[pid] for pid in dict.fromkeys(self._of_socket.get(inode, ()))]

    def sockets(self) -> Iterator[Socket]:
        """Those of TCP and UDP."""
        for protocol in ("tcp", "tcp6", "udp", "udp6"):
            with suppress(OSError):
                lines = (self._proc / "thread-self" / "net" / protocol).read_text().splitlines()[1:]
                for line in lines:
                    words = line.split()
                    host, _, port = words[_LOCAL].partition(":")
                    state = int(words[_STATE], 16)
                    yield Socket(
                        protocol[:3],
                        _address(host),
                        int(port, 16),
                        state == (_LISTEN if protocol.startswith("tcp") else _CLOSE),
                        int(words[_INODE]),
                    )

    def abstract_names(self) -> set[str]:
        """Of Unix sockets (unix(7))."""
        found = set()
        with suppress(OSError):
            for line in (self._proc / "thread-self" / "net" / "unix").read_text(errors="replace").splitlines()[1:]:
                name = line.split(maxsplit=7)[7:]
                if name and name[0].startswith("@"):
                    found.add(name[0][1:])
        return found


def _pids(proc: Path) -> list[int]:
    with suppress(OSError):
        return sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit())
    return []


def _namespace(place: Path) -> str | None:
    try:
        return os.readlink(place / "ns" / "net")  # noqa: PTH115 - it is no path
    except OSError:
        return None


def _address(text: str) -> IPv4Address | IPv6Address:
    """As /proc has it: words of 32 bits in the machine's order."""
    words = b"".join(int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    return IPv4Address(words) if len(words) == 4 else IPv6Address(words)
