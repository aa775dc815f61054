"""The signals that the supervisor is told by, as something to wait for among others (signal.set_wakeup_fd).

    SIGTERM SIGINT SIGUSR1   stop, as HAProxy's soft stop; again, but for SIGUSR1: at once
    SIGHUP                   read the file again
    SIGUSR2, DRY_RUN         become another version, or see whether that can be (observe.upgrades)
    SIGCHLD                  a process of ours has ended

A child hears for itself, and nothing that is meant for its parent.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

from balancer.observe.upgrades import DRY_RUN, UPGRADE

__all__ = ["Signals", "blocked", "ignore"]

_HANDLED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGCHLD, UPGRADE, DRY_RUN,
)  # fmt: skip
# Ctrl-C and the end of a terminal reach the whole process group; the supervisor tells the children what to do.
_NOT_FOR_CHILDREN = (signal.SIGINT, signal.SIGHUP)
_MOST = 4096


class Signals:
    """Once it is made they are heard, and do nothing else: ask `heard` whenever `fileno` is readable."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        return self._reader.fileno()

    def heard(self) -> bytes:
        """Their numbers since this was called last, in their order."""
        try:
            return self._reader.recv(_MOST)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Hear nothing more; what comes still does nothing."""
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def forget(self) -> None:
        """In a child: hear as any process does."""
        self.close()
        for number in _HANDLED:
            signal.signal(number, signal.SIG_IGN if number in _NOT_FOR_CHILDREN else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """For a fork: a signal that reached the child before it has left our handlers behind would come out of our pipe."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """One that comes while Python ends would kill us, and the exit status say so."""
    for number in _HANDLED:
        if number != signal.SIGCHLD:
            signal.signal(number, signal.SIG_IGN)
