"""Where log lines go, without ever waiting for whoever reads them."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, cast

from balancer.addr import parse_address
from balancer.config import model
from balancer.errors import StartError
from balancer.observe.lines import rfc3164_date

__all__ = ["Level", "Message", "Sink", "open_sink"]

# What a pipe takes all or nothing (pipe(7)), the line's end included; and no datagram is longer.
_LONGEST_MESSAGE = select.PIPE_BUF - 1

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


class _Datagrams:
    """syslog, a datagram a message (RFC 3164 section 4.1, without host name, as HAProxy writes it)."""

    def __init__(self, family: int, address: Any, facility: str, clock: Callable[[], float]) -> None:
        self.lost = 0
        self._family = family
        self._address = address
        self._priorities = [f"<{_FACILITIES[facility] * 8 + level}>" for level in Level]
        self._clock = clock
        self._socket: socket.socket | None = None

    def send(self, messages: Sequence[Message]) -> int:
        header = f"{rfc3164_date(self._clock())} pybalancer[{os.getpid()}]: "
        for i, (level, text) in enumerate(messages):
            data = f"{self._priorities[level]}{header}{text}".encode("utf-8", "replace")[:_LONGEST_MESSAGE]
            try:
                self._send(data)
            except BlockingIOError:
                return i
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return i
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
            except OSError:
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


class _Stream:
    """A descriptor that others hold too (standard output): its blocking mode is not ours to change."""

    def __init__(self, fd: int) -> None:
        self.lost = 0
        self._rest = b""
        self._fd = os.dup(fd)
        self._socket: socket.socket | None = None
        self._write: Callable[[bytes], int] = self._write_file
        kind = os.fstat(self._fd).st_mode
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=self._fd)
            self._write = self._write_socket
        elif not stat.S_ISREG(kind):
            try:
                # Opened anew it has flags of its own.
                own = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                self._write = self._write_polled
            else:
                os.close(self._fd)
                self._fd = own

    def send(self, messages: Sequence[Message]) -> int:
        done = 0
        try:
            self._write_rest()
            for count, chunk in _chunks(messages):
                written = self._write(chunk)
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
            self._rest = self._rest[self._write(self._rest) :]

    def _write_file(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def _write_polled(self, data: bytes) -> int:
        """poll(2) says that PIPE_BUF octets have room. Another writer may take it before us; then we wait for that
        pipe's reader, the least evil where /proc does not let us open an end of our own."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self._fd, data)

    def _write_socket(self, data: bytes) -> int:
        return cast(socket.socket, self._socket).send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)


def _chunks(messages: Iterable[Message]) -> Iterable[tuple[int, bytes]]:
    """Lines put together up to what a pipe takes at once, with their number."""
    lines: list[bytes] = []
    size = 0
    for message in messages:
        line = message.text.encode("utf-8", "replace")[:_LONGEST_MESSAGE] + b"\n"
        if size + len(line) > select.PIPE_BUF:
            yield len(lines), b"".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield len(lines), b"".join(lines)


def open_sink(config: model.Log, clock: Callable[[], float], *, stdout: int, devlog: str) -> Sink:
    """The sink of `config.target`. StartError if its host name does not resolve."""
    if config.target == "none":
        return _Nowhere()
    if config.target == "stdout":
        return _Stream(stdout)
    if config.target == "syslog":
        return _Datagrams(socket.AF_UNIX, devlog, config.facility, clock)
    address = parse_address(config.target.removeprefix("udp://"))
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise StartError(f"log target {config.target}: {error.strerror}; write an address or mend the name") from None
    family, _, _, _, sockaddr = found[0]
    return _Datagrams(family, sockaddr, config.facility, clock)
