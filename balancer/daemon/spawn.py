"""Starts a program of the operator's, such as a check script, from the supervisor.

It is forked, which takes some 2 ms of the supervisor's 65 MB. vfork(2), of posix_spawn(3) and subprocess, takes a
tenth of the work but holds the supervisor up until the program is loaded: 5 to 9 ms while all processors are busy, for
the new process has no real-time priority, and for ever where the program's file system hangs. Whatever else can take
time, such as looking up groups, is done in the new process as well.
"""

from __future__ import annotations

import errno
import os
import pwd
import resource
import signal
from collections.abc import Sequence
from typing import NoReturn

from balancer.daemon.privileges import Identity

__all__ = ["CANNOT_RUN", "NOT_FOUND", "spawn"]

NOT_FOUND = 127
"""Exit status where there is no such program, as of a shell."""
CANNOT_RUN = 126
"""Exit status where the program cannot be executed, or its user cannot be had."""

# Where the environment has none.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What select(2) can bear, and what a login gives: ours is raised for connections.
_OPEN_FILES = 1024
_HIGHEST_FILE = 1 << 20
_ALL = signal.valid_signals()
_CHANGEABLE = _ALL - {signal.SIGKILL, signal.SIGSTOP}


def spawn(words: Sequence[str], identity: Identity | None) -> int:
    """Start the program with that path and those arguments, as that user or as we are; the process id.

    It leads a session and a process group of its own, so that all it starts can be killed with it. It inherits nothing:
    no descriptor (the first three are /dev/null), no signal handling, no priority, no environment but PATH and LANG.
    Why it cannot be executed is its exit status. OSError where there can be no further process.
    """
    # A signal that the child took before it has left our handlers behind would be lost, or come out of our pipe.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        pid = os.fork()
        if not pid:
            _become(words, identity)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _become(words: Sequence[str], identity: Identity | None) -> NoReturn:
    """In the new process: execute, never come back."""
    status = CANNOT_RUN
    try:
        os.setsid()
        _be_ordinary()
        if identity is not None:
            _be(identity)
        os.chdir("/")
        _close_files()
        for number in _CHANGEABLE:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(words[0], tuple(words), _environment())  # noqa: S606 (no shell is what we want)
    except OSError as error:
        if error.errno == errno.ENOENT:
            status = NOT_FOUND
    finally:
        os._exit(status)


def _be_ordinary() -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft > _OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))


def _be(identity: Identity) -> None:
    """Unlike our own children it may gain rights: ping(8) and sudo(8) are to work in a script."""
    uid, gid = identity
    try:
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        groups = [gid]
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _close_files() -> None:
    # One call of close_range(2).
    os.closerange(0, _HIGHEST_FILE)
    for number in range(3):
        if number:
            os.dup2(0, number)
        else:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", _PATH), "LANG": os.environ.get("LANG", "C.UTF-8")}
