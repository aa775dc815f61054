"""User, group, limits, and death with the parent."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import resource
import signal

from balancer.errors import StartError

__all__ = ["Identity", "die_with_parent", "drop", "identity", "raise_open_files"]

# prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38

Identity = tuple[int, int]


def identity(user: str | None, group: str | None) -> Identity | None:
    """The user and group ids to drop to; None to stay who we are (not root, or nothing configured).

    StartError where the user or group does not exist.
    """
    if os.geteuid() != 0 or (user is None and group is None):
        return None
    uid, gid = os.getuid(), os.getgid()
    if user is not None:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise StartError(
                f"global.user: there is no user {user!r}; create it with: useradd --system --user-group {user}"
            ) from None
        uid, gid = entry.pw_uid, entry.pw_gid
    if group is not None:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            raise StartError(
                f"global.group: there is no group {group!r}; create it with: groupadd --system {group}"
            ) from None
    return uid, gid


def drop(ids: Identity | None) -> None:
    """Become that user for good, and never gain a right again."""
    if ids is not None:
        uid, gid = ids
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent dies, however it dies. Called after `drop`, which would undo it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def raise_open_files(wanted: int) -> int:
    """Raise the limit of open files to `wanted` as far as allowed; the limit there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if os.geteuid() == 0 and allowed < wanted:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            except (OSError, ValueError):
                pass
            else:
                return wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return allowed
    return soft if soft != resource.RLIM_INFINITY else wanted


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
