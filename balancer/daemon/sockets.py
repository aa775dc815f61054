"""Listening sockets, bound once by the supervisor, inherited by the workers, and kept over a reload.

Each worker has a socket of its own in an SO_REUSEPORT group, so the kernel spreads connections; the
supervisor keeps all of them open, so a worker that dies takes no queued connection with it. What is bound to the same
place after a reload is the same socket: whoever waits in its queue is accepted by a worker of before or of after it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from balancer.addr import Address
from balancer.config.model import Bind, Config, RuntimeSocket
from balancer.daemon.passed import Key, Passed, Wanted, key
from balancer.daemon.privileges import Identity
from balancer.errors import StartError

__all__ = ["Sockets", "try_to_bind"]

# linux/in6.h; the socket module has no name for it.
_IPV6_FREEBIND = 78
_IP_FREEBIND = 15
# asm-generic/socket.h.
_SO_ATTACH_FILTER = 26
# linux/filter.h, struct sock_filter: of a TCP header, the octet of flags; with SYN nothing of it passes, else all.
_NO_SYN = b"".join(
    struct.pack("=HBBI", *each)
    for each in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 1 << 18))
)
# Whoever may enter the directory may connect, as with a TCP port.
_UNIX_MODE = 0o666
# Of the directory that the runtime socket is in, where there is none.
_DIRECTORY_MODE = 0o755


class _Place(NamedTuple):
    """What a socket is bound to."""

    kind: socket.SocketKind
    address: Address
    interface: str | None
    v4v6: bool


class Sockets:
    """All listening sockets of one generation."""

    def __init__(self) -> None:
        self.frontends: dict[str, list[list[tuple[Bind, socket.socket]]]] = {}
        """By frontend, for each worker its sockets with the bind they belong to."""
        self.stats: list[socket.socket] = []
        self.runtime: socket.socket | None = None
        """For commands."""
        self._groups: dict[_Place, list[socket.socket]] = {}
        """All that is bound, each socket once."""
        self._adopted: dict[_Place, list[socket.socket]] = {}
        """What those before us have bound."""
        self._found: Mapping[str, str] = {}
        self._paths: list[str] = []
        self._given: dict[Key, list[socket.socket]] = {}
        self._shared: set[_Place] = set()
        """What all workers accept from, as it cannot be bound once more."""
        self.warnings: list[str] = []
        """Of sockets that were passed to us."""

    @staticmethod
    def open(
        config: Config,
        workers: int,
        *,
        owner: Identity | None = None,
        before: Sockets | None = None,
        found: Mapping[str, str] | None = None,
        passed: Passed | None = None,
    ) -> Sockets:
        """Bind everything, but for what those `before` us have bound; StartError names the first bind that fails, and
        nothing more than before stays bound. The runtime socket becomes `owner`'s. `found`: addresses by host name;
        others are asked for. `passed`: what others have bound for us."""
        sockets = Sockets()
        sockets._found = found or {}
        if before is not None:
            sockets._adopted = before._groups
            sockets._shared = before._shared
        if passed is not None and len(passed):
            sockets._given, sockets.warnings = passed.match(sockets._wanted(config))
        try:
            for name, frontend in config.frontends.items():
                if frontend.engine == "kernel":
                    continue
                kind = socket.SOCK_DGRAM if frontend.mode == "udp" else socket.SOCK_STREAM
                of_worker: list[list[tuple[Bind, socket.socket]]] = [[] for _ in range(workers)]
                for bind in frontend.bind:
                    group = sockets._bind(f"frontends.{name}.bind", bind, kind, workers, config.global_.backlog)
                    # A datagram socket that was passed to us may be one for all.
                    for own, sock in zip(of_worker, group, strict=kind == socket.SOCK_STREAM):
                        own.append((bind, sock))
                sockets.frontends[name] = of_worker
            if config.stats is not None:
                for bind in config.stats.bind:
                    sockets.stats += sockets._bind("stats.bind", bind, socket.SOCK_STREAM, 1, 128)
            if config.global_.runtime_socket is not None:
                sockets.runtime = sockets._bind_runtime(config.global_.runtime_socket, owner)
        except BaseException:
            sockets.take_back()
            raise
        return sockets

    def _wanted(self, config: Config) -> Iterator[Wanted]:
        for name, frontend in config.frontends.items():
            if frontend.engine != "kernel":
                kind = socket.SOCK_DGRAM if frontend.mode == "udp" else socket.SOCK_STREAM
                yield from (Wanted(f"frontends.{name}.bind", self._resolved(bind), kind) for bind in frontend.bind)
        if config.stats is not None:
            yield from (Wanted("stats.bind", self._resolved(bind), socket.SOCK_STREAM) for bind in config.stats.bind)
        if config.global_.runtime_socket is not None:
            bind = Bind(address=Address("", 0, config.global_.runtime_socket.path))
            yield Wanted("global.runtime_socket", bind, socket.SOCK_STREAM)

    def _resolved(self, bind: Bind) -> Bind:
        if bind.address.host not in self._found:
            return bind
        return bind.model_copy(update={"address": bind.address.with_host(self._found[bind.address.host])})

    def _bind(self, where: str, bind: Bind, kind: socket.SocketKind, count: int, backlog: int) -> list[socket.socket]:
        # A name that has another address by now stays where it was bound.
        place = _Place(kind, bind.address, bind.interface, bind.v4v6)
        bind = self._resolved(bind)
        group = list(self._adopted.get(place, ()))[:count]
        try:
            if not group and (given := self._given.get(key(bind, kind))):
                group = self._share(place, bind, given, count, backlog)
            elif group and place in self._shared:
                pass
            elif bind.address.path:
                group = group or [_bind_unix(bind, backlog)]
                self._paths.append(bind.address.path)
            elif len(group) < count:
                group += _bind_ip(bind, kind, count - len(group), backlog, group or self._in_the_way(place))
        except OSError as error:
            raise StartError(f"{where}: cannot bind {place.address}: {_advice(error, bind)}") from error
        self._groups[place] = group
        if place in self._shared:
            # One that hears datagrams is one worker's: of a flow all come to the same.
            return [group[min(i, len(group) - 1)] for i in range(count)] if kind == socket.SOCK_STREAM else group
        return group * count if bind.address.path else group

    def _share(
        self, place: _Place, bind: Bind, given: Sequence[socket.socket], count: int, backlog: int
    ) -> list[socket.socket]:
        """What was passed to us, with more beside it, where the kernel lets us: it does for sockets of one user."""
        group = list(given)[:count]
        for sock in given[count:]:
            sock.close()
        if not bind.address.path:
            with contextlib.suppress(OSError):
                return group + _bind_ip(bind, place.kind, count - len(group), backlog, group)
        self._shared = self._shared | {place}
        return group

    def _try(self, where: str, bind: Bind, kind: socket.SocketKind) -> None:
        place = _Place(kind, bind.address, bind.interface, bind.v4v6)
        if place in self._adopted or self._in_the_way(place):
            return
        if bind.address.host in self._found:
            bind = bind.model_copy(update={"address": bind.address.with_host(self._found[bind.address.host])})
        try:
            if bind.address.path:
                _look_at_unix(bind.address.path)
                return
            with socket.socket(bind.address.family, kind) as sock:
                _prepare(sock, bind)
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(bind.address.sockaddr)
        except OSError as error:
            raise StartError(f"{where}: cannot bind {place.address}: {_advice(error, bind)}") from error

    def _in_the_way(self, place: _Place) -> list[socket.socket]:
        """Those before us that have the port at another address: of all, of one, or on an interface."""
        port = place.address.port
        return [
            sock
            for other, group in self._adopted.items()
            if port and not other.address.path and (other.kind, other.address.port) == (place.kind, port)
            for sock in group
        ]

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
        if owner is not None and config.path in self._paths and not self._is_adopted(sock):
            try:
                os.chown(path, *owner, follow_symlinks=False)
            except OSError as error:
                sock.close()
                raise StartError(f"{where}: cannot give {path} to {owner}: {error.strerror}") from error
        return sock

    def keep(self, wanted: Callable[[str, int], bool], *, stats: bool, beside: Iterable[Sockets] = ()) -> None:
        """In a child: close what is another's. `wanted(frontend, worker)` says what is its own; the runtime socket
        goes with the statistics; of those `beside` us nothing is its own."""
        own: set[socket.socket] = set()
        for name, of_worker in self.frontends.items():
            for worker, pairs in enumerate(of_worker):
                if wanted(name, worker):
                    own.update(sock for _, sock in pairs)
        if stats:
            own.update(self.stats)
            if self.runtime is not None:
                own.add(self.runtime)
        for sock in set().union(self._all(), *(other._all() for other in beside)) - own:
            sock.close()

    def close(self, but: Sockets | None = None) -> None:
        """Stop listening, as far as this process is concerned; `but` for what others go on with. Then nobody begins to
        connect to what is closed any more, so that the last one to have it open finds all who did."""
        if but is not None:
            self._paths = [path for path in self._paths if path not in but._paths]
        for sock in self._all() - (but._all() if but is not None else set()):
            if but is not None:
                _hold_back(sock)
            sock.close()

    def leave(self, name: str) -> None:
        """A frontend's are not listened to any more, by any process of ours, and its ports are free."""
        own = {sock for pairs in self.frontends[name] for _, sock in pairs}
        if not own:
            return
        self.frontends[name] = [[] for _ in self.frontends[name]]
        self._groups = {place: group for place, group in self._groups.items() if not own & set(group)}
        for sock in own:
            sock.close()

    def take_back(self) -> None:
        """It has come to nothing: nobody of us has accepted anything. What was there before stays as it was."""
        adopted = {sock for group in self._adopted.values() for sock in group}
        for sock in self._all() - adopted:
            sock.close()
        kept = {place.address.path for place in self._adopted}
        self._paths = [path for path in self._paths if path not in kept]
        self.unlink()

    def settle(self) -> None:
        """Those before us are no concern any more."""
        self._adopted = {}

    def _is_adopted(self, sock: socket.socket) -> bool:
        return any(sock in group for group in self._adopted.values())

    @property
    def all(self) -> set[socket.socket]:
        """That are bound."""
        return self._all()

    def _all(self) -> set[socket.socket]:
        return {sock for group in self._groups.values() for sock in group}

    def unlink(self) -> None:
        """Remove the files of Unix sockets, once all processes have closed them. Another copy's stay."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                _remove_stale(path)
        self._paths.clear()


def try_to_bind(config: Config, before: Sockets, found: Mapping[str, str]) -> None:
    """Whether `Sockets.open` would succeed, as far as can be told without listening anywhere: StartError if not. To be
    called by a process that ends soon."""
    sockets = Sockets()
    sockets._found, sockets._adopted = found, before._groups
    for name, frontend in config.frontends.items():
        kind = socket.SOCK_DGRAM if frontend.mode == "udp" else socket.SOCK_STREAM
        for bind in frontend.bind if frontend.engine == "proxy" else ():
            sockets._try(f"frontends.{name}.bind", bind, kind)
    for bind in config.stats.bind if config.stats is not None else ():
        sockets._try("stats.bind", bind, socket.SOCK_STREAM)


def _bind_ip(
    bind: Bind, kind: socket.SocketKind, count: int, backlog: int, beside: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """`count` sockets that share the port, also with our own `beside` them. SO_REUSEPORT would let a second daemon of
    the same user share it too, in silence; so the first is bound without, which fails where anybody has the port, and
    joins the others afterwards. Where we have it ourselves, nobody else can."""
    group: list[socket.socket] = []
    try:
        address = beside[0].getsockname() if beside and not bind.address.port else bind.address.sockaddr
        for sock in beside:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(count):
            sock = socket.socket(bind.address.family, kind | socket.SOCK_NONBLOCK)
            group.append(sock)
            _prepare(sock, bind)
            if kind == socket.SOCK_STREAM:
                # Connections of the one before us, in TIME_WAIT, hold the port no more.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(bool(beside) or sock is not group[0]))
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


def _hold_back(sock: socket.socket) -> None:
    """From now on no handshake begins: who tries asks again a second later, and finds another socket or is refused.
    Those under way come to their end."""
    if sock.family == socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        return
    program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    # struct sock_fprog (socket(7)).
    pointer = struct.pack("@HP", len(_NO_SYN) // 8, ctypes.addressof(program))
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


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
    if _is_stale(path):
        Path(path).unlink(missing_ok=True)


def _is_stale(path: str) -> bool:
    """Whether there is a socket file that nobody listens on; False where there is nothing. OSError: anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is something of that name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        # Refused: nobody listens. EAGAIN: somebody does whose backlog is full. EPROTOTYPE: somebody's datagrams.
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            return True
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _look_at_unix(path: str) -> None:
    """Whether a socket can be made there; OSError if not."""
    _is_stale(path)
    if not os.access(Path(path).parent, os.W_OK | os.X_OK):
        number = errno.EACCES if Path(path).parent.is_dir() else errno.ENOENT
        raise OSError(number, os.strerror(number))


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
