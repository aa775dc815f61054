"""Listening sockets, bound once by the supervisor and inherited by the workers.

Each worker has a socket of its own in an SO_REUSEPORT group, so the kernel spreads connections; the
supervisor keeps all of them open, so a worker that dies takes no queued connection with it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from balancer.addr import Address
from balancer.config.model import Bind, Config
from balancer.errors import StartError

__all__ = ["Sockets"]

# linux/in6.h; the socket module has no name for it.
_IPV6_FREEBIND = 78
_IP_FREEBIND = 15
# Room for a burst of queries while the worker does something else.
_UDP_BUFFER = 4 * 1024 * 1024


class Sockets:
    """All listening sockets of one start."""

    def __init__(self) -> None:
        self.frontends: dict[str, list[list[tuple[Bind, socket.socket]]]] = {}
        """By frontend, for each worker its sockets with the bind they belong to."""
        self.stats: list[socket.socket] = []
        self._paths: list[str] = []

    @staticmethod
    def open(config: Config, workers: int) -> Sockets:
        """Bind everything; StartError names the first bind that fails, and nothing stays bound."""
        sockets = Sockets()
        try:
            for name, frontend in config.frontends.items():
                if frontend.engine == "kernel":
                    continue
                kind = socket.SOCK_DGRAM if frontend.mode == "udp" else socket.SOCK_STREAM
                of_worker: list[list[tuple[Bind, socket.socket]]] = [[] for _ in range(workers)]
                for bind in frontend.bind:
                    group = sockets._bind(f"frontends.{name}.bind", bind, kind, workers, config.global_.backlog)
                    for own, sock in zip(of_worker, group, strict=True):
                        own.append((bind, sock))
                sockets.frontends[name] = of_worker
            if config.stats is not None:
                for bind in config.stats.bind:
                    sockets.stats += sockets._bind("stats.bind", bind, socket.SOCK_STREAM, 1, 128)
        except BaseException:
            sockets.close()
            sockets.unlink()
            raise
        return sockets

    def _bind(self, where: str, bind: Bind, kind: socket.SocketKind, count: int, backlog: int) -> list[socket.socket]:
        address = bind.address
        try:
            if address.path:
                sock = _bind_unix(bind, backlog)
                self._paths.append(address.path)
                return [sock] * count
            _refuse_second_copy(bind, kind)
            return [_bind_ip(bind, kind, backlog) for _ in range(count)]
        except OSError as error:
            raise StartError(f"{where}: cannot bind {address}: {_advice(error, address)}") from error

    def keep(self, wanted: Callable[[str, int], bool], *, stats: bool) -> None:
        """In a child: close what is another's. `wanted(frontend, worker)` says what is its own."""
        own: set[socket.socket] = set()
        others: set[socket.socket] = set()
        for name, of_worker in self.frontends.items():
            for worker, pairs in enumerate(of_worker):
                (own if wanted(name, worker) else others).update(sock for _, sock in pairs)
        (own if stats else others).update(self.stats)
        for sock in others - own:
            sock.close()

    def close(self) -> None:
        """Stop listening, as far as this process is concerned."""
        for of_worker in self.frontends.values():
            for pairs in of_worker:
                for _, sock in pairs:
                    sock.close()
        for sock in self.stats:
            sock.close()

    def unlink(self) -> None:
        """Remove the files of Unix sockets."""
        for path in self._paths:
            try:
                Path(path).unlink()
            except OSError:
                continue


def _bind_ip(bind: Bind, kind: socket.SocketKind, backlog: int) -> socket.socket:
    sock = socket.socket(bind.address.family, kind | socket.SOCK_NONBLOCK)
    try:
        _prepare(sock, bind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(bind.address.sockaddr)
        if kind == socket.SOCK_STREAM:
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _prepare(sock: socket.socket, bind: Bind) -> None:
    # A VIP may be elsewhere now and come here later.
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not bind.v4v6))
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    if bind.interface is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bind.interface.encode())


def _refuse_second_copy(bind: Bind, kind: socket.SocketKind) -> None:
    """SO_REUSEPORT would let a second daemon of the same user share the port in silence; without it, bind(2) tells."""
    with socket.socket(bind.address.family, kind) as probe:
        _prepare(probe, bind)
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(bind.address.sockaddr)


def _bind_unix(bind: Bind, backlog: int) -> socket.socket:
    path = bind.address.path
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # Closed to others until its mode is set.
    before = os.umask(0o177)
    try:
        sock.bind(path)
        Path(path).chmod(bind.mode if bind.mode is not None else 0o666)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on (left by a crash); anything else there is not ours to remove."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EADDRINUSE, "there is a file of that name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _advice(error: OSError, address: Address) -> str:
    text = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        return f"{text}; is another copy or another server running there?"
    if error.errno in (errno.EACCES, errno.EPERM) and 0 < address.port < 1024:
        return f"{text}; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    return text
