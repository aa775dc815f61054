"""Addresses as written in a configuration: `192.0.2.1:80`, `[2001:db8::1]:80`, `*:80`, `/run/app.sock`."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

__all__ = ["Address", "parse_address"]

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_LOOKS_NUMERIC = re.compile(r"[0-9.]+")
# sun_path holds 108 bytes with its closing NUL (unix(7)).
_LONGEST_UNIX_PATH = 107


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket is bound or connected: an IP address or host name with a port, or a Unix path.

    `host` is `""` for a Unix socket; `"0.0.0.0"` stands for `*`. A host name is one that
    `is_name` says must be resolved first.
    """

    host: str
    port: int
    path: str = ""

    @property
    def family(self) -> socket.AddressFamily:
        if self.path:
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int] | str:
        """What bind() and connect() take. A link-local IPv6 zone is turned into its scope id."""
        if self.path:
            return self.path
        if ":" not in self.host:
            return (self.host, self.port)
        host, _, zone = self.host.partition("%")
        return (host, self.port, 0, socket.if_nametoindex(zone) if zone else 0)

    @property
    def is_service(self) -> bool:
        """Whether it names SRV records (RFC 2782), `_http._tcp.example.org`, which tell of hosts and ports."""
        return not self.path and not self.port

    @property
    def is_wildcard(self) -> bool:
        return self.host in ("0.0.0.0", "::")

    @property
    def is_name(self) -> bool:
        return not self.path and not _is_ip(self.host)

    def with_host(self, host: str) -> Address:
        return Address(host, self.port)

    def __str__(self) -> str:
        if self.path:
            return self.path
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address; ValueError says what is wrong and what is allowed."""
    if text.startswith(("/", "unix@", "unix:")):
        path = text[5:] if text.startswith("unix") else text
        if not path.startswith("/"):
            raise ValueError(f"{text!r}: the path of a Unix socket starts with /")
        if len(path.encode()) > _LONGEST_UNIX_PATH or "\0" in path:
            raise ValueError(f"{text!r}: the path of a Unix socket has at most {_LONGEST_UNIX_PATH} bytes")
        return Address("", 0, path)
    host, colon, port = text.rpartition(":")
    if not colon or host.count("[") != host.count("]") or ("[" not in host and ":" in host):
        raise ValueError(f"{text!r} is no address; write HOST:PORT, [IPV6]:PORT, *:PORT or /path/of.sock")
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port[:6]) <= 65535:
        raise ValueError(f"port {port!r} is not a number from 1 to 65535")
    if host in ("", "*"):
        return Address("0.0.0.0", int(port))
    if host.startswith("[") and host.endswith("]"):
        if ":" not in host or not _is_ip(host[1:-1]):
            raise ValueError(f"{host!r} is no IPv6 address")
        return Address(host[1:-1], int(port))
    if not _is_ip(host) and (_LOOKS_NUMERIC.fullmatch(host) or not _HOST_NAME.fullmatch(host)):
        raise ValueError(f"{host!r} is neither an IP address nor a host name")
    return Address(host, int(port))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
