"""What only one daemon in a network namespace can have: the rules there are one table.

Two locks, for each has a hole. An abstract name (unix(7)) is the namespace's own, wherever /run is, and goes with
whoever has it; but anybody may take it first. A file that only root can open cannot be taken by others, but who has
another /run sees another file. Of an abstract name only root's, and our own user's, keeps us away.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from balancer.errors import StartError

__all__ = ["Lock", "exclusive"]

_NAMESPACE = Path("/proc/self/ns/net")
_DIRECTORY = Path("/run/pybalancer")
_DIRECTORY_MODE, _MODE = 0o755, 0o600
_NAME = "\0pybalancer.kernel"
# One that was killed is gone within milliseconds.
_PATIENCE, _PAUSE = 2.0, 0.05
_LONGEST_NUMBER = 20
# linux/netlink.h, linux/sock_diag.h: NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY.
_SOCK_DIAG, _BY_FAMILY = 4, 20
# linux/unix_diag.h: struct unix_diag_req, the length of struct unix_diag_msg; UDIAG_SHOW_NAME, UDIAG_SHOW_UID (of Linux
# 5.3), UNIX_DIAG_NAME, UNIX_DIAG_UID.
_REQUEST, _MESSAGE = struct.Struct("=BBHIII8s"), 16
_SHOW_NAME, _SHOW_USER, _NAME_AT, _USER_AT = 0x1, 0x40, 0, 7
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_CHUNK = 65536


class Lock:
    """Held until closed by all processes that have it; a context manager."""

    def __init__(self, file: int, name: socket.socket | None) -> None:
        self._file = file
        self._name = name

    def close(self) -> None:
        """As far as this process is concerned."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._name is not None:
            self._name.close()

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _TakenError(Exception):
    """By process `args[0]`, 0 if nobody knows."""


def exclusive(patience: float = _PATIENCE) -> Lock:
    """StartError where another daemon has it, or the lock's file cannot be made.

    `patience`: seconds that it gets to let go.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _take()
        except _TakenError as error:
            if time.monotonic() < deadline:
                time.sleep(_PAUSE)
                continue
            raise StartError(
                f"another pybalancer{_said(error.args[0])} has the rules of this network namespace: there is one "
                "table, so only one daemon can have frontends of engine kernel, or gateway.masquerade"
            ) from None


def _take() -> Lock:
    file = _locked()
    try:
        name = _named()
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(file)
        raise
    return Lock(file, name)


def _locked() -> int:
    """The file of this namespace."""
    path = _DIRECTORY / f"lock.{_NAMESPACE.stat().st_ino}"
    before = os.umask(0)
    try:
        with suppress(FileExistsError):
            _DIRECTORY.mkdir(_DIRECTORY_MODE)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise StartError(f"cannot open {path}, which keeps a second pybalancer away: {error.strerror}") from error
    finally:
        os.umask(before)
    try:
        if os.fstat(file).st_uid not in (0, os.geteuid()):
            raise StartError(f"{path}, which keeps a second pybalancer away, is somebody else's: remove it")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(file, _LONGEST_NUMBER, 0)
        os.close(file)
        raise _TakenError(int(said) if said.isdigit() else 0) from None
    except BaseException:
        os.close(file)
        raise
    return file


def _named() -> socket.socket | None:
    """None where it is taken by somebody who has no say here."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        name.bind(_NAME)
    except OSError:
        name.close()
        user = _user()
        if user in (None, 0, os.geteuid()):
            raise _TakenError(0) from None
        return None
    return name


def _user() -> int | None:
    """Whose the abstract name is; None where the kernel does not say, or it is nobody's any more (sock_diag(7))."""
    with suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as asked:
        flags = 0x1 | 0x300  # NLM_F_REQUEST, NLM_F_DUMP
        body = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME | _SHOW_USER, b"")
        asked.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, flags, 0, 0) + body)
        while True:
            chunk = asked.recv(_CHUNK)
            at = 0
            while at < len(chunk):
                length, kind, *_ = _HEADER.unpack_from(chunk, at)
                if kind != _BY_FAMILY:
                    return None
                own = _attributes(chunk[at + _HEADER.size + _MESSAGE : at + length])
                if own.get(_NAME_AT) == _NAME.encode() and _USER_AT in own:
                    return int.from_bytes(own[_USER_AT], sys.byteorder)
                at += (length + 3) & ~3
    return None


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind] = data[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return found


def _said(process: int) -> str:
    return f" (process {process})" if process else ""
