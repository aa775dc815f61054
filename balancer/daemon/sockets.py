"""Listening sockets, bound once by the supervisor and inherited by the workers.

Each worker has a socket of its own in an SO_REUSEPORT group, so the kernel spreads connections; the
supervisor keeps all of them open, so a worker that dies takes no queued connection with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from balancer.addr import Address
from balancer.config.model import Bind, Config, RuntimeSocket
from balancer.daemon.privileges import Identity
from balancer.errors import StartError

__all__ = ["Sockets"]

# linux/in6.h; the socket module has no name for it.
_IPV6_FREEBIND = 78
_IP_FREEBIND = 15
# Whoever may enter the directory may connect, as with a TCP port.
_UNIX_MODE = 0o666
# Of the directory that the runtime socket is in, where there is none.
_DIRECTORY_MODE = 0o755


class Sockets:
    """All listening sockets of one start."""

    def __init__(self) -> None:
        self.frontends: dict[str, list[list[tuple[Bind, socket.socket]]]] = {}
        """By frontend, for each worker its sockets with the bind they belong to."""
        self.stats: list[socket.socket] = []
        self.runtime: socket.socket | None = None
        """For commands."""
        self._paths: list[str] = []

    @staticmethod
    def open(config: Config, workers: int, *, owner: Identity | None = None) -> Sockets:
        """Bind everything; StartError names the first bind that fails, and nothing stays bound. The runtime socket
        becomes `owner`'s."""
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
            if config.global_.runtime_socket is not None:
                sockets.runtime = sockets._bind_runtime(config.global_.runtime_socket, owner)
        except BaseException:
            sockets.close()
            sockets.unlink()
            raise
        return sockets

    def _bind(self, where: str, bind: Bind, kind: socket.SocketKind, count: int, backlog: int) -> list[socket.socket]:
        try:
            if not bind.address.path:
                return _bind_ip(bind, kind, count, backlog)
            sock = _bind_unix(bind, backlog)
            self._paths.append(bind.address.path)
            return [sock] * count
        except OSError as error:
            raise StartError(f"{where}: cannot bind {bind.address}: {_advice(error, bind)}") from error

    def _bind_runtime(self, config: RuntimeSocket, owner: Identity | None) -> socket.socket:
        where, path = "global.runtime_socket", Path(config.path)
        bind = Bind(address=Address("", 0, config.path)).model_copy(update={"mode": config.mode})
        # Others may enter, whatever the umask.
        before = os.umask(0o777 & ~_DIRECTORY_MODE)
        try:
            # /run is empty after each start of the machine.
            path.parent.mkdir(_DIRECTORY_MODE)
        except FileExistsError:
            pass
        except OSError as error:
            raise StartError(f"{where}: cannot make {path.parent}: {error.strerror}") from error
        finally:
            os.umask(before)
        (sock,) = self._bind(where, bind, socket.SOCK_STREAM, 1, 128)
        if owner is not None:
            try:
                os.chown(path, *owner, follow_symlinks=False)
            except OSError as error:
                sock.close()
                raise StartError(f"{where}: cannot give {path} to {owner}: {error.strerror}") from error
        return sock

    def keep(self, wanted: Callable[[str, int], bool], *, stats: bool) -> None:
        """In a child: close what is another's. `wanted(frontend, worker)` says what is its own; the runtime socket
        goes with the statistics."""
        own: set[socket.socket] = set()
        others: set[socket.socket] = set()
        for name, of_worker in self.frontends.items():
            for worker, pairs in enumerate(of_worker):
                (own if wanted(name, worker) else others).update(sock for _, sock in pairs)
        (own if stats else others).update(self.stats)
        if self.runtime is not None:
            (own if stats else others).add(self.runtime)
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
        if self.runtime is not None:
            self.runtime.close()

    def unlink(self) -> None:
        """Remove the files of Unix sockets, once all processes have closed them. Another copy's stay."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                _remove_stale(path)
        self._paths.clear()


def _bind_ip(bind: Bind, kind: socket.SocketKind, count: int, backlog: int) -> list[socket.socket]:
    """`count` sockets that share the port. SO_REUSEPORT would let a second daemon of the same user share it too, in
    silence; so the first is bound without, which fails where anybody has the port, and joins the others afterwards."""
    group: list[socket.socket] = []
    try:
        address = bind.address.sockaddr
        for _ in range(count):
            sock = socket.socket(bind.address.family, kind | socket.SOCK_NONBLOCK)
            group.append(sock)
            _prepare(sock, bind)
            if kind == socket.SOCK_STREAM:
                # Connections of the one before us, in TIME_WAIT, hold the port no more.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(sock is not group[0]))
            sock.bind(address)
            if kind == socket.SOCK_STREAM:
                # Two that start at the same moment may both be bound by now; only one can listen.
                sock.listen(backlog)
            if sock is group[0] and count > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                address = sock.getsockname()
    except BaseException:
        for sock in group:
            sock.close()
        raise
    return group


def _prepare(sock: socket.socket, bind: Bind) -> None:
    # A VIP may be elsewhere now and come here later.
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not bind.v4v6))
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    if bind.interface is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bind.interface.encode())


def _bind_unix(bind: Bind, backlog: int) -> socket.socket:
    path = bind.address.path
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # It has its mode from the first moment, and nothing is followed as chmod(2) would.
    before = os.umask(0o777 & ~(bind.mode if bind.mode is not None else _UNIX_MODE))
    try:
        sock.bind(path)
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
        raise OSError(errno.EEXIST, "there is something of that name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        # Refused: nobody listens. EAGAIN: somebody does whose backlog is full. EPROTOTYPE: somebody's datagrams.
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            Path(path).unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _advice(error: OSError, bind: Bind) -> str:
    text = error.strerror or str(error)
    match error.errno:
        case errno.EADDRINUSE:
            return f"{text}; is another copy or another server running there?"
        case errno.EACCES | errno.EPERM if 0 < bind.address.port < 1024:
            return f"{text}; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case errno.EACCES | errno.EPERM | errno.ENOENT | errno.EROFS if bind.address.path:
            return f"{text}; is {Path(bind.address.path).parent} there, and may we write to it?"
        case errno.ENODEV if bind.interface is not None:
            return f"{text}; there is no interface {bind.interface}"
        case errno.EAFNOSUPPORT | errno.EADDRNOTAVAIL if ":" in bind.address.host:
            return f"{text}; is IPv6 switched off on this machine?"
        case errno.EMFILE | errno.ENFILE:
            return f"{text}; raise the limit (LimitNOFILE=, ulimit -n)"
    return text
