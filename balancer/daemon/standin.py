"""Speaks for the virtual routers while the supervisor becomes another version: that takes longer than a master may keep
silent where advertisements are milliseconds apart.

It is forked with the speaker as it is, and stays when the supervisor is executed anew: a child of the same
process. Whoever takes over asks for what has become of it; from then on it says nothing more. It ends with the
supervisor, and its leases with it, as if that had died.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

from balancer.daemon import estate, privileges

if TYPE_CHECKING:
    from balancer.vrrp.speaker import Speaker

__all__ = ["Standin", "ask"]

# What whoever takes over gets to ask. Where it hangs for so long, another director has to do it.
_LONGEST = 60.0
# What it gets to answer: it is done in milliseconds (seconds).
_PATIENCE = 3.0
_PIECE = 1 << 16


class Standin:
    """The process, from the side of those who fork it. OSError where there can be none."""

    def __init__(self, speaker: Speaker) -> None:
        self.line, theirs = socket.socketpair()
        """For `ask`."""
        parent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if not self.pid:
                _stand_in(speaker, theirs, parent)
            # Our own priority, from its first moment on.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self.pid, os.sched_getscheduler(0), os.sched_getparam(0))
        except OSError:
            self.line.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end(self) -> None:
        """Nobody takes over: the speaker that there was goes on, with what it knew before."""
        self.line.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def ask(line: socket.socket) -> dict[str, Any] | None:
    """Whoever stands in is to be silent; what is true by now (vrrp.succession.known). None where it does not say."""
    octets = bytearray()
    line.settimeout(_PATIENCE)
    with line, contextlib.suppress(OSError, estate.EstateError):
        line.sendall(b".")
        while piece := line.recv(_PIECE):
            octets += piece
        return estate.read(bytes(octets)) if octets else None
    return None


def _stand_in(speaker: Speaker, line: socket.socket, parent: int) -> NoReturn:
    """All signals are blocked."""
    try:
        signal.set_wakeup_fd(-1)
        privileges.die_with_parent(parent)
        privileges.be_on_time()
        _speak(speaker, line)
    finally:
        os._exit(0)


def _speak(speaker: Speaker, line: socket.socket) -> None:
    from balancer.vrrp import succession

    until = time.monotonic() + _LONGEST
    # A script's end would be told to the supervisor: its last outcomes hold.
    speaker._scripts.due = inf
    selector = selectors.DefaultSelector()
    selector.register(speaker, selectors.EVENT_READ)
    selector.register(line, selectors.EVENT_READ)
    while time.monotonic() < until:
        ready = selector.select(max(0.0, min(speaker.due, until) - time.monotonic()))
        if any(key.fileobj is line for key, _ in ready):
            if line.recv(1):
                line.sendall(estate.write(succession.known(speaker)))
            return
        speaker.turn()
