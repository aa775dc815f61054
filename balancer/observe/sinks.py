"""Where log lines go, without ever waiting for whoever reads them."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import select
import socket
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from balancer.addr import parse_address
from balancer.config.logs import LONGEST_LINE, Log
from balancer.errors import StartError
from balancer.observe.lines import record_fields, rfc3164_date, rfc3339_date
from balancer.pool.records import Record

__all__ = ["DEVLOG", "JOURNAL", "Files", "Level", "Message", "Sink", "open_sink", "prepare"]

DEVLOG = "/dev/log"
JOURNAL = "/run/systemd/journal/socket"
_STDERR = 2
# Messages that go into a connection in one write.
_AT_ONCE = 32
# Seconds between attempts to connect, and in which one must succeed.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
# How often a file is looked for under its name.
_LOOK = 1.0

# RFC 5424 section 6.2.1; 12 to 15 have no name in syslog(3).
_FACILITIES = {
    name: number
    for number, name in enumerate(
        ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"]
    )
} | {f"local{i}": 16 + i for i in range(8)}


class Level(IntEnum):
    """Severity (RFC 5424 section 6.2.1)."""

    EMERG = 0
    ALERT = 1
    CRIT = 2
    ERR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


class Message(NamedTuple):
    level: Level
    text: str
    """One line."""
    record: Record | None = None
    """What the line is about, if that is not an event."""


class Sink(Protocol):
    """Takes messages and never waits."""

    lost: int
    """Messages taken over but not delivered."""

    def send(self, messages: Sequence[Message]) -> int:
        """How many are done with, delivered or lost. The rest is to be offered again."""

    def close(self) -> None: ...


class _Nowhere:
    """`target: none`."""

    lost = 0

    def send(self, messages: Sequence[Message]) -> int:
        return len(messages)

    def close(self) -> None:
        pass


Encode = Callable[[Message], bytes]


class _Datagrams:
    """A datagram a message: syslog's or journald's."""

    def __init__(self, family: int, address: Any, encode: Encode) -> None:
        self.lost = 0
        self._family = family
        self._address = address
        self._encode = encode
        self._socket: socket.socket | None = None

    def send(self, messages: Sequence[Message]) -> int:
        for i, message in enumerate(messages):
            try:
                self._send(self._encode(message))
            except BlockingIOError:
                return i
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return i
                if error.errno == errno.EMSGSIZE:
                    self.lost += 1
                    continue
                # Nobody there: to look again for each of the rest would cost more than it could bring.
                self.lost += len(messages) - i
                break
        return len(messages)

    def _send(self, data: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.send(data)
                return
            except BlockingIOError:
                raise
            except ConnectionRefusedError:
                if self._family == socket.AF_UNIX:
                    # The receiver has restarted, and its socket is another one.
                    self.close()
                else:
                    # ICMP answering an earlier datagram; this one was not sent.
                    self.lost += 1
            except OSError as error:
                if error.errno in (errno.ENOBUFS, errno.EMSGSIZE):
                    raise
                self.close()
        if self._socket is None:
            self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            try:
                self._socket.connect(self._address)
            except OSError:
                self.close()
                raise
        self._socket.send(data)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Connection:
    """syslog over TCP, each message with its length before it (RFC 6587 section 3.4.1).

    While there is no connection messages wait; what was written into one that then breaks is lost, and not known.
    """

    def __init__(self, family: int, address: Any, encode: Encode, now: Callable[[], float] = time.monotonic) -> None:
        self.lost = 0
        self._family = family
        self._address = address
        self._encode = encode
        self._now = now
        self._socket: socket.socket | None = None
        self._is_open = False
        self._try_at = 0.0
        self._pause = _FIRST_PAUSE
        self._rest = b""
        self._held = 0

    def send(self, messages: Sequence[Message]) -> int:
        done = 0
        try:
            if not self._open():
                return 0
            self._write(b"")
            while done < len(messages) and not self._rest:
                some = [self._encode(message) for message in messages[done : done + _AT_ONCE]]
                done += len(some)
                self._held = len(some)
                self._write(b"".join([b"%d %b" % (len(data), data) for data in some]))
        except OSError:
            # A part of a message is of no use to whoever answers next.
            self.lost += self._held
            self.close()
        return done

    def _open(self) -> bool:
        if self._socket is None:
            if self._now() < self._try_at:
                return False
            self._try_at = self._now() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._socket = socket.socket(self._family, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            error = self._socket.connect_ex(self._address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
        if not self._is_open:
            if not _is_writable(self._socket.fileno()):
                if self._now() > self._try_at + _LONGEST_PAUSE:
                    raise TimeoutError
                return False
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            self._is_open = True
            self._pause = _FIRST_PAUSE
        try:
            # Whoever has closed takes no more, though a write would succeed.
            if not self._socket.recv(65536):
                raise ConnectionResetError
        except BlockingIOError:
            pass
        return True

    def _write(self, data: bytes) -> None:
        """As much as is taken now; the rest waits."""
        assert self._socket is not None
        self._rest += data
        try:
            while self._rest:
                self._rest = self._rest[self._socket.send(self._rest) :]
            self._held = 0
        except BlockingIOError:
            pass

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._is_open = False
        self._rest = b""
        self._held = 0


def _is_writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


class _Stream:
    """A descriptor that others hold too (standard output): its blocking mode is not ours to change."""

    def __init__(self, fd: int, encode: Encode) -> None:
        self.lost = 0
        self._encode = encode
        self._rest = b""
        self._fd = os.dup(fd)
        self._socket: socket.socket | None = None
        # No method bound to this: that would be a cycle, and nobody collects one that was frozen before a fork.
        self._how: Callable[[_Stream, bytes], int] = _Stream._write_file
        kind = os.fstat(self._fd).st_mode
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=self._fd)
            self._how = _Stream._write_socket
        elif not stat.S_ISREG(kind):
            try:
                # Opened anew it has flags of its own.
                own = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                self._how = _Stream._write_polled
            else:
                os.close(self._fd)
                self._fd = own

    def send(self, messages: Sequence[Message]) -> int:
        done = 0
        try:
            self._write_rest()
            for count, chunk in _chunks(map(self._encode, messages)):
                written = self._how(self, chunk)
                done += count
                self._rest = chunk[written:]
                self._write_rest()
        except BlockingIOError:
            pass
        except OSError:
            # The reader is gone or the disk is full. A line that was cut off ends where it was.
            self.lost += len(messages) - done
            self._rest = b"\n" if self._rest else b""
            done = len(messages)
        return done

    def _write_rest(self) -> None:
        while self._rest:
            self._rest = self._rest[self._how(self, self._rest) :]

    def _write_file(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def _write_polled(self, data: bytes) -> int:
        """poll(2) says that PIPE_BUF octets have room. Another writer may take it before us; then we wait for that
        pipe's reader, the least evil where /proc does not let us open an end of our own."""
        if not _is_writable(self._fd):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self._fd, data)

    def _write_socket(self, data: bytes) -> int:
        return cast(socket.socket, self._socket).send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)


class _File(_Stream):
    """A file of ours. Where it has been moved away or deleted another is made, so that nobody need tell us."""

    def __init__(self, path: str, encode: Encode, now: Callable[[], float] = time.monotonic) -> None:
        self.lost = 0
        self._encode = encode
        self._rest = b""
        self._path = path
        self._now = now
        self._fd = -1
        self._owner: tuple[int, int] | None = None
        self._socket = None
        self._how = _Stream._write_file
        self._look_at = 0.0

    def send(self, messages: Sequence[Message]) -> int:
        if self._now() >= self._look_at:
            self._look_at = self._now() + _LOOK
            self._reopen()
        if self._fd < 0:
            self.lost += len(messages)
            return len(messages)
        return super().send(messages)

    def _reopen(self) -> None:
        before = os.fstat(self._fd) if self._fd >= 0 else None
        if before is not None:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(self._path), before):
                    return
        try:
            fd = _open_file(self._path, self._owner)
        except OSError:
            # Lines go on into the one that was moved away. One without a name nobody can read.
            if before is not None and not before.st_nlink:
                self.close()
            return
        self.close()
        self._fd = fd
        now = os.fstat(fd)
        self._owner = now.st_uid, now.st_gid

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._rest = b""


class Files:
    """The files among `targets`, looked for about once a second and made anew where they are missing: those who write
    to them may have no right to do so in their directory, or have nothing to write. `owner` (uid and gid) is whose
    they become if they were not seen before."""

    def __init__(
        self, targets: Iterable[Log], owner: tuple[int, int] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._owners = dict.fromkeys(_paths(targets), owner)
        self._now = now
        self.due = 0.0 if self._owners else math.inf
        """When `look` has something to do again."""
        self.look()

    def look(self) -> None:
        now = self._now()
        if now < self.due:
            return
        self.due = now + _LOOK
        for path, owner in self._owners.items():
            # What cannot be made is counted by those who have a line for it.
            with contextlib.suppress(OSError):
                try:
                    found = os.lstat(path)
                except FileNotFoundError:
                    os.close(_open_file(path, owner))
                else:
                    if stat.S_ISREG(found.st_mode):
                        self._owners[path] = found.st_uid, found.st_gid


def _open_file(path: str, owner: tuple[int, int] | None, *, is_strict: bool = False) -> int:
    """`owner` (uid and gid) gets the file if it is made here; `is_strict`: OSError where that is refused.

    Symbolic links are not followed, and nothing that was there is given away: whoever may write to the directory would
    choose what root makes."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags)
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        # Another process has been faster.
        return os.open(path, flags)
    made = os.fstat(fd)
    if owner is not None and owner != (made.st_uid, made.st_gid):
        try:
            os.fchown(fd, *owner)
        except OSError:
            if is_strict:
                os.close(fd)
                raise
    return fd


def _paths(targets: Iterable[Log]) -> list[str]:
    return list(dict.fromkeys(each.target for each in targets if each.target.startswith("/")))


def prepare(targets: Iterable[Log], owner: tuple[int, int] | None) -> None:
    """Make the files among `targets`, so that `owner` (uid and gid) can write to them too. StartError where it cannot
    be."""
    for path in _paths(targets):
        try:
            os.close(_open_file(path, owner, is_strict=True))
        except OSError as error:
            if error.errno == errno.ELOOP:
                why = "a symbolic link is not followed; name the file itself (or stdout, stderr)"
                raise StartError(f"log target {path}: {why}") from None
            # A FIFO whose reader is still to come has ENXIO.
            if error.errno != errno.ENXIO:
                raise StartError(f"log target {path}: {error.strerror}") from None


def _chunks(messages: Iterable[bytes]) -> Iterable[tuple[int, bytes]]:
    """Lines put together up to what a pipe takes at once, with their number."""
    lines: list[bytes] = []
    size = 0
    for message in messages:
        line = message + b"\n"
        if size + len(line) > select.PIPE_BUF:
            yield len(lines), b"".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield len(lines), b"".join(lines)


def open_sink(
    config: Log, clock: Callable[[], float], *, stdout: int = 1, devlog: str = DEVLOG, journal: str = JOURNAL
) -> Sink:
    """The sink of `config.target`. StartError if its host name does not resolve."""
    target = config.target
    scheme, mark, rest = target.partition("://")
    if mark:
        return _remote(config, scheme, rest, clock)
    if target == "journald":
        return _Datagrams(socket.AF_UNIX, journal, partial(_journal, _FACILITIES[config.facility], config.len))
    if target == "syslog" or target.startswith("unix:"):
        path = devlog if target == "syslog" else target.removeprefix("unix:")
        return _Datagrams(socket.AF_UNIX, path, _syslog(config, clock))
    if target in ("stdout", "stderr"):
        return _Stream(stdout if target == "stdout" else _STDERR, _written(config, clock))
    return _File(target, _written(config, clock)) if target != "none" else _Nowhere()


def _remote(config: Log, scheme: str, where: str, clock: Callable[[], float]) -> Sink:
    address = parse_address(where)
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(address.host, address.port, type=kind)
    except OSError as error:
        raise StartError(f"log target {config.target}: {error.strerror}; write an address or mend the name") from None
    family, _, _, _, sockaddr = found[0]
    return (_Datagrams if scheme == "udp" else _Connection)(family, sockaddr, _syslog(config, clock))


def _syslog(config: Log, clock: Callable[[], float]) -> Encode:
    """RFC 3164 section 4.1, without host name, as HAProxy writes it; or RFC 5424 section 6."""
    priorities = [f"<{_FACILITIES[config.facility] * 8 + level}>" for level in Level]
    longest = config.len if config.format == "haproxy" else LONGEST_LINE
    is_new = config.header == "rfc5424" or (config.header is None and config.target.startswith("tcp:"))
    pid, host = os.getpid(), _host()

    def encode(message: Message) -> bytes:
        if is_new:
            head = f"1 {rfc3339_date(clock())} {host} pybalancer {pid} - - "
        else:
            head = f"{rfc3164_date(clock())} pybalancer[{pid}]: "
        return f"{priorities[message.level]}{head}{message.text}".encode("utf-8", "replace")[:longest]

    return encode


def _written(config: Log, clock: Callable[[], float]) -> Encode:
    """A line as it is, or with the header that a syslog daemon writes into its files."""
    longest = config.len if config.format == "haproxy" else LONGEST_LINE
    pid, host = os.getpid(), _host()

    def encode(message: Message) -> bytes:
        return message.text.encode("utf-8", "replace")[:longest]

    def with_header(message: Message) -> bytes:
        if config.header == "rfc5424":
            head = f"{rfc3339_date(clock())} {host} pybalancer {pid} - - "
        else:
            head = f"{rfc3164_date(clock())} {host} pybalancer[{pid}]: "
        return f"{head}{message.text}".encode("utf-8", "replace")[:longest]

    return with_header if config.header is not None else encode


def _host() -> str:
    """RFC 5424 section 6.2.4: printable ASCII."""
    return re.sub(r"[^!-~]", "", socket.gethostname())[:255] or "-"


def _journal(facility: int, longest: int, message: Message) -> bytes:
    """journald's own protocol (systemd: Native Journal Protocol): a field a line. All of ours are printable."""
    level, text, record = message.level, message.text, message.record
    lines = [
        b"MESSAGE=" + text.encode("utf-8", "replace")[:longest],
        b"PRIORITY=%d" % level,
        b"SYSLOG_IDENTIFIER=pybalancer",
        b"SYSLOG_FACILITY=%d" % facility,
        b"SYSLOG_PID=%d" % os.getpid(),
    ]
    if record is not None:
        for name, value in record_fields(record):
            lines.append(f"PYBALANCER_{name.upper()}={value}".encode("utf-8", "replace"))
    return b"\n".join(lines) + b"\n"
