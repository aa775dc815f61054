"""What stays in the kernel when the process `kernel` is gone: the tables, and the settings that were found.

Nobody but root may write where it is noted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from balancer.daemon import privileges
from balancer.daemon.lock import exclusive
from balancer.errors import StartError
from balancer.kernel import render
from balancer.kernel.nft import Nft
from balancer.kernel.sysctl import Sysctl
from balancer.kernel.tables import tables

__all__ = ["NOTHING", "OWN", "RESTING", "clear", "clear_leftovers", "moves_file", "state_file"]

_NAMESPACE = Path("/proc/self/ns/net")
_DIRECTORY = Path("/run/pybalancer")
_DIRECTORY_MODE, _OWN_MODE = 0o755, 0o700

# Without a chain of this type the kernel would translate no packet any more, and without a rule of that kind it would
# follow no flow: those that it has begun neither. In a table apart, which needs no other to be there.
_RESTING_TABLE = "inet pybalancer_flows"
RESTING = f"""\
add table {_RESTING_TABLE}
add chain {_RESTING_TABLE} resting {{ type nat hook prerouting priority 0; policy accept; }}
flush chain {_RESTING_TABLE} resting
add rule {_RESTING_TABLE} resting ct state new return
"""
NOTHING = f"{render.nothing()}\nadd table {_RESTING_TABLE}\ndelete table {_RESTING_TABLE}"
OWN = {render.TABLE, _RESTING_TABLE}


def state_file(owner: tuple[int, int] | None) -> Path:
    """Where the settings that were found are kept, in a directory that is there then and is `owner`'s. StartError."""
    directory = _DIRECTORY / "kernel"
    before = os.umask(0)
    try:
        with suppress(FileExistsError):
            directory.parent.mkdir(_DIRECTORY_MODE)
        with suppress(FileExistsError):
            directory.mkdir(_OWN_MODE)
        if owner is not None:
            os.chown(directory, *owner, follow_symlinks=False)
    except OSError as error:
        raise StartError(f"cannot make {directory}: {error.strerror}") from error
    finally:
        os.umask(before)
    return directory / _state_name()


def moves_file(state: Path) -> Path:
    return state.with_name(f"{state.name}.moves")


def _state_name() -> str:
    return f"sysctl.{_NAMESPACE.stat().st_ino}"


def clear(state: Path) -> list[str]:
    """Take away what a process that could not do so itself has left: the table, and the settings; say which."""
    nft = Nft()
    try:
        nft.run(NOTHING)
    finally:
        nft.close()
    # The directory is not only ours.
    with suppress(OSError):
        moves_file(state).unlink()
    return Sysctl(state).restore()


def clear_leftovers() -> list[str]:
    """For a daemon without rules: those of one that was killed would go on taking the traffic. What was done.

    They are a living one's where somebody has the lock. StartError and KernelError where they cannot be taken away,
    and OSError.
    """
    state = _DIRECTORY / "kernel" / _state_name()
    if not privileges.has_network_rights():
        if os.path.lexists(state):
            raise StartError("that takes CAP_NET_ADMIN and CAP_NET_RAW")
        return []
    try:
        lock = exclusive(patience=0.0)
    except StartError:
        return []
    with lock:
        has_table = not OWN.isdisjoint(tables())
        if not has_table and not os.path.lexists(state):
            return []
        said = clear(state)
    return ["rules that an earlier run had left in the kernel are taken away", *said] if has_table else said
