"""Host names to addresses at start, however long the resolver takes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Collection, Sequence
from typing import NoReturn

__all__ = ["first_addresses"]

# getaddrinfo(3) under way at once.
_THREADS = 16


def first_addresses(hosts: Collection[str], *, within: float) -> dict[str, str]:
    """The address of each host that has one, the first that getaddrinfo(3) gives (RFC 6724), after `within` seconds at
    most: a resolver that does not answer must not keep the daemon from starting.

    A process of its own asks and is then killed. Threads stuck in the resolver would go on in the caller, which
    forks, and could keep it from ending.
    """
    if not hosts:
        return {}
    reader, writer = os.pipe()
    # A signal meant for us must not go through the handlers of a copy of us.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if not pid:
            _ask(sorted(hosts), writer)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writer)
    try:
        answers = _read(reader, time.monotonic() + within)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    # A last line that was cut off has no answer.
    return dict(line.split(" ") for line in answers.decode().split("\n")[:-1])


def _read(reader: int, deadline: float) -> bytes:
    data = b""
    while (left := deadline - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        part = os.read(reader, 65536)
        if not part:
            break
        data += part
    return data


def _ask(hosts: list[str], writer: int) -> NoReturn:
    try:
        threads = [
            threading.Thread(target=_answer, args=(hosts[first::_THREADS], writer), daemon=True)
            for first in range(min(_THREADS, len(hosts)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os._exit(0)


def _answer(hosts: Sequence[str], writer: int) -> None:
    for host in hosts:
        # UnicodeError: a label that is too long for IDNA.
        with contextlib.suppress(OSError, UnicodeError):
            address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
            # Whole lines, however many threads write: POSIX keeps up to PIPE_BUF octets together.
            os.write(writer, f"{host} {address}\n".encode())
