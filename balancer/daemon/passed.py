"""Listening sockets that another has bound for us: a service manager's (LISTEN_FDS, sd_listen_fds(3)), or those that
are left where an upgrade went wrong.

One is used for the bind of its address and type; all workers accept from it, unless they can have sockets of their own
beside it. What nobody asks for is closed, and told of.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from balancer.config.model import Bind
from balancer.errors import StartError

__all__ = ["Key", "Passed", "Wanted", "key"]

# sd_listen_fds(3): SD_LISTEN_FDS_START.
_FIRST = 3
_MOST = 4096
_TYPES = {socket.SOCK_STREAM: "stream", socket.SOCK_DGRAM: "datagram", socket.SOCK_SEQPACKET: "seqpacket"}
Key = tuple[int, object, int, str, int]


class Wanted(NamedTuple):
    """A place to listen at; `bind` with an address in the place of a name."""

    where: str
    """Its key in the configuration."""
    bind: Bind
    kind: socket.SocketKind


class Passed:
    """The sockets, with the names that they were given."""

    def __init__(self, sockets: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self._left = list(sockets)

    @staticmethod
    def of_environment() -> Passed:
        """From LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, which nobody finds there afterwards. StartError where they do
        not say what they should, or what is passed is no socket."""
        pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
        os.environ.pop("LISTEN_PIDFDID", None)
        if not count or pid != str(os.getpid()):
            return Passed()
        if not (count.isascii() and count.isdigit() and int(count[:6]) <= _MOST):
            raise StartError(f"LISTEN_FDS: {count[:40]!r} is no number from 0 to {_MOST}")
        named = names.split(":") if names else []
        found = []
        for i in range(int(count)):
            name = named[i] if i < len(named) and named[i] else "unknown"
            try:
                sock = socket.socket(fileno=_FIRST + i)
            except OSError as error:
                raise StartError(
                    f"LISTEN_FDS: descriptor {_FIRST + i} ({name}) is no socket: {error.strerror}"
                ) from None
            os.set_inheritable(_FIRST + i, False)
            sock.setblocking(False)
            found.append((name, sock))
        return Passed(found)

    def __len__(self) -> int:
        return len(self._left)

    def match(self, wanted: Iterable[Wanted]) -> tuple[dict[Key, list[socket.socket]], list[str]]:
        """Those that are wanted, by `key` of their bind, and a warning for each that nobody wants, which is closed.
        StartError where one is of another type than its bind, or does not listen."""
        wishes = {key(each.bind, each.kind): each for each in wanted}
        found: dict[Key, list[socket.socket]] = {}
        strangers = []
        for name, sock in self._left:
            own = _key(sock)
            if own in wishes:
                _examine(name, sock, wishes[own])
                found.setdefault(own, []).append(sock)
            else:
                strangers.append((name, sock, own))
        warnings = []
        for name, sock, own in strangers:
            for each, wish in wishes.items():
                if each[1:] == own[1:] and each not in found:
                    raise StartError(
                        f"{wish.where}: {wish.bind.address} was passed to us as a {_TYPES.get(sock.type, sock.type)} "
                        f"socket ({name}), and is to be a {_TYPES[wish.kind]} one; "
                        "see ListenStream= and ListenDatagram= of the socket unit"
                    )
            warnings.append(f"a socket that was passed to us ({name}, {_told(sock)}) is of no bind: it is closed")
            sock.close()
        self._left = []
        return found, warnings


def key(bind: Bind, kind: socket.SocketKind) -> Key:
    """What a socket and its bind have in common."""
    address = bind.address
    if address.path:
        return int(kind), address.path, 0, "", 0
    sockaddr = address.sockaddr
    return int(kind), ip_address(address.host.partition("%")[0]), address.port, bind.interface or "", _scope(sockaddr)


def _key(sock: socket.socket) -> Key:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return int(sock.type), name if isinstance(name, str) else repr(name), 0, "", 0
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return int(sock.type), repr(name), 0, "", 0
    interface = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0").decode(errors="replace")
    return int(sock.type), ip_address(name[0].partition("%")[0]), name[1], interface, _scope(name)


def _scope(sockaddr: object) -> int:
    return int(sockaddr[3]) if isinstance(sockaddr, tuple) and len(sockaddr) > 3 else 0


def _examine(name: str, sock: socket.socket, wish: Wanted) -> None:
    where = f"{wish.where}: the socket for {wish.bind.address} that was passed to us ({name})"
    if wish.kind == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise StartError(f"{where} does not listen; with systemd, Accept= has to be no")
    if sock.family == socket.AF_INET6 and wish.bind.address.host == "::":
        both = not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        if both != wish.bind.v4v6:
            takes, says = ("IPv4 as well", "false") if both else ("IPv6 alone", "true")
            raise StartError(f"{where} takes {takes}, and v4v6 is {says}; see BindIPv6Only= of the socket unit")


def _told(sock: socket.socket) -> str:
    name = sock.getsockname()
    if isinstance(name, tuple) and len(name) >= 2:
        name = f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    kind = _TYPES.get(sock.type, str(sock.type))
    return f"{kind} {name if isinstance(name, str) else repr(name)}"
