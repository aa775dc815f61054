"""User, group, capabilities, limits, priority, and death with the parent."""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import resource
import signal

from balancer.errors import StartError

__all__ = [
    "Identity",
    "be_on_time",
    "die_with_parent",
    "drop",
    "drop_to_network",
    "has_network_rights",
    "identity",
    "raise_open_files",
]

# prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
# mlockall(2): with ONFAULT only what is used is locked.
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
# capset(2), linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
# CAP_NET_ADMIN is number 12, CAP_NET_RAW 13.
_NETWORK = 1 << 12 | 1 << 13

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
    """Become that user for good, and never gain a right again. OSError where the kernel refuses."""
    if ids is not None:
        uid, gid = ids
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if os.geteuid() != 0:
        _drop_capabilities()
    _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def drop_to_network(ids: Identity | None) -> None:
    """The same, but for CAP_NET_ADMIN and CAP_NET_RAW: to change rules and settings of the network, and to send any
    packet. OSError where the kernel refuses."""
    if ids is not None:
        uid, gid = ids
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        _checked(_LIBC.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setresuid(uid, uid, uid)
        _checked(_LIBC.prctl(_PR_SET_KEEPCAPS, 0, 0, 0, 0))
    kept = _permitted() & _NETWORK
    _set_capabilities(kept)
    _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def has_network_rights() -> bool:
    """Whether CAP_NET_ADMIN and CAP_NET_RAW are ours to use."""
    return _permitted() & _NETWORK == _NETWORK


def die_with_parent(parent: int) -> None:
    """Be killed when the parent dies, however it dies. Called after `drop`, which would undo it."""
    _checked(_LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def be_on_time() -> None:
    """Real-time priority and memory that is never paged out, as far as we may: for a process that must act within
    milliseconds on a busy machine. Its children have neither."""
    priority = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, priority)
    with contextlib.suppress(OSError):
        _checked(_LIBC.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT))


def raise_open_files(wanted: int) -> int:
    """Raise the limit of open files to `wanted` as far as allowed; the limit there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            # CAP_SYS_RESOURCE may, up to fs.nr_open.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return hard
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


_LIBC = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _drop_capabilities() -> None:
    """Those that a service manager gave for binding (AmbientCapabilities=), too."""
    _set_capabilities(0)


def _set_capabilities(kept: int) -> None:
    """To be used from now on, for none to inherit; of the first 32."""
    header = _CapabilityHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    # Effective, permitted, inheritable, then the same of the others. What is not inheritable leaves the ambient set.
    data = (ctypes.c_uint32 * 6)(kept, kept)
    _checked(_LIBC.capset(ctypes.byref(header), ctypes.byref(data)))


def _permitted() -> int:
    """The first 32 that we hold."""
    header = _CapabilityHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _checked(_LIBC.capget(ctypes.byref(header), ctypes.byref(data)))
    return data[1]


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
