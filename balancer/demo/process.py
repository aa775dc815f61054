"""A child process that never outlives the one that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable

from balancer.daemon.privileges import die_with_parent

__all__ = ["end", "fork"]


def fork(work: Callable[[], int]) -> int:
    """Run `work` in a child process, whose exit status is what it returns; gives the child's pid.

    The child is killed when its parent is gone, however it went. It leads a session of its own, so what a terminal
    sends with Ctrl-C reaches the parent alone. To be called from the main thread of a process that has no other.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        die_with_parent(parent)
        status = work()
        sys.stdout.flush()
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def end(pid: int) -> None:
    """Kill a child, a stopped one (SIGSTOP) too, and wait for it. One already waited for is left alone."""
    with contextlib.suppress(ChildProcessError):
        # Fails for a number that is no child's any more and may be another process by now.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
