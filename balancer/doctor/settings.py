"""Settings as the kernel has them in /proc/sys and as sysctl.d(5) would set them, and how to change them for good.

A setting is written `net/ipv4/ip_forward`, its path below /proc/sys: names of interfaces have dots in them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

__all__ = ["Remedy", "Settings", "remedy", "shown"]

# sysctl.d(5): of files of one name the first of these directories wins; all are read in the order of their names.
_DIRECTORIES = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
# Read by `sysctl --system` behind all others; systemd-sysctl reads it where /etc/sysctl.d/99-sysctl.conf leads to it.
_LAST = "etc/sysctl.conf"
_OWN = "/etc/sysctl.d/90-pybalancer.conf"
_LARGEST = 1 << 20


class Remedy(NamedTuple):
    """Commands."""

    now: str
    always: str


class Settings:
    """Of the host whose files are below `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._written: dict[str, tuple[str, str]] | None = None

    def text(self, path: str) -> str | None:
        """The contents of a file of the host, given without the first slash; None where it cannot be read."""
        try:
            with (self._root / path).open("rb") as file:
                return file.read(_LARGEST).decode(errors="replace")
        except OSError:
            return None

    def lines(self, path: str) -> list[str]:
        """The same by lines; none where it cannot be read."""
        return (self.text(path) or "").splitlines()

    def path(self, path: str) -> Path:
        """Where that file is."""
        return self._root / path

    def get(self, name: str) -> str | None:
        """As it is now; None: there is no such setting."""
        found = self.text(f"proc/sys/{name}")
        return found.strip() if found is not None else None

    def number(self, name: str) -> int | None:
        """The same, of one that is a number."""
        with suppress(TypeError, ValueError):
            return int(self.get(name) or "")
        return None

    def counted(self, file: str, group: str, name: str) -> int:
        """A number of /proc/net/netstat or snmp, of this network namespace; 0 where the kernel does not say."""
        for names, numbers in pairwise(self.lines(f"proc/thread-self/net/{file}")):
            if names.startswith(f"{group}:") and numbers.startswith(f"{group}:") and name in names.split():
                with suppress(ValueError, IndexError):
                    return int(numbers.split()[names.split().index(name)])
        return 0

    def is_read_only(self) -> bool:
        """Nobody here can change settings of the network, as in most containers."""
        try:
            return bool(os.statvfs(self._root / "proc/sys/net").f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def written(self, name: str) -> tuple[str, str] | None:
        """What the next start of the machine, or `sysctl --system`, sets it to, and the file that says so."""
        if self._written is None:
            self._written = self._read_all()
        return self._written.get(name)

    def _read_all(self) -> dict[str, tuple[str, str]]:
        chosen: dict[str, Path] = {}
        for directory in reversed(_DIRECTORIES):
            with suppress(OSError):
                found_here = (self._root / directory).iterdir()
                chosen.update((path.name, path) for path in found_here if path.suffix == ".conf")
        files = [chosen[name] for name in sorted(chosen)]
        files.append(self._root / _LAST)
        found: dict[str, tuple[str, str]] = {}
        for path in files:
            where = path.relative_to(self._root)
            for line in self.lines(str(where)):
                name, equals, value = line.strip().lstrip("-").partition("=")
                if equals and not name.startswith(("#", ";")):
                    found[_plain(name.strip())] = value.strip(), f"/{where}"
        return found


def _plain(name: str) -> str:
    """With slashes: the first separator says which is which (sysctl.d(5))."""
    dot, slash = name.find("."), name.find("/")
    if dot == -1 or (slash != -1 and slash < dot):
        return name
    return name.translate(str.maketrans("./", "/."))


def shown(name: str) -> str:
    """As sysctl(8) takes it."""
    return name if "." in name else name.replace("/", ".")


def remedy(name: str, value: str | int) -> Remedy:
    """How to set it."""
    said = f"{shown(name)}={value}"
    quoted = f"'{said}'" if " " in said else said
    return Remedy(f"sysctl -w {quoted}", f"echo '{shown(name)} = {value}' >> {_OWN}")
